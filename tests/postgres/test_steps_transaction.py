"""`ctx.tx`: what user code writes and the record of its step commit together, or not at all (STEP-14)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
import pytest_asyncio

from flowstone_async.errors import ConfigError, LeaseLost, StorageError, StoreUnavailable
from flowstone_async.store.postgres import lending
from flowstone_async.store.steps import AlreadyRecorded, StepRecord
from tests.contract.builders import Drive, act, event, failure, identifier
from tests.postgres.conftest import Opened, OpenStore
from tests.postgres.waiting import blocked, until
from tests.postgres.wire import LossyProxy, Pooler
from tests.support.gate import Gate

STEP = StepRecord("pay#0", "", 0, 0, 1, "step", "shop.orders.pay", "0f", b"paid")
OTHER = STEP._replace(value=b"paid by somebody else")
PAY = "INSERT INTO payment VALUES ($1)"


def body() -> str:
    return str(uuid4())


class Oops(Exception):
    """What user code raises."""


@pytest_asyncio.fixture(autouse=True)
async def table(sql: asyncpg.Connection) -> None:
    await sql.execute(
        "CREATE TABLE payment (no integer PRIMARY KEY, of integer REFERENCES payment DEFERRABLE INITIALLY DEFERRED)"
    )


@pytest_asyncio.fixture
async def proxy(dsn: str) -> AsyncIterator[LossyProxy]:
    async with LossyProxy(dsn) as started:
        yield started


@pytest_asyncio.fixture
async def far(proxy: LossyProxy, open_store: OpenStore) -> Opened:
    """A store behind the proxy, without a listener."""
    return await open_store(proxy.dsn, notify=False)


def transaction(opened: Opened, drive: Drive, of: str) -> Any:
    return opened.store.steps.transaction(drive.id, drive.run.fence, of)


async def pay(opened: Opened, drive: Drive, of: str, no: int = 1, step: StepRecord = STEP) -> None:
    async with transaction(opened, drive, of) as lent:
        await lent.connection.execute(PAY, no)
        await lent.record(step)


async def paid(sql: asyncpg.Connection) -> list[int]:
    return [row[0] for row in await sql.fetch("SELECT no FROM payment ORDER BY no")]


async def recorded(opened: Opened, drive: Drive, of: str) -> tuple[StepRecord, ...]:
    return await opened.store.steps.recorded(drive.id, of)


# -- together, or not at all ------------------------------------------------------------------------------------------


async def test_both_are_committed_together(sql: asyncpg.Connection, opened: Opened) -> None:
    drive, of = await opened.start(), body()
    async with transaction(opened, drive, of) as lent:
        await lent.connection.execute(PAY, 1)
        await lent.record(STEP)
        assert (await paid(sql), await recorded(opened, drive, of)) == ([], ())
    assert (await paid(sql), await recorded(opened, drive, of)) == ([1], (STEP,))
    assert (await drive.finish()).accepted


async def test_a_user_s_pool_and_a_pooler_do_as_well(dsn: str, sql: asyncpg.Connection, open_store: OpenStore) -> None:
    drives: list[tuple[Opened, Drive, str]] = []
    async with asyncpg.create_pool(dsn, min_size=0, max_size=4) as pool, Pooler(dsn) as pooler:
        for no, source in enumerate((pool, pooler.dsn)):
            opened = await open_store(source, direct=dsn)
            drive, of = await opened.start(), body()
            await asyncio.gather(*(pay(opened, drive, of, 10 * no + each, step(each)) for each in range(9)))
            with pytest.raises(Oops):
                async with transaction(opened, drive, of) as lent:
                    await lent.connection.execute(PAY, 10 * no + 9)
                    raise Oops
            drives.append((opened, drive, of))
            assert len(await recorded(opened, drive, of)) == 9
            assert await opened.store.steps.record(drive.id, 1, of, [step(9)])
            await opened.store.close()
    assert await paid(sql) == [*range(9), *range(10, 19)]


def step(no: int) -> StepRecord:
    return STEP._replace(key=f"pay#{no}", place=no, seen=no)


async def test_what_user_code_raises_rolls_both_back_and_passes_as_it_is(
    sql: asyncpg.Connection, opened: Opened
) -> None:
    drive, of = await opened.start(), body()
    oops = Oops()
    with pytest.raises(Oops) as raised:
        async with transaction(opened, drive, of) as lent:
            await lent.connection.execute(PAY, 1)
            await lent.record(STEP)
            raise oops
    assert raised.value is oops
    with pytest.raises(asyncpg.UniqueViolationError):
        async with transaction(opened, drive, of) as lent:
            await lent.connection.execute(PAY, 1)
            await lent.connection.execute(PAY, 1)
    assert (await paid(sql), await recorded(opened, drive, of)) == ([], ())


async def test_a_deferred_constraint_of_the_user_s_passes_as_it_is(sql: asyncpg.Connection, opened: Opened) -> None:
    drive, of = await opened.start(), body()
    with pytest.raises(asyncpg.ForeignKeyViolationError):
        async with transaction(opened, drive, of) as lent:
            await lent.connection.execute("INSERT INTO payment VALUES (1, 2)")
            await lent.record(STEP)
    assert (await paid(sql), await recorded(opened, drive, of)) == ([], ())


@pytest.mark.parametrize("where", ["before", "in a statement", "after"])
async def test_a_cancellation_rolls_both_back(sql: asyncpg.Connection, opened: Opened, where: str) -> None:
    drive, of, gate = await opened.start(), body(), Gate()

    async def work() -> None:
        async with transaction(opened, drive, of) as lent:
            await lent.connection.execute(PAY, 1)
            if where == "after":
                await lent.record(STEP)
            if where == "in a statement":
                await lent.connection.execute("SELECT pg_advisory_lock(1)")
            await gate()

    await sql.execute("SELECT pg_advisory_lock(1)")
    working = asyncio.create_task(work())
    await (blocked(sql) if where == "in a statement" else gate.reached())
    working.cancel()
    with pytest.raises(asyncio.CancelledError):
        await working

    assert (await paid(sql), await recorded(opened, drive, of)) == ([], ())
    assert (await drive.finish()).accepted


async def test_without_a_record_it_commits_too(sql: asyncpg.Connection, opened: Opened) -> None:
    drive, of = await opened.start(), body()
    async with transaction(opened, drive, of) as lent:
        await lent.connection.execute(PAY, 1)
    assert (await paid(sql), await recorded(opened, drive, of)) == ([1], ())


# -- once -------------------------------------------------------------------------------------------------------------


async def test_what_is_on_record_keeps_the_writes_from_being_made_twice(
    sql: asyncpg.Connection, opened: Opened
) -> None:
    drive, of = await opened.start(), body()
    await pay(opened, drive, of)
    with pytest.raises(AlreadyRecorded):
        await pay(opened, drive, of, 2, OTHER)
    assert (await paid(sql), await recorded(opened, drive, of)) == ([1], (STEP,))


async def test_of_two_at_once_one_wins(sql: asyncpg.Connection, opened: Opened) -> None:
    drive, of = await opened.start(), body()
    answers = await asyncio.gather(*(pay(opened, drive, of, no) for no in range(5)), return_exceptions=True)
    assert [type(each) for each in answers if each] == [AlreadyRecorded] * 4
    assert len(await paid(sql)) == 1


async def test_a_failure_of_an_earlier_attempt_is_replaced(sql: asyncpg.Connection, opened: Opened) -> None:
    drive, of = await opened.start(), body()
    await opened.store.steps.record(drive.id, 1, of, [STEP._replace(value=None, error=failure())])
    with pytest.raises(AlreadyRecorded):
        await pay(opened, drive, of)
    await pay(opened, drive, of, 2, STEP._replace(attempt=2))
    assert (await paid(sql), await recorded(opened, drive, of)) == ([2], (STEP._replace(attempt=2),))


# -- under the fence --------------------------------------------------------------------------------------------------


async def test_a_run_of_somebody_else_s_is_refused_at_the_start(opened: Opened) -> None:
    drive, of = await opened.start(), body()
    for run_id, fence in ((drive.id, 2), (identifier(), 1), ("no id", 1)):
        with pytest.raises(LeaseLost):
            async with opened.store.steps.transaction(run_id, fence, of):
                raise AssertionError
    await drive.finish()
    with pytest.raises(LeaseLost):
        async with transaction(opened, drive, of):
            raise AssertionError


async def test_nobody_ends_the_run_meanwhile(sql: asyncpg.Connection, opened: Opened, open_store: OpenStore) -> None:
    drive, of, near = await opened.start(), body(), await open_store()
    async with transaction(opened, drive, of) as lent:
        cancelling = asyncio.create_task(near.store.cancel(drive.id, (event(1, "run.cancelled"),), (act(),)))
        await blocked(sql)
        await lent.connection.execute(PAY, 1)
        await lent.record(STEP)
    assert await cancelling is not None
    assert (await paid(sql), await recorded(opened, drive, of)) == ([1], (STEP,))
    with pytest.raises(LeaseLost):
        await pay(opened, drive, of, 2)


async def test_a_lease_that_is_lost_between_begin_and_record_writes_nothing(
    sql: asyncpg.Connection, opened: Opened, open_store: OpenStore
) -> None:
    """Both where the worker knows it, and where it does not."""
    drive, of, near = await opened.start(), body(), await open_store()
    for knows in (False, True):
        with pytest.raises(LeaseLost):
            async with transaction(opened, drive, of) as lent:
                await lent.connection.execute(PAY, 1)
                if knows:
                    await opened.store.expire(opened.worker.id)
                    await opened.lost.wait()
                else:
                    await sql.execute("UPDATE flowstone.worker SET dead = true WHERE id = $1", opened.worker.id)
                await lent.record(STEP)
        await sql.execute("UPDATE flowstone.worker SET dead = $1", knows)
    assert (await paid(sql), await recorded(near, drive, of)) == ([], ())


# -- user code that does what it must not -----------------------------------------------------------------------------


@pytest.mark.parametrize("ended", ["COMMIT", "ROLLBACK", "COMMIT; BEGIN", "ROLLBACK; BEGIN"])
@pytest.mark.parametrize("records", [True, False])
async def test_who_ends_the_transaction_is_told(
    sql: asyncpg.Connection, opened: Opened, ended: str, records: bool
) -> None:
    drive, of = await opened.start(), body()
    with pytest.raises(ConfigError, match="has been ended by the function"):
        async with transaction(opened, drive, of) as lent:
            await lent.connection.execute(ended)
            await lent.connection.execute(PAY, 1)
            if records:
                await lent.record(STEP)
    assert await recorded(opened, drive, of) == ()
    assert await paid(sql) == ([] if "BEGIN" in ended else [1])
    await pay(opened, drive, of, 2)


@pytest.mark.parametrize("records", [True, False])
async def test_an_error_that_was_caught_commits_nothing(sql: asyncpg.Connection, opened: Opened, records: bool) -> None:
    drive, of = await opened.start(), body()
    with pytest.raises(StorageError, match="a statement in it has failed") as raised:
        async with transaction(opened, drive, of) as lent:
            await lent.connection.execute(PAY, 1)
            with pytest.raises(asyncpg.UniqueViolationError):
                await lent.connection.execute(PAY, 1)
            if records:
                await lent.record(STEP)
    assert "savepoint" in (raised.value.hint or "")
    assert (await paid(sql), await recorded(opened, drive, of)) == ([], ())


async def test_a_savepoint_is_the_way_out(sql: asyncpg.Connection, opened: Opened) -> None:
    drive, of = await opened.start(), body()
    async with transaction(opened, drive, of) as lent:
        await lent.connection.execute(PAY, 1)
        with pytest.raises(asyncpg.UniqueViolationError):
            async with lent.connection.transaction():
                await lent.connection.execute(PAY, 1)
        await lent.record(STEP)
    assert (await paid(sql), await recorded(opened, drive, of)) == ([1], (STEP,))


async def test_the_connection_is_of_no_use_afterwards(sql: asyncpg.Connection, opened: Opened) -> None:
    drive, of = await opened.start(), body()
    async with transaction(opened, drive, of) as lent:
        kept = lent.connection
    with pytest.raises(asyncpg.InterfaceError):
        await kept.execute(PAY, 1)
    assert await paid(sql) == []


async def test_it_is_as_any_connection_of_the_user_s(sql: asyncpg.Connection, opened: Opened) -> None:
    """Neither the store's plans nor what another step has set is on it."""
    drive, of = await opened.start(), body()
    mine = await sql.fetchval("SHOW enable_seqscan")
    for no in range(2):
        async with transaction(opened, drive, of) as lent:
            assert await lent.connection.fetchval("SHOW enable_seqscan") == mine
            assert await lent.connection.fetchval("SHOW statement_timeout") == "0"
            await lent.connection.execute("SET statement_timeout = '77s'")
            await lent.record(step(no))


