"""What people are told of what waits, and of what they ask for that cannot be (SIG, APPR, STEP)."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import asyncpg
import pytest

from flowstone_async import ConfigError, Context, Engine, Extend, Keys, Pipeline
from flowstone_async._engine.waits import waiting_for
from flowstone_async._engine.waits.waiting_for import Waited, going_on
from flowstone_async.clock import ManualClock
from flowstone_async.store.gates import Gate, Outcome, StoredGate
from flowstone_async.store.records import AssetState
from flowstone_async.types import AssetKey
from tests.support.engines import OpenEngine, PostgresEngines
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


async def test_a_scatter_waits_for_a_worker_once_one_of_its_items_is_answered(open_engine: OpenEngine):
    """SIG-07: while its run was suspended; the others wait on."""
    pipe = Pipeline("told")

    @pipe.scatter([1, 2])
    async def asked(no: int, ctx: Context) -> str:
        return await ctx.signal(str, token=f"item {no}")

    looking, run_id = await _left_waiting(open_engine, pipe, "asked")
    await looking.signal("item 1", "go")
    state, of, waiting_for = await _told(looking, "asked")
    assert (state, of) == ("waiting", run_id)
    await looking.signal("item 2", "go")
    assert await _told(looking, "asked") == ("waiting", run_id, TO_GO_ON)
    assert waiting_for == TO_GO_ON


@pytest.mark.parametrize("engines", ["postgres"], indirect=True)
async def test_an_asset_waits_for_a_worker_before_anybody_has_noticed_the_answer(engines: PostgresEngines):
    """SIG-08: sent in a transaction of the caller's, it is noticed by the next sweep."""
    pipe = Pipeline("told")

    @pipe.asset
    async def job(ctx: Context) -> str:
        return await ctx.signal(str, token="job")

    looking, run_id = await _left_waiting(engines.open, pipe, "job", poll="60s")
    connection = await asyncpg.connect(engines.dsn)
    async with connection.transaction():
        await looking.signal("job", "go", conn=connection)
        assert "signal 'str'" in str(await _told(looking, "job"))
    await connection.close()
    assert await _told(looking, "job") == ("waiting", run_id, TO_GO_ON)
    assert (await (await looking.find(run_id)).status()).waiting_for == TO_GO_ON


async def test_one_of_many_partitions_that_wait(open_engine: OpenEngine, monkeypatch: pytest.MonkeyPatch):
    """APPR-02: it is found, however many others have nearer deadlines."""
    monkeypatch.setattr(waiting_for, "_LOOKED", 1)
    pipe = Pipeline("told")

    @pipe.asset(partitions=Keys("a", "b", "c"))
    async def job(ctx: Context) -> str:
        return await ctx.signal(str, token=f"job {ctx.partition}")

    engine = await open_engine(pipe, **SECRET)
    runs = {key: (await engine.submit(job, partition=key)).id for key in ("a", "b", "c")}
    for run_id in runs.values():
        await in_state(engine, run_id, "waiting")
    told = {key: await engine.status(job, partition=key) for key in runs}
    assert {key: (each.state, each.run_id) for key, each in told.items()} == {
        key: ("waiting", run_id) for key, run_id in runs.items()
    }


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


def _asked_of_a_body() -> list[tuple[str, Callable[[Context], Any]]]:
    """Return calls that cannot be, with what is said of each."""
    wrong: Any = None
    far = Extend("2000000d", times=2)
    return [
        ("a gate was given a int for its token", lambda ctx: ctx.signal(str, token=wrong or 5)),
        ("type of its payload", lambda ctx: ctx.signal(wrong)),
        ("key=5.5: a durable call", lambda ctx: ctx.signal(str, key=wrong or 5.5)),
        ("key=True: a durable call|key=a bool: a durable call", lambda ctx: ctx.approval("?", key=True)),
        ("given None, which cannot be awaited", lambda ctx: ctx.first(wrong)),
        ("given 5, which cannot be awaited", lambda ctx: ctx.first(ctx.sleep(0), wrong or 5)),
        ("one by one, not a list", lambda ctx: ctx.first(wrong or [ctx.sleep(0), ctx.signal(str)])),
        ("one by one, not a tuple", lambda ctx: ctx.first(wrong or (ctx.step(_one),))),
        ("'sleep', which is no durable wait", lambda ctx: ctx.first(ctx.step(_one), asyncio.sleep(0))),
        ("'Future', which is no durable wait", lambda ctx: ctx.first(asyncio.Future(), ctx.approval("?"))),
        ("has nothing to wait for", lambda ctx: ctx.first()),
        ("beyond the year 9999", lambda ctx: ctx.approval("?", on_timeout=far)),
        ("ends after the year 9999", lambda ctx: ctx.sleep("3000000d")),
        ("cannot be stored in every time zone", lambda ctx: ctx.sleep(until=datetime.max.replace(tzinfo=UTC))),
        ("takes a name of the change", lambda ctx: ctx.patched(wrong)),
    ]


async def _one() -> int:
    return 1


async def test_calls_of_a_body_that_cannot_be_are_refused_where_they_are_made():
    """SIG-11, STEP-09, APPR-09: with the way out; whatever else was given is let go of, and the body goes on."""
    pipe = Pipeline("refused")

    @pipe.asset
    async def job(ctx: Context) -> int:
        for said, call in _asked_of_a_body():
            with pytest.raises(ConfigError, match=said) as caught:
                call(ctx)
            assert caught.value.hint, said
        return await ctx.step(_one)

    assert await soon(pipe.run(job)) == 1
    gc.collect()  # what was never awaited is told of by now


async def test_every_durable_wait_may_be_first():
    """STEP-09: gates, sleeps, steps, transactions, approvals, children of groups, and another race."""
    pipe = Pipeline("first")

    @pipe.asset
    async def job(ctx: Context) -> list[int]:
        async with ctx.group() as group:
            child = group.start(_one)
            others = ctx.signal(str), ctx.sleep("1h"), ctx.approval("?"), ctx.first(ctx.sleep("1h"), ctx.signal(int))
            which, value = await ctx.first(*others, child)
        again, result = await ctx.first(ctx.tx(_never), ctx.step(_one))
        return [which, value, again, result]

    with pytest.raises(ConfigError, match="Postgres"):
        await soon(pipe.run(job))


async def _never(connection: Any) -> int:
    raise NotImplementedError


async def test_the_deadline_of_a_gate_may_be_far(open_engine: OpenEngine):
    """APPR-09, STEP-05: what is not refused can be stored and read."""
    pipe = Pipeline("far")

    @pipe.asset
    async def asks(ctx: Context) -> None:
        await ctx.approval("?", timeout="1900000d", on_timeout=Extend("500000d", times=2))

    @pipe.asset
    async def sleeps(ctx: Context) -> None:
        await ctx.sleep(until=datetime(9998, 12, 31, 23, tzinfo=timezone(timedelta(hours=-12))))

    looking, _ = await _left_waiting(open_engine, pipe, "asks")
    [request] = await looking.approvals.pending()
    assert request.expires_at is not None
    assert request.expires_at - request.opened_at == timedelta(days=2_900_000)
    await (await _left_waiting(open_engine, pipe, "sleeps"))[0].status("sleeps")
    [rests] = await looking.gates.waiting(kind="sleep")
    assert rests.due == datetime(9999, 1, 1, 11, tzinfo=UTC)
