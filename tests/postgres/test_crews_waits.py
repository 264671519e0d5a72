"""Items that wait at gates, in scatters that several workers run (SIG-07, SCAT-07)."""

from __future__ import annotations

import asyncio
from collections import Counter
from itertools import count
from typing import Any

from flowstone_async import Context, Gathered, Pipeline
from tests.engine.test_waits import SECRET, Done
from tests.postgres.test_crews import OFTEN, Engines, Who, engines
from tests.support.gate import Gate, soon
from tests.support.modes import mode
from tests.support.waits import Desk, opened, send

HELD, ALL = 10, 30
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
