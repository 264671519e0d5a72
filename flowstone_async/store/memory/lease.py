"""Leases: which workers are alive, and how one hears that it no longer is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Lease:
    """A worker that is alive, and how it hears that it no longer is."""

    __slots__ = ("_loop", "_lost")

    def __init__(self, lost: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._lost = lost

    def expire(self) -> None:
        """Tell the worker, in its own loop; from any thread."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._lost)
