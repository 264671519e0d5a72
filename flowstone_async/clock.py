"""Time as a dependency: the real clock, and the port that tests replace.

Two clocks are kept apart. Instants that are stored or compared with stored ones come from `now`; durations and
timers come from `monotonic` and `call_later`. On Postgres the database's own clock decides about stored instants,
unless a clock that is not the system's was given (`Clock.virtual`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Protocol

from typing_extensions import override


class Timer(Protocol):
    """A scheduled call that can be taken back."""

    def cancel(self) -> None:
        """Take the call back; harmless when it has happened or was cancelled."""
        ...


class Clock(Protocol):
    """Where the engine gets its time from."""

    virtual: bool

    def now(self) -> datetime:
        """Return the current instant, aware, in UTC."""
        ...

    def monotonic(self) -> float:
        """Return seconds on a clock that never goes back."""
        ...

    def call_later(self, delay: float, callback: Callable[[], None]) -> Timer:
        """Call `callback` in the running loop after `delay` seconds."""
        ...

    async def sleep(self, delay: float) -> None:
        """Return after `delay` seconds."""
        ...


class SystemClock(Clock):
    """The clock of this machine and the running event loop."""

    virtual = False

    @override
    def now(self) -> datetime:
        return datetime.now(UTC)

    @override
    def monotonic(self) -> float:
        return time.monotonic()

    @override
    def call_later(self, delay: float, callback: Callable[[], None]) -> Timer:
        return asyncio.get_running_loop().call_later(delay, callback)

    @override
    async def sleep(self, delay: float) -> None:
        await asyncio.sleep(delay)
