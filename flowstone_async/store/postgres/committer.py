"""The committer: one task that commits the steps of all runs of this process, as many at a time as are waiting.

Callers await a future, so that cancelling one never reaches a commit under way. A batch whose reply is lost is sent
again as it was: the statement does nothing the second time and answers the same.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from asyncpg import Record

from flowstone_async.errors import FlowstoneError, KeyConflict, StoreUnavailable
from flowstone_async.store.postgres.batch import Batch, Reply, claimed
from flowstone_async.store.postgres.connections import DRIVER_ERRORS, Connections, Kept, Session
from flowstone_async.store.postgres.errors import is_poison, is_transient, translate
from flowstone_async.store.postgres.hints import Hints
from flowstone_async.store.postgres.instants import Instants
from flowstone_async.store.postgres.ledger import DrivenRun, Ledger
from flowstone_async.store.postgres.queries import QUERIES
from flowstone_async.store.postgres.rows import materialization, run_record
from flowstone_async.store.postgres.step import PendingStep, key_name
from flowstone_async.store.records import Advance, Advanced, RunRecord
from flowstone_async.types import AssetKey, Materialization

_FIRST_DELAY = 0.05
_LONGEST_DELAY = 1.0


class Committer:
    """Commits steps.

    Args:
        connections: To the server.
        instants: The store's clock.
        hints: Who waits for what a step changes.
        owns: Whether this process may still commit anything: False once its lease is lost.
        patience: Seconds for which a batch is sent again while the server cannot be reached.
    """

    def __init__(
        self,
        connections: Connections,
        instants: Instants,
        hints: Hints,
        *,
        owns: Callable[[], bool],
        patience: float,
    ) -> None:
        self.ledger: Ledger = {}
        self._connections = connections
        self._instants = instants
        self._hints = hints
        self._owns = owns
        self._patience = patience
        self._queue: deque[PendingStep] = deque()
        self._wake = asyncio.Event()
        self._kept = Kept(connections)
        self._closed = False

    async def advance(self, step: Advance, worker: str) -> Advanced:
        """Commit a step; see `Store.advance`. `worker` owns a run that is created without an owner."""
        if not self._owns():
            return Advanced(accepted=False, at=self._instants.now())
        if step.create is not None:
            if step.create.worker is None and step.create.state == "running":
                step = step._replace(create=replace(step.create, worker=worker))
            owner = step.create.worker or "" if step.create is not None else ""
            driven = self.ledger.setdefault(step.run_id, DrivenRun(step.create.pipeline, owner))
        else:
            driven = self.ledger.get(step.run_id) or await self._learn(step.run_id)
        if driven is None:
            return Advanced(accepted=False, at=self._instants.now())
        pending = PendingStep(step, driven, asyncio.get_running_loop().create_future())
        if step.done:
            await self._require_claims(pending, driven)
        if self._closed:
            raise StoreUnavailable("the store is closed")
        self._queue.append(pending)
        self._wake.set()
        return await pending.answer

    async def _learn(self, run_id: str) -> DrivenRun | None:
        """Ask the database for what has to be known of a run that this process has not created."""
        rows = await self._connections.fetch("driven", run_id)
        if not rows:
            return None
        held = [AssetKey(row["of"], row["asset"], row["partition"], row["io"]) for row in rows if row["holds"]]
        return self.ledger.setdefault(run_id, DrivenRun(rows[0]["pipeline"], rows[0]["worker"], held))

    async def _require_claims(self, pending: PendingStep, driven: DrivenRun) -> None:
        """Make sure that a run holds what its outcomes say it holds. A repetition of a committed step need not.

        Raises:
            RuntimeError: It does not: the engine's mistake.
        """
        step = pending.step
        held = driven.held
        if all(done.key in held for done in step.done if done.claimed):
            return
        rows = await self._connections.fetch("committed_before", step.run_id, pending.events[0][0], step.fence)
        repeated, valid = rows[0]
        if repeated or not valid:
            return
        self.ledger.pop(step.run_id, None)
        learnt = await self._learn(step.run_id)
        for done in step.done:
            if done.claimed and learnt is not None and done.key not in learnt.held:
                message = f"run {step.run_id} commits {done.key} as {done.outcome} without holding its claim"
                raise RuntimeError(message)

    def close(self) -> None:
        """Commit what is queued, and no more."""
        self._closed = True
        self._wake.set()

    async def serve(self) -> None:
        """Commit what is queued, until closed."""
        batch: Batch | None = None
        try:
            while not self._closed or self._queue:
                self._wake.clear()
                while self._queue:
                    batch = self._next()
                    await self._commit(batch)
                    batch = None
                if not self._connections.own:
                    await self._kept.give_back()
                if not self._closed:
                    await self._wake.wait()
        finally:
            self._closed = True
            left = [*(batch.pending if batch else ()), *self._queue]
            self._queue.clear()
            for pending in left:
                _fail(pending, StoreUnavailable("the store was closed before the step was committed"))
            await self._kept.give_back()

    def _next(self) -> Batch:
        """Take from the queue what fits into one batch, each run's steps in their order."""
        batch, behind, late = Batch(), list[PendingStep](), set[str]()
        queue = self._queue
        while queue and not batch.is_full:
            pending = queue.popleft()
            run_id = pending.step.run_id
            if run_id in late or not batch.add(pending):
                late.add(run_id)
                behind.append(pending)
        queue.extendleft(reversed(behind))
        return batch

    async def _commit(self, batch: Batch) -> None:
        """Commit a batch; if its data are to blame, in halves, until what fails stands alone."""
        if not batch.pending:
            return
        try:
            record = await self._send(batch)
            if record is None:
                for pending in batch.pending:
                    _refuse(pending, self._instants.now())
                return
            reply = batch.read(record)
            before = await self._replaced(reply)
        except (*DRIVER_ERRORS, ValueError, TypeError, OverflowError, FlowstoneError) as error:
            if len(batch.pending) > 1 and (is_poison(error) or (batch.tables and not is_transient(error))):
                for half in _halves(batch):
                    await self._commit(half)
                return
            failure = translate(error, where=self._connections.where)
            for pending in batch.pending:
                _fail(pending, failure, error)
            return
        self._instants.learn(reply.at)
        for pending in batch.pending:
            await self._answer(pending, reply, before)
        self._hints.committed(batch.pending, reply)

    async def _send(self, batch: Batch) -> Record | None:
        """Send a batch until it is answered; returns None if this process may not commit any more."""
        text, arguments = batch.statement(self._instants.given())
        give_up = time.monotonic() + self._patience
        delay = _FIRST_DELAY
        while self._owns():
            try:
                session = await self._kept.session()
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

    async def _replaced(self, reply: Reply) -> Mapping[str, Materialization]:
        if not reply.replaced:
            return {}
        rows = await self._connections.fetch("materializations", list(reply.replaced.values()))
        return {made.id: made for made in map(materialization, rows)}

    async def _answer(self, pending: PendingStep, reply: Reply, before: Mapping[str, Materialization]) -> None:
        step = pending.step
        if step.run_id in reply.refused:
            await self._refused(pending, reply.at)
            return
        self._note(pending, reply)
        claims = claimed(step.claims, step.run_id, reply)
        if pending.earlier is not None:
            claims = {**pending.earlier.claims, **claims}
        left = tuple(key for key in step.claims if key not in claims)
        superseded = tuple(
            before[old] for done in step.done if (old := reply.replaced.get(key_name(done.key))) in before
        )
        answer = Advanced(accepted=True, at=reply.at, claims=claims, superseded=superseded)
        if pending.earlier is not None:
            answer = pending.earlier._replace(claims=claims)
        if left:
            self._ask_again(pending, answer, left)
        elif not pending.answer.done():
            pending.answer.set_result(answer)

    def _ask_again(self, pending: PendingStep, answer: Advanced, left: tuple[AssetKey, ...]) -> None:
        """Ask once more for claims whose row was shared with a run that was refused."""
        step = Advance(run_id=pending.step.run_id, fence=pending.step.fence, claims=left)
        again = PendingStep(step, pending.driven, pending.answer)
        again.earlier = answer
        self._queue.appendleft(again)

    def _note(self, pending: PendingStep, reply: Reply) -> None:
        """Keep the ledger in step with what was committed."""
        step = pending.step
        if step.finish is not None:
            self.ledger.pop(step.run_id, None)
            return
        driven = pending.driven
        if step.done or step.releases:
            driven.held.difference_update((done.key for done in step.done), step.releases)
        for key in step.claims:
            found = reply.claims.get(key_name(key))
            if found is not None and found.holder == step.run_id:
                driven.held.add(key)

    async def _refused(self, pending: PendingStep, at: datetime) -> None:
        """Answer a step that was refused: its token is old, or its run's id is taken."""
        step = pending.step
        self.ledger.pop(step.run_id, None)
        if step.create is not None:
            try:
                known = await self._connections.fetch("run", step.run_id)
            except FlowstoneError as error:
                _fail(pending, error)
                return
            if known and _contents(run_record(known[0])) != _contents(step.create):
                message = f"run {step.run_id} exists already, and what it was asked for differs"
                error = KeyConflict(message, run_id=step.run_id, hint="Use a new run id for another run.")
                _fail(pending, error)
                return
        _refuse(pending, at)


