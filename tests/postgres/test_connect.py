"""A store that cannot be reached says where, why and what to do, and never the password."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress

import asyncpg
import pytest

from flowstone_async.clock import SystemClock
from flowstone_async.errors import ConfigError, FlowstoneError, StoreUnavailable
from flowstone_async.store.postgres import PostgresStore
from flowstone_async.store.postgres.connections import Connections
from tests.contract.builders import identifier
from tests.postgres.conftest import Opened, OpenStore

SECRET = "open-sesame"


@asynccontextmanager
async def refusing(sqlstate: str, message: str) -> AsyncGenerator[str]:
    """Serve nobody: every login is answered with an error."""

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            await reader.readexactly(8)
            fields = b"".join(
                name + text.encode() + b"\0" for name, text in ((b"S", "FATAL"), (b"C", sqlstate), (b"M", message))
            )
            writer.write(b"E" + struct.pack("!i", len(fields) + 5) + fields + b"\0")
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        yield f"postgresql://ann:{SECRET}@127.0.0.1:{port}/shop?sslmode=disable"


async def refusal(dsn: str, kind: type[FlowstoneError]) -> FlowstoneError:
    store = PostgresStore(dsn, clock=SystemClock())
    with pytest.raises(kind) as caught:
        await Opened(store).open()
    told = caught.value
    shown = [str(told), repr(told), told.message, told.hint or "", str(told.details), str(told.__cause__)]
    assert not any(SECRET in text for text in shown)
    await store.close()
    return told


@pytest.mark.parametrize(
    ("sqlstate", "said", "reason"),
    [
        ("28P01", "password authentication failed", "the password was not accepted"),
        ("28000", "no pg_hba.conf entry", "the login was refused"),
        ("3D000", 'database "shop" does not exist', "the database does not exist"),
        ("53300", "sorry, too many clients already", "no connection left"),
        ("57P03", "the database system is starting up", "starting up"),
        ("53100", "could not extend file", "its disk is full"),
    ],
)
async def test_a_login_that_is_refused(sqlstate: str, said: str, reason: str) -> None:
    async with refusing(sqlstate, said) as dsn:
        told = await refusal(dsn, StoreUnavailable)

    assert reason in told.message
    assert "127.0.0.1" in told.message
    assert "shop" in told.message
    assert told.hint
    assert told.retryable


async def test_nobody_listens() -> None:
    told = await refusal(f"postgresql://ann:{SECRET}@127.0.0.1:1/shop", StoreUnavailable)

    assert "127.0.0.1:1" in told.message
    assert "nobody listens" in told.message


async def test_a_host_that_is_unknown() -> None:
    told = await refusal(f"postgresql://ann:{SECRET}@nowhere.invalid/shop", StoreUnavailable)

    assert "nowhere.invalid" in told.message
    assert "host is unknown" in told.message


@pytest.mark.parametrize("dsn", [f"mysql://ann:{SECRET}@localhost/shop", f"postgresql://ann:{SECRET}@host:port/shop"])
async def test_an_address_that_cannot_be_read(dsn: str) -> None:
    assert "cannot be read" in (await refusal(dsn, ConfigError)).message


async def test_a_server_that_is_too_old(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowstone_async.store.postgres.connections.OLDEST_SERVER", 990000)

    assert "or newer is needed" in (await refusal(dsn, ConfigError)).message


async def test_a_server_that_is_read_only(dsn: str, sql: asyncpg.Connection) -> None:
    database = await sql.fetchval("SELECT current_database()")
    await sql.execute(f'ALTER DATABASE "{database}" SET default_transaction_read_only = on')

    assert "read-only" in (await refusal(dsn, StoreUnavailable)).message


async def test_a_refused_store_leaves_nothing_behind(dsn: str, sql: asyncpg.Connection) -> None:
    before = len(asyncio.all_tasks())
    await sql.execute("INSERT INTO flowstone.migration (number, name, sha256) VALUES (999, 'later', '')")

    await refusal(dsn, ConfigError)

    assert len(asyncio.all_tasks()) == before
    assert await sql.fetchval("SELECT count(*) FROM flowstone.worker") == 0


async def test_a_pool_of_the_callers_is_used_and_not_closed(dsn: str, open_store: OpenStore) -> None:
    async with asyncpg.create_pool(dsn, min_size=1, max_size=3) as pool:
        opened = await open_store(pool, direct=dsn)
        drive = await opened.start()
        assert (await drive.finish()).accepted
        await opened.store.close()
        assert await pool.fetchval("SELECT current_setting('plan_cache_mode')") == "auto"


async def test_a_pool_of_one_connection_is_enough(dsn: str, open_store: OpenStore) -> None:
    async with asyncpg.create_pool(dsn, min_size=1, max_size=1) as pool:
        opened = await open_store(pool, direct=dsn)
        drives = [await opened.start() for _ in range(5)]
        answers = await asyncio.gather(*(drive.finish() for drive in drives))
        assert all(answer.accepted for answer in answers)
        assert await pool.fetchval("SELECT 1") == 1
        await opened.store.close()


async def test_a_pool_alone_keeps_no_lease(dsn: str) -> None:
    async with asyncpg.create_pool(dsn, min_size=0) as pool:
        with pytest.raises(ConfigError, match="no lease"):
            await Opened(PostgresStore(pool, clock=SystemClock())).open()


async def test_a_pool_alone_may_read(dsn: str, open_store: OpenStore) -> None:
    run = await (await open_store()).start()
    async with asyncpg.create_pool(dsn, min_size=0) as pool:
        reader = await open_store(pool, lease=None)
        assert await reader.store.run(run.id) is not None
        await reader.store.close()


async def test_a_store_is_opened_once(opened: Opened) -> None:
    with pytest.raises(ConfigError):
        await opened.open()


async def test_a_call_before_opening_is_refused(dsn: str) -> None:
    with pytest.raises(ConfigError):
        await PostgresStore(dsn, clock=SystemClock()).run(identifier())


@pytest.mark.parametrize(
    ("dsn", "where"),
    [
        ("postgresql://ann:secret@db.example:6432/shop", "db.example:6432/shop"),
        ("postgresql://ann@/shop?host=/run/pg&port=5433", "/run/pg:5433/shop"),
        ("postgresql://localhost", "localhost:5432"),
    ],
)
def test_where_the_server_is(dsn: str, where: str) -> None:
    assert Connections(dsn, direct=None).where == where
