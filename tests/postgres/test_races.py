"""Who wins when two transactions meet on one run or one key, seen from inside the server."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import asyncpg
import pytest

from flowstone_async.store.postgres.batch import Batch
from flowstone_async.store.postgres.ledger import DrivenRun
from flowstone_async.store.postgres.queries import QUERIES
from flowstone_async.store.postgres.step import PendingStep
from flowstone_async.store.records import Advance
from tests.contract.builders import Drive, completed, event, key, materialization, state_of
from tests.postgres.conftest import Opened, OpenStore
from tests.postgres.waiting import blocked

NUMBERS, TOTAL = key("numbers"), key("total")


@asynccontextmanager
async def undecided(dsn: str) -> AsyncGenerator[asyncpg.Connection]:
    """A connection in the middle of a transaction, which the test ends."""
    connection = await asyncpg.connect(dsn)
    await connection.execute("BEGIN")
    try:
        yield connection
    finally:
        connection.terminate()


async def commit_by_hand(connection: asyncpg.Connection, opened: Opened, step: Advance) -> None:
    """Send a step as the committer does, on a connection of the test's own."""
    driven = DrivenRun("sales", opened.worker.id, step.claims)
    batch = Batch()
    batch.add(PendingStep(step, driven, asyncio.get_running_loop().create_future()))
    text, arguments = batch.statement(None)
    [record] = await connection.fetch(text, *arguments)
    assert not batch.read(record).refused


@pytest.mark.parametrize("ends", [False, True], ids=["a step", "the last step"])
async def test_a_step_waits_for_a_cancellation_and_is_refused(
    dsn: str, sql: asyncpg.Connection, opened: Opened, ends: bool
) -> None:
    drive = await opened.start(NUMBERS)
    made = completed(materialization(NUMBERS, drive.id))
    async with undecided(dsn) as other:
        await other.fetch(QUERIES["end_run"], drive.id, None, "cancelled", None, None)
        step = drive.finish(done=(made,)) if ends else drive.advance("asset.finished", done=(made,))
        committing = asyncio.create_task(step)
        await blocked(sql)
        await other.execute("COMMIT")

    assert not (await committing).accepted
    assert (await state_of(opened.store, NUMBERS)).current is None
    assert len(await opened.store.events(drive.id)) == 1


async def test_a_step_waits_for_a_cancellation_that_is_undone_and_is_accepted(
    dsn: str, sql: asyncpg.Connection, opened: Opened
) -> None:
    drive = await opened.start(NUMBERS)
    async with undecided(dsn) as other:
        await other.fetch(QUERIES["end_run"], drive.id, None, "cancelled", None, None)
        committing = asyncio.create_task(drive.advance("asset.started"))
        await blocked(sql)
        await other.execute("ROLLBACK")

    assert (await committing).accepted


async def test_a_cancellation_waits_for_a_step_and_frees_what_it_claimed(
    dsn: str, sql: asyncpg.Connection, opened: Opened
) -> None:
    drive = await opened.start()
    step = drive.step("asset.started", claims=(TOTAL,))
    async with undecided(dsn) as other:
        await commit_by_hand(other, opened, step)
        cancelling = asyncio.create_task(opened.store.cancel(drive.id, (event(1, "run.cancelled"),), ()))
        await blocked(sql)
        await other.execute("COMMIT")

    run = await cancelling
    assert run is not None
    assert run.state == "cancelled"
    total = await state_of(opened.store, TOTAL)
    assert (total.state, total.claimed_by) == ("cancelled", None)
    assert [told.no for told in await opened.store.events(drive.id)] == [1, 2, 3]


async def test_a_step_waits_for_its_run_to_be_taken_over_and_is_refused(
    dsn: str, sql: asyncpg.Connection, open_store: OpenStore
) -> None:
    zombie, heir = await open_store(), await open_store()
    drive = await zombie.start(NUMBERS)
    async with undecided(dsn) as other:
        await other.fetch(QUERIES["take"], [drive.id], heir.worker.id)
        made = materialization(NUMBERS, drive.id)
        committing = asyncio.create_task(drive.advance("asset.finished", done=(completed(made, payload=b"late"),)))
        await blocked(sql)
        await other.execute("COMMIT")

    assert not (await committing).accepted
    assert await heir.store.values.payload(made.id) is None
    assert (await state_of(heir.store, NUMBERS)).claimed_by == drive.id


