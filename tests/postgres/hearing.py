"""What is told in a database, who listens there, and stores that hear each other only through the server."""

from __future__ import annotations

import asyncio

import asyncpg

from flowstone_async.store.postgres.hints import tag
from flowstone_async.store.postgres.outbox import CHANNEL
from tests.postgres.conftest import Opened
from tests.postgres.waiting import until

NEVER = 3600.0


class Heard:
    """What is notified in a database."""

    def __init__(self, sql: asyncpg.Connection) -> None:
        self.payloads: list[str] = []
        self._sql = sql

    async def start(self) -> None:
        await self._sql.add_listener(CHANNEL, lambda *given: self.payloads.append(given[3]))

    @property
    def tags(self) -> list[str]:
        return [one for payload in self.payloads for one in payload.partition(":")[2].split(",") if one]

    async def until(self, topic: str) -> None:
        async def heard() -> bool:
            await self._sql.fetch("SELECT 1")
            return tag(topic) in self.tags

        await until(heard)


LISTENERS = """
FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND query LIKE 'LISTEN%'
"""


async def listeners(sql: asyncpg.Connection) -> int:
    """Return how many connections listen."""
    return await sql.fetchval(f"SELECT count(*) {LISTENERS}")


async def listening(sql: asyncpg.Connection, count: int = 1) -> None:
    """Return when so many connections listen."""

    async def there() -> bool:
        return await listeners(sql) >= count

    await until(there)


async def waits(opened: Opened, topic: str) -> asyncio.Task[None]:
    """Let a store follow a topic, and wait for it with nothing but a notification to wake it."""
    await opened.store.changed(topic, within=0.01)
    opened.store._poll = NEVER
    waiting = asyncio.create_task(opened.store.changed(topic, within=NEVER))
    await asyncio.sleep(0)
    return waiting


async def woken(waiting: asyncio.Task[None]) -> None:
    async with asyncio.timeout(20):
        await waiting
