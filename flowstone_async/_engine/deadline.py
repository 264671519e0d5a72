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

    __slots__ = ("_clock", "_fired", "_grace", "_left", "_seconds", "_since", "_task", "_timer", "expired")

    def __init__(self, clock: Clock, seconds: float | None, grace: float) -> None:
        self._clock, self._seconds, self._grace = clock, seconds, grace
        self._timer: Timer | None = None
        self._task: asyncio.Task[object] | None = None
        self._fired = 0
        self._left = seconds or 0.0
        self._since = 0.0
        self.expired = False

    def __enter__(self) -> Self:
        if self._seconds is not None:
            self._task = asyncio.current_task()
            self._since = self._clock.monotonic()
            self._timer = self._clock.call_later(self._seconds, self._fire)
        return self

    def pause(self) -> None:
        """Let no time pass until `resume`; nothing once it has expired."""
        if self._timer is not None and not self.expired:
            self._timer.cancel()
            self._timer = None
            self._left -= self._clock.monotonic() - self._since

    def resume(self) -> None:
        """Let time pass again."""
        if self._timer is None and self._task is not None and not self.expired:
            self._since = self._clock.monotonic()
            self._timer = self._clock.call_later(max(0.0, self._left), self._fire)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        task, self._task = self._task, None
        if not self._fired or task is None:
            return False
        left = task.cancelling()
        for _ in range(self._fired):
            left = task.uncancel()
        return kind is not None and issubclass(kind, asyncio.CancelledError) and left == 0

    def _fire(self) -> None:
        if self._task is None or self._timer is None:
            return
        self.expired = True
        self._fired += 1
        self._task.cancel()
        self._timer = self._clock.call_later(self._grace, self._fire)
