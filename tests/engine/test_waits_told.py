"""What people are told of what waits, and of what they ask for that cannot be (SIG, APPR, STEP)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from flowstone_async import Context, Engine, Pipeline
from flowstone_async._engine.waits.waiting_for import Waited, going_on
from flowstone_async.clock import ManualClock
from flowstone_async.store.gates import Gate, Outcome, StoredGate
from flowstone_async.store.records import AssetState
from flowstone_async.types import AssetKey
from tests.support.engines import OpenEngine
from tests.support.gate import soon
from tests.support.waits import in_state

SECRET: Any = {"secret": b"s" * 32, "park_after": 0, "poll": "50ms"}
TO_GO_ON = "a worker with a free slot, to go on"


async def _left_waiting(open_engine: OpenEngine, pipe: Pipeline, target: str, **options: Any) -> tuple[Engine, str]:
    """Return an engine that goes on with nothing, and the run that a worker has left waiting."""
    worker = await open_engine(pipe, **{**SECRET, **options})
    run = await worker.submit(target)
    await in_state(worker, run.id, "waiting")
    await worker.__aexit__(None, None, None)
    return await open_engine(pipe, **{**SECRET, **options, "slots": 0}), run.id


async def _told(engine: Engine, asset: str) -> tuple[str, str | None, str | None]:
    status = await engine.status(asset)
    return status.state, status.run_id, status.waiting_for


async def test_an_asset_waits_for_a_worker_from_the_answer_on(open_engine: OpenEngine):
    """APPR-02, SIG-09: from the answer until a worker goes on with it; so does one that something else is made of."""
    pipe = Pipeline("told")

    @pipe.asset
    async def job(ctx: Context) -> str:
        return await ctx.signal(str, token="job")

    @pipe.asset
    async def behind(job: str) -> str:
        return job

    looking, run_id = await _left_waiting(open_engine, pipe, "behind")
    state, of, waiting_for = await _told(looking, "job")
    assert (state, of) == ("waiting", run_id)
    assert "signal 'str'" in (waiting_for or "")

    await looking.signal("job", "go")
    assert await _told(looking, "job") == ("waiting", run_id, TO_GO_ON)
    assert (await looking.why("job")).because == f"run {run_id} waits for {TO_GO_ON}"
    assert (await looking.status("behind")).state == "not_found"

    await open_engine(pipe, **SECRET)
    assert await soon(looking.wait("behind")) == "go"
    assert await _told(looking, "job") == ("completed", run_id, None)


async def test_an_asset_waits_for_a_worker_once_its_time_has_come(open_engine: OpenEngine):
    """STEP-05: also while nothing runs that would notice."""
    pipe, clock = Pipeline("told"), ManualClock()

    @pipe.asset
    async def rested(ctx: Context) -> int:
        await ctx.sleep("1h")
        return 1

    looking, run_id = await _left_waiting(open_engine, pipe, "rested", clock=clock, poll="2h")
    await clock.advance(3600)
    assert await _told(looking, "rested") == ("waiting", run_id, TO_GO_ON)
    found = await looking.find(run_id)
    assert (await found.status()).waiting_for == TO_GO_ON


async def test_another_run_that_has_computed_it_since_is_what_counts():
    """The newest attempt is told, as of any asset."""
    now, key = datetime(2025, 1, 1, tzinfo=UTC), AssetKey("shop", "job")
    gate = Gate("g", "first", "body", "key", "signal", key, "go")
    ended = StoredGate(gate, now, Outcome("g", "signalled", now), "signalled", None)
    hour, found = timedelta(hours=1), Waited("first", TO_GO_ON)
    assert going_on(AssetState(key=key), ended) == found
    assert going_on(AssetState(key=key, state="failed", run_id="other", completed_at=now - hour), ended) == found
    assert going_on(AssetState(key=key, state="failed", run_id="other", completed_at=now + hour), ended) is None
    assert going_on(AssetState(key=key, state="failed", run_id="first", completed_at=now - hour), ended) is None
    assert going_on(AssetState(key=key, state="running", run_id="other"), ended) is None
