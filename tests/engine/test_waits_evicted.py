"""Bodies that do not want to go when they are evicted: what they do then has no effect (STEP-07, STEP-08)."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from flowstone_async import ConfigError, Context, Engine, Pipeline, TimedOut
from flowstone_async.clock import ManualClock
from tests.support.engines import OpenEngine
from tests.support.gate import Gate, soon
from tests.support.waits import Desk, in_state, opened, send

SECRET: Any = {"secret": b"s" * 32, "poll": "50ms"}
EVICTED: Any = {**SECRET, "park_after": 0}


@dataclass
class Done:
    url: str


class Stubborn:
    """A body that waits at a gate inside of something, and does that again once it is signalled."""

    def __init__(self, within: Callable[[Context, Callable[[], Awaitable[Done]]], Awaitable[Done]]) -> None:
        self.desk, self.calls, self.work = Desk(), Counter[str](), Gate()
        self.pipe = Pipeline("stubborn")

        @self.pipe.asset
        async def job(ctx: Context) -> str:
            self.calls["body"] += 1
            gate = await self.desk.made(ctx.signal(Done))

            async def answer() -> Done:
                return await gate

            return (await within(ctx, answer)).url

        @self.pipe.asset
        async def works() -> int:
            await self.work()
            return 1

    async def called(self, times: int) -> None:
        async def called() -> None:
            while self.calls["body"] < times:
                await asyncio.sleep(0)

        await soon(called())

    async def answered(self, engine: Engine) -> None:
        gate = await self.desk.gate()
        assert (await send(engine, gate.id, Done, Done("there"))).state == "accepted"


async def _recorded(engine: Engine, run_id: str) -> set[str]:
    """Return what is on record of the first gate's body, but for what mode `evict` puts before it."""
    store = engine._live().store
    [gate, *_] = [each.gate for each in await store.gates.of_run(run_id) if each.gate.kind == "signal"]
    return {each.key for each in await store.steps.recorded(run_id, gate.body) if "before" not in each.key}


async def _count(what: str) -> str:
    raise AssertionError(f"{what} is called although its body is evicted")


@pytest.mark.parametrize("call", ["step", "map", "group", "signal", "sleep", "first", "uuid"])
async def test_durable_calls_of_an_evicted_body_do_nothing(open_engine: OpenEngine, call: str):
    """STEP-08: whichever they are, awaited in `finally`."""
    ended: list[str] = []

    async def durable(ctx: Context) -> None:
        match call:
            case "step":
                await ctx.step(_count, "step")
            case "map":
                async for _ in ctx.map(_count, ["map"]):
                    pass
            case "group":
                async with ctx.group() as group:
                    group.start(_count, "group")
            case "signal":
                await ctx.signal(Done, name="other")
            case "sleep":
                await ctx.sleep("1h")
            case "first":
                await ctx.first(ctx.step(_count, "first"), ctx.sleep("1h"))
            case _:
                ctx.uuid()

    async def within(ctx: Context, answer: Callable[[], Awaitable[Done]]) -> Done:
        done = None
        try:
            done = await answer()
            return done
        finally:
            if done is None:
                try:
                    await durable(ctx)
                finally:
                    ended.append(call)

    job = Stubborn(within)
    engine = await open_engine(job.pipe, **EVICTED)
    run = await engine.submit("job")
    await opened(engine, (await job.desk.gate()).id)
    await in_state(engine, run.id, "waiting")
    await _driven_no_more(engine, run.id)
    assert len(ended) == 1
    assert await _recorded(engine, run.id) == set()
    calls = job.calls["body"]
    await job.answered(engine)
    assert await soon(run.result()) == "there"
    assert job.calls["body"] == calls + 1
    kinds = {each.gate.name for each in await engine._live().store.gates.of_run(run.id)}
    assert kinds <= {"Done", "sleep"}


async def _driven_no_more(engine: Engine, run_id: str) -> None:
    async def left() -> None:
        while run_id in engine._live().flights:
            await asyncio.sleep(0)

    await soon(left())


