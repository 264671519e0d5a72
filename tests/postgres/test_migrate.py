"""The schema: made once by whoever comes first, never by a library that does not know it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest
import pytest_asyncio

from flowstone_async.clock import SystemClock
from flowstone_async.errors import ConfigError
from flowstone_async.store.postgres import PostgresStore
from flowstone_async.store.postgres.connections import Connections
from flowstone_async.store.postgres.migrate import Migration, migrate, migrations, require_current
from tests.postgres.conftest import Opened
from tests.support.postgres import TestServer

FIRST = Migration(1, "first", "CREATE TABLE flowstone.one (a integer);")
SECOND = Migration(2, "second", "CREATE TABLE flowstone.two (a integer); INSERT INTO flowstone.two VALUES (1);")


@pytest_asyncio.fixture
async def empty(server: TestServer) -> AsyncIterator[str]:
    """The address of a database without the schema."""

    async def nothing(_: asyncpg.Connection) -> None:
        return

    await server.create_template("empty", nothing)
    made = await server.clone("empty")
    yield made
    await server.drop(made)


async def apply(dsn: str, *known: Migration) -> int:
    async with Connections(dsn, direct=None).direct() as session:
        return len(await migrate(session, known))


async def tables(dsn: str) -> set[str]:
    connection = await asyncpg.connect(dsn)
    try:
        found = await connection.fetch(
            "SELECT schemaname || '.' || tablename FROM pg_tables "
            "WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
        )
        return {row[0] for row in found}
    finally:
        await connection.close()


async def test_looking_for_migrations_takes_no_longer_than_any_query(dsn: str) -> None:
    """An engine that opens over a connection that hangs gives it up as soon as any other."""
    async with Connections(dsn, direct=None).direct() as session:
        assert await migrate(session) == ()
        assert session.patience is None


async def test_five_at_once_apply_each_migration_once(empty: str) -> None:
    applied = await asyncio.gather(*(apply(empty, FIRST, SECOND) for _ in range(5)))

    assert sum(applied) == 2
    assert await tables(empty) == {"flowstone.migration", "flowstone.one", "flowstone.two"}


async def test_five_stores_open_at_once_on_an_empty_database(empty: str) -> None:
    opened = [Opened(PostgresStore(empty, clock=SystemClock())) for _ in range(5)]
    try:
        await asyncio.gather(*(one.open() for one in opened))
        assert all(name.startswith("flowstone.") for name in await tables(empty))
        for one in opened:
            assert (await one.store.health())["schema"] == migrations()[-1].number
    finally:
        for one in opened:
            await one.store.close()


async def test_a_migration_that_fails_leaves_nothing_and_those_before_stay(empty: str) -> None:
    broken = Migration(2, "broken", "CREATE TABLE flowstone.half (a integer); SELECT 1 / 0;")
    with pytest.raises(asyncpg.DivisionByZeroError):
        await apply(empty, FIRST, broken)

    assert await tables(empty) == {"flowstone.migration", "flowstone.one"}
    assert await apply(empty, FIRST, SECOND) == 1


async def test_nothing_is_done_when_all_is_there(empty: str) -> None:
    await apply(empty, FIRST, SECOND)

    assert await apply(empty, FIRST, SECOND) == 0


async def test_a_schema_newer_than_the_library_is_refused(empty: str) -> None:
    await apply(empty, *migrations(), Migration(999, "later", "SELECT 1;"))
    store = PostgresStore(empty, clock=SystemClock())

    with pytest.raises(ConfigError, match=r"newer than this library.*999"):
        await Opened(store).open()


async def test_a_migration_applied_from_another_text_is_refused(empty: str) -> None:
    await apply(empty, FIRST)

    with pytest.raises(ConfigError, match="0001_first was applied from another text"):
        await apply(empty, FIRST._replace(text="CREATE TABLE flowstone.other (a integer);"), SECOND)
    assert await tables(empty) == {"flowstone.migration", "flowstone.one"}


@pytest.mark.parametrize("known", [(), (FIRST,)], ids=["no schema", "an old one"])
async def test_without_migrate_an_old_schema_is_refused(empty: str, known: tuple[Migration, ...]) -> None:
    await apply(empty, *known)

    async with Connections(empty, direct=None).direct() as session:
        with pytest.raises(ConfigError, match=r"lacks [12] of 2 migrations"):
            await require_current(session, (FIRST, SECOND))


async def test_without_migrate_an_empty_database_stays_empty(empty: str) -> None:
    with pytest.raises(ConfigError, match="migrate=False"):
        await Opened(PostgresStore(empty, clock=SystemClock(), migrate=False)).open()
    assert await tables(empty) == set()


async def test_without_migrate_a_current_schema_is_taken(dsn: str) -> None:
    opened = Opened(PostgresStore(dsn, clock=SystemClock(), migrate=False))
    await opened.open()
    await opened.store.close()


async def test_nothing_outside_the_schema_is_touched(empty: str) -> None:
    connection = await asyncpg.connect(empty)
    await connection.execute(
        "CREATE TABLE run (mine integer); CREATE SCHEMA other; CREATE TABLE other.asset_key (a text)"
    )
    await connection.close()

    opened = Opened(PostgresStore(empty, clock=SystemClock()))
    await opened.open()
    await opened.store.close()

    assert {name for name in await tables(empty) if not name.startswith("flowstone.")} == {
        "public.run",
        "other.asset_key",
    }


async def test_a_user_without_the_right_to_make_a_schema_is_told(empty: str) -> None:
    connection = await asyncpg.connect(empty)
    role = f"weak_{connection.get_server_pid()}"
    await connection.execute(f"CREATE ROLE {role}")
    try:
        with pytest.raises(ConfigError, match="a right is missing") as caught:
            await Opened(PostgresStore(f"{empty}&role={role}", clock=SystemClock())).open()
        assert "Grant" in str(caught.value)
    finally:
        await connection.execute(f"DROP ROLE {role}")
        await connection.close()


def test_numbers_have_no_gap() -> None:
    assert [one.number for one in migrations()] == list(range(1, len(migrations()) + 1))