async def test_user_code_that_keeps_connections_does_not_keep_the_store_from_work(opened: Opened) -> None:
    drive, of, gate = await opened.start(), body(), Gate()

    async def work(no: int) -> None:
        async with transaction(opened, drive, of) as lent:
            await gate()
            await lent.record(step(no))

    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        for no in range(20):
            group.create_task(work(no))
        await gate.reached(lending.MOST)
        assert gate.most == lending.MOST
        assert (await drive.advance("asset.started")).accepted
        assert await opened.store.steps.record(drive.id, 1, of, [step(no) for no in range(30, 40)])
        gate.open()
    assert gate.most == lending.MOST
    assert len(await recorded(opened, drive, of)) == 30


# -- what breaks ------------------------------------------------------------------------------------------------------


async def warmed(opened: Opened) -> tuple[Drive, str]:
    """Return a run and a body, with the connections made."""
    drive, of = await opened.start(), body()
    async with transaction(opened, drive, body()) as lent:
        await lent.record(STEP)
    await recorded(opened, drive, of)
    return drive, of


async def test_a_commit_whose_reply_is_lost_is_found_out(
    sql: asyncpg.Connection, proxy: LossyProxy, far: Opened
) -> None:
    drive, of = await warmed(far)
    async with transaction(far, drive, of) as lent:
        await lent.connection.execute(PAY, 1)
        await lent.record(STEP)
        proxy.lose = 1
    assert proxy.lost == 1
    assert (await paid(sql), await recorded(far, drive, of)) == ([1], (STEP,))


