"""Very many runs that are cancelled while they end: each has one end, whoever wins."""

from __future__ import annotations

import asyncio
import random

import asyncpg
import pytest

from flowstone_async import Engine, Keys, NothingToCancel, Pipeline
from tests.postgres.conftest import Opened

RUNS = 200
KEYS = Keys(*(f"k{number:03}" for number in range(RUNS)))


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.faults)])
async def test_each_run_ends_once_and_lets_everything_go(
    dsn: str, sql: asyncpg.Connection, opened: Opened, seed: int
) -> None:
    chance, pipe = random.Random(seed), Pipeline("storm")
    hurried = set(chance.sample(list(KEYS.whole()), RUNS // 2))

    @pipe.asset(partitions=KEYS)
    async def item(partition: str) -> str:
        await asyncio.sleep(0)
        if partition not in hurried:
            await asyncio.Event().wait()
        return partition

    @pipe.asset(partitions=KEYS)
    async def double(item: str) -> str:
        return 2 * item

    won = 0
    async with asyncio.timeout(100), Engine(pipe, store=dsn, grace="1ms") as engine, Engine(pipe, store=dsn) as other:
        handles = [await engine.submit("double", partition=key) for key in KEYS.whole()]

        async def cancel(run_id: str) -> None:
            nonlocal won
            try:
                await (await chance.choice((engine, other)).find(run_id)).cancel()
                won += 1
            except NothingToCancel:
                pass

        async with asyncio.TaskGroup() as group:
            for handle in chance.sample(handles, len(handles)):
                group.create_task(cancel(handle.id))
                group.create_task(cancel(handle.id))
        assert not await engine.runs(state="running")
    states = dict(await sql.fetch("SELECT state, count(*) FROM flowstone.run GROUP BY state"))
    assert sum(states.values()) == RUNS
    assert states.keys() <= {"succeeded", "cancelled"}
    assert states["cancelled"] >= RUNS - len(hurried)
    assert won >= states["cancelled"]
    assert await sql.fetchval("SELECT count(*) FROM flowstone.asset_key WHERE claim_run IS NOT NULL") == 0
    assert await opened.store.verify() == ()
