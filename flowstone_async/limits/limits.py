"""What users call: rates and slots by key."""

from __future__ import annotations

import inspect
import math
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from types import TracebackType
from typing import Any, Literal, TypeVar, overload

from typing_extensions import override

from flowstone_async.clock import Clock, SystemClock
from flowstone_async.config import Duration, seconds
from flowstone_async.errors import RateLimited
from flowstone_async.limits import refusals
from flowstone_async.limits.book import HeldSlot, LimitChange, LimitState, SlotAsk
from flowstone_async.limits.desk import Desk, check_key, check_limit
from flowstone_async.limits.line import Caller
from flowstone_async.limits.local import LocalBook
from flowstone_async.limits.rate import Pace, Rate
from flowstone_async.limits.slot_line import Slot
from flowstone_async.limits.status import LimitStatus, status_of
from flowstone_async.rate_events import RateChecked, RateSlotAcquired, RateSlotReleased, RateWaited
from flowstone_async.types import new_id

T = TypeVar("T")
RATE_WAIT = 60.0
SLOT_WAIT = 30.0
_LEAST = 1e-6


class Limits:
    """Limits by key: rates, and slots that so many may hold at once.

    `engine.limits` and `ctx.limits` hold over all workers and processes on the engine's store, by its clock; in memory
    over all runs of that store. `Limits()` is by itself and holds wherever that object is used.

    Keys are independent. Each call is judged by its own rate, or number of slots, against what was granted for its
    key, by whomever. A name that the engine declares, or that was set, needs none.

    Example:
        >>> limits = Limits()
        >>> page = await limits.with_limit("example.org", Rate(10, per="1s"), fetch)
    """

    def __init__(self, *, clock: Clock | None = None) -> None:
        clock = clock or SystemClock()
        self._attach(Desk(LocalBook(clock), clock, now=clock.now), Caller())

    def _attach(self, desk: Desk, caller: Caller) -> None:
        self._desk, self._caller = desk, caller

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        """Stay at home: a body in another process gets none."""
        return type(None), ()

    # -- rates --------------------------------------------------------------------------------------------------

    async def check(self, key: str, rate: Rate | None = None) -> float:
        """Take a permit and return 0.0; or take none, and return the seconds after which there is one.

        After waiting that long it succeeds, if nobody else asked. Those who wait in line come first.

        Args:
            key: What is limited; any text.
            rate: How often; may be left out for a name that is declared or set.

        Raises:
            ConfigError: The rate differs from what is declared for the name, or nobody knows the name.
            StoreUnavailable: The store cannot be reached; no permit was taken.
        """
        wait = await self._check(key, self._desk.pace(key, rate))
        if self._caller.tell is not None:
            self._caller.tell(RateChecked, key=key, granted=not wait, wait=wait)
        return wait

    async def _check(self, key: str, pace: Pace | None) -> float:
        desk = self._desk
        if desk.granted(key, pace):
            return 0.0
        line = desk.waiting(key, pace)
        if line is not None and (behind := line.behind()):
            return behind
        stock = desk.stock(key, pace)
        while True:
            [permits] = await desk.fill([(stock, 1)])
            if permits.outlook is not None and not permits.granted:
                return max(permits.outlook.after(1), _LEAST)
            if stock.draw() == "drawn":
                return 0.0

    def limit(
        self, key: str, rate: Rate | None = None, *, max_wait: Duration | Literal[False] | None = None
    ) -> AbstractAsyncContextManager[None]:
        """Wait for a permit: `async with limits.limit("openai", Rate(60, per="1m")): ...`.

        Args:
            key: What is limited.
            rate: How often; may be left out for a name that is declared or set.
            max_wait: The longest wait, 60 s without it; False is no limit.

        Raises:
            RateLimited: No permit can come in time; raised as soon as that is certain.
            ConfigError: As `check`, or `max_wait` is no duration.
            StoreUnavailable: The store cannot be reached.
        """
        return _Permit(self._desk, self._caller, key, self._desk.pace(key, rate), _longest(max_wait, RATE_WAIT))

    @overload
    async def with_limit(
        self,
        key: str,
        rate: Rate | None,
        fn: Callable[[], Awaitable[T]],
        *,
        max_wait: Duration | Literal[False] | None = None,
    ) -> T: ...
    @overload
    async def with_limit(
        self, key: str, rate: Rate | None, fn: Callable[[], T], *, max_wait: Duration | Literal[False] | None = None
    ) -> T: ...
    async def with_limit(
        self, key: str, rate: Rate | None, fn: Callable[[], Any], *, max_wait: Duration | Literal[False] | None = None
    ) -> Any:
        """Call a function when a permit is granted, and return what it returns; options and errors as for `limit`.

        Args:
            key: What is limited.
            rate: How often; None for a name that is declared or set.
            fn: Takes nothing; sync or async. It is not called without a permit.
            max_wait: The longest wait for it.
        """
        async with self.limit(key, rate, max_wait=max_wait):
            return await _called(fn)

    # -- slots --------------------------------------------------------------------------------------------------

    async def acquire(self, key: str, n: int | None = None) -> Slot | None:
        """Take a slot if one is free, else return None; nothing is waited for.

        Args:
            key: What is limited.
            n: How many slots there are; may be left out for a name that is declared or set.

        Raises:
            ConfigError: As `slots`.
            StoreUnavailable: The store cannot be reached; no slot was taken.
        """
        desk, caller = self._desk, self._caller
        count = desk.count(key, n)
        if desk.stand_for_slot(key, count):
            return None
        ask = SlotAsk(key, count, new_id(), caller.run_id, caller.asset)
        [answer] = await desk.hold([ask])
        return None if answer.since is None else self._slot(ask.holder, key, answer.since, 0.0)

    def slots(
        self, key: str, n: int | None = None, *, max_wait: Duration | Literal[False] | None = None
    ) -> AbstractAsyncContextManager[Slot]:
        """Hold one of n slots: `async with limits.slots("gpu", 4): ...`.

        The slot is freed at the end, also after an exception or a cancellation. It is held however long that takes,
        as long as the engine keeps its lease; without it the slot is lost, and what runs in it is cancelled.

        Args:
            key: What is limited.
            n: How many may hold one at once; may be left out for a name that is declared or set.
            max_wait: The longest wait, 30 s without it; False is no limit.

        Raises:
            SlotTimeout: None came free in time.
            LeaseLost: The slot was lost meanwhile.
            ConfigError: n differs from what is declared for the name, nobody knows the name, `max_wait` is no
                duration, or the engine has no lease.
            StoreUnavailable: The store cannot be reached.
        """
        return _Held(self, key, self._desk.count(key, n), _longest(max_wait, SLOT_WAIT))

    @overload
    async def with_slot(
        self,
        key: str,
        n: int | None,
        fn: Callable[[], Awaitable[T]],
        *,
        max_wait: Duration | Literal[False] | None = None,
    ) -> T: ...
    @overload
    async def with_slot(
        self, key: str, n: int | None, fn: Callable[[], T], *, max_wait: Duration | Literal[False] | None = None
    ) -> T: ...
    async def with_slot(
        self, key: str, n: int | None, fn: Callable[[], Any], *, max_wait: Duration | Literal[False] | None = None
    ) -> Any:
        """Call a function while a slot is held, and return what it returns; options and errors as for `slots`.

        Args:
            key: What is limited.
            n: How many may hold one at once; None for a name that is declared or set.
            fn: Takes nothing; sync or async.
            max_wait: The longest wait for the slot.
        """
        async with self.slots(key, n, max_wait=max_wait):
            return await _called(fn)

    def _slot(self, holder: str, key: str, since: datetime, waited: float) -> Slot:
        desk, tell = self._desk, self._caller.tell
        begun = desk.clock.monotonic()

        async def free(slot: Slot) -> None:
            desk.slots.discard(slot)
            try:
                await desk.book.release([slot.held])
            finally:
                if tell is not None:
                    tell(RateSlotReleased, key=key, seconds=desk.clock.monotonic() - begun)

        slot = Slot(HeldSlot(key, holder), since, free)
        desk.slots.add(slot)
        if tell is not None:
            tell(RateSlotAcquired, key=key, seconds=waited)
        return slot

    async def _hold(self, key: str, count: int | None, max_wait: float) -> Slot:
        desk = self._desk
        place = await desk.slot_line(key, count).take(self._caller, max_wait)
        waited = desk.clock.monotonic() - place.begun if place.stood else 0.0
        return self._slot(place.holder, key, place.held or desk.now(), waited)

    # -- looking and changing -----------------------------------------------------------------------------------

    async def status(self, key: str) -> LimitStatus:
        """Return what a limit looks like now: what counts, what is left, who holds and who waits.

        Args:
            key: The key or name.

        Raises:
            StoreUnavailable: The store cannot be reached.
        """
        declared = self._desk.declared.get(check_key(key))
        pace = declared.pace if isinstance(declared, Rate) else None
        found = await self._desk.book.states([key], pace=pace)
        return status_of(found[0] if found else LimitState(key=key, pace=pace), declared)

    async def set(self, name: str, limit: Rate | int | None) -> None:
        """Set a limit: it holds at once, everywhere, over what code declares or says, until it is set anew.

        Args:
            name: The name or key.
            limit: A rate, or a number of slots; None takes back what was set.

        Raises:
            ConfigError: It is neither.
            StoreUnavailable: The store cannot be reached.
        """
        setting = None if limit is None else check_limit(limit, what="limit")
        shown = str(setting.pace) if isinstance(setting, Rate) else setting
        pace = setting.pace if isinstance(setting, Rate) else setting
        await self._change(LimitChange(action="set", key=check_key(name), setting=pace, details={"limit": shown}))

    async def reset(self, key: str) -> None:
        """Empty a limit: forget its grants, its holders and its `back_off`. Those who hold slots go on.

        Args:
            key: The key or name; what was set stays.

        Raises:
            StoreUnavailable: The store cannot be reached.
        """
        await self._change(LimitChange(action="reset", key=check_key(key)))

    async def back_off(self, key: str, wait: Duration) -> None:
        """Grant nothing for a while, to anybody: what a service asks for with `Retry-After`.

        Args:
            key: The key or name.
            wait: How long; a longer one that is in force already stays.

        Raises:
            ConfigError: `wait` is no duration.
            StoreUnavailable: The store cannot be reached.
        """
        length = seconds(wait, what="wait")
        change = LimitChange(action="back_off", key=check_key(key), seconds=length, details={"seconds": length})
        await self._change(change)

    async def _change(self, change: LimitChange) -> None:
        await self._desk.book.change(change)


