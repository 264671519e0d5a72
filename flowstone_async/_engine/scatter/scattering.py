"""One attempt at a scatter: reads its source, calls its body for each item, keeps what comes of them, and closes it.

    group
    ├── reader     pages from the source -> the store -> chunks at hand; a few pages ahead of the bodies
    ├── taker      chunks that nobody has any more, and items whose time to be tried again has come
    ├── bodies     see bodies.py
    └── flusher    one flush at a time with all that ended meanwhile; the last one closes the scatter

None of them raises: the first thing that goes wrong is noted and ends the others.
"""

from __future__ import annotations

import asyncio
import heapq
import json
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import anyio

from flowstone_async._engine.scatter.bodies import Bodies
from flowstone_async._engine.scatter.chunks import LocalChunk, Todo
from flowstone_async._engine.scatter.errors import no_longer_ours, threshold, worker_lost
from flowstone_async._engine.scatter.intake import Intake, cursor_of
from flowstone_async._engine.scatter.results import Results
from flowstone_async._engine.services import Services
from flowstone_async.clock import Timer
from flowstone_async.definition.scatter import ScatterKind
from flowstone_async.errors import FlowstoneError
from flowstone_async.failures import ENDINGS, describe
from flowstone_async.sources.reading import ReadPage, read_pages
from flowstone_async.sources.source import Source
from flowstone_async.store.scatters import Chunk, Flush, NewPage, Page, ScatterRecord

