"""Gates on Postgres: each call whose reply is lost is made good, and happens once (SIG-08, SIG-09); and forgetting many."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import TypeVar

import asyncpg
import pytest
import pytest_asyncio

from flowstone_async.errors import StoreUnavailable
from flowstone_async.store.gates import Signal
from flowstone_async.store.postgres import connections, retention
from flowstone_async.store.postgres.queries import QUERIES
from tests.contract.builders import Drive, key, state_of
from tests.contract.test_gates import HOUR, TOKEN, deliver, gate, how, opened, suspended, wakes
from tests.postgres.conftest import Opened, OpenStore
from tests.postgres.wire import LossyProxy

NAMES = {text: name for name, text in QUERIES.items()}
NUMBERS = key("numbers")
T = TypeVar("T")


@pytest_asyncio.fixture
async def proxy(dsn: str) -> AsyncIterator[LossyProxy]:
    async with LossyProxy(dsn) as started:
        yield started


@pytest_asyncio.fixture
async def far(proxy: LossyProxy, open_store: OpenStore) -> Opened:
    """A store behind the proxy, without a listener: its connections are those that a test means."""
    found = await open_store(proxy.dsn, notify=False)
    await found.start()
    return found


@pytest.fixture
def lose(monkeypatch: pytest.MonkeyPatch, proxy: LossyProxy, far: Opened) -> Callable[[str], None]:
    """`lose("name")` loses the next reply to a statement, `lose("name, COMMIT")` the one to what commits it."""
    send = connections.Session.fetch_text
    armed: list[str] = []

    async def sending(session: connections.Session, text: str, *arguments: object) -> list[asyncpg.Record]:
        name = NAMES.get(text, "")
        mine = session._connections is far.store._connections and bool(armed) and armed[0].split(",")[0] == name
        ahead = mine and armed.pop().endswith("COMMIT")
        if mine and not ahead:
            proxy.lose = 1
        found = await send(session, text, *arguments)
        if ahead:
            proxy.lose = 1
        return found

    monkeypatch.setattr(connections.Session, "fetch_text", sending)

    def arm(what: str) -> None:
        armed.append(what)

    return arm


async def rows(sql: asyncpg.Connection, table: str) -> int:
    return await sql.fetchval(f"SELECT count(*) FROM flowstone.{table}")


async def is_free(drive: Drive) -> bool:
    run = await drive.store.run(drive.id)
    assert run is not None
    return run.state == "running" and run.worker is None


async def repeated(call: Callable[[], Awaitable[T]]) -> T:
    """Do something as a caller does who may be told that nobody knows."""
    try:
        return await call()
    except StoreUnavailable:
        return await call()


@pytest.mark.parametrize(
    "reply",
    [
        *("gate_run", "open_gates", "hold_tokens", "hold_tokens, COMMIT"),
        *("early_gates", "early_ones", "settle_early, COMMIT", "wake", "gates"),
    ],
)
async def test_gates_are_recorded_once_with_the_signal_that_came_before(
    sql: asyncpg.Connection, proxy: LossyProxy, far: Opened, lose: Callable[[str], None], reply: str
) -> None:
    drive = await far.start()
    made, other = gate(drive, token=TOKEN), gate(drive, "other")
    assert await deliver(far.store, TOKEN, b"1", keep=60.0) == "early"
    lose(reply)

    found = await far.store.gates.open(drive.id, drive.run.fence, [made, other])

    assert proxy.lost == 1
    assert found is not None
    assert [found[each.id].state for each in (made, other)] == ["signalled", "open"]
    assert [await rows(sql, table) for table in ("gate", "gate_outcome", "gate_token", "early_signal")] == [2, 1, 1, 0]
    await far.store.gates.sweep()
    assert await wakes(drive) == 1


@pytest.mark.parametrize("reply", ["signal", "wake"])
async def test_a_signal_is_taken_once_and_wakes_its_run_once(
    sql: asyncpg.Connection, proxy: LossyProxy, far: Opened, lose: Callable[[str], None], reply: str
) -> None:
    """The statement is sent again, and finds what it did itself."""
    drive = await far.start()
    made = gate(drive)
    await opened(drive, made)
    await suspended(drive)
    lose(reply)

    delivered = await repeated(lambda: far.store.gates.deliver(Signal(b"1", made.id)))

    assert proxy.lost == 1
    assert delivered.state == ("duplicate" if reply == "signal" else "accepted")
    assert await is_free(drive)
    assert await wakes(drive) == 1
    assert await rows(sql, "gate_outcome") == 1
    assert await far.store.gates.sweep() == 0


@pytest.mark.parametrize("reply", ["signal", "early_gates"])
async def test_a_signal_that_comes_first_is_kept_once(
    sql: asyncpg.Connection, far: Opened, lose: Callable[[str], None], reply: str
) -> None:
    drive = await far.start()
    made = gate(drive)
    lose(reply)

    await repeated(lambda: far.store.gates.deliver(Signal(b"1", made.id, keep=60.0)))

    assert await deliver(far.store, made, b"1", keep=60.0) == "duplicate"
    assert await rows(sql, "early_signal") == 1
    await opened(drive, made)
    assert await how(far.store, made) == "signalled"


@pytest.mark.parametrize("reply", ["suspend", "free_claims", "free_claims, COMMIT"])
async def test_a_run_is_suspended_once(proxy: LossyProxy, far: Opened, lose: Callable[[str], None], reply: str) -> None:
    drive = await far.start(NUMBERS)
    await opened(drive, gate(drive))
    lose(reply)

    assert await far.store.gates.suspend(drive.id, drive.run.fence, 0) == "suspended"

    assert proxy.lost == 1
    run = await far.store.run(drive.id)
    assert run is not None
    assert (run.state, run.worker, run.fence) == ("waiting", None, drive.run.fence + 1)
    assert (await state_of(far.store, NUMBERS)).claimed_by is None


@pytest.mark.parametrize("reply", ["lock_gate", "rearm_gate", "hold_tokens, COMMIT"])
async def test_a_gate_is_armed_again_once(
    proxy: LossyProxy, far: Opened, lose: Callable[[str], None], reply: str
) -> None:
    drive = await far.start()
    made = gate(drive, due=timedelta(0), token=TOKEN)
    await opened(drive, made)
    await far.store.gates.sweep()
    later = datetime.now(UTC).replace(microsecond=0) + HOUR
    lose(reply)

    assert await far.store.gates.rearm(drive.id, drive.run.fence, made.id, later)

    assert proxy.lost == 1
    stored = (await far.store.gates.read([made.id]))[made.id]
    assert (stored.state, stored.due) == ("open", later)


@pytest.mark.parametrize("reply", ["lock_gate", "refuse_signal", "hold_tokens, COMMIT"])
async def test_a_signal_is_refused_once(
    sql: asyncpg.Connection, proxy: LossyProxy, far: Opened, lose: Callable[[str], None], reply: str
) -> None:
    drive = await far.start()
    made = gate(drive, token=TOKEN)
    await deliver(far.store, TOKEN, b"?1", keep=60.0)
    await opened(drive, made)
    lose(reply)

    assert await far.store.gates.refuse(drive.id, drive.run.fence, made.id, b"?1")

    assert proxy.lost == 1
    assert await how(far.store, made) is None
    assert await sql.fetchval("SELECT count(*) FROM flowstone.delivery WHERE state = 'invalid'") == 1


@pytest.mark.parametrize(
    "reply", ["early_page", "settle_early", "settle_early, COMMIT", "expire_gates", "unwoken", "wake"]
)
async def test_a_sweep_is_finished_by_the_next_one(
    sql: asyncpg.Connection, proxy: LossyProxy, far: Opened, lose: Callable[[str], None], reply: str
) -> None:
    expires, comes, signalled = [await far.start() for _ in range(3)]
    made = [gate(expires, due=HOUR), gate(comes), gate(signalled)]
    for drive, each in zip((expires, comes, signalled), made, strict=True):
        await opened(drive, each)
        await suspended(drive)
    await sql.execute("UPDATE flowstone.gate SET due = now() WHERE due IS NOT NULL")
    await sql.fetch(QUERIES["signal"], made[2].id, None, b"1", None, "{}", None, None)  # and nobody was woken
    await sql.execute(
        "INSERT INTO flowstone.early_signal (address, at, until, payload) "
        "SELECT decode(replace($1::text, '-', ''), 'hex'), now(), now() + interval '1 hour', '1'",
        made[1].id,
    )
    lose(reply)

    while await repeated(far.store.gates.sweep):
        pass
    assert proxy.lost == 1

    assert [await how(far.store, each) for each in made] == ["expired", "signalled", "signalled"]
    for drive in (expires, comes, signalled):
        assert await is_free(drive)
        assert await wakes(drive) == 1


async def test_many_gates_are_forgotten_in_several_transactions(
    sql: asyncpg.Connection, opened_store: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And so are large payloads."""
    monkeypatch.setattr(retention, "_EVENTS_AT_ONCE", 50)
    monkeypatch.setattr(retention, "_BYTES_AT_ONCE", 1000)
    store = opened_store.store
    drives = [await opened_store.start() for _ in range(3)]
    many, large, few = drives
    for drive, count in ((many, 120), (large, 10), (few, 2)):
        await opened(drive, *(gate(drive, f"g{no}", token=f"{drive.id}{no}".encode()) for no in range(count)))
    for no in range(10):
        await deliver(store, gate(large, f"g{no}"), bytes(400))
    for drive in drives:
        await drive.finish()
    deleted: list[int] = []
    send = connections.Session.fetch_text

    async def counting(session: connections.Session, text: str, *arguments: object) -> list[asyncpg.Record]:
        found = await send(session, text, *arguments)
        if NAMES.get(text) == "forget_gates":
            deleted.append(len(found))
        return found

    monkeypatch.setattr(connections.Session, "fetch_text", counting)
    assert (await store.prune(runs=0, values=None)).runs == 3

    assert sum(deleted) == 132
    assert max(deleted) <= 50
    assert len(deleted) >= 6
    tables = Counter({name: await rows(sql, name) for name in ("gate", "gate_outcome", "gate_token", "run")})
    assert not +tables
    assert await store.verify() == ()


@pytest_asyncio.fixture
async def opened_store(open_store: OpenStore) -> Opened:
    return await open_store()
