"""Signals and bodies together, through what users call: `ctx.signal` here, `engine.signal` there (SIG-01..SIG-14)."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import asyncpg
import pytest
from pydantic import BaseModel

from flowstone_async import (
    AlreadySignalled,
    Context,
    GateClosed,
    PayloadInvalid,
    Pipeline,
)
from tests.support.engines import OpenEngine, PostgresEngines, SharedEngines
from tests.support.gate import Gate, soon
from tests.support.waits import Desk, in_state, opened

SECRET: Any = {"secret": b"s" * 32, "poll": "50ms"}
PARKED: Any = {**SECRET, "park_after": False}
EVICTED: Any = {**SECRET, "park_after": 0}
both = pytest.mark.parametrize("options", [PARKED, EVICTED], ids=["parked", "evicted"])


@dataclass
class Done:
    url: str


def _pipeline(desk: Desk, model: Any = Done, **options: Any) -> tuple[Pipeline, Any]:
    pipe = Pipeline("remote")

    @pipe.asset
    async def job(ctx: Context) -> str:
        return repr(await (await desk.made(ctx.signal(model, **options))))

    return pipe, job


@both
async def test_a_signal_reaches_a_body_on_another_engine(open_engine: OpenEngine, options: Any) -> None:
    """SIG-06, SIG-08, SIG-12: plain data there is the declared type here, once."""
    desk = Desk()
    pipe, job = _pipeline(desk)
    working, sending = await open_engine(pipe, **options), await open_engine(pipe, slots=0, **SECRET)
    run = await working.submit(job)
    gate = await desk.gate()
    await opened(working, gate.id)
    [waits] = await sending.gates.waiting()
    assert (waits.id, waits.asset, waits.run_id, waits.kind) == (gate.id, "job", run.id, "signal")
    with pytest.raises(PayloadInvalid):
        await sending.signal(gate.token, {"uri": "there"})

    sent = await sending.signal(gate.token, {"url": "there"})

    assert (sent.gate_id, sent.run_id, sent.asset, sent.duplicate) == (gate.id, run.id, "job", False)
    assert await soon(run.result()) == "Done(url='there')"
    assert (await sending.signal(gate.token, Done("there"))).duplicate
    with pytest.raises(AlreadySignalled):
        await sending.signal(gate.token, Done("elsewhere"))
    assert await sending.gates.waiting() == ()


async def test_a_type_that_is_local_to_a_function(open_engine: OpenEngine) -> None:
    """It is found where the asset is, in any engine that has the pipeline."""

    class Local(BaseModel):
        n: int

    desk = Desk()
    pipe, job = _pipeline(desk, Local)
    working, sending = await open_engine(pipe, **PARKED), await open_engine(pipe, slots=0, **SECRET)
    run = await working.submit(job)
    gate = await desk.gate()
    await opened(working, gate.id)

    await working.signal(gate.token, {"n": "7"})

    assert await soon(run.result()) == "Local(n=7)"
    assert (await working.signal(gate.token, Local(n=7))).duplicate
    assert not (await sending.signal("other", Local(n=7))).duplicate  # with no gate it is plain data


@both
async def test_a_token_that_the_other_side_chose_before_the_gate_is_recorded(
    open_engine: OpenEngine, options: Any
) -> None:
    """SIG-01, SIG-11."""
    desk = Desk()
    pipe, job = _pipeline(desk, token="job/7")
    engine = await open_engine(pipe, **options)
    assert (await engine.signal("job/7", {"url": "early"})).run_id is None

    assert await soon(engine.run(job, on_wait="wait")) == "Done(url='early')"

    assert (await engine.signal("job/7", Done("early"))).duplicate


async def test_a_run_that_was_cancelled_takes_no_signal(open_engine: OpenEngine) -> None:
    """SIG-10."""
    desk = Desk()
    pipe, job = _pipeline(desk)
    engine = await open_engine(pipe, **PARKED)
    run = await engine.submit(job)
    gate = await desk.gate()
    await opened(engine, gate.id)
    await run.cancel()

    with pytest.raises(GateClosed):
        await engine.signal(gate.token, Done("late"))
    assert (await engine.gates.get(gate.id)).state == "cancelled"


async def test_a_pipeline_alone() -> None:
    """In memory, without an engine: `pipe.signal` while `pipe.run` waits."""
    desk = Desk()
    pipe, job = _pipeline(desk)
    running = asyncio.create_task(pipe.run(job, on_wait="wait"))
    gate = await desk.gate()
    await pipe.signal(gate.token, {"url": "here"})
    assert await soon(running) == "Done(url='here')"


async def test_in_a_transaction_of_the_caller_s(open_engine: OpenEngine, engines: SharedEngines) -> None:
    """SIG-08, SIG-09: nothing before the commit, and within two polls of it the run goes on."""
    if not isinstance(engines, PostgresEngines):
        pytest.skip("is about Postgres")
    desk = Desk()
    pipe, job = _pipeline(desk)
    engine = await open_engine(pipe, **EVICTED)
    run = await engine.submit(job)
    gate = await desk.gate()
    await in_state(engine, run.id, "waiting")
    connection = await asyncpg.connect(engines.dsn)
    try:
        async with connection.transaction():
            await engine.signal(gate.token, Done("there"), conn=connection)
            assert (await engine.gates.get(gate.id)).state == "open"
        assert await soon(run.result()) == "Done(url='there')"
    finally:
        connection.terminate()


async def test_signals_to_many_gates_of_a_body_at_once(open_engine: OpenEngine) -> None:
    """SIG-06: each gets its own."""
    desk, pipe = Desk(), Pipeline("many")

    @pipe.asset
    async def jobs(ctx: Context) -> list[int]:
        gates = [await desk.made(ctx.signal(int, name=f"job {no}")) for no in range(20)]
        return [await each for each in gates]

    engine = await open_engine(pipe, **PARKED)
    run = await engine.submit(jobs)
    await desk.gate(19)
    await asyncio.gather(*(engine.signal(gate.token, no) for no, gate in enumerate(desk.gates)))
    assert await soon(run.result()) == list(range(20))


async def test_a_sender_that_is_cancelled_sends_again(open_engine: OpenEngine) -> None:
    """SIG-08: at whatever point it was; the run goes on once."""
    desk = Desk()
    pipe, job = _pipeline(desk)
    engine = await open_engine(pipe, **EVICTED)
    run = await engine.submit(job)
    gate = await desk.gate()
    await in_state(engine, run.id, "waiting")
    for turns in range(8):
        sending = asyncio.create_task(engine.signal(gate.token, Done("there")))
        for _ in range(turns):
            await asyncio.sleep(0)
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
    await engine.signal(gate.token, Done("there"))
    assert await soon(run.result()) == "Done(url='there')"


@both
async def test_a_signal_that_comes_first_and_does_not_fit_is_refused(open_engine: OpenEngine, options: Any) -> None:
    """SIG-12: the gate is open, and what came is kept to be looked at; the next one counts."""
    desk, pipe, started = Desk(), Pipeline("remote"), Gate()

    @pipe.asset
    async def job(ctx: Context) -> str:
        gate = await desk.made(ctx.signal(Done))
        await started()
        return (await gate).url

    engine = await open_engine(pipe, base_url="https://flow.example.org/app/", **options)
    run = await engine.submit(job)
    gate = await desk.gate()
    assert gate.url == f"https://flow.example.org/app/hooks/signal/{gate.token}"
    assert (await engine.signal(gate.token, {"uri": "stray"})).run_id is None
    started.open()

    async def refused() -> bool:
        if (await engine._live().store.gates.read([gate.id])).get(gate.id) is None:
            return False
        return "invalid" in {each.state for each in await engine.gates.deliveries(gate.id)}

    while not await refused():
        await asyncio.sleep(0)
    assert not (await engine.signal(gate.token, {"url": "there"})).duplicate
    assert await soon(run.result()) == "there"
    assert [each.state for each in await engine.gates.deliveries(gate.id)] == ["accepted", "invalid", "early"]
