"""What a body does while it waits: it leaves its place, its timeout stands still, and it may be evicted.

Eviction is no outcome. The body gets the event loop's cancellation once, so that its `finally` blocks can await; if it
is still there after the grace, again and again. Durable calls that it makes meanwhile do nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Any

from typing_extensions import override

from flowstone_async._engine.waits.parked import Lodger, Parked, Waits
from flowstone_async._engine.waits.places import Pauses
from flowstone_async._engine.waits.quiet import is_quiet
from flowstone_async._engine.waits.seats import Seats
from flowstone_async.clock import Clock, Timer
from flowstone_async.store.gates import Outcome, StoredGate

_AGAIN = 0.05
_logger = logging.getLogger("flowstone")


class Evicted(asyncio.CancelledError):
    """What durable calls raise in a body that is being evicted."""


class BodyWaits(Lodger):
    """The waits of one call of a body.

    Args:
        waits: Those of the run.
        seats: Where it has its place.
        clock: Times its teardown.
        task: Which calls the body.
        grace: Seconds that it has to end once it is evicted.
        patience: Seconds that it waits in memory; None for ever.
        name: Of the body, for people.
        deadline: Of the attempt.
        beside: Returns tasks that it has going elsewhere.

    Attributes:
        evicted: What it waited for when it was evicted; None as long as it was not.
    """

    def __init__(
        self,
        waits: Waits,
        seats: Seats,
        clock: Clock,
        *,
        task: asyncio.Task[object] | None,
        grace: float,
        patience: float | None,
        name: str,
        deadline: Pauses | None,
        beside: Callable[[], Iterable[asyncio.Future[Any]]] = tuple,
    ) -> None:
        self.waits, self.seats, self._clock = waits, seats, clock
        self._grace, self.patience, self._name, self._deadline = grace, patience, name, deadline
        self._task = task
        self.parked: dict[str, Parked] = {}
        self.since: float | None = None
        self.evicted: tuple[Parked, ...] | None = None
        self._beside = beside
        self._returning: asyncio.Event | None = None
        self._timer: Timer | None = None
        self._fired = 0
        self._over = False

    async def park(self, stored: StoredGate) -> Outcome:
        """Wait until a gate has ended, and come back to a place.

        Raises:
            Evicted: The body has ended without whoever waits here.
        """
        if self._over:
            raise Evicted
        try:
            outcome = await self.waits.park(stored, self)
        except BaseException:
            self._leave_waiting()
            raise
        await self._return()
        return outcome

    async def _return(self) -> None:
        """Take a place again, once for all tasks of the body that go on."""
        if self._returning is not None:
            await self._returning.wait()
            return
        if self.since is None:
            return
        self.since = None
        returning = self._returning = asyncio.Event()
        try:
            await self.seats.take()
        finally:
            returning.set()
            self._returning = None
            if self._deadline is not None:
                self._deadline.resume()

    def _leave_waiting(self) -> None:
        """Something ends a wait from outside: the body goes on, to end."""
        if self.since is not None:
            self.since = None
            self.seats.back()
            if self._deadline is not None:
                self._deadline.resume()

    @override
    def rest(self) -> bool:
        if self.since is not None:
            return True
        if self._task is None or self._returning is not None or not self.parked:
            return False
        waits = {each.future for each in self.parked.values() if not each.timed}
        tasks = (self._task, *self._beside())
        if not all(each.done() or is_quiet(each, lambda future: future in waits) for each in tasks):
            return False
        self.since = self._clock.monotonic()
        if self._deadline is not None:
            self._deadline.pause()
        self.seats.leave()
        return True

    @override
    def evict(self) -> None:
        if self.evicted is None and self._task is not None:
            self.evicted = tuple(self.parked.values())
            self._fire()

    @override
    def abandon(self) -> None:
        if self.evicted is None:
            self.evicted = tuple(self.parked.values())

    def _fire(self) -> None:
        if self._task is None or self._task.done():
            return
        if self._fired == 1:
            stack = self._task.get_stack(limit=1)
            where = f"{stack[0].f_code.co_filename}:{stack[0].f_lineno}" if stack else "an unknown place"
            text = "%s is evicted and has not ended after %g s, at %s: it is cancelled at every await from now on"
            _logger.warning(text, self._name, self._grace, where)
        self._fired += 1
        self._task.cancel()
        self._timer = self._clock.call_later(self._grace if self._fired == 1 else _AGAIN, self._fire)

    def end(self) -> None:
        """The body has ended: take cancellations back that were ours, and end waits that it has left behind."""
        task, self._task, self._over = self._task, None, True
        for each in self.parked.values():
            each.future.cancel()
        if self._timer is not None:
            self._timer.cancel()
        if task is not None:
            for _ in range(self._fired):
                task.uncancel()
