"""Events live in a partition for each day: made ahead, filled by the day of the run, dropped when a day is over."""

from __future__ import annotations

import asyncio
from datetime import UTC, date, datetime, timedelta

import asyncpg
import pytest

from flowstone_async.store.postgres.migrate import _START, migrations
from flowstone_async.store.records import Pruned
from tests.contract.builders import Drive, event, key, run_record
from tests.contract.clock import SetClock
from tests.postgres.conftest import Opened, OpenStore
from tests.support.postgres import TestServer

DAY = 86_400.0
TODAY = date(2025, 6, 1)  # of a SetClock


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


def named(day: date) -> str:
    return f"event_{day:%Y%m%d}"


async def partitions(sql: asyncpg.Connection) -> set[str]:
    return {row[0] for row in await sql.fetch("SELECT name FROM flowstone.event_partition")}


async def beside(sql: asyncpg.Connection) -> set[str]:
    """Return the partitions of events that must be there for those of steps that are."""
    found = "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'flowstone.step'::regclass"
    names = {row[0].removeprefix("flowstone.") for row in await sql.fetch(found)}
    return {name.replace("step", "event", 1) for name in names - {"step_default"}}


async def places(sql: asyncpg.Connection, run_id: str) -> set[str]:
    """Return the partitions that a run's events are in."""
    found = await sql.fetch("SELECT DISTINCT tableoid::regclass::text FROM flowstone.event WHERE run_id = $1", run_id)
    return {row[0].removeprefix("flowstone.") for row in found}


async def ended(opened: Opened) -> Drive:
    drive = await opened.start()
    await drive.advance("asset.started", "asset.finished")
    await drive.finish()
    return drive


async def numbers(opened: Opened, drive: Drive) -> list[int]:
    return [told.no for told in await opened.store.events(drive.id)]


# -- migrating --------------------------------------------------------------------------------------------------------

OLD = """
INSERT INTO flowstone.run (id, fence, created_at, finished_at, continuable, state, pipeline, partition, targets,
    options, params)
SELECT md5('r' || n)::uuid, 1, at, at, true, 'succeeded', 'p', '', '[]', '{}', '{}'
FROM (SELECT n, now() - (n - 1) * interval '20 days' AS at FROM generate_series(1, 4) AS n) AS runs;
INSERT INTO flowstone.event (run_id, first_no, cursor, at, count, pipeline, body, claims)
SELECT md5('r' || n)::uuid, no, n * 100 + no, now(), 1, 'p', 'body ' || no, 'claims'
FROM generate_series(1, 4) AS n, generate_series(1, 3) AS no;
INSERT INTO flowstone.event (run_id, first_no, cursor, at, count, pipeline, body)
SELECT md5('of nobody')::uuid, 1, 1, now() - interval '3 days', 1, 'p', 'body';
"""
ROWS = (
    "SELECT run_id, first_no, cursor, at, count, pipeline, body, claims FROM flowstone.event ORDER BY run_id, first_no"
)


async def test_migrating_carries_the_events_of_a_store_over(server: TestServer) -> None:
    async def nothing(_: asyncpg.Connection) -> None:
        return

    await server.create_template("empty", nothing)
    connection = await asyncpg.connect(await server.clone("empty"))
    try:
        await connection.execute(_START)
        [number] = [each.number for each in migrations() if each.name == "event_partitions"]
        for one in migrations():
            if one.number < number:
                await connection.execute(one.text)
        await connection.execute(OLD)
        before = await connection.fetch(ROWS)
        for one in migrations():
            if one.number >= number:
                async with connection.transaction():
                    await connection.execute(one.text)

        assert await connection.fetch(ROWS) == before
        wrong = "SELECT count(*) FROM flowstone.event AS e JOIN flowstone.run AS r ON r.id = e.run_id WHERE e.born <> "
        assert await connection.fetchval(f"{wrong} (r.created_at AT TIME ZONE 'UTC')::date") == 0
        assert await connection.fetchval("SELECT count(*) FROM flowstone.event_default") == 0
        kept = await partitions(connection)
        today = await connection.fetchval("SELECT (now() AT TIME ZONE 'UTC')::date")
        month = today - timedelta(days=31)
        assert kept == {f"event_before_{month:%Y%m%d}", *(named(today + timedelta(days=n)) for n in range(-31, 4))}
        assert await connection.fetchval("SELECT to_regclass('flowstone.event_whole')") is None
        assert await beside(connection) == kept
    finally:
        connection.terminate()


# -- making them ------------------------------------------------------------------------------------------------------


