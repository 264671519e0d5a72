"""The lease: kept by a blocked event loop, lost for good by a dead worker, never outlived by a write."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import asyncpg
import pytest

from flowstone_async.clock import SystemClock
from flowstone_async.store.postgres import PostgresStore
from flowstone_async.store.postgres.connections import Connections
from flowstone_async.store.postgres.lease import Lease
from flowstone_async.store.postgres.queries import QUERIES
from flowstone_async.store.records import Advance, Worker
from tests.contract.builders import completed, event, key, materialization, run_record, state_of, worker
from tests.postgres.conftest import Opened, OpenStore
from tests.postgres.waiting import until
from tests.postgres.wire import LossyProxy

NUMBERS = key("numbers")


class Ticks:
    """A monotonic clock that a test moves on."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


async def expire(sql: asyncpg.Connection, owner: Worker) -> None:
    """Let a lease run out on the server's clock, while its holder knows nothing of it."""
    await sql.execute(
        "UPDATE flowstone.worker SET lease_until = statement_timestamp() - interval '1 second' WHERE id = $1", owner.id
    )


async def healthy(opened: Opened) -> None:
    """Let a worker have held its lease for its whole length."""
    lease = opened.store._lease
    assert lease is not None
    lease._healthy_since -= 3600


async def heard(event_: asyncio.Event) -> None:
    async with asyncio.timeout(20):
        await event_.wait()


async def lease_until(sql: asyncpg.Connection, owner: Worker) -> object:
    return await sql.fetchval("SELECT lease_until FROM flowstone.worker WHERE id = $1", owner.id)


async def test_a_lease_is_renewed_while_the_event_loop_is_blocked(
    sql: asyncpg.Connection, open_store: OpenStore
) -> None:
    opened = await open_store(lease=0.8)
    drive = await opened.start(NUMBERS)

    end = time.monotonic() + 1.2
    while time.monotonic() < end:
        pass  # a body that never awaits

    assert await sql.fetchval("SELECT lease_until > clock_timestamp() FROM flowstone.worker")
    assert (await drive.finish()).accepted
    assert not opened.lost.is_set()


async def test_a_worker_that_was_declared_dead_never_comes_back(sql: asyncpg.Connection, open_store: OpenStore) -> None:
    opened = await open_store(lease=0.4)
    drive = await opened.start(NUMBERS)
    await sql.execute("UPDATE flowstone.worker SET dead = true")

    await heard(opened.lost)

    assert not (await drive.advance("asset.started")).accepted
    run = run_record(opened.worker.id)
    created = await opened.store.advance(Advance(run_id=run.id, fence=1, create=run, events=(event(1),)))
    assert not created.accepted
    assert await sql.fetchval("SELECT dead FROM flowstone.worker")


async def test_a_worker_that_is_dead_and_does_not_know_it_commits_nothing(
    sql: asyncpg.Connection, opened: Opened
) -> None:
    drive = await opened.start(NUMBERS)
    await sql.execute("UPDATE flowstone.worker SET dead = true")

    made = materialization(NUMBERS, drive.id)
    assert not (await drive.advance("asset.finished", done=(completed(made, payload=b"late"),))).accepted
    assert await opened.store.values.payload(made.id) is None
    assert not opened.lost.is_set()


async def test_without_the_database_a_worker_fences_itself_in_time(dsn: str, open_store: OpenStore) -> None:
    async with LossyProxy(dsn) as proxy:
        opened = await open_store(proxy.dsn, lease=0.5, notify=False)
        drive = await opened.start(NUMBERS)
        await proxy.__aexit__()

        await heard(opened.lost)

        assert not (await drive.advance("asset.started")).accepted
    near = await open_store()
    assert len(await near.store.events(drive.id)) == 1


async def test_a_database_that_stands_still_does_not_keep_a_lease(dsn: str, open_store: OpenStore) -> None:
    async with LossyProxy(dsn) as proxy:
        opened = await open_store(proxy.dsn, lease=0.5, notify=False)
        proxy.flowing.clear()
        await heard(opened.lost)
        proxy.flowing.set()


