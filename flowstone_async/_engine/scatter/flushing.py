"""What ends in a scatter: noted, flushed many at a time, and judged; and when to look for what is free."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from flowstone_async._engine.replay.facts import BodyFacts
from flowstone_async._engine.scatter.asleep import Asleep, Evicted, Final
from flowstone_async._engine.scatter.bodies import Bodies
from flowstone_async._engine.scatter.chunks import LocalChunk, Todo
from flowstone_async._engine.scatter.dues import Dues
from flowstone_async._engine.scatter.errors import no_longer_ours, threshold
from flowstone_async._engine.scatter.intake import Intake
from flowstone_async._engine.scatter.parting import part
from flowstone_async._engine.scatter.places import ItemPlaces
from flowstone_async._engine.scatter.resting import Resting
from flowstone_async._engine.scatter.results import Results
from flowstone_async._engine.services import Services
from flowstone_async.clock import Timer
from flowstone_async.definition.batch import BatchFailed
from flowstone_async.definition.scatter import ScatterKind
from flowstone_async.errors import FlowstoneError, LeaseLost
from flowstone_async.failures import describe
from flowstone_async.sources.source import Source
from flowstone_async.store.blocks import MOST_AT_ONCE, weight
from flowstone_async.store.scatters import NEVER, Flush, Page, ScatterRecord, ScatterTotals

PAGES_AHEAD = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What a scatter has to do.

    Attributes:
        record: As it was begun.
        continued: Whether others may have begun it before.
        fence: Of the run.
        kind: Its options.
        source: Where items come from, its options resolved; None for who does not read.
        by_position: Whether a source that cannot go on gives the same items again in the same order.
        intake: Prepares its pages.
        results: Encodes what bodies return.
        call: Begins the call of the body for an item.
        places: Of the bodies.
        rate_key: What the rate of an item counts for; None if for all.
        durable: What the durable calls of bodies know; None if those have no context, and it follows no other scatter.
        given: Makes of an item what the body receives; None for the item itself.
        failing: What to tell of an error of a body: the error, and seconds until the next attempt or None.
        noted: Puts on record what bodies noted, ahead of their results.
        upstream: Returns once the scatter that this one follows is committed, or raises; None if it follows none.
    """

    record: ScatterRecord
    continued: bool
    fence: int
    worker: str
    kind: ScatterKind
    source: Source[Any] | None
    by_position: bool
    intake: Intake
    results: Results
    call: Callable[[LocalChunk, Todo], Coroutine[Any, Any, Any]]
    places: ItemPlaces
    rate_key: Callable[[Any], Any] | None
    failing: Callable[[BaseException, int], tuple[FlowstoneError, float | None]]
    noted: Callable[[], Awaitable[None]]
    durable: BodyFacts | None = None
    given: Callable[[LocalChunk, Todo], Todo] | None = None
    upstream: Callable[[], Awaitable[None]] | None = None

    @property
    def ahead(self) -> int:
        """The most items that are ahead of those that ended."""
        return PAGES_AHEAD * max(self.kind.per_page, self.kind.max_concurrent or 0)


