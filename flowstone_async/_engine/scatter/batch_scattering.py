"""One attempt at a scatter in batches: what differs is how it is read."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from typing_extensions import override

from flowstone_async._engine.scatter.batching import Batcher, BatchPrepared
from flowstone_async._engine.scatter.flushing import Task
from flowstone_async._engine.scatter.intake import cursor_of
from flowstone_async._engine.scatter.scattering import Scattering
from flowstone_async._engine.services import Services
from flowstone_async.sources.reading import ReadPage


class BatchScattering(Scattering):
    """Runs one scatter whose items are batches, in this process.

    Args:
        services: What runs need of the engine.
        task: What is to be done.
        name: What it is called, for people.
        batcher: Makes batches of what is read.
    """

    def __init__(self, services: Services, task: Task, name: str, batcher: Batcher) -> None:
        super().__init__(services, task, name)
        self._batcher = batcher
        self._cursor = task.record.cursor
        self._composing = asyncio.Lock()
        self._waits = asyncio.Event()

    @override
    def _reading(self) -> Mapping[str, Callable[[], Awaitable[None]]]:
        return {"reader": self._read, "closer of short batches": self._close_in_time}

    @property
    @override
    def _has_read(self) -> bool:
        return super()._has_read and self._batcher.due is None  # a short batch waits for its time

    @override
    async def _read(self) -> None:
        await super()._read()
        await self._check()

    @override
    async def _add(self, read: ReadPage[Any]) -> None:
        if not read.items and not read.last:
            return
        accepted = await self._batcher.accept(read.items, read.position)
        async with self._composing:
            self._cursor = cursor_of(read.token)
            prepared = await self._batcher.compose(accepted, last=read.last)
            if prepared is not None:
                await self._record(prepared, last=read.last)
        self._waits.set()

    async def _close_in_time(self) -> None:
        """Close batches that have waited for as long as they may, while the source takes its time."""
        clock, store = self._services.clock, self._services.store
        while not self._sealed:
            self._waits.clear()
            due = self._batcher.due
            timer = None
            if due is not None:
                timer = clock.call_later(max(0.0, (due - store.now()).total_seconds()), self._waits.set)
            try:
                await self._resting.on(self._waits)
            finally:
                if timer is not None:
                    timer.cancel()
            async with self._composing:
                prepared = self._batcher.expire()
                if prepared is not None:
                    await self._record(prepared, last=False)

    async def _record(self, prepared: BatchPrepared, *, last: bool) -> None:
        async with self._claiming:
            chunks, owned = self._shared_out(prepared.size)
            page = prepared.recorded(
                *(self._id, self._task.fence, self._number, self._cursor), last=last, chunks=chunks, owned=owned
            )
            await self._keep(page, prepared.page)