def limits_of(desk: Desk, caller: Caller) -> Limits:
    """Return the limits of an engine, for somebody who uses them."""
    made = Limits.__new__(Limits)
    made._attach(desk, caller)  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - of this module
    return made


class _Permit(AbstractAsyncContextManager[None]):
    """Takes a permit on entering."""

    def __init__(self, desk: Desk, caller: Caller, key: str, pace: Pace | None, max_wait: float) -> None:
        self._desk, self._caller, self._key, self._pace, self._max_wait = desk, caller, key, pace, max_wait

    @override
    async def __aenter__(self) -> None:
        desk, tell = self._desk, self._caller.tell
        if desk.granted(self._key, self._pace):
            if tell is not None:
                tell(RateChecked, key=self._key)
            return
        begun = desk.clock.monotonic()
        try:
            place = await desk.permit_line(self._key, self._pace).take(self._caller, self._max_wait)
        except RateLimited as error:
            if tell is not None:
                self._tell_refused(tell, error)
            raise
        if tell is not None and place.stood:
            tell(RateWaited, key=self._key, seconds=desk.clock.monotonic() - begun)
        elif tell is not None:
            tell(RateChecked, key=self._key)

    def _tell_refused(self, tell: Callable[..., None], error: RateLimited) -> None:
        if error.details["waited"]:
            tell(RateWaited, key=self._key, granted=False, seconds=error.details["waited"])
        else:
            tell(RateChecked, key=self._key, granted=False, wait=error.details["after"])

    @override
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None


class _Held(AbstractAsyncContextManager[Slot]):
    """Holds a slot."""

    def __init__(self, limits: Limits, key: str, count: int | None, max_wait: float) -> None:
        self._limits, self._key, self._count, self._max_wait = limits, key, count, max_wait
        self._slot: Slot | None = None

    @override
    async def __aenter__(self) -> Slot:
        limits = self._limits
        self._slot = slot = await limits._hold(self._key, self._count, self._max_wait)  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
        if not limits._caller.run_id:  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - runs are cut off as a whole
            slot.guard()
        return slot

    @override
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        slot = self._slot
        if slot is not None:
            await slot.release()
            if slot.explained(error):
                raise refusals.slot_lost(self._key) from error


async def _called(fn: Callable[[], Any]) -> Any:
    result = fn()
    return await result if inspect.isawaitable(result) else result


def _longest(max_wait: Duration | Literal[False] | None, default: float) -> float:
    if max_wait is None:
        return default
    return math.inf if max_wait is False else seconds(max_wait, what="max_wait")