class Flushing(ABC):
    """The side of a scatter that keeps what its bodies return.

    Args:
        services: What runs need of the engine.
        task: What is to be done.
        name: What it is called, for people.

    Attributes:
        size: Bytes of the results that were kept.
    """

    def __init__(self, services: Services, task: Task, name: str) -> None:
        self._services, self._task, self._name = services, task, name
        self._store = services.store.scatters
        self._id, self._fence = task.record.id, task.fence
        self._bodies: Bodies | None = None
        self._finished = asyncio.Event()
        self._dirty, self._room, self._look = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._flushing, self._claiming, self._unsure = asyncio.Lock(), asyncio.Lock(), False
        self._changed: list[LocalChunk] = []
        self._held: dict[tuple[int, bool], LocalChunk] = {}
        self._outstanding: int = 0
        self._number: int = task.record.pages
        self._sealed: bool = task.record.sealed
        self._failed: int = 0
        self._total: int = task.record.total
        self._counted: ScatterTotals | None = None
        self._due = Dues(task.ahead)
        self._timer: Timer | None = None
        self._pages: OrderedDict[int, tuple[Page, Mapping[int, Any]]] = OrderedDict()
        self._error: BaseException | None = None
        self._closed = self._ending = False
        self._resting = Resting()
        self._asleep = Asleep(services, self._id, task.durable, self._look.set)
        self.size = 0

    @property
    def _at_hand(self) -> int:
        """How many items are here and have not ended, but for those whose bodies wait."""
        return self._outstanding - (0 if self._bodies is None else self._bodies.seats.away)

    @property
    def total(self) -> int | None:
        """How many items there are, as far as is known here; None as long as the source is read."""
        if self._counted is not None and self._counted.sealed:
            return max(self._counted.total, self._total)
        return self._total if self._sealed else None

    def succeeded(self, chunk: LocalChunk, todo: Todo, value: object) -> None:
        """Note what a body returned."""
        chunk.succeed(todo.position, value)
        self._changes(chunk)

    def raised(self, chunk: LocalChunk, todo: Todo, error: BaseException) -> None:
        """Note what a body raised: the item is tried again later, or has failed for good."""
        if isinstance(error, LeaseLost) and error.run_id == self._task.record.run_id:
            self._fail(error)  # no outcome of the item: the run has another owner, and who helps comes back to that one
            return
        attempts = chunk.chunk.attempts + 1
        if isinstance(error, BatchFailed) and self._task.kind.batch is not None:
            parted = part(chunk, todo, error, self._task.failing, self._services.store.now)
            if parted is None:
                self._changes(chunk)
                return
            error = parted
        final = error.__cause__ if isinstance(error, Final) else None
        told, wait = self._task.failing(final or error, attempts)
        wait = None if final else wait
        if wait is None:
            chunk.fail(todo.position, attempts, describe(told))
        else:
            due = self._services.store.now() + timedelta(seconds=wait)
            chunk.postpone(todo.position, attempts, due, describe(told), lost=chunk.chunk.lost)
        self._changes(chunk)

    def refused(self, chunk: LocalChunk, todo: Todo, reason: BaseException | str) -> None:
        """Note that an item on record cannot be run, and why. It counts as an attempt: a redrive makes another one."""
        chunk.fail(todo.position, chunk.chunk.attempts + 1, describe(self._task.intake.failure(reason)))
        self._changes(chunk)

    def evicted(self, chunk: LocalChunk, todo: Todo, gates: Evicted) -> None:
        """Note that a body goes on once one of its gates has ended."""
        chunk.park(todo.position, gates.gates)
        self._changes(chunk)

    def left(self) -> None:
        """Hear that a body waits: there is room for more."""
        self._room.set()
        self._flushed()
        self._calm()

    def back(self) -> None:
        """Hear that a body that has waited goes on."""
        self._asleep.computes()

    def _calm(self) -> None:
        """See to it that somebody looks whether nothing goes on, if it may be so."""
        if self._idles:
            self._look.set()

    @property
    def _idles(self) -> bool:
        """Whether nothing of it is computed here, nor about to be, as far as is known."""
        return False

    def ended_program(self, ending: BaseException) -> None:
        """A body ends the program."""
        self._fail(ending)

    def _changes(self, chunk: LocalChunk) -> None:
        if not chunk.changed:
            chunk.changed = True
            self._changed.append(chunk)
            self._dirty.set()

    async def _flush(self) -> None:
        """Flush what ended, again and again; what ends meanwhile goes with the next flush."""
        while True:
            await self._resting.on(self._dirty)
            self._dirty.clear()
            await self._flush_once()
            await self._check()
            self._flushed()

    async def _flush_once(self) -> None:
        async with self._flushing:
            changed, self._changed = self._changed, []
            if changed:
                await self._flush_these(changed)

    @abstractmethod
    def _flushed(self) -> None:
        """Hear that what ended has been kept, and has not ended the scatter."""

    def _flushes(self, chunks: list[LocalChunk]) -> list[Flush]:
        """Return what ended in the first of some chunks, as much as one statement is to hold; the rest waits."""
        flushes: list[Flush] = []
        held = 0
        for place, chunk in enumerate(chunks):
            if held > MOST_AT_ONCE:
                self._changed += chunks[place:]
                self._dirty.set()
                break
            flush = chunk.flush(self._task.results.pack)
            flushes.append(flush)
            held += weight(flush.block)
            if chunk.ended:
                self._changes(chunk)
        return flushes

    async def _flush_these(self, chunks: list[LocalChunk]) -> None:
        ended = sum(chunk.ended for chunk in chunks)
        flushes = self._flushes(chunks)
        ended -= sum(chunk.ended for chunk in chunks)
        await self._task.noted()
        kept = await self._store.flush(flushes, self._task.worker)
        if len(kept) < len(flushes):
            raise await self._refused()
        self._outstanding -= ended
        self._room.set()
        for chunk, flush in zip(chunks, flushes, strict=False):
            self.size += 0 if flush.block is None else len(flush.block.body)
            self._failed += len(flush.failures)
            self._total += len(flush.splits)
            for later in (*flush.later, *flush.splits):
                self._look_at(later.due)
            if flush.state == "ready":
                self._look_at(flush.due)
            held = chunk.chunk.first, chunk.chunk.alone
            if flush.state != "running" and self._held.get(held) is chunk:  # not one that was taken again meanwhile
                del self._held[held]

    def _look_at(self, due: datetime | None) -> None:
        """Look for free chunks at an instant; at once if there is none."""
        if due == NEVER:  # it waits, unless a gate has ended meanwhile
            self._asleep.begin()
        if due is None or due == NEVER:
            self._look.set()
            return
        self._look_by(self._services.clock.monotonic() + (due - self._services.store.now()).total_seconds())

    def _look_by(self, instant: float) -> None:
        """Look for free chunks at an instant of the clock."""
        self._due.add(instant)
        self._set_timer()

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        if self._due:
            clock = self._services.clock
            self._timer = clock.call_later(max(0.0, self._due.first - clock.monotonic()), self._on_time)

    def _on_time(self) -> None:
        self._due.pop(self._services.clock.monotonic())
        self._timer = None
        self._look.set()
        self._set_timer()

    async def _learn_dues(self) -> None:
        """Ask when the next of the items that wait are due, if more do than are known; then take what is by now."""
        if self._due.lacking:
            clock, store = self._services.clock, self._services.store
            dues = await self._store.dues(self._id, limit=self._due.batch)
            instant, now = clock.monotonic(), store.now()
            self._due.learn([instant + (due - now).total_seconds() for due in dues])
            self._set_timer()

    @abstractmethod
    async def _check(self) -> None:
        """See whether this is the end."""

    async def _judge(self, failed: int, total: int, *, sealed: bool) -> None:
        """End the scatter if more of its items failed than it tolerates; arguments as for `Tolerance.exceeded`.

        Raises:
            ScatterThreshold: It is so.
            LeaseLost: Somebody else has ended it, or goes on with it.
        """
        task = self._task
        if task.kind.tolerate.exceeded(failed, total, sealed=sealed):
            self._ending = True
            if self._bodies is not None:
                self._bodies.stopping = True
            if not await self._store.end(self._id, self._fence, "failed"):
                raise no_longer_ours(self._name)
            raise await threshold(self._store, self._id, self._name, task.kind)

    async def _count(self) -> ScatterTotals:
        """Ask the store how far all workers together are."""
        totals = await self._store.totals(self._id)
        if totals is None:
            raise no_longer_ours(self._name)
        self._counted = totals
        return totals

    async def _refused(self) -> FlowstoneError:
        """Return why the store keeps nothing more; if it is we who end it, once that has been said."""
        if self._ending:
            await self._finished.wait()
        record = await self._store.scatter(self._id)
        if record is not None and record.state == "failed":  # another worker has found out first
            return await threshold(self._store, self._id, self._name, self._task.kind)
        return no_longer_ours(self._name)

    def _fail(self, error: BaseException) -> None:
        self._error = self._error or error
        self._finished.set()
