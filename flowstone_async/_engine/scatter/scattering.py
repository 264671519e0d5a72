"""The worker of a scatter that owns its run: it reads the source, and closes the scatter in the end. See working.py.

group, beside what working.py has
├── reader      pages of the source, looked at and encoded: the next one while the last one is recorded
└── recorder    records a page, then lets its items begin
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from datetime import timedelta
from typing import Any

from typing_extensions import override

from flowstone_async._engine.scatter.chunks import LocalChunk
from flowstone_async._engine.scatter.errors import threshold
from flowstone_async._engine.scatter.flushing import Task
from flowstone_async._engine.scatter.intake import Prepared, cursor_of
from flowstone_async._engine.scatter.upstream import UpstreamResults
from flowstone_async._engine.scatter.working import Working
from flowstone_async._engine.services import Services
from flowstone_async.sources.reading import ReadPage, read_pages
from flowstone_async.store.crews import Attendance
from flowstone_async.store.scatters import Chunk, Left, NewPage, Page

# Chunks that each worker is to have at least, of those that are read ahead.
_CHUNKS = 2


class Scattering(Working):
    """Runs one scatter to its end."""

    def __init__(self, services: Services, task: Task, name: str) -> None:
        super().__init__(services, task, name)
        self._next: tuple[ReadPage[Any], Prepared] | None = None
        self._underway = 0
        self._handed, self._taken_over, self._recorded = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._taken_over.set()
        self._recorded.set()
        self._closing = asyncio.Lock()
        self._follows: UpstreamResults | None = None
        if task.upstream is not None and isinstance(task.source, UpstreamResults):
            self._follows = task.source
        if self._follows is not None and not self._sealed:
            self._asleep.upstream, self._follows.drained = self._follows, self._calm

    async def run(self) -> None:
        """Run it.

        Raises:
            ScatterThreshold: More items failed than it tolerates.
            SourceError: Its source cannot be read.
            FlowstoneError: The store refuses it, or cannot be reached.
        """
        self._asleep.join()
        try:
            totals = await self._store.totals(self._id)
            self._failed = 0 if totals is None else totals.failed
            if totals is not None and totals.parked:
                self._asleep.begin()
            await self._run()
        finally:
            self._asleep.end()

    _judged = -1
    """How many items had failed here when all workers' were counted last."""

    _recount_at = 0.0
    """When they are counted again, since others may have failed some and not lived to judge it."""

    @override
    def _parts(self) -> Mapping[str, Callable[[], Awaitable[None]]]:
        parts: dict[str, Callable[[], Awaitable[None]]] = {"taker": self._take, "flusher": self._flush}
        if self._task.upstream is not None:
            parts["upstream"] = self._follow
        return parts if self._sealed else {**self._reading(), **parts}

    async def _follow(self) -> None:
        """Hear of the end of the scatter that this one follows."""
        assert self._task.upstream is not None  # noqa: S101 - whoever calls has asked
        await self._task.upstream()
        if self._follows is not None:
            self._follows.look()

    def _reading(self) -> Mapping[str, Callable[[], Awaitable[None]]]:
        """Return what reads the source."""
        return {"reader": self._read, "recorder": self._record_pages}

    # -- reading ------------------------------------------------------------------------------------------------

    async def _read(self) -> None:
        kind, record, source = self._task.kind, self._task.record, self._task.source
        assert source is not None  # noqa: S101 - who reads has one
        token = None if record.cursor is None else json.loads(record.cursor)
        pages = read_pages(
            source,
            token,
            page_size=kind.page_size,
            by_position=self._task.by_position,
            clock=self._services.clock,
        )
        try:
            async with aclosing(pages):
                async for page in pages:
                    await self._add(page)
                    if self._follows is not None:
                        self._follows.took(len(page.items))
                        self._calm()
                    while self._at_hand + self._elsewhere + self._underway + kind.per_page > self._ahead:
                        await self._wait_for_room()
        except Exception:
            await self._resting.on(self._recorded)  # what was read before is kept, and is not read again
            raise

    async def _add(self, read: ReadPage[Any]) -> None:
        """Look at a page, and hand it over to be recorded."""
        if not read.items and not read.last:
            return
        prepared = await self._task.intake.prepare(read.items, read.position)
        await self._resting.on(self._taken_over)
        self._next = read, prepared
        self._underway += len(read.items)
        self._taken_over.clear()
        self._recorded.clear()
        self._handed.set()

    async def _record_pages(self) -> None:
        """Record page after page up to the last one; the next one is sent before the items of the last one begin."""
        while not self._sealed:
            await self._resting.on(self._handed)
            assert self._next is not None  # noqa: S101 - that is what was waited for
            (read, prepared), self._next = self._next, None
            self._handed.clear()
            self._taken_over.set()
            async with self._claiming:
                await self._keep(self._page_of(read, prepared), prepared)
            self._underway -= len(read.items)
            self._room.set()
            self._calm()
            if self._next is None:
                self._recorded.set()
        await self._check()

    def _page_of(self, read: ReadPage[Any], prepared: Prepared) -> NewPage:
        size = len(read.items)
        chunks, owned = self._shared_out(size)
        return NewPage(
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
            chunks=chunks,
            owned=owned,
        )

    def _shared_out(self, size: int) -> tuple[tuple[int, ...], int]:
        """Return the sizes of a page's chunks, and how many of them are ours from the start.

        A page goes whole to one worker, unless there are too few pages ahead for each to have two chunks: any chunk
        costs the store as much as a small page. It is ours if others have at least as much to do as we have.
        """
        per_worker = self._ahead // self._task.kind.per_page / (self._others + 1)
        chunks = shares(size, 1 if self._others == 0 else math.ceil(_CHUNKS / per_worker))
        fair = self._at_hand * self._others <= self._elsewhere
        return chunks, 1 if len(chunks) > 1 or fair else 0

    async def _keep(self, page: NewPage, prepared: Prepared) -> None:
        """Record a page, and run its items."""
        added = await self._store.add_page(page, self._task.worker)
        if added is None:
            raise await self._refused()
        size = page.size
        if size:
            self._asleep.computes()
        self._number += 1
        self._total += size - len(added.duplicates)
        self._sealed = page.last
        if self._sealed:
            self._asleep.upstream = None
        if size:
            stored = Page(page.no, added.first, added.before, size, added.duplicates, b"", page.keys)
            ours = page.chunks[0] if page.owned else 0
            refused = [each.position for each in prepared.failed if each.position not in added.duplicates]
            failed = sum(position < ours for position in refused)
            self._failed += len(refused)
            if ours:
                chunk = Chunk(self._id, added.first, alone=False, page=page.no, size=ours, failed=failed)
                self._hold(LocalChunk(chunk, stored, prepared.items))
            if ours < size:
                self._elsewhere += size - ours
                self._keep_page(stored, prepared.items)

    async def _wait_for_room(self) -> None:
        """Wait until bodies have ended here, or others may have."""
        self._blocked = True
        self._room.clear()
        if self._elsewhere:
            self._look.set()
        await self._resting.on(self._room)
        self._blocked = False

    # -- the end ------------------------------------------------------------------------------------------------

    @override
    async def _noticed(self, attendance: Attendance) -> None:
        if attendance.state == "failed" and not self._ending:
            raise await threshold(self._store, self._id, self._name, self._task.kind)
        if attendance.fence != self._fence or attendance.state == "cancelled":
            raise await self._refused()
        now = self._services.clock.monotonic()
        if attendance.others and now >= self._recount_at:
            self._recount_at, self._judged = now + self._services.settings.poll, -1
            await self._check()

    @override
    async def _check(self) -> None:
        if self._finished.is_set() or self._ending:
            return
        final, failed, total = self._sealed and not self._held, self._failed, self._total
        still = False
        if final and self._asleep.any:
            left = await self._left()
            final, still = left == "nothing", left == "waits"
        elif not final and self._idles:
            still = await self._store.left(self._id, besides=self._task.worker) != "work"
        still = still and not self._asleep.is_settled(held=bool(self._held))
        batches = self._task.kind.batch is not None  # of which there may be more as long as any is open
        if self._attended and (final or still or failed > self._judged):
            # Others may have failed items, too: all of them are known once nothing is open.
            self._judged = failed
            totals = await self._count()
            if final and totals.due is not None and totals.due > self._services.store.now():
                self._look_at(totals.due)  # of an item that waits since before it was ours
            final, failed = final and not totals.open, totals.failed
            settled = final
            if totals.parked:  # by others
                self._asleep.begin()
        else:  # what waits to be tried again is open, though not held
            settled = final and not (batches and failed and (await self._count()).open)
        await self._judge(failed, self.total or total, sealed=self._sealed and (settled or not batches))
        if final:
            await self._close()
        elif still and self._idles and not self._look.is_set():
            await self._asleep.settle(held=bool(self._held))

    @property
    @override
    def _idles(self) -> bool:
        bodies = self._bodies
        return (
            self._asleep.possible
            and bodies is not None
            and not (bodies.workers or bodies.seats.wanted or self._at_hand or self._underway or self._changed)
            and not (self._unsure or self._ending)
            and (self._sealed or self._has_read)
        )

    @property
    def _has_read(self) -> bool:
        """Whether the scatter that it follows has to give more before there is anything to do."""
        return self._follows is not None and self._follows.is_drained

    async def _left(self) -> Left:
        """Ask what is left: items that wait at gates are not held by anybody."""
        left = await self._store.left(self._id)
        if left == "work" and self._crews is None and not self._due:
            await self._look_later()
        return left

    async def _close(self) -> None:
        async with self._closing:  # whoever sees that it is final while another closes it has nothing to do
            if not self._closed and await self._store.close(self._id, self._fence):
                self._closed = True
                self._finished.set()
        if not self._closed and self._crews is None and not self._due:
            await self._look_later()

    async def _look_later(self) -> None:
        """Look again when the first of the items that wait is due, or somebody else may have let go of what it has."""
        totals = await self._store.totals(self._id)
        store, poll = self._services.store, self._services.settings.poll
        later = store.now() + timedelta(seconds=poll)
        self._look_at(later if totals is None or totals.due is None else min(totals.due, later))


def shares(size: int, chunks: int) -> tuple[int, ...]:
    """Return how many items of a page each of so many chunks gets, if there are that many."""
    count = min(size, chunks)
    return tuple(size // count + (place < size % count) for place in range(count))
