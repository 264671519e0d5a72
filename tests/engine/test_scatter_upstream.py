"""Scatters on scatters: memory and Postgres (SCAT-26)."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest

from flowstone_async import (
    AssetFinished,
    Context,
    DependencyFailed,
    Gathered,
    Keys,
    LeaseLost,
    Pipeline,
    Rate,
    RunHandle,
    ScatterThreshold,
)
from flowstone_async.sources import Page, Source
from tests.engine.test_scatter_resume import kept
from tests.support.crash import kill, look_for_orphans
from tests.support.engines import OpenEngine
from tests.support.gate import Gate, soon

OFTEN: Any = {"poll": "10ms"}
RARELY: Any = {"poll": "60s"}


@dataclass(frozen=True)
class Doc:
    name: str
    size: int


@pytest.mark.parametrize("concurrency", [1, 10])
async def test_an_item_starts_once_its_own_upstream_item_is_committed(open_engine: OpenEngine, concurrency: int):
    """SCAT-26: no barrier, whatever the run's concurrency is, and along a chain."""
    pipe, gate, ended = Pipeline("chain"), Gate(), Gate()

    @pipe.scatter(["a", "bb", "ccc"])
    async def first(name: str) -> Doc:
        if name == "ccc":
            await gate()
        return Doc(name, len(name))

    @pipe.scatter(first)
    async def second(doc: Doc, ctx: Context) -> int:
        assert ctx.item.key == doc.name
        return doc.size

    @pipe.scatter(second)
    async def third(size: int, ctx: Context) -> str:
        if size < 3:
            ended.open()
        return f"{ctx.item.key}{size}"

    engine = await open_engine(pipe, **OFTEN)
    running = asyncio.create_task(engine.run(third, concurrency=concurrency))
    await gate.reached()
    await soon(ended())
    assert not running.done()
    gate.open()
    found = await soon(running)
    assert dict([pair async for pair in found.items()]) == {"a": "a1", "bb": "bb2", "ccc": "ccc3"}
    assert await found.get("ccc") == "ccc3"
    assert (found.total, found.succeeded) == (3, 3)
    made = await engine.get(second)
    assert dict([pair async for pair in made.items()]) == {"a": 1, "bb": 2, "ccc": 3}


async def test_failed_items_are_skipped_downstream(open_engine: OpenEngine):
    """SCAT-26: they count as neither done nor failed, and do not count against what is tolerated there."""
    pipe = Pipeline("skipping")

    @pipe.scatter(range(10), tolerate=0.5, retry=False)
    async def first(no: int) -> int:
        if no % 3 == 0:
            raise ValueError(f"{no}")
        return no * no

    @pipe.scatter(first, tolerate=0.2, retry=False)
    async def second(square: int) -> int:
        if square == 49:
            raise ValueError("49")
        return square + 1

    @pipe.scatter(second)
    async def third(value: int) -> int:
        return value

    engine = await open_engine(pipe, **OFTEN)
    run = await engine.submit(third)
    assert sorted(await (await soon(run)).to_list(limit=10)) == [2, 5, 17, 26, 65]
    scatters = (await run.status()).scatters
    told = {name: (each.total, each.done, each.failed, each.skipped) for name, each in scatters.items()}
    assert told == {"first": (10, 6, 4, 0), "second": (10, 5, 1, 4), "third": (10, 5, 0, 5)}
    [failure] = [each async for each in (await engine.get(second)).failures()]
    assert (failure.key, failure.item) == (7, 49)


async def test_when_the_upstream_fails_the_downstream_could_not_run(open_engine: OpenEngine):
    """SCAT-26: as every dependant of an asset that failed, whatever it has done so far."""
    pipe, gate, inside = Pipeline("failing"), Gate(), Gate()

    @pipe.scatter(range(4), retry=False)
    async def first(no: int) -> int:
        if no == 3:
            await gate()
            raise ValueError("three")
        return no

    @pipe.scatter(first)
    async def second(no: int) -> int:
        await inside()
        return no

    @pipe.asset
    async def after(second: Gathered[int]) -> int:
        return second.total

    told = list[str]()

    @pipe.on(AssetFinished)
    async def hear(event: AssetFinished) -> None:
        told.append(event.asset)

    engine = await open_engine(pipe, **OFTEN)
    run = await engine.submit(after)
    await inside.reached(3)
    gate.open()
    with pytest.raises(DependencyFailed, match="first") as caught:
        await soon(run)
    assert isinstance(caught.value.__cause__, ScatterThreshold)
    assert inside.left == 3
    assert told == ["first", "second"]
    counts = (await run.status()).scatters["second"]
    assert (counts.total, counts.cancelled, counts.running) == (3, 3, 0)


