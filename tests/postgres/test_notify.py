"""Notifications wake those who wait in other processes; they are hints, bounded, and never needed."""

from __future__ import annotations

import asyncio
import logging
import time

import asyncpg
import pytest

from flowstone_async.store.postgres import listener
from flowstone_async.store.postgres.hints import Hints, tag
from flowstone_async.store.postgres.outbox import CHANNEL, EVERYTHING
from tests.contract.builders import Drive, completed, event, key, materialization
from tests.postgres.conftest import Opened, OpenStore
from tests.postgres.hearing import LISTENERS, NEVER, Heard, listeners, listening, waits, woken
from tests.postgres.waiting import until
from tests.postgres.wire import Pooler

pytestmark = pytest.mark.not_in("poll", reason="is about notifications")
NUMBERS = key("numbers")


async def test_the_end_of_a_watched_run_wakes_another_process(sql: asyncpg.Connection, open_apart: OpenStore) -> None:
    owner, other = await open_apart(), await open_apart()
    await listening(sql, 2)
    drive = await owner.start()
    waiting = await waits(other, f"run:{drive.id}")

    await drive.finish()

    await woken(waiting)


async def test_the_release_of_a_contended_key_wakes_another_process(
    sql: asyncpg.Connection, open_apart: OpenStore
) -> None:
    owner, other = await open_apart(), await open_apart()
    await listening(sql, 2)
    drive, asking = await owner.start(NUMBERS), await other.start()
    assert not (await asking.advance(claims=(NUMBERS,))).claims[NUMBERS].granted
    waiting = await waits(other, f"key:{NUMBERS}")

    await drive.advance(done=(completed(materialization(NUMBERS, drive.id)),))

    await woken(waiting)


async def test_a_cancellation_wakes_the_owner(sql: asyncpg.Connection, open_apart: OpenStore) -> None:
    owner, other = await open_apart(), await open_apart()
    await listening(sql, 2)
    drive = await owner.start()
    waiting = await waits(owner, f"run:{drive.id}")

    await other.store.cancel(drive.id, (event(1, "run.cancelled"),), ())

    await woken(waiting)


async def test_nothing_is_told_that_nobody_asked_for(sql: asyncpg.Connection, open_store: OpenStore) -> None:
    heard = Heard(sql)
    await heard.start()
    opened = await open_store()
    for no in range(5):
        drive = await opened.start(key("numbers", f"i:{no}"))
        await drive.finish()
    quiet, watched = await opened.start(NUMBERS), await opened.start()
    other = await open_store()
    await other.store.changed(f"run:{watched.id}", within=0.01)
    await watched.finish()
    await quiet.finish()

    await heard.until(f"run:{watched.id}")
    assert heard.tags == [tag(f"run:{watched.id}")]


async def test_a_listener_that_was_cut_off_comes_back_and_looks(sql: asyncpg.Connection, open_apart: OpenStore) -> None:
    owner, other = await open_apart(), await open_apart()
    await listening(sql, 2)
    drive = await owner.start()
    waiting = await waits(other, f"run:{drive.id}")
    await sql.fetch(f"SELECT pg_terminate_backend(pid) {LISTENERS}")

    await woken(waiting)  # what it may have missed

    await listening(sql, 2)
    waiting = await waits(other, f"run:{drive.id}")
    await drive.advance("asset.started")
    await woken(waiting)


async def test_without_notify_nothing_is_told_and_nobody_listens(
    sql: asyncpg.Connection, open_apart: OpenStore
) -> None:
    heard = Heard(sql)
    await heard.start()
    owner, other = await open_apart(notify=False, poll=0.05), await open_apart(notify=False, poll=0.05)
    drive = await owner.start()

    async def ended() -> bool:
        await other.store.changed(f"run:{drive.id}", within=NEVER)
        run = await other.store.run(drive.id)
        return run is not None and run.state == "succeeded"

    waiting = asyncio.create_task(until(ended))
    await drive.finish()
    await woken(waiting)

    assert await listeners(sql) == 0
    assert heard.payloads == []


async def test_waiting_ends_with_the_poll_interval(open_store: OpenStore) -> None:
    opened = await open_store(poll=0.05)
    await opened.store.changed("key:sales.numbers", within=0.01)
    started = time.monotonic()

    await opened.store.changed("key:sales.numbers", within=NEVER)

    assert time.monotonic() - started < 5


