"""The timeout of a run, which stands still while the run does nothing but wait at gates."""

from __future__ import annotations

from collections.abc import Callable

from flowstone_async.clock import Clock, Timer


class RunLimit:
    """Calls something once a run has worked for too long.

    Args:
        clock: Tells the time.
        left: Seconds that the run has; None for no limit.
        over: What is called.
    """

    __slots__ = ("_clock", "_left", "_over", "_since", "_timer")

    def __init__(self, clock: Clock, left: float | None, over: Callable[[], None]) -> None:
        self._clock, self._left, self._over = clock, left, over
        self._since = clock.monotonic()
        self._timer: Timer | None = None
        self.resume()

    def pause(self) -> None:
        """Let no time pass."""
        if self._timer is not None and self._left is not None:
            self._timer.cancel()
            self._timer = None
            self._left -= self._clock.monotonic() - self._since

    def resume(self) -> None:
        """Let time pass again."""
        if self._timer is None and self._left is not None:
            self._since = self._clock.monotonic()
            self._timer = self._clock.call_later(max(0.0, self._left), self._over)

    def cancel(self) -> None:
        """Let go of it."""
        if self._timer is not None:
            self._timer.cancel()