async def test_a_short_break_does_not_cost_the_lease(dsn: str, open_store: OpenStore) -> None:
    async with LossyProxy(dsn) as proxy:
        opened = await open_store(proxy.dsn, lease=4, notify=False)
        drive = await opened.start(NUMBERS)
        proxy.cut()
        assert opened.store._lease is not None
        before = opened.store._lease._deadline
        opened.store._lease.renew_now()

        async def renewed() -> bool:
            assert opened.store._lease is not None
            return opened.store._lease._deadline > before

        await until(renewed)
        assert (await drive.finish()).accepted
        assert not opened.lost.is_set()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_a_thread_that_dies_takes_the_lease_with_it(open_store: OpenStore) -> None:
    opened = await open_store(lease=30)
    drive = await opened.start()
    lease = opened.store._lease
    assert lease is not None

    async def die(_: object) -> None:
        raise RuntimeError("a mistake of our own")

    lease._renew = die  # type: ignore[method-assign, assignment]
    lease.renew_now()
    await heard(opened.lost)
    await asyncio.to_thread(lease._thread.join, 10)  # what it raised is heard of before the next test

    assert not (await drive.advance("asset.started")).accepted


async def test_a_thread_that_is_never_heard_of_again_fences_its_worker(open_store: OpenStore) -> None:
    opened = await open_store(lease=0.6)
    lease = opened.store._lease
    assert lease is not None
    stuck = asyncio.Event()

    async def hang(connection: object) -> object:
        await stuck.wait()
        return connection

    lease._renew = hang  # type: ignore[method-assign, assignment]
    await heard(opened.lost)
    assert not lease.holds()
    assert lease._thread_loop is not None
    lease._thread_loop.call_soon_threadsafe(stuck.set)


async def test_who_was_told_that_it_is_over_does_not_hear_later_that_it_goes_on(dsn: str) -> None:
    """A renewal that was sent in time is answered behind the deadline: what was refused meanwhile stays refused."""
    ticks, lost = Ticks(), list[str]()
    lease = Lease(Connections(dsn, direct=None), worker(), 100, lambda: lost.append("lost"), monotonic=ticks)
    assert not lease.holds()
    await lease.start()
    assert lease.holds()
    ticks.now = 1100
    assert not lease.holds()
    lease._deadline = 1190  # the answer
    assert not lease.holds()
    lease._watch()
    assert lost == ["lost"]
    await lease.stop()


async def test_the_deadline_counts_from_before_the_renewal_was_sent(dsn: str) -> None:
    ticks = Ticks()
    lost: list[str] = []
    async with LossyProxy(dsn) as proxy:
        connections = Connections(proxy.dsn, direct=None)
        lease = Lease(connections, worker(), 100, lambda: lost.append("lost"), monotonic=ticks)
        await lease.start()
        assert lease._deadline == 1100
        ticks.now = 1050
        lease.renew_now()

        async def renewed() -> bool:
            return lease._deadline == 1150

        await until(renewed)
        proxy.flowing.clear()
        ticks.now = 1060
        lease.renew_now()
        ticks.now = 1149
        assert lease.holds()
        ticks.now = 1150
        assert not lease.holds()
        lease._watch()
        assert lost == ["lost"]
        proxy.flowing.set()
        await lease.stop()
        assert lost == ["lost"]


async def test_closing_ends_the_lease_and_the_thread(sql: asyncpg.Connection, open_store: OpenStore) -> None:
    opened = await open_store()
    lease = opened.store._lease
    assert lease is not None

    await opened.store.close()

    lease._thread.join(5)
    assert not lease._thread.is_alive()
    assert await sql.fetchval("SELECT count(*) FROM flowstone.worker") == 0
    assert not opened.lost.is_set()


async def test_a_worker_whose_lease_has_run_out_is_reaped_by_a_healthy_one(
    sql: asyncpg.Connection, open_store: OpenStore
) -> None:
    gone, heir = await open_store(), await open_store()
    drive = await gone.start(NUMBERS)
    await expire(sql, gone.worker)

    assert await heir.store.take_orphans(heir.worker.id, ["sales"], limit=10) == ()
    await healthy(heir)
    [taken] = await heir.store.take_orphans(heir.worker.id, ["sales"], limit=10)

    assert (taken.id, taken.lost) == (drive.id, 1)
    assert not (await drive.advance("asset.started")).accepted


async def test_after_an_outage_nobody_reaps_a_worker_that_comes_back(
    sql: asyncpg.Connection, open_store: OpenStore
) -> None:
    stores = [await open_store() for _ in range(3)]
    for opened in stores:
        await opened.start(key("numbers", opened.worker.id))
        await healthy(opened)
    await sql.execute("UPDATE flowstone.worker SET lease_until = statement_timestamp() - interval '1 hour'")
    assert stores[0].store._lease is not None
    for opened in stores:
        assert opened.store._lease is not None
        opened.store._lease.renew_now()

    async def renewed() -> bool:
        return await sql.fetchval("SELECT bool_and(lease_until > clock_timestamp()) FROM flowstone.worker")

    await until(renewed)
    for opened in stores:
        assert await opened.store.take_orphans(opened.worker.id, ["sales"], limit=10) == ()
    assert await sql.fetchval("SELECT count(*) FROM flowstone.worker WHERE dead") == 0


