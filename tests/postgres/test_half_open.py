"""Connections that hang without being closed: work goes on over others, and an engine can be left."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from flowstone_async import Engine, Pipeline
from tests.postgres.conftest import Opened
from tests.postgres.waiting import until
from tests.support.fault_proxy import FaultProxy, Role

LONG = 40
"""Seconds that none of this may take."""


@pytest_asyncio.fixture
async def proxy(dsn: str) -> AsyncIterator[FaultProxy]:
    async with FaultProxy(dsn) as started:
        yield started


class Work:
    """Assets that wait for each other, and a body that a test holds."""

    def __init__(self) -> None:
        self.pipe = Pipeline("half_open")
        self.begun, self.go = asyncio.Event(), asyncio.Event()

        @self.pipe.asset
        async def first() -> int:
            self.begun.set()
            await self.go.wait()
            return 1

        @self.pipe.asset
        async def second(first: int) -> int:
            return first + 1

        self.second = second


def impatient(engine: Engine) -> None:
    """Let an engine give up soon what does not answer."""
    store: Any = engine._store
    store._connections.patience = 0.5


async def is_deaf(proxy: FaultProxy, role: Role) -> bool:
    return any(link.role == role and link.deaf for link in proxy.links)


@pytest.mark.parametrize("directions", [("to server", "to client"), ("to client",)], ids=["nothing", "no answer"])
@pytest.mark.parametrize("role", ["committer", "pool", "listener"])
async def test_a_run_goes_on_over_other_connections(
    proxy: FaultProxy, opened: Opened, role: Role, directions: tuple
) -> None:
    work = Work()
    async with asyncio.timeout(LONG):
        async with Engine(work.pipe, store=proxy.dsn, poll="100ms") as engine:
            impatient(engine)
            running = asyncio.create_task(engine.run(work.second))
            await work.begun.wait()
            proxy.hinder([role], directions)
            work.go.set()
            asking = asyncio.create_task(engine.runs())
            if role != "listener":
                await until(lambda: is_deaf(proxy, role))
            proxy.heal()
            assert await running == 2
            assert len(await asking) == 1
    assert await opened.store.verify() == ()


@pytest.mark.not_in("poll", reason="nobody listens")
async def test_whoever_hears_nothing_finds_what_another_has_made_by_looking(
    proxy: FaultProxy, dsn: str, opened: Opened
) -> None:
    theirs, ours = Work(), Work()
    async with asyncio.timeout(LONG):
        async with Engine(theirs.pipe, store=dsn) as other, Engine(ours.pipe, store=proxy.dsn, poll="100ms") as engine:
            await until(lambda: _listens(proxy))
            proxy.hinder(["listener"])
            computing = asyncio.create_task(other.run(theirs.second))
            await theirs.begun.wait()
            waiting = asyncio.create_task(engine.run(ours.second))
            await until(lambda: _contended(opened))
            theirs.go.set()
            assert (await computing, await waiting) == (2, 2)
    assert not ours.begun.is_set()


async def test_an_engine_whose_connections_all_hang_can_be_left(proxy: FaultProxy, opened: Opened) -> None:
    work = Work()
    async with asyncio.timeout(LONG):
        async with Engine(work.pipe, store=proxy.dsn, grace="1ms") as engine:
            impatient(engine)
            handle = await engine.submit(work.second)
            await work.begun.wait()
            proxy.hinder()
    run = await opened.store.run(handle.id)
    assert run is not None
    assert run.state == "running"


async def _listens(proxy: FaultProxy) -> bool:
    return bool(proxy.open_links("listener"))


async def _contended(opened: Opened) -> bool:
    rows = await opened.store._connections.fetch_text("SELECT FROM flowstone.asset_key WHERE contended")
    return bool(rows)