async def test_a_run_that_is_being_taken_is_passed_over_by_others(dsn: str, open_store: OpenStore) -> None:
    dying, first, second = await open_store(), await open_store(), await open_store()
    drives = [await dying.start() for _ in range(3)]
    await first.store.expire(dying.worker.id)
    async with undecided(dsn) as other:
        taken = await other.fetch(QUERIES["orphans"], ["sales"], 1)
        rest = await second.store.take_orphans(second.worker.id, ["sales"], limit=10)

    assert [str(row[0]) for row in taken] == [drives[0].id]
    assert [run.id for run in rest] == [drive.id for drive in drives[1:]]


async def test_a_claim_waits_for_one_under_way_and_is_refused(
    dsn: str, sql: asyncpg.Connection, open_store: OpenStore
) -> None:
    first, second = await open_store(), await open_store()
    holder, asking = await first.start(), await second.start()
    step = holder.step("asset.started", claims=(NUMBERS,))
    async with undecided(dsn) as other:
        await commit_by_hand(other, first, step)
        claiming = asyncio.create_task(asking.advance(claims=(NUMBERS,)))
        await blocked(sql)
        await other.execute("COMMIT")

    claimed = (await claiming).claims[NUMBERS]
    assert (claimed.granted, claimed.holder) == (False, holder.id)


async def test_a_claim_waits_for_one_that_is_undone_and_is_granted(
    dsn: str, sql: asyncpg.Connection, open_store: OpenStore
) -> None:
    first, second = await open_store(), await open_store()
    holder, asking = await first.start(), await second.start()
    step = holder.step("asset.started", claims=(NUMBERS,))
    async with undecided(dsn) as other:
        await commit_by_hand(other, first, step)
        claiming = asyncio.create_task(asking.advance(claims=(NUMBERS,)))
        await blocked(sql)
        await other.execute("ROLLBACK")

    assert (await claiming).claims[NUMBERS].granted


async def test_a_claim_sees_the_value_whose_commit_it_waited_for(
    dsn: str, sql: asyncpg.Connection, open_store: OpenStore
) -> None:
    first, second = await open_store(), await open_store()
    holder, asking = await first.start(NUMBERS), await second.start()
    made = materialization(NUMBERS, holder.id)
    step = holder.step("asset.finished", done=(completed(made),))
    async with undecided(dsn) as other:
        await commit_by_hand(other, first, step)
        claiming = asyncio.create_task(asking.advance(claims=(NUMBERS,)))
        await blocked(sql)
        await other.execute("COMMIT")

    claimed = (await claiming).claims[NUMBERS]
    assert (claimed.granted, claimed.current) == (True, made.id)


