"""Limits without an engine, on a clock that stands still until it is advanced (RATE-02 to RATE-05, RATE-10)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Self

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowstone_async import ConfigError, FlowstoneError, Limits, Rate, RateLimited, SlotTimeout, TimedOut
from flowstone_async.clock import ManualClock, settle
from flowstone_async.limits.local import LocalBook
from tests.unit.definition.reading import untyped
from tests.unit.limits.windows import most_in_any_window

MINUTE = Rate(2, per="1m")


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def limits(clock: ManualClock) -> Limits:
    return Limits(clock=clock)


class Callers:
    """Tasks that wait at limits, and what came of each: when it was served, or the error, in that order."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.served: list[tuple[str, float]] = []
        self.refused: dict[str, tuple[float, FlowstoneError]] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    async def start(self, name: str, enter: Callable[[], Any], *, holds: float = 0.0) -> None:
        """Start one, and let it reach its wait."""
        self.tasks[name] = asyncio.create_task(self._call(name, enter, holds))
        await settle()

    def cancel(self, name: str) -> None:
        self.tasks[name].cancel()

    async def _call(self, name: str, enter: Callable[[], Any], holds: float) -> None:
        try:
            async with enter():
                self.served.append((name, self.clock.monotonic()))
                if holds:
                    await self.clock.sleep(holds)
        except FlowstoneError as error:
            self.refused[name] = (self.clock.monotonic(), error)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self.tasks.values():
            task.cancel()
        await asyncio.gather(*self.tasks.values(), return_exceptions=True)


# -- check ------------------------------------------------------------------------------------------------------------


async def test_check_takes_a_permit_or_tells_how_long_it_takes(limits: Limits, clock: ManualClock) -> None:
    """RATE-02."""
    assert [await limits.check("a", MINUTE) for _ in range(4)] == [0.0, 0.0, 60.0, 60.0]
    await clock.advance(59.999)
    assert await limits.check("a", MINUTE) == pytest.approx(0.001)
    await clock.advance(0.001)
    assert [await limits.check("a", MINUTE) for _ in range(3)] == [0.0, 0.0, 60.0]


@given(st.lists(st.tuples(st.floats(0, 3), st.integers(1, 7)), max_size=25), st.integers(1, 7), st.integers(1, 7))
@settings(max_examples=60)
def test_after_waiting_as_long_as_check_says_it_succeeds(asks: list[tuple[float, int]], n: int, burst: int) -> None:
    """RATE-02: if nobody else asked, whatever came before and whatever clock there is."""

    async def ask() -> None:
        clock = ManualClock()
        limits, rate = Limits(clock=clock), Rate(n, per=1.7, burst=min(n, burst))
        for pause, count in asks:
            await clock.advance(pause)
            for _ in range(count):
                if wait := await limits.check("a", rate):
                    await clock.advance(wait)
                    assert await limits.check("a", rate) == 0.0

    asyncio.run(ask())


async def test_keys_are_independent(limits: Limits) -> None:
    """RATE-02."""
    assert [await limits.check(key, Rate(1)) for key in ("a", "b", "a", "b")] == [0.0, 0.0, 1.0, 1.0]


async def test_each_call_is_judged_by_its_own_rate(limits: Limits, clock: ManualClock) -> None:
    """RATE-02: against the grants of its key, by whatever rate they were granted."""
    assert [await limits.check("a", Rate(2)) for _ in range(2)] == [0.0, 0.0]
    assert await limits.check("a", Rate(3)) == 0.0
    assert await limits.check("a", Rate(3)) == 1.0
    assert await limits.check("a", Rate(2)) == 1.0
    await clock.advance(1.0)
    assert await limits.check("a", Rate(4, per="10s")) == 0.0
    assert await limits.check("a", Rate(3, per="10s")) > 0


