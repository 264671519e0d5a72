"""What all users of limits in one engine share: the book they ask, the names that were declared, and the lines."""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any, cast

from flowstone_async.clock import Clock
from flowstone_async.limits import refusals
from flowstone_async.limits.book import LimitBook, PermitAsk, Permits, SlotAnswer, SlotAsk
from flowstone_async.limits.history import SHARE
from flowstone_async.limits.local import LocalBook
from flowstone_async.limits.permit_line import PermitLine
from flowstone_async.limits.rate import Pace, Rate
from flowstone_async.limits.slot_line import Slot, SlotLine
from flowstone_async.limits.stock import Stock, Trip

_LONGEST_KEY = 500
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")
_LONGEST_SPAN = 0.1
_UNKNOWN_SPAN = 0.005
# Off the time for which a permit is good: clocks may run at different speeds.
_SAFE = 0.999


class Desk:
    """Where limits are asked for.

    Args:
        book: Remembers grants and holders.
        clock: Where durations and timers come from.
        now: Tells the store's instant.
        declared: Limits by name.
    """

    def __init__(
        self,
        book: LimitBook,
        clock: Clock,
        *,
        now: Callable[[], datetime],
        declared: Mapping[str, Rate | int] | None = None,
    ) -> None:
        self.book, self.clock, self.now = book, clock, now
        self.declared: Mapping[str, Rate | int] = dict(declared or {})
        self.slots: set[Slot] = set()
        self._permit_lines: dict[tuple[int, str, Pace | None], PermitLine] = {}
        self._slot_lines: dict[tuple[int, str, int | None], SlotLine] = {}
        self._local = book if isinstance(book, LocalBook) else None
        self._trip = Trip()
        self._closed = False

    # -- what is meant ------------------------------------------------------------------------------------------

    def pace(self, key: str, rate: object) -> Pace | None:
        """Return the pace that a call means; None if nobody here knows, but perhaps the book.

        Raises:
            ConfigError: It differs from what is declared, or is no rate.
        """
        declared = self.declared.get(check_key(key))
        if isinstance(declared, int):
            raise refusals.other_kind(key, declared)
        if rate is None:
            return None if declared is None else declared.pace
        if not isinstance(rate, Rate):
            raise refusals.bad_limit(rate, what="rate")
        if rate.key is not None:
            raise refusals.keyed(key)
        if declared is not None and declared != rate:
            raise refusals.differs(key, rate, declared)
        return rate.pace

    def count(self, key: str, n: object) -> int | None:
        """Return the number of slots that a call means; else as `pace`."""
        declared = self.declared.get(check_key(key))
        if isinstance(declared, Rate):
            raise refusals.other_kind(key, declared)
        if n is None:
            return declared
        if isinstance(n, bool) or not isinstance(n, int) or n < 1:
            raise refusals.bad_limit(n, what="n")
        if declared is not None and declared != n:
            raise refusals.differs(key, n, declared)
        return n

    # -- asking -------------------------------------------------------------------------------------------------

    def stock(self, key: str, pace: Pace | None) -> Stock:
        """Return an empty stock of permits, for whoever uses them one by one; see `fill`."""
        return Stock(key, pace, self.book, self.clock, self._trip)

    async def fill(self, wants: Sequence[tuple[Stock, int]]) -> Sequence[Permits]:
        """Ask for permits for some stocks, so many for each, and wait for none: all keys in one call.

        What is granted is in the stocks, to be drawn soon or given back. For the others the answers' `outlook.after(1)`
        tells when the next may come, and `book.changed` wakes earlier if something changes. A wish for one permit in
        a process is good for at once.

        Raises:
            ConfigError: A key is no rate, or nobody knows at which one; or the engine was left.
            StoreUnavailable: The store cannot be reached; nothing was granted.
        """
        self._require_open()
        asked = self.clock.monotonic()
        asks = [
            PermitAsk(stock.key, stock.pace, want, self._span(stock.pace, want), stock.line) for stock, want in wants
        ]
        answers = await self.book.take(asks)
        self._trip.took(self.clock.monotonic() - asked)
        for (stock, _), ask, permits in zip(wants, asks, answers, strict=True):
            stock.fill(permits, asked + _SAFE * ask.span if ask.span else math.inf)
        for (stock, _), permits in zip(wants, answers, strict=True):
            if permits.pace is None:
                raise self._no_rate(stock.key, permits.slots)
        return answers

    def _span(self, pace: Pace | None, want: int) -> float:
        """Return the seconds for which permits are to be good: as short as costs little, and longer than a trip."""
        if not self.book.remote and want <= 1:
            return 0.0
        trip = self._trip.bound if self.book.remote else 0.0
        if pace is None:
            return max(trip, _UNKNOWN_SPAN)
        short = pace.per * SHARE
        if pace.burst < pace.n:
            short = min(short, pace.burst * pace.per / pace.n / 2)
        return max(min(short, _LONGEST_SPAN), trip)

    def _no_rate(self, key: str, slots: int | None) -> Exception:
        return refusals.unknown(key, "rate", list(self.declared)) if slots is None else refusals.other_kind(key, slots)

    async def hold(self, asks: Sequence[SlotAsk]) -> Sequence[SlotAnswer]:
        """Ask for slots; see `LimitBook.hold`.

        Raises:
            ConfigError: A key has no slots, or nobody knows how many; or the engine was left.
        """
        self._require_open()
        answers = await self.book.hold(asks)
        for ask, answer in zip(asks, answers, strict=True):
            if answer.n is None and answer.pace is not None:
                raise refusals.other_kind(ask.key, answer.pace)
            if answer.n is None:
                raise refusals.unknown(ask.key, "slots", list(self.declared))
        return answers

    def granted(self, key: str, pace: Pace | None) -> bool:
        """Grant a permit that is used at once, if the book is in this process and nobody waits for it; else ask."""
        if self._local is None or (self._permit_lines and self.waiting(key, pace) is not None):
            return False
        self._require_open()
        return self._local.grant(key, pace)

    # -- lines --------------------------------------------------------------------------------------------------

    def permit_line(self, key: str, pace: Pace | None) -> PermitLine:
        """Return the line of this event loop for permits of a key at a pace."""
        name = (id(asyncio.get_running_loop()), key, pace)
        line = self._permit_lines.get(name)
        if line is None:
            stock = self.stock(key, pace)
            options = self._options(partial(self._permit_lines.pop, name, None))
            line = self._permit_lines[name] = PermitLine(stock, self.fill, **options)
        return line

    def waiting(self, key: str, pace: Pace | None) -> PermitLine | None:
        """Return the line for permits of a key at a pace, if there is one."""
        return self._permit_lines.get((id(asyncio.get_running_loop()), key, pace)) if self._permit_lines else None

    def slot_line(self, key: str, n: int | None) -> SlotLine:
        """Return the line of this event loop for one of n slots of a key."""
        name = (id(asyncio.get_running_loop()), key, n)
        line = self._slot_lines.get(name)
        if line is None:
            options = self._options(partial(self._slot_lines.pop, name, None))
            line = self._slot_lines[name] = SlotLine(key, n, self.hold, **options)
        return line

    def stand_for_slot(self, key: str, n: int | None) -> bool:
        """Tell whether somebody waits for one of n slots of a key."""
        line = self._slot_lines.get((id(asyncio.get_running_loop()), key, n)) if self._slot_lines else None
        return line is not None and line.waits

    def _options(self, dissolve: Callable[[], object]) -> dict[str, Any]:
        return {"book": self.book, "clock": self.clock, "now": self.now, "dissolve": dissolve}

    # -- the end ------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Refuse whoever asks from now on."""
        self._closed = True

    def lose(self) -> None:
        """Let the slots go that were lost with the engine's lease."""
        for slot in list(self.slots):
            slot.lose()

    def _require_open(self) -> None:
        if self._closed:
            raise refusals.left()


def check_key(key: object) -> str:
    """Return a key.

    Raises:
        ConfigError: It is none.
    """
    if not isinstance(key, str) or not 1 <= len(key) <= _LONGEST_KEY or _UNSTORABLE.search(key):
        raise refusals.bad_key(key)
    return key


def check_limits(given: object) -> Mapping[str, Rate | int]:
    """Return the limits that an engine declares.

    Raises:
        ConfigError: They are no mapping from names to rates and numbers of slots.
    """
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise refusals.bad_limit(given, what="limits")
    named = cast("Mapping[object, object]", given)
    return {check_key(key): check_limit(value, what=f"limits[{key!r}]") for key, value in named.items()}


def check_limit(value: object, *, what: str) -> Rate | int:
    """Return a rate or a number of slots.

    Raises:
        ConfigError: It is neither.
    """
    if isinstance(value, Rate) and value.key is None:
        return value
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return value
    raise refusals.bad_limit(value, what=what)