async def _send_with_tables(session: Session, batch: Batch, text: str, arguments: Sequence[object]) -> Record:
    """Commit a batch together with rows of the users' own tables."""
    async with session.transaction():
        record = (await session.fetch_text(text, *arguments))[0]
        refused = batch.read(record).refused
        for table, rows in sorted(batch.tables.items()):
            columns = zip(*(row for run_id, row in rows if run_id not in refused), strict=True)
            if arranged := list(columns):
                await session.fetch_text(QUERIES["upsert"].replace("user_table", table), *arranged, record[0])
    return record


def _contents(run: RunRecord) -> tuple[object, ...]:
    return (run.pipeline, run.targets, run.partition, dict(run.options), run.params, run.worker, run.continuable)


def _halves(batch: Batch) -> Sequence[Batch]:
    middle = len(batch.pending) // 2
    halves: list[Batch] = []
    for part in (batch.pending[:middle], batch.pending[middle:]):
        half = Batch()
        for pending in part:
            half.add(pending)
        halves.append(half)
    return halves


def _refuse(pending: PendingStep, at: datetime) -> None:
    if not pending.answer.done():
        pending.answer.set_result(pending.earlier or Advanced(accepted=False, at=at))


def _fail(pending: PendingStep, error: FlowstoneError, cause: BaseException | None = None) -> None:
    if not pending.answer.done():
        # One exception object for each caller: they add to its traceback.
        own = type(error)(
            error.message, run_id=pending.step.run_id, details=error.details, hint=error.hint, retryable=error.retryable
        )
        own.__cause__ = cause
        pending.answer.set_exception(own)
