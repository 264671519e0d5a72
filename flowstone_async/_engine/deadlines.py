"""Bounding many calls of user code by the same time, with one timer for all of them; `deadline.py` is for one call."""

from __future__ import annotations

import asyncio

from flowstone_async.clock import Clock, Timer


class Deadlines:
    """Cancels tasks that take longer than they may; as `Deadline` does, once, and again after each grace.

    All have the same time, so they are due in the order in which they began.

    Args:
        clock: Where time comes from.
        seconds: What each may take; None for no limit.
        grace: Seconds between two cancellations of one that goes on.
    """

    __slots__ = ("_again", "_clock", "_due", "_fired", "_grace", "_late", "_left", "_seconds", "_timer")

    def __init__(self, clock: Clock, seconds: float | None, grace: float) -> None:
        self._clock, self._seconds, self._grace = clock, seconds, grace
        self._due: dict[asyncio.Task[object], float] = {}
        self._late: dict[asyncio.Task[object], float] = {}
        self._fired: dict[asyncio.Task[object], int] = {}
        self._left: dict[asyncio.Task[object], float] = {}
        self._again: dict[asyncio.Task[object], Timer] = {}
        self._timer: Timer | None = None

    def begin(self, task: asyncio.Task[object]) -> None:
        """Let the time of a task begin."""
        if self._seconds is not None:
            first = not self._due
            self._due[task] = self._clock.monotonic() + self._seconds
            if self._timer is None or first:  # what there is may be that of one that is late
                self._set_timer()

    def pause(self, task: asyncio.Task[object]) -> None:
        """Let no time of a task pass, unless it is over."""
        due = self._due.pop(task, None)
        timer = self._again.pop(task, None)
        if timer is not None:
            timer.cancel()
            due = self._left.pop(task)
        if due is not None:
            self._left[task] = due - self._clock.monotonic()

    def resume(self, task: asyncio.Task[object]) -> None:
        """Let its time pass again. It is not due in the order in which it began any more: it has a timer of its own."""
        left = self._left.get(task)
        if left is not None and task not in self._again:
            self._left[task] = left + self._clock.monotonic()
            self._again[task] = self._clock.call_later(max(0.0, left), lambda: self._over(task))

    def _over(self, task: asyncio.Task[object]) -> None:
        self._again.pop(task, None)
        self._left.pop(task, None)
        self._cancel(task, self._clock.monotonic())
        self._set_timer()

    def end(self, task: asyncio.Task[object]) -> bool:
        """Forget a task, take back what it was cancelled from here, and tell whether its time was over."""
        self._due.pop(task, None)
        if self._left.pop(task, None) is not None and (timer := self._again.pop(task, None)) is not None:
            timer.cancel()
        fired = self._fired.pop(task, 0)
        if fired:
            self._late.pop(task, None)
            for _ in range(fired):
                task.uncancel()
        if self._timer is not None and not self._due and not self._late:
            self._timer.cancel()
            self._timer = None
        return fired > 0

    def _fire(self) -> None:
        self._timer = None
        now = self._clock.monotonic()
        for due in (self._late, self._due):
            for task in _until(due, now):
                del due[task]
                self._cancel(task, now)
        self._set_timer()

    def _cancel(self, task: asyncio.Task[object], now: float) -> None:
        self._late[task] = now + self._grace
        self._fired[task] = self._fired.get(task, 0) + 1
        task.cancel()

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        firsts = [next(iter(due.values())) for due in (self._due, self._late) if due]
        if firsts:
            self._timer = self._clock.call_later(max(0.0, min(firsts) - self._clock.monotonic()), self._fire)


def _until(due: dict[asyncio.Task[object], float], now: float) -> list[asyncio.Task[object]]:
    """Return those that are due, of a dictionary in the order of its instants."""
    found: list[asyncio.Task[object]] = []
    for task, instant in due.items():
        if instant > now:
            break
        found.append(task)
    return found