@pytest.mark.parametrize("apart", [False, True], ids=["suspended", "apart"])
async def test_a_body_that_takes_longer_than_its_grace(
    open_engine: OpenEngine, caplog: pytest.LogCaptureFixture, apart: bool
):
    """STEP-08: it is cancelled at every await from then on, and what it returns is nobody's value."""
    swallowed: list[int] = []

    async def within(ctx: Context, answer: Callable[[], Awaitable[Done]]) -> Done:
        try:
            return await answer()
        except asyncio.CancelledError:
            for number in range(3):
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    swallowed.append(number)
            return Done("late")

    job = Stubborn(within)
    engine = await open_engine(job.pipe, **EVICTED, cancel_grace="20ms")
    with caplog.at_level(logging.WARNING, "flowstone"):
        run = await engine.submit("job", *(["works"] if apart else []))
        await opened(engine, (await job.desk.gate()).id)
        if not apart:
            await in_state(engine, run.id, "waiting")
            await _driven_no_more(engine, run.id)
        else:
            await soon(_until(lambda: len(swallowed) == 3))
    assert swallowed == [0, 1, 2]
    assert ("is evicted and has not ended" if apart else "did not end within its grace") in caplog.text
    calls = job.calls["body"]
    await job.answered(engine)
    await job.called(calls + 1)
    job.work.open()
    assert await soon(run.result()) == (("there", 1) if apart else "there")
    assert job.calls["body"] == calls + 1


async def _until(holds: Callable[[], bool]) -> None:
    while not holds():
        await asyncio.sleep(0)


@pytest.mark.not_in("evict", reason="counts calls of bodies that were not dropped")
async def test_a_wait_behind_a_shield_stays_in_memory(open_engine: OpenEngine):
    """STEP-07: nobody can see through it."""

    async def within(ctx: Context, answer: Callable[[], Awaitable[Done]]) -> Done:
        return await asyncio.shield(asyncio.ensure_future(answer()))

    job = Stubborn(within)
    engine = await open_engine(job.pipe, **EVICTED)
    run = await engine.submit("job")
    await opened(engine, (await job.desk.gate()).id)
    for _ in range(3):
        await engine._live().services.watch._look()
    assert (await run.status()).state == "running"
    await job.answered(engine)
    assert await soon(run.result()) == "there"
    assert job.calls["body"] == 1


async def test_a_shielded_wait_ends_with_its_body(open_engine: OpenEngine):
    """STEP-08: whoever leaves the engine leaves no wait behind, and another one goes on."""
    inner: list[asyncio.Task[Done]] = []

    async def within(ctx: Context, answer: Callable[[], Awaitable[Done]]) -> Done:
        async def waits() -> Done:
            return await answer()

        inner.append(asyncio.create_task(waits()))
        return await asyncio.shield(inner[-1])

    job = Stubborn(within)
    engine = await open_engine(job.pipe, **SECRET, grace="1ms")
    run = await engine.submit("job")
    await opened(engine, (await job.desk.gate()).id)
    await soon(engine.__aexit__(None, None, None))
    await asyncio.sleep(0)
    assert all(each.done() for each in inner)
    other = await open_engine(job.pipe, **EVICTED)
    await job.answered(other)
    assert await soon((await other.find(run.id)).result()) == "there"


async def test_a_generator_that_is_left_open(open_engine: OpenEngine):
    """STEP-08: its `finally` runs once the body was dropped, and records nothing."""
    closed: list[str] = []

    async def within(ctx: Context, answer: Callable[[], Awaitable[Done]]) -> Done:
        done: list[Done] = []

        async def numbers() -> AsyncGenerator[int]:
            try:
                yield 1
                yield 2
            finally:
                closed.append("closed")
                if not done:
                    with pytest.raises((ConfigError, asyncio.CancelledError)):  # whether it is closed now, or later
                        await ctx.step(_count, "a generator's end")

        left_open = numbers()
        await anext(left_open)
        done.append(await answer())
        await left_open.aclose()
        return done[0]

    job = Stubborn(within)
    engine = await open_engine(job.pipe, **EVICTED)
    run = await engine.submit("job")
    await in_state(engine, run.id, "waiting")
    await _driven_no_more(engine, run.id)
    gc.collect()
    await soon(_until(lambda: len(closed) == 1))
    assert await _recorded(engine, run.id) == set()
    await job.answered(engine)
    assert await soon(run.result()) == "there"
    assert closed == ["closed"] * job.calls["body"]


