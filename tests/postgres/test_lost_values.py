"""A value whose commit is in doubt is never deleted as long as it may be on record."""

from __future__ import annotations

import asyncio

import asyncpg

from flowstone_async import Engine, Pipeline
from tests.postgres.waiting import until
from tests.support.fault_proxy import FaultProxy


async def test_a_value_that_was_committed_before_the_lease_was_lost_is_kept(sql: asyncpg.Connection, dsn: str) -> None:
    pipe, go, begun = Pipeline("values"), asyncio.Event(), asyncio.Event()

    @pipe.asset
    async def numbers() -> list[int]:
        begun.set()
        await go.wait()
        return [1, 2, 3]

    async with FaultProxy(dsn) as proxy, Engine(pipe, store=proxy.dsn, notify=False) as engine:
        session = engine._live()
        running = asyncio.create_task(engine.run(numbers))
        await begun.wait()
        proxy.lose(1, ["committer"], then=lambda: proxy.hinder(["committer"]))
        go.set()
        await until(lambda: _is(proxy.lost == 1))
        await session.services.store.expire(session.services.worker)
        await until(lambda: _is(session.lost))
        proxy.heal()
        proxy.reset(["committer"])
        assert await running == [1, 2, 3], "the run had come to its end, whoever owns it now"

    assert await sql.fetchval("SELECT payload IS NOT NULL FROM flowstone.materialization") is True


async def _is(answer: bool) -> bool:
    return answer
