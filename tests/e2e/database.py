"""Looking into the database of a program, and standing in its way."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg

from flowstone_async.store.embedded.server import EmbeddedServer

_PATIENCE = 40.0
_WAITING = "SELECT pid FROM pg_locks WHERE NOT granted AND relation = 'flowstone.asset_key'::regclass"


@asynccontextmanager
async def connected(folder: Path) -> AsyncIterator[asyncpg.Connection]:
    """Connect to the server of an embedded store, which runs meanwhile."""
    server = EmbeddedServer(folder / "store")
    address = await server.open()
    try:
        async with connection(address.dsn()) as found:
            yield found
    finally:
        await server.close()


@asynccontextmanager
async def connection(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """Connect to a database."""
    found = await asyncpg.connect(dsn)
    try:
        yield found
    finally:
        await found.close()


async def until(connection: asyncpg.Connection, query: str, *arguments: object) -> Any:
    """Ask until the answer is true, and return it."""
    deadline = time.monotonic() + _PATIENCE
    while not (answer := await connection.fetchval(query, *arguments)):
        assert time.monotonic() < deadline, f"in vain: {query}"
    return answer


async def gone(connection: asyncpg.Connection, pid: int) -> None:
    """Wait until a process of the server has ended what it was at."""
    await until(connection, "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1)", pid)


class Blocked:
    """A commit that has arrived at the server and waits for a lock.

    Args:
        connection: Holds the lock; give it to nothing else.
    """

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection
        self._transaction = connection.transaction()

    async def lock(self) -> None:
        """Let no step commit from now on."""
        await self._transaction.start()
        await self._connection.execute("LOCK TABLE flowstone.asset_key IN ACCESS EXCLUSIVE MODE")

    async def arrived(self) -> int:
        """Wait until a step waits, and return the process of the server that it waits in."""
        return int(await until(self._connection, _WAITING))

    async def unlock(self) -> None:
        await self._transaction.rollback()
