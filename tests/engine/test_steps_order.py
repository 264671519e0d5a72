"""In which order a body that is called again gets results (STEP-09): as it saw them, and what is new behind them."""

from __future__ import annotations

import asyncio

import pytest

from flowstone_async import Context, LeaseLost, Pipeline
from flowstone_async._engine.replay import script as scripts
from tests.support.crash import kill, look_for_orphans
from tests.support.engines import OpenEngine
from tests.support.gate import Gate, soon
from tests.support.mapping import OFTEN, RARELY, Site, taken_over


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let results on record wait for ever: a test that leans on their being passed over after a while fails."""
    monkeypatch.setattr(scripts, "_PATIENCE", 1000.0)


async def test_whichever_was_first_is_first_again(open_engine: OpenEngine):
    """STEP-09."""
    pipe, site, winners, seen = Pipeline("steps"), Site(), list[list[str]](), list[str]()
    gates = {name: Gate() for name in "abc"}

    async def slow(name: str) -> str:
        await gates[name]()
        return name

    @pipe.asset
    async def race(ctx: Context) -> list[str]:
        order: list[str] = []

        async def one(name: str) -> None:
            order.append(await ctx.step.using(key=name)(slow, name))
            seen.append(name)

        await asyncio.gather(*map(one, "abc"))
        winners.append(list(order))
        await ctx.step(site.ended)
        return order

    dying, living = await open_engine(pipe, **OFTEN), await open_engine(pipe, **RARELY)
    running = asyncio.create_task(dying.run(race))
    for no, name in enumerate("cab", 1):
        await gates[name].reached()
        gates[name].open()
        async with asyncio.timeout(20):
            while len(seen) < no:
                await asyncio.sleep(0)
    await site.end.reached()
    await kill(dying)
    with pytest.raises(LeaseLost):
        await soon(running)
    site.end.open()
    await look_for_orphans(living)
    assert await soon(living.wait(race)) == ["c", "a", "b"]
    assert winners == [["c", "a", "b"]] * 2


@pytest.mark.parametrize("nested", [False, True])
async def test_who_waits_for_the_first_of_several_sees_the_first_alone(open_engine: OpenEngine, nested: bool):
    """STEP-09: with `asyncio.wait`, though all are on record now."""
    pipe, site, winners = Pipeline("steps"), Site(), list[list[str]]()
    gates = {name: Gate() for name in "abc"}

    async def slow(name: str) -> str:
        await gates[name]()
        return name

    async def around(ctx: Context, name: str) -> str:
        return await ctx.step.using(key=name)(slow, name)

    @pipe.asset
    async def race(ctx: Context) -> list[str]:
        order = list[str]()
        rest = {
            asyncio.create_task(around(ctx, name) if nested else ctx.step.using(key=name)(slow, name)) for name in "abc"
        }
        while rest:
            done, rest = await asyncio.wait(rest, return_when=asyncio.FIRST_COMPLETED)
            [first] = done
            order.append(first.result())
            winners.append(list(order))
        await ctx.step(site.ended)
        return order

    dying, living = await open_engine(pipe, **OFTEN), await open_engine(pipe, **RARELY)
    running = asyncio.create_task(dying.run(race))
    for count, name in enumerate("cab", 1):
        await gates[name].reached()
        gates[name].open()
        async with asyncio.timeout(20):
            while len(winners) < count:
                await asyncio.sleep(0)
    await site.end.reached()
    await kill(dying)
    with pytest.raises(LeaseLost):
        await soon(running)
    site.end.open()
    await look_for_orphans(living)
    assert await soon(living.wait(race)) == ["c", "a", "b"]
    assert winners[3:] == winners[:3] == [["c"], ["c", "a"], ["c", "a", "b"]]


@pytest.mark.parametrize("fails", [False, True])
async def test_what_is_new_comes_behind_what_was_seen(open_engine: OpenEngine, fails: bool):
    """STEP-09: a step that was slower, and would be the first now, is not; nor is its failure."""
    pipe, site = Pipeline("steps"), Site()

    async def slow() -> str:
        site.calls["slow"] += 1
        if site.calls["slow"] == 1:
            await asyncio.Event().wait()
        if fails:
            raise ValueError("slow")
        return "slow"

    async def quick() -> str:
        site.calls["quick"] += 1
        return "quick"

    @pipe.asset
    async def fanned(ctx: Context) -> str:
        both = [asyncio.ensure_future(ctx.step(fn)) for fn in (slow, quick)]
        done, rest = await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        for task in rest:
            task.cancel()
        await asyncio.wait(both)
        [first] = done
        await ctx.step(site.ended)
        return first.result()

    assert await taken_over(open_engine, pipe, site.end) == "quick"
    assert site.calls == {"slow": 2, "quick": 1}


async def test_nobody_waits_for_what_is_told_at_once(open_engine: OpenEngine):
    """STEP-09, STEP-11, STEP-12: times, and changes that a body had passed, are no results that somebody waits for."""
    pipe, site = Pipeline("steps"), Site()

    @pipe.asset
    async def fanned(ctx: Context) -> list[int]:
        found = list[int]()
        for number in range(3):
            ctx.now()
            if ctx.patched(f"change {number}"):
                found.append((await ctx.step(site.fetch, number)).number)
        await ctx.step(site.ended)
        return found

    assert await taken_over(open_engine, pipe, site.end) == [0, 1, 2]
    assert site.made == {0: 1, 1: 1, 2: 1}
