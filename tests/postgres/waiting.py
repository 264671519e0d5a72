"""Waiting for what happens inside the server, never for time to pass."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import asyncpg

_BLOCKED = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND wait_event_type = 'Lock' AND pid <> pg_backend_pid()
"""
# Within a transaction, Postgres shows for ever what was there at the first look.
_AFRESH = "SELECT pg_stat_clear_snapshot()"


async def until(condition: Callable[[], Awaitable[object]]) -> None:
    """Return when a condition holds."""
    async with asyncio.timeout(30):
        while not await condition():
            await asyncio.sleep(0)


async def blocked(sql: asyncpg.Connection, count: int = 1) -> None:
    """Return when so many backends of the database wait for a lock."""

    async def enough() -> bool:
        await sql.execute(_AFRESH)
        return await sql.fetchval(_BLOCKED) >= count

    await until(enough)


async def busy(sql: asyncpg.Connection, words: str) -> int:
    """Return the process id of a backend that is executing a statement with some words in it."""
    query = """
        SELECT pid FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid() AND state = 'active' AND strpos(query, $1) > 0
    """
    found: list[int] = []

    async def there() -> bool:
        await sql.execute(_AFRESH)
        found[:] = [row[0] for row in await sql.fetch(query, words)]
        return bool(found)

    await until(there)
    return found[0]
