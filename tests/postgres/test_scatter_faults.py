"""Scatters on a server that breaks connections (SCAT-16, READ-07): each item once, whatever reply is lost."""

from __future__ import annotations

import asyncio
from collections import Counter

import asyncpg
import pytest

from flowstone_async import Batch, Batching, Context, Engine, Pipeline, Retry
from tests.support.fault_proxy import FaultProxy

ITEMS = 120


def _pipeline() -> tuple[Pipeline, Counter[int]]:
    pipe, calls = Pipeline("faults"), Counter[int]()

    @pipe.scatter(range(ITEMS), page_size=10, retry=Retry(3, initial="10ms"))
    async def items(no: int, ctx: Context) -> int:
        calls[no] += 1
        await asyncio.sleep(0)
        if not no % 7 and ctx.item.attempt == 1:
            raise ConnectionError("once")
        return no

    return pipe, calls


@pytest.mark.parametrize("times", [1, 2, 3, 5, 8, 13])
async def test_lost_replies_change_nothing(sql: asyncpg.Connection, dsn: str, times: int) -> None:
    pipe, calls = _pipeline()
    async with asyncio.timeout(60), FaultProxy(dsn) as proxy, Engine(pipe, store=proxy.dsn, notify=False) as engine:
        proxy.lose(times, ["pool"])
        found = await engine.run("items")
        assert proxy.lost == times
        assert await found.to_list(limit=ITEMS) == list(range(ITEMS))
    assert calls == Counter({no: 1 + (not no % 7) for no in range(ITEMS)})
    assert await sql.fetchval("SELECT sum(succeeded) FROM flowstone.scatter_chunk") == ITEMS


async def test_connections_that_break_again_and_again_lose_no_item(sql: asyncpg.Connection, dsn: str) -> None:
    pipe, calls = Pipeline("faults"), Counter[int]()
    async with asyncio.timeout(60), FaultProxy(dsn) as proxy:

        @pipe.scatter(range(ITEMS), page_size=10)
        async def items(no: int) -> int:
            calls[no] += 1
            if not no % 6:
                proxy.reset(["pool"])
                await asyncio.sleep(0)
            return no

        async with Engine(pipe, store=proxy.dsn, notify=False) as engine:
            found = await engine.run(items)
            assert await found.to_list(limit=ITEMS) == list(range(ITEMS))
    assert calls == Counter(range(ITEMS))
    assert await sql.fetchval("SELECT sum(succeeded) FROM flowstone.scatter_chunk") == ITEMS


@pytest.mark.parametrize("times", [1, 2, 3, 5, 8, 13])
async def test_lost_replies_change_no_batch(sql: asyncpg.Connection, dsn: str, times: int) -> None:
    """BATCH-07, BATCH-08: neither what is open, nor what batches share, nor what left its batch is there twice."""
    pipe, calls, asked = Pipeline("faults"), Counter[int](), list[int]()

    def shared() -> int:
        asked.append(len(asked))
        return asked[-1]

    batching: Batching[int] = Batching(max_items=7, shared=shared)

    @pipe.scatter(range(ITEMS), page_size=10, batch=batching, retry=Retry(3, initial="10ms"))
    async def items(batch: Batch[int]) -> list[int]:
        assert batch.shared == 0
        calls[batch.number] += 1
        await asyncio.sleep(0)
        if len(batch) > 1:
            raise batch.failed({2: ConnectionError("once")}, value=[*batch[:2], *batch[3:]])
        return list(batch)

    async with asyncio.timeout(60), FaultProxy(dsn) as proxy, Engine(pipe, store=proxy.dsn, notify=False) as engine:
        proxy.lose(times, ["pool"])
        found = await engine.run(items)
        assert proxy.lost == times
        assert sorted([no async for no in found.flat()]) == list(range(ITEMS))
        assert await engine._live().store.verify() == ()
    assert found.total == len(calls) == 18 + 17
    assert calls.keys() == set(range(35))
    assert set(calls.values()) == {1}
    assert await sql.fetchval("SELECT sum(succeeded) FROM flowstone.scatter_chunk") == 35
