"""One attempt at a scatter: reads its source, calls its body for each item, keeps what comes of them, and closes it.

    group
    ├── reader     pages from the source -> the store -> chunks at hand; a few pages ahead of the bodies
    ├── taker      chunks that nobody has any more, and items whose time to be tried again has come
    ├── bodies     see bodies.py
    └── flusher    one flush at a time with all that ended meanwhile; the last one closes the scatter

None of them raises: the first thing that goes wrong is noted and ends the others.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from functools import partial
from typing import Any

import anyio

from flowstone_async._engine.scatter.bodies import Bodies
from flowstone_async._engine.scatter.chunks import LocalChunk
from flowstone_async._engine.scatter.errors import worker_lost
from flowstone_async._engine.scatter.flushing import Flushing
from flowstone_async._engine.scatter.intake import Prepared, cursor_of
from flowstone_async._engine.scatter.rating import Rating
from flowstone_async._engine.scatter.supply import AtHand
from flowstone_async.errors import FlowstoneError, StoreUnavailable
from flowstone_async.failures import ENDINGS, describe
from flowstone_async.sources.reading import ReadPage, read_pages
from flowstone_async.store.scatters import Chunk, NewPage, Page

PAGES_AHEAD = 4
_TAKEN_AT_ONCE = 100
_PAGES_KEPT = 8
_SUSPECT = 2
_logger = logging.getLogger("flowstone")


class Scattering(Flushing):
    """Runs one scatter in this process."""

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
        rating = self._rating()
        try:
            async with anyio.create_task_group() as group:
                self._bodies = bodies = Bodies(
                    self._task.call,
                    self,
                    rating or AtHand(),
                    most=kind.max_concurrent,
                    timeout=kind.timeout,
                    grace=self._services.settings.cancel_grace,
                    clock=self._services.clock,
                    group=group,
                    name=f"{self._name} body",
                )
                if not self._sealed:
                    group.start_soon(self._guarded, self._read, name=f"{self._name} reader")
                if rating is not None:
                    group.start_soon(
                        self._guarded, partial(rating.run, bodies, self._resting), name=f"{self._name} rate"
                    )
                group.start_soon(self._guarded, self._take, name=f"{self._name} taker")
                group.start_soon(self._guarded, self._flush, name=f"{self._name} flusher")
                try:
                    await self._finished.wait()
                finally:
                    await self._end(bodies)
                    group.cancel_scope.cancel()
        finally:
            if self._timer is not None:
                self._timer.cancel()
        if self._error is not None:
            raise self._error

    @property
    def still(self) -> bool:
        """Whether it waits for nothing but time."""
        return self._resting.all and self._bodies is not None and self._bodies.still

    def _rating(self) -> Rating | None:
        task, services = self._task, self._services
        if task.kind.rate is None:
            return None
        # Its id, so that whoever else runs it shares the rate.
        return Rating(
            services.limits,
            services.clock,
            f"scatter:{self._id}",
            task.kind.rate,
            key=task.rate_key,
            refuse=self.refused,
            poll=services.settings.poll,
        )

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
            await self._resting.part(part)
        except (*ENDINGS, Exception) as error:
            self._fail(error)

    # -- reading ------------------------------------------------------------------------------------------------

    async def _read(self) -> None:
        kind, record = self._task.kind, self._task.record
        token = None if record.cursor is None else json.loads(record.cursor)
        pages = read_pages(
            self._task.source,
            token,
            page_size=kind.page_size,
            by_position=self._task.by_position,
            clock=self._services.clock,
        )
        async with aclosing(pages):
            async for page in pages:
                await self._add(page)
                while self._outstanding + kind.page_size > self._most:
                    await self._until_room()
        await self._check()

    @property
    def _most(self) -> int:
        """The most items that are ahead of those that ended."""
        return PAGES_AHEAD * max(self._task.kind.page_size, self._task.kind.max_concurrent or 0)

    async def _until_room(self) -> None:
        self._room.clear()
        await self._resting.on(self._room)

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
        async with self._claiming:
            await self._keep(page, prepared)

    async def _keep(self, page: NewPage, prepared: Prepared) -> None:
        """Record a page, and run its items."""
        added = await self._store.add_page(page, self._task.worker)
        if added is None:
            raise await self._refused()
        size = page.size
        self._number += 1
        self._total += size - len(added.duplicates)
        self._sealed = page.last
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
            await self._resting.on(self._look)
        while True:
            self._look.clear()
            while (limit := min(_TAKEN_AT_ONCE, self._most - self._outstanding)) <= 0:
                await self._until_room()
            try:
                taken = await self._take_some(limit)
            except StoreUnavailable as error:
                _logger.info("%s: what is free is looked for again: %s", self._name, error.message)
                self._look_at(self._next_poll())
                taken, self._unsure = 0, True
            if taken < limit:
                await self._check()
                await self._resting.on(self._look)

    async def _take_some(self, limit: int) -> int:
        """Take what is free; after a call that nobody has answered also what is ours without our knowing."""
        async with self._claiming:
            known = frozenset(self._held) if self._unsure else None
            chunks = await self._store.take(self._id, self._task.worker, limit=limit, known=known)
            self._unsure = False
            for chunk in chunks:
                await self._taken(chunk)
        return len(chunks)

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
            items = self._task.intake.items.unpack(page.items)
            found = self._pages[number] = page._replace(items=b""), items
            if len(self._pages) > _PAGES_KEPT:
                self._pages.popitem(last=False)
        return found
