"""Engines for tests: several on one store, closed in reverse order at the end."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Protocol, Self

import asyncpg
from typing_extensions import override

from flowstone_async import Engine, Pipeline
from flowstone_async._engine.verbs import Verbs
from flowstone_async.clock import Clock, SystemClock
from flowstone_async.io import Memory
from flowstone_async.store.memory import MemoryStore
from flowstone_async.store.records import Worker
from flowstone_async.types import new_id
from tests.support.postgres import TestServer

TEMPLATE = "engine"


class OpenEngine(Protocol):
    """Opens an engine that is closed at the end of the test."""

    def __call__(self, *pipelines: Pipeline, **options: Any) -> Awaitable[Engine]: ...


class OpenVerbs(Protocol):
    """Gives the verbs of a pipeline: its own, or those of an engine."""

    def __call__(self, pipe: Pipeline, /) -> Awaitable[Verbs]: ...


class SharedEngines:
    """Engines that share a store."""

    durable: bool

    def __init__(self) -> None:
        self._stack = AsyncExitStack()

    async def open(self, *pipelines: Pipeline, **options: Any) -> Engine:
        """Open one more engine."""
        return await self._stack.enter_async_context(Engine(*pipelines, **self._store(options)))

    def _store(self, options: Mapping[str, Any]) -> dict[str, Any]:
        raise NotImplementedError

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()


class MemoryEngines(SharedEngines):
    """Engines on one memory store, and values in one place."""

    durable = False

    def __init__(self) -> None:
        super().__init__()
        self._memory: MemoryStore | None = None
        self._values = Memory(name="shared")

    @override
    def _store(self, options: Mapping[str, Any]) -> dict[str, Any]:
        clock: Clock = options.get("clock") or SystemClock()
        if self._memory is None:
            self._memory = MemoryStore(clock)
        managers = {"default": self._values, **options.get("io", {})}
        return {**options, "store": self._memory, "io": managers}


class PostgresEngines(SharedEngines):
    """Engines on one database.

    Args:
        dsn: The database.
    """

    durable = True

    def __init__(self, dsn: str) -> None:
        super().__init__()
        self.dsn = dsn

    @override
    def _store(self, options: Mapping[str, Any]) -> dict[str, Any]:
        return {**options, "store": self.dsn}


def migrate(server: TestServer) -> Callable[[asyncpg.Connection], Awaitable[None]]:
    """Return what prepares a template: open the store once, which migrates."""

    async def prepare(connection: asyncpg.Connection) -> None:
        from flowstone_async.store.postgres import PostgresStore

        database = await connection.fetchval("SELECT current_database()")
        dsn = server.address.dsn(database)
        store = PostgresStore(dsn, direct=dsn, clock=SystemClock())
        await store.open(Worker(id=new_id(), host="", pid=0, pipelines=()), lease=None, lost=lambda: None)
        await store.close()

    return prepare
