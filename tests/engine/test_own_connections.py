"""An application's own connections to the database of its engine: JOB-05, CFG-03, CFG-04."""

from __future__ import annotations

from collections.abc import Iterator

import asyncpg
import pytest

from flowstone_async import ConfigError, Engine, Pipeline, RunNotFound
from tests.support.gate import soon
from tests.support.postgres import TestServer, short_folder

pipe = Pipeline("shop")


@pipe.asset
async def shipped(partition: int) -> str:
    return f"parcel {partition}"


@pytest.fixture(params=["embedded", "postgres"])
def store(request: pytest.FixtureRequest) -> Iterator[str]:
    """What is said as `store=`."""
    with short_folder() as folder:
        if request.param == "embedded":
            yield f"embedded:{folder}/store"
        else:
            with TestServer(folder=folder / "server") as server:
                yield server.address.dsn()


async def test_a_run_is_stored_with_what_the_application_writes_or_not_at_all(store: str):
    """JOB-05: over a connection to `engine.dsn`, whoever runs the server."""
    async with Engine(pipe, store=store, poll="50ms") as engine, asyncpg.create_pool(engine.dsn, min_size=1) as pool:
        async with pool.acquire() as conn:
            await conn.execute("CREATE TABLE orders (id int PRIMARY KEY, run uuid)")
            with pytest.raises(ZeroDivisionError):
                async with conn.transaction():
                    gone = await engine.submit(shipped, partition=1, key="order:1", conn=conn)
                    await conn.execute("INSERT INTO orders VALUES (1, $1)", gone.id)
                    raise ZeroDivisionError
            async with conn.transaction():
                run = await engine.submit(shipped, partition=2, key="order:2", conn=conn)
                await conn.execute("INSERT INTO orders VALUES (2, $1)", run.id)
                with pytest.raises(RunNotFound):
                    await engine.find(run.id)
        assert await soon(run.result()) == "parcel 2"
        assert [each.id for each in await engine.runs()] == [run.id]
        assert [str(row[0]) for row in await pool.fetch("SELECT run FROM orders")] == [run.id]
        again = await engine.submit(shipped, partition=1, key="order:1")
        assert await soon(again.result()) == "parcel 1"


async def test_where_there_is_none_to_connect_to():
    """CFG-03: before the engine is open, in memory, and on a pool of the caller's."""
    closed = Engine(pipe, store="memory")
    with pytest.raises(ConfigError, match="not open"):
        _ = closed.dsn
    async with closed:
        with pytest.raises(ConfigError, match="no address of a database") as caught:
            _ = closed.dsn
    assert caught.value.hint == "A memory store has no database."
    with short_folder() as folder, TestServer(folder=folder / "server") as server:
        async with asyncpg.create_pool(server.address.dsn(), min_size=1) as pool:
            async with Engine(pipe, store=pool, slots=0) as engine:
                with pytest.raises(ConfigError, match="no address of a database") as caught:
                    _ = engine.dsn
    assert caught.value.hint == "Take the pool that it was given."
