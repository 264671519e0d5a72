"""Fixtures of the contract suite: every test runs on every store."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack

import pytest
import pytest_asyncio

from flowstone_async.store.protocol import Store
from tests.contract.clock import SetClock
from tests.contract.postgres_stores import TEMPLATE, PostgresStores, migrated
from tests.contract.stores import Engine, MemoryStores, Stores
from tests.postgres.wire import Pooler
from tests.support.postgres import TestServer


@pytest.fixture(scope="session")
def server() -> Iterator[TestServer]:
    """The Postgres server of the session; started when the first test wants it."""
    with TestServer() as started:
        yield started


@pytest_asyncio.fixture(params=["memory", "postgres", "postgres without notify", "postgres behind a pooler"])
async def stores(request: pytest.FixtureRequest) -> AsyncIterator[Stores]:
    """One set of records that several engines may open."""
    if request.param == "memory":
        opened = MemoryStores()
        yield opened
        await opened.close()
        return
    server: TestServer = request.getfixturevalue("server")
    await server.create_template(TEMPLATE, migrated(server))
    dsn = await server.clone(TEMPLATE)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(server.drop, dsn)
        pooler = await stack.enter_async_context(Pooler(dsn)) if request.param.endswith("pooler") else None
        notify = not request.param.endswith("without notify")
        opened = PostgresStores(dsn, notify=notify, pooler=pooler and pooler.dsn)
        stack.push_async_callback(opened.close)
        yield opened


@pytest.fixture
def clock(stores: Stores) -> SetClock:
    """The clock of `stores`."""
    return stores.clock


@pytest_asyncio.fixture
async def engine(stores: Stores) -> Engine:
    """One engine on `stores`."""
    return await stores.engine()


@pytest.fixture
def store(engine: Engine) -> Store:
    """The store of `engine`."""
    return engine.store
