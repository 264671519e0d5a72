"""A store that has lost its last commits, as a standby has that takes over: an engine that knows more ends cleanly."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from flowstone_async import Engine, LeaseLost, Pipeline
from tests.postgres.conftest import Opened

LOST = {
    "the run": "DELETE FROM flowstone.event; DELETE FROM flowstone.run; UPDATE flowstone.asset_key SET claim_run = NULL",
    "the worker": "DELETE FROM flowstone.worker WHERE id = $1",
    "who owns the run": "UPDATE flowstone.run SET worker = 'before'",
    "everything": (
        "TRUNCATE flowstone.worker, flowstone.run, flowstone.event, flowstone.asset_key, flowstone.materialization"
    ),
}


@pytest.mark.parametrize("lost", LOST.values(), ids=LOST)
async def test_an_engine_that_knows_more_than_its_store_ends_and_another_begins_anew(
    dsn: str, sql: asyncpg.Connection, opened: Opened, lost: str
) -> None:
    pipe, begun, go = Pipeline("lost"), asyncio.Event(), asyncio.Event()
    calls: list[str] = []

    @pipe.asset
    async def numbers() -> list[int]:
        calls.append("numbers")
        begun.set()
        await go.wait()
        return [1, 2, 3]

    async with asyncio.timeout(40):
        async with Engine(pipe, store=dsn) as engine:
            running = asyncio.create_task(engine.run(numbers))
            await begun.wait()
            for statement in lost.split("; "):
                await sql.execute(statement.replace("$1", f"'{engine._live().services.worker}'"))
            go.set()
            with pytest.raises(LeaseLost):
                await running
            assert await sql.fetchval("SELECT count(*) FROM flowstone.materialization") == 0
        async with Engine(pipe, store=dsn, poll="50ms") as engine:
            assert await engine.run(numbers) == [1, 2, 3]
            for run in await engine.runs(state="running"):
                await (await engine.find(run.id)).result()
    assert set(calls) == {"numbers"}
    assert await opened.store.verify() == ()
