"""Leases: which workers are alive, and how one hears that it no longer is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime

from flowstone_async.store.records import Worker


class Lease:
    """A worker that is alive, and how it hears that it no longer is."""

    __slots__ = ("_loop", "_lost", "started_at", "worker")

    def __init__(self, worker: Worker, started_at: datetime, lost: Callable[[], None]) -> None:
        self.worker, self.started_at = worker, started_at
        self._loop = asyncio.get_running_loop()
        self._lost = lost

    def expire(self) -> None:
        """Tell the worker, in its own loop; from any thread."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._lost)