async def test_there_are_partitions_for_today_and_the_next_days(sql: asyncpg.Connection, open_store: OpenStore) -> None:
    clock = SetClock()
    clock.advance(100 * DAY)

    await asyncio.gather(*(open_store(clock=clock) for _ in range(5)))

    there = await partitions(sql)
    assert {named(TODAY + timedelta(days=100 + ahead)) for ahead in range(3)} <= there


async def test_upkeep_makes_partitions_as_time_goes_by(
    sql: asyncpg.Connection, open_store: OpenStore, clock: SetClock
) -> None:
    opened = [await open_store(clock=clock) for _ in range(3)]
    for _ in range(4):
        clock.advance(3 * DAY)
        await asyncio.gather(*(one.store.maintain() for one in opened))
        drive = await ended(opened[0])
        assert await places(sql, drive.id) == {named(clock.now().date())}

    assert await sql.fetchval("SELECT count(*) FROM flowstone.event_default") == 0
    assert await sql.fetchval("SELECT last_analyze FROM pg_stat_user_tables WHERE relname = 'event'") is not None


async def test_somebody_who_may_only_write_can_make_partitions(sql: asyncpg.Connection) -> None:
    role = f"writer_{sql.get_server_pid()}"
    await sql.execute(f"CREATE ROLE {role}; GRANT USAGE ON SCHEMA flowstone TO {role}; SET ROLE {role}")
    try:
        assert await sql.fetchval("SELECT flowstone.add_event_partition('2031-01-01')") == "added"
    finally:
        await sql.execute(f"RESET ROLE; DROP OWNED BY {role}; DROP ROLE {role}")
    assert named(date(2031, 1, 1)) in await partitions(sql)


async def test_whoever_is_in_the_way_is_not_waited_for(dsn: str, sql: asyncpg.Connection) -> None:
    writer = await asyncpg.connect(dsn)
    await writer.execute("BEGIN; LOCK TABLE ONLY flowstone.event IN ROW EXCLUSIVE MODE")

    assert await sql.fetchval("SELECT flowstone.add_event_partition('2031-01-01')") == "busy"
    assert await sql.fetchval("SELECT flowstone.drop_event_partition('event_20250601', now())") == "busy"

    await writer.execute("COMMIT")
    assert await sql.fetchval("SELECT flowstone.add_event_partition('2031-01-01')") == "added"
    assert await sql.fetchval("SELECT flowstone.add_event_partition('2031-01-01')") == "there"
    await writer.close()


# -- filling them -----------------------------------------------------------------------------------------------------


async def test_all_events_of_a_run_are_in_the_partition_of_its_day(
    sql: asyncpg.Connection, open_store: OpenStore, clock: SetClock
) -> None:
    opened = await open_store(clock=clock)
    drive = await opened.start(key("numbers"))
    clock.advance(2 * DAY)
    await drive.advance("asset.started")
    other = await opened.start()
    clock.advance(5 * DAY)
    await opened.store.cancel(other.id, (event(1, "run.cancelled"),), ())
    await drive.finish()

    assert await places(sql, drive.id) == {named(TODAY)}
    assert await places(sql, other.id) == {named(TODAY + timedelta(days=2))}
    assert await numbers(opened, drive) == [1, 2, 3]
    assert await numbers(opened, other) == [1, 2]


async def test_a_day_without_a_partition_stops_nobody(
    sql: asyncpg.Connection, open_store: OpenStore, clock: SetClock
) -> None:
    opened = await open_store(clock=clock)
    clock.advance(50 * DAY)
    drive = await ended(opened)
    later = await opened.start()
    assert await places(sql, drive.id) == {"event_default"}
    [fault] = await opened.store.faults()
    statistics = await opened.store.statistics()
    assert ("4 event rows of 2025-07-21 are in event_default" in fault.problem, statistics.astray) == (True, 4)

    await opened.store.maintain()
    await later.finish()

    assert await places(sql, drive.id) == await places(sql, later.id) == {named(date(2025, 7, 21))}
    assert (await numbers(opened, drive), await numbers(opened, later)) == ([1, 2, 3, 4], [1, 2])
    assert len(await opened.store.all_events(pipelines=["sales"])) == 6
    assert await opened.store.faults() == ()


