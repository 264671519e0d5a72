"""Asking takes time: what is granted in blocks, used as they arrive, and given back if they come too late (RATE-01 to RATE-06)."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowstone_async import Limits, Rate, RateLimited, StoreUnavailable
from flowstone_async.clock import ManualClock, settle
from flowstone_async.limits.book import HeldSlot, LimitBook, LimitChange, PermitAsk, Permits, SlotAnswer, SlotAsk
from flowstone_async.limits.desk import Desk
from flowstone_async.limits.limits import limits_of
from flowstone_async.limits.line import Caller
from flowstone_async.limits.local import LocalBook
from tests.unit.limits.test_limits import Callers
from tests.unit.limits.windows import most_in_any_window


class FarBook(LimitBook):
    """A book that is asked over a network: the way there and the way back take time.

    Attributes:
        asked: How often.
        trip: Returns the seconds that one way takes.
        away: Whether nobody can be reached.
    """

    remote = True

    def __init__(self, book: LocalBook, clock: ManualClock, trip: Callable[[], float]) -> None:
        self.book, self.clock, self.trip = book, clock, trip
        self.asked, self.away = 0, False

    async def take(self, asks: Sequence[PermitAsk]) -> Sequence[Permits]:
        self.asked += 1
        if self.away:
            raise StoreUnavailable("away")
        await self.clock.sleep(self.trip())
        answers = await self.book.take(asks)
        try:
            await self.clock.sleep(self.trip())
        except asyncio.CancelledError:
            for ask, answer in zip(asks, answers, strict=True):
                self.book.give_back(ask.key, answer.at, answer.granted)
            raise
        return answers

    async def hold(self, asks: Sequence[SlotAsk]) -> Sequence[SlotAnswer]:
        self.asked += 1
        await self.clock.sleep(self.trip())
        answers = await self.book.hold(asks)
        try:
            await self.clock.sleep(self.trip())
        except asyncio.CancelledError:
            await self.book.release([HeldSlot(ask.key, ask.holder) for ask in asks])
            raise
        return answers

    def give_back(self, key: str, at: object, count: int) -> None:
        self.book.give_back(key, at, count)

    async def release(self, slots: Sequence[HeldSlot]) -> None:
        await self.book.release(slots)

    async def change(self, change: LimitChange) -> None:
        await self.book.change(change)

    async def states(self, keys: Any = None, **options: Any) -> Any:
        return await self.book.states(keys, **options)

    async def changed(self, key: str, *, within: float) -> None:
        await self.book.changed(key, within=min(within, 1.0))

    def enter(self, waiting: Any) -> None:
        self.book.enter(waiting)

    def withdraw(self, waiting: Any) -> None:
        self.book.withdraw(waiting)


def far_limits(clock: ManualClock, trip: Callable[[], float], book: LocalBook | None = None) -> tuple[Limits, FarBook]:
    """Return limits as one process has them, and the book that it asks."""
    far = FarBook(book or LocalBook(clock), clock, trip)
    return limits_of(Desk(far, clock, now=clock.now), Caller()), far


@given(st.integers(1, 40), st.booleans(), st.sampled_from([0.0005, 0.003, 0.02, 0.2]), st.integers(0, 2**32))
@settings(max_examples=25, deadline=None)
def test_no_window_sees_more_than_n_over_processes_whatever_the_network_does(
    n: int, smooth: bool, slow: float, seed: int
) -> None:
    """RATE-01, RATE-06: three processes, waiters that come and go, and trips of very different lengths."""

    async def run() -> None:
        chance, clock = random.Random(seed), ManualClock()
        book, rate = LocalBook(clock), Rate(n, burst=max(1, n // 4) if smooth else None)
        processes = [far_limits(clock, lambda: chance.expovariate(1 / slow), book)[0] for _ in range(3)]
        times: list[float] = []

        async def use(limits: Limits) -> None:
            await clock.sleep(chance.random())
            for _ in range(chance.randint(1, 4)):
                try:
                    await limits.with_limit("k", rate, lambda: times.append(clock.monotonic()), max_wait=3)
                except RateLimited:
                    return

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(use(chance.choice(processes))) for _ in range(2 * n)]
            await clock.advance(0.6)
            chance.choice(tasks).cancel()
            while not all(task.done() for task in tasks):
                await clock.advance(1.0)
        assert most_in_any_window(times, 1.0) <= n

    asyncio.run(run())


async def test_one_call_serves_all_who_wait_in_order() -> None:
    """RATE-03, RATE-06."""
    clock = ManualClock()
    limits, far = far_limits(clock, lambda: 0.001)
    async with Callers(clock) as callers:
        for number in range(200):
            await callers.start(f"{number:03}", lambda: limits.limit("k", Rate(100)))
        await clock.advance(0.05)
        assert [name for name, _ in callers.served] == [f"{number:03}" for number in range(100)]
        assert far.asked <= 3
        await clock.advance(2)
        assert [name for name, _ in callers.served] == [f"{number:03}" for number in range(200)]
        assert far.asked <= 8


async def test_who_is_served_from_what_was_granted_delays_nobody_behind() -> None:
    """RATE-03: only what is certain is refused, also while a block is being handed out."""
    clock = ManualClock()
    limits, _ = far_limits(clock, lambda: 0.001)
    async with Callers(clock) as callers:
        for number in range(15):
            await callers.start(f"{number:02}", lambda: limits.limit("k", Rate(10), max_wait=1.5))
        await clock.advance(3)
        assert not callers.refused
        assert len(callers.served) == 15


async def test_a_permit_that_comes_too_late_is_given_back_and_not_lost() -> None:
    """RATE-01: it is had at once; from then on more time is allowed for."""
    clock = ManualClock()
    trips = iter([0.001, 5.0])
    limits, far = far_limits(clock, lambda: next(trips, 0.001))
    taken = asyncio.create_task(limits.check("k", Rate(1, per="10s")))
    await clock.advance(6)
    assert await taken == 0.0
    assert far.asked == 2
    status = asyncio.create_task(limits.check("k", Rate(1, per="10s")))
    await clock.advance(1)
    assert 9 < await status < 11


@pytest.mark.parametrize("trip", [0.001, 0.004])
async def test_hardly_less_is_granted_than_the_limit(trip: float) -> None:
    """RATE-01: 2 % and the way there and back, which is no matter of the limit."""
    clock = ManualClock()
    book, times = LocalBook(clock), list[float]()
    processes = [far_limits(clock, lambda: trip, book)[0] for _ in range(2)]

    async def use(limits: Limits) -> None:
        while clock.monotonic() < 12:
            await limits.with_limit("k", Rate(50), lambda: times.append(clock.monotonic()))

    async with asyncio.TaskGroup() as group:
        for number in range(60):
            group.create_task(use(processes[number % 2]))
        await clock.advance(20)
    cycles = 12 / (1 + 1 / 64 + 3 * trip)
    assert len([each for each in times if each < 12]) >= 50 * int(cycles)
    assert most_in_any_window(times, 1.0) <= 50


async def test_a_book_that_is_away_fails_all_who_wait_and_grants_nothing() -> None:
    """RATE-06."""
    clock = ManualClock()
    limits, far = far_limits(clock, lambda: 0.001)
    async with Callers(clock) as callers:
        for name in "abc":
            await callers.start(name, lambda: limits.limit("k", Rate(1)))
        far.away = True
        await clock.advance(3)
        assert [name for name, _ in callers.served] == ["a"]
        assert {type(error) for _, error in callers.refused.values()} == {StoreUnavailable}


async def test_slots_are_asked_for_together_and_given_in_order() -> None:
    """RATE-04, RATE-06: what was given to somebody who has left meanwhile is freed."""
    clock = ManualClock()
    limits, _ = far_limits(clock, lambda: 0.001)
    async with Callers(clock) as callers:
        for name in "abcdef":
            await callers.start(name, lambda: limits.slots("gpu", 2), holds=1.0)
        await clock.advance(0.0015)
        callers.cancel("b")
        await settle()
        await clock.advance(10)
        assert [name for name, _ in callers.served] == ["a", "c", "d", "e", "f"]
        assert (await limits.status("gpu")).count == 0


async def test_a_slot_that_was_given_to_somebody_who_has_left_is_freed() -> None:
    """RATE-05: he was asked for together with others, and went while the answer was on its way."""
    clock = ManualClock()
    limits, _ = far_limits(clock, lambda: 0.001)
    async with Callers(clock) as callers:
        for name in "abcd":
            await callers.start(name, lambda: limits.slots("gpu", 3), holds=5.0)
        await clock.advance(0.0035)
        callers.cancel("c")
        await clock.advance(1)
        assert [name for name, _ in callers.served] == ["a", "b", "d"]
        assert (await limits.status("gpu")).count == 3
        await clock.advance(10)
        assert (await limits.status("gpu")).count == 0


async def test_a_permit_that_was_granted_to_somebody_who_has_left_is_given_back() -> None:
    """RATE-05: likewise, if nobody is left who could use it."""
    clock = ManualClock()
    limits, _ = far_limits(clock, lambda: 0.001)
    async with Callers(clock) as callers:
        for name in "abc":
            await callers.start(name, lambda: limits.limit("k", Rate(3, per="1h")))
        await clock.advance(0.0035)
        callers.cancel("c")
        await clock.advance(1)
        assert [name for name, _ in callers.served] == ["a", "b"]
        assert (await limits.status("k")).count == 2
