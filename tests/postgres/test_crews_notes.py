"""What bodies of a scatter note and look at where they run for another worker (CACHE-08, FLOW-03)."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass

from flowstone_async import Context, Pipeline
from flowstone_async.types import AssetKey
from tests.postgres.test_crews import OFTEN, Engines, Who, engines
from tests.support.gate import soon

__all__ = ["engines"]


@dataclass(frozen=True)
class Args:
    limit: int = 1


async def test_what_bodies_note_at_a_helper_reaches_the_record(engines: Engines) -> None:
    """CACHE-08, FLOW-03: params that an item looked at are an input, whoever ran it."""
    pipe, helped, gate, calls = Pipeline("noting", params=Args), asyncio.Event(), asyncio.Event(), Counter[str]()

    @pipe.resource
    async def who() -> Who:
        raise AssertionError("each engine is given its name")

    @pipe.scatter(range(40), max_concurrent=4)
    async def items(no: int, who: Who, ctx: Context) -> int:
        calls[who] += 1
        if who == "a":
            await (helped if no < 2 else gate).wait()
        else:
            ctx.metadata(helper=ctx.params.limit)
            gate.set()
        return no

    first = await engines.open(pipe, resources={Who: Who("a")}, **OFTEN)
    run = asyncio.create_task(first.run("items"))
    async with asyncio.timeout(20):
        while calls["a"] < 4:
            await asyncio.sleep(0)
        await engines.open(pipe, resources={Who: Who("b")}, **OFTEN)
        while 2 not in engines.limits:
            await asyncio.sleep(0)
    helped.set()
    await soon(run)
    assert calls["b"]
    key = AssetKey("noting", "items", "", "")
    [state] = (await first._live().store.states([key])).values()
    assert state.current is not None
    assert state.current.metadata == {"helper": 1}
    assert [each.name for each in state.current.inputs if each.kind == "param"] == ["*"]
