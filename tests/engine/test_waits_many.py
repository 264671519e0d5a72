"""Many runs that wait, and few slots to go on with them: what was woken is taken on without waiting for a poll."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from flowstone_async import Context, Keys, Pipeline
from tests.support.engines import OpenEngine
from tests.support.gate import soon
from tests.support.waits import in_state, runs_of

SECRET: Any = {"secret": b"s" * 32, "park_after": 0}
SLOTS, RUNS = 3, 20


def _pipeline(called: Counter[str], ended: Counter[str]) -> Pipeline:
    pipe = Pipeline("many")

    @pipe.asset(partitions=Keys(*map(str, range(RUNS))))
    async def job(ctx: Context) -> str:
        partition = str(ctx.partition)
        called[partition] += 1
        answer = await ctx.signal(str, token=f"job {partition}")
        ended[partition] += 1
        return answer

    return pipe


@pytest.mark.not_in("evict", reason="counts the calls of bodies")
async def test_what_was_woken_while_nobody_was_there_is_not_left_to_the_polls(open_engine: OpenEngine) -> None:
    """STEP-06: each slot that becomes free takes the next one at once, however long a poll is."""
    called, ended, most = Counter[str](), Counter[str](), list[int]()
    pipe = _pipeline(called, ended)
    first = await open_engine(pipe, **SECRET)
    runs = [await first.submit("job", partition=str(no)) for no in range(RUNS)]
    for run in runs:
        await in_state(first, run.id, "waiting")
    await first.__aexit__(None, None, None)
    sending = await open_engine(pipe, **SECRET, slots=0)
    for no in range(RUNS):
        await sending.signal(f"job {no}", f"answer {no}")

    second = await open_engine(pipe, **SECRET, slots=SLOTS, poll="1h")

    async def all_ended() -> None:
        while sum(ended.values()) < RUNS:
            most.append(len(runs_of(second)))
            await asyncio.sleep(0)

    await soon(all_ended())
    handles = [await sending.find(run.id) for run in runs]
    assert [await soon(each.result()) for each in handles] == [f"answer {no}" for no in range(RUNS)]
    assert set(called.values()) == {2}
    assert set(ended.values()) == {1}
    assert max(most) <= SLOTS


async def test_what_is_woken_is_looked_for_although_there_was_nothing_just_before(open_engine: OpenEngine) -> None:
    """STEP-06: as nobody looks for what is without an owner more often than a few times in each poll."""
    called, ended = Counter[str](), Counter[str]()
    engine = await open_engine(_pipeline(called, ended), **SECRET, poll="1h")
    for no in range(3):
        run = await engine.submit("job", partition=str(no))
        await in_state(engine, run.id, "waiting")
        await engine.submit("job", partition=str(no + 10))  # a look that finds no run to go on with
        await soon(_called(called, str(no + 10)))
        await engine.signal(f"job {no}", "go on")
        assert await soon(run.result()) == "go on"


async def _called(called: Counter[str], partition: str) -> None:
    while not called[partition]:
        await asyncio.sleep(0)
