"""Steps that write to the engine's own database in the transaction of their record (STEP-14)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from flowstone_async import ConfigError, Context, ExecutionError, LeaseLost, Pipeline, Retry
from tests.support.crash import kill, look_for_orphans
from tests.support.engines import OpenEngine, PostgresEngines, SharedEngines
from tests.support.gate import Gate, soon

OFTEN: Any = {"poll": "10ms"}
RARELY: Any = {"poll": "60s", "slots": 0}


@pytest_asyncio.fixture
async def sql(engines: SharedEngines) -> AsyncIterator[asyncpg.Connection]:
    if not isinstance(engines, PostgresEngines):
        pytest.skip("is about Postgres")
    connection = await asyncpg.connect(engines.dsn)
    await connection.execute("CREATE TABLE account (number int PRIMARY KEY, amount int NOT NULL)")
    await connection.execute("INSERT INTO account VALUES (1, 0)")
    yield connection
    connection.terminate()


async def move(connection: asyncpg.Connection, amount: int) -> int:
    """Write, and say what there is."""
    return await connection.fetchval("UPDATE account SET amount = amount + $1 RETURNING amount", amount)


async def test_in_memory_there_is_no_transaction():
    pipe = Pipeline("tx")

    @pipe.asset
    async def pays(ctx: Context) -> int:
        return await ctx.tx(move, 5)

    with pytest.raises(ConfigError, match="memory"):
        await pipe.run(pays)


async def test_what_is_written_takes_effect_once(open_engine: OpenEngine, sql: asyncpg.Connection):
    """Also where the worker dies behind it, and where the asset is tried again."""
    pipe, gate = Pipeline("tx"), Gate()

    @pipe.asset(retry=Retry(attempts=2, backoff="none"))
    async def pays(ctx: Context) -> list[int]:
        found = [await ctx.tx(move, 5), await ctx.tx(move, 7)]
        await gate()
        if ctx.attempt == 1:
            raise ValueError("again")
        return found

    dying, living = await open_engine(pipe, **OFTEN), await open_engine(pipe, **RARELY)
    running = asyncio.create_task(dying.run(pays))
    await gate.reached()
    await kill(dying)
    with pytest.raises(LeaseLost):
        await soon(running)
    gate.open()
    await look_for_orphans(living)
    assert await soon(living.wait(pays)) == [5, 12]
    assert await sql.fetchval("SELECT amount FROM account") == 12


async def test_what_failed_has_written_nothing(open_engine: OpenEngine, sql: asyncpg.Connection):
    """The failure is on record, and what was written is not."""
    pipe = Pipeline("tx")

    async def fails(connection: asyncpg.Connection) -> int:
        await move(connection, 5)
        raise ValueError("no")

    async def unstorable(connection: asyncpg.Connection) -> object:
        await move(connection, 5)
        return object()

    @pipe.asset
    async def pays(ctx: Context) -> int:
        for function in (fails, unstorable):
            with pytest.raises(Exception, match="no|cannot be stored"):
                await ctx.tx(function)
        return await ctx.tx(move, 1)

    assert await (await open_engine(pipe)).run(pays) == 1
    assert await sql.fetchval("SELECT amount FROM account") == 1


async def test_who_lost_the_run_writes_nothing(open_engine: OpenEngine, sql: asyncpg.Connection):
    pipe, gate = Pipeline("tx"), Gate()

    async def slowly(connection: asyncpg.Connection) -> int:
        found = await move(connection, 5)
        await gate()
        return found

    @pipe.asset
    async def pays(ctx: Context) -> int:
        try:
            return await ctx.tx(slowly)
        except ExecutionError as error:
            raise AssertionError("an error of the step") from error

    dying, living = await open_engine(pipe, **OFTEN), await open_engine(pipe, **RARELY)
    running = asyncio.create_task(dying.run(pays))
    await gate.reached()
    await kill(dying)
    with pytest.raises(LeaseLost):
        await soon(running)
    assert await sql.fetchval("SELECT amount FROM account") == 0
    gate.open()
    await look_for_orphans(living)
    assert await soon(living.wait(pays)) == 5
    assert await sql.fetchval("SELECT amount FROM account") == 5


async def test_what_is_on_record_already_counts(open_engine: OpenEngine, sql: asyncpg.Connection, monkeypatch: Any):
    """Somebody has committed the step meanwhile: nothing is written twice."""
    pipe = Pipeline("tx")

    @pipe.asset
    async def pays(ctx: Context) -> int:
        return await ctx.tx(move, 5)

    engine = await open_engine(pipe)
    store: Any = engine._live().services.store
    begin = store.steps.transaction

    class Twice:
        """Commits the same step right before, with another result."""

        def __init__(self, transaction: Any, *args: Any) -> None:
            self._transaction, self._args, self.connection = transaction, args, transaction.connection

        async def record(self, step: Any) -> None:
            assert await store.steps.record(*self._args, [step._replace(value=b" 77")])
            await self._transaction.record(step)

    @asynccontextmanager
    async def first(*args: Any) -> AsyncIterator[Any]:
        async with begin(*args) as transaction:
            yield Twice(transaction, *args)

    monkeypatch.setattr(store.steps, "transaction", first)
    assert await engine.run(pays) == 77
    assert await sql.fetchval("SELECT amount FROM account") == 0


async def test_times_that_were_told_before_are_on_record_with_it(open_engine: OpenEngine, sql: asyncpg.Connection):
    """STEP-12: what it has written may depend on them."""
    pipe, gate, told = Pipeline("tx"), Gate(), list[Any]()

    @pipe.asset
    async def pays(ctx: Context) -> int:
        told.append(ctx.now())
        found = await ctx.tx(move, 5)
        await gate()
        return found

    dying, living = await open_engine(pipe, **OFTEN), await open_engine(pipe, **RARELY)
    running = asyncio.create_task(dying.run(pays))
    await gate.reached()
    await kill(dying)
    with pytest.raises(LeaseLost):
        await soon(running)
    gate.open()
    await look_for_orphans(living)
    assert await soon(living.wait(pays)) == 5
    assert told[0] == told[1]
