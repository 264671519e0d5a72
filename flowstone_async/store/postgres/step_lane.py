"""The lane of durable steps: what comes while a statement is under way goes together with the next."""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from hashlib import blake2b
from uuid import UUID

from asyncpg import Record
from typing_extensions import override

from flowstone_async.errors import FlowstoneError, StorageError, StoreUnavailable
from flowstone_async.store.postgres.batched import Batched, Call, copied
from flowstone_async.store.postgres.connections import DRIVER_ERRORS, Connections
from flowstone_async.store.postgres.encoding import encode, failure_text
from flowstone_async.store.postgres.errors import is_poison, is_transient, translate
from flowstone_async.store.postgres.instants import Instants
from flowstone_async.store.postgres.step import LARGEST_PAYLOAD
from flowstone_async.store.steps import StepRecord, replaces

ROWS = 1000
BYTES = 8 << 20
"""Of a statement; a call of which the steps are more goes alone."""
_FIRST_DELAY = 0.05
_LONGEST_DELAY = 1.0
# Of the patience: what does not answer within that is sent again, on another connection.
_SHARE = 1 / 3


def row_id(key: str) -> UUID:
    """Return what a step is found by in its body, however long its key is."""
    return UUID(bytes=blake2b(key.encode("utf-8", "surrogatepass"), digest_size=16).digest())


def text_of(text: str) -> str:
    """Return a text that people wrote in ASCII, as in JSON: it may hold anything."""
    return encode(text)[1:-1]


class StepCall(Call):
    """Steps of one body.

    Args:
        run_id: The run.
        fence: The caller's.
        body: The body.
        steps: Its steps; of two with one key the one that counts.
    """

    __slots__ = ("answer", "body", "fence", "ids", "run_id", "size", "steps")

    def __init__(self, run_id: str, fence: int, body: str, steps: Sequence[StepRecord]) -> None:
        self.run_id, self.fence, self.body = run_id, fence, body
        by_key: dict[str, StepRecord] = {}
        for step in steps:
            if step.key not in by_key or replaces(step, by_key[step.key]):
                by_key[step.key] = step
        self.steps = tuple(by_key.values())
        self.ids = tuple(map(row_id, by_key))
        self.size = sum(len(step.value or b"") for step in self.steps)
        if self.size > LARGEST_PAYLOAD:
            raise StorageError(
                f"step {self.steps[0].key!r} returned {self.size:,} bytes; {LARGEST_PAYLOAD:,} are stored at most",
                run_id=run_id,
                hint="Keep it elsewhere, as a file or an asset, and return where it is.",
            )
        self.answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    @override
    def fail(self, error: FlowstoneError) -> None:
        if not self.answer.done():
            self.answer.set_exception(copied(error))

    def say(self, *, recorded: bool) -> None:
        """Answer, if anybody is still there."""
        if not self.answer.done():
            self.answer.set_result(recorded)


class StepLane(Batched[StepCall]):
    """Puts steps on record, for all who wait. A batch whose reply is lost is sent again: twice changes nothing more.

    Args:
        connections: To the server.
        instants: The store's clock.
        owns: Whether this process may still commit anything: False once its lease is lost.
        patience: Seconds for which a batch is sent again while the server cannot be reached.
    """

    def __init__(
        self, connections: Connections, instants: Instants, *, owns: Callable[[], bool], patience: float
    ) -> None:
        super().__init__()
        self._connections, self._instants = connections, instants
        self._owns, self._patience = owns, patience

    @override
    async def answer(self, calls: Sequence[StepCall]) -> None:
        waiting = deque(call for call in calls if not call.answer.done())
        try:
            while waiting:
                await self._write(cut(waiting))
        finally:
            for call in calls:  # the store is torn down
                call.fail(StoreUnavailable("the store was closed before the step was known to be on record"))

    async def _write(self, batch: Sequence[StepCall]) -> None:
        """Write a batch; if its data are to blame, in halves, until what fails stands alone."""
        try:
            owned = await self._send(batch)
        except (*DRIVER_ERRORS, FlowstoneError, ValueError, TypeError) as error:
            if len(batch) > 1 and is_poison(error):
                middle = len(batch) // 2
                await self._write(batch[:middle])
                await self._write(batch[middle:])
                return
            translated = translate(error, where=self._connections.where)
            if translated is not error:
                translated.__cause__ = error
            for call in batch:
                call.fail(translated)
        else:
            for call in batch:
                call.say(recorded=(call.run_id, call.fence) in owned)

    async def _send(self, batch: Sequence[StepCall]) -> frozenset[tuple[str, int]]:
        """Send a batch until it is answered; returns the runs that are owned, with their fences."""
        runs = runs_of(batch)
        arguments = columns(batch, self._instants)
        # What is large may take as long as any statement.
        share = max(1.0, self._patience * _SHARE) if sum(call.size for call in batch) <= BYTES else None
        give_up = time.monotonic() + self._patience
        delay = _FIRST_DELAY
        while self._owns():
            try:
                async with self._connections.session() as session:
                    session.patience = None if share is None else min(self._connections.patience, share)
                    rows: Sequence[Record] = await session.fetch("record_steps", *arguments)
                numbers: list[int] = [row["run"] for row in rows]
                return frozenset(runs[number - 1] for number in numbers)
            except DRIVER_ERRORS as error:
                pause = delay * random.uniform(0.5, 1.5)  # noqa: S311 - it keeps processes apart
                if not is_transient(error) or time.monotonic() + pause > give_up:
                    raise
            await asyncio.sleep(pause)
            delay = min(2 * delay, _LONGEST_DELAY)
        return frozenset()


def cut(waiting: deque[StepCall]) -> Sequence[StepCall]:
    """Take what fits into one statement: no step twice, and what a body records in its order."""
    taken: list[StepCall] = []
    behind: list[StepCall] = []
    late: set[str] = set()
    seen: set[tuple[str, UUID]] = set()
    rows = size = 0
    while waiting:
        call = waiting[0]
        if taken and (rows + len(call.steps) > ROWS or size + call.size > BYTES):
            break
        waiting.popleft()
        named = {(call.body, each) for each in call.ids}
        if call.body in late or not seen.isdisjoint(named):
            late.add(call.body)
            behind.append(call)
            continue
        seen |= named
        taken.append(call)
        rows, size = rows + len(call.steps), size + call.size
    waiting.extendleft(reversed(behind))
    return taken


def runs_of(calls: Sequence[StepCall]) -> Sequence[tuple[str, int]]:
    """Return the runs of some calls, with their fences, each once."""
    return sorted({(call.run_id, call.fence) for call in calls})


def columns(calls: Sequence[StepCall], instants: Instants) -> Sequence[object]:
    """Return what `record_steps` takes."""
    runs = runs_of(calls)
    numbers = {run: no for no, run in enumerate(runs, 1)}
    rows = [
        (
            numbers[call.run_id, call.fence],
            call.body,
            each,
            step.place,
            step.seen,
            step.attempt,
            step.kind,
            text_of(step.key),
            text_of(step.path),
            text_of(step.function),
            step.arguments,
            step.value,
            failure_text(step.error),
        )
        for call in calls
        for each, step in zip(call.ids, call.steps, strict=True)
    ]
    ids, fences = map(list, zip(*runs, strict=True))
    return (ids, fences, *map(list, zip(*rows, strict=True)), instants.given())
