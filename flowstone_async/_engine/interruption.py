"""Stopping a run: which tasks are in user code, and how they are cancelled."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, Literal, TypeAlias

from anyio.abc import TaskGroup

from flowstone_async._engine import stopped
from flowstone_async._engine.services import Services
from flowstone_async._engine.waits.run_waits import RunWaits
from flowstone_async._engine.waits.seats import Seats
from flowstone_async.errors import FlowstoneError
from flowstone_async.planning.units import Units

Stop: TypeAlias = Literal["cancelled", "timed_out", "lease_lost", "shutdown", "broken", "suspended"]
Still: TypeAlias = Callable[[], bool]
RunningState: TypeAlias = Literal["running", "waiting", "succeeded", "failed", "cancelled"]
_logger = logging.getLogger("flowstone")


class Interruption:
    """The stopping of one run.

    Attributes:
        state: How the run ended, as far as this process knows.
        error: Why it failed, or why this process does not drive it any more.
        stopping: Why nothing new starts.
        interrupted: Whether bodies were cancelled; what they still return is no outcome.
        workers: How many tasks work on it.
        still: Tells of a body of many parts, by its place, whether all of them wait.
    """

    id: str
    services: Services
    units: Units
    state: RunningState
    error: FlowstoneError | None
    stopping: Stop | None
    interrupted: bool
    begun: float
    bodies: dict[int, asyncio.Task[Any]]
    waiting: set[asyncio.Task[Any]]
    still: dict[int, Still]
    group: TaskGroup | None
    workers: int
    waits: RunWaits
    seats: Seats

    @property
    def only_waits(self) -> bool:
        """Whether it does nothing but wait for time to pass or for another run."""
        away = self.seats.away
        pausing = sum(task in self.waiting or self._is_still(place) for place, task in self.bodies.items())
        waits = bool(self.waiting or pausing or self.waits.awaited)
        return waits and self.workers - away == pausing == len(self.bodies) - away

    def _is_still(self, place: int) -> bool:
        return place in self.still and self.still[place]()

    def stop(self, reason: Stop) -> None:
        """Start nothing more, and cancel the bodies (not for a shutdown, which gives them time first)."""
        if self.state != "running" or self.stopping == reason:
            return
        self.stopping = reason
        if reason != "shutdown":
            self.interrupt()
            self.waits.leave_evicted()
        else:
            self.waits.drop()
        for task in self.waiting.difference(self.bodies.values()):
            task.cancel()

    def interrupt(self) -> None:
        """Cancel the bodies: once, so that `finally` blocks can await; after the grace, at every await.

        Where that is no outcome, as the run goes on elsewhere, what they clean up leaves no trace there.
        """
        self.interrupted = True
        self.waits.over = self.stopping not in ("cancelled", "timed_out")
        for task in self.bodies.values():
            task.cancel()
        self.services.clock.call_later(self.services.settings.cancel_grace, self._force)

    def _force(self) -> None:
        if self.bodies and self.group is not None:
            names = ", ".join(repr(self.units.all[index].node.name) for index in self.bodies)
            _logger.error("run %s: %s did not end within its grace and is cut off", self.id, names)
            self.group.cancel_scope.cancel()

    def enter(self, place: int) -> None:
        """Mark the current task as running user code, so that stopping the run cancels it."""
        task = asyncio.current_task()
        if task is not None:
            self.bodies[place] = task

    def leave(self, place: int, error: BaseException | None) -> None:
        """Take the mark back; a cancellation that came from stopping the run is taken back too."""
        task = self.bodies.pop(place, None)
        if self.interrupted and task is not None and isinstance(error, asyncio.CancelledError) and task.cancelling():
            task.uncancel()

    @contextmanager
    def interruptible_wait(self) -> Generator[None]:
        """Mark the current task as waiting for time or another run, so that stopping the run ends it at once."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - there is always one here
        self.waiting.add(task)
        try:
            yield
        except asyncio.CancelledError:
            if self.stopping is None or not task.cancelling():
                raise
            task.uncancel()
        except FlowstoneError as error:
            self.break_off(error)
        finally:
            self.waiting.discard(task)

    @contextmanager
    def pausing(self) -> Generator[None]:
        """Mark the current task, which runs user code or stores its value, as waiting for nothing but time."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - there is always one here
        self.waiting.add(task)
        try:
            yield
        finally:
            self.waiting.discard(task)

    def lose(self) -> None:
        """The store refused a step: somebody cancelled the run, or owns it now."""
        if self.stopping is None:
            self.error = stopped.lease_lost(self.id, self.services.store.unreachable)
            self.stop("lease_lost")

    def break_off(self, error: FlowstoneError) -> None:
        """Give the run up here because of an error that is no outcome of an asset; the first one is told."""
        if self.error is not None and error is not self.error:
            _logger.error("run %s: %s", self.id, error, exc_info=error)
        self.error = self.error or stopped.broken_off(self.id, error)
        self.stop("broken")
