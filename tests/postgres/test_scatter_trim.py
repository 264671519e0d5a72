"""What only a deleted scatter had read of its chain goes in parts, and nobody goes on from the chain before (SCAT-25)."""

from __future__ import annotations

import asyncio
import itertools
from types import SimpleNamespace
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from flowstone_async.errors import ConfigError
from flowstone_async.store.postgres import remains
from flowstone_async.store.postgres.remains import Remains
from tests.contract.stores import Engine
from tests.contract.test_redrive import ended, redrive, redriven, submit
from tests.contract.test_scatters import Reader
from tests.postgres.conftest import Opened
from tests.postgres.waiting import until


@pytest_asyncio.fixture
async def engine(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """An engine whose store deletes two rows of a table at a time."""
    monkeypatch.setattr(remains, "SHARE", 2)
    monkeypatch.setattr(remains, "LARGE", 2)
    return Engine(worker=opened.worker, store=opened.store, lost=opened.lost)


async def dies(*_: object) -> None:
    """Die before anything else is deleted."""
    raise asyncio.CancelledError


async def read_more(engine: Engine, before: Reader, name: str, pages: int = 4) -> Reader:
    """Return a scatter that has gone on from another, whose run was cancelled when it had read some pages more."""
    after = await redriven(engine, before, "rest")
    for no in range(pages):
        await after.add(f"{name}{no}", f"{name}{no}{no}")
    await engine.store.cancel(after.drive.id, (), ())
    return after


async def half_deleted(engine: Engine, scatter: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    """Delete a scatter, and die as soon as nobody finds it any more."""
    with monkeypatch.context() as patch:
        patch.setattr(Remains, "finish", dies)
        with pytest.raises(asyncio.CancelledError):
            await engine.store.scatters.delete([scatter.id])
    assert await engine.store.scatters.scatter(scatter.id) is None


async def held(sql: asyncpg.Connection) -> tuple[int, int, int]:
    """Return how many pages, keys and chains to be trimmed there are."""
    names = ("page", "key", "trim")
    pages, keys, trims = [await sql.fetchval(f"SELECT count(*) FROM flowstone.scatter_{name}") for name in names]
    return pages, keys, trims


async def test_it_goes_some_rows_at_a_time(engine: Engine, sql: asyncpg.Connection) -> None:
    before = await ended(engine, "running")
    assert await held(sql) == (2, 5, 0)
    after = await read_more(engine, before, "x")
    assert await held(sql) == (6, 13, 0)
    await engine.store.scatters.delete([after.id])
    assert await held(sql) == (2, 5, 0)


async def test_whoever_goes_on_after_a_crash_finishes_it_first(
    engine: Engine, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No item is taken for a duplicate of one whose scatter is gone."""
    before = await ended(engine, "running")
    await half_deleted(engine, await read_more(engine, before, "x"), monkeypatch)
    pages, keys, trims = await held(sql)
    assert pages > 2
    assert keys > 5
    assert trims == 1
    again = await redriven(engine, before, "rest")
    assert await held(sql) == (2, 5, 0)
    added = await again.add("x0", "x33", "a", last=True)
    assert (added.first, added.before, added.duplicates) == (6, 5, frozenset({2}))


async def test_whoever_prunes_goes_on_with_it(
    engine: Engine, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = await ended(engine, "running")
    await half_deleted(engine, await read_more(engine, before, "x"), monkeypatch)
    assert (await engine.store.prune(runs=None, values=None, limit=1)).swept == 1
    assert (await held(sql))[2] == 1
    while (await engine.store.prune(runs=None, values=None)).swept:
        pass
    assert await held(sql) == (2, 5, 0)


async def test_whoever_goes_on_waits_for_who_is_at_it(
    engine: Engine, dsn: str, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = await ended(engine, "running")
    await half_deleted(engine, await read_more(engine, before, "x"), monkeypatch)
    sweeper = await asyncpg.connect(dsn)
    await sweeper.execute("BEGIN; SELECT FROM flowstone.scatter_trim FOR UPDATE")
    finish, asked = Remains.finish, list[object]()

    async def watched(self: Remains, *given: Any) -> None:
        await finish(self, *given)
        asked.append(given)

    async def twice() -> bool:
        return len(asked) > 1

    monkeypatch.setattr(Remains, "finish", watched)
    again = asyncio.create_task(redriven(engine, before, "rest"))
    await until(twice)
    assert not again.done()
    assert (await held(sql))[2] == 1
    sweeper.terminate()
    added = await (await again).add("x0", last=True)
    assert added.duplicates == frozenset()
    assert await held(sql) == (3, 6, 0)


async def test_it_is_refused_while_that_takes_too_long(
    engine: Engine, dsn: str, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = await ended(engine, "running")
    await half_deleted(engine, await read_more(engine, before, "x"), monkeypatch)
    sweeper = await asyncpg.connect(dsn)
    await sweeper.execute("BEGIN; SELECT FROM flowstone.scatter_trim FOR UPDATE")
    runs = await sql.fetchval("SELECT count(*) FROM flowstone.run")
    later = itertools.count(0, 100)
    with monkeypatch.context() as patch:
        patch.setattr("flowstone_async.store.postgres.queue.time", SimpleNamespace(monotonic=later.__next__))
        with pytest.raises(ConfigError, match="still being deleted"):
            await submit(engine, redrive(before, "rest"))
    assert await sql.fetchval("SELECT count(*) FROM flowstone.run") == runs
    sweeper.terminate()


async def test_a_chain_that_ends_takes_it_along(
    engine: Engine, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = await ended(engine, "running")
    await half_deleted(engine, await read_more(engine, before, "x"), monkeypatch)
    await engine.store.scatters.delete([before.id])
    assert await held(sql) == (0, 0, 0)
    assert not await sql.fetch("SELECT FROM flowstone.scatter_remains WHERE part = 'read'")


async def test_of_two_cuts_the_earlier_one_counts(
    engine: Engine, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last of three is deleted, and the one before it, before the first cut was made."""
    before = await ended(engine, "running")
    second = await read_more(engine, before, "x")
    third = await read_more(engine, second, "y")
    assert await held(sql) == (10, 21, 0)
    await half_deleted(engine, third, monkeypatch)
    await half_deleted(engine, second, monkeypatch)
    again = await redriven(engine, before, "rest")
    assert await held(sql) == (2, 5, 0)
    added = await again.add("x0", "y0", "a", last=True)
    assert (added.first, added.duplicates) == (6, frozenset({2}))
