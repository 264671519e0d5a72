"""Scatters on a server that breaks connections (SCAT-16, READ-07): each item once, whatever reply is lost."""

from __future__ import annotations

import asyncio
from collections import Counter

import asyncpg
import pytest

from flowstone_async import Context, Engine, Pipeline, Retry
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
