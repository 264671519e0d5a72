"""Items that wait at gates, in scatters that several workers run (SIG-07, SCAT-07)."""

from __future__ import annotations

import asyncio
from collections import Counter
from itertools import count
from typing import Any

import pytest

from flowstone_async import Context, Gathered, Pipeline
from tests.engine.test_waits import SECRET, Done
from tests.postgres.test_crews import OFTEN, Engines, Who, engines
from tests.support.gate import Gate, soon
from tests.support.modes import mode
from tests.support.waits import Desk, opened, send

HELD, ALL, FEW = 10, 30, 4
__all__ = ["engines"]


async def test_items_that_a_helper_runs_wait_as_well(engines: Engines) -> None:
    """Each goes on where it waited, whoever is signalled."""
    desk, hold, later, calls, pipe = Desk(), Gate(), Gate(), Counter[str](), Pipeline("crew")

    @pipe.resource
    async def who() -> Who:
        raise AssertionError("each engine is given its name")

    @pipe.scatter(range(ALL), max_concurrent=HELD)
    async def answered(number: int, ctx: Context, who: Who) -> str:
        calls[who] += 1
        await (hold if number < HELD else later)()
        gate = await desk.made(ctx.signal(Done, name=f"{number}"))
        return (await gate).url

    @answered.gather
    async def total(answers: Gathered[str]) -> int:
        return sum([int(answer) async for answer in answers])

    options: Any = {**OFTEN, **SECRET}
    first = await engines.open(pipe, resources={Who: Who("a")}, **options)
    run = await first.submit(total)
    await hold.reached(HELD)
    second = await engines.open(pipe, resources={Who: Who("b")}, **options)
    while 5 not in engines.limits:  # each has its share
        await asyncio.sleep(0)
    hold.open()
    await later.reached(HELD)
    later.open()
    sent = set[str]()
    for number in count():
        gate = await desk.gate(number)  # of an item that is called again, once more
        if gate.id not in sent:
            sent.add(gate.id)
            await opened(first, gate.id)
            await send(second if number % 2 else first, gate.id, Done, Done(gate.name))
        if len(sent) == ALL:
            break
    assert await soon(run.result()) == sum(range(ALL))
    assert calls.total() == ALL * (2 if mode() == "evict" else 1)
    assert set(calls) == {"a", "b"}


@pytest.mark.parametrize("park_after", [False, 0], ids=["parked", "evicted"])
async def test_a_helper_leaves_while_items_that_it_ran_wait(engines: Engines, park_after: Any) -> None:
    """SIG-07, SIG-09, STEP-06: they wait on, for whoever is there; none begins anew, and none uses up an attempt."""
    desk, hold, later, pipe = Desk(), Gate(), Gate(), Pipeline("crew")
    ran: dict[int, list[str]] = {number: [] for number in range(2 * FEW)}
    steps, attempts = Counter[int](), set[int]()

    @pipe.resource
    async def who() -> Who:
        raise AssertionError("each engine is given its name")

    @pipe.scatter(range(2 * FEW), max_concurrent=FEW, retry=False)
    async def answered(number: int, ctx: Context, who: Who) -> str:
        async def begin() -> None:
            steps[number] += 1

        ran[number].append(who)
        attempts.add(ctx.item.attempt)
        await ctx.step(begin)
        await (hold if number < FEW else later)()
        gate = ctx.signal(Done, name=f"{number}")
        if len(ran[number]) == 1:
            await desk.made(gate)
        return (await gate).url

    @answered.gather
    async def total(answers: Gathered[str]) -> int:
        return sum([int(answer) async for answer in answers])

    options: Any = {**OFTEN, **SECRET, "park_after": park_after}
    first = await engines.open(pipe, resources={Who: Who("a")}, **options)
    run = await first.submit(total)
    await hold.reached(FEW)
    second = await engines.open(pipe, resources={Who: Who("b")}, **options)
    while 2 not in engines.limits:  # each has its share
        await asyncio.sleep(0)
    hold.open()
    await later.reached(FEW)
    later.open()
    gates = [await desk.gate(number) for number in range(2 * FEW)]
    for gate in gates:
        await opened(first, gate.id)
    theirs = {number for number, names in ran.items() if names == ["b"]}
    assert theirs
    await soon(second.__aexit__(None, None, None))
    for gate in gates:
        await send(first, gate.id, Done, Done(gate.name))
    assert await soon(run.result()) == sum(range(2 * FEW))
    assert set(steps.values()) == {1}
    assert attempts == {1}
    assert all(ran[number][-1] == "a" for number in theirs), "it went on elsewhere"
    assert max(map(len, ran.values())) <= 2, "and only once its gate had ended"
