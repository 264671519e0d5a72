"""Deleting scatters of any size: some rows in each transaction, and whoever prunes goes on (STORE-08, CACHE-09)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
import pytest_asyncio
from asyncpg import Record

from flowstone_async import Gathered, NotMaterialized, Pipeline
from flowstone_async.store.postgres import chains, connections
from flowstone_async.store.postgres.queries import QUERIES
from tests.engine.test_scatter_life import left
from tests.support.engines import PostgresEngines
from tests.support.gate import soon

ITEMS = 20


@pytest_asyncio.fixture
async def engines(dsn: str) -> AsyncIterator[PostgresEngines]:
    """Engines on one database."""
    async with PostgresEngines(dsn) as found:
        yield found


def pipeline(results: Any = "packed") -> Pipeline:
    """Return a scatter of which every fifth item fails."""
    pipe = Pipeline("many")

    @pipe.scatter(range(ITEMS), page_size=3, tolerate=0.5, retry=False, results=results)
    async def items(no: int) -> int:
        if not no % 5:
            raise ValueError("bad")
        return no

    @items.gather
    async def total(results: Gathered[int]) -> int:
        return results.succeeded

    return pipe


@pytest.fixture
def few_at_once(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Delete two rows of a table at a time; the statements that do it are counted."""
    send, sent = connections.Session.fetch_text, list[int]()

    async def count(session: connections.Session, text: str, *arguments: Any) -> list[Record]:
        if text == QUERIES["delete_remains"]:
            sent.append(sum(map(len, arguments[:3])))
        return await send(session, text, *arguments)

    monkeypatch.setattr(connections.Session, "fetch_text", count)
    monkeypatch.setattr(chains, "_AT_ONCE", (2, 2))
    return sent


async def remains(engines: PostgresEngines) -> int:
    """Return how many parts of deleted scatters are still to be deleted."""
    connection = await asyncpg.connect(engines.dsn)
    try:
        return await connection.fetchval("SELECT count(*) FROM flowstone.scatter_remains")
    finally:
        await connection.close()


@pytest.mark.parametrize("results", ["packed", "rows"])
async def test_a_scatter_is_deleted_some_rows_at_a_time(engines: PostgresEngines, few_at_once: list[int], results: Any):
    """CACHE-09: nothing of it is left, and no statement had more than two rows of a table to delete."""
    engine = await engines.open(pipeline(results))
    assert await engine.run("total") == 16
    await engine.invalidate("items")
    assert not any((await left(engines)).values())
    assert await remains(engines) == 0
    assert len(few_at_once) >= ITEMS / 2, "the keys alone take so many"
    few_at_once.clear()
    assert await engine.run("total") == 16


async def test_a_small_one_is_deleted_at_once(engines: PostgresEngines, monkeypatch: pytest.MonkeyPatch):
    """STORE-08: it takes one transaction, and leaves nothing to sweep."""
    engine = await engines.open(pipeline())
    await engine.run("total")

    async def none(_: object) -> None:
        raise AssertionError("there is nothing to sweep")

    monkeypatch.setattr("flowstone_async.store.postgres.scatters.sweep", none)
    await engine.invalidate("items")
    assert not any((await left(engines)).values())
    assert await remains(engines) == 0


async def test_whoever_prunes_goes_on_after_a_crash(
    engines: PostgresEngines, few_at_once: list[int], monkeypatch: pytest.MonkeyPatch
):
    """STORE-08: it died between two of the transactions; nobody finds the scatter any more, and its room comes back."""
    engine = await engines.open(pipeline())
    await engine.run("total")

    async def dies(_: object) -> None:
        raise asyncio.CancelledError

    monkeypatch.setattr("flowstone_async.store.postgres.scatters.sweep", dies)
    with pytest.raises(asyncio.CancelledError):
        await engine.invalidate("items")
    with pytest.raises(NotMaterialized):
        await engine.get("items")
    rows = await left(engines)
    assert not rows[""]
    assert rows["_key"]
    assert await remains(engines) == 3
    two = [engine._live().store.prune(runs=None, values=None, limit=100) for _ in range(2)]
    await soon(asyncio.gather(*two))
    assert not any((await left(engines)).values())
    assert await remains(engines) == 0
    assert await engine._live().store.verify() == ()