async def test_a_lease_that_was_interrupted_must_be_held_anew_before_others_are_reaped(dsn: str) -> None:
    ticks = Ticks()
    async with LossyProxy(dsn) as proxy:
        lease = Lease(Connections(proxy.dsn, direct=None), worker(), 100, lambda: None, monotonic=ticks)
        await lease.start()
        assert not lease.is_healthy()
        ticks.now = 1099
        lease.renew_now()

        async def renewed() -> bool:
            return lease._deadline == 1199

        await until(renewed)
        assert not lease.is_healthy()
        ticks.now = 1100
        assert lease.is_healthy()
        ticks.now = 1199
        assert not lease.is_healthy()
        await lease.stop()


@pytest.mark.parametrize("alive", [True, False])
async def test_a_proof_of_death_needs_no_waiting(open_store: OpenStore, alive: bool) -> None:
    gone = await open_store()
    drive = await gone.start(NUMBERS)
    asked: list[str] = []

    def is_alive(worker_id: str) -> bool:
        asked.append(worker_id)
        return alive

    heir = await open_store(alive=is_alive)

    taken = await heir.store.take_orphans(heir.worker.id, ["sales"], limit=10)

    assert asked == [gone.worker.id]
    assert [run.id for run in taken] == ([] if alive else [drive.id])


async def test_a_renewal_at_the_last_moment_saves_a_worker(
    dsn: str, sql: asyncpg.Connection, open_store: OpenStore
) -> None:
    """It is seen as expired, and renews before it is declared dead."""
    gone, heir = await open_store(), await open_store()
    await gone.start(NUMBERS)
    await expire(sql, gone.worker)
    await sql.fetch(QUERIES["renew"], gone.worker.id, 30.0)

    assert await sql.fetch(QUERIES["declare_dead"], [gone.worker.id], []) == []
    assert await heir.store.take_orphans(heir.worker.id, ["sales"], limit=10) == ()


async def test_two_that_reap_at_once_do_not_wait_for_each_other(
    dsn: str, sql: asyncpg.Connection, open_store: OpenStore
) -> None:
    workers = [(await open_store()).worker.id for _ in range(4)]
    first = await asyncpg.connect(dsn)
    await first.execute("BEGIN")
    declared = await first.fetch(QUERIES["declare_dead"], [], workers[:2])
    others = await sql.fetch(QUERIES["declare_dead"], [], list(reversed(workers)))
    await first.execute("COMMIT")
    first.terminate()

    assert {row[0] for row in declared} == set(workers[:2])
    assert {row[0] for row in others} == set(workers[2:])


async def test_without_a_lease_nothing_of_its_own_is_claimed(open_store: OpenStore) -> None:
    opened = await open_store(lease=None)
    run = run_record(opened.worker.id)
    answer = await opened.store.advance(
        Advance(run_id=run.id, fence=1, create=run, claims=(NUMBERS,), events=(event(1),))
    )

    assert not answer.accepted
    assert await opened.store.run(run.id) is None
    assert (await state_of(opened.store, NUMBERS)).state == "pending"
    assert await opened.store.take_orphans(opened.worker.id, ["sales"], limit=10) == ()


async def test_without_a_lease_runs_may_be_submitted_and_cancelled(open_store: OpenStore) -> None:
    opened = await open_store(lease=None)
    run = run_record(None, state="queued")

    assert (await opened.store.advance(Advance(run_id=run.id, fence=1, create=run, events=(event(1),)))).accepted
    cancelled = await opened.store.cancel(run.id, (), ())
    assert cancelled is not None
    assert cancelled.state == "cancelled"


async def test_a_lease_cannot_be_registered_twice(dsn: str, opened: Opened) -> None:
    other = PostgresStore(dsn, clock=SystemClock())
    second = Opened(other)
    second.worker = opened.worker
    with pytest.raises(Exception, match="duplicate key"):
        await second.open()


@pytest.mark.parametrize("when", ["before", "after"])
async def test_lost_is_called_once(open_store: OpenStore, when: str) -> None:
    calls: list[Callable[[], None]] = []
    opened = await open_store(lease=0.4)
    lease = opened.store._lease
    assert lease is not None
    lease._lost = lambda: calls.append(lease._end)
    await opened.store.expire(opened.worker.id)

    async def lost() -> bool:
        return bool(calls)

    await until(lost)
    lease._watch()
    if when == "before":
        await opened.store.close()
    assert len(calls) == 1
