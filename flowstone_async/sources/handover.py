"""Where the task that reads a source leaves what it has read, and whoever asked for it takes it."""

from __future__ import annotations

import asyncio
from typing import Any

from flowstone_async.sources.source import Page

LINGER = 0.05
"""Seconds that a short page of single items waits for more of them, so that a slow source does not hold items back."""


class Handover:
    """One page at a time, from the task that reads to the one that asked.

    The reader is told to wait after each page until the next one is asked for; while it waits for the source, an item
    that comes after its page was taken waits here, so that never more than one is read ahead.

    Args:
        size: Single items that make a full page.

    Attributes:
        waits: Whether the reader waits here, and not in the source's own code.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._page: Page[Any] | None = None
        self._items: list[Any] = []
        self._asked = asyncio.Event()
        self._ready = asyncio.Event()
        self._full = asyncio.Event()
        self._stopped = self._ended = False
        self.waits = False

    async def give(self, page: Page[Any]) -> bool:
        """Leave a page, and return when the next one is asked for; False if none will be."""
        self._page = page
        self._ready.set()
        return await self._until_asked()

    def add(self, item: Any) -> bool:
        """Leave one item; true if the next one is not wanted before `room` returns."""
        self._items.append(item)
        full = len(self._items) >= self._size
        if full:
            self._full.set()
        self._ready.set()
        return full or not self._asked.is_set()

    async def room(self) -> bool:
        """Return when more items are asked for; False if none will be."""
        return await self._until_asked()

    async def _until_asked(self) -> bool:
        while not self._stopped and (
            self._page is not None or len(self._items) >= self._size or not self._asked.is_set()
        ):
            self._asked.clear()  # answered, if it was set: what is left here is to be taken first
            self.waits = True
            try:
                await self._asked.wait()
            finally:
                self.waits = False
        return not self._stopped

    def stop(self) -> None:
        """Ask for nothing more."""
        self._stopped = True
        self._asked.set()

    def end(self) -> None:
        """Let whoever waits for a page have what there is: nothing more comes, or not in time."""
        self._ended = True
        self._ready.set()
        self._full.set()

    @property
    def filled(self) -> bool:
        """Whether there is something to take."""
        return self._page is not None or bool(self._items)

    async def take(self) -> Page[Any] | None:
        """Ask for a page and wait for it; None if nothing is left and nothing more comes."""
        self._asked.set()
        if not self._ended:
            await self._ready.wait()
            if self._page is None and not self._full.is_set():
                await self._linger()
        page = self._page or (Page(self._items) if self._items else None)
        self._page, self._items = None, []
        self._asked.clear()
        self._ready.clear()
        self._full.clear()
        return page

    async def _linger(self) -> None:
        timer = asyncio.get_running_loop().call_later(LINGER, self._full.set)
        try:
            await self._full.wait()
        finally:
            timer.cancel()