async def test_steps_go_on_while_their_partition_is_made(
    sql: asyncpg.Connection, open_store: OpenStore, clock: SetClock
) -> None:
    """What is on its way to the default partition is neither lost nor refused when the right one comes."""
    engines = [await open_store(clock=clock) for _ in range(3)]
    for _ in range(5):
        clock.advance(50 * DAY)
        drives = [await engines[no % 3].start() for no in range(12)]

        async def tell(drive: Drive) -> None:
            for _ in range(10):
                assert (await drive.advance("asset.started")).accepted
            await drive.finish()

        await asyncio.gather(*map(tell, drives), *(one.store.maintain() for one in engines))

        await engines[0].store.maintain()
        for drive in drives:
            assert await numbers(engines[0], drive) == list(range(1, 13))
            assert await places(sql, drive.id) == {named(clock.now().date())}


async def test_a_crowd_in_the_default_partition_stays_there_until_it_is_pruned(
    sql: asyncpg.Connection, open_store: OpenStore, clock: SetClock
) -> None:
    opened = await open_store(clock=clock)
    clock.advance(50 * DAY)
    drive = await ended(opened)
    await sql.execute(
        "INSERT INTO flowstone.event (born, run_id, first_no, cursor, at, count, pipeline, body) SELECT '2025-07-21', "
        f"'{drive.id}', -n, 1, now(), 0, 'sales', '[]' FROM generate_series(1, 12000) AS n"
    )

    await opened.store.maintain()

    assert await places(sql, drive.id) == {"event_default"}
    assert await numbers(opened, drive) == [1, 2, 3, 4]
    clock.advance(10 * DAY)
    assert await opened.store.prune(runs=3 * DAY, values=None) == Pruned(1, ())
    assert await sql.fetchval("SELECT count(*) FROM flowstone.event") == 0


@pytest.mark.parametrize("born", ["2025-06-01", "1999-01-01"], ids=["its partition", "the default one"])
async def test_readers_stop_before_what_is_being_written(
    dsn: str, opened: Opened, sql: asyncpg.Connection, born: str
) -> None:
    """Whoever inserts holds the parent too, also with a plan that was made before: `settled` sees it."""
    writer = await asyncpg.connect(dsn)
    await writer.execute(
        "SET plan_cache_mode = force_generic_plan; PREPARE tell (date) AS INSERT INTO flowstone.event "
        "(born, run_id, first_no, cursor, at, count, pipeline, body) SELECT $1, gen_random_uuid(), 1, "
        "pg_current_xact_id()::text::bigint << 20, now(), 1, 'sales', '[[1, \"x\", 0, {}]]'"
    )
    await writer.execute(f"EXECUTE tell ('{born}')")
    await writer.execute("BEGIN")
    await writer.execute(f"EXECUTE tell ('{born}')")
    drive = await ended(opened)

    held = await sql.fetch(
        "SELECT mode FROM pg_locks WHERE relation = 'flowstone.event'::regclass AND pid = $1", writer.get_server_pid()
    )
    read = await opened.store.all_events(pipelines=["sales"])

    assert "RowExclusiveLock" in {row[0] for row in held}
    assert drive.id not in {stored.run_id for stored in read}
    await writer.execute("COMMIT")
    assert drive.id in {stored.run_id for stored in await opened.store.all_events(pipelines=["sales"])}
    await writer.close()


# -- dropping them ----------------------------------------------------------------------------------------------------


async def prune(opened: Opened, days: float = 3) -> int:
    return (await opened.store.prune(runs=days * DAY, values=None)).runs


async def test_a_day_goes_as_a_whole_when_all_of_its_runs_are_old(
    sql: asyncpg.Connection, open_store: OpenStore, clock: SetClock
) -> None:
    opened = await open_store(clock=clock)
    old = [await ended(opened) for _ in range(3)]
    clock.advance(DAY)
    young = await ended(opened)
    clock.advance(2.4 * DAY)
    assert await prune(opened) == 0  # three days have passed, but not since the end of the day
    assert named(TODAY) in await partitions(sql)
    clock.advance(0.4 * DAY)

    assert await prune(opened) == 3

    assert {named(TODAY), named(TODAY + timedelta(days=1))} & await partitions(sql) == {
        named(TODAY + timedelta(days=1))
    }
    assert [run.id for run in await opened.store.runs(pipelines=["sales"])] == [young.id]
    assert await numbers(opened, old[0]) == []
    assert {stored.run_id for stored in await opened.store.all_events(pipelines=["sales"])} == {young.id}
    assert not (await old[0].advance("too.late")).accepted
    assert await places(sql, old[0].id) == set()


