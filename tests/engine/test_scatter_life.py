"""Scatters as assets: reading ahead, partitions, params, caching, invalidating and forgetting (READ-01, READ-02, STORE)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import date
from typing import Any

import asyncpg
import pytest

from flowstone_async import Cancelled, Context, Daily, Gathered, NotMaterialized, Pipeline, StorageError
from flowstone_async._engine.upkeep import Retention, Upkeep
from flowstone_async.clock import ManualClock
from flowstone_async.errors import ScatterThreshold, SourceError
from tests.engine.test_scatter_resume import kept
from tests.support.engines import OpenEngine, PostgresEngines, SharedEngines
from tests.support.gate import Gate, soon

TABLES = ("", "_page", "_key", "_chunk", "_block", "_result", "_failure")


async def left(engines: SharedEngines) -> dict[str, int]:
    """Return how many rows each table of scatters has; of the memory store, the scatters alone."""
    if not isinstance(engines, PostgresEngines):
        assert hasattr(engines, "_memory")
        scatters: Any = engines._memory.scatters  # type: ignore[union-attr]
        return {"": len(scatters._scatters), "_of": sum(map(len, scatters._of.values()))}
    connection = await asyncpg.connect(engines.dsn)
    try:
        counted = {name: await connection.fetchval(f"SELECT count(*) FROM flowstone.scatter{name}") for name in TABLES}
    finally:
        await connection.close()
    return counted


class _Endless:
    """A source without end."""

    def __init__(self, end: int | None = None) -> None:
        self.pulled, self.closed, self._end = 0, 0, end

    async def source(self) -> AsyncIterator[int]:
        try:
            while self.pulled != self._end:
                self.pulled += 1
                yield self.pulled
        finally:
            await asyncio.sleep(0)  # whoever ends it lets it clean up
            self.closed += 1


@pytest.mark.parametrize(("page_size", "most", "ahead"), [(10, 2, 40), (10, 50, 200), (1, 1, 4), (25, 25, 100)])
async def test_an_endless_source_is_read_a_few_pages_ahead(
    open_engine: OpenEngine, page_size: int, most: int, ahead: int
):
    """READ-02: at most 4 pages, or 4 x max_concurrent items; its first items run before it ends."""
    pipe, endless, gate = Pipeline("endless"), _Endless(), Gate()

    @pipe.scatter(endless.source, page_size=page_size, max_concurrent=most)
    async def items(no: int) -> int:
        await gate()
        return no

    engine = await open_engine(pipe)
    run = await engine.submit(items)
    await gate.reached(most)
    await kept(engine, ahead, "read")
    store: Any = engine._live().store
    for _ in range(50):  # time to read further, if nothing held it
        await store.run(run.id)
    assert ahead <= endless.pulled <= ahead + 1, "one that the generator was resumed for may wait to be taken"
    await run.cancel()
    with pytest.raises(Cancelled):
        await soon(run)
    assert endless.closed == 1


async def test_reading_goes_on_as_items_end(open_engine: OpenEngine):
    """READ-02: never more than 4 pages ahead of what ended, however fast the bodies are."""
    pipe, numbers, ended, ahead = Pipeline("endless"), _Endless(500), 0, 0

    @pipe.scatter(numbers.source, page_size=5, max_concurrent=2)
    async def items(no: int) -> int:
        nonlocal ended, ahead
        ahead = max(ahead, numbers.pulled - ended)
        await asyncio.sleep(0)
        ended += 1
        return no

    engine = await open_engine(pipe)
    assert (await soon(engine.run(items))).succeeded == 500
    assert ahead <= 4 * 5 + 1
    assert (numbers.pulled, numbers.closed) == (500, 1)


ENDS: dict[str, Any] = {
    "too many failures": ScatterThreshold,
    "an error of its own": SourceError,
    "cancelled": asyncio.CancelledError,
    "left": (Cancelled, asyncio.CancelledError),
}


@pytest.mark.parametrize("how", ["to its end", *ENDS])
async def test_a_generator_is_closed_however_the_asset_ends(open_engine: OpenEngine, how: str):
    """READ-01: before the asset has ended; and its `finally` may await."""
    pipe, gate, seen = Pipeline("closing"), Gate(), list[str]()

    async def source() -> AsyncIterator[int]:
        try:
            for no in range(100):
                if how == "an error of its own" and no == 20:
                    raise OSError("no route")
                yield no
        finally:
            await asyncio.sleep(0)
            seen.append("closed")

    @pipe.scatter(source, page_size=5, max_concurrent=2, retry=False)
    async def items(no: int) -> int:
        if how == "too many failures" and no == 12:
            raise ValueError("bad")
        if how in ("cancelled", "left") and no == 12:
            await gate()
        return no

    clock = ManualClock()
    engine = await open_engine(pipe, clock=clock, grace="1ms")
    running = asyncio.create_task(engine.run(items, timeout=False))
    while how == "an error of its own" and not running.done():
        await clock.advance(1)
    if how in ("cancelled", "left"):
        await gate.reached()
        if how == "left":
            leaving = asyncio.create_task(engine.__aexit__(None, None, None))
            while not leaving.done():
                await clock.advance(1)
            await leaving
        else:
            running.cancel()
    with pytest.raises(ENDS[how]) if how in ENDS else nullcontext():
        assert (await soon(running)).succeeded == 100
    assert "closed" in seen
    if how == "an error of its own":
        assert len(seen) == 3, "it is read again, as often as read_retry says"


@dataclass
class Params:
    factor: int = 2


class Client:
    """A resource."""

    def __init__(self) -> None:
        self.asked: list[int] = []


async def test_items_have_the_partition_params_and_resources_of_the_run(open_engine: OpenEngine):
    """SCAT-01: so have the source, select and key by name what they depend on."""
    pipe, client, days = Pipeline("given", params=Params), Client(), Daily("2025-01-01")
    seen: list[tuple[int, date, Any, str]] = []

    @pipe.resource
    async def shared() -> Client:
        return client

    @pipe.asset(partitions=days)
    async def numbers(partition: date) -> list[int]:
        return [partition.day, partition.day + 1]

    async def source(numbers: list[int]) -> AsyncIterator[int]:
        for no in numbers:
            yield no

    @pipe.scatter(source, partitions=days, key=lambda no, numbers: no - numbers[0])
    async def items(no: int, partition: date, params: Params, client: Client, ctx: Context) -> int:
        client.asked.append(no)
        seen.append((ctx.item.key, partition, ctx.partition, ctx.run_id))
        return no * params.factor

    @items.gather
    async def total(results: Gathered[int]) -> int:
        return sum([value async for value in results])

    engine = await open_engine(pipe)
    one = await engine.run(total, partition=date(2025, 1, 5), params=Params(3))
    other = await engine.run(total, partition=date(2025, 1, 6))
    assert (one, other) == (33, 26)
    assert sorted(client.asked) == [5, 6, 6, 7]
    assert [(key, day.day, at.day) for key, day, at, _ in seen] == [(0, 5, 5), (1, 5, 5), (0, 6, 6), (1, 6, 6)]
    assert len({run for *_, run in seen}) == 2
    found = await engine.get(items, partition=date(2025, 1, 5))
    assert [pair async for pair in found.items()] == [(0, 15), (1, 18)]
    report = await engine.backfill(items, partitions=days.range("2025-01-05", "2025-01-08"), params=Params(3))
    assert (report.succeeded, report.skipped) == (3, 1)


async def test_a_scatter_is_reused_while_its_inputs_are_unchanged(open_engine: OpenEngine):
    """CACHE: its body is not called; a value that gathers it is reused as well."""
    pipe, calls, given = Pipeline("cached"), list[int](), [1, 2, 3]

    @pipe.asset(cache=False)
    async def numbers() -> list[int]:
        return list(given)

    @pipe.scatter(numbers)
    async def items(no: int) -> int:
        calls.append(no)
        return no % 3

    @items.gather
    async def total(results: Gathered[int]) -> int:
        calls.append(-1)
        return sum([value async for value in results])

    engine = await open_engine(pipe)
    assert await engine.run(total) == 3
    assert calls == [1, 2, 3, -1]
    assert await engine.run(total) == 3
    assert calls == [1, 2, 3, -1], "the input was computed again and came out equal"
    assert await (await engine.run(items)).to_list(limit=3) == [1, 2, 0]
    given.append(4)
    assert await engine.run(total) == 4
    assert calls == [1, 2, 3, -1, 1, 2, 3, 4, -1]


@pytest.mark.parametrize("results", ["packed", "rows"])
async def test_invalidating_deletes_all_that_a_scatter_has(engines: SharedEngines, results: Any):
    """CACHE-09, STORE: no row of it is left."""
    pipe = Pipeline("gone")

    @pipe.scatter([1, 2, 3, 2], page_size=2, tolerate=0.5, retry=False, results=results)
    async def items(no: int) -> int:
        if no == 3:
            raise ValueError("bad")
        return no

    engine = await engines.open(pipe)
    assert (await engine.run(items)).succeeded == 2
    before = await left(engines)
    assert before[""] == 1
    if engines.durable:
        assert all(count for name, count in before.items() if name not in ("_block", "_result")), before
        assert bool(before["_result"]) == (results == "rows")
    await engine.invalidate(items)
    with pytest.raises(NotMaterialized):
        await engine.get(items)
    assert not any((await left(engines)).values())
    assert (await engine.run(items)).succeeded == 2


async def test_what_a_newer_scatter_superseded_is_forgotten_in_time(engines: SharedEngines):
    """STORE-08: `prune` deletes the rows of values that are current no more, and of runs that came to nothing."""
    pipe, fails, clock = Pipeline("pruned"), False, ManualClock()

    @pipe.scatter([1, 2, 3], cache=False, retry=False)
    async def items(no: int) -> int:
        if fails and no == 2:
            raise ValueError("bad")
        return no

    engine = await engines.open(pipe, clock=clock, retention=False, poll="60s")
    await engine.run(items)
    await engine.run(items, force=True)
    fails = True
    with pytest.raises(ScatterThreshold):
        await engine.run(items, force=True)
    fails = False
    before = await left(engines)
    await clock.advance(25 * 3600)
    await Upkeep(engine._live(), Retention(runs="1d", values="1d")).prune()
    after = await left(engines)
    assert after[""] == 1, (before, after)
    if engines.durable:
        assert (after["_key"], after["_chunk"], after["_failure"]) == (3, 1, 0)
    found = await engine.get(items)
    assert await found.to_list(limit=3) == [1, 2, 3], "the current one stays, although its run is forgotten"


@pytest.mark.parametrize("order", ["source", "completion"])
async def test_a_gathered_that_is_being_read_is_never_cut_short(engines: SharedEngines, order: Any):
    """SCAT-17: a reader goes on with what it began, or hears that the rest is gone."""
    pipe, round_ = Pipeline("read"), 0

    @pipe.scatter(range(120), page_size=2, cache=False, order=order, max_concurrent=1)
    async def items(no: int) -> int:
        await asyncio.sleep(0)
        return no + 1000 * round_

    engine = await engines.open(pipe)
    reading = aiter(await engine.run(items))
    assert await anext(reading) == 0
    round_ = 1
    newer = await engine.run(items, force=True)
    assert await newer.to_list(limit=120) == list(range(1000, 1120))
    assert [each async for each in reading] == list(range(1, 120))
    reading = aiter(newer)
    assert await anext(reading) == 1000
    await engine.invalidate(items)
    if not engines.durable:  # a memory store keeps it for whoever has it
        assert [each async for each in reading] == list(range(1001, 1120))
        return
    with pytest.raises(StorageError, match="of 120 results of a scatter are gone"):
        [each async for each in reading]
