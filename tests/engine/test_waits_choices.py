"""What a body decides while it waits: the first of several (STEP-09), and the way of changed code (STEP-11)."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from flowstone_async import ConfigError, Context, Engine, Pipeline, Retry, TimedOut
from flowstone_async._engine.replay.facts import body_id
from flowstone_async._engine.replay.script import Script
from tests.engine.test_waits import EVICTED, SECRET, Done, both
from tests.support.crash import kill, look_for_orphans
from tests.support.engines import OpenEngine
from tests.support.gate import Gate, soon
from tests.support.waits import Desk, in_state, opened, send


@both
async def test_the_first_of_several_waits(open_engine: OpenEngine, options: Any):
    """STEP-09: whichever ended first, also when the body is called again after others have ended too."""
    desk, pipe, seen = Desk(), Pipeline("race"), list[tuple[int, str]]()

    @pipe.asset
    async def job(ctx: Context) -> str:
        left, right = await desk.made(ctx.signal(Done, name="left")), await desk.made(ctx.signal(Done, name="right"))
        which, done = await ctx.first(left, right, ctx.sleep("1h"))
        seen.append((which, done.url))
        last = await desk.made(ctx.signal(Done, name="last"))
        return f"{which} {done.url} {(await last).url}"

    engine = await open_engine(pipe, **options)
    run = await engine.submit(job)
    left, right = await desk.gate(0), await desk.gate(1)
    await opened(engine, right.id)
    await send(engine, right.id, Done, Done("right"))
    while not seen:
        await asyncio.sleep(0)
    last = next(gate for gate in desk.gates if gate.name == "last")
    await opened(engine, last.id)
    if options is EVICTED:
        await in_state(engine, run.id, "waiting")
    await send(engine, left.id, Done, Done("left"))
    await send(engine, last.id, Done, Done("last"))
    assert await soon(run.result()) == "1 right last"
    assert set(seen) == {(1, "right")}


async def test_the_first_may_be_one_that_fails(open_engine: OpenEngine):
    pipe = Pipeline("race")

    @pipe.asset
    async def job(ctx: Context) -> str:
        with pytest.raises(ConfigError, match="nothing to wait for"):
            await ctx.first()
        try:
            await ctx.first(ctx.signal(Done, timeout=False), ctx.signal(Done, timeout="10ms"))
        except TimedOut:
            return "too late"
        return "in time"

    assert await soon((await open_engine(pipe, **SECRET)).run(job, on_wait="wait")) == "too late"


async def test_a_race_of_steps_is_on_record(open_engine: OpenEngine):
    """STEP-09: whoever lost is not called again."""
    pipe, calls, never = Pipeline("race"), Counter[str](), Gate()

    async def quick() -> str:
        calls["quick"] += 1
        return "quick"

    async def slow() -> str:
        calls["slow"] += 1
        await never()
        return "slow"

    @pipe.asset(retry=Retry(2, backoff="none"))
    async def job(ctx: Context) -> str:
        which, value = await ctx.first(ctx.step(slow), ctx.step(quick))
        if ctx.attempt == 1:
            raise ValueError("again")
        return f"{which} {value}"

    assert await soon((await open_engine(pipe)).run(job)) == "1 quick"
    assert calls == {"quick": 1, "slow": 1}


@pytest.mark.not_in("evict", reason="what evicts puts a wait on record first")
async def test_whoever_comes_second_delays_nobody_later(monkeypatch: pytest.MonkeyPatch):
    """STEP-09: two that end in the same turn are both on record, and only one is asked for again."""

    def impatient(*_: object) -> None:
        raise AssertionError("a result was waited for that nobody asks for")

    monkeypatch.setattr(Script, "_lose_patience", impatient)
    pipe, runs = Pipeline("race"), list[tuple[int, str]]()

    @pipe.asset(retry=Retry(2, backoff="none"))
    async def job(ctx: Context) -> str:
        found = await ctx.first(ctx.step(one), ctx.step(two))
        runs.append(found)
        return found[1]

    async with Engine(pipe, store="memory") as engine:
        run = await engine.submit(job)
        value = await soon(run.result())
        session = engine._live()
        records = await session.store.steps.recorded(run.id, body_id(run.id, "job", "", ""))
        script, asked = Script(records, 1, "job"), [each for each in records if each.kind == "first"]
        winner = next(each for each in records if each.key.startswith(value))
        await soon(script.turn(winner))
        script.reach(asked[0])
        await soon(script.turn(asked[0]))
        assert not script.replaying


async def test_times_that_were_told_before_a_cancelled_write_are_written_with_the_next(open_engine: OpenEngine):
    """STEP-12: a step that is cancelled while it goes on record takes nothing else with it."""
    pipe, hold, told = Pipeline("times"), Gate(), list[str]()

    @pipe.asset(retry=Retry(2, backoff="none"))
    async def job(ctx: Context) -> list[str]:
        told.append(ctx.now().isoformat())
        steps = engine._live().store.steps
        if ctx.attempt == 1:
            record = steps.record

            async def held(*args: Any, **options: Any) -> Any:
                await hold()
                return await record(*args, **options)

            monkey.setattr(steps, "record", held)
            step = asyncio.create_task(ctx.step(one))
            await hold.reached()
            step.cancel()
            await asyncio.wait([step])
            monkey.undo()
            await ctx.step(two)
            raise ValueError("again")
        return told

    engine = await open_engine(pipe)
    with pytest.MonkeyPatch.context() as monkey:
        first, second = await soon(engine.run(job))
    assert first == second


async def _changed(
    open_engine: OpenEngine, before: Callable[[Context, Gate], Any], after: Callable[[Context, Gate], Any]
) -> list[str]:
    """Run a body until it waits at the gate, change its code, and return what another engine gets of it."""
    gate = Gate()

    def pipeline(code: Callable[[Context, Gate], Any]) -> tuple[Pipeline, Any]:
        pipe = Pipeline("patched")

        @pipe.asset(name="job")
        async def job(ctx: Context) -> list[str]:
            return await code(ctx, gate)

        return pipe, job

    (old, _), (new, _) = pipeline(before), pipeline(after)
    dying, living = await open_engine(old, poll="10ms"), await open_engine(new, poll="60s", slots=0)
    run = await dying.submit("job")
    await gate.reached()
    await kill(dying)
    gate.open()
    await look_for_orphans(living)
    return await soon((await living.find(run.id)).result())


async def one() -> str:
    return "one"


async def two() -> str:
    return "two"


async def test_a_body_that_had_passed_a_change_goes_the_old_way(open_engine: OpenEngine):
    """STEP-11: and nothing shifts."""

    async def before(ctx: Context, gate: Gate) -> list[str]:
        found = [await ctx.step(one)]
        await gate()
        return found

    async def after(ctx: Context, gate: Gate) -> list[str]:
        found = [await ctx.step(two)] if ctx.patched("two first") else []
        found.append(await ctx.step(one))
        await gate()
        found.append(str(ctx.patched("two last")))
        return found

    assert await _changed(open_engine, before, after) == ["one", "True"]


async def test_a_body_that_comes_to_a_change_first_keeps_to_it(open_engine: OpenEngine):
    """STEP-11: the same on every resume."""

    async def code(ctx: Context, gate: Gate) -> list[str]:
        found = [str(ctx.patched("change")), str(ctx.patched("change")), await ctx.step(two)]
        await gate()
        with pytest.raises(ConfigError, match="takes a name"):
            ctx.patched("")
        return found

    assert await _changed(open_engine, code, code) == ["True", "True", "two"]
