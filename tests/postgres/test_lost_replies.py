"""The server commits, and the reply never comes: each call is made good by doing it again, and happens once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import TypeVar

import asyncpg
import pytest
import pytest_asyncio

from flowstone_async.errors import StoreUnavailable
from flowstone_async.store.records import Advance, AuditEntry, RunDone
from tests.contract.builders import (
    Drive,
    act,
    completed,
    current_of,
    done,
    event,
    failure,
    key,
    materialization,
    run_record,
    state_of,
)
from tests.postgres.conftest import Opened, OpenStore
from tests.postgres.waiting import until
from tests.postgres.wire import LossyProxy

NUMBERS, TOTAL = key("numbers"), key("total")
Answer = TypeVar("Answer")


@pytest_asyncio.fixture
async def proxy(dsn: str) -> AsyncIterator[LossyProxy]:
    async with LossyProxy(dsn) as started:
        yield started


@pytest_asyncio.fixture
async def far(proxy: LossyProxy, open_store: OpenStore) -> Opened:
    """A store behind the proxy, without a listener: its connections are those that a test means."""
    opened = await open_store(proxy.dsn, notify=False)
    await opened.start()
    return opened


async def losing(proxy: LossyProxy, call: Coroutine[object, object, Answer], times: int = 1) -> Answer:
    """Make a call whose reply is lost."""
    before = proxy.lost
    proxy.lose = times
    answer = await call
    assert proxy.lost == before + times
    return answer


async def rows(sql: asyncpg.Connection) -> dict[str, int]:
    names = ("run", "asset_key", "materialization", "superseded", "lineage", "event", "audit")
    return {name: await sql.fetchval(f"SELECT count(*) FROM flowstone.{name}") for name in names}


@pytest.mark.parametrize("times", [1, 3])
async def test_a_first_step(sql: asyncpg.Connection, proxy: LossyProxy, far: Opened, times: int) -> None:
    before = await rows(sql)
    run = run_record(far.worker.id)
    step = Advance(run_id=run.id, fence=1, create=run, claims=(NUMBERS,), events=(event(1),), audit=(act(),))

    answer = await losing(proxy, far.store.advance(step), times)

    assert answer.accepted
    assert answer.claims[NUMBERS].granted
    after = await rows(sql)
    assert {name: after[name] - before[name] for name in after if after[name] != before[name]} == {
        "run": 1,
        "asset_key": 1,
        "event": 1,
        "audit": 1,
    }


async def test_an_outcome_with_everything(sql: asyncpg.Connection, proxy: LossyProxy, far: Opened) -> None:
    drive = await far.start()
    upstream = await drive.compute(key("upstream"))
    older = await drive.compute(NUMBERS)
    await drive.advance(claims=(NUMBERS,))
    made = materialization(NUMBERS, drive.id, upstream)
    step = drive.step("asset.finished", done=(completed(made, payload=b"value"),), claims=(TOTAL,), audit=(act(),))
    before = await rows(sql)

    answer = await losing(proxy, far.store.advance(step))

    assert answer.accepted
    assert [one.id for one in answer.superseded] == [older.id]
    assert answer.claims[TOTAL].granted
    after = await rows(sql)
    assert {name: after[name] - before[name] for name in after} == {
        "run": 0,
        "asset_key": 1,
        "materialization": 1,
        "superseded": 1,
        "lineage": 1,
        "event": 1,
        "audit": 1,
    }
    assert (await drive.finish()).accepted
    assert (await state_of(far.store, TOTAL)).claimed_by is None


@pytest.mark.parametrize("parts", [{"releases": (NUMBERS,)}, {"done": (done(NUMBERS, "failed", error=failure()),)}])
async def test_a_key_that_is_let_go(proxy: LossyProxy, far: Opened, parts: dict[str, object]) -> None:
    drive, other = await far.start(NUMBERS), await far.start()

    assert (await losing(proxy, drive.advance("asset.finished", **parts))).accepted

    assert (await other.advance(claims=(NUMBERS,))).claims[NUMBERS].granted


async def test_the_last_step(sql: asyncpg.Connection, proxy: LossyProxy, far: Opened) -> None:
    drive = await far.start(NUMBERS)
    made = materialization(NUMBERS, drive.id)
    step = drive.step(
        "run.finished", done=(completed(made),), audit=(act(),), finish=RunDone(state="failed", error=failure())
    )
    before = await rows(sql)

    answer = await losing(proxy, far.store.advance(step))

    assert answer.accepted
    run = await far.store.run(drive.id)
    assert run is not None
    assert (run.state, run.error, run.finished_at) == ("failed", failure(), answer.at)
    assert (await rows(sql))["event"] == before["event"] + 1


async def test_a_run_that_begins_and_ends_at_once(proxy: LossyProxy, far: Opened) -> None:
    run = run_record(far.worker.id)
    step = Advance(run_id=run.id, fence=1, create=run, events=(event(1),), finish=RunDone(state="succeeded"))

    assert (await losing(proxy, far.store.advance(step))).accepted
    assert len(await far.store.events(run.id)) == 1


async def test_many_steps_that_share_a_batch(sql: asyncpg.Connection, proxy: LossyProxy, far: Opened) -> None:
    names = [key("numbers", f"i:{no}") for no in range(40)]
    drives = [await far.start(name) for name in names]
    made = [materialization(name, drive.id) for name, drive in zip(names, drives, strict=True)]
    before = await rows(sql)
    proxy.lose = 1

    answers = await asyncio.gather(
        *(drive.finish(done=(completed(one),), audit=(act(),)) for drive, one in zip(drives, made, strict=True))
    )

    assert proxy.lost == 1
    assert all(answer.accepted for answer in answers)
    after = await rows(sql)
    assert {name: after[name] - before[name] for name in after if after[name] != before[name]} == {
        "materialization": 40,
        "event": 40,
        "audit": 40,
    }


async def test_a_step_that_lost_its_reply_and_then_its_run(
    dsn: str, sql: asyncpg.Connection, proxy: LossyProxy, far: Opened, open_store: OpenStore
) -> None:
    """The commit happened, the run was cancelled, and only then the step is sent again: refused, and still done."""
    drive = await far.start(NUMBERS)
    made = materialization(NUMBERS, drive.id)
    near = await open_store()
    proxy.flowing.clear()
    committing = asyncio.create_task(drive.advance("asset.finished", done=(completed(made),)))
    proxy.lose = 1
    proxy.flowing.set()

    async def lost() -> bool:
        return proxy.lost > 0

    await until(lost)
    proxy.flowing.clear()
    assert await near.store.cancel(drive.id, (), ()) is not None
    proxy.flowing.set()

    assert not (await committing).accepted
    assert await current_of(near.store, NUMBERS) == made.id


@pytest.mark.parametrize(
    "call",
    [
        lambda opened, drive: opened.store.states([NUMBERS]),
        lambda opened, drive: opened.store.run(drive.id),
        lambda opened, drive: opened.store.hand_back(drive.id, drive.run.fence),
        lambda opened, drive: opened.store.values.append_chunk(drive.id, 0, b"data"),
        lambda opened, drive: opened.store.events(drive.id),
    ],
    ids=["states", "run", "hand_back", "append_chunk", "events"],
)
async def test_calls_that_may_be_repeated_are(
    proxy: LossyProxy, far: Opened, call: Callable[[Opened, Drive], Coroutine[object, object, object]]
) -> None:
    drive = await far.start(NUMBERS)

    await losing(proxy, call(far, drive))


async def test_a_cancellation_whose_commit_is_lost_says_so_and_may_be_repeated(proxy: LossyProxy, far: Opened) -> None:
    drive = await far.start(NUMBERS)
    told = (event(1, "run.cancelled"),)
    proxy.lose = 1
    with pytest.raises(StoreUnavailable):
        await far.store.cancel(drive.id, told, (AuditEntry(action="run.cancelled", subject=drive.id),))

    run = await far.store.cancel(drive.id, told, ())

    assert run is not None
    assert run.state == "cancelled"
    assert [one.type for one in await far.store.events(drive.id)] in (
        ["run.started"],
        ["run.started", "run.cancelled"],
    )


async def test_a_caller_that_gives_up_leaves_the_commit_alone(
    sql: asyncpg.Connection, proxy: LossyProxy, far: Opened
) -> None:
    drive, other = await far.start(NUMBERS), await far.start()
    made = materialization(NUMBERS, drive.id)
    proxy.flowing.clear()
    giving_up = asyncio.create_task(drive.advance("asset.finished", done=(completed(made),)))
    patient = asyncio.create_task(other.advance("asset.started"))
    await asyncio.sleep(0)
    giving_up.cancel()
    with pytest.raises(asyncio.CancelledError):
        await giving_up
    proxy.flowing.set()

    assert (await patient).accepted
    assert (await drive.finish()).accepted
    assert await current_of(far.store, NUMBERS) == made.id