async def test_a_commit_that_never_arrives_is_told(sql: asyncpg.Connection, proxy: LossyProxy, far: Opened) -> None:
    drive, of = await warmed(far)
    with pytest.raises(StoreUnavailable) as raised:
        async with transaction(far, drive, of) as lent:
            await lent.connection.execute(PAY, 1)
            await lent.record(STEP)
            proxy.cut()
    assert "unknown" not in raised.value.details
    assert (await paid(sql), await recorded(far, drive, of)) == ([], ())
    await pay(far, drive, of)
    assert (await paid(sql), await recorded(far, drive, of)) == ([1], (STEP,))


async def test_a_commit_that_is_on_its_way_is_waited_for(
    dsn: str, sql: asyncpg.Connection, proxy: LossyProxy, far: Opened
) -> None:
    """The connection breaks while the server still commits."""
    drive, of = await warmed(far)
    await sql.execute(
        "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS "
        "'BEGIN PERFORM pg_advisory_xact_lock(1); RETURN NULL; END'; "
        "CREATE CONSTRAINT TRIGGER wait AFTER INSERT ON payment DEFERRABLE INITIALLY DEFERRED FOR EACH ROW "
        "EXECUTE FUNCTION wait()"
    )
    other = await asyncpg.connect(dsn)
    await other.execute("BEGIN; SELECT pg_advisory_xact_lock(1)")
    paying = asyncio.create_task(pay(far, drive, of))
    await blocked(sql)
    [backend] = [row[0] for row in await sql.fetch("SELECT pid FROM pg_locks WHERE NOT granted")]
    proxy.cut()

    async def asked() -> bool:
        found = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%xid8%' AND pid <> pg_backend_pid()"
        return await sql.fetchval(found) > 0

    await until(asked)
    assert await sql.fetchval("SELECT count(*) FROM pg_stat_activity WHERE pid = $1", backend) == 1
    await other.execute("COMMIT")
    await other.close()

    await paying
    assert (await paid(sql), await recorded(far, drive, of)) == ([1], (STEP,))


