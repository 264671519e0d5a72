"""A server that has no connection left: work waits for one, and nothing is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from flowstone_async import Engine, Keys, Pipeline
from tests.postgres.conftest import Opened
from tests.postgres.waiting import until
from tests.support.fault_proxy import FaultProxy

KEYS = Keys(*(f"k{number:02}" for number in range(20)))
LONG = 40


@pytest_asyncio.fixture
async def proxy(dsn: str) -> AsyncIterator[FaultProxy]:
    async with FaultProxy(dsn) as started:
        yield started


def work() -> tuple[Pipeline, asyncio.Event]:
    pipe, go = Pipeline("exhausted"), asyncio.Event()

    @pipe.asset(partitions=KEYS)
    async def item(partition: str) -> str:
        await go.wait()
        return partition

    @pipe.asset(partitions=KEYS)
    async def double(item: str) -> str:
        return 2 * item

    return pipe, go


@pytest.mark.parametrize("left", [4, 6])
async def test_runs_go_on_with_few_connections(proxy: FaultProxy, opened: Opened, left: int) -> None:
    """One is the lease's; the others come and go."""
    pipe, go = work()
    go.set()
    proxy.most = left
    async with asyncio.timeout(LONG), Engine(pipe, store=proxy.dsn, notify=False) as engine:
        values = await asyncio.gather(*(engine.run("double", partition=key) for key in KEYS.whole()))
    assert values == [2 * key for key in KEYS.whole()]
    assert await opened.store.verify() == ()


async def test_commits_wait_until_there_is_a_connection(proxy: FaultProxy, opened: Opened) -> None:
    pipe, go = work()
    async with asyncio.timeout(LONG), Engine(pipe, store=proxy.dsn, notify=False) as engine:
        running = [asyncio.create_task(engine.run("double", partition=key)) for key in KEYS.whole()]
        await until(lambda: _claimed(opened))
        proxy.most = 1
        proxy.reset(["committer", "pool"])
        before = proxy.refused
        go.set()
        await until(lambda: _is(proxy.refused > before))
        proxy.most = None
        assert await asyncio.gather(*running) == [2 * key for key in KEYS.whole()]
    assert await opened.store.verify() == ()


async def test_a_query_waits_until_there_is_a_connection(proxy: FaultProxy) -> None:
    pipe, _ = work()
    async with asyncio.timeout(LONG), Engine(pipe, store=proxy.dsn, notify=False) as engine:
        proxy.most = 1
        proxy.reset(["committer", "pool"])
        before = proxy.refused
        asking = asyncio.create_task(engine.runs())
        await until(lambda: _is(asking.done() or proxy.refused > before + 2))
        proxy.most = None
        assert await asking == ()


async def _claimed(opened: Opened) -> bool:
    rows = await opened.store._connections.fetch_text("SELECT FROM flowstone.asset_key WHERE claim_run IS NOT NULL")
    return len(rows) == len(list(KEYS.whole()))


async def _is(answer: bool) -> bool:
    return answer
