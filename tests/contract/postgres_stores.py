"""The contract's stores on Postgres: a database of its own for each test, cloned from a migrated one."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
from typing_extensions import override

from flowstone_async.store.postgres import PostgresStore
from flowstone_async.store.protocol import Store
from tests.contract import builders
from tests.contract.clock import SetClock
from tests.contract.stores import Engine, Stores
from tests.support.postgres import TestServer

TEMPLATE = "contract"
POLL = 0.02


def migrated(server: TestServer) -> Callable[[asyncpg.Connection], Awaitable[None]]:
    """Return what prepares a template: open the store once, which migrates."""

    async def prepare(connection: asyncpg.Connection) -> None:
        database = await connection.fetchval("SELECT current_database()")
        dsn = server.address.dsn(database)
        store = PostgresStore(dsn, direct=dsn, clock=SetClock())
        await store.open(builders.worker(), lease=None, lost=lambda: None)
        await store.close()

    return prepare


class PostgresStores(Stores):
    """Stores on one database.

    Args:
        dsn: The database.
        notify: Whether changes are told by notification; else they are polled for.
        pooler: Address of the database through a transaction pooler, which statements then take.
    """

    def __init__(self, dsn: str, *, notify: bool, pooler: str | None = None) -> None:
        super().__init__()
        self._dsn = dsn
        self._notify = notify
        self._pooler = pooler
        self._opened_so_far = itertools.count()

    @override
    async def kill(self, engine: Engine) -> None:
        assert isinstance(engine.store, PostgresStore)
        await engine.store.expire(engine.worker.id)

    @override
    def _store(self) -> Store:
        poll = 1.0 if self._notify else POLL
        # As processes of their own: stores of one address would tell each other without the server.
        own = f"{self._dsn}&application_name=engine{next(self._opened_so_far)}"
        options: dict[str, Any] = {"clock": self.clock, "notify": self._notify, "poll": poll}
        if self._pooler is not None:
            return PostgresStore(self._pooler, direct=own, **options)
        return PostgresStore(own, **options)