async def test_at_most_a_burst_comes_at_once_and_the_rest_in_its_rhythm(limits: Limits, clock: ManualClock) -> None:
    """RATE-01."""
    rate = Rate(60, per="1m", burst=5)
    waits = [await limits.check("a", rate) for _ in range(7)]
    assert waits[:5] == [0.0] * 5
    assert waits[5:] == [pytest.approx(1.0)] * 2
    for _ in range(3):
        await clock.advance(1.0)
        assert await limits.check("a", rate) == 0.0
        assert await limits.check("a", rate) == pytest.approx(1.0)


# -- waiting for permits ------------------------------------------------------------------------------------------------


async def test_with_limit_calls_a_function_and_returns_its_value(limits: Limits) -> None:
    """RATE-03: sync or async; what it raises is raised."""

    async def double(number: int) -> int:
        return 2 * number

    assert await limits.with_limit("a", Rate(9), lambda: double(4)) == 8
    assert await limits.with_limit("a", Rate(9), lambda: 3) == 3
    with pytest.raises(ZeroDivisionError):
        await limits.with_limit("a", Rate(9), lambda: 1 // 0)


async def test_waiters_are_served_in_order_of_asking(limits: Limits, clock: ManualClock) -> None:
    """RATE-03."""
    async with Callers(clock) as callers:
        for name in "abcdefg":
            await callers.start(name, lambda: limits.limit("k", Rate(2)))
        await clock.advance(10)
        assert callers.served == [("a", 0), ("b", 0), ("c", 1), ("d", 1), ("e", 2), ("f", 2), ("g", 3)]


async def test_nobody_is_overtaken_by_check(limits: Limits, clock: ManualClock) -> None:
    """RATE-02, RATE-03: it tells what those in line leave."""
    async with Callers(clock) as callers:
        for name in "abc":
            await callers.start(name, lambda: limits.limit("k", Rate(1)))
        assert await limits.check("k", Rate(1)) == pytest.approx(3.0)
        await clock.advance(1.0)
        assert await limits.check("k", Rate(1)) == pytest.approx(2.0)
        await clock.advance(1.0)
        assert [name for name, _ in callers.served] == ["a", "b", "c"]


async def test_what_cannot_be_granted_in_time_is_refused_at_once_and_not_called(
    limits: Limits, clock: ManualClock
) -> None:
    """RATE-03: as soon as it is certain, which is now."""
    called: list[int] = []
    await limits.check("k", Rate(1, per="1h"))
    with pytest.raises(RateLimited, match="limit 'k' can give no permit within 60 s") as caught:
        await limits.with_limit("k", Rate(1, per="1h"), lambda: called.append(1))
    assert clock.monotonic() == 0
    assert not called
    error = caught.value
    assert isinstance(error, TimedOut)
    assert (error.code, error.retryable) == ("RATE_LIMITED", True)
    assert (error.details["key"], error.details["after"], error.details["n"]) == ("k", 3600.0, 1)
    assert error.hint is not None


async def test_those_in_line_count_for_what_is_certain(limits: Limits, clock: ManualClock) -> None:
    """RATE-03: behind five others at one a second, nobody comes within 4 s."""
    async with Callers(clock) as callers:
        for number in range(6):
            await callers.start(str(number), lambda: limits.limit("k", Rate(1)))
        await callers.start("late", lambda: limits.limit("k", Rate(1), max_wait=4))
        await callers.start("just in time", lambda: limits.limit("k", Rate(1), max_wait=6))
        assert callers.refused["late"][0] == 0
        await clock.advance(10)
        assert callers.served[-1] == ("just in time", 6)


async def test_a_waiter_is_refused_when_it_becomes_certain(limits: Limits, clock: ManualClock) -> None:
    """RATE-03: here because of a back-off that comes later."""
    async with Callers(clock) as callers:
        await limits.check("k", Rate(1, per="10s"))
        for name, longest in (("a", 15), ("b", 25), ("c", 60)):
            await callers.start(name, lambda longest=longest: limits.limit("k", Rate(1, per="10s"), max_wait=longest))
        await clock.advance(2)
        await limits.back_off("k", "20s")
        await settle()
        assert {name: at for name, (at, _) in callers.refused.items()} == {"a": 2, "b": 2}
        await clock.advance(60)
        assert callers.served == [("c", 22)]


async def test_max_wait_is_sixty_seconds_and_false_is_no_limit(limits: Limits, clock: ManualClock) -> None:
    """RATE-03."""
    async with Callers(clock) as callers:
        await limits.check("k", Rate(1, per="61s"))
        await callers.start("default", lambda: limits.limit("k", Rate(1, per="61s")))
        await callers.start("endless", lambda: limits.limit("k", Rate(1, per="61s"), max_wait=False))
        assert list(callers.refused) == ["default"]
        await clock.advance(61)
        assert callers.served == [("endless", 61)]
    with pytest.raises(ConfigError, match="max_wait"):
        limits.limit("k", Rate(1), max_wait="soon")


async def test_a_cancelled_waiter_takes_nothing(limits: Limits, clock: ManualClock) -> None:
    """RATE-05: whether it was first in line or not, the next one gets its permit."""
    async with Callers(clock) as callers:
        for name in "abcde":
            await callers.start(name, lambda: limits.limit("k", Rate(1)))
        for name in ("b", "d"):
            callers.tasks[name].cancel()
        await settle()
        await clock.advance(10)
        assert callers.served == [("a", 0), ("c", 1), ("e", 2)]
        assert (await limits.status("k")).waiting == 0


async def test_a_waiter_that_is_cancelled_as_it_is_served_takes_nothing(limits: Limits, clock: ManualClock) -> None:
    """RATE-05."""
    async with Callers(clock) as callers:
        for name in "abc":
            await callers.start(name, lambda: limits.limit("k", Rate(1)))
        timer = clock.call_later(1.0, lambda: callers.cancel("b"))
        await clock.advance(1.0)
        timer.cancel()
        assert [name for name, _ in callers.served] in (["a", "b"], ["a", "c"])
        await clock.advance(1.0)
        assert callers.served[-1][0] == "c"


@given(
    st.lists(st.tuples(st.floats(0, 0.7), st.integers(1, 12), st.sampled_from([0.3, 2.0, 60.0])), max_size=12),
    st.integers(1, 9),
    st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_no_window_sees_more_than_n_whoever_waits(
    arrivals: list[tuple[float, int, float]], n: int, smooth: bool
) -> None:
    """RATE-01, RATE-03: waiters and checks together, some of whom give up; those served are served in order."""

    async def run() -> None:
        clock = ManualClock()
        limits, rate = Limits(clock=clock), Rate(n, burst=1 if smooth else None)
        times: list[float] = []
        async with Callers(clock) as callers:
            number = 0
            for pause, count, longest in arrivals:
                await clock.advance(pause)
                for _ in range(count):
                    enter = lambda longest=longest: limits.limit("k", rate, max_wait=longest)  # noqa: E731
                    await callers.start(f"{number:04}", enter)
                    number += 1
                if number % 5 == 0 and callers.tasks:
                    callers.tasks[f"{number // 2:04}"].cancel()
                if not await limits.check("k", rate):
                    times.append(clock.monotonic())
            await clock.advance(200)
            names = [name for name, _ in callers.served]
            assert names == sorted(names)
            times += [at for _, at in callers.served]
            assert most_in_any_window(times, 1.0) <= n
            assert all(task.done() for task in callers.tasks.values())

    asyncio.run(run())


# -- slots ---------------------------------------------------------------------------------------------------------------


async def test_at_most_n_hold_a_slot_at_once(limits: Limits, clock: ManualClock) -> None:
    """RATE-04: and they are served in order of asking."""
    async with Callers(clock) as callers:
        for number in range(5):
            await callers.start(str(number), lambda: limits.slots("gpu", 2), holds=1.0)
        assert (await limits.status("gpu")).count == 2
        await clock.advance(10)
        assert callers.served == [("0", 0), ("1", 0), ("2", 1), ("3", 1), ("4", 2)]
        assert (await limits.status("gpu")).count == 0


@pytest.mark.parametrize("way", ["return", "exception", "cancellation"])
async def test_a_slot_is_freed_however_its_function_ends(limits: Limits, clock: ManualClock, way: str) -> None:
    """RATE-04."""

    async def work() -> str:
        await clock.sleep(1.0)
        if way == "exception":
            raise ValueError("no")
        return "done"

    task = asyncio.create_task(limits.with_slot("gpu", 1, work))
    await settle()
    assert await limits.acquire("gpu", 1) is None
    if way == "cancellation":
        task.cancel()
    await clock.advance(1.0)
    [ended] = await asyncio.gather(task, return_exceptions=True)
    assert type(ended).__name__ == {"return": "str", "exception": "ValueError"}.get(way, "CancelledError")
    assert await limits.acquire("gpu", 1) is not None


async def test_a_slot_that_does_not_come_free_times_out(limits: Limits, clock: ManualClock) -> None:
    """RATE-04: after 30 s, unless it says otherwise; the function is not called."""
    called: list[int] = []
    async with Callers(clock) as callers:
        await limits.acquire("gpu", 1)
        await callers.start("default", lambda: limits.slots("gpu", 1))
        await callers.start("short", lambda: limits.slots("gpu", 1, max_wait=5))
        await clock.advance(4.9)
        assert not callers.refused
        await clock.advance(30)
        assert {name: at for name, (at, _) in callers.refused.items()} == {"short": 5, "default": 30}
        error = callers.refused["default"][1]
        assert isinstance(error, SlotTimeout)
        assert isinstance(error, TimedOut)
        assert (error.code, error.retryable, error.details["slots"]) == ("SLOT_TIMEOUT", True, 1)
        assert "all 1 are held" in str(error)
        with pytest.raises(SlotTimeout):
            task = asyncio.create_task(limits.with_slot("gpu", 1, lambda: called.append(1), max_wait=1))
            await clock.advance(1)
            await task
    assert not called


async def test_acquire_gives_a_slot_or_none_and_releasing_twice_is_harmless(limits: Limits) -> None:
    """RATE-04."""
    first, second = await limits.acquire("gpu", 2), await limits.acquire("gpu", 2)
    assert first is not None
    assert second is not None
    assert await limits.acquire("gpu", 2) is None
    await first.release()
    await first.release()
    third = await limits.acquire("gpu", 2)
    assert third is not None
    await first.release()
    assert await limits.acquire("gpu", 2) is None
    async with third:
        pass
    assert (await limits.status("gpu")).count == 1


async def test_different_numbers_look_at_the_same_holders(limits: Limits) -> None:
    """RATE-04."""
    held = [await limits.acquire("gpu", 3) for _ in range(2)]
    assert await limits.acquire("gpu", 2) is None
    assert await limits.acquire("gpu", 3) is not None
    assert await limits.acquire("gpu", 3) is None
    for slot in held:
        assert slot is not None
        await slot.release()
    assert await limits.acquire("gpu", 2) is not None


async def test_a_cancelled_waiter_takes_no_slot(limits: Limits, clock: ManualClock) -> None:
    """RATE-05: nor does one that is cancelled at the moment at which one comes free."""
    async with Callers(clock) as callers:
        for name in "abcd":
            await callers.start(name, lambda: limits.slots("gpu", 1), holds=1.0)
        callers.tasks["b"].cancel()
        timer = clock.call_later(1.0, lambda: callers.cancel("c"))
        await clock.advance(10)
        timer.cancel()
        assert callers.served[-1][0] == "d"
        assert (await limits.status("gpu")).count == 0


async def test_acquire_overtakes_nobody(limits: Limits, clock: ManualClock) -> None:
    """RATE-04: whoever waits comes first, also at the moment at which a slot is free."""
    async with Callers(clock) as callers:
        slot = await limits.acquire("gpu", 1)
        assert slot is not None
        await callers.start("a", lambda: limits.slots("gpu", 1), holds=1.0)
        await slot.release()
        assert await limits.acquire("gpu", 1) is None
        await settle()
        assert callers.served == [("a", 0)]


# -- looking and changing --------------------------------------------------------------------------------------------------


async def test_status_tells_what_counts_and_what_is_left(limits: Limits, clock: ManualClock) -> None:
    """RATE-10."""
    before = await limits.status("k")
    assert (before.kind, before.count, before.limit, before.remaining) == (None, 0, None, None)
    for _ in range(3):
        await limits.check("k", Rate(4))
    status = await limits.status("k")
    assert (status.kind, status.count, status.limit, status.remaining) == ("rate", 3, 4, 1)
    assert (status.utilisation, status.rate) == (0.75, Rate(4))
    await clock.advance(1.0)
    assert (await limits.status("k")).count == 0


async def test_status_tells_who_holds_and_who_waits(limits: Limits, clock: ManualClock) -> None:
    """RATE-10: since when; outside of a body without run and asset."""
    async with Callers(clock) as callers:
        await limits.acquire("gpu", 1)
        since = clock.now()
        await clock.advance(2)
        await callers.start("a", lambda: limits.slots("gpu", 1))
        await clock.advance(1)
        status = await limits.status("gpu")
        assert (status.kind, status.count, status.limit, status.remaining) == ("slots", 1, 1, 0)
        [holder], [waiter] = status.holders, status.waiters
        assert (holder.run_id, holder.asset, holder.since) == (None, None, since)
        assert (waiter.since - since).total_seconds() == 2
        assert status.waiting == 1


async def test_reset_empties_a_limit(limits: Limits, clock: ManualClock) -> None:
    """RATE-10: and those who wait go on."""
    async with Callers(clock) as callers:
        await limits.check("k", Rate(1, per="20s"))
        await limits.back_off("k", "30s")
        await callers.start("a", lambda: limits.limit("k", Rate(1, per="20s")))
        await limits.reset("k")
        await settle()
        assert callers.served == [("a", 0)]
        held = await limits.acquire("gpu", 1)
        assert held is not None
        await limits.reset("gpu")
        again = await limits.acquire("gpu", 1)
        assert again is not None
        await held.release()
        assert await limits.acquire("gpu", 1) is None


async def test_backing_off_stops_all_grants_for_a_while(limits: Limits, clock: ManualClock) -> None:
    """RATE-10: also slots; a shorter one does not shorten it."""
    await limits.back_off("k", "30s")
    await limits.back_off("k", "5s")
    assert await limits.check("k", Rate(9)) == pytest.approx(30.0)
    assert await limits.acquire("k", 9) is None
    assert (await limits.status("k")).backed_off == pytest.approx(30.0)
    with pytest.raises(SlotTimeout, match="gives none for 30 s"):
        await limits.with_slot("k", 9, lambda: 1, max_wait=20)
    assert clock.monotonic() == 0
    await clock.advance(30)
    assert await limits.check("k", Rate(9)) == 0.0
    assert await limits.acquire("k", 9) is not None
    with pytest.raises(ConfigError, match="wait"):
        await limits.back_off("k", 0)


async def test_what_is_set_holds_over_what_callers_say(limits: Limits, clock: ManualClock) -> None:
    """RATE-09: at once, also for those who wait, until it is taken back."""
    async with Callers(clock) as callers:
        await limits.check("k", Rate(1, per="30s"))
        await callers.start("a", lambda: limits.limit("k", Rate(1, per="30s")))
        await limits.set("k", Rate(3, per="30s"))
        await settle()
        assert callers.served == [("a", 0)]
        assert [await limits.check("k"), await limits.check("k", Rate(99))] == [0.0, 30.0]
        assert (await limits.status("k")).setting == Rate(3, per="30s")
        await limits.set("k", None)
        assert await limits.check("k", Rate(99)) == 0.0
        await limits.set("gpu", 2)
        assert [await limits.acquire("gpu") is None for _ in range(3)] == [False, False, True]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda limits: limits.check("nobody knows"), "no limit is called 'nobody knows', and no rate was given"),
        (lambda limits: limits.acquire("nobody knows"), "and no number of slots was given"),
        (lambda limits: limits.check("", Rate(1)), "limit '': a key is text"),
        (lambda limits: limits.check("a\0b", Rate(1)), "limit 'a\\x00b': a key is text"),
        (lambda limits: limits.check("\ud800", Rate(1)), "limit '\\ud800': a key is text"),
        (lambda limits: limits.check("x" * 501, Rate(1)), "xx': a key is text"),
        (lambda limits: limits.check("k", 5), "rate=5"),
        (lambda limits: limits.check("k", Rate(1, key=str)), "takes the items of a scatter"),
        (lambda limits: limits.acquire("k", 0), "n=0"),
        (lambda limits: limits.acquire("k", True), "n=True"),
        (lambda limits: limits.with_slot("k", 2, lambda: 1, max_wait="0s"), "max_wait"),
        (lambda limits: limits.set("k", 0), "limit=0"),
        (lambda limits: limits.set("k", "60/1m"), "limit='60/1m'"),
    ],
)
async def test_what_makes_no_sense_is_refused(
    limits: Limits, call: Callable[[Any], Awaitable[object]], message: str
) -> None:
    """RATE-09, G-05."""
    with pytest.raises(ConfigError) as caught:
        await call(limits)
    assert message in str(caught.value)
    assert caught.value.hint


