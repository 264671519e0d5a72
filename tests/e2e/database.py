"""Looking into the database of a program, and standing in its way."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

import asyncpg

from flowstone_async.store.embedded.server import EmbeddedServer

_PATIENCE = 40.0
# Not pg_stat_activity: within a transaction that always shows the same.
_WAITING = "SELECT pid FROM pg_locks WHERE NOT granted AND pg_backend_pid() = ANY (pg_blocking_pids(pid))"


@asynccontextmanager
async def connected(folder: Path) -> AsyncGenerator[asyncpg.Connection]:
    """Connect to the server of an embedded store, which runs meanwhile."""
    server = EmbeddedServer(folder / "store")
    address = await server.open()
    try:
        async with connection(address.dsn()) as found:
            yield found
    finally:
        await server.close()


@asynccontextmanager
async def connection(dsn: str) -> AsyncGenerator[asyncpg.Connection]:
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
    """A commit that has arrived at the server, is being executed and waits for a lock.

    Args:
        connection: Holds the lock; give it to nothing else meanwhile.
        asset: The asset whose outcome is to wait; a run has claimed it.
    """

    def __init__(self, connection: asyncpg.Connection, asset: str) -> None:
        self._connection = connection
        self._asset = asset

    async def arrived(self) -> int:
        """Wait until the commit waits, and return the process of the server that it waits in."""
        return int(await until(self._connection, _WAITING))

    async def __aenter__(self) -> Self:
        self._transaction = self._connection.transaction()
        await self._transaction.start()
        # The row, not the table: a statement that is prepared for the first time would wait for that already then.
        locked = await self._connection.fetch(
            "SELECT FROM flowstone.asset_key WHERE asset = $1 AND claim_run IS NOT NULL FOR UPDATE", self._asset
        )
        assert locked, f"no run computes {self._asset}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._transaction.rollback()
