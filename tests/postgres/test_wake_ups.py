"""Waking up what waits in other processes: one listener each, told at once, tested end to end, and never relied on."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from flowstone_async import Engine, Pipeline
from flowstone_async.store.postgres import listener
from flowstone_async.store.postgres.hints import tag
from flowstone_async.store.postgres.listener import Listener, Speaker
from flowstone_async.store.postgres.outbox import Outbox
from flowstone_async.store.records import Submission
from tests.contract.builders import completed, key, materialization, run_record
from tests.postgres.addresses import apart
from tests.postgres.conftest import OpenStore
from tests.postgres.hearing import Heard, listeners, listening, waits, woken
from tests.postgres.waiting import until
from tests.postgres.wire import LossyProxy, Pooler, Recorder
from tests.support.fault_proxy import FaultProxy

pytestmark = pytest.mark.not_in("poll", "pooler", reason="chooses its own way of learning of changes")
LONG = 40
"""Seconds that none of this may take."""
NUMBERS = key("numbers")
TOPIC = "key:sales.numbers"


def _pipeline() -> Pipeline:
    pipe = Pipeline("sales")

    @pipe.asset
    async def numbers() -> int:
        return 1

    return pipe


@pytest_asyncio.fixture(params=["notify", "poll", "pooler"])
async def options(request: pytest.FixtureRequest, dsn: str) -> AsyncIterator[Callable[[], dict[str, Any]]]:
    """What engines of several processes are given, so that only one thing can wake them."""
    async with Pooler(dsn) as pooler:
        ways: dict[str, Callable[[], dict[str, Any]]] = {
            "notify": lambda: {"store": apart(dsn), "poll": "1h"},
            "poll": lambda: {"store": dsn, "poll": "50ms", "notify": False},
            "pooler": lambda: {"store": pooler.dsn, "direct": apart(dsn), "poll": "1h"},
        }
        yield ways[request.param]


async def test_a_submitted_run_starts_on_an_idle_worker(
    options: Callable[[], dict[str, Any]], sql: asyncpg.Connection
) -> None:
    pipe = _pipeline()
    async with asyncio.timeout(LONG), Engine(pipe, **options()), Engine(pipe, **options(), slots=0) as submitter:
        await listening(sql, 2 if options().get("notify", True) else 0)
        for _ in range(3):
            handle = await submitter.submit("numbers", force=True)
            assert await handle.result() == 1


async def test_a_lost_notification_is_found_by_polling(dsn: str) -> None:
    pipe = _pipeline()
    async with asyncio.timeout(LONG), Engine(pipe, store=dsn, poll="50ms"):
        async with Engine(pipe, store=apart(dsn), slots=0, notify=False, poll="50ms") as submitter:
            for _ in range(3):  # nobody is told of them
                handle = await submitter.submit("numbers", force=True)
                assert await handle.result() == 1


async def test_all_engines_of_a_process_share_one_listener(dsn: str, sql: asyncpg.Connection) -> None:
    opened, left = threading.Event(), threading.Event()
    most: list[int] = []

    async def elsewhere() -> None:
        async with Engine(_pipeline(), store=dsn), Engine(_pipeline(), store=dsn):
            opened.set()
            await asyncio.to_thread(left.wait)

    async with asyncio.timeout(LONG), AsyncExitStack() as stack:
        for _ in range(3):
            await stack.enter_async_context(Engine(_pipeline(), store=dsn))
        await listening(sql)
        thread = asyncio.create_task(asyncio.to_thread(lambda: asyncio.run(elsewhere())))
        await asyncio.to_thread(opened.wait)
        most.append(await listeners(sql))
        await stack.aclose()
        most.append(await listeners(sql))
        left.set()
        await thread
        assert most == [1, 1]

        async def gone() -> bool:
            return await listeners(sql) == 0

        await until(gone)


async def test_stores_of_a_process_wake_each_other_without_the_server(
    dsn: str, sql: asyncpg.Connection, open_store: OpenStore
) -> None:
    async with FaultProxy(dsn) as proxy:
        one, other = await open_store(proxy.dsn), await open_store(proxy.dsn)
        await listening(sql)
        proxy.hinder(["listener", "pool"])
        waiting = await waits(other, TOPIC)

        one.store._hints.ended("", (NUMBERS,))

        await woken(waiting)
        proxy.heal()
        proxy.reset()
        await one.store.close()
        await other.store.close()


async def test_the_pool_may_be_in_use_to_its_last_connection(
    sql: asyncpg.Connection, dsn: str, open_store: OpenStore
) -> None:
    heard = Heard(sql)
    await heard.start()
    opened = await open_store()
    async with AsyncExitStack() as stack:
        for _ in range(8):
            await stack.enter_async_context(opened.store._connections.session())
        opened.store._notifier.tell([TOPIC])
        await heard.until(TOPIC)


async def test_what_is_left_to_tell_is_told_before_a_store_is_closed(
    sql: asyncpg.Connection, open_store: OpenStore
) -> None:
    heard = Heard(sql)
    await heard.start()
    for no in range(5):
        opened = await open_store(lease=None)
        opened.store._notifier.tell([f"run:{no}"])
        await opened.store.close()
        await sql.fetch("SELECT 1")
        assert tag(f"run:{no}") in heard.tags


async def test_many_changes_are_one_notification(sql: asyncpg.Connection, dsn: str) -> None:
    heard = Heard(sql)
    await heard.start()
    outbox, left = Outbox(), asyncio.Event()
    async with LossyProxy(dsn) as proxy, asyncio.TaskGroup() as group:
        speaker = Speaker(proxy.dsn, outbox, left)
        group.create_task(speaker.serve())
        for no in range(300):
            outbox.add([tag(f"run:{no}")])
            speaker.wake()
        await heard.until("run:299")
        assert len(heard.payloads) == 1

        proxy.flowing.clear()  # one is under way
        outbox.add([tag("run:300")])
        speaker.wake()
        await until(_empty(outbox))
        for no in range(301, 500):
            outbox.add([tag(f"run:{no}")])
            speaker.wake()
        proxy.flowing.set()
        await heard.until("run:499")
        assert len(heard.payloads) == 3
        left.set()
        speaker.wake()


async def test_what_comes_up_soon_after_a_notification_waits_for_the_next(
    sql: asyncpg.Connection, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "_PAUSE", 3600.0)
    heard = Heard(sql)
    await heard.start()
    outbox, left = Outbox(), asyncio.Event()
    async with asyncio.TaskGroup() as group:
        speaker = Speaker(dsn, outbox, left)
        group.create_task(speaker.serve())
        for no in range(3):
            outbox.add([tag(f"run:{no}")])
            speaker.wake()
            if no == 0:
                await heard.until("run:0")
        left.set()  # the pause is over
        speaker.wake()
    await heard.until("run:2")
    assert len(heard.payloads) == 2


def _empty(outbox: Outbox):
    async def empty() -> bool:
        return not outbox

    return empty


async def test_what_cannot_be_told_is_dropped(sql: asyncpg.Connection, dsn: str) -> None:
    heard = Heard(sql)
    await heard.start()
    outbox, left = Outbox(), asyncio.Event()
    async with LossyProxy(dsn) as proxy, asyncio.TaskGroup() as group:
        refused = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
        nowhere = f"postgresql://u@127.0.0.1:{refused.sockets[0].getsockname()[1]}/d?sslmode=disable"
        speaker = Speaker(nowhere, outbox, left)
        group.create_task(speaker.serve())
        outbox.add([tag("run:1")])
        speaker.wake()
        await until(_empty(outbox))
        refused.close()
        speaker._address = proxy.dsn
        outbox.add([tag("run:2")])
        speaker.wake()
        await heard.until("run:2")
        assert heard.tags == [tag("run:2")]
        proxy.cut()  # an idle connection has died: that is noticed by using it, and costs nothing
        outbox.add([tag("run:3")])
        speaker.wake()
        await heard.until("run:3")
        left.set()
        speaker.wake()


async def test_it_listens_first_and_then_looks(dsn: str) -> None:
    left = asyncio.Event()
    order: list[list[str]] = []
    outbox = Outbox()
    async with Recorder(dsn) as recorder, asyncio.TaskGroup() as group:
        speaker = Speaker(dsn, outbox, left)
        hears = Listener(recorder.dsn, speaker, outbox.sender, lambda tags: order.append(list(recorder.answered)), left)
        group.create_task(hears.serve())

        async def looked() -> bool:
            return bool(order)

        await until(looked)
        left.set()
        hears.leave()
    assert order == [['LISTEN "flowstone"']]


async def test_what_happens_while_nobody_listens_is_seen_afterwards(
    dsn: str, sql: asyncpg.Connection, open_store: OpenStore, open_apart: OpenStore
) -> None:
    async with FaultProxy(dsn) as proxy:
        ours, theirs = await open_store(proxy.dsn), await open_apart()
        await listening(sql, 2)
        drive = await theirs.start(NUMBERS)
        asking = await ours.start()
        await asking.advance(claims=(NUMBERS,))
        waiting = await waits(ours, f"key:{NUMBERS}")
        proxy.most = 0  # nobody comes back
        assert proxy.reset(["listener"]) == 1

        await drive.advance(done=(completed(materialization(NUMBERS, drive.id)),))
        await until(_refused(proxy))
        assert not waiting.done()
        proxy.most = None

        await woken(waiting)
        assert (await asking.advance(claims=(NUMBERS,))).claims[NUMBERS].granted
        await ours.store.close()


def _refused(proxy: FaultProxy):
    async def refused() -> bool:
        return proxy.refused > 0

    return refused


async def test_a_listener_that_hears_nothing_notices_by_its_own_ping(
    dsn: str, sql: asyncpg.Connection, open_store: OpenStore, open_apart: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "_PING_EVERY", 0.05)
    monkeypatch.setattr(listener, "_PING_WITHIN", 1.0)
    async with FaultProxy(dsn) as proxy:
        ours, theirs = await open_store(proxy.dsn), await open_apart()
        await listening(sql, 2)
        [before] = proxy.open_links("listener")
        proxy.hinder(["listener"], ["to client"])

        async def deaf() -> bool:
            return bool(before.deaf)

        await until(deaf)
        proxy.heal()

        async def anew() -> bool:
            return bool(proxy.open_links("listener"))

        await until(anew)
        waiting = await waits(ours, TOPIC)
        theirs.store._notifier.tell([TOPIC])
        await woken(waiting)
        await ours.store.close()


async def test_nothing_is_notified_in_a_transaction_that_does_anything_else(
    dsn: str, sql: asyncpg.Connection, open_store: OpenStore, open_apart: OpenStore
) -> None:
    heard = Heard(sql)
    await heard.start()
    async with Recorder(dsn) as recorder:
        ours, theirs = await open_store(recorder.dsn), await open_apart()
        drive, asking = await ours.start(NUMBERS), await theirs.start()
        await asking.advance(claims=(NUMBERS,))
        await theirs.store.changed(f"run:{drive.id}", within=0.01)
        await drive.advance(done=(completed(materialization(NUMBERS, drive.id)),))
        await drive.finish()
        await heard.until(f"key:{NUMBERS}")
        await heard.until(f"run:{drive.id}")
        await ours.store.close()
    notifying = [text for said in recorder.texts for text in said if "notify" in text.lower()]
    assert 1 <= len(notifying) <= len(heard.payloads)
    assert all(text.startswith("NOTIFY flowstone, '") and "INSERT" not in text for text in notifying)
    assert [said for said in recorder.texts if notifying[0] in said] == [notifying]
    within = "SELECT count(*) FROM pg_proc WHERE pronamespace = 'flowstone'::regnamespace AND prosrc ILIKE '%notify%'"
    assert await sql.fetchval(within) == 0


async def test_no_payload_is_too_long_for_the_server() -> None:
    outbox = Outbox()
    outbox.add(tag(f"run:{no}") for no in range(3000))
    pieces = outbox.take().split("; ")
    assert len(pieces) == 10
    assert all(len(piece.encode()) < 8000 for piece in pieces)
    assert not outbox


async def test_a_queued_run_that_was_locked_while_workers_looked_is_told_of_again(
    sql: asyncpg.Connection, open_apart: OpenStore
) -> None:
    heard = Heard(sql)
    await heard.start()
    asking, silent = await open_apart(), await open_apart(notify=False)
    run = run_record(None, state="queued", submitted=True)
    await silent.store.submit(Submission(run=run, subject="sales"))
    async with sql.transaction():
        await sql.execute("SELECT FROM flowstone.run WHERE id = $1 FOR UPDATE", run.id)
        assert await silent.store.claim(silent.worker.id, ["sales"], limit=1) == ()

    await asking.store.changed(f"run:{run.id}", within=0.01)

    await heard.until("queue")
