"""Permits that were granted and wait to be used, and how long that may take."""

from __future__ import annotations

import math
from typing import Literal

from flowstone_async.clock import Clock
from flowstone_async.limits.book import LimitBook, Permits, Waiting
from flowstone_async.limits.rate import Pace

_USUAL = 1.25
_SMOOTH = 0.1
_MOST = 64.0
_CALM = 0.8


class Trip:
    """How long it takes to ask, and how long a permit must be good to arrive in time."""

    __slots__ = ("_caution", "_usual")

    def __init__(self) -> None:
        self._usual = 0.0
        self._caution = 1.0

    @property
    def bound(self) -> float:
        """Seconds for which a permit should be good at least."""
        return _USUAL * self._usual * self._caution

    def took(self, seconds: float) -> None:
        """Take note of one."""
        self._usual += _SMOOTH * (seconds - self._usual)

    def was_late(self) -> None:
        """A permit came too late: be more careful. It was given back, so that this costs no more than another trip."""
        self._caution = min(_MOST, 2 * self._caution)

    def was_in_time(self) -> None:
        """A permit came in time: the shorter it is good, the less it counts too long."""
        self._caution = max(1.0, _CALM * self._caution)


class Stock:
    """Permits that were granted together and are used one by one, as long as they are good.

    Args:
        key: Of the limit.
        pace: At which they are asked for; None for what was set.
        book: Takes back what is not used.
        clock: Where durations come from.
        trip: Hears whether permits came too late.

    Attributes:
        count: How many there are.
        line: Who waits for them, to be shown; None if nobody does.
    """

    __slots__ = ("_at", "_book", "_clock", "_fresh", "_trip", "_until", "count", "key", "line", "pace")

    def __init__(self, key: str, pace: Pace | None, book: LimitBook, clock: Clock, trip: Trip) -> None:
        self.key, self.pace = key, pace
        self._book, self._clock, self._trip = book, clock, trip
        self.count, self._until, self._fresh = 0, math.inf, False
        self._at: object = None
        self.line: Waiting | None = None

    @property
    def until(self) -> float:
        """When they are too old, in seconds on the clock; infinite if they are good for ever."""
        return self._until

    def fill(self, permits: Permits, until: float) -> None:
        """Keep permits that are good until an instant; what was left of others is given back."""
        self.give_back()
        self._at, self.count, self._until, self._fresh = permits.at, permits.granted, until, True

    def draw(self) -> Literal["drawn", "empty", "late"]:
        """Use one. Those that are too old are given back: they may be had again at once."""
        if not self.count:
            return "empty"
        if self._clock.monotonic() > self._until:
            if self._fresh:
                self._trip.was_late()
            self.give_back()
            return "late"
        if self._fresh:
            self._fresh = False
            self._trip.was_in_time()
        self.count -= 1
        return "drawn"

    def give_back(self) -> None:
        """Give back what is left."""
        if self.count:
            self._book.give_back(self.key, self._at, self.count)
            self.count = 0
