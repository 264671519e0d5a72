"""Calls of `ctx.map` that wait at gates (SCAT-27, STEP-06, STEP-07, STEP-09): parked or evicted with their body."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from flowstone_async import Context, Pipeline
from tests.support.engines import OpenEngine
from tests.support.gate import Gate, soon
from tests.support.waits import Desk, in_state, opened, send

SECRET: Any = {"secret": b"s" * 32}
PARKED: Any = {**SECRET, "park_after": False}
EVICTED: Any = {**SECRET, "park_after": 0, "poll": "50ms"}


@pytest.mark.parametrize(
    "options",
    [pytest.param(PARKED, marks=pytest.mark.not_in("evict", reason="is about a body in memory")), EVICTED],
    ids=["parked", "evicted"],
)
@pytest.mark.parametrize("keyed", [False, True])
async def test_calls_that_wait_go_on_in_the_order_of_their_signals(open_engine: OpenEngine, options: Any, keyed: bool):
    """STEP-09: a body that was evicted in between has its results in that order, and calls nothing twice."""
    pipe, desk, calls, seen = Pipeline("asking"), Desk(), Counter[str](), list[list[str]]()

    async def ask(name: str) -> str:
        calls[name] += 1
        return name

    @pipe.asset
    async def answers(ctx: Context) -> list[str]:
        async def answered(name: str) -> str:
            gate = ctx.signal(str, name=name)
            await ctx.step(ask, name)
            await desk.made(gate)
            return f"{name}: {await gate}"

        seen.append([])
        async for found in ctx.map(answered, "abcd", max_concurrent=2, key=str if keyed else None):
            seen[-1].append(found)
        return seen[-1]

    engine = await open_engine(pipe, **options)
    run = await engine.submit(answers)
    for count, name in enumerate("badc", 1):
        gate = await _made(desk, name)
        await opened(engine, gate.id)
        if options is EVICTED:
            await in_state(engine, run.id, "waiting")
        await send(engine, gate.id, str, name.upper())
        await soon(_results(seen, count))
    assert await soon(run.result()) == ["b: B", "a: A", "d: D", "c: C"]
    assert calls == dict.fromkeys("abcd", 1)
    assert (len(seen) > 1) is (options is EVICTED)
    assert all(each == seen[-1][: len(each)] for each in seen)


async def _results(seen: list[list[str]], count: int) -> None:
    while len(seen[-1]) < count:
        await asyncio.sleep(0)


async def _made(desk: Desk, name: str) -> Any:
    async def found() -> Any:
        while not (gates := [gate for gate in desk.gates if gate.name == name]):
            await asyncio.sleep(0)
        return gates[0]

    return await soon(found())


async def test_a_body_of_which_another_call_does_something_else_stays(open_engine: OpenEngine):
    """STEP-07: it is evicted once nothing but waits is left."""
    pipe, desk, work, bodies = Pipeline("asking"), Desk(), Gate(), list[int]()

    @pipe.asset
    async def answers(ctx: Context) -> list[str]:
        bodies.append(1)

        async def call(name: str) -> str:
            if name == "work":
                await work()
                return name
            return await (await desk.made(ctx.signal(str)))

        return sorted([found async for found in ctx.map(call, ["work", "wait"])])

    engine = await open_engine(pipe, **EVICTED)
    run = await engine.submit(answers)
    gate = await desk.gate()
    await opened(engine, gate.id)
    await work.reached()
    assert (await run.status()).state == "running"
    work.open()
    await in_state(engine, run.id, "waiting")
    assert len(bodies) == 1
    await send(engine, gate.id, str, "said")
    assert await soon(run.result()) == ["said", "work"]
    assert (len(bodies), work.calls) == (2, 1)
