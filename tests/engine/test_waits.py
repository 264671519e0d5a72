"""Waiting at gates inline (SIG, STEP): parked, evicted, suspended and woken. Memory and Postgres."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import anyio
import pytest

from flowstone_async import (
    ConfigError,
    Context,
    Engine,
    Gathered,
    Pipeline,
    Retry,
    StoreUnavailable,
    TimedOut,
    WaitingSignal,
)
from flowstone_async.clock import ManualClock
from tests.support.crash import kill, look_for_orphans
from tests.support.engines import OpenEngine
from tests.support.gate import Gate, soon
from tests.support.waits import Desk, in_state, opened, runs_of, send

SECRET: Any = {"secret": b"s" * 32}
PARKED: Any = {**SECRET, "park_after": False}
EVICTED: Any = {**SECRET, "park_after": 0, "poll": "50ms"}
IN_MEMORY = pytest.mark.not_in("evict", reason="is about a body in memory")
ALONE = pytest.mark.not_in("evict", reason="counts calls, or gates, of bodies that were not dropped")
both = pytest.mark.parametrize("options", [pytest.param(PARKED, marks=IN_MEMORY), EVICTED], ids=["parked", "evicted"])


@dataclass
class Done:
    url: str


def _remote(desk: Desk, calls: Counter[str], **options: Any) -> tuple[Pipeline, Any]:
    """Return an asset that starts a job in a step and waits for its callback."""
    pipe = Pipeline("remote")

    async def start(token: str) -> str:
        calls["start"] += 1
        return f"job of {token[:3]}"

    @pipe.asset(**options)
    async def job(ctx: Context) -> str:
        calls["body"] += 1
        gate = await desk.made(ctx.signal(Done))
        started = await ctx.step(start, gate.token)
        done = await gate
        return f"{started}: {done.url}"

    return pipe, job


@both
async def test_a_body_goes_on_with_what_was_signalled(open_engine: OpenEngine, options: Any):
    """SIG-06, STEP-01, STEP-06: typed; evicted or not, no step is called twice and no gate made twice."""
    desk, calls = Desk(), Counter[str]()
    pipe, job = _remote(desk, calls)
    engine = await open_engine(pipe, **options)
    run = await engine.submit(job)
    gate = await desk.gate()
    await opened(engine, gate.id)
    if options is EVICTED:
        await in_state(engine, run.id, "waiting")
    assert (await send(engine, gate.id, Done, Done("there"))).state == "accepted"
    assert await soon(run.result()) == "job of v1.: there"
    assert calls == {"start": 1, "body": 1 if options is PARKED else 2}
    assert {each.token for each in desk.gates} == {gate.token}


async def test_a_signal_before_its_gate_is_recorded_is_kept(open_engine: OpenEngine):
    """SIG-01: the token exists before the call outside, and is honoured from then on."""
    desk, early = Desk(), Gate()
    pipe = Pipeline("remote")

    @pipe.asset
    async def job(ctx: Context) -> str:
        gate = await desk.made(ctx.signal(Done))
        await early()
        return (await gate).url

    engine = await open_engine(pipe, **PARKED)
    run = await engine.submit(job)
    gate = await desk.gate()
    assert (await send(engine, gate.id, Done, Done("early"))).state == "early"
    early.open()
    assert await soon(run.result()) == "early"


@both
async def test_a_gate_whose_time_has_passed(open_engine: OpenEngine, options: Any):
    """SIG-06: `TimedOut` at the await, to be caught, and recorded: the branch that was taken is taken again."""
    pipe, caught = Pipeline("late"), list[bool]()

    async def other() -> str:
        return "without it"

    @pipe.asset
    async def job(ctx: Context) -> str:
        try:
            await ctx.signal(Done, timeout="20ms")
        except TimedOut:
            caught.append(ctx.replaying)
            return await ctx.step(other)
        return "with it"

    engine = await open_engine(pipe, **options)
    assert await soon(engine.run(job, on_wait="wait")) == "without it"
    assert len(caught) == 1


async def test_another_attempt_gives_an_expired_gate_its_time_again(open_engine: OpenEngine):
    """SIG-02, SIG-05: the same gate with the same token, open once more."""
    desk, pipe = Desk(), Pipeline("late")

    @pipe.asset(retry=Retry(attempts=2, backoff="none"))
    async def job(ctx: Context) -> str:
        gate = await desk.made(ctx.signal(Done, timeout="20ms" if ctx.attempt == 1 else "1h"))
        return (await gate).url

    engine = await open_engine(pipe, **PARKED)
    run = await engine.submit(job)
    first, second = await desk.gate(0), await desk.gate(1)
    assert first.token == second.token
    while (await opened(engine, first.id)).state != "open":
        await asyncio.sleep(0)
    assert (await send(engine, first.id, Done, Done("second time"))).state == "accepted"
    assert await soon(run.result()) == "second time"


async def test_a_gate_that_expires_for_good_fails_the_asset(open_engine: OpenEngine):
    pipe = Pipeline("late")

    @pipe.asset
    async def job(ctx: Context) -> str:
        return (await ctx.signal(Done, timeout="10ms", name="the callback")).url

    engine = await open_engine(pipe, **PARKED)
    with pytest.raises(TimedOut, match="nobody signalled gate 'the callback' in time"):
        await soon(engine.run(job, on_wait="wait"))


@both
async def test_sleeping(open_engine: OpenEngine, options: Any):
    """STEP-05: at or after its time, fixed when it is first awaited; `run` always awaits it."""
    pipe, seen = Pipeline("sleeps"), list[Any]()

    @pipe.asset
    async def rested(ctx: Context) -> int:
        begun = ctx.now()
        await ctx.sleep("20ms")
        await ctx.sleep(until=begun)
        seen.append((begun, ctx.now()))
        return len(seen)

    engine = await open_engine(pipe, **options)
    assert await soon(engine.run(rested)) == 1
    [(begun, ended)] = seen
    assert ended - begun >= timedelta(milliseconds=20)


async def test_what_sleep_refuses(open_engine: OpenEngine):
    pipe = Pipeline("sleeps")

    @pipe.asset
    async def rested(ctx: Context) -> list[str]:
        refused: list[str] = []
        for length, until in ((None, None), ("1s", ctx.now()), (None, ctx.now().replace(tzinfo=None)), (-1, None)):
            with pytest.raises(ConfigError) as caught:
                await ctx.sleep(length, until=until)
            refused.append(caught.value.message)
        return refused

    refused = await (await open_engine(pipe)).run(rested)
    assert [each.split("=")[0] for each in refused] == [
        *["ctx.sleep takes a length, or until"] * 2,
        "until",
        "ctx.sleep",
    ]


@ALONE
async def test_who_waits_takes_no_place_of_the_run(open_engine: OpenEngine):
    """STEP-06: and is counted again before it goes on."""
    desk, pipe, work, running, most = Desk(), Pipeline("places"), Gate(), set[str](), list[int]()

    def note(name: str) -> None:
        running.add(name)
        most.append(len(running))

    for number in range(3):

        @pipe.asset(name=f"waits_{number}")
        async def waits(ctx: Context, *, name: str = f"waits_{number}") -> str:
            note(name)
            gate = await desk.made(ctx.signal(Done, name=name))
            running.discard(name)
            done = await gate
            note(name)
            await asyncio.sleep(0)
            running.discard(name)
            return done.url

    @pipe.asset
    async def works() -> int:
        note("works")
        await work()
        running.discard("works")
        return 1

    engine = await open_engine(pipe, **PARKED)
    run = await engine.submit(*[f"waits_{number}" for number in range(3)], "works", concurrency=1)
    gates = [await desk.gate(number) for number in range(3)]
    await work.reached()
    for gate in gates:
        await opened(engine, gate.id)
        await send(engine, gate.id, Done, Done(gate.name))
    work.open()
    assert await soon(run.result()) == ("waits_0", "waits_1", "waits_2", 1)
    assert max(most) == 1


async def test_a_run_that_waits_is_suspended_and_raised(open_engine: OpenEngine):
    """APPR-03: with its open gates; the same call joins it later, and no second gate is made."""
    desk, calls = Desk(), Counter[str]()
    pipe, job = _remote(desk, calls)
    engine = await open_engine(pipe, **SECRET)
    for _ in range(2):
        with pytest.raises(WaitingSignal, match="it waits for 'Done' of asset 'job'") as caught:
            await soon(engine.run(job))
    [gate] = caught.value.details["gates"]
    assert gate == {"gate": desk.gates[0].id, "kind": "signal", "name": "Done"}
    assert calls == {"start": 1, "body": 1}
    assert not runs_of(engine)
    assert (await engine.report(job))["job"].state == "waiting"
    await send(engine, desk.gates[0].id, Done, Done("later"))
    assert await soon(engine.run(job)) == "job of v1.: later"
    assert calls == {"start": 1, "body": 2}
    assert len(await engine.runs()) == 1


async def test_a_store_that_is_away_while_a_run_is_suspended(open_engine: OpenEngine, monkeypatch: pytest.MonkeyPatch):
    """The run is left as it was, and let go of at the next look."""
    desk, calls = Desk(), Counter[str]()
    pipe, job = _remote(desk, calls)
    engine = await open_engine(pipe, **SECRET, poll="20ms")
    gates = engine._live().store.gates
    suspend, failed = gates.suspend, list[str]()

    async def away(run_id: str, fence: int, wakes: int) -> Any:
        if not failed:
            failed.append(run_id)
            raise StoreUnavailable("the store is away")
        return await suspend(run_id, fence, wakes)

    monkeypatch.setattr(gates, "suspend", away)
    with pytest.raises(WaitingSignal, match="'Done' of asset 'job'"):
        await soon(engine.run(job))
    assert failed
    assert calls == {"start": 1, "body": 1}


async def test_awaiting_a_run_that_is_suspended_meanwhile(open_engine: OpenEngine):
    """APPR-03: an engine without slots goes on with what is awaited in it."""
    desk, calls = Desk(), Counter[str]()
    pipe, job = _remote(desk, calls)
    engine = await open_engine(pipe, **EVICTED, slots=0)
    running = asyncio.create_task(engine.run(job, on_wait="wait"))
    gate = await desk.gate()
    await opened(engine, gate.id)
    [run_id] = [run.id for run in await engine.runs()]
    await in_state(engine, run_id, "waiting")
    await send(engine, gate.id, Done, Done("there"))
    assert await soon(running) == "job of v1.: there"


@pytest.mark.parametrize("elsewhere", [False, True], ids=["here", "elsewhere"])
async def test_waiting_for_an_asset_whose_run_is_suspended(open_engine: OpenEngine, elsewhere: bool):
    """RUN-25: such a run is active, whoever goes on with it."""
    desk, calls = Desk(), Counter[str]()
    pipe, job = _remote(desk, calls)
    engine = await open_engine(pipe, **EVICTED)
    run = await engine.submit(job)
    gate = await desk.gate()
    early = asyncio.create_task(engine.wait(job))
    await in_state(engine, run.id, "waiting")
    asked = await open_engine(pipe, **EVICTED, slots=0) if elsewhere else engine
    with pytest.raises(TimedOut):
        await asked.wait(job, timeout="1ms")
    waiting = asyncio.create_task(asked.wait(job))
    await send(engine, gate.id, Done, Done("there"))
    assert await soon(asyncio.gather(early, waiting)) == ["job of v1.: there"] * 2


async def test_cancelling_an_asset_whose_run_is_suspended(open_engine: OpenEngine):
    """RUN-26: as while its body is called."""
    desk, calls = Desk(), Counter[str]()
    pipe, job = _remote(desk, calls)
    engine = await open_engine(pipe, **EVICTED)
    run = await engine.submit(job)
    await in_state(engine, run.id, "waiting")
    await engine.cancel(job)
    assert (await run.status()).state == "cancelled"


async def test_the_rest_of_the_run_goes_on(open_engine: OpenEngine):
    """APPR-02: it waits once nothing of it can go on; what depends on the wait does not run."""
    desk, calls = Desk(), Counter[str]()
    pipe, _ = _remote(desk, calls)

    @pipe.asset
    async def beside() -> int:
        calls["beside"] += 1
        return 1

    @pipe.asset
    async def behind(job: str) -> str:
        return job.upper()

    engine = await open_engine(pipe, **SECRET)
    report = await soon(engine.report(behind, beside))
    assert {name: report[name].state for name in ("job", "beside")} == {"job": "waiting", "beside": "ok"}
    assert (report.state, report.ok) == ("waiting", False)
    await send(engine, desk.gates[0].id, Done, Done("there"))
    assert await soon(engine.run(behind, beside)) == ("JOB OF V1.: THERE", 1)
    assert calls == {"start": 1, "body": 2, "beside": 1}


async def test_one_of_several_bodies_is_evicted_alone(open_engine: OpenEngine):
    """STEP-06: while another one of the run goes on."""
    desk, calls, work = Desk(), Counter[str](), Gate()
    pipe, job = _remote(desk, calls)

    @pipe.asset
    async def works() -> int:
        await work()
        return 1

    engine = await open_engine(pipe, **EVICTED)
    run = await engine.submit(job, works)
    gate = await desk.gate()
    await opened(engine, gate.id)
    while not engine._live().flights[run.id].driver.waits.dormant:  # on record is not parked yet
        await asyncio.sleep(0)
    assert (await run.status()).state == "running"
    await send(engine, gate.id, Done, Done("there"))
    while calls["body"] < 2:
        await asyncio.sleep(0)
    work.open()
    assert await soon(run.result()) == ("job of v1.: there", 1)
    assert calls == {"start": 1, "body": 2}
    assert [event.type async for event in run.events()].count("asset.started") == 2


@ALONE
async def test_a_body_that_also_does_something_else_stays(open_engine: OpenEngine):
    """STEP-07: it is evicted once nothing but the wait is left."""
    pipe, begun, work, ended = Pipeline("busy"), list[int](), Gate(), Counter[str]()

    @pipe.asset
    async def job(ctx: Context) -> str:
        begun.append(1)
        async with anyio.create_task_group() as group:
            group.start_soon(work)
            done = await ctx.signal(Done)
        return done.url

    engine = await open_engine(pipe, **EVICTED)
    run = await engine.submit(job)
    await work.reached()
    [stored] = await soon(_gates(engine, run.id))
    await engine._live().services.clock.sleep(0)
    assert (await run.status()).state == "running"
    ended["here"] += 1
    await send(engine, stored.gate.id, Done, Done("there"))
    work.open()
    assert await soon(run.result()) == "there"
    assert len(begun) == 1


async def _gates(engine: Engine, run_id: str, count: int = 1) -> Any:
    while len(found := await engine._live().store.gates.of_run(run_id)) < count:
        await asyncio.sleep(0)
    return found


async def test_waits_beside_each_other(open_engine: OpenEngine):
    """STEP-07, STEP-09: all of the body waits; who was first is first when it is called again."""
    pipe, orders = Pipeline("first"), list[list[str]]()

    async def one(ctx: Context, name: str, order: list[str]) -> str:
        done = await ctx.signal(Done, name=name)
        order.append(name)
        return done.url

    @pipe.asset
    async def job(ctx: Context) -> list[str]:
        order: list[str] = []
        orders.append(order)
        await asyncio.gather(*(one(ctx, name, order) for name in ("a", "b", "c")))
        return order

    engine = await open_engine(pipe, **EVICTED)
    run = await engine.submit(job)
    gates = {each.gate.name: each.gate.id for each in await soon(_gates(engine, run.id, 3))}
    for name in ("c", "a", "b"):
        await in_state(engine, run.id, "waiting")
        await send(engine, gates[name], Done, Done(name))
    assert await soon(run.result()) == ["c", "a", "b"]
    assert orders[-1] == ["c", "a", "b"]


@pytest.mark.parametrize("way", ["swallows", "awaits", "steps", "returns"])
async def test_a_body_that_does_not_want_to_go(open_engine: OpenEngine, way: str):
    """STEP-08: it can record and commit nothing, fails nothing, and uses up no attempt."""
    desk, pipe, calls = Desk(), Pipeline("stubborn"), Counter[str]()

    async def count(what: str) -> str:
        calls[what] += 1
        return what

    @pipe.asset
    async def job(ctx: Context) -> str:
        calls["body"] += 1
        gate = await desk.made(ctx.signal(Done))
        evicted = True
        try:
            done = await gate
            evicted = False
        except asyncio.CancelledError:
            if way == "swallows":
                return await ctx.step(count, "swallowed")
            if way == "returns":
                return "nothing"
            raise
        finally:
            if evicted and way == "awaits":
                await asyncio.sleep(0)
                calls["cleaned up"] += 1
            if evicted and way == "steps":
                await ctx.step(count, "cleanup")
        return f"{done.url} in attempt {ctx.attempt}"

    engine = await open_engine(pipe, **EVICTED)
    run = await engine.submit(job)
    gate = await desk.gate()
    await in_state(engine, run.id, "waiting")
    await send(engine, gate.id, Done, Done("there"))
    assert await soon(run.result()) == "there in attempt 1"
    assert calls == {"body": 2, **({"cleaned up": 1} if way == "awaits" else {})}
    types = [event.type async for event in run.events() if getattr(event, "kind", "") != "sleep"]
    told = ["gate.opened", "gate.signalled", "asset.succeeded", "asset.finished", "run.succeeded", "run.finished"]
    assert types == ["run.started", "asset.started", *told]


@both
async def test_another_engine_goes_on_after_a_crash(open_engine: OpenEngine, options: Any):
    """SIG-02: with the same gate, also if the signal came in between."""
    desk, calls = Desk(), Counter[str]()
    pipe, job = _remote(desk, calls)
    dying, living = await open_engine(pipe, **options), await open_engine(pipe, **{**options, "slots": 0})
    run = await dying.submit(job)
    gate = await desk.gate()
    await opened(dying, gate.id)
    if options is EVICTED:
        await in_state(living, run.id, "waiting")
    await kill(dying)
    await send(living, gate.id, Done, Done("there"))
    await look_for_orphans(living)
    handle = await living.find(run.id)
    assert await soon(handle.result()) == "job of v1.: there"
    assert calls == {"start": 1, "body": 2}
    assert desk.gates[1].token == gate.token


async def test_leaving_the_engine_drops_what_waits_at_once(open_engine: OpenEngine):
    """STEP-06: shutdown evicts all, without waiting for the grace of bodies."""
    desk, calls = Desk(), Counter[str]()
    pipe, job = _remote(desk, calls)
    engine = await open_engine(pipe, **PARKED, grace="1h")
    other = await open_engine(pipe, **SECRET, slots=0)
    run = await engine.submit(job)
    gate = await desk.gate()
    await opened(other, gate.id)
    await soon(engine.__aexit__(None, None, None))
    await send(other, gate.id, Done, Done("there"))
    await look_for_orphans(other)
    assert await soon((await other.find(run.id)).result()) == "job of v1.: there"


@both
async def test_cancelling_a_run_that_waits(open_engine: OpenEngine, options: Any):
    """SIG-09: its gates are closed; parked or suspended."""
    desk, calls = Desk(), Counter[str]()
    pipe, job = _remote(desk, calls)
    engine = await open_engine(pipe, **options)
    run = await engine.submit(job)
    gate = await desk.gate()
    await opened(engine, gate.id)
    await run.cancel()
    assert (await run.status()).state == "cancelled"
    assert (await send(engine, gate.id, Done, Done("late"))).state == "closed"


@both
async def test_timeouts_stand_still_while_a_body_waits(options: Any):
    """RUN-11: those of the asset and of the run, in memory or suspended."""
    desk, calls, clock = Desk(), Counter[str](), ManualClock()
    pipe, job = _remote(desk, calls, timeout="10s")
    async with Engine(pipe, store="memory", clock=clock, **options) as engine:
        run = await engine.submit(job, timeout="10s")
        gate = await desk.gate()
        await opened(engine, gate.id)
        await clock.advance(30)
        await send(engine, gate.id, Done, Done("there"))
        await clock.advance(2)
        assert await soon(run.result()) == "job of v1.: there"


async def test_two_gates_of_one_key(open_engine: OpenEngine):
    """SIG-02: no two gates share one."""
    pipe = Pipeline("keys")

    @pipe.asset
    async def job(ctx: Context) -> list[str]:
        gates = [
            ctx.signal(Done),
            ctx.signal(Done),
            ctx.signal(Done, key="x"),
            ctx.signal(int),
            ctx.signal(Done, name="n"),
        ]
        with pytest.raises(ConfigError, match="the key 'x'"):
            ctx.signal(Done, key="x")
        return [gate.id for gate in gates]

    assert len(set(await (await open_engine(pipe, **SECRET)).run(job))) == 5


async def test_an_engine_without_a_secret(open_engine: OpenEngine):
    pipe = Pipeline("secretless")

    @pipe.asset
    async def job(ctx: Context) -> str:
        return ctx.signal(Done).url

    engine = await open_engine(pipe, **SECRET)
    with pytest.raises(ConfigError, match="base_url"):
        await engine.run(job)


async def test_items_wait_without_a_place(open_engine: OpenEngine):
    """SIG-07: each with a gate of its own; others begin meanwhile, and the scatter ends once all have."""
    desk, pipe, most = Desk(), Pipeline("items"), list[int]()
    running = set[int]()

    @pipe.scatter(range(6), max_concurrent=2, timeout="30s")
    async def answered(number: int, ctx: Context) -> str:
        running.add(number)
        most.append(len(running))
        gate = await desk.made(ctx.signal(Done, name=f"item {number}"))
        running.discard(number)
        done = await gate
        running.add(number)
        most.append(len(running))
        await asyncio.sleep(0)
        running.discard(number)
        return f"{number}: {done.url}"

    @answered.gather
    async def all_of_them(answers: Gathered[str]) -> list[str]:
        return [answer async for answer in answers]

    engine = await open_engine(pipe, **EVICTED)
    run = await engine.submit(all_of_them)
    gates = [await desk.gate(number) for number in range(6)]
    assert len({gate.token for gate in gates}) == 6
    for gate in gates:
        await opened(engine, gate.id)
    assert (await run.status()).state in ("running", "waiting")
    for gate in reversed(gates):
        await send(engine, gate.id, Done, Done(gate.name))
    assert await soon(run.result()) == [f"{number}: item {number}" for number in range(6)]
    assert max(most) <= 2
