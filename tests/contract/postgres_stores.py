"""The contract's stores on Postgres: a database of its own for each test, cloned from a migrated one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

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
        store = PostgresStore(server.address.dsn(database), clock=SetClock())
        await store.open(builders.worker(), lease=None, lost=lambda: None)
        await store.close()

    return prepare


class PostgresStores(Stores):
    """Stores on one database.

    Args:
        dsn: The database.
        notify: Whether changes are told by notification; else they are polled for.
    """

    def __init__(self, dsn: str, *, notify: bool) -> None:
        super().__init__()
        self._dsn = dsn
        self._notify = notify

    @override
    async def kill(self, engine: Engine) -> None:
        assert isinstance(engine.store, PostgresStore)
        await engine.store.expire(engine.worker.id)

    @override
    def _store(self) -> Store:
        poll = 1.0 if self._notify else POLL
        return PostgresStore(self._dsn, clock=self.clock, notify=self._notify, poll=poll)
