"""Scatters in batches that several workers run (BATCH-06 to BATCH-08, SCAT-16, RATE-08)."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from typing import Any

import pytest

from flowstone_async import Batch, Batching, Context, Pipeline, Rate, Retry
from flowstone_async._engine.scatter.bodies import Bodies
from tests.engine.test_scatter_resume import kept
from tests.support.crash import kill
from tests.support.engines import PostgresEngines
from tests.support.gate import soon

OFTEN: Any = {"poll": "20ms"}
ITEMS, AT_ONCE = 120, 4


class Who(str):
    """The name of an engine, for the bodies that it calls."""

    __slots__ = ()


class Crew:
    """A scatter in batches of four whose calls wait until two engines have some of them.

    Attributes:
        calls: Of each batch, by engine.
        made: How often what batches share was made.
    """

    def __init__(self, **options: Any) -> None:
        self.pipe = pipe = Pipeline("crew")
        self.calls: dict[str, Counter[int]] = defaultdict(Counter)
        self.batches: dict[int, set[tuple[int, ...]]] = defaultdict(set)
        self.of: dict[str, list[int | None]] = defaultdict(list)
        self.made = 0
        self._go, self._waiting = False, list[asyncio.Event]()

        @pipe.resource
        async def who() -> Who:
            raise AssertionError("each engine is given its name")

        def made() -> str:
            self.made += 1
            return f"made {self.made}"

        @pipe.scatter(
            range(ITEMS),
            batch=Batching(max_items=4, shared=made),
            key=lambda no: f"k{no}",
            max_concurrent=AT_ONCE,
            page_size=20,
            retry=Retry(3, backoff="none"),
            **options,
        )
        async def items(batch: Batch[int], ctx: Context, who: Who) -> list[int]:
            assert batch.shared == "made 1"
            assert batch.keys == tuple(f"k{no}" for no in batch) == ctx.item.key
            self.calls[who][batch.number] += 1
            self.of[who].append(batch.of)
            self.batches[batch.number].add(tuple(batch))
            if not self._go:
                self._waiting.append(go := asyncio.Event())
                await go.wait()
            if len(batch) > 1:
                raise batch.failed({1: ConnectionError("gone")}, value=[no for no in batch if no % 4 != 1])
            return list(batch)

    async def open(self, engines: PostgresEngines, name: str, **options: Any) -> Any:
        """Open an engine; bodies that it calls know its name."""
        return await engines.open(self.pipe, resources={Who: Who(name)}, **{**OFTEN, **options})

    async def shared(self) -> None:
        """Let calls of the first engine end, one by one, until the second has some; and then all."""
        async with asyncio.timeout(30):
            while not self.calls["b"]:
                if len(self._waiting) == AT_ONCE:
                    self._waiting.pop().set()
                await asyncio.sleep(0)
        self._go = True
        for each in self._waiting:
            each.set()


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> list[int | None]:
    """What workers were told how many bodies they may run."""
    told, limit = list[int | None](), Bodies.limit

    def tell(self: Bodies, most: int | None) -> None:
        told.append(most)
        limit(self, most)

    monkeypatch.setattr(Bodies, "limit", tell)
    return told


async def halved(limits: list[int | None]) -> None:
    """Wait until whoever runs a scatter has heard that there is another one."""
    async with asyncio.timeout(10):
        while AT_ONCE // 2 not in limits:
            await asyncio.sleep(0)


@pytest.mark.parametrize("dies", [False, True])
async def test_workers_share_batches(dsn: str, limits: list[int | None], dies: bool) -> None:
    """BATCH-06: what they share is made once; BATCH-08: what leaves its batch may run anywhere, and is there once."""
    async with PostgresEngines(dsn) as engines:
        crew = Crew()
        first, second = await crew.open(engines, "a"), await crew.open(engines, "b")
        running = asyncio.create_task(first.run("items"))
        await halved(limits)
        await crew.shared()
        if dies:
            await kill(second)
        found = await soon(running)
        assert sorted([no async for no in found.flat()]) == list(range(ITEMS))
        assert (found.total, found.succeeded) == (60, 60)
        assert sorted(crew.batches) == list(range(60))
        assert {len(each) for each in crew.batches.values()} == {1}
        assert crew.made == 1
        if not dies:
            assert set(sum(crew.calls.values(), Counter[int]()).values()) == {1}
        assert await first._live().store.verify() == ()
        assert {of for each in crew.of.values() for of in each} <= {None, *range(30, 61)}


async def test_their_rate_is_one_for_each_key_of_a_batch(dsn: str, limits: list[int | None]) -> None:
    """RATE-08, RATE-06: whoever runs a batch, or what left one, asks for the same key, and both keep to its rate."""
    asked: dict[tuple[int, ...], set[Any]] = defaultdict(set)

    def parity(batch: Batch[int]) -> int:
        key = int(batch.keys[0][1:]) // 4 % 2
        asked[tuple(batch)].add((batch.number, batch.keys, batch.shared, key))
        return key

    async with PostgresEngines(dsn) as engines:
        crew = Crew(rate=Rate(25, per="1h", key=parity))
        first, _ = await crew.open(engines, "a"), await crew.open(engines, "b")
        running = asyncio.create_task(first.run("items"))
        await halved(limits)
        await crew.shared()
        async with asyncio.timeout(30):
            while sum(each.total() for each in crew.calls.values()) < 50:
                await asyncio.sleep(0)
        await kept(first, 50)
        [record] = await first.runs()
        [scatter] = await first._live().store.scatters.of_run(record.id)
        names = [f"scatter:{scatter.id}:{key}" for key in (0, 1)]
        assert [(await first.limits.status(name)).count for name in names] == [25, 25]
        assert sum(each.total() for each in crew.calls.values()) == 50
        for name in names:
            await first.limits.set(name, Rate(100, per="1h"))
        found = await soon(running)
        assert sorted([no async for no in found.flat()]) == list(range(ITEMS))
        assert set(sum(crew.calls.values(), Counter[int]()).values()) == {1}
        assert {len(each) for each in asked.values()} == {1}
        assert {each for each in asked if len(each) == 1} == {(no,) for no in range(1, ITEMS, 4)}


async def test_workers_share_a_redrive_of_batches(dsn: str, limits: list[int | None]) -> None:
    """SCAT-25, BATCH-06, BATCH-08: what left its batch and failed runs once, anywhere, with what was shared before."""
    pipe, calls = Pipeline("redriven"), Counter[tuple[int, ...]]()
    ran, made, shares, waiting = Counter[str](), list[int](), asyncio.Event(), list[asyncio.Event]()

    @pipe.resource
    async def who() -> Who:
        raise AssertionError("each engine is given its name")

    def shared() -> int:
        made.append(0)
        return len(made)

    @pipe.scatter(
        range(80),
        batch=Batching(max_items=2, shared=shared),
        tolerate=1.0,
        retry=False,
        page_size=10,
        max_concurrent=AT_ONCE,
    )
    async def items(batch: Batch[int], who: Who) -> list[int]:
        assert batch.shared == 1
        calls[tuple(batch)] += 1
        if len(batch) > 1:
            raise batch.failed({0: ValueError("broken")}, value=[batch[1]])
        ran[who] += 1
        if not shares.is_set():
            waiting.append(go := asyncio.Event())
            await go.wait()
        return list(batch)

    async with PostgresEngines(dsn) as engines:
        names = ("a", "b")
        first, other = [await engines.open(pipe, resources={Who: Who(name)}, **OFTEN) for name in names]
        run = await first.submit(items)
        assert (await soon(run)).failed == 40
        calls.clear()
        limits.clear()
        again = await run.redrive(items)
        await halved(limits)
        async with asyncio.timeout(30):
            while len(ran) < 2:
                if len(waiting) == AT_ONCE:
                    waiting.pop().set()
                await asyncio.sleep(0)
        shares.set()
        for each in waiting:
            each.set()
        found = await soon(again)
        assert sorted([no async for no in found.flat()]) == list(range(80))
        assert set(calls.values()) == {1}
        assert (found.total, found.succeeded, made) == (80, 80, [0])
        assert await other._live().store.verify() == ()
