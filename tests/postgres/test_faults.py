"""Backends that are killed, servers that restart or stand still, disks that are full: nothing is lost or done twice."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from flowstone_async.clock import SystemClock
from flowstone_async.errors import ConfigError, StorageError, StoreUnavailable
from flowstone_async.store.embedded.server import EmbeddedServer
from flowstone_async.store.postgres import PostgresStore
from tests.contract.builders import Drive, completed, current_of, event, key, materialization, state_of
from tests.postgres.conftest import Opened, OpenStore
from tests.postgres.waiting import blocked, busy, until
from tests.postgres.wire import LossyProxy
from tests.support.postgres import FAST, short_folder

NUMBERS = key("numbers")


async def terminate_all(sql: asyncpg.Connection) -> None:
    await sql.fetch(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )


async def lock_run(dsn: str, run_id: str) -> asyncpg.Connection:
    """Lock a run, so that a step of it stays under way."""
    connection = await asyncpg.connect(dsn)
    await connection.execute("BEGIN")
    await connection.execute("SELECT FROM flowstone.run WHERE id = $1 FOR UPDATE", run_id)
    return connection


async def test_a_backend_that_is_killed_in_the_middle_of_a_step(
    dsn: str, sql: asyncpg.Connection, opened: Opened
) -> None:
    drive = await opened.start(NUMBERS)
    made = materialization(NUMBERS, drive.id)
    other = await lock_run(dsn, drive.id)
    committing = asyncio.create_task(drive.advance("asset.finished", done=(completed(made),)))
    await blocked(sql)
    assert await sql.fetchval("SELECT pg_terminate_backend($1)", await busy(sql, "alive AS MATERIALIZED"))
    other.terminate()

    assert (await committing).accepted
    assert await current_of(opened.store, NUMBERS) == made.id
    assert len(await opened.store.events(drive.id)) == 2


async def test_connections_that_died_idle_are_noticed_by_the_next_call(sql: asyncpg.Connection, opened: Opened) -> None:
    drives = [await opened.start() for _ in range(6)]
    await opened.store.states([NUMBERS])
    await terminate_all(sql)

    assert all([(await drive.advance("asset.started")).accepted for drive in drives])
    assert await opened.store.states([NUMBERS]) == {}
    assert await opened.store.run(drives[0].id) is not None


async def test_work_goes_on_while_backends_are_killed_again_and_again(
    sql: asyncpg.Connection, open_store: OpenStore
) -> None:
    opened = await open_store(poll=0.02)
    names = [key("numbers", f"i:{no}") for no in range(20)]

    async def work(no: int) -> None:
        drive = await opened.start(names[no])
        for _ in range(5):
            made = materialization(names[no], drive.id)
            done = (completed(made),)
            assert (await drive.advance("asset.finished", done=done, claims=(names[no],))).accepted
        assert (await drive.finish()).accepted

    async def kill(working: asyncio.Future[list[None]]) -> int:
        """Kill whenever some steps have got through since the last time."""
        kills = told = 0
        while not working.done():
            count = await sql.fetchval("SELECT count(*) FROM flowstone.event")
            if count > told:
                told, kills = count, kills + 1
                await terminate_all(sql)
        return kills

    async with asyncio.timeout(60):
        working = asyncio.gather(*(work(no) for no in range(20)))
        assert await kill(working) > 3
        await working

    runs = await sql.fetch("SELECT state, count(*) FROM flowstone.run GROUP BY state")
    assert [tuple(row) for row in runs] == [("succeeded", 20)]
    assert await sql.fetchval("SELECT count(*) FROM flowstone.materialization") == 100
    assert await sql.fetchval("SELECT sum(count) FROM flowstone.event") == 20 * 7
    assert await sql.fetchval("SELECT count(*) FROM flowstone.asset_key WHERE claim_run IS NOT NULL") == 0


@pytest.mark.parametrize("bad", ["nul", "surrogate", "long key", "huge number"])
async def test_a_step_that_cannot_be_stored_fails_alone(opened: Opened, bad: str) -> None:
    names = [key("numbers", f"i:{no}") for no in range(30)]
    drives = [await opened.start(name) for name in names]
    records = [materialization(name, drive.id) for name, drive in zip(names, drives, strict=True)]
    poison = {
        "nul": records[17]._replace(location="no\0where"),
        "surrogate": records[17]._replace(host="\ud800"),
        "long key": records[17],
        "huge number": records[17]._replace(size=2**70),
    }[bad]
    claims = {17: (key("numbers", os.urandom(8000).hex()),)} if bad == "long key" else {}
    records[17] = poison

    answers = await asyncio.gather(
        *(
            drive.advance("asset.finished", done=(completed(made),), claims=claims.get(no, ()))
            for no, (drive, made) in enumerate(zip(drives, records, strict=True))
        ),
        return_exceptions=True,
    )

    failed = answers.pop(17)
    assert isinstance(failed, StorageError)
    assert failed.run_id == drives[17].id
    assert not failed.retryable
    assert all(getattr(answer, "accepted", answer) is True for answer in answers)
    assert (await state_of(opened.store, names[17])).state == "running"
    assert len(await opened.store.events(drives[17].id)) == 1


async def test_several_poisonous_steps_in_one_batch(opened: Opened) -> None:
    drives = [await opened.start() for _ in range(16)]
    bad = {0, 3, 4, 15}

    answers = await asyncio.gather(
        *(
            drive.advance("asset.started", claims=(key("n\0" if no in bad else "n", f"i:{no}"),))
            for no, drive in enumerate(drives)
        ),
        return_exceptions=True,
    )

    assert {no for no, answer in enumerate(answers) if isinstance(answer, StorageError)} == bad
    assert all(getattr(answer, "accepted", False) for no, answer in enumerate(answers) if no not in bad)


async def test_a_key_that_cannot_be_looked_up_fails_alone(opened: Opened) -> None:
    drive = await opened.start(NUMBERS)

    good, bad, other = await asyncio.gather(
        opened.store.states([NUMBERS]),
        opened.store.states([key("n\0")]),
        opened.store.states([key("unknown")]),
        return_exceptions=True,
    )

    assert isinstance(bad, StorageError)
    assert isinstance(good, dict)
    assert good[NUMBERS].claimed_by == drive.id
    assert other == {}


async def test_a_value_that_is_too_large_is_refused_before_it_is_sent(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flowstone_async.store.postgres.step.LARGEST_PAYLOAD", 10)
    drive = await opened.start(NUMBERS)

    with pytest.raises(StorageError, match="has 11 bytes") as caught:
        await drive.advance(done=(completed(materialization(NUMBERS, drive.id), payload=b"x" * 11),))
    assert caught.value.hint


async def test_a_schema_that_is_gone_is_told_to_every_caller(sql: asyncpg.Connection, opened: Opened) -> None:
    drives = [await opened.start() for _ in range(4)]
    await sql.execute("ALTER TABLE flowstone.event RENAME TO gone")

    answers = await asyncio.gather(*(drive.advance("asset.started") for drive in drives), return_exceptions=True)

    await sql.execute("ALTER TABLE flowstone.gone RENAME TO event")
    assert all(isinstance(answer, ConfigError) for answer in answers)
    assert all([(await drive.advance("asset.started")).accepted for drive in drives])


async def test_an_unreachable_server_is_told_when_patience_ends(dsn: str, open_store: OpenStore) -> None:
    async with LossyProxy(dsn) as proxy:
        opened = await open_store(proxy.dsn, notify=False, patience=0.2)
        drive = await opened.start()
        await proxy.__aexit__()

        with pytest.raises(StoreUnavailable) as caught:
            await drive.advance("asset.started")
        assert caught.value.retryable
        assert caught.value.run_id == drive.id
        with pytest.raises(StoreUnavailable):
            await opened.store.states([NUMBERS])
        with pytest.raises(StoreUnavailable):
            await opened.store.cancel(drive.id, (event(1, "run.cancelled"),), ())


async def test_what_may_have_been_claimed_is_let_go_at_the_end(dsn: str, open_store: OpenStore) -> None:
    async with LossyProxy(dsn) as proxy:
        opened = await open_store(proxy.dsn, notify=False, patience=0.0)
        drive = await opened.start()
        proxy.lose = 1
        with pytest.raises(StoreUnavailable):
            await drive.advance("asset.started", claims=(NUMBERS,))
        assert (await state_of(opened.store, NUMBERS)).claimed_by == drive.id

        assert (await drive.finish()).accepted
        assert (await state_of(opened.store, NUMBERS)).claimed_by is None


async def test_a_server_that_stands_still_is_given_up_in_time(dsn: str, open_store: OpenStore) -> None:
    async with LossyProxy(dsn) as proxy:
        opened = await open_store(proxy.dsn, notify=False, patience=0.1)
        drive = await opened.start()
        opened.store._connections.patience = 0.1
        proxy.flowing.clear()

        with pytest.raises(StoreUnavailable):
            await opened.store.states([NUMBERS])
        with pytest.raises(StoreUnavailable):
            await drive.advance("asset.started")

        proxy.flowing.set()
        opened.store._connections.patience = 30
        assert (await drive.advance("asset.started")).accepted


async def test_a_backend_that_hangs_holds_up_nobody(sql: asyncpg.Connection, opened: Opened) -> None:
    drive = await opened.start()
    pids = await sql.fetch(
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    opened.store._connections.patience = 0.3
    for (pid,) in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        assert (await drive.advance("asset.started")).accepted
    finally:
        for (pid,) in pids:
            os.kill(pid, signal.SIGCONT)


async def test_closing_answers_everybody(dsn: str, open_store: OpenStore) -> None:
    opened = await open_store()
    drives = [await opened.start() for _ in range(10)]
    other = await lock_run(dsn, drives[0].id)
    calls = [asyncio.create_task(drive.advance("asset.started")) for drive in drives]
    await asyncio.sleep(0)
    closing = asyncio.create_task(opened.store.close())
    await asyncio.sleep(0)
    with pytest.raises(StoreUnavailable):
        await drives[1].advance("asset.started")
    await other.execute("ROLLBACK")
    await closing
    other.terminate()

    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(answer, StoreUnavailable) or getattr(answer, "accepted", False) for answer in answers)


async def test_a_store_may_be_closed_by_another_task_than_the_one_that_opened_it(dsn: str) -> None:
    opened = Opened(PostgresStore(dsn, clock=SystemClock()))
    async with asyncio.TaskGroup() as group:
        await group.create_task(opened.open())
    before = len(asyncio.all_tasks())
    async with asyncio.TaskGroup() as group:
        group.create_task(opened.store.close())
    assert len(asyncio.all_tasks()) < before


async def test_opening_that_is_cancelled_leaves_nothing_behind(dsn: str, sql: asyncpg.Connection) -> None:
    for ticks in (0, 1, 5, 20, 60, 150):
        opened = Opened(PostgresStore(dsn, clock=SystemClock()))
        before = asyncio.all_tasks()
        opening = asyncio.create_task(opened.open())
        for _ in range(ticks):
            await asyncio.sleep(0)
        opening.cancel()
        await asyncio.gather(opening, return_exceptions=True)
        await opened.store.close()
        assert not {task for task in asyncio.all_tasks() - before if "flowstone" in task.get_name()}

    async def alone() -> bool:
        return await sql.fetchval("SELECT count(*) FROM flowstone.worker") == 0

    await until(alone)


@pytest.fixture
def folder() -> Iterator[Path]:
    """The folder of a server that a test may stop and start."""
    with short_folder() as made:
        yield made / ".flowstone"


async def test_runs_survive_a_restart_of_the_server(folder: Path) -> None:
    before, after = (EmbeddedServer(folder, settings=FAST) for _ in range(2))
    address = before.start()
    opened = Opened(PostgresStore(address.dsn(), clock=SystemClock(), poll=0.05))
    await opened.open(lease=30)
    names = [key("numbers", f"i:{no}") for no in range(10)]
    drives = [await opened.start(name) for name in names]

    async def work(drive: Drive, no: int) -> None:
        for _ in range(20):
            done = (completed(materialization(names[no], drive.id)),)
            assert (await drive.advance("asset.finished", done=done, claims=(names[no],))).accepted
        assert (await drive.finish()).accepted

    working = asyncio.gather(*(work(drive, no) for no, drive in enumerate(drives)))
    await asyncio.sleep(0)
    [file] = [*folder.rglob("postmaster.pid")]
    os.kill(int(file.read_text().split("\n", 1)[0]), signal.SIGINT)

    async def down() -> bool:
        return not file.exists()

    await until(down)
    assert await asyncio.to_thread(after.start) == address
    try:
        async with asyncio.timeout(60):
            await working
        states = await opened.store.states(names)
        assert all(state.current and state.claimed_by is None for state in states.values())
        assert not opened.lost.is_set()
    finally:
        await opened.store.close()
        after.stop()
        before.stop()
