"""Limits while replies get lost, callers go away and locks are waited for (RATE-01, RATE-05 to RATE-07)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from typing import Any, TypeVar

import asyncpg
import pytest
import pytest_asyncio

from flowstone_async.clock import SystemClock
from flowstone_async.errors import StoreUnavailable
from flowstone_async.limits.book import HeldSlot, LimitHolder, PermitAsk, SlotAsk
from flowstone_async.limits.desk import Desk
from flowstone_async.limits.limits import Limits, limits_of
from flowstone_async.limits.line import Caller
from flowstone_async.limits.rate import Pace, Rate
from flowstone_async.store.postgres import slots
from tests.contract.builders import identifier
from tests.contract.test_limits import NOW, Line, hold, take
from tests.postgres.conftest import Opened, OpenStore
from tests.postgres.hearing import Heard
from tests.postgres.waiting import blocked, until
from tests.postgres.wire import LossyProxy

T = TypeVar("T")
TEN = Pace(10, 3600.0, 10)
NEVER = 3600.0


@pytest_asyncio.fixture
async def proxy(dsn: str) -> AsyncIterator[LossyProxy]:
    async with LossyProxy(dsn) as started:
        yield started


@pytest_asyncio.fixture
async def far(proxy: LossyProxy, open_store: OpenStore) -> Opened:
    """A store behind the proxy, without a listener: its connections are those that a test means."""
    return await warm(await open_store(proxy.dsn, notify=False))


async def warm(opened: Opened) -> Opened:
    """Ask for something, so that the next reply is that of the statement itself and not of its preparation."""
    await take(opened.store.limits, "warm", TEN, 0)
    first = await hold(opened.store.limits, "warm", 1)
    assert first is not None
    await opened.store.limits.release([HeldSlot("warm", first)])
    return opened


async def losing(proxy: LossyProxy, call: Coroutine[object, object, T], times: int = 1) -> T:
    """Make a call whose reply is lost."""
    before = proxy.lost
    proxy.lose = times
    answer = await call
    assert proxy.lost == before + times
    return answer


def limits_on(opened: Opened) -> Limits:
    """Return limits as an engine on the store has them."""
    clock = SystemClock()
    return limits_of(Desk(opened.store.limits, clock, now=opened.store.now), Caller())


async def held(sql: asyncpg.Connection) -> int:
    return await sql.fetchval("SELECT count(*) FROM flowstone.limit_holder")


async def granted(sql: asyncpg.Connection) -> int:
    return await sql.fetchval("SELECT coalesce(sum(c), 0) FROM flowstone.limit_key, unnest(counts) AS c")


async def holds(sql: asyncpg.Connection, count: int) -> None:
    """Wait until so many slots are held."""

    async def so_many() -> bool:
        return await held(sql) == count

    await until(so_many)


class Locked:
    """The row of a key, locked by somebody else."""

    def __init__(self, sql: asyncpg.Connection, key: str) -> None:
        self._sql, self._key = sql, key

    async def __aenter__(self) -> None:
        await self._sql.execute("INSERT INTO flowstone.limit_key (key) VALUES ($1) ON CONFLICT DO NOTHING", self._key)
        self._transaction = self._sql.transaction()
        await self._transaction.start()
        await self._sql.execute("SELECT FROM flowstone.limit_key WHERE key = $1 FOR UPDATE", self._key)

    async def __aexit__(self, *_: object) -> None:
        await self._transaction.rollback()


# -- lost replies ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("times", [1, 3])
async def test_a_slot_whose_answer_was_lost_is_held_once(
    sql: asyncpg.Connection, proxy: LossyProxy, far: Opened, times: int
) -> None:
    """RATE-04: neither two of them, nor none."""
    book = far.store.limits
    assert await losing(proxy, hold(book, "gpu", 1), times) is not None
    assert await held(sql) == 1
    assert await hold(book, "gpu", 1) is None


@pytest.mark.parametrize("times", [1, 3])
async def test_a_release_whose_answer_was_lost_frees_no_other(
    sql: asyncpg.Connection, proxy: LossyProxy, far: Opened, times: int
) -> None:
    """RATE-04."""
    book = far.store.limits
    first = await hold(book, "gpu", 2)
    assert first is not None
    await hold(book, "gpu", 2)
    await losing(proxy, book.release([HeldSlot("gpu", first)]), times)
    assert await held(sql) == 1


async def test_permits_whose_answer_was_lost_are_used_by_nobody(
    sql: asyncpg.Connection, proxy: LossyProxy, far: Opened
) -> None:
    """RATE-01: asked for again, they count twice; that errs on the side of fewer."""
    permits = await losing(proxy, take(far.store.limits, "k", TEN, 3))
    assert permits.granted == 3
    assert await granted(sql) == 6


async def test_permits_are_not_given_back_twice(sql: asyncpg.Connection, proxy: LossyProxy, far: Opened) -> None:
    """RATE-01: if it is not known whether they were, others might be granted that were used."""
    book = far.store.limits
    first, second = await take(book, "k", TEN, 5, 60.0), await take(book, "k", TEN, 5, 60.0)
    assert second.granted == 5
    proxy.lose = 1
    book.give_back("k", first.at, 2)

    async def given_back() -> bool:
        return proxy.lost == 1 and await granted(sql) == 8

    await until(given_back)
    assert (await take(book, "k", TEN, 9)).granted == 2


# -- a store that is away -----------------------------------------------------------------------------------------------------


async def test_a_store_that_is_away_neither_grants_nor_refuses(proxy: LossyProxy, open_store: OpenStore) -> None:
    """RATE-06: `StoreUnavailable`, from every verb, and in time."""
    away = await open_store(proxy.dsn, notify=False, patience=0.2)
    limits = limits_on(away)
    slot = await limits.acquire("gpu", 2)
    assert slot is not None
    server, proxy._socket = proxy._socket, "/nowhere"
    proxy.cut()
    for call in (
        limits.check("k", Rate(5)),
        limits.with_limit("k", Rate(5), lambda: 1),
        limits.acquire("gpu", 1),
        limits.with_slot("gpu", 1, lambda: 1),
        limits.status("k"),
        limits.reset("k"),
    ):
        with pytest.raises(StoreUnavailable):
            await call
    proxy._socket = server
    assert await limits.check("k", Rate(5)) == 0.0


async def test_what_nobody_knows_to_be_held_is_freed_once_the_store_answers(
    sql: asyncpg.Connection, proxy: LossyProxy, open_store: OpenStore
) -> None:
    """RATE-04: the caller got an error, so that it holds nothing."""
    away = await warm(await open_store(proxy.dsn, notify=False, patience=0.0))
    proxy.lose = 1
    with pytest.raises(StoreUnavailable):
        await hold(away.store.limits, "gpu", 1)
    assert proxy.lost == 1
    await holds(sql, 0)
    assert await hold(away.store.limits, "gpu", 1) is not None


async def test_a_statement_that_arrives_after_all_leaves_no_slot_behind(
    sql: asyncpg.Connection, proxy: LossyProxy, open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RATE-04: what was given up may be executed yet; it is freed once more when that is over."""
    monkeypatch.setattr(slots, "_RETRY", 0.05)
    monkeypatch.setattr(slots, "_ONCE_MORE", 2.0)
    away = await warm(await open_store(proxy.dsn, notify=False, patience=0.0))
    proxy.lose = 1
    late = identifier()
    with pytest.raises(StoreUnavailable):
        await hold(away.store.limits, "gpu", 1, late)
    await holds(sql, 0)
    await sql.execute(
        "INSERT INTO flowstone.limit_holder (key, holder, worker, since, run_id, asset) VALUES ('gpu', $1, $2, now(), '', '')",
        late,
        away.worker.id,
    )
    await holds(sql, 0)