async def test_a_claim_that_shared_a_row_with_a_refused_run_is_asked_again(
    sql: asyncpg.Connection, open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flowstone_async.store.postgres.committer.LANES", 1)
    opened = await open_store()
    stale, first, second = [await opened.start() for _ in range(3)]
    await sql.execute("UPDATE flowstone.run SET fence = fence + 1 WHERE id = $1", stale.id)

    refused, *answers = await asyncio.gather(
        stale.advance("asset.started", claims=(NUMBERS,)),
        first.advance("asset.started", claims=(NUMBERS, TOTAL)),
        second.advance("asset.started", claims=(NUMBERS, TOTAL)),
    )

    assert not refused.accepted
    assert [answer.accepted for answer in answers] == [True, True]
    for name in (NUMBERS, TOTAL):
        assert sorted(answer.claims[name].granted for answer in answers) == [False, True]
        assert {answer.claims[name].holder for answer in answers} == {(await state_of(opened.store, name)).claimed_by}
    assert (await first.finish()).accepted
    assert (await second.finish()).accepted
    assert await sql.fetchval("SELECT count(*) FROM flowstone.asset_key WHERE claim_run IS NOT NULL") == 0


async def test_an_invalidation_waits_for_a_commit_and_removes_its_value(
    dsn: str, sql: asyncpg.Connection, opened: Opened
) -> None:
    drive = await opened.start()
    await drive.compute(NUMBERS)
    await drive.advance(claims=(NUMBERS,))
    newer = materialization(NUMBERS, drive.id)
    step = drive.step("asset.finished", done=(completed(newer),))
    async with undecided(dsn) as other:
        await commit_by_hand(other, opened, step)
        removing = asyncio.create_task(opened.store.invalidate([NUMBERS], cascade=False))
        await blocked(sql)
        await other.execute("COMMIT")

    assert [removed.materialization.id for removed in await removing] == [newer.id]
    assert (await state_of(opened.store, NUMBERS)).current is None


async def test_overlapping_batches_of_several_processes_never_deadlock(
    sql: asyncpg.Connection, open_store: OpenStore
) -> None:
    stores = [await open_store(poll=0.01) for _ in range(4)]
    names = [key("numbers", f"i:{no}") for no in range(12)]
    order = random.Random(5)

    async def work(drive: Drive) -> None:
        for _ in range(8):
            wanted = tuple(order.sample(names, 6))
            answer = await drive.advance("asset.started", claims=wanted)
            mine = [name for name, claimed in answer.claims.items() if claimed.granted]
            order.shuffle(mine)
            half = len(mine) // 2
            made = [completed(materialization(name, drive.id)) for name in mine[:half]]
            await drive.advance("asset.finished", done=tuple(made), releases=tuple(mine[half:]))
        await drive.finish()

    async def disturb(opened: Opened) -> None:
        for _ in range(10):
            await opened.store.invalidate(order.sample(names, 6), cascade=True)
            doomed = await opened.start(*order.sample(names, 4))
            await opened.store.cancel(doomed.id, (event(1, "run.cancelled"),), ())

    drives = [await stores[no % 4].start() for no in range(24)]
    async with asyncio.timeout(60):
        await asyncio.gather(*map(work, drives), *map(disturb, stores))

    assert await sql.fetchval("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()") == 0
    assert await sql.fetchval("SELECT count(*) FROM flowstone.asset_key WHERE claim_run IS NOT NULL") == 0
    assert await sql.fetchval("SELECT count(*) FROM flowstone.run WHERE finished_at IS NULL") == 0


async def test_a_writer_in_another_transaction_hides_later_events_until_it_is_done(dsn: str, opened: Opened) -> None:
    early, late = await opened.start(), await opened.start()
    step = early.step("asset.started")
    seen = await opened.store.all_events(pipelines=["sales"])
    async with undecided(dsn) as other:
        await commit_by_hand(other, opened, step)
        await late.advance("asset.started")
        assert await opened.store.all_events(pipelines=["sales"]) == seen
        await other.execute("COMMIT")

    after = await opened.store.all_events(pipelines=["sales"], after=seen[-1].cursor)
    assert [stored.run_id for stored in after] == [early.id, late.id]


async def test_a_transaction_of_anybody_elses_hides_nothing(dsn: str, opened: Opened) -> None:
    drive = await opened.start()
    async with undecided(dsn) as other:
        await other.execute("CREATE TABLE public.mine (a integer)")
        await drive.advance("asset.started")

        assert len(await opened.store.all_events(pipelines=["sales"])) == 2


async def test_a_number_that_is_drawn_but_not_yet_held_hides_later_events(
    dsn: str, opened: Opened, sql: asyncpg.Connection
) -> None:
    """A transaction holds its number a moment after it has drawn it; who follows the events must not pass it then."""
    late = await opened.start()
    await sql.execute(
        "CREATE SCHEMA before; CREATE VIEW before.pg_locks AS SELECT * FROM pg_catalog.pg_locks "
        "WHERE locktype <> 'transactionid'; SET search_path = before, pg_catalog"
    )
    async with undecided(dsn) as other:
        await other.execute(QUERIES["lock_events"])
        number = await other.fetchval("SELECT pg_current_xact_id()::text::bigint")
        await late.advance("asset.started")

        # At most: other tests' transactions on the server are hidden likewise, and may be older.
        assert await sql.fetchval(QUERIES["settled"]) <= number << 20
