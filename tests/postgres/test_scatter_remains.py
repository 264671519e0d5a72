"""Deleting scatters of any size: some rows in each transaction, and whoever prunes goes on (STORE-08, CACHE-09)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
import pytest_asyncio
from asyncpg import Record

from flowstone_async import Engine, Gathered, NotMaterialized, Pipeline
from flowstone_async.store.postgres import connections, remains
from flowstone_async.store.postgres.remains import REMAINS, TRIMS, Remains, statement
from flowstone_async.store.records import Pruned
from tests.engine.test_scatter_life import left
from tests.support.engines import PostgresEngines
from tests.support.gate import soon

ITEMS = 20
SWEEPING = {statement(each, which).text for each in (REMAINS, TRIMS) for which in ("all", "own")}


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
        rows = await send(session, text, *arguments)
        if text in SWEEPING:
            sent.append(len(rows))
        return rows

    monkeypatch.setattr(connections.Session, "fetch_text", count)
    monkeypatch.setattr(remains, "SHARE", 2)
    monkeypatch.setattr(remains, "LARGE", 2)
    return sent


async def listed(engines: PostgresEngines) -> int:
    """Return how many parts of deleted scatters are still to be deleted."""
    connection = await asyncpg.connect(engines.dsn)
    try:
        return await connection.fetchval("SELECT count(*) FROM flowstone.scatter_remains")
    finally:
        await connection.close()


async def prune(engine: Engine) -> Pruned:
    """Let an engine's store go on with what is left of deleted scatters."""
    return await engine._live().store.prune(runs=None, values=None)


async def dies(*_: object) -> None:
    """Die before anything else is deleted."""
    raise asyncio.CancelledError


@pytest.mark.parametrize("results", ["packed", "rows"])
async def test_a_scatter_is_deleted_some_rows_at_a_time(engines: PostgresEngines, few_at_once: list[int], results: Any):
    """CACHE-09: nothing of it is left, and no statement had more than two rows of a table to delete."""
    engine = await engines.open(pipeline(results))
    assert await engine.run("total") == 16
    await engine.invalidate("items")
    assert not any((await left(engines)).values())
    assert await listed(engines) == 0
    assert len(few_at_once) >= ITEMS / 2, "the keys alone take so many"
    few_at_once.clear()
    assert await engine.run("total") == 16


async def test_a_small_one_is_deleted_at_once(engines: PostgresEngines, monkeypatch: pytest.MonkeyPatch):
    """STORE-08: it takes one transaction, and leaves nothing to sweep."""
    engine = await engines.open(pipeline())
    await engine.run("total")

    async def none(*_: object) -> None:
        raise AssertionError("there is nothing to sweep")

    monkeypatch.setattr(Remains, "finish", none)
    await engine.invalidate("items")
    assert not any((await left(engines)).values())
    assert await listed(engines) == 0


async def test_whoever_prunes_goes_on_after_a_crash(
    engines: PostgresEngines, few_at_once: list[int], monkeypatch: pytest.MonkeyPatch
):
    """STORE-08: it died between two of the transactions; nobody finds the scatter any more, and its room comes back."""
    engine = await engines.open(pipeline())
    await engine.run("total")

    monkeypatch.setattr(Remains, "finish", dies)
    with pytest.raises(asyncio.CancelledError):
        await engine.invalidate("items")
    with pytest.raises(NotMaterialized):
        await engine.get("items")
    rows = await left(engines)
    assert not rows[""]
    assert rows["_key"]
    assert await listed(engines) == 3
    while any(pruned.swept for pruned in await soon(asyncio.gather(*(prune(engine) for _ in range(2))))):
        pass
    assert not any((await left(engines)).values())
    assert await listed(engines) == 0
    assert await engine._live().store.verify() == ()


async def test_what_is_listed_already_stays_the_sweepers(
    engines: PostgresEngines, few_at_once: list[int], monkeypatch: pytest.MonkeyPatch
):
    """STORE-08: of a chain whose first one's deleter died, of one that is named twice, and by several at once."""
    engine = await engines.open(pipeline())
    run = await engine.submit("total")
    await run
    again = await run.redrive("items", only="all")
    await again
    store = engine._live().store
    [first], [second] = [await store.scatters.of_run(each.id) for each in (run, again)]

    with monkeypatch.context() as patch:
        patch.setattr(Remains, "finish", dies)
        with pytest.raises(asyncio.CancelledError):
            await store.scatters.delete([first.id])
    assert await listed(engines)
    other = (await engines.open(pipeline()))._live().store
    deletes = [each.scatters.delete([second.id, second.id]) for each in (store, other, store)]
    await soon(asyncio.gather(*deletes, store.scatters.delete([first.id])))
    while (await store.prune(runs=None, values=None)).swept:
        pass
    assert not any((await left(engines)).values())
    assert await listed(engines) == 0