async def test_a_release_is_made_good_once_the_store_answers(
    sql: asyncpg.Connection, proxy: LossyProxy, open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RATE-04: whoever frees it does not wait for long, and gets no error in place of his value."""
    monkeypatch.setattr(slots, "_BOUND", 0.05)
    away = await open_store(proxy.dsn, notify=False, patience=0.2)
    limits = limits_on(away)
    server = proxy._socket

    def cut() -> str:
        proxy._socket = "/nowhere"
        proxy.cut()
        return "value"

    assert await limits.with_slot("gpu", 1, cut) == "value"
    assert await held(sql) == 1
    proxy._socket = server
    await holds(sql, 0)


# -- callers that go away -------------------------------------------------------------------------------------------------------


async def test_who_is_cancelled_while_asking_takes_no_slot(sql: asyncpg.Connection, opened: Opened) -> None:
    """RATE-05: though the statement is under way, and gives him one."""
    book = opened.store.limits
    async with Locked(sql, "gpu"):
        asking = asyncio.create_task(hold(book, "gpu", 1))
        await blocked(sql)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
    await holds(sql, 0)
    assert await hold(book, "gpu", 1) is not None


async def test_who_is_cancelled_while_asking_takes_no_permit(sql: asyncpg.Connection, opened: Opened) -> None:
    """RATE-05."""
    book = opened.store.limits
    async with Locked(sql, "k"):
        asking = asyncio.create_task(take(book, "k", TEN, 10, 60.0))
        await blocked(sql)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
    permits = await take(book, "k", TEN, 10)
    while not permits.granted:  # the statement was still under way
        permits = await take(book, "k", TEN, 10)
    assert permits.granted == 10


async def test_the_first_of_a_line_may_be_cancelled_while_it_asks_for_all(
    sql: asyncpg.Connection, opened: Opened
) -> None:
    """RATE-05: the others go on, and nothing is lost."""
    limits = limits_on(opened)
    async with Locked(sql, "k"):
        first = asyncio.create_task(limits.with_limit("k", Rate(2, per="1h"), lambda: "first"))
        await blocked(sql)
        others = [asyncio.create_task(limits.with_limit("k", Rate(2, per="1h"), lambda: "other")) for _ in range(2)]
        await asyncio.sleep(0)
        first.cancel()
    async with asyncio.timeout(30):
        assert await asyncio.gather(*others) == ["other", "other"]
    assert await limits.check("k", Rate(2, per="1h")) > 0
    assert await granted(sql) == 2


# -- permits that come late ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["check", "limit"])
async def test_a_permit_that_comes_too_late_is_not_used(sql: asyncpg.Connection, opened: Opened, way: str) -> None:
    """RATE-01: it is given back, and another is asked for: what counts is what was used, and when."""
    limits, rate = limits_on(opened), Rate(1, per="10s")
    async with Locked(sql, "k"):
        asked = asyncio.get_running_loop().time()
        call = limits.check("k", rate) if way == "check" else limits.with_limit("k", rate, lambda: 0.0)
        asking = asyncio.create_task(call)
        await blocked(sql)

        async def too_late() -> bool:
            return asyncio.get_running_loop().time() > asked + 0.2

        await until(too_late)
    assert await asking == 0.0
    assert await granted(sql) == 1
    last = await sql.fetchval(
        "SELECT extract(epoch FROM max(l) - clock_timestamp()) FROM flowstone.limit_key, unnest(lasts) AS l"
    )
    assert last > -10
    assert await limits.check("k", rate) > 9


# -- fairness, and what is told ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("asked", "gets"), [("0 s", False), ("4 s", True)], ids=["who waits", "who is gone"])
async def test_a_free_slot_is_left_for_who_has_waited_longer_elsewhere(
    sql: asyncpg.Connection, opened: Opened, asked: str, gets: bool
) -> None:
    """RATE-04: for two seconds, or any longer, as long as he still asks for it; with another slot there is no need."""
    await sql.execute(
        "INSERT INTO flowstone.limit_waiting (key, worker, asked_at, oldest, waiting, shown) "
        f"VALUES ('gpu', 'elsewhere', now() - interval '{asked}', now() - interval '2 s', 1, '[]')"
    )
    book = opened.store.limits
    assert (await hold(book, "gpu", 1) is not None) == gets
    assert await hold(book, "gpu", 2 + gets) is not None
    permits = await take(book, "gpu", TEN, 20)
    assert permits.granted == (10 if gets else 9)
    if not gets:
        permits = await take(book, "gpu", TEN, 20)
        assert permits.outlook is not None
        assert permits.outlook.after(1) == 0.05


async def test_who_was_served_leaves_no_room_kept_for_him(sql: asyncpg.Connection, open_store: OpenStore) -> None:
    """RATE-04: as soon as he has what he waited for, others get the rest."""
    engine, other = await open_store(), await open_store()
    mine = await hold(other.store.limits, "gpu", 1)
    assert mine is not None
    line = Line("gpu", LimitHolder(run_id=None, asset=None, since=NOW))
    assert await hold(engine.store.limits, "gpu", 1, line=line, waited=100.0) is None
    assert await hold(other.store.limits, "gpu", 2) is None
    assert await hold(engine.store.limits, "gpu", 2, line=line, waited=100.0) is not None
    assert await hold(other.store.limits, "gpu", 3) is not None
    assert not await sql.fetchval("SELECT count(*) FROM flowstone.limit_waiting")


@pytest.mark.not_in("poll", reason="is about notifications")
async def test_a_slot_that_is_freed_is_told_only_where_somebody_waits(
    sql: asyncpg.Connection, open_apart: OpenStore
) -> None:
    """RATE-07: a notification for each release would be one for each use."""
    heard = Heard(sql)
    await heard.start()
    engine, other = await open_apart(), await open_apart()
    book = engine.store.limits
    for key in ("quiet", "quiet", "wanted"):
        mine = await hold(book, key, 1)
        assert mine is not None
        if key == "wanted":
            line = Line(key, LimitHolder(run_id=None, asset=None, since=NOW))
            assert await hold(other.store.limits, key, 1, line=line) is None
        await book.release([HeldSlot(key, mine)])
    await heard.until("limit:wanted")
    assert len(heard.tags) == 1


async def test_a_freed_slot_is_found_within_a_second_however_seldom_all_else_is_looked_for(
    open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RATE-07: without notifications; this takes the second that it is about."""
    engine, other = await open_store(notify=False, poll=NEVER), await open_store(notify=False, poll=NEVER)
    mine = await hold(engine.store.limits, "gpu", 1)
    assert mine is not None
    sent = statements(other, monkeypatch)
    waiting = asyncio.create_task(limits_on(other).with_slot("gpu", 1, lambda: "got it", max_wait=NEVER))
    await until(lambda: _is(len(sent) == 2))  # refused twice: the first wait is short
    await engine.store.limits.release([HeldSlot("gpu", mine)])
    async with asyncio.timeout(20):
        assert await waiting == "got it"
    assert 3 <= sent.count("change_slots") <= 5


async def _is(answer: bool) -> bool:
    return answer


def statements(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the names of the statements that a store sends from now on."""
    store: Any = opened.store
    sent: list[str] = []
    fetch = store._connections.fetch

    async def counted(name: str, *arguments: object) -> Any:
        sent.append(name)
        return await fetch(name, *arguments)

    monkeypatch.setattr(store._connections, "fetch", counted)
    return sent


async def test_one_statement_serves_all_who_ask_at_once(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    """RATE-06: however many they are, and whatever they ask for."""
    sent = statements(opened, monkeypatch)
    book = opened.store.limits
    await asyncio.gather(
        *(book.take([PermitAsk(f"k{number % 7}", TEN, 1)]) for number in range(100)),
        *(book.hold([SlotAsk(f"g{number % 7}", 5, identifier())]) for number in range(100)),
    )
    assert sent.count("take_permits") <= 2
    assert sent.count("change_slots") <= 2
