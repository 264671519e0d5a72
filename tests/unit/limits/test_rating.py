"""Lines of a scatter whose permits are asked for over a network: in blocks, and never too many (SCAT-08, RATE-01, RATE-08)."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowstone_async import Rate
from flowstone_async._engine.scatter.chunks import LocalChunk, Todo
from flowstone_async._engine.scatter.rating import Rating
from flowstone_async._engine.scatter.resting import Resting
from flowstone_async.clock import ManualClock, settle
from flowstone_async.limits.desk import Desk
from flowstone_async.limits.local import LocalBook
from flowstone_async.store.scatters import Chunk, Page
from tests.unit.limits.test_far import FarBook
from tests.unit.limits.windows import most_in_any_window


class Runner:
    """Takes items as a scatter does, `most` at once, each of which lasts some time.

    Attributes:
        times: When items began, by key.
    """

    def __init__(self, clock: ManualClock, rating: Rating, most: int, lasts: Callable[[], float]) -> None:
        self.clock, self.rating, self.most, self.lasts = clock, rating, most, lasts
        self.running = 0
        self.isolates = False
        self.times: dict[Any, list[float]] = defaultdict(list)

    @property
    def free(self) -> int:
        return self.most - self.running

    def staff(self) -> None:
        while self.running < self.most and (taken := self.rating.take()) is not None:
            self.times[taken[1].item].append(self.clock.monotonic())
            seconds = self.lasts()
            if seconds:
                self.running += 1
                self.clock.call_later(seconds, self._end)

    def _end(self) -> None:
        self.running -= 1
        self.staff()

    @property
    def count(self) -> int:
        return sum(map(len, self.times.values()))


def chunk(items: list[Any]) -> LocalChunk:
    page = Page(0, 0, 0, len(items), frozenset(), b"", None)
    return LocalChunk(Chunk("s", 0, alone=False, page=0, size=len(items)), page, dict(enumerate(items)))


def refuse(chunk: LocalChunk, todo: Todo, reason: object) -> None:
    raise AssertionError(reason)


def rating(clock: ManualClock, far: Any, rate: Rate) -> Rating:
    desk = Desk(far, clock, now=clock.now)
    return Rating(desk, clock, "s", rate, key=rate.key, refuse=refuse, poll=1.0)


@given(st.integers(1, 20), st.booleans(), st.sampled_from([0.0005, 0.003, 0.02]), st.integers(0, 2**32))
@settings(max_examples=10, deadline=None)
def test_no_window_sees_more_than_n_whatever_the_network_does(n: int, smooth: bool, slow: float, seed: int) -> None:
    """RATE-01, RATE-06: two processes that share the rate of a scatter, and bodies that take their time or do not."""

    async def run() -> None:
        chance, clock = random.Random(seed), ManualClock()
        book = LocalBook(clock)
        rate = Rate(n, burst=max(1, n // 4) if smooth else None, key=lambda item: item)
        runners: list[Runner] = []
        tasks: list[asyncio.Task[None]] = []
        for _ in range(2):
            far = FarBook(book, clock, lambda: chance.expovariate(1 / slow))
            lines = rating(clock, far, rate)
            runner = Runner(clock, lines, chance.randint(1, 30), lambda: chance.choice([0, 0.001, chance.random()]))
            runners.append(runner)
            lines.add(chunk([chance.choice("abc") for _ in range(5 * n)]))
            tasks.append(asyncio.create_task(lines.run(runner, Resting())))
        while sum(runner.count for runner in runners) < 7 * n:
            assert clock.monotonic() < 120, [runner.count for runner in runners]
            await clock.advance(0.05)
        for key in "abc":
            times = [time for runner in runners for time in runner.times[key]]
            assert most_in_any_window(times, 1.0) <= n
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)

    asyncio.run(run())


async def test_permits_are_asked_for_in_blocks() -> None:
    """SCAT-22: a wish is no statement of its own, and bodies need not wait for the network one by one."""
    clock = ManualClock()
    far = FarBook(LocalBook(clock), clock, lambda: 0.0005)
    lines = rating(clock, far, Rate(100_000, per="1s"))
    runner = Runner(clock, lines, 50, lambda: 0.01)
    lines.add(chunk([0] * 10_000))
    task = asyncio.create_task(lines.run(runner, Resting()))
    while runner.count < 10_000:
        await clock.advance(0.01)
    assert far.asked < 10_000 / 10
    assert clock.monotonic() < 1.25 * 10_000 / 50 * 0.01
    task.cancel()
    await asyncio.wait([task])


async def test_what_cannot_begin_is_not_asked_for_and_what_is_not_used_is_given_back() -> None:
    """RATE-01: permits count only for what begins, soon after it was known that it would not."""
    clock = ManualClock()
    book = LocalBook(clock)
    far = FarBook(book, clock, lambda: 0.0005)
    rate = Rate(100, per="1m")
    lines = rating(clock, far, rate)
    runner = Runner(clock, lines, 5, lambda: 20.0)
    lines.add(chunk([0] * 1000))
    task = asyncio.create_task(lines.run(runner, Resting()))
    await clock.advance(1)
    [state] = await book.states(["s"], pace=rate.pace)
    assert (runner.count, state.used) == (5, 5)
    asked = far.asked
    await clock.advance(10)
    assert far.asked == asked
    runner.most = 0
    await clock.advance(15)
    assert (runner.count, (await book.states(["s"], pace=rate.pace))[0].used) == (5, 5)
    task.cancel()
    await asyncio.wait([task])


async def test_a_store_that_is_away_is_asked_again() -> None:
    """RATE-06: never a grant, and no reason to fail an item."""
    clock = ManualClock()
    far = FarBook(LocalBook(clock), clock, lambda: 0.0005)
    lines = rating(clock, far, Rate(10, per="1m"))
    runner = Runner(clock, lines, 5, lambda: 0.0)
    far.away = True
    lines.add(chunk([0] * 5))
    task = asyncio.create_task(lines.run(runner, Resting()))
    await clock.advance(10)
    assert runner.count == 0
    assert 5 <= far.asked <= 12
    far.away = False
    await clock.advance(2)
    assert runner.count == 5
    task.cancel()
    await asyncio.wait([task])


async def test_lines_that_are_empty_are_forgotten() -> None:
    """G-03: a key leaves nothing behind, however many there are."""
    clock = ManualClock()
    lines = rating(clock, FarBook(LocalBook(clock), clock, lambda: 0.0005), Rate(2, key=lambda item: item))
    runner = Runner(clock, lines, 7, lambda: 0.002)
    task = asyncio.create_task(lines.run(runner, Resting()))
    for page in range(10):
        lines.add(chunk([(page, no) for no in range(100)]))
        while runner.count < 100 * (page + 1):
            await clock.advance(0.05)
    await clock.advance(5)
    await settle()
    inside: Any = lines
    assert [sum(map(len, inside._lines.values())), len(inside._late), len(inside._good), inside._stocked] == [
        0,
        0,
        0,
        0,
    ]
    task.cancel()
    await asyncio.wait([task])


@pytest.mark.parametrize(("key", "order"), [(lambda item: item[0], "ababaaa"), (None, "aaaaabb")])
async def test_lines_take_turns(key: Any, order: str) -> None:
    """RATE-08: a long line is served no more often than a short one; without keys in the order of the source."""
    clock = ManualClock()
    lines = rating(clock, LocalBook(clock), Rate(1000, key=key))
    runner = Runner(clock, lines, 1, lambda: 0.0)
    lines.add(chunk([("a", no) for no in range(5)] + [("b", no) for no in range(2)]))
    runner.staff()
    assert "".join(key for key, _ in runner.times) == order
    assert [no for _, no in runner.times] == ([0, 0, 1, 1, 2, 3, 4] if key else [0, 1, 2, 3, 4, 0, 1])