async def test_what_cannot_be_found_out_is_told(proxy: LossyProxy, open_store: OpenStore) -> None:
    opened = await open_store(proxy.dsn, notify=False, patience=0.3)
    drive, of = await warmed(opened)
    with pytest.raises(StoreUnavailable, match="is not known") as raised:
        async with transaction(opened, drive, of) as lent:
            await lent.record(STEP)
            proxy.lose = 1000
    assert raised.value.details["unknown"] is True
    proxy.lose = 0
    assert await recorded(opened, drive, of) == (STEP,)


async def test_a_connection_that_died_idle_is_not_noticed(proxy: LossyProxy, far: Opened) -> None:
    drive, of = await warmed(far)
    proxy.cut()
    async with transaction(far, drive, of) as lent:
        await lent.record(STEP)
    assert await recorded(far, drive, of) == (STEP,)


async def test_a_connection_that_dies_before_the_record_says_so(sql: asyncpg.Connection, opened: Opened) -> None:
    drive, of = await opened.start(), body()
    with pytest.raises(StoreUnavailable):
        async with transaction(opened, drive, of) as lent:
            await lent.connection.execute(PAY, 1)
            await sql.execute(
                "SELECT pg_terminate_backend($1)", await lent.connection.fetchval("SELECT pg_backend_pid()")
            )
            await lent.record(STEP)
    assert (await paid(sql), await recorded(opened, drive, of)) == ([], ())
    await pay(opened, drive, of)


async def test_a_store_that_is_closed_lends_nothing(open_store: OpenStore) -> None:
    opened = await open_store()
    drive = await opened.start()
    await pay(opened, drive, body())
    await opened.store.close()
    with pytest.raises(ConfigError, match="not open"):
        async with transaction(opened, drive, body()):
            raise AssertionError
