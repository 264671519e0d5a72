"""What holds of submitted runs on Postgres alone (JOB-05, JOB-07, JOB-13): transactions, clocks, connections."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from datetime import datetime, timedelta
from typing import Any

import asyncpg
import pytest
import pytest_asyncio
from typing_extensions import override

from flowstone_async import Engine, Pipeline
from flowstone_async.clock import SystemClock
from flowstone_async.errors import StoreUnavailable
from tests.support.engines import PostgresEngines, SharedEngines
from tests.support.gate import Gate, soon

RARELY: Any = {"poll": "60s"}


@pytest_asyncio.fixture
async def durable(engines: SharedEngines) -> AsyncIterator[PostgresEngines]:
    if not isinstance(engines, PostgresEngines):
        pytest.skip("is about Postgres")
    yield engines


@pytest_asyncio.fixture
async def sql(durable: PostgresEngines) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(durable.dsn)
    yield connection
    connection.terminate()


def _pipeline() -> tuple[Pipeline, Gate]:
    pipe, gate = Pipeline("durable"), Gate()
    pipe.constant("one", 1)

    @pipe.asset
    async def held(partition: int) -> int:
        await gate()
        return partition

    return pipe, gate


async def test_a_run_is_committed_with_the_caller_s_rows(durable: PostgresEngines, sql: asyncpg.Connection):
    """JOB-05: or vanishes with them; the worker finds it by looking."""
    engine = await durable.open(_pipeline()[0], poll="20ms")
    await sql.execute("CREATE TABLE orders (id int PRIMARY KEY, run text)")
    with pytest.raises(ZeroDivisionError):
        async with sql.transaction():
            lost = await engine.submit("one", key="order:1", conn=sql)
            await sql.execute("INSERT INTO orders VALUES (1, $1)", lost.id)
            raise ZeroDivisionError
    assert await engine.runs() == ()
    async with sql.transaction():
        run = await engine.submit("one", key="order:1", conn=sql)
        await sql.execute("INSERT INTO orders VALUES (1, $1)", run.id)
    assert await soon(run) == 1
    assert await sql.fetchval("SELECT run FROM orders") == run.id
    assert [record.id for record in await engine.runs()] == [run.id]


class _Skewed(SystemClock):
    """The clock of a host that is an hour ahead, or behind."""

    def __init__(self, hours: int) -> None:
        self.off = timedelta(hours=hours)

    @override
    def now(self) -> datetime:
        return super().now() + self.off

    def time_ns(self) -> int:
        return int(self.now().timestamp() * 1e9)


@pytest.mark.parametrize("hours", [-1, 1])
async def test_a_host_s_clock_that_is_an_hour_off_changes_nothing(
    durable: PostgresEngines, sql: asyncpg.Connection, hours: int
):
    """JOB-04, JOB-07: the store's clock decides about `at`, leases and instants."""
    pipe, gate = _pipeline()
    right, wrong = await durable.open(pipe, slots=0), await durable.open(pipe, clock=_Skewed(hours), poll="20ms")
    now = await sql.fetchval("SELECT now()")
    later = await right.submit("one", at=now + timedelta(minutes=30))
    run = await right.submit("held", partition=1, at=now - timedelta(minutes=30))
    await gate.reached()
    gate.open()
    assert await soon(run) == 1
    assert (await later.status()).state == "queued"
    [record] = [each for each in await right.runs() if each.id == run.id]
    assert record.finished_at is not None
    assert abs(record.finished_at - now) < timedelta(minutes=5)
    left = await sql.fetchval("SELECT max(lease_until) - now() FROM flowstone.worker WHERE NOT dead")
    assert timedelta() < left <= timedelta(seconds=30)
    assert {worker.lease for worker in await wrong._live().store.workers() if (worker.lease or 0) < 0} == set()