async def test_many_changes_are_told_in_bounded_pieces(
    sql: asyncpg.Connection, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard = Heard(sql)
    await heard.start()
    topics = [f"key:sales.numbers[i:{no}]" for no in range(2500)]
    opened.store._notifier.tell(topics)
    await heard.until(topics[-1])

    async def all_heard() -> bool:
        await sql.fetch("SELECT 1")
        return len(set(heard.tags)) == 2500

    await until(all_heard)
    assert all(len(payload) < 4100 for payload in heard.payloads)
    assert len([payload for payload in heard.payloads if not payload.endswith(":")]) == 9


async def test_very_many_changes_are_told_as_one_word(sql: asyncpg.Connection, opened: Opened) -> None:
    heard = Heard(sql)
    await heard.start()
    opened.store._notifier.tell(f"key:sales.numbers[i:{no}]" for no in range(3001))

    async def told() -> bool:
        await sql.fetch("SELECT 1")
        return bool(heard.tags)

    await until(told)
    assert heard.tags == [EVERYTHING]


async def test_everything_wakes_everybody(sql: asyncpg.Connection, opened: Opened) -> None:
    await listening(sql)
    waiting = [await waits(opened, "key:sales.numbers"), await waits(opened, "key:sales.other")]

    await sql.execute(f"SELECT pg_notify('{CHANNEL}', 'somebody:{EVERYTHING}')")

    for one in waiting:
        await woken(one)


@pytest.mark.parametrize("payload", ["", ":", "x", "a:b:c", "😀", "x" * 7000])
async def test_a_payload_of_somebody_elses_harms_nothing(sql: asyncpg.Connection, opened: Opened, payload: str) -> None:
    await listening(sql)
    waiting = await waits(opened, "key:sales.numbers")

    await sql.execute("SELECT pg_notify($1, $2)", CHANNEL, payload)
    await sql.execute("SELECT pg_notify($1, $2)", CHANNEL, f"somebody:{tag('key:sales.numbers')}")

    await woken(waiting)


async def test_behind_a_transaction_pooler_without_direct_it_polls_and_says_so(
    dsn: str, open_store: OpenStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(listener, "_PING_WITHIN", 0.05)
    monkeypatch.setattr(listener, "_LONGEST_DELAY", 0.1)
    caplog.set_level(logging.WARNING, "flowstone")
    async with Pooler(dsn) as pooler:
        opened = await open_store(dsn, direct=pooler.dsn, lease=None)

        async def told() -> bool:
            return "notifications do not arrive" in caplog.text

        await until(told)
        assert await opened.store.states([NUMBERS]) == {}
        await opened.store.close()


async def test_no_change_is_missed_between_looking_and_waiting(open_store: OpenStore) -> None:
    opened = await open_store(notify=False)  # a listener that has just connected wakes everybody
    topic = "key:sales.numbers"
    await opened.store.changed(topic, within=0.01)
    opened.store._poll = NEVER
    opened.store._hints.publish(topic)  # while the caller looks

    await woken(asyncio.create_task(opened.store.changed(topic, within=NEVER)))
    waiting = asyncio.create_task(opened.store.changed(topic, within=NEVER))
    await asyncio.sleep(0)
    assert not waiting.done()
    opened.store._hints.publish(topic)
    await woken(waiting)


async def test_a_refusal_is_followed_from_the_moment_it_is_told(open_store: OpenStore) -> None:
    opened = await open_store()
    holder, asking = await opened.start(NUMBERS), await opened.start()
    await asking.advance(claims=(NUMBERS,))
    opened.store._poll = NEVER
    await holder.advance(releases=(NUMBERS,))

    await woken(asyncio.create_task(opened.store.changed(f"key:{NUMBERS}", within=NEVER)))


def test_topics_that_nobody_waits_for_are_forgotten_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowstone_async.store.postgres.hints._FOLLOWED", 100)
    hints = Hints(lambda _: None)
    for no in range(1000):
        assert hints.follow(f"run:{no}")
    assert len(hints._topics) == len(hints._by_tag) <= 100
    assert not hints.follow("run:999")


async def test_a_hand_over_through_many_processes_needs_no_polling(
    sql: asyncpg.Connection, open_apart: OpenStore
) -> None:
    stores = [await open_apart(poll=5.0) for _ in range(3)]
    await listening(sql, 3)
    order: list[str] = []

    async def compute(drive: Drive) -> None:
        while not (await drive.advance(claims=(NUMBERS,))).claims[NUMBERS].granted:
            await drive.store.changed(f"key:{NUMBERS}", within=NEVER)
        order.append(drive.id)
        await drive.advance(done=(completed(materialization(NUMBERS, drive.id)),))

    drives = [await stores[no % 3].start() for no in range(9)]
    async with asyncio.timeout(20):
        await asyncio.gather(*map(compute, drives))
    assert len(order) == 9
