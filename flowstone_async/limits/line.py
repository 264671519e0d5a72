"""Those who wait for one thing in one event loop, in order of asking. Whoever is first asks, for all of them."""

from __future__ import annotations

import asyncio
import math
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import TypeVar

from typing_extensions import override

from flowstone_async.clock import Clock
from flowstone_async.errors import TimedOut
from flowstone_async.limits.book import LimitBook, LimitHolder, Waiting
from flowstone_async.limits.local import LISTED


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who uses limits.

    Attributes:
        run_id: The run whose body it is; empty outside of one.
        asset: Its asset.
        tell: Takes a type of event and its facts; None where nobody listens.
        pausing: Marks the current task as waiting for nothing but time.
    """

    run_id: str = ""
    asset: str = ""
    tell: Callable[..., None] | None = None
    pausing: Callable[[], AbstractContextManager[None]] = nullcontext


P = TypeVar("P", bound="Place")


class Place:
    """Somebody's place in a line.

    Attributes:
        begun: When it was taken; `until`: when it is given up. Seconds on the clock of durations.
        expected: When its wish can be granted at the earliest, as far as that was thought about.
        since: Since when somebody stands there, to be shown; None if it was first, and has not been refused.
        stood: Whether it had to wait at all.
        gone: Whether it was left.
        turn: Resolved when it is first, or served; fails when it is certain that it will not be in time.
    """

    __slots__ = ("begun", "caller", "expected", "gone", "since", "stood", "turn", "until")

    def __init__(self, caller: Caller, begun: float, max_wait: float) -> None:
        self.caller = caller
        self.begun, self.until = begun, begun + max_wait
        self.expected = -math.inf
        self.since: datetime | None = None
        self.stood = self.gone = False
        self.turn: asyncio.Future[None] | None = None

    @property
    def max_wait(self) -> float:
        """Seconds that somebody stands there at most."""
        return self.until - self.begun

    def call(self) -> None:
        """Let it go on."""
        if self.turn is not None and not self.turn.done():
            self.turn.set_result(None)

    def refuse(self, error: TimedOut) -> None:
        """Let it fail."""
        if self.turn is not None and not self.turn.done():
            self.turn.set_exception(error)


class Line(Waiting, ABC):
    """Those who wait for one thing.

    Args:
        key: What they wait at.
        book: Whom they ask.
        clock: Where durations and timers come from.
        now: Tells the store's instant.
        dissolve: Called when the last has left.
    """

    def __init__(
        self,
        key: str,
        book: LimitBook,
        clock: Clock,
        *,
        now: Callable[[], datetime],
        dissolve: Callable[[], None],
    ) -> None:
        self.key = key
        self._book, self._clock, self._now, self._dissolve = book, clock, now, dissolve
        self._places: OrderedDict[Place, None] = OrderedDict()
        self._entered = False

    @property
    def waits(self) -> bool:
        """Whether somebody was refused and stands here."""
        return self._entered

    def __len__(self) -> int:
        """Return how many stand here."""
        return len(self._places)

    @override
    def shown(self) -> tuple[int, Sequence[LimitHolder]]:
        places = tuple(self._places)
        first = (each for each in places if each.since is not None)
        return len(places), [
            LimitHolder(run_id=each.caller.run_id or None, asset=each.caller.asset or None, since=each.since)
            for each in islice(first, LISTED)
            if each.since is not None
        ]

    @override
    def waited(self) -> float:
        first = next(iter(self._places), None)
        return 0.0 if first is None else max(0.0, self._clock.monotonic() - first.begun)

    def _join(self, place: P) -> P:
        if self._book.remote:
            place.since = self._now()  # to be shown at once where it is refused
        self._places[place] = None
        return place

    def _is_first(self, place: Place) -> bool:
        return next(iter(self._places)) is place

    async def _turn(self, place: Place) -> None:
        """Wait until a place is first, or served."""
        self._stand(place)
        place.turn = asyncio.get_running_loop().create_future()
        left = place.until - self._clock.monotonic()
        timer = self._clock.call_later(left, lambda: place.refuse(self._late(place))) if left < math.inf else None
        try:
            with place.caller.pausing():
                await place.turn
        finally:
            if timer is not None:
                timer.cancel()

    async def _wait(self, place: Place, within: float) -> None:
        """Wait, as the first, until something may have changed."""
        self._stand(place)
        with place.caller.pausing():
            await self._book.changed(self.key, within=within)

    def _stand(self, place: Place) -> None:
        place.stood = True
        if place.since is None:
            place.since = self._now()
        if not self._entered:
            self._entered = True
            self._book.enter(self)

    def _leave(self, place: Place) -> None:
        first = self._is_first(place)
        place.gone = True
        del self._places[place]
        if not self._places:
            self._dissolve()
            if self._entered:
                self._entered = False
                self._book.withdraw(self)
        elif first:
            next(iter(self._places)).call()

    @abstractmethod
    def _late(self, place: Place) -> TimedOut:
        """Return what a place fails with whose time is up."""