async def test_a_limit_of_the_other_kind_is_refused(limits: Limits) -> None:
    """RATE-09."""
    await limits.set("gpu", 2)
    await limits.set("openai", Rate(2))
    with pytest.raises(ConfigError, match="'gpu' is a number of slots, 2, and no rate"):
        await limits.check("gpu", Rate(1))
    with pytest.raises(ConfigError, match="'openai' is a rate, 2 in 1 s, and has no slots"):
        await limits.acquire("openai")


# -- bounds ----------------------------------------------------------------------------------------------------------------


async def test_idle_keys_are_forgotten(clock: ManualClock) -> None:
    """RATE-02, G-03: a key for each customer costs memory only as long as its grants count."""
    limits = Limits(clock=clock)
    book = limits._desk.book
    assert isinstance(book, LocalBook)
    for number in range(3000):
        await limits.check(f"customer {number}", Rate(5))
        async with limits.slots(f"slots of {number}", 1):
            pass
        await clock.advance(0.01)
    assert len(book._keys) < 500
    assert not limits._desk._permit_lines
    assert not limits._desk._slot_lines
    assert not limits._desk.slots


async def test_what_is_in_use_is_not_forgotten(clock: ManualClock) -> None:
    limits = Limits(clock=clock)
    await limits.acquire("held", 1)
    await limits.set("set", 3)
    await limits.check("slow", Rate(1, per="1d"))
    await limits.back_off("blocked", "1d")
    for number in range(3000):
        await limits.check(f"customer {number}", Rate(5))
        await clock.advance(0.01)
    assert await limits.acquire("held", 1) is None
    assert await limits.acquire("set") is not None
    assert await limits.check("slow", Rate(1, per="1d")) > 0
    assert await limits.check("blocked", Rate(5)) > 0


def test_one_object_serves_several_event_loops() -> None:
    """RATE-06: in memory a limit holds wherever its object is used."""
    limits = Limits()

    async def take() -> float:
        return await limits.check("k", Rate(2, per="1h"))

    assert [asyncio.run(take()) for _ in range(2)] == [0.0, 0.0]
    assert asyncio.run(take()) > 0
    assert untyped(limits)._desk._permit_lines == {}


async def test_a_slot_freed_in_another_thread_wakes_who_waits() -> None:
    """RATE-06."""
    limits = Limits()
    slot = await limits.acquire("gpu", 1)
    assert slot is not None
    waiting = asyncio.create_task(limits.with_slot("gpu", 1, lambda: "served"))
    await settle()
    await asyncio.to_thread(lambda: asyncio.run(slot.release()))
    async with asyncio.timeout(20):
        assert await waiting == "served"
