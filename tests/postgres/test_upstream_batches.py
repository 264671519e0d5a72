"""Scatters in batches that follow one another, on a server that breaks connections and with workers that die."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from typing import Any

import asyncpg
import pytest

from flowstone_async import Batch, Batching, Context, DependencyFailed, Engine, LeaseLost, Pipeline, Retry
from tests.support.crash import kill
from tests.support.engines import PostgresEngines
from tests.support.fault_proxy import FaultProxy
from tests.support.gate import soon

OFTEN: Any = {"poll": "20ms"}
ITEMS, AT_ONCE = 120, 4
_PARTAKERS = """
SELECT count(*) FROM flowstone.scatter_worker AS w JOIN flowstone.scatter AS s ON s.id = w.scatter WHERE s.asset = 'second'
"""
ONCE_MORE = Retry(3, backoff="none")


class Who(str):
    """The name of an engine, for the bodies that it calls."""

    __slots__ = ()


class Chain:
    """`first` takes items in fours, of which the second goes on alone; `second` takes its results in threes.

    Attributes:
        calls: Of each batch of `second`, by engine.
        batches: What each was called with.
    """

    def __init__(self) -> None:
        self.pipe = pipe = Pipeline("chain")
        self.calls: dict[str, Counter[int]] = defaultdict(Counter)
        self.batches: dict[int, set[tuple[Any, ...]]] = defaultdict(set)
        self.most, self._inside = 0, 0
        self.go, self.waiting = True, list[asyncio.Event]()

        @pipe.resource
        async def who() -> Who:
            return Who("only")

        @pipe.scatter(range(ITEMS), batch=Batching(max_items=4), page_size=20, retry=ONCE_MORE)
        async def first(batch: Batch[int]) -> list[int]:
            await asyncio.sleep(0)
            if len(batch) > 1:
                raise batch.failed({1: ConnectionError("gone")}, value=[no for no in batch if no % 4 != 1])
            return list(batch)

        @pipe.scatter(
            first, batch=Batching(max_items=3), max_concurrent=AT_ONCE, page_size=6, retry=Retry(3, backoff="none")
        )
        async def second(lists: Batch[list[int]], ctx: Context, who: Who) -> list[int]:
            assert ctx.item.key == lists.keys
            for own, key in zip(lists, lists.keys, strict=True):
                assert set(own) <= set(key)
                assert len(key) in (1, 4)
            self.calls[who][lists.number] += 1
            self.batches[lists.number].add(lists.keys)
            self._inside += 1
            self.most = max(self.most, self._inside)
            try:
                await self._wait()
            finally:
                self._inside -= 1
            if 5 in lists[0] and len(lists) > 1:
                raise lists.failed({0: ConnectionError("gone")}, value=[no for own in lists[1:] for no in own])
            return [no for own in lists for no in own]

    async def _wait(self) -> None:
        if not self.go:
            self.waiting.append(go := asyncio.Event())
            await go.wait()

    async def open(self, engines: PostgresEngines, name: str) -> Engine:
        """Open an engine; bodies that it calls know its name."""
        return await engines.open(self.pipe, resources={Who: Who(name)}, **OFTEN)

    async def shared(self, sql: asyncpg.Connection) -> None:
        """Let calls of the first engine end, one by one, until the second, which takes part, has some."""
        async with asyncio.timeout(30):
            while await sql.fetchval(_PARTAKERS) < len("ab"):
                await asyncio.sleep(0)
            while not self.calls["b"]:
                if len(self.waiting) == AT_ONCE:
                    self.waiting.pop().set()
                await asyncio.sleep(0)

    def let_all(self) -> None:
        """Let all calls end."""
        self.go = True
        for each in self.waiting:
            each.set()

    async def check(self, engine: Engine, found: Any) -> None:
        """Fail if anything is lost, there twice, or in two batches."""
        assert sorted([no async for no in found.flat()]) == list(range(ITEMS))
        assert {len(each) for each in self.batches.values()} == {1}
        assert sorted(self.batches) == list(range(found.total))
        read = [key for keys in self.batches.values() for each in keys for key in each]
        parts = {*(tuple(range(at, at + 4)) for at in range(0, ITEMS, 4)), *((at,) for at in range(1, ITEMS, 4))}
        assert set(read) == parts
        assert len(read) - len(parts) == found.total - len(parts) // 3, "what left its batch was in two"
        assert found.succeeded == found.total
        assert await engine._live().store.verify() == ()


@pytest.mark.parametrize("times", [1, 3, 8, 21, 55])
async def test_lost_replies_change_nothing(dsn: str, times: int) -> None:
    """READ-07, SCAT-26, BATCH-07."""
    chain = Chain()
    async with (
        asyncio.timeout(60),
        FaultProxy(dsn) as proxy,
        Engine(chain.pipe, store=proxy.dsn, notify=False, **OFTEN) as engine,
    ):
        proxy.lose(times, ["pool"])
        found = await engine.run("second")
        await chain.check(engine, found)
    assert set(chain.calls["only"].values()) == {1}


async def test_connections_that_break_again_and_again_lose_nothing(dsn: str, sql: asyncpg.Connection) -> None:
    """READ-07, SCAT-26: both go on reading where they were."""
    pipe, calls = Pipeline("faults"), Counter[int]()
    async with asyncio.timeout(60), FaultProxy(dsn) as proxy:

        @pipe.scatter(range(ITEMS), batch=Batching(max_items=4), page_size=10)
        async def first(numbers: Batch[int]) -> list[int]:
            if not numbers.number % 5:
                proxy.reset(["pool"])
                await asyncio.sleep(0)
            return list(numbers)

        @pipe.scatter(first, batch=Batching(max_items=2), page_size=3)
        async def second(lists: Batch[list[int]]) -> list[int]:
            calls.update(no for own in lists for no in own)
            if not lists.number % 4:
                proxy.reset(["pool"])
                await asyncio.sleep(0)
            return [no for own in lists for no in own]

        async with Engine(pipe, store=proxy.dsn, notify=False, **OFTEN) as engine:
            found = await engine.run(second)
            assert sorted([no async for no in found.flat()]) == list(range(ITEMS))
    assert calls == Counter(range(ITEMS))
    assert await sql.fetchval("SELECT sum(succeeded) FROM flowstone.scatter_chunk") == 30 + 15


@pytest.mark.parametrize("dies", [None, "a", "b"])
async def test_workers_share_them(dsn: str, sql: asyncpg.Connection, dies: str | None) -> None:
    """SCAT-07, SCAT-16, SCAT-26: never more than `max_concurrent` over both, and either may die."""
    async with PostgresEngines(dsn) as engines:
        chain = Chain()
        chain.go = False
        opened = {name: await chain.open(engines, name) for name in ("a", "b")}
        running = asyncio.create_task(opened["a"].run("second"))
        await chain.shared(sql)
        other = opened["a" if dies == "b" else "b"]
        if dies is not None:
            await kill(opened[dies])
        chain.let_all()
        if dies == "a":
            with pytest.raises((LeaseLost, DependencyFailed)):
                await soon(running)
        else:
            await soon(running)
        await chain.check(other, await soon(other.wait("second")))
        if dies is None:
            assert set(sum(chain.calls.values(), Counter[int]()).values()) == {1}
            assert chain.most <= AT_ONCE
