"""A database is told from its copies, so that none deletes values of another."""

from __future__ import annotations

import asyncpg

from flowstone_async.clock import SystemClock
from flowstone_async.store.postgres import PostgresStore
from flowstone_async.store.postgres.queries import QUERIES
from tests.contract import builders
from tests.postgres.conftest import Opened
from tests.support.postgres import TestServer


async def test_a_copy_of_a_database_is_another_store(server: TestServer, dsn: str, opened: Opened) -> None:
    copy = await server.clone("contract")  # of the template that `dsn` is a copy of: the same rows
    store = PostgresStore(copy, clock=SystemClock())
    try:
        await store.open(builders.worker(), lease=None, lost=lambda: None)
        assert store.identity
        assert store.identity != opened.store.identity
    finally:
        await store.close()
        await server.drop(copy)


async def test_a_schema_made_anew_is_another_store(sql: asyncpg.Connection) -> None:
    before = await sql.fetchval(QUERIES["identity"])
    await sql.execute("UPDATE flowstone.migration SET applied_at = applied_at + interval '1 microsecond'")

    assert await sql.fetchval(QUERIES["identity"]) != before


async def test_a_server_that_does_not_tell_who_it_is_gives_no_identity(dsn: str, sql: asyncpg.Connection) -> None:
    database = await sql.fetchval("SELECT current_database()")
    role = f"{database}_role"
    await sql.execute(
        f"""
        REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC;
        CREATE ROLE {role} LOGIN;
        GRANT CREATE ON DATABASE {database} TO {role};
        GRANT ALL ON SCHEMA flowstone TO {role};
        GRANT ALL ON ALL TABLES IN SCHEMA flowstone TO {role};
        """
    )

    async def as_role(connection: asyncpg.Connection) -> None:
        await connection.execute(f"SET SESSION AUTHORIZATION {role}")

    pool = await asyncpg.create_pool(dsn, min_size=1, max_size=2, init=as_role, reset=_nothing)
    store = PostgresStore(pool, direct=dsn, clock=SystemClock())
    try:
        await store.open(builders.worker(), lease=None, lost=lambda: None)
        assert store.identity is None
    finally:
        await store.close()
        await pool.close()
        await sql.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


async def _nothing(_: object) -> None:
    """Leave a connection as it is."""
