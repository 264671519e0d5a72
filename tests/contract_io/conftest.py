"""Fixtures of the contract suite: every test runs on every I/O manager."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import pytest_asyncio

from flowstone_async import io
from tests.contract.postgres_stores import TEMPLATE, PostgresStores, migrated
from tests.contract.stores import MemoryStores, Stores
from tests.contract_io.places import Place
from tests.support.postgres import TestServer

KEY = b"k" * 32
STREAMING = ["memory", "files", "postgres over memory", "postgres"]
TABLE = "postgres table"


@pytest_asyncio.fixture(params=[*STREAMING, TABLE])
async def place(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Place]:
    """A place for single values."""
    async with _place(request, tmp_path) as opened:
        yield opened


@pytest_asyncio.fixture(params=STREAMING)
async def streaming(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Place]:
    """A place for streams."""
    async with _place(request, tmp_path) as opened:
        yield opened


@pytest_asyncio.fixture(params=[TABLE])
async def table(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Place]:
    """A place in a table."""
    async with _place(request, tmp_path) as opened:
        yield opened


@asynccontextmanager
async def _place(request: pytest.FixtureRequest, folder: Path) -> AsyncGenerator[Place]:
    kind: str = request.param
    async with _stores(request) if kind in ("postgres", TABLE) else _memory() as stores:
        engine = await stores.engine()
        if kind == "memory":
            yield Place(manager=io.Memory(), engine=engine, pickling=io.Memory(format="pickle"))
        elif kind == "files":
            pickling = io.Files(folder, format="pickle").signed(KEY)
            yield Place(manager=io.Files(folder), engine=engine, pickling=pickling)
        else:
            name = "lake.numbers" if kind == TABLE else None
            manager = io.Postgres(name).bound(engine.store.values, durable=True)
            pickling = io.Postgres(name, format="pickle").signed(KEY).bound(engine.store.values, durable=True)
            dsn = stores._dsn if isinstance(stores, PostgresStores) else ""
            yield Place(manager=manager, engine=engine, pickling=pickling, dsn=dsn)


@asynccontextmanager
async def _memory() -> AsyncGenerator[Stores]:
    opened = MemoryStores()
    yield opened
    await opened.close()


@asynccontextmanager
async def _stores(request: pytest.FixtureRequest) -> AsyncGenerator[Stores]:
    server: TestServer = request.getfixturevalue("server")
    await server.create_template(TEMPLATE, migrated(server))
    dsn = await server.clone(TEMPLATE)
    opened = PostgresStores(dsn, notify=False)
    try:
        yield opened
    finally:
        await opened.close()
        await server.drop(dsn)
