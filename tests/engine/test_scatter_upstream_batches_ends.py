"""How scatters in batches end that follow a scatter, or are followed by one: in memory and on Postgres."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from flowstone_async import (
    Batch,
    Batching,
    Context,
    DependencyFailed,
    FlowstoneError,
    Gathered,
    Keys,
    Pipeline,
    Retry,
    dep,
)
from tests.engine.test_scatter_upstream_batches import OFTEN, counts_of
from tests.support.engines import OpenEngine
from tests.support.gate import Gate, soon


@pytest.mark.parametrize("batch", [(True, False), (False, True), (True, True)])
async def test_when_the_upstream_fails(open_engine: OpenEngine, batch: tuple[bool, bool]):
    """SCAT-11, SCAT-26: bodies are cancelled, and the scatter ends as cancelled."""
    pipe, inside, below = Pipeline("fails"), Gate(), Gate()

    async def fails(given: Any) -> int:
        await inside()
        if (given[0] if batch[0] else given) == 3:
            await below.reached()
            raise ValueError("three")
        return 1

    async def waits(given: Any) -> int:
        await below()
        return 1

    above, under = ({"batch": Batching(max_items=1)} if each else {} for each in batch)
    untyped: Any = pipe
    first = untyped.scatter(range(4), retry=False, name="first", **above)(fails)
    untyped.scatter(first, name="second", **under)(waits)
    inside.open()
    engine = await open_engine(pipe, **OFTEN)
    with pytest.raises(DependencyFailed, match="first"):
        await soon(engine.run("second"))
    assert below.left == below.calls
    counts = await counts_of(engine, "second")
    assert (counts.done, counts.running, counts.cancelled) == (0, 0, counts.total)


async def test_a_run_that_is_cancelled(open_engine: OpenEngine):
    """SCAT-24: with a batch that is still open, and others that run."""
    pipe, gate = Pipeline("cancelled"), Gate()

    @pipe.scatter(range(4))
    async def first(no: int) -> int:
        if no == 3:
            await gate()
        return no

    @pipe.scatter(first, batch=Batching(max_items=2))
    async def second(numbers: Batch[int]) -> int:
        await gate()
        return len(numbers)

    engine = await open_engine(pipe, **OFTEN)
    run = await engine.submit(second)
    await gate.reached(2)
    await run.cancel()
    while (await run.status()).state != "cancelled":
        await asyncio.sleep(0)
    counts = (await run.status()).scatters["second"]
    assert (counts.total, counts.cancelled) == (1, 1)
    async with asyncio.timeout(20):
        while gate.left < 2:
            await asyncio.sleep(0)


async def test_an_upstream_that_is_tried_again(open_engine: OpenEngine):
    """SCAT-12, SCAT-26: only the last attempt gives an item; the others are in their batch meanwhile."""
    pipe, gate, calls = Pipeline("again"), Gate(), Counter[int]()

    @pipe.scatter(range(6), retry=Retry(3, backoff="none"))
    async def first(no: int) -> int:
        calls[no] += 1
        if no == 2 and calls[no] < 3:
            raise ConnectionError("gone")
        if no == 2:
            await gate()
        return no

    @pipe.scatter(first, batch=Batching(max_items=5), retry=Retry(2, backoff="none"))
    async def second(numbers: Batch[int], ctx: Context) -> list[int]:
        gate.open()
        if ctx.item.attempt == 1:
            raise ConnectionError("gone")
        return list(numbers)

    engine = await open_engine(pipe, **OFTEN)
    found = await soon(engine.run(second))
    assert sorted([no async for no in found.flat()]) == list(range(6))
    assert await found.get(2) == [2]


async def test_an_upstream_that_is_stored_is_read(open_engine: OpenEngine):
    """SCAT-26, BATCH-09: reused, as any upstream, whichever of the two takes batches."""
    pipe, calls = Pipeline("cached"), Counter[str]()

    @pipe.scatter(range(7), batch=Batching(max_items=2), retry=Retry(2, backoff="none"))
    async def first(numbers: Batch[int]) -> list[int]:
        calls["first"] += 1
        if len(numbers) == 2:
            raise numbers.failed({1: ConnectionError("gone")}, value=[numbers[0]])
        return list(numbers)

    @pipe.scatter(first, batch=Batching(max_items=3))
    async def second(lists: Batch[list[int]]) -> list[int]:
        calls["second"] += 1
        assert lists.of == 3 or lists.of is None
        return [no for numbers in lists for no in numbers]

    engine = await open_engine(pipe, **OFTEN)
    await soon(engine.run(first))
    for _ in range(2):
        found = await soon(engine.run(second))
        assert sorted([no async for no in found.flat()]) == list(range(7))
    assert calls == {"first": 7, "second": 3}


async def test_what_takes_the_whole_upstream_waits_for_it(open_engine: OpenEngine):
    """SCAT-26, BATCH-06: as what all batches share does, when it is made of all results."""
    pipe = Pipeline("shared")

    @pipe.scatter(range(5))
    async def first(no: int) -> int:
        return no

    async def most(first: Gathered[int]) -> int:
        return max([no async for no in first])

    @pipe.scatter(first, batch=Batching(max_items=2, shared=most))
    async def second(numbers: Batch[int]) -> list[int]:
        return [numbers.shared - no for no in numbers]

    engine = await open_engine(pipe, **OFTEN)
    found = await soon(engine.run(second))
    assert sorted([no async for no in found.flat()]) == list(range(5))


async def test_each_partition_follows_its_own(open_engine: OpenEngine):
    """SCAT-26, BATCH-09."""
    pipe = Pipeline("parts")

    @pipe.scatter(range(4), partitions=Keys("eu", "us"), batch=Batching(max_items=2))
    async def first(numbers: Batch[int], ctx: Context) -> str:
        return f"{ctx.partition}{sum(numbers)}"

    @pipe.scatter(first, partitions=Keys("eu", "us"), batch=Batching(max_items=3))
    async def second(names: Batch[str]) -> list[str]:
        return list(names)

    engine = await open_engine(pipe, **OFTEN)
    for partition in ("us", "eu"):
        found = await soon(engine.run(second, partition=partition))
        assert sorted([name async for name in found.flat()]) == [f"{partition}1", f"{partition}5"]


@pytest.mark.parametrize("before", [False, True])
async def test_results_that_were_stored_otherwise(open_engine: OpenEngine, before: bool):
    """SCAT-17, SCAT-26: they are not read as what they are not."""

    def defined(batches: bool) -> Pipeline:
        pipe = Pipeline("changed")

        async def body(given: Any) -> Any:
            return [no * 10 for no in given] if batches else given * 10

        untyped: Any = pipe
        given = {"batch": Batching(max_items=2)} if batches else {}
        untyped.scatter([1, 2, 3], name="first", **given)(body)

        @untyped.scatter(dep("first"), cache=False)
        async def second(given: Any) -> Any:
            return given

        return pipe

    engine = await open_engine(defined(before), **OFTEN)
    await soon(engine.run("first"))
    other = await open_engine(defined(not before), **OFTEN)
    then, now = ("in batches", "item by item") if before else ("item by item", "in batches")
    said = f"first is stored {then}, and is defined {now} now"
    with pytest.raises(FlowstoneError, match=said):
        await soon(other.get("first"))
    with pytest.raises(FlowstoneError, match=said):
        await soon(other.run("second"))
    await soon(other.run("first", force=True))
    assert sorted(await (await soon(other.run("second"))).to_list(limit=3), key=str) == (
        [10, 20, 30] if before else [[10, 20], [30]]
    )


async def test_an_upstream_that_is_redriven(open_engine: OpenEngine):
    """SCAT-25, SCAT-26: what was kept and what is run again are items of one reading."""
    pipe, mended = Pipeline("redriven"), False

    @pipe.scatter(range(10), page_size=3, tolerate=0.5, retry=False)
    async def first(no: int) -> int:
        if no % 4 == 1 and not mended:
            raise ValueError(no)
        return no

    @pipe.scatter(first, batch=Batching(max_items=4))
    async def second(numbers: Batch[int]) -> list[int]:
        assert numbers.keys == tuple(numbers)
        return list(numbers)

    engine = await open_engine(pipe, **OFTEN)
    run = await engine.submit(second)
    assert sorted([no async for no in (await soon(run)).flat()]) == [0, 2, 3, 4, 6, 7, 8]
    mended = True
    again = await run.redrive(first)
    found = await soon(again)
    assert sorted([no async for no in found.flat()]) == list(range(10))
    counts = (await again.status()).scatters["second"]
    assert (counts.total, counts.done, counts.skipped, counts.items) == (3, 3, 0, 10)


async def test_a_run_that_is_retried(open_engine: OpenEngine):
    """READ-09, SCAT-26: the upstream goes on where it was, and who follows it begins anew."""
    pipe, mended = Pipeline("retried"), False

    @pipe.scatter(range(10), page_size=3, retry=False)
    async def first(no: int) -> int:
        if no == 9 and not mended:
            raise ValueError(no)
        return no

    @pipe.scatter(first, batch=Batching(max_items=4), key=False)
    async def second(numbers: Batch[int]) -> list[int]:
        return list(numbers)

    engine = await open_engine(pipe, **OFTEN)
    run = await engine.submit(second)
    with pytest.raises(DependencyFailed):
        await soon(run)
    mended = True
    again = await engine.retry(run.id)
    found = await soon(again)
    assert sorted([no async for no in found.flat()]) == list(range(10))
    assert found.total == 3