PAGES_AHEAD = 4
_TAKEN_AT_ONCE = 100
_PAGES_KEPT = 8
_SUSPECT = 2
_logger = logging.getLogger("flowstone")


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What a scatter has to do.

    Attributes:
        record: As it was begun.
        fence: Of the run.
        kind: Its options.
        source: Where items come from, its options resolved.
        by_position: Whether a source that cannot go on gives the same items again in the same order.
        intake: Prepares its pages.
        results: Encodes what bodies return.
        call: Begins the call of the body for an item.
        failing: What to tell of an error of a body: the error, and seconds until the next attempt or None.
    """

    record: ScatterRecord
    fence: int
    worker: str
    kind: ScatterKind
    source: Callable[[], Awaitable[Source[Any]]]
    by_position: bool
    intake: Intake
    results: Results
    call: Callable[[LocalChunk, Todo], Coroutine[Any, Any, Any]]
    failing: Callable[[BaseException, int], tuple[FlowstoneError, float | None]]


class Scattering:
    """Runs one scatter in this process.

    Args:
        services: What runs need of the engine.
        task: What is to be done.
        name: What it is called, for people.
    """

    def __init__(self, services: Services, task: Task, name: str) -> None:
        self._services, self._task, self._name = services, task, name
        self._store = services.store.scatters
        self._id = task.record.id
        self._bodies: Bodies | None = None
        self._finished = asyncio.Event()
        self._dirty, self._room, self._look = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._flushing = asyncio.Lock()
        self._changed: list[LocalChunk] = []
        self._held: dict[tuple[int, bool], LocalChunk] = {}
        self._outstanding = 0
        self._number = task.record.pages
        self._sealed = task.record.sealed
        self._failed = 0
        self._total = task.record.total
        self._due: list[float] = []
        self._timer: Timer | None = None
        self._pages: OrderedDict[int, tuple[Page, Mapping[int, Any]]] = OrderedDict()
        self._error: BaseException | None = None
        self._closed = False
        self.size = 0

    async def run(self) -> None:
        """Run it to its end.

        Raises:
            ScatterThreshold: More items failed than it tolerates.
            SourceError: Its source cannot be read.
            FlowstoneError: The store refuses it, or cannot be reached.
        """
        totals = await self._store.totals(self._id)
        self._failed = 0 if totals is None else totals.failed
        kind = self._task.kind
        try:
            async with anyio.create_task_group() as group:
                self._bodies = Bodies(
                    self._task.call,
                    self,
                    most=kind.max_concurrent,
                    timeout=kind.timeout,
                    grace=self._services.settings.cancel_grace,
                    clock=self._services.clock,
                    group=group,
                    name=f"{self._name} body",
                )
                if not self._sealed:
                    group.start_soon(self._guarded, self._read, name=f"{self._name} reader")
                group.start_soon(self._guarded, self._take, name=f"{self._name} taker")
                group.start_soon(self._guarded, self._flush, name=f"{self._name} flusher")
                try:
                    await self._finished.wait()
                finally:
                    await self._end(self._bodies)
                    group.cancel_scope.cancel()
        finally:
            if self._timer is not None:
                self._timer.cancel()
        if self._error is not None:
            raise self._error

    async def _end(self, bodies: Bodies) -> None:
        """End the bodies in good order, keep what ended, and let go of the rest."""
        bodies.cancel()
        with anyio.CancelScope(shield=True):
            with anyio.move_on_after(self._services.settings.cancel_grace):
                await bodies.idle()
            if not self._closed:
                try:
                    async with self._flushing:
                        changed, self._changed = self._changed, []
                        await self._store.flush(self._flushes(changed), self._task.worker)
                    await self._store.release(self._id, self._task.worker)
                except FlowstoneError as error:
                    _logger.info("%s: what it had is free once its worker is gone: %s", self._name, error.message)

    async def _guarded(self, part: Callable[[], Awaitable[None]]) -> None:
        try:
            await part()
        except (*ENDINGS, Exception) as error:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        self._error = self._error or error
        self._finished.set()

    # -- reading ------------------------------------------------------------------------------------------------

    async def _read(self) -> None:
        kind, record = self._task.kind, self._task.record
        most = PAGES_AHEAD * max(kind.page_size, kind.max_concurrent or 0)
        token = None if record.cursor is None else json.loads(record.cursor)
        source = await self._task.source()
        pages = read_pages(
            source,
            token,
            page_size=kind.page_size,
            by_position=self._task.by_position,
            clock=self._services.clock,
        )
        async with aclosing(pages):
            async for page in pages:
                await self._add(page)
                while self._outstanding + kind.page_size > most:
                    self._room.clear()
                    await self._room.wait()
        await self._check()

    async def _add(self, read: ReadPage[Any]) -> None:
        if not read.items and not read.last:
            return
        prepared = await self._task.intake.prepare(read.items, read.position)
        size = len(read.items)
        page = NewPage(
            scatter=self._id,
            fence=self._task.fence,
            no=self._number,
            size=size,
            items=prepared.data,
            hashes=prepared.hashes,
            keys=prepared.keys,
            cursor=cursor_of(read.token),
            last=read.last,
            failed=prepared.failed,
            chunks=(size,) if size else (),
        )
        added = await self._store.add_page(page, self._task.worker)
        if added is None:
            raise no_longer_ours(self._name)
        self._number += 1
        self._total += size - len(added.duplicates)
        self._sealed = read.last
        if size:
            stored = Page(page.no, added.first, added.before, size, added.duplicates, b"", page.keys)
            chunk = Chunk(self._id, added.first, alone=False, page=page.no, size=size, failed=len(prepared.failed))
            self._failed += len(prepared.failed)
            self._hold(LocalChunk(chunk, stored, prepared.items))

    def _hold(self, chunk: LocalChunk, *, suspect: bool = False) -> None:
        """Run what is left of a chunk."""
        assert self._bodies is not None  # noqa: S101 - made before anything is read
        self._held[chunk.chunk.first, chunk.chunk.alone] = chunk
        self._outstanding += chunk.left
        if not chunk.left:
            self._changes(chunk)
        elif suspect:
            self._bodies.add_suspect(chunk)
        else:
            self._bodies.add(chunk)

    # -- what nobody has ------------------------------------------------------------------------------------------

    async def _take(self) -> None:
        """Take what is free whenever something may be: at the beginning, at a due time, and once each poll."""
        if not self._task.record.pages:
            await self._look.wait()
        while True:
            self._look.clear()
            chunks = await self._store.take(self._id, self._task.worker, limit=_TAKEN_AT_ONCE)
            for chunk in chunks:
                await self._taken(chunk)
            if len(chunks) < _TAKEN_AT_ONCE:
                await self._check()
                await self._look.wait()

    async def _taken(self, chunk: Chunk) -> None:
        page, items = await self._page(chunk.page)
        local = LocalChunk(chunk, page, items)
        if not chunk.lost:
            self._hold(local)
        elif not chunk.alone:
            self._dissolve(local)
        elif chunk.lost >= self._services.settings.max_lost:
            self._hold_lost(local)
        else:
            self._hold(local, suspect=chunk.lost >= _SUSPECT)

    def _dissolve(self, chunk: LocalChunk) -> None:
        """Let every item of a chunk whose worker died go on by itself: so it is found out which one killed it."""
        self._held[chunk.chunk.first, False] = chunk
        self._outstanding += chunk.left
        while chunk.todo:
            chunk.postpone(chunk.todo.pop().position, 0, None, None, lost=chunk.chunk.lost)
        self._changes(chunk)

    def _hold_lost(self, chunk: LocalChunk) -> None:
        """Let an item fail under which too many workers died."""
        self._held[chunk.chunk.first, True] = chunk
        self._outstanding += chunk.left
        todo = chunk.todo.pop()
        error = describe(worker_lost(self._name, todo.number, chunk.chunk.lost))
        chunk.fail(todo.position, chunk.chunk.attempts, error)
        self._changes(chunk)

    async def _page(self, number: int) -> tuple[Page, Mapping[int, Any]]:
        found = self._pages.get(number)
        if found is None:
            [page] = await self._store.pages(self._id, [number])
            found = self._pages[number] = page, self._task.intake.items.unpack(page.items)
            if len(self._pages) > _PAGES_KEPT:
                self._pages.popitem(last=False)
        return found

    # -- what ends ------------------------------------------------------------------------------------------------

    def succeeded(self, chunk: LocalChunk, todo: Todo, value: object) -> None:
        """Note what a body returned."""
        chunk.succeed(todo.position, value)
        self._changes(chunk)

    def raised(self, chunk: LocalChunk, todo: Todo, error: BaseException) -> None:
        """Note what a body raised: the item is tried again later, or has failed for good."""
        attempts = chunk.chunk.attempts + 1
        told, wait = self._task.failing(error, attempts)
        if wait is None:
            chunk.fail(todo.position, attempts, describe(told))
        else:
            due = self._services.store.now() + timedelta(seconds=wait)
            chunk.postpone(todo.position, attempts, due, describe(told), lost=chunk.chunk.lost)
        self._changes(chunk)

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
            await self._dirty.wait()
            self._dirty.clear()
            async with self._flushing:
                changed, self._changed = self._changed, []
                if changed:
                    await self._flush_these(changed)
            await self._check()

    def _flushes(self, chunks: list[LocalChunk]) -> list[Flush]:
        return [chunk.flush(self._task.results.pack) for chunk in chunks]

    async def _flush_these(self, chunks: list[LocalChunk]) -> None:
        ended = sum(chunk.ended for chunk in chunks)
        flushes = self._flushes(chunks)
        kept = await self._store.flush(flushes, self._task.worker)
        if len(kept) < len(flushes):
            raise no_longer_ours(self._name)
        self._outstanding -= ended
        self._room.set()
        for chunk, flush in zip(chunks, flushes, strict=True):
            self.size += 0 if flush.block is None else len(flush.block.body)
            self._failed += len(flush.failures)
            for later in flush.later:
                self._look_at(later.due)
            if flush.state == "ready":
                self._look_at(flush.due)
            if flush.state != "running":
                del self._held[chunk.chunk.first, chunk.chunk.alone]

    def _look_at(self, due: datetime | None) -> None:
        """Look for free chunks at an instant; at once if there is none."""
        if due is None:
            self._look.set()
            return
        clock = self._services.clock
        wait = max(0.0, (due - self._services.store.now()).total_seconds())
        heapq.heappush(self._due, clock.monotonic() + wait)
        self._set_timer()

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        clock = self._services.clock
        self._timer = clock.call_later(max(0.0, self._due[0] - clock.monotonic()), self._on_time) if self._due else None

    def _on_time(self) -> None:
        now = self._services.clock.monotonic()
        while self._due and self._due[0] <= now:
            heapq.heappop(self._due)
        self._timer = None
        self._look.set()
        self._set_timer()

    async def _check(self) -> None:
        """See whether this is the end."""
        task = self._task
        if self._finished.is_set():
            return
        if task.kind.tolerate.exceeded(self._failed, self._total, sealed=self._sealed):
            if not await self._store.end(self._id, task.fence, "failed"):
                raise no_longer_ours(self._name)
            raise await threshold(self._store, self._id, self._name, task.kind.tolerate)
        if self._sealed and not self._held:
            if await self._store.close(self._id, task.fence):
                self._closed = True
                self._finished.set()
            elif not self._due:
                await self._look_later()

    async def _look_later(self) -> None:
        """Look again when the first of the items that wait is due, or somebody else may have let go of what it has."""
        totals = await self._store.totals(self._id)
        poll = self._services.store.now() + timedelta(seconds=self._services.settings.poll)
        self._look_at(poll if totals is None or totals.due is None else min(totals.due, poll))
