"""Events of gates, requests for approval and steps: EVT-04, EVT-05. Memory and Postgres."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from flowstone_async import (
    After,
    ApprovalDecided,
    ApprovalEscalated,
    ApprovalEvent,
    ApprovalExpired,
    ApprovalGate,
    ApprovalOpened,
    ConfigError,
    Context,
    Engine,
    Event,
    ExecutionError,
    GateCancelled,
    GateEvent,
    GateOpened,
    GateRearmed,
    GateSignalled,
    GateTimedOut,
    Gathered,
    LeaseLost,
    Pipeline,
    Rearm,
    Rejected,
    Retry,
    RunHandle,
    SignalGate,
    StepEvent,
    StepFailed,
    StepFinished,
    TimedOut,
    io,
)
from flowstone_async._engine.run import RunDriver
from tests.support.crash import ended, kill, look_for_orphans
from tests.support.engines import OpenEngine
from tests.support.gate import Gate, soon
from tests.support.waits import Desk, in_state, opened, send

SECRET: Any = {"secret": b"s" * 32, "poll": "50ms"}
PARKED: Any = {**SECRET, "park_after": False}
EVICTED: Any = {**SECRET, "park_after": 0}
ways = pytest.mark.parametrize("options", [PARKED, EVICTED], ids=["parked", "evicted"])
IN_MEMORY = pytest.mark.not_in("evict", reason="is about a body in memory")
WAITS = (GateEvent, ApprovalEvent, StepEvent)


async def _all(run: RunHandle[Any]) -> list[Event]:
    """Return all events of a run, whose numbers have no gap; its last one is its end."""
    events = [event async for event in run.events()]
    assert [event.no for event in events] == list(range(1, len(events) + 1))
    assert (events[0].type, events[-1].type) == ("run.started", "run.finished")
    return events


def _of_waits(events: list[Event]) -> list[Any]:
    """Return those of waits and steps, but for sleeps: mode `evict` puts one before each body."""
    return [each for each in events if isinstance(each, WAITS) and not _sleeps(each)]


def _sleeps(event: Event) -> bool:
    return isinstance(event, GateEvent) and event.kind == "sleep"


def _types(events: list[Event]) -> list[str]:
    return [each.type for each in _of_waits(events)]


def _shop(desk: Desk, calls: Counter[str]) -> Pipeline:
    """Return an asset that makes a step, waits, and makes another one."""
    pipe = Pipeline("shop")

    async def charge(amount: int) -> str:
        calls["charge"] += 1
        return f"receipt {amount}"

    async def ship(to: str) -> str:
        calls["ship"] += 1
        return to

    @pipe.asset
    async def order(ctx: Context) -> str:
        receipt = await ctx.step(charge, 5)
        address = await (await desk.made(ctx.signal(str, name="address", timeout="1d")))
        return f"{receipt} to {await ctx.step(ship, address)}"

    return pipe


@ways
async def test_a_body_that_waits_is_told_in_order(open_engine: OpenEngine, options: Any):
    """EVT-04, EVT-05: once each, however often the body is called; typed, with who waits, and how long that took."""
    desk, calls = Desk(), Counter[str]()
    pipe = _shop(desk, calls)
    heard: list[Event] = []
    pipe.on(GateEvent)(heard.append)
    pipe.on(StepEvent)(heard.append)
    engine, other = await open_engine(pipe, **options), await open_engine(pipe, **options, slots=0)
    run = await engine.submit("order")
    gate = await desk.gate()
    stored = await opened(engine, gate.id)
    if options is EVICTED:
        await in_state(engine, run.id, "waiting")
    await send(other, gate.id, str, "the moon")
    assert await soon(run.result()) == "receipt 5 to the moon"
    events = await _all(run)
    told = _of_waits(events)
    assert [each.type for each in told] == ["step.finished", "gate.opened", "gate.signalled", "step.finished"]
    first, begun, ended, last = told
    assert isinstance(first, StepFinished)
    assert isinstance(last, StepFinished)
    assert (first.step, last.step, first.attempt) == ("charge#0", "ship#0", 1)
    assert first.seconds is not None
    assert isinstance(begun, GateOpened)
    assert (begun.asset, begun.gate, begun.name, begun.kind) == ("order", gate.id, "address", "signal")
    assert (begun.at, begun.due) == (stored.opened_at, stored.due)
    assert isinstance(ended, GateSignalled)
    assert ended.seconds == (ended.at - begun.at).total_seconds() >= 0
    assert _of_waits(heard) == told
    assert [each async for each in _some(other, GateEvent, len(_gates(events)))] == _gates(events)


def _gates(events: list[Event]) -> list[Event]:
    return [each for each in _of_waits(events) if isinstance(each, GateEvent)]


async def _some(engine: Engine, kind: type[Event], count: int) -> Any:
    """Yield the first events of all runs of a type, but for sleeps."""
    reading = engine.events(types=kind)
    while count:
        event = await soon(anext(reading))
        if not _sleeps(event):
            count -= 1
            yield event


@IN_MEMORY
async def test_nothing_of_what_was_sent_is_told(open_engine: OpenEngine):
    """EVT-04: no token, payload, result or argument in what is stored."""
    desk, pipe = Desk(), Pipeline("quiet")

    async def pay(card: str) -> str:
        return f"paid with {card}"

    @pipe.asset
    async def order(ctx: Context) -> str:
        await ctx.step(pay, "4111-1111")
        await (await desk.made(ctx.signal(str, token="a chosen token")))
        return await (await desk.made(ctx.signal(str)))

    engine = await open_engine(pipe, **PARKED)
    run = await engine.submit("order")
    for number in range(2):
        gate = await desk.gate(number)
        await opened(engine, gate.id)
        await engine.signal(gate.token, "what was sent")
    await soon(run.result())
    stored = json.dumps([each.body for each in await engine._live().store.events(run.id)], default=str)
    assert "gate" in stored
    for secret in ("4111", "paid with", "chosen token", "what was sent", (await desk.gate(1)).token[4:30]):
        assert secret not in stored


async def test_a_gate_that_times_out_and_is_opened_again(open_engine: OpenEngine):
    """EVT-04: with its deadlines; after `Rearm` once more."""
    pipe, calls = Pipeline("late"), Counter[str]()

    @pipe.asset(signal=str)
    async def job(ctx: Context) -> str | SignalGate[str]:
        return ctx.signal(str, timeout="10ms")

    @job.on_timeout
    async def late() -> Rearm | str:
        calls["late"] += 1
        return Rearm("20ms") if calls["late"] == 1 else "gone on"

    engine = await open_engine(pipe, **SECRET)
    run = await engine.submit("job")
    assert await soon(run.result()) == "gone on"
    told = _of_waits(await _all(run))
    assert [type(each) for each in told] == [GateOpened, GateTimedOut, GateRearmed, GateTimedOut]
    assert (told[0].due, told[2].due) == (told[1].due, told[3].due)
    assert {each.gate for each in told} == {told[0].gate}


@ways
async def test_another_attempt_gives_a_gate_its_time_again(open_engine: OpenEngine, options: Any):
    """EVT-04, SIG-06: as `gate.rearmed`, once, also where the body is dropped and called again meanwhile."""
    pipe = Pipeline("late")

    @pipe.asset(retry=Retry(2, backoff="none"))
    async def job(ctx: Context) -> str:
        return await ctx.signal(str, timeout="10ms")

    engine = await open_engine(pipe, **options)
    run = await engine.submit("job")
    with pytest.raises(TimedOut):
        await soon(run.result())
    assert _types(await _all(run)) == ["gate.opened", "gate.expired", "gate.rearmed", "gate.expired"]


async def test_a_sleep_is_a_gate_that_expires(open_engine: OpenEngine):
    """EVT-04."""
    pipe = Pipeline("sleepy")

    @pipe.asset
    async def job(ctx: Context) -> None:
        await ctx.sleep("5ms")

    engine = await open_engine(pipe, **SECRET)
    run = await engine.submit("job")
    await soon(run.result())
    told = [each.type for each in await _all(run) if _sleeps(each)]
    assert told[-2:] == ["gate.opened", "gate.expired"]


async def test_a_step_that_fails(open_engine: OpenEngine):
    """EVT-04: once in each attempt, with the error; the result of the attempt that succeeds is told as such."""
    pipe, calls = Pipeline("flaky"), Counter[str]()

    async def call() -> str:
        calls["call"] += 1
        if calls["call"] == 1:
            raise ConnectionError("password=hunter2 was refused")
        return "there"

    @pipe.asset(retry=Retry(2, backoff="none"))
    async def job(ctx: Context) -> str:
        return await ctx.step(call)

    engine = await open_engine(pipe, **SECRET)
    run = await engine.submit("job")
    assert await soon(run.result()) == "there"
    failed, finished = _of_waits(await _all(run))
    assert isinstance(failed, StepFailed)
    assert isinstance(failed.error, ExecutionError)
    assert "hunter2" not in str(failed.error)
    assert isinstance(finished, StepFinished)
    assert (failed.step, failed.attempt, finished.attempt) == (finished.step, 1, 2)


def _asks(**options: Any) -> Pipeline:
    pipe = Pipeline("release")

    @pipe.asset
    async def deploy(ctx: Context) -> str:
        decision = await ctx.approval("Deploy?", **options)
        return f"by {decision.by}"

    @pipe.asset
    async def draft() -> str | ApprovalGate[str]:
        return ApprovalGate("Publish?", value="text", **options)

    return pipe


@pytest.mark.parametrize("asset", ["deploy", "draft"])
@pytest.mark.parametrize("approved", [True, False])
async def test_a_request_and_its_decision(open_engine: OpenEngine, asset: str, approved: bool):
    """EVT-04: who decided what, from whichever process."""
    pipe = _asks()
    engine, other = await open_engine(pipe, **EVICTED), await open_engine(pipe, **EVICTED, slots=0)
    run = await engine.submit(asset)
    await in_state(engine, run.id, "waiting")
    [request] = await other.approvals.pending()
    before = [each async for each in _some(other, ApprovalEvent, 1)]
    assert [type(each) for each in before] == [ApprovalOpened]  # told before anybody has decided
    await (other.approve if approved else other.reject)(request.id, by="ada@example.com", reason="s3cret reason")
    if approved:
        await soon(run.result())
    else:
        with pytest.raises(Rejected):
            await soon(run.result())
    made, decided = _of_waits(await _all(run))
    assert isinstance(made, ApprovalOpened)
    assert isinstance(decided, ApprovalDecided)
    assert (made.request, decided.request, made.name) == (request.id, request.id, request.name)
    assert made.due == request.due
    assert (decided.decision, decided.by) == ("approved" if approved else "rejected", "ada@example.com")
    assert decided.seconds == (decided.at - made.at).total_seconds()


@pytest.mark.parametrize("asset", ["deploy", "draft"])
async def test_a_request_that_grows_old(open_engine: OpenEngine, asset: str):
    """EVT-04: it is told once that more people were, and before anybody has decided."""

    async def tell(_: object) -> None: ...

    pipe = _asks(escalate=[After("10ms", notify=[tell])])
    engine = await open_engine(pipe, **EVICTED)
    run = await engine.submit(asset)
    told = [each async for each in _some(engine, ApprovalEvent, 2)]
    assert isinstance(told[1], ApprovalEscalated)
    assert (told[1].escalation, told[1].seconds >= 0.01) == (0, True)
    await engine.approve(told[1].request, by="ada")
    await soon(run.result())
    assert [each.type for each in await _all(run) if isinstance(each, ApprovalEvent)] == [
        "approval.requested",
        "approval.escalated",
        "approval.decided",
    ]


@pytest.mark.parametrize("asset", ["deploy", "draft"])
@pytest.mark.parametrize("on_timeout", ["approve", "reject"])
async def test_a_request_that_nobody_decides(open_engine: OpenEngine, asset: str, on_timeout: str):
    """EVT-04: it expires, or is decided by its timeout."""
    engine = await open_engine(_asks(timeout="10ms", on_timeout=on_timeout), **EVICTED)
    run = await engine.submit(asset)
    await soon(run.report())
    made, ended = _of_waits(await _all(run))
    assert isinstance(made, ApprovalOpened)
    assert isinstance(ended, ApprovalExpired if on_timeout == "reject" else ApprovalDecided)
    assert getattr(ended, "by", "timeout") == "timeout"
    assert ended.seconds >= 0.01


@IN_MEMORY
@pytest.mark.parametrize("committed", [True, False])
async def test_whoever_goes_on_tells_what_was_not_told_and_nothing_twice(
    open_engine: OpenEngine, monkeypatch: pytest.MonkeyPatch, committed: bool
):
    """EVT-05: a crash between what has happened and its event loses none and repeats none."""
    desk, calls = Desk(), Counter[str]()
    pipe = _shop(desk, calls)
    if not committed:
        monkeypatch.setattr(RunDriver, "commit_within", lambda *_: None)
    dying, living = await open_engine(pipe, **PARKED), await open_engine(pipe, **PARKED, slots=0)
    run = await dying.submit("order")
    gate = await desk.gate()
    stored = await opened(dying, gate.id)
    if committed:
        assert len([each async for each in _some(living, GateOpened, 1)]) == 1
    else:
        assert all(not each.type.startswith(("gate", "step")) for each in await living._live().store.events(run.id))
    await kill(dying)
    monkeypatch.undo()
    await look_for_orphans(living)
    await send(living, gate.id, str, "the moon")
    handle = await living.find(run.id)
    assert await soon(handle.result()) == "receipt 5 to the moon"
    told = _of_waits(await _all(handle))
    assert [each.type for each in told] == ["step.finished", "gate.opened", "gate.signalled", "step.finished"]
    assert (told[0].seconds is None) is not committed
    assert told[1].at == stored.opened_at
    assert calls == {"charge": 1, "ship": 1}


@IN_MEMORY
async def test_the_end_of_a_gate_that_is_on_record_and_was_not_told(
    open_engine: OpenEngine, monkeypatch: pytest.MonkeyPatch
):
    """EVT-05: that the body does not come to the gate again does not matter."""
    desk, held, pipe = Desk(), Gate(), Pipeline("held")

    @pipe.asset
    async def job(ctx: Context) -> str:
        answer = await (await desk.made(ctx.signal(str)))
        await held()
        return answer

    monkeypatch.setattr(RunDriver, "commit_within", lambda *_: None)
    dying, living = await open_engine(pipe, **PARKED), await open_engine(pipe, **PARKED, slots=0)
    run = await dying.submit("job")
    gate = await desk.gate()
    await opened(dying, gate.id)
    await send(dying, gate.id, str, "yes")
    await held.reached()
    await kill(dying)
    monkeypatch.undo()
    held.open()
    await look_for_orphans(living)
    handle = await living.find(run.id)
    assert await soon(handle.result()) == "yes"
    assert _types(await _all(handle)) == ["gate.opened", "gate.signalled"]


@pytest.mark.parametrize("elsewhere", [False, True])
async def test_gates_that_are_open_when_their_run_is_cancelled(open_engine: OpenEngine, elsewhere: bool):
    """EVT-04: they are told as cancelled with it, whoever cancels."""
    pipe = Pipeline("given")

    @pipe.asset
    async def waits(ctx: Context) -> str:
        return await ctx.signal(str, name="never")

    engine, other = await open_engine(pipe, **PARKED), await open_engine(pipe, **PARKED, slots=0)
    run = await engine.submit("waits")
    assert len([each async for each in _some(other, GateOpened, 1)]) == 1
    await (await (other if elsewhere else engine).find(run.id)).cancel()
    events = await _all(run)
    [cancelled] = [each for each in events if isinstance(each, GateCancelled) and not _sleeps(each)]
    assert (cancelled.name, cancelled.seconds >= 0) == ("never", True)
    assert [each.type for each in events[-3:]] == ["asset.finished", "run.cancelled", "run.finished"]


@IN_MEMORY
async def test_gates_of_a_run_that_nobody_can_go_on_with(open_engine: OpenEngine, tmp_path: Path):
    """EVT-04, JOB-11: whoever ends it tells of them."""
    pipe = Pipeline("given")

    @pipe.asset
    async def waits(ctx: Context) -> str:
        return await ctx.signal(str, name="never")

    dying, living = await open_engine(pipe, **PARKED), await open_engine(pipe, **PARKED, slots=0)
    running = asyncio.create_task(dying.run("waits", io=io.Files(tmp_path), on_wait="wait"))
    [told] = [each async for each in _some(living, GateOpened, 1)]
    await kill(dying)
    with pytest.raises(LeaseLost):
        await soon(running)
    await look_for_orphans(living)
    await ended(living, told.run_id)
    events = await _all(await living.find(told.run_id))
    assert [each.type for each in events[-3:]] == ["gate.cancelled", "run.failed", "run.finished"]


async def test_a_gate_that_its_body_has_left(open_engine: OpenEngine):
    """EVT-04: it is cancelled with the end of the run, and told then."""
    pipe = Pipeline("left")

    @pipe.asset
    async def job(ctx: Context) -> int:
        which, _ = await ctx.first(ctx.signal(str, name="never"), ctx.sleep("1ms"))
        return which

    engine = await open_engine(pipe, **SECRET)
    run = await engine.submit("job")
    assert await soon(run.result()) == 1
    events = await _all(run)
    [cancelled] = [each for each in events if isinstance(each, GateCancelled) and not _sleeps(each)]
    assert cancelled.name == "never"
    assert [each.type for each in events[-2:]] == ["run.succeeded", "run.finished"]


async def test_items_of_a_scatter_are_not_told(open_engine: OpenEngine):
    """EVT-04: neither their steps nor their gates, so that a million of them cost no events."""
    desk, pipe = Desk(), Pipeline("items")

    async def half(number: int) -> float:
        return number / 2

    @pipe.scatter([1, 2, 3], signal=str)
    async def each(number: int, ctx: Context) -> str | SignalGate[str]:
        if number == 1:
            await desk.made(gate := ctx.signal(str))
            return gate
        return str(await ctx.step(half, number))

    @each.on_signal
    async def each_done(number: int, answer: str, ctx: Context) -> str:
        return f"{answer} {await ctx.step(half, number)}"

    @each.gather
    async def total(results: Gathered[str]) -> list[str]:
        return [result async for result in results]

    engine = await open_engine(pipe, **EVICTED)
    run = await engine.submit("total")
    gate = await desk.gate()
    await opened(engine, gate.id)
    await send(engine, gate.id, str, "yes")
    assert await soon(run.result()) == ["yes 0.5", "1.0", "1.5"]
    assert _types(await _all(run)) == []


async def test_types_that_are_read_from_the_store(open_engine: OpenEngine):
    """EVT-05: those of waits and steps can be asked for; who asks for what is told to hooks only is refused."""
    engine = await open_engine(Pipeline("none"))
    for kind in WAITS:
        engine.events(types=kind)
    with pytest.raises(ConfigError):
        engine.events(types=type("Own", (Event,), {}))
