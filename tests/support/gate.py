"""Holding bodies at a known point, so that tests order things without sleeping."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

T = TypeVar("T")
_LONG = 20.0


async def soon(awaited: Awaitable[T]) -> T:
    """Await something that ought to happen; a test that waits in vain fails instead of hanging."""
    return await asyncio.wait_for(awaited, _LONG)


class Gate:
    """A point in a body: `await gate()` waits there until `open()`; how many came and were there at once is counted.

    Attributes:
        calls: How often it was reached.
        most: The most that were there at once.
        left: How many were sent away by a cancellation.
    """

    def __init__(self) -> None:
        self.calls = self.most = self.left = self._inside = 0
        self._opened = asyncio.Event()
        self._arrived = asyncio.Condition()

    async def __call__(self) -> None:
        self.calls += 1
        self._inside += 1
        self.most = max(self.most, self._inside)
        async with self._arrived:
            self._arrived.notify_all()
        try:
            await self._opened.wait()
        except asyncio.CancelledError:
            self.left += 1
            raise
        finally:
            self._inside -= 1

    async def reached(self, calls: int = 1) -> None:
        """Wait until it was reached so often."""
        async with self._arrived:
            await soon(self._arrived.wait_for(lambda: self.calls >= calls))

    def open(self) -> None:
        """Let all through, now and later."""
        self._opened.set()

    def close(self) -> None:
        """Hold whoever comes from now on."""
        self._opened.clear()
