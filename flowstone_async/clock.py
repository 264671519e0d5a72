"""Time as a dependency: the real clock, and the port that tests replace.

Two clocks are kept apart. Instants that are stored or compared with stored ones come from `now`; durations and
timers come from `monotonic` and `call_later`. On Postgres the database's own clock decides about stored instants,
unless a clock that is not the system's was given (`Clock.virtual`).
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
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


class ManualClock(Clock):
    """A clock that stands still until it is advanced; for tests.

    Timers fire in order of their due time, each at exactly that time, and whatever they set going settles before the
    next one fires. Nothing here waits for real time.
    """

    virtual = True

    def __init__(self, start: datetime = datetime(2025, 1, 1, tzinfo=UTC)) -> None:
        self._start = start
        self._passed = 0.0
        self._order = itertools.count()
        self._timers: list[_ManualTimer] = []

    @override
    def now(self) -> datetime:
        return self._start + timedelta(seconds=self._passed)

    @override
    def monotonic(self) -> float:
        return self._passed

    @override
    def call_later(self, delay: float, callback: Callable[[], None]) -> Timer:
        timer = _ManualTimer(self._passed + delay, next(self._order), callback)
        heapq.heappush(self._timers, timer)
        return timer

    @override
    async def sleep(self, delay: float) -> None:
        if delay <= 0:
            await asyncio.sleep(0)
            return
        woken = asyncio.get_running_loop().create_future()
        timer = self.call_later(delay, lambda: None if woken.done() else woken.set_result(None))
        try:
            await woken
        finally:
            timer.cancel()

    async def advance(self, seconds: float) -> None:
        """Let `seconds` pass, firing what falls due on the way."""
        until = self._passed + seconds
        await settle()
        while (timer := self._due(until)) is not None:
            self._passed = max(self._passed, timer.due)
            timer.callback()
            await settle()
        self._passed = until
        await settle()

    async def jump(self) -> bool:
        """Let time pass up to the next timer and fire it; False if there is none."""
        timer = self._due(math.inf)
        if timer is None:
            return False
        self._passed = max(self._passed, timer.due)
        timer.callback()
        await settle()
        return True

    def _due(self, until: float) -> _ManualTimer | None:
        while self._timers and (self._timers[0].cancelled or self._timers[0].due <= until):
            timer = heapq.heappop(self._timers)
            if not timer.cancelled:
                return timer
        return None


@dataclass(order=True, slots=True)
class _ManualTimer:
    due: float
    order: int
    callback: Callable[[], None] = field(compare=False)
    cancelled: bool = field(default=False, compare=False)

    def cancel(self) -> None:
        self.cancelled = True


async def settle(rounds: int = 50) -> None:
    """Let tasks that are ready run, and what they make ready, a bounded number of rounds."""
    for _ in range(rounds):
        await asyncio.sleep(0)
