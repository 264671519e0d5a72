"""Slots of an engine and runs that wait (STEP-06): none counts while it does nothing else, each before it goes on."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from flowstone_async import Context, Engine, Keys, Pipeline
from tests.support.engines import OpenEngine
from tests.support.gate import Gate, soon
from tests.support.waits import in_state

WAITING: Any = {"secret": b"s" * 32, "park_after": False, "slots": 1}
RUNS = 8
pytestmark = pytest.mark.not_in("evict", reason="is about bodies in memory")


def _pipeline(began: Counter[str], hold: Gate) -> Pipeline:
    pipe = Pipeline("slots")

    @pipe.asset(partitions=Keys(*map(str, range(RUNS))))
    async def job(ctx: Context) -> str:
        began[str(ctx.partition)] += 1
        answer = await ctx.signal(str, token=f"job {ctx.partition}")
        await hold()
        return answer

    @pipe.asset
    async def other() -> str:
        began["other"] += 1
        return "other"

    @pipe.asset
    async def after(ctx: Context, other: str) -> str:
        return await ctx.signal(str, token="after")

    return pipe


def _busy(engine: Engine) -> int:
    return engine._live().services.slots.busy


async def _is_busy(engine: Engine, number: int) -> None:
    while _busy(engine) != number:
        await asyncio.sleep(0)


async def test_runs_that_wait_leave_their_slots_and_count_again_before_they_go_on(open_engine: OpenEngine):
    """STEP-06: any number of waits blocks nothing; who comes back is not kept from it, and nobody begins meanwhile."""
    began, hold = Counter[str](), Gate()
    engine = await open_engine(_pipeline(began, hold), **WAITING)
    runs = [await engine.submit("job", partition=str(no)) for no in range(RUNS)]
    await soon(_all(began, RUNS))
    await soon(_is_busy(engine, 0))
    assert await soon((await engine.submit("other")).result()) == "other"

    for no in (0, 1):
        await engine.signal(f"job {no}", "go")
    await soon(hold.reached(2))
    assert _busy(engine) == 2  # more than there are slots: it may hold what others wait for
    late = await engine.submit("other", force=True)
    for no in (2, 3):
        await engine.signal(f"job {no}", "go")
    await soon(hold.reached(4))
    assert (await late.status()).state == "queued"
    assert began["other"] == 1
    hold.open()
    assert await soon(late.result()) == "other"
    for no in range(4, RUNS):
        await engine.signal(f"job {no}", "go")
    assert [await soon(run.result()) for run in runs] == ["go"] * RUNS
    await soon(_is_busy(engine, 0))
    assert set(began.values()) == {1, 2}


async def test_a_run_that_waits_for_a_claim_of_one_that_waits_gets_it(open_engine: OpenEngine):
    """STEP-06: with the only slot; whoever has the claim goes on without one."""
    began, hold = Counter[str](), Gate()
    hold.open()
    engine = await open_engine(_pipeline(began, hold), **WAITING)
    first = await engine.submit("job", partition="0")
    await soon(_is_busy(engine, 0))
    second = await engine.submit("job", partition="0", force=True)
    await in_state(engine, second.id, "running")
    await soon(_is_busy(engine, 1))
    await engine.signal("job 0", "go")
    assert await soon(first.result()) == "go"
    await soon(_all(began, 2))
    await soon(_is_busy(engine, 0))
    await engine.signal("job 0", "again")
    assert await soon(second.result()) == "again"


async def test_a_run_that_was_evicted_or_is_cancelled_counts_as_it_should(open_engine: OpenEngine):
    """STEP-06: whatever ends a wait, and once it has ended, nothing is left of the count."""
    began, hold = Counter[str](), Gate()
    engine = await open_engine(_pipeline(began, hold), **{**WAITING, "park_after": 0, "slots": 2})
    runs = [await engine.submit("job", partition=str(no)) for no in range(3)]
    waiting = await engine.submit("after")
    for run in (*runs, waiting):
        await in_state(engine, run.id, "waiting")
    await soon(_is_busy(engine, 0))
    await engine.signal("job 0", "go")
    await soon(hold.reached(1))
    assert _busy(engine) == 1
    for run in runs:
        await run.cancel()
    await soon(_is_busy(engine, 0))
    await engine.signal("after", "done")
    assert await soon(waiting.result()) == "done"
    await soon(_is_busy(engine, 0))


async def _all(began: Counter[str], number: int) -> None:
    while sum(began.values()) < number:
        await asyncio.sleep(0)
