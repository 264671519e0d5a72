"""Suspended runs of an asset that a worker does not know, as while another version is deployed (STEP-15, fault 16)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from flowstone_async import Context, Engine, Pipeline
from flowstone_async.store.gates import Signal
from tests.support.engines import OpenEngine
from tests.support.gate import soon
from tests.support.waits import in_state

SECRET: Any = {"secret": b"s" * 32, "park_after": 0, "poll": "50ms"}
pytestmark = pytest.mark.not_in("evict", reason="counts the calls of bodies")


def _versions(attempts: list[int]) -> tuple[Pipeline, Pipeline]:
    """Return a pipeline as it was, and as it is without one of its assets."""
    before, after = Pipeline("deployed"), Pipeline("deployed")

    @before.asset
    async def job(ctx: Context) -> str:
        attempts.append(ctx.attempt)
        return await ctx.signal(str, token="job")

    for pipe in (before, after):
        pipe.constant("kept", 1)
    return before, after


async def _deferred(open_engine: OpenEngine, attempts: list[int]) -> tuple[Engine, Any]:
    """Return an engine that does not know what it was to go on with, and the run's handle."""
    before, after = _versions(attempts)
    run_id = await _left(open_engine, before)
    second = await open_engine(after, **SECRET)
    await second.signal("job", "go")
    handle = await second.find(run_id)
    while not (await second.gates.waiting(kind="worker")):
        await asyncio.sleep(0)
    await in_state(second, run_id, "waiting")
    return second, handle


async def _left(open_engine: OpenEngine, pipe: Pipeline) -> str:
    """Leave a run waiting, and the engine that has begun it."""
    engine = await open_engine(pipe, **SECRET)
    run = await engine.submit("job")
    await in_state(engine, run.id, "waiting")
    await engine.__aexit__(None, None, None)
    return run.id


async def test_it_stays_waiting_and_says_for_whom(open_engine: OpenEngine):
    """STEP-15: it uses up no attempt and no worker, and whoever knows it goes on with it, beside who does not."""
    attempts = list[int]()
    unknowing, run = await soon(_deferred(open_engine, attempts))
    status = await run.status()
    assert (status.state, status.lost) == ("waiting", 0)
    assert "a worker that knows asset 'job'" in (status.waiting_for or "")
    assert await soon((await unknowing.submit("kept")).result()) == 1
    assert (await run.status()).state == "waiting"
    assert attempts == [1]

    knowing = await open_engine(_versions(attempts)[0], **SECRET)
    assert await soon((await knowing.find(run.id)).result()) == "go"
    assert attempts == [1, 1]
    assert (await run.status()).lost == 0


async def test_whoever_awaits_it_goes_on_with_it(open_engine: OpenEngine):
    """STEP-15: without slots, too."""
    attempts = list[int]()
    await soon(_deferred(open_engine, attempts))
    knowing = await open_engine(_versions(attempts)[0], **SECRET, slots=0)
    status = await knowing.status("job")
    assert (status.state, status.waiting_for) == ("waiting", "a worker that knows asset 'job'")
    assert await soon(knowing.run("job")) == "go"
    assert attempts == [1, 1]


async def test_it_can_be_cancelled(open_engine: OpenEngine):
    attempts = list[int]()
    _, run = await soon(_deferred(open_engine, attempts))
    await run.cancel()
    assert (await run.status()).state == "cancelled"


async def test_an_answer_before_it_is_suspended_is_not_lost(open_engine: OpenEngine, monkeypatch: pytest.MonkeyPatch):
    """STEP-15: whoever knows it may answer as soon as it waits, and that is before it is suspended."""
    attempts = list[int]()
    before, after = _versions(attempts)
    run_id = await _left(open_engine, before)
    unknowing = await open_engine(after, **SECRET)
    gates: Any = unknowing._live().services.store.gates
    suspend, answered = gates.suspend, list[str]()

    async def late(run_id: str, fence: int, wakes: int) -> Any:
        if not answered:
            opened = await gates.waiting(("deployed",), ("worker",))
            answered.extend([each.gate.id for each in opened])
            await gates.deliver(Signal(payload=b"known", gate=answered[0]))
        return await suspend(run_id, fence, wakes)

    monkeypatch.setattr(gates, "suspend", late)
    await unknowing.signal("job", "go")
    while not answered:
        await asyncio.sleep(0)
    knowing = await open_engine(before, **SECRET)
    assert await soon((await knowing.find(run_id)).result()) == "go"
    assert attempts == [1, 1]