async def test_a_day_stays_while_a_run_of_it_is_active(
    sql: asyncpg.Connection, open_store: OpenStore, clock: SetClock
) -> None:
    opened = await open_store(clock=clock)
    active, old = await opened.start(), await ended(opened)
    clock.advance(3.6 * DAY)
    assert await prune(opened) == 0  # it is waited for, for a day
    assert await numbers(opened, old) == [1, 2, 3, 4]
    clock.advance(DAY)

    assert await prune(opened) == 1

    assert named(TODAY) in await partitions(sql)
    assert (await numbers(opened, old), await numbers(opened, active)) == ([], [1])
    await active.finish()
    assert await prune(opened) == 0
    assert await numbers(opened, active) == [1, 2]
    clock.advance(3.1 * DAY)
    assert await prune(opened) == 1
    assert named(TODAY) not in await partitions(sql)


async def test_a_day_waits_for_its_last_run_and_then_goes_as_a_whole(
    sql: asyncpg.Connection, open_store: OpenStore, clock: SetClock
) -> None:
    opened = await open_store(clock=clock)
    await ended(opened)
    late = await opened.start()
    clock.advance(0.7 * DAY)
    await late.finish()
    clock.advance(2.9 * DAY)
    assert await prune(opened) == 0
    clock.advance(0.2 * DAY)

    assert await prune(opened) == 2

    assert named(TODAY) not in await partitions(sql)


async def test_a_reader_in_the_way_puts_the_drop_off(
    dsn: str, sql: asyncpg.Connection, open_store: OpenStore, clock: SetClock
) -> None:
    opened = await open_store(clock=clock)
    drive = await ended(opened)
    clock.advance(3.6 * DAY)
    reader = await asyncpg.connect(dsn)
    await reader.execute("BEGIN; SELECT FROM flowstone.event")

    assert await prune(opened) == 0
    assert await numbers(opened, drive) == [1, 2, 3, 4]

    await reader.execute("COMMIT")
    assert await prune(opened) == 1
    assert named(TODAY) not in await partitions(sql)
    await reader.close()


async def test_with_a_short_retention_events_go_row_by_row(
    sql: asyncpg.Connection, open_store: OpenStore, clock: SetClock
) -> None:
    opened = await open_store(clock=clock)
    old = await ended(opened)
    clock.advance(1.5 * DAY)

    assert await prune(opened, 1) == 1

    assert named(TODAY) in await partitions(sql)
    assert await places(sql, old.id) == set()


@pytest.mark.parametrize("days", [1, 3])
async def test_pruners_share_the_work(
    sql: asyncpg.Connection, open_store: OpenStore, clock: SetClock, days: int
) -> None:
    engines = [await open_store(clock=clock) for _ in range(3)]
    for no in range(2):
        await asyncio.gather(*(ended(engines[each % 3]) for each in range(250)))
        clock.advance((1 - no) * DAY)
    active = await engines[0].start()
    clock.advance(10 * DAY)

    async def work(opened: Opened) -> int:
        count = 0
        while gone := await prune(opened, days):
            count += gone
        return count

    assert sum(await asyncio.gather(*map(work, engines))) == 500
    assert [run.id for run in await engines[0].store.runs(pipelines=["sales"])] == [active.id]
    assert {row[0] for row in await sql.fetch("SELECT DISTINCT run_id::text FROM flowstone.event")} == {active.id}


async def test_a_run_with_more_events_than_a_batch_takes_goes_all_the_same(
    sql: asyncpg.Connection, open_store: OpenStore, clock: SetClock
) -> None:
    opened = await open_store(clock=clock)
    drive = await ended(opened)
    await sql.execute(
        "INSERT INTO flowstone.event (born, run_id, first_no, cursor, at, count, pipeline, body) SELECT '2025-06-01', "
        f"'{drive.id}', -n, 1, now(), 0, 'sales', '[]' FROM generate_series(1, 10996) AS n"
    )
    clock.advance(DAY + 1)

    assert await prune(opened, 1) == 1
    assert await sql.fetchval("SELECT count(*) FROM flowstone.event") == 0


async def test_a_run_that_was_begun_in_the_past_keeps_its_events(
    sql: asyncpg.Connection, open_store: OpenStore, clock: SetClock
) -> None:
    opened = await open_store(clock=clock)
    run = run_record(opened.worker.id, created_at=datetime(2001, 2, 3, 4, tzinfo=UTC))
    drive = Drive(opened.store, run)
    await drive.advance("run.started", create=run)
    await opened.store.maintain()
    clock.advance(30 * DAY)

    assert await prune(opened) == 0
    assert await numbers(opened, drive) == [1]
    assert await places(sql, drive.id) == {"event_20010203"}
