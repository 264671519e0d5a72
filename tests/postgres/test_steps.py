"""Durable steps on Postgres: few statements for many bodies, each result once whatever breaks (STEP-01, STEP-14)."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Iterator
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
import pytest_asyncio

from flowstone_async.errors import ConfigError, StorageError, StoreUnavailable
from flowstone_async.store.postgres import connections
from flowstone_async.store.postgres.queries import QUERIES
from flowstone_async.store.postgres.step_lane import BYTES, ROWS, StepCall, cut
from flowstone_async.store.steps import StepRecord
from tests.contract.builders import Drive, act, event, failure, replace
from tests.contract.clock import SetClock
from tests.postgres.conftest import Opened, OpenStore
from tests.postgres.waiting import blocked, until
from tests.postgres.wire import LossyProxy
from tests.support.fault_proxy import FaultProxy

DAY = 86_400.0
STEP = StepRecord("fetch#0", "", 0, 0, 1, "step", "shop.orders.fetch", "0f", b"result")
NAMES = {text: name for name, text in QUERIES.items()}
COUNT = "SELECT count(*) FROM flowstone.step"


def body() -> str:
    return str(uuid4())


def step(no: int, **changes: Any) -> StepRecord:
    return replace(STEP, key=f"fetch#{no}", place=no, seen=no, **changes)


async def record(opened: Opened, drive: Drive, of: str, *steps: StepRecord) -> bool:
    return await opened.store.steps.record(drive.id, drive.run.fence, of, steps)


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """The statements that are sent, counted by name."""
    found: Counter[str] = Counter()
    send = connections.Session.fetch_text

    async def count(session: connections.Session, text: str, *arguments: object) -> list[asyncpg.Record]:
        found[NAMES.get(text, "other")] += 1
        return await send(session, text, *arguments)

    monkeypatch.setattr(connections.Session, "fetch_text", count)
    return found


@pytest_asyncio.fixture
async def proxy(dsn: str) -> AsyncIterator[LossyProxy]:
    async with LossyProxy(dsn) as started:
        yield started


@pytest_asyncio.fixture
async def far(proxy: LossyProxy, open_store: OpenStore) -> Opened:
    """A store behind the proxy, without a listener."""
    return await open_store(proxy.dsn, notify=False)


# -- batches ----------------------------------------------------------------------------------------------------------


async def test_a_thousand_bodies_take_few_statements(opened: Opened, sent: Counter[str]) -> None:
    drives = [await opened.start() for _ in range(10)]
    sent.clear()

    answers = await asyncio.gather(*(record(opened, drives[no % 10], body(), STEP) for no in range(1000)))

    assert set(answers) == {True}
    assert sent.total() == sent["record_steps"] <= 3


async def test_what_comes_while_a_statement_is_under_way_goes_together(
    dsn: str, sql: asyncpg.Connection, opened: Opened, sent: Counter[str]
) -> None:
    held, drive = await opened.start(), await opened.start()
    other = await asyncpg.connect(dsn)
    await other.execute(f"BEGIN; SELECT FROM flowstone.run WHERE id = '{held.id}' FOR UPDATE")
    first = asyncio.create_task(record(opened, held, body(), STEP))
    await blocked(sql)
    sent.clear()
    rest = [asyncio.create_task(record(opened, drive, body(), STEP)) for _ in range(500)]
    await asyncio.sleep(0)
    await other.execute("COMMIT")
    await other.close()

    assert await asyncio.gather(first, *rest) == [True] * 501
    assert sent.total() == sent["record_steps"] == 1


async def test_a_body_is_read_in_one_statement_more_than_it_has_pages(opened: Opened, sent: Counter[str]) -> None:
    drive, of = await opened.start(), body()
    await record(opened, drive, of, *map(step, range(2500)))
    sent.clear()
    assert len(await opened.store.steps.recorded(drive.id, of)) == 2500
    assert sent == {"steps_of_body": 4}


def calls(*sizes: int, of: str | None = None, rows: int = 1) -> Iterator[StepCall]:
    for no, size in enumerate(sizes):
        steps = [step(no * rows + each, value=bytes(size)) for each in range(rows)]
        yield StepCall("r", 1, of or body(), steps)


async def test_a_statement_has_so_many_rows_and_bytes() -> None:
    many = deque(calls(*[1] * (ROWS + 1)))
    assert [len(cut(many)), len(cut(many)), len(many)] == [ROWS, 1, 0]

    rows = deque(calls(1, 1, 1, rows=ROWS // 2))
    assert [len(cut(rows)), len(cut(rows))] == [2, 1]

    large = deque(calls(BYTES // 2, BYTES // 2, 1, BYTES + 1, 1))
    assert [len(cut(large)) for _ in range(4)] == [2, 1, 1, 1]


async def test_one_step_is_in_a_statement_once_and_a_body_keeps_its_order() -> None:
    of = body()
    one, two, three = calls(1, 1, 1, of=of)
    again = StepCall("r", 1, of, one.steps)
    [other] = calls(1)
    waiting = deque([one, again, two, other, three])

    assert cut(waiting) == [one, other]
    assert cut(waiting) == [again, two, three]


# -- what cannot be stored --------------------------------------------------------------------------------------------


async def test_a_row_that_cannot_be_stored_fails_its_own_caller_alone(opened: Opened) -> None:
    drive, bodies = await opened.start(), [body() for _ in range(20)]
    answers = await asyncio.gather(
        *(record(opened, drive, of, replace(STEP, place=2**40 if no == 7 else 0)) for no, of in enumerate(bodies)),
        return_exceptions=True,
    )

    assert isinstance(answers.pop(7), StorageError)
    assert answers == [True] * 19
    for no, of in enumerate(bodies):
        assert await opened.store.steps.recorded(drive.id, of) == (() if no == 7 else (STEP,))


async def test_a_result_that_is_too_large_is_refused(opened: Opened) -> None:
    drive = await opened.start()
    with pytest.raises(StorageError, match="step 'fetch#0' returned 268,435,457 bytes"):
        await record(opened, drive, body(), replace(STEP, value=bytes((256 << 20) + 1)))


# -- what breaks ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("times", [1, 3])
async def test_a_lost_reply(sql: asyncpg.Connection, proxy: LossyProxy, far: Opened, times: int) -> None:
    drive, of = await far.start(), body()
    failed = replace(STEP, key="f#1", seen=1, value=None, error=failure())
    await record(far, drive, of, failed)
    proxy.lose = times

    assert await record(far, drive, of, STEP, replace(failed, attempt=2))

    assert proxy.lost == times
    assert await far.store.steps.recorded(drive.id, of) == (STEP, replace(failed, attempt=2))
    assert await sql.fetchval(COUNT) == 2


async def test_a_lost_reply_and_then_a_lost_run(proxy: LossyProxy, far: Opened, open_store: OpenStore) -> None:
    """It was committed, the run is cancelled, and then it is sent again: refused, and on record."""
    drive, of, near = await far.start(), body(), await open_store()
    await record(far, drive, body(), STEP)  # the driver has asked for the types
    proxy.flowing.clear()
    proxy.lose = 1
    recording = asyncio.create_task(record(far, drive, of, STEP))
    proxy.flowing.set()

    async def lost() -> bool:
        return proxy.lost > 0

    await until(lost)
    proxy.flowing.clear()
    await near.store.cancel(drive.id, (event(1, "run.cancelled"),), (act(),))
    proxy.flowing.set()

    assert not await recording
    assert await near.store.steps.recorded(drive.id, of) == (STEP,)


async def test_a_reset_in_the_middle_of_a_batch(dsn: str, sql: asyncpg.Connection, open_store: OpenStore) -> None:
    async with asyncio.timeout(60), FaultProxy(dsn) as proxy:
        opened = await open_store(proxy.dsn, notify=False)
        drive, bodies = await opened.start(), [body() for _ in range(50)]
        other = await asyncpg.connect(dsn)
        await other.execute(f"BEGIN; SELECT FROM flowstone.run WHERE id = '{drive.id}' FOR UPDATE")
        recording = [asyncio.create_task(record(opened, drive, of, STEP)) for of in bodies]
        await blocked(sql)
        assert proxy.reset(["pool"])
        await other.execute("COMMIT")
        await other.close()

        assert await asyncio.gather(*recording) == [True] * 50
        await opened.store.close()
    assert await sql.fetchval(COUNT) == 50


async def test_a_server_that_is_gone_for_longer_than_patience(proxy: LossyProxy, open_store: OpenStore) -> None:
    opened = await open_store(proxy.dsn, notify=False, patience=0.2)
    drive = await opened.start()
    proxy.lose = 1000
    with pytest.raises(StoreUnavailable):
        await record(opened, drive, body(), STEP)
    proxy.lose = 0
    assert await record(opened, drive, body(), STEP)


async def test_a_caller_that_gives_up_does_not_keep_others(dsn: str, sql: asyncpg.Connection, opened: Opened) -> None:
    """Whether its statement is under way, or it waits behind it."""
    held, drive, of = await opened.start(), await opened.start(), [body() for _ in range(4)]
    other = await asyncpg.connect(dsn)
    await other.execute(f"BEGIN; SELECT FROM flowstone.run WHERE id = '{held.id}' FOR UPDATE")
    first = [asyncio.create_task(record(opened, held, each, STEP)) for each in of[:2]]
    await blocked(sql)
    behind = [asyncio.create_task(record(opened, drive, each, STEP)) for each in of[2:]]
    await asyncio.sleep(0)
    for gone in (first[0], behind[0]):
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
    await other.execute("COMMIT")
    await other.close()

    assert await asyncio.gather(first[1], behind[1]) == [True, True]
    assert await opened.store.steps.recorded(drive.id, of[2]) == ()


async def test_a_store_without_its_lease_sends_nothing(opened: Opened, sent: Counter[str]) -> None:
    drive, of = await opened.start(), body()
    await opened.store.expire(opened.worker.id)
    await opened.lost.wait()
    sent.clear()
    assert not await record(opened, drive, of, STEP)
    assert not sent["record_steps"]


async def test_what_was_asked_before_the_store_is_closed_is_done(open_store: OpenStore) -> None:
    opened = await open_store()
    drive = await opened.start()
    waiting = asyncio.create_task(record(opened, drive, body(), STEP))
    await asyncio.sleep(0)
    await opened.store.close()
    assert await waiting
    assert not await record(opened, drive, body(), STEP)
    with pytest.raises(ConfigError, match="not open"):
        await opened.store.steps.recorded(drive.id, body())


# -- partitions -------------------------------------------------------------------------------------------------------


async def places(sql: asyncpg.Connection, drive: Drive) -> set[str]:
    found = await sql.fetch("SELECT DISTINCT tableoid::regclass::text FROM flowstone.step WHERE run_id = $1", drive.id)
    return {row[0].removeprefix("flowstone.") for row in found}


async def test_the_steps_of_a_run_are_beside_its_events(sql: asyncpg.Connection, open_store: OpenStore) -> None:
    clock = SetClock()
    opened = await open_store(clock=clock)
    drive, of = await opened.start(), body()
    clock.advance(3 * DAY)
    await record(opened, drive, of, STEP)
    assert await places(sql, drive) == {"step_20250601"}

    clock.advance(47 * DAY)
    late = await opened.start()
    await record(opened, late, of, STEP, step(1))
    assert await places(sql, late) == {"step_default"}
    await opened.store.maintain()
    assert await places(sql, late) == {"step_20250721"}
    assert await opened.store.steps.recorded(late.id, of) == (STEP, step(1))
    assert await record(opened, late, of, step(2))
    assert await places(sql, late) == {"step_20250721"}

    for each in (drive, late):
        await each.finish()
    clock.advance(5 * DAY)
    assert (await opened.store.prune(runs=3 * DAY, values=None)).runs == 2
    left = {row[0] for row in await sql.fetch("SELECT relname FROM pg_class WHERE relname ~ '^(event|step)_2025'")}
    assert left
    assert not {name for name in left if name[-8:] in ("20250601", "20250721")}
    assert await sql.fetchval(COUNT) == 0


@pytest.mark.parametrize(("rows", "size"), [(10_001, 0), (7, 10 << 20)], ids=["rows", "bytes"])
async def test_a_crowd_is_not_moved_while_others_wait(
    sql: asyncpg.Connection, open_store: OpenStore, rows: int, size: int
) -> None:
    clock = SetClock()
    opened = await open_store(clock=clock)
    clock.advance(50 * DAY)
    drive, of = await opened.start(), body()
    await record(opened, drive, of, *(step(no, value=bytes(size)) for no in range(rows)))

    assert await sql.fetchval("SELECT flowstone.add_event_partition('2025-07-21')") == "crowded"
    assert await sql.fetchval("SELECT to_regclass('flowstone.event_20250721')") is None

    await drive.finish()
    clock.advance(2 * DAY)
    assert (await opened.store.prune(runs=DAY, values=None)).runs == 1
    assert await sql.fetchval(COUNT) == 0
    await opened.store.maintain()
    assert await opened.store.faults() == ()


async def test_whoever_writes_steps_is_not_waited_for(dsn: str, sql: asyncpg.Connection) -> None:
    writer = await asyncpg.connect(dsn)
    await writer.execute("BEGIN; LOCK TABLE ONLY flowstone.step IN ROW EXCLUSIVE MODE")
    assert await sql.fetchval("SELECT flowstone.add_event_partition('2031-01-01')") == "busy"
    await writer.execute("COMMIT")
    assert await sql.fetchval("SELECT flowstone.add_event_partition('2031-01-01')") == "added"
    await writer.close()
    assert await sql.fetchval("SELECT to_regclass('flowstone.step_20310101')") is not None