async def test_context_managers_end_whenever_the_body_is_dropped(open_engine: OpenEngine):
    """STEP-08: as often as they begin, in order."""
    log: list[str] = []

    @asynccontextmanager
    async def locked() -> AsyncGenerator[None]:
        log.append("lock")
        try:
            yield
        finally:
            await asyncio.sleep(0)
            log.append("free")

    async def within(ctx: Context, answer: Callable[[], Awaitable[Done]]) -> Done:
        async with locked():
            return await answer()

    job = Stubborn(within)
    engine = await open_engine(job.pipe, **EVICTED)
    run = await engine.submit("job")
    await in_state(engine, run.id, "waiting")
    await job.answered(engine)
    assert await soon(run.result()) == "there"
    assert log == ["lock", "free"] * job.calls["body"]


async def test_time_passes_again_once_a_body_goes_on():
    """RUN-11: the run's time stands still only while all of it waits."""
    desk, pipe, work, clock = Desk(), Pipeline("limited"), Gate(), ManualClock()

    @pipe.asset
    async def job(ctx: Context) -> str:
        await (await desk.made(ctx.signal(Done)))
        await work()
        return "in time"

    async with Engine(pipe, store="memory", clock=clock, secret=b"s" * 32, park_after=False) as engine:
        run = await engine.submit(job, timeout="10s")
        gate = await desk.gate()
        await opened(engine, gate.id)
        await clock.advance(30)
        await send(engine, gate.id, Done, Done("there"))
        await clock.advance(2)
        await work.reached()
        await clock.advance(11)
        with pytest.raises(TimedOut):
            await soon(run.result())


async def test_a_pipeline_by_itself_wakes_what_sleeps():
    """STEP-05, STEP-06: where nobody sweeps, whoever awaits the run does."""
    pipe, calls = Pipeline("sleeps"), list[int]()

    @pipe.asset(park_after=0)
    async def rested(ctx: Context) -> int:
        calls.append(1)
        await ctx.sleep("20ms")
        return len(calls)

    assert await soon(pipe.run(rested)) == 2


async def test_a_condition_is_asked_once(open_engine: OpenEngine):
    """FLOW-04: a body that has begun is called again, whatever its condition would say by now."""
    pipe, asked, desk = Pipeline("conditional"), list[int](), Desk()

    def wanted() -> bool:
        asked.append(1)
        return len(asked) == 1

    @pipe.asset(when=wanted)
    async def job(ctx: Context) -> str:
        return (await (await desk.made(ctx.signal(Done)))).url

    engine = await open_engine(pipe, **EVICTED)
    run = await engine.submit(job)
    await in_state(engine, run.id, "waiting")
    await send(engine, (await desk.gate()).id, Done, Done("there"))
    assert await soon(run.result()) == "there"
    assert asked == [1]


async def test_a_body_that_waits_again_whatever_comes_does_not_hold_the_loop(open_engine: OpenEngine):
    """STEP-08: each durable call of an evicted body raises, and lets others have their turn."""
    pipe, turns = Pipeline("stubborn"), list[int]()
    passed = 0

    @pipe.asset
    async def job(ctx: Context) -> str:
        for _ in range(100):
            try:
                return await ctx.signal(str, timeout=False)
            except asyncio.CancelledError:
                turns.append(passed)
        return "gave up"

    engine = await open_engine(pipe, **EVICTED)
    await engine.submit(job)
    async with asyncio.timeout(20):
        while len(turns) < 100:
            passed += 1
            await asyncio.sleep(0)
    assert len(set(turns)) > 50
