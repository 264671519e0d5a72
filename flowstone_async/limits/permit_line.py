"""Waiting for permits: those who stand in line for one key at one pace, and the permits that wait to be used."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from itertools import islice
from typing import Any

from typing_extensions import override

from flowstone_async.errors import RateLimited
from flowstone_async.limits import refusals
from flowstone_async.limits.book import Permits
from flowstone_async.limits.history import Outlook
from flowstone_async.limits.line import Caller, Line, Place
from flowstone_async.limits.stock import Stock

MOST = 500
"""Permits asked for at once: about as many as can be used before they are too old."""
# What was refused and would be granted at once: a matter of rounding.
_LEAST = 0.001


Fill = Callable[[Sequence[tuple[Stock, int]]], Awaitable[Sequence[Permits]]]
"""Asks for permits for some stocks, so many for each; what is no rate is a `ConfigError`."""


class PermitLine(Line):
    """Those who wait for permits; options as for `Line`.

    Args:
        stock: What is granted to them.
        fill: Asks.
    """

    def __init__(self, stock: Stock, fill: Fill, **options: Any) -> None:
        super().__init__(stock.key, **options)
        self._stock, self._fill = stock, fill
        stock.line = self
        self._pace = stock.pace
        self._outlook: Outlook | None = None
        self._as_of = 0.0

    async def take(self, caller: Caller, max_wait: float) -> Place:
        """Return once one permit was used, with the place at which it was waited for.

        Raises:
            RateLimited: None can come in time.
            ConfigError: The key is no rate.
        """
        place = self._join(Place(caller, self._clock.monotonic(), max_wait))
        try:
            if not self._is_first(place):
                self._refuse_hopeless(place, len(self) - 1)
                await self._turn(place)
            while (drawn := self._stock.draw()) != "drawn":
                if drawn == "late":
                    self._outlook = None
                if self._is_first(place):
                    await self._step(place)
                else:
                    await self._turn(place)
        finally:
            self._leave(place)
            if not len(self):
                self._stock.give_back()
        return place

    def behind(self) -> float:
        """Return the seconds until somebody who came now would be served; 0 if that is not known."""
        if self._outlook is None or not self.waits:
            return 0.0
        return max(0.0, self._expected(len(self)) - self._clock.monotonic())

    async def _step(self, place: Place) -> None:
        """Wait for the next permit, or ask for some."""
        now = self._clock.monotonic()
        due = 0.0 if self._outlook is None else self._expected(0) - now
        if due <= 0:
            await self._ask()
            return
        left = place.until - now
        if due > left:
            raise self._limited(place, due, 0)
        await self._wait(place, min(due, left))
        self._outlook = None

    async def _ask(self) -> None:
        want = min(len(self), MOST) if self._book.remote else 1
        [permits] = await self._fill([(self._stock, want)])
        for place in islice(self._places, 1, permits.granted):
            place.call()  # they draw in their order, all in one turn of the event loop
        self._pace, self._outlook, self._as_of = permits.pace, permits.outlook, self._clock.monotonic()
        if permits.outlook is not None:
            if not permits.granted and self._book.remote and permits.outlook.after(1) < _LEAST:
                self._as_of += _LEAST
            self._judge()

    def _expected(self, ahead: int) -> float:
        """Return when somebody can be served at the earliest, with so many before him, some of whom use the stock."""
        if self._outlook is None:
            return math.inf
        return self._as_of + self._outlook.after(max(1, ahead + 1 - self._stock.count))

    def _judge(self) -> None:
        """Refuse those who will not be in time, if it takes longer than was thought."""
        last = next(reversed(self._places))
        if self._expected(len(self) - 1) <= last.expected + _LEAST:
            return
        now = self._clock.monotonic()
        for ahead, place in enumerate(self._places):
            place.expected = self._expected(ahead)
            if place.expected > place.until:
                place.refuse(self._limited(place, place.expected - now, ahead))

    def _refuse_hopeless(self, place: Place, ahead: int) -> None:
        if self._outlook is not None:
            place.expected = self._expected(ahead)
            if place.expected > place.until:
                raise self._limited(place, place.expected - self._clock.monotonic(), ahead)

    @override
    def _late(self, place: Place) -> RateLimited:
        ahead = next((ahead for ahead, each in enumerate(self._places) if each is place), 0)
        after = 0.0 if self._outlook is None else max(0.0, self._expected(ahead) - self._clock.monotonic())
        return self._limited(place, after, ahead)

    def _limited(self, place: Place, after: float, ahead: int) -> RateLimited:
        waited = self._clock.monotonic() - place.begun if place.stood else 0.0
        return refusals.rate_limited(
            self.key, self._pace, max_wait=place.max_wait, waited=waited, after=after, ahead=ahead
        )