async def test_a_run_that_is_cancelled(open_engine: OpenEngine):
    """SCAT-24, SCAT-26."""
    pipe, gate = Pipeline("cancelled"), Gate()

    @pipe.scatter(range(4))
    async def first(no: int) -> int:
        if no:
            await gate()
        return no

    @pipe.scatter(first)
    async def second(no: int) -> int:
        await gate()
        return no

    engine = await open_engine(pipe, **OFTEN)
    run = await engine.submit(second)
    await gate.reached(4)
    await run.cancel()
    assert (await soon(_ended(run))) == "cancelled"
    counts = (await run.status()).scatters
    assert (counts["first"].done, counts["first"].cancelled) == (1, 3)
    assert (counts["second"].total, counts["second"].cancelled) == (1, 1)


async def _ended(run: Any) -> str:
    while (state := (await run.status()).state) not in ("cancelled", "failed", "succeeded"):
        await asyncio.sleep(0)
    return state


async def test_an_upstream_that_is_stored_is_read(open_engine: OpenEngine):
    """SCAT-26: reused, as any upstream; and computed anew with it."""
    pipe, calls = Pipeline("cached"), Counter[str]()

    @pipe.scatter(range(5))
    async def first(no: int) -> int:
        calls["first"] += 1
        return no

    @pipe.scatter(first, key=lambda no: no // 2)
    async def second(no: int, ctx: Context) -> int:
        calls["second"] += 1
        assert ctx.item.key == no // 2
        return no

    engine = await open_engine(pipe, **OFTEN)
    await soon(engine.run(first))
    for _ in range(2):
        found = await soon(engine.run(second))
        assert (found.total, await found.get(0) in (0, 1)) == (3, True)
    assert calls == {"first": 5, "second": 3}
    await soon(engine.run(second, force="all"))
    assert calls == {"first": 10, "second": 6}
    await soon(engine.run(second))
    assert calls == {"first": 10, "second": 6}
    await soon(engine.run(first, force=True))
    await soon(engine.run(second))
    assert calls == {"first": 15, "second": 9}


class Failing(Source[int]):
    """Three numbers, then an error at the first reading of the source's run, then one number more."""

    read_retry = False

    def __init__(self, gate: Gate) -> None:
        self.gate, self.failed = gate, False

    async def read(self, cursor: Any) -> AsyncIterator[Page[int]]:
        if cursor is None:
            yield Page(range(3), cursor=3)
        if not self.failed:
            await self.gate.reached(3)
            self.failed = True
            raise ConnectionError("gone")
        yield Page([3], cursor=4, last=True)


async def test_when_the_source_of_the_upstream_fails(open_engine: OpenEngine):
    """READ-09, SCAT-26: who follows ends with it at any concurrency; both go on in the next run."""
    pipe, inside = Pipeline("source"), Gate()

    @pipe.scatter(Failing(inside))
    async def first(no: int) -> int:
        return no

    @pipe.scatter(first)
    async def second(no: int) -> int:
        await inside()
        return no

    engine = await open_engine(pipe, **OFTEN)
    with pytest.raises(DependencyFailed, match="first"):
        await soon(engine.run(second, concurrency=1))
    assert inside.left == 3
    inside.open()
    found = await soon(engine.run(second, concurrency=1))
    assert sorted(await found.to_list(limit=4)) == [0, 1, 2, 3]


@pytest.mark.parametrize("items", [[], [1]])
async def test_nothing_to_follow(open_engine: OpenEngine, items: list[int]):
    """SCAT-19, SCAT-26: no items, or none that succeeded."""
    pipe = Pipeline("empty")

    @pipe.scatter(items, tolerate=1.0, retry=False)
    async def first(no: int) -> int:
        raise ValueError(no)

    @pipe.scatter(first)
    async def second(no: int) -> int:
        return no

    @second.gather
    async def total(results: Gathered[int]) -> int:
        return results.total

    engine = await open_engine(pipe, **OFTEN)
    assert await soon(engine.run(total)) == 0


async def test_each_partition_follows_its_own(open_engine: OpenEngine):
    """SCAT-26: a key's scatter follows that of the same key; a value that everybody takes has come first."""
    pipe, gate = Pipeline("parts"), Gate()

    @pipe.asset
    async def factor() -> int:
        return 10

    @pipe.scatter(range(3), partitions=Keys("eu", "us"))
    async def first(no: int, ctx: Context) -> str:
        if no == 2:
            await gate()
        return f"{ctx.partition}{no}"

    @pipe.scatter(first, select=lambda name: name.upper(), partitions=Keys("eu", "us"))
    async def second(name: str, factor: int, ctx: Context) -> str:
        if ctx.item.key == 1:
            gate.open()
        return name * (factor // 10)

    engine = await open_engine(pipe, **OFTEN)
    found = await soon(engine.run(second, partition="us"))
    assert sorted(await found.to_list(limit=3)) == ["US0", "US1", "US2"]


@pytest.mark.parametrize("page_size", [4, 1000])
async def test_both_go_on_after_a_crash(open_engine: OpenEngine, page_size: int):
    """READ-07, SCAT-16, SCAT-26: no item is lost or repeated that is on record."""
    pipe, gate, calls = Pipeline("crash"), Gate(), Counter[str]()

    @pipe.scatter(range(20), page_size=page_size)
    async def first(no: int) -> int:
        calls[f"first {no}"] += 1
        if no >= 10:
            await gate()
        return no

    @pipe.scatter(first, page_size=page_size)
    async def second(no: int) -> int:
        calls[f"second {no}"] += 1
        return no * no

    dying, living = await open_engine(pipe, poll="10ms"), await open_engine(pipe, **RARELY, slots=0)
    running = asyncio.create_task(dying.run(second))
    await gate.reached()
    await kept(living, 10 if page_size > 10 else 8, asset="second")
    await kill(dying)
    with pytest.raises(LeaseLost):
        await soon(running)
    gate.open()
    await look_for_orphans(living)
    found = await soon(living.wait(second))
    assert sorted([pair async for pair in found.items()]) == [(no, no * no) for no in range(20)]
    assert {calls[f"second {no}"] for no in range(8)} == {1}


@pytest.mark.parametrize("key", [None, lambda size: size % 2])
async def test_the_rate_of_a_scatter_that_follows(open_engine: OpenEngine, key: Any):
    """SCAT-08, SCAT-26: items that wait for a permit know their keys still, which are items of the upstream."""
    pipe, keys = Pipeline("rated"), list[Any]()

    @pipe.scatter([Doc("a", 1), Doc("b", 2), Doc("c", 3)])
    async def sizes(doc: Doc) -> int:
        return doc.size

    @pipe.scatter(sizes, rate=Rate(1000, key=key))
    async def doubled(size: int, ctx: Context) -> int:
        keys.append((ctx.item.key, ctx.idempotency_key != ""))
        return 2 * size

    engine = await open_engine(pipe, **OFTEN)
    found = await soon(engine.run(doubled))
    wanted = {Doc("a", 1): 2, Doc("b", 2): 4, Doc("c", 3): 6}
    assert dict([pair async for pair in found.items()]) == wanted
    assert sorted(keys, key=str) == sorted(((doc, True) for doc in wanted), key=str)


async def test_one_that_waits_for_another_run_ends_with_its_upstream(open_engine: OpenEngine):
    """SCAT-26: its upstream has failed before it could begin, since another run computed the same asset."""
    pipe, failing, holding = Pipeline("waiting"), Gate(), Gate()
    mended, hold = True, False

    @pipe.scatter(range(3), retry=False)
    async def first(no: int) -> int:
        if not mended and no == 2:
            await failing()
            raise ValueError("two")
        return no

    @pipe.scatter(first)
    async def second(no: int) -> int:
        if hold:
            await holding()
        return no

    engine = await open_engine(pipe, **OFTEN)
    await engine.run(first)
    hold = True
    holder = asyncio.create_task(engine.run(second))
    await holding.reached(3)
    mended = False
    waiter = await engine.submit(second, force="all")
    await failing.reached()
    failing.open()
    assert await first_ended(waiter) == "first"
    holding.open()
    await soon(holder)
    with pytest.raises(DependencyFailed, match="first"):
        await soon(waiter)


async def first_ended(run: RunHandle) -> str:
    """Name the asset of a run that ends first."""
    async for event in run.events():
        if isinstance(event, AssetFinished):
            return event.asset
    raise AssertionError("nothing ended")