@pytest.mark.parametrize("hours", [-1, 1])
async def test_a_host_s_clock_that_jumps_while_it_works_changes_nothing(
    durable: PostgresEngines, monkeypatch: pytest.MonkeyPatch, hours: int
):
    """JOB-04: neither to the lease nor to what came after what, although ids are made by that clock."""
    clock = _Skewed(0)
    monkeypatch.setattr("flowstone_async.types.time.time_ns", clock.time_ns)
    pipe, gate = _pipeline()
    engine = await durable.open(pipe, clock=clock, poll="20ms")
    worker = engine._live().services.worker
    runs = [await engine.submit("held", partition=1)]
    await gate.reached()
    clock.off = timedelta(hours=hours)
    runs.append(await engine.submit("held", partition=2))
    await gate.reached(2)
    clock.off = timedelta()
    gate.open()
    assert await soon(asyncio.gather(*runs)) == [1, 2]
    runs.append(await engine.submit("held", partition=1, force=True))
    assert await soon(runs[-1]) == 1
    assert (engine._live().services.worker, engine._live().lost) == (worker, False)
    assert [record.id for record in await engine.runs()] == [run.id for run in reversed(runs)]
    assert [record.id for record in await engine.runs(after=runs[1].id)] == [runs[0].id]
    for run in runs:
        instants = [event.at async for event in run.events()]
        assert instants == sorted(instants)
        assert instants[-1] - instants[0] < timedelta(minutes=5)
    assert (await engine.status("held", partition=1)).run_id == runs[-1].id
    assert await engine._live().store.verify() == ()


async def test_bodies_hold_no_connection_of_the_pool(durable: PostgresEngines):
    """JOB-13: many more than it has, and everything else goes on beside them."""
    pipe, gate = _pipeline()
    engine = await durable.open(pipe, slots=40, **RARELY)
    runs = [await engine.submit("held", partition=no) for no in range(40)]
    await gate.reached(40)
    pool: Any = engine._live().store._connections._pool  # pyright: ignore[reportAttributeAccessIssue] - to count them
    assert pool.get_size() - pool.get_idle_size() <= 3, "the lanes of the committer and the reader keep one each"
    assert [(await run.status()).state for run in runs] == ["running"] * 40
    assert await soon(engine.run("one")) == 1
    gate.open()
    assert await soon(asyncio.gather(*runs)) == list(range(40))


async def test_a_claim_that_takes_effect_after_its_reply_was_given_up_is_found(
    durable: PostgresEngines, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
):
    """JOB-08: a server that hung goes on with it when everybody has looked already; the run is not the worker's for
    ever without the worker's knowing."""
    pipe, _ = _pipeline()
    engine = await durable.open(pipe, poll="20ms")
    store, failed, looked = engine._live().store, asyncio.Event(), asyncio.Event()
    claim, owned = store.claim, store.owned

    async def lost(*_: object, **__: object) -> tuple[()]:
        failed.set()
        monkeypatch.setattr(store, "claim", claim)
        raise StoreUnavailable("the reply is lost")

    async def look(*arguments: Any) -> Mapping[str, int]:
        found = await owned(*arguments)
        looked.set()
        return found

    monkeypatch.setattr(store, "owned", look)
    monkeypatch.setattr(store, "claim", lost)
    await soon(failed.wait())
    await soon(looked.wait())
    later = await engine.submit("one", at=await sql.fetchval("SELECT now() + interval '1 day'"))
    worker = await sql.fetchval("SELECT id FROM flowstone.worker WHERE NOT dead")
    await sql.execute(
        "UPDATE flowstone.run SET state = 'running', worker = $2, fence = fence + 1 WHERE id = $1", later.id, worker
    )
    assert await soon(later) == 1


@pytest.mark.parametrize("notify", [True, False])
async def test_an_idle_worker_finds_a_run(durable: PostgresEngines, notify: bool):
    """JOB-13: woken by a notification, or within its poll where there is none."""
    pipe, _ = _pipeline()
    await durable.open(pipe, notify=notify, poll="60s" if notify else "20ms")
    submitting = await durable.open(pipe, slots=0, notify=notify, poll="60s" if notify else "20ms")
    assert await soon(await submitting.submit("one")) == 1


async def test_a_pool_of_the_caller_s_can_submit(durable: PostgresEngines):
    """CFG-03, JOB-05: with `slots=0` and no lease; a worker elsewhere does the work."""
    pipe, _ = _pipeline()
    await durable.open(pipe)
    async with asyncpg.create_pool(durable.dsn, min_size=1, max_size=2) as pool:
        async with Engine(pipe, store=pool, slots=0, poll="20ms") as engine:
            assert await soon(await engine.submit("one")) == 1
            async with pool.acquire() as connection, connection.transaction():
                run = await engine.submit("one", force=True, conn=connection)
            assert await soon(run) == 1
