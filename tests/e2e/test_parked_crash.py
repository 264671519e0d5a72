"""`kill -9` of whoever runs a scatter whose items wait, while some of them go on (SIG-07, SIG-09)."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path

import pytest
import pytest_asyncio

from flowstone_async import Engine
from tests.e2e.commands import Program
from tests.e2e.programs.parked import SECRET, pipe
from tests.support.engines import TEMPLATE, migrate
from tests.support.postgres import TestServer

MODULE = "tests.e2e.programs.parked"


@pytest_asyncio.fixture
async def dsn(server: TestServer) -> AsyncIterator[str]:
    """A database of the test's own."""
    await server.create_template(TEMPLATE, migrate(server))
    dsn = await server.clone(TEMPLATE)
    yield dsn
    await server.drop(dsn)


def called(folder: Path) -> Counter[str]:
    return Counter((folder / "calls").read_text().splitlines())


async def within(awaited: Awaitable[None], count: int) -> None:
    await asyncio.wait_for(awaited, 30 + count / 20)


async def counted(engine: Engine, *, waiting: int | None = None, done: int | None = None) -> None:
    """Return once so many items wait and are in nobody's memory, or so many have ended at least."""
    store = engine._live().store
    while True:
        runs = await store.runs(pipelines=["parked"], limit=1)
        scatters = await store.scatters.of_run(runs[0].id) if runs else ()
        totals = await store.scatters.totals(scatters[0].id) if scatters else None
        if totals is not None and waiting in (None, totals.parked) and (done is None or totals.succeeded >= done):
            return
        await store.changed("anything", within=0.02)


@pytest.mark.parametrize("count", [40, pytest.param(10_000, marks=pytest.mark.faults)])
async def test_items_that_wait_survive_whoever_runs_them(folder: Path, dsn: str, count: int) -> None:
    """Each goes on exactly once for each of its calls that had come to an end, and nobody waits for ever."""
    async with Engine(pipe, store=dsn, secret=SECRET, slots=0) as engine:
        with Program(folder, MODULE, dsn, str(count)) as first:
            await within(counted(engine, waiting=count), count)
            await asyncio.gather(*(engine.signal(f"item {no}", no) for no in range(count // 2)))
            await within(counted(engine, done=count // 8), count)
            first.kill()
        before = called(folder)
        assert {before[f"start {no}"] for no in range(count)} == {1}
        assert {before[f"body {no}"] for no in range(count // 2, count)} == {1}
        await asyncio.gather(*(engine.signal(f"item {no}", no) for no in range(count // 2, count - 1)))
        with Program(folder, MODULE, dsn, str(count)) as second:
            await within(counted(engine, waiting=1, done=count - 1), count)
            await engine.signal(f"item {count - 1}", count - 1)
            ended = second.end()
        assert (ended.code, ended.out.strip()) == (0, str(count * (count - 1))), ended
        assert await engine._live().store.verify() == ()
    after = called(folder)
    assert {after[f"start {no}"] for no in range(count)} == {1}
    assert {after[f"body {no}"] for no in range(count // 2, count)} == {2}
    assert max(after[f"finish {no}"] for no in range(count // 2)) <= 2
