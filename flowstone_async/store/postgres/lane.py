"""A lane of the committer: one task and one connection that commit steps, as many at a time as are waiting.

Callers await a future, so that cancelling one never reaches a commit under way. A batch whose reply is lost is sent
again as it was: the statement does nothing the second time and answers the same.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence

from asyncpg import Record

from flowstone_async.errors import FlowstoneError, StoreUnavailable
from flowstone_async.store.postgres.batch import Batch
from flowstone_async.store.postgres.connections import DRIVER_ERRORS, Connections, Kept, Session
from flowstone_async.store.postgres.errors import is_poison, is_transient, translate
from flowstone_async.store.postgres.instants import Instants
from flowstone_async.store.postgres.queries import QUERIES
from flowstone_async.store.postgres.step import PendingStep
from flowstone_async.store.records import Advanced

_FIRST_DELAY = 0.05
_LONGEST_DELAY = 1.0
# Of the patience: what does not answer within that is sent again, on another connection.
_SHARE = 1 / 3


class Lane:
    """Commits the steps of some of the runs, each run's in their order.

    Args:
        connections: To the server.
        instants: The store's clock.
        owns: Whether this process may still commit anything: False once its lease is lost.
        committed: Takes a batch and the statement's answer, and gives each caller its own.
        patience: Seconds for which a batch is sent again while the server cannot be reached.
    """

    def __init__(
        self,
        connections: Connections,
        instants: Instants,
        *,
        owns: Callable[[], bool],
        committed: Callable[[Batch, Record], Awaitable[None]],
        patience: float,
    ) -> None:
        self._connections = connections
        self._instants = instants
        self._owns = owns
        self._committed = committed
        self._patience = patience
        self._queue: deque[PendingStep] = deque()
        self._wake = asyncio.Event()
        self._kept = Kept(connections)
        self._closed = False

    def submit(self, pending: PendingStep, *, first: bool = False) -> None:
        """Queue a step; its future is resolved after its commit.

        Raises:
            StoreUnavailable: The lane is closed.
        """
        if self._closed and not first:
            raise StoreUnavailable("the store is closed")
        if first:
            self._queue.appendleft(pending)
        else:
            self._queue.append(pending)
        self._wake.set()

    def close(self) -> None:
        """Commit what is queued, and no more."""
        self._closed = True
        self._wake.set()

    async def serve(self) -> None:
        """Commit what is queued, until closed."""
        batch = Batch()
        try:
            while not self._closed or self._queue:
                self._wake.clear()
                while self._queue:
                    batch = self._next()
                    await self._commit(batch)
                    # Those just answered go on first: their next steps join those that were left behind, else a few
                    # and the rest would take turns for ever.
                    await asyncio.sleep(0)
                if self._connections.shared:
                    await self._kept.give_back()
                if not self._closed:
                    await self._wake.wait()
        finally:
            self._closed = True
            error = StoreUnavailable("the store was closed before the step was known to be committed")
            fail((*batch.pending, *self._queue), error)
            await self._kept.give_back()

    def _next(self) -> Batch:
        """Take from the queue what fits into one batch, each run's steps in their order."""
        batch, behind, late = Batch(), list[PendingStep](), set[str]()
        while self._queue and not batch.is_full:
            pending = self._queue.popleft()
            run_id = pending.step.run_id
            if run_id in late or not batch.add(pending):
                late.add(run_id)
                behind.append(pending)
        self._queue.extendleft(reversed(behind))
        return batch

    async def _commit(self, batch: Batch) -> None:
        """Commit a batch; if its data are to blame, in halves, until what fails stands alone."""
        try:
            record = await self._send(batch)
            if record is None:
                refuse(batch.pending, self._instants)
            else:
                await self._committed(batch, record)
        except (*DRIVER_ERRORS, FlowstoneError, ValueError, TypeError) as error:
            if len(batch.pending) > 1 and (is_poison(error) or (batch.tables and not is_transient(error))):
                for half in _halves(batch):
                    await self._commit(half)
            else:
                fail(batch.pending, translate(error, where=self._connections.where), error)

    async def _send(self, batch: Batch) -> Record | None:
        """Send a batch until it is answered; returns None if this process may not commit any more."""
        text, arguments = batch.statement(self._instants.given())
        give_up = time.monotonic() + self._patience
        delay = _FIRST_DELAY
        while self._owns():
            try:
                session = await self._kept.session()
                session.patience = min(self._connections.patience, max(1.0, self._patience * _SHARE))
                if batch.tables:
                    return await _send_with_tables(session, batch, text, arguments)
                return (await session.fetch_text(text, *arguments))[0]
            except DRIVER_ERRORS as error:
                pause = delay * random.uniform(0.5, 1.5)  # noqa: S311
                if not is_transient(error) or time.monotonic() + pause > give_up:
                    raise
            await asyncio.sleep(pause)
            delay = min(2 * delay, _LONGEST_DELAY)
        return None


async def _send_with_tables(session: Session, batch: Batch, text: str, arguments: Sequence[object]) -> Record:
    """Commit a batch together with rows of the users' own tables."""
    async with session.transaction():
        record = (await session.fetch_text(text, *arguments))[0]
        refused = batch.read(record).refused
        for table, rows in sorted(batch.tables.items()):
            columns = list(zip(*(row for run_id, row in rows if run_id not in refused), strict=True))
            if columns:
                await session.fetch_text(QUERIES["upsert"].replace("user_table", table), *columns, record[0])
    return record


def _halves(batch: Batch) -> Iterable[Batch]:
    middle = len(batch.pending) // 2
    for part in (batch.pending[:middle], batch.pending[middle:]):
        half = Batch()
        for pending in part:
            half.add(pending)
        yield half


def refuse(pending: Iterable[PendingStep], instants: Instants) -> None:
    """Answer steps that may not be committed."""
    for one in pending:
        if not one.answer.done():
            one.answer.set_result(one.earlier or Advanced(accepted=False, at=instants.now()))


def fail(pending: Iterable[PendingStep], error: FlowstoneError, cause: BaseException | None = None) -> None:
    """Let steps fail, each with an exception of its own: whoever raises one adds to its traceback."""
    for one in pending:
        if isinstance(error, StoreUnavailable):
            # It may have been committed all the same: what it asked for is let go when the run ends.
            one.driven.held.update(one.step.claims)
        if not one.answer.done():
            own = type(error)(
                error.message,
                run_id=one.step.run_id,
                details=error.details,
                hint=error.hint,
                retryable=error.retryable,
            )
            own.__cause__ = cause
            one.answer.set_exception(own)
