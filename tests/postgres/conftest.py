"""Fixtures for the store on Postgres: a database of its own for each test, cloned from a migrated one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any, Protocol

import asyncpg
import pytest_asyncio

from flowstone_async.clock import SystemClock
from flowstone_async.store.postgres import PostgresStore
from tests.contract import builders
from tests.contract.builders import Drive
from tests.contract.postgres_stores import TEMPLATE, migrated
from tests.postgres.addresses import apart
from tests.support.postgres import TestServer


class Opened:
    """A store that is open, its worker, and whether it has heard that its lease is lost."""

    def __init__(self, store: PostgresStore, *pipelines: str) -> None:
        self.store = store
        self.worker = builders.worker(*pipelines)
        self.lost = asyncio.Event()

    async def open(self, lease: float | None = 30) -> None:
        await self.store.open(self.worker, lease=lease, lost=self.lost.set)

    async def start(self, *claims: Any, **changes: Any) -> Drive:
        """Start a run that this store's worker drives."""
        return await Drive.start(self.store, self.worker, *claims, **changes)


class OpenStore(Protocol):
    """Opens a store that is closed at the end of the test."""

    async def __call__(self, other: Any = None, *, lease: float | None = 30, **options: Any) -> Opened: ...


@pytest_asyncio.fixture
async def dsn(server: TestServer) -> AsyncIterator[str]:
    """The address of a migrated database."""
    await server.create_template(TEMPLATE, migrated(server))
    made = await server.clone(TEMPLATE)
    yield made
    await server.drop(made)


@pytest_asyncio.fixture
async def sql(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection to look at the database with."""
    connection = await asyncpg.connect(dsn)
    yield connection
    connection.terminate()


@pytest_asyncio.fixture
async def open_store(dsn: str) -> AsyncIterator[OpenStore]:
    """`await open_store(**options)` opens one more store on `dsn`."""
    async with AsyncExitStack() as stack:

        async def open_one(other: Any = None, *, lease: float | None = 30, **options: Any) -> Opened:
            chosen: dict[str, Any] = {"clock": SystemClock(), **options}
            opened = Opened(PostgresStore(other or dsn, **chosen))
            stack.push_async_callback(opened.store.close)
            await opened.open(lease)
            return opened

        yield open_one


@pytest_asyncio.fixture
async def opened(open_store: OpenStore) -> Opened:
    """One open store."""
    return await open_store()


@pytest_asyncio.fixture
async def open_apart(dsn: str, open_store: OpenStore) -> OpenStore:
    """As `open_store`, but as processes of their own do: what they tell each other goes through the server."""

    async def open_one(other: Any = None, *, lease: float | None = 30, **options: Any) -> Opened:
        return await open_store(other or apart(dsn), lease=lease, **options)

    return open_one
