"""Bounding user code in time, on the injected clock.

At the deadline the body gets the event loop's cancellation once, so that its `finally` blocks can await; if it is
still there after the grace, it gets it again, and again. What it returns after its deadline is dropped.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

from flowstone_async.clock import Clock, Timer


class Deadline:
    """Cancel the code inside once `seconds` have passed; `expired` tells afterwards.

    Leaving it never raises of its own accord; a cancellation that it caused is taken back, so that it does not count
    as a cancellation of the task.
    """

    __slots__ = ("_clock", "_fired", "_grace", "_seconds", "_task", "_timer", "expired")

    def __init__(self, clock: Clock, seconds: float | None, grace: float) -> None:
        self._clock, self._seconds, self._grace = clock, seconds, grace
        self._timer: Timer | None = None
        self._task: asyncio.Task[object] | None = None
        self._fired = 0
        self.expired = False

    def __enter__(self) -> Self:
        if self._seconds is not None:
            self._task = asyncio.current_task()
            self._timer = self._clock.call_later(self._seconds, self._fire)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._fired or self._task is None:
            return False
        left = self._task.cancelling()
        for _ in range(self._fired):
            left = self._task.uncancel()
        return kind is not None and issubclass(kind, asyncio.CancelledError) and left == 0

    def _fire(self) -> None:
        if self._task is None or self._timer is None:
            return
        self.expired = True
        self._fired += 1
        self._task.cancel()
        self._timer = self._clock.call_later(self._grace, self._fire)
