"""One timer for all bodies of a scatter."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from typing_extensions import override

from flowstone_async._engine.deadlines import Deadlines
from flowstone_async.clock import ManualClock, Timer, settle


class Counting(ManualClock):
    """Counts the timers that are asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    @override
    def call_later(self, delay: float, callback: Callable[[], None]) -> Timer:
        self.asked += 1
        return super().call_later(delay, callback)


async def held(deadlines: Deadlines, told: list[int], ignored: int = 0) -> bool:
    """Take a time without end, and ignore so many cancellations; return whether the time was over."""
    task = asyncio.current_task()
    assert task is not None
    deadlines.begin(task)
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            told.append(task.cancelling())
            if len(told) > ignored:
                break
    over = deadlines.end(task)
    assert not task.cancelling()
    return over


async def test_each_is_cancelled_in_its_time():
    clock = Counting()
    deadlines, told = Deadlines(clock, 10, 1), [list[int]() for _ in range(3)]
    tasks: list[asyncio.Task[bool]] = []
    for number in range(3):
        tasks.append(asyncio.create_task(held(deadlines, told[number])))
        await settle()
        await clock.advance(1)
    await clock.advance(6.5)  # 9.5 since the first began
    assert told == [[], [], []]
    await clock.advance(1)
    assert told == [[1], [], []]
    await clock.advance(1)
    assert told == [[1], [1], []]
    await clock.advance(1)
    assert await asyncio.gather(*tasks) == [True, True, True]
    assert not await clock.jump(), "a timer is left behind"


async def test_one_that_goes_on_is_cancelled_after_each_grace():
    clock = ManualClock()
    deadlines, told = Deadlines(clock, 10, 2), list[int]()
    task = asyncio.create_task(held(deadlines, told, ignored=2))
    await settle()
    await clock.advance(10)
    assert told == [1]
    await clock.advance(1.5)
    assert told == [1]
    await clock.advance(0.5)
    assert told == [1, 2]
    await clock.advance(2)
    assert await task
    assert told == [1, 2, 3]


@pytest.mark.parametrize("seconds", [10, None])
async def test_many_that_end_in_time_need_few_timers(seconds: float | None):
    clock = Counting()
    deadlines = Deadlines(clock, seconds, 1)
    ended = asyncio.Event()

    async def ends() -> bool:
        task = asyncio.current_task()
        assert task is not None
        deadlines.begin(task)
        await ended.wait()
        return deadlines.end(task)

    tasks = [asyncio.create_task(ends()) for _ in range(1000)]
    await settle()
    ended.set()
    assert set(await asyncio.gather(*tasks)) == {False}
    assert clock.asked == (0 if seconds is None else 1)
    assert not await clock.jump()
