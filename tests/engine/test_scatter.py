"""Running scatters: items in, results out, in memory and on Postgres (SCAT)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest

from flowstone_async import Batching, Context, Gathered, Item, Pipeline, Retry, Tolerance
from flowstone_async.errors import Cancelled, NotFound, ScatterThreshold, SourceError
from tests.support.engines import OpenEngine
from tests.support.gate import Gate, soon


@dataclass(frozen=True)
class Size:
    width: int


async def test_a_body_is_called_once_for_each_item_of_a_list(open_engine: OpenEngine):
    """SCAT-01, SCAT-02, SCAT-17: its value is what the bodies returned, in the order of the source."""
    pipe = Pipeline("scatter")

    @pipe.asset
    async def numbers() -> list[int]:
        return [3, 1, 2]

    @pipe.scatter(numbers)
    async def doubled(number: int) -> int:
        return 2 * number

    @pipe.asset
    async def total(doubled: Gathered[int]) -> int:
        return sum([value async for value in doubled])

    engine = await open_engine(pipe)
    assert await engine.run(total) == 12
    found = await engine.get(doubled)
    assert [value async for value in found] == [6, 2, 4]
    assert [pair async for pair in found.items()] == [(3, 6), (1, 2), (2, 4)]
    assert (found.total, found.succeeded, found.failed) == (3, 3, 0)
    assert await found.get(1) == 2
    with pytest.raises(NotFound, match="no item has that key"):
        await found.get(7)


async def test_a_scatter_reads_a_stream(open_engine: OpenEngine):
    """SCAT-02."""
    pipe = Pipeline("scatter")

    @pipe.asset
    async def urls() -> AsyncIterator[str]:
        for no in range(2500):
            yield f"http://{no}"

    @pipe.scatter(urls)
    async def lengths(url: str) -> int:
        return len(url)

    engine = await open_engine(pipe)
    found = await engine.run(lengths)
    assert [value async for value in found] == [len(f"http://{no}") for no in range(2500)]


async def test_a_scatter_reads_a_generator_with_dependencies(open_engine: OpenEngine):
    """SCAT-02."""
    pipe = Pipeline("scatter")
    pipe.constant("most", 3)

    async def counted(most: int) -> AsyncIterator[int]:
        for no in range(most):
            yield no

    @pipe.scatter(counted)
    async def squares(no: int, most: int) -> int:
        return no * no + most

    engine = await open_engine(pipe)
    assert await (await engine.run(squares)).to_list(limit=10) == [3, 4, 7]


async def test_a_source_without_items_gives_an_empty_result(open_engine: OpenEngine):
    """SCAT-19, SCAT-21."""
    pipe = Pipeline("scatter")

    @pipe.scatter([])
    async def nothing(item: int) -> int:
        return item

    @nothing.gather
    async def count(results: Gathered[int]) -> int:
        return results.total

    engine = await open_engine(pipe)
    assert await engine.run(count) == 0


async def test_mappings_arrive_as_items(open_engine: OpenEngine):
    """SCAT-03."""
    pipe = Pipeline("scatter")

    @pipe.scatter([{"url": "a", "size": {"w": 1}}])
    async def urls(item: Item) -> str:
        assert isinstance(item, Item)
        assert item == {"url": "a", "size": {"w": 1}}
        return f"{item.url}{item['size'].w}"

    engine = await open_engine(pipe)
    assert await (await engine.run(urls)).to_list(limit=1) == ["a1"]


async def test_select_shapes_items_and_key_names_them(open_engine: OpenEngine):
    """SCAT-04, SCAT-05, SCAT-06: where select raises that item fails; equal keys run once."""
    pipe = Pipeline("scatter")
    seen: list[tuple[Any, int, int, str]] = []

    def width(raw: dict[str, int]) -> Size:
        return Size(raw["width"])

    def by_width(size: Size) -> int:
        return size.width

    rows = [{"width": 1}, {"height": 1}, {"width": 2}, {"width": 1, "x": 3}]

    @pipe.scatter(rows, select=width, key=by_width, tolerate=Tolerance(count=1))
    async def sizes(size: Size, ctx: Context) -> int:
        seen.append((ctx.item.key, ctx.item.index, ctx.item.attempt, ctx.idempotency_key))
        return 10 * size.width

    engine = await open_engine(pipe)
    found = await engine.run(sizes)
    assert [pair async for pair in found.items()] == [(1, 10), (2, 20)]
    assert await found.get(2) == 20
    [failure] = [each async for each in found.failures()]
    assert (failure.index, failure.item, failure.attempts) == (1, None, 0)
    assert "KeyError" in failure.message
    assert [each[:3] for each in sorted(seen)] == [(1, 0, 1), (2, 2, 1)]
    assert len({each[3] for each in seen}) == 2


async def test_equal_items_run_once_within_a_page_and_across_pages(open_engine: OpenEngine):
    """SCAT-05: mappings that differ in the order of their keys are equal; the total counts distinct ones."""
    pipe = Pipeline("scatter")
    calls: list[Any] = []
    rows = [{"a": 1, "b": 2}, {"b": 2, "a": 1}, {"a": 1}, {"a": 1, "b": 2}]

    @pipe.scatter(rows, page_size=2)
    async def once(row: Item) -> int:
        calls.append(row)
        return len(calls)

    @pipe.scatter(rows, page_size=2, key=False)
    async def each(row: Item) -> int:
        return len(row)

    engine = await open_engine(pipe)
    assert (await engine.run(once)).total == 2
    assert sorted(calls, key=len) == [{"a": 1}, {"a": 1, "b": 2}]
    found = await engine.run(each)
    assert [pair async for pair in found.items()] == [(0, 2), (1, 2), (2, 1), (3, 2)]
    assert await found.get(2) == 1


@pytest.mark.parametrize(("items", "most"), [(3, 5), (5, 5), (40, 5), (40, None)])
async def test_at_most_so_many_bodies_run_at_once(open_engine: OpenEngine, items: int, most: int | None):
    """SCAT-07."""
    pipe, gate = Pipeline("scatter"), Gate()

    @pipe.scatter(range(items), max_concurrent=most or False)
    async def held(no: int) -> int:
        await gate()
        return no

    engine = await open_engine(pipe, concurrency=1)
    running = asyncio.create_task(engine.run(held))
    expected = min(items, most or items)
    await gate.reached(expected)
    gate.open()
    assert await (await soon(running)).to_list(limit=100) == list(range(items))
    assert gate.most == expected


async def test_an_item_is_tried_again(open_engine: OpenEngine):
    """SCAT-12, SCAT-13: by itself; failed attempts count neither as done nor as failed."""
    pipe = Pipeline("scatter")
    calls: dict[int, int] = {}

    @pipe.scatter(range(5), retry=Retry(3, backoff="none"))
    async def flaky(no: int, ctx: Context) -> int:
        calls[no] = calls.get(no, 0) + 1
        assert ctx.item.attempt == calls[no]
        if calls[no] < no:
            raise ConnectionError("gone")
        return no

    engine = await open_engine(pipe)
    with pytest.raises(ScatterThreshold) as caught:
        await soon(engine.run(flaky))
    assert calls.pop(3) in (2, 3)  # it may be over by then
    assert calls == {0: 1, 1: 1, 2: 2, 4: 3}
    assert caught.value.details["failed"] == 1
    assert "ConnectionError: gone" in str(caught.value)


async def test_failures_within_the_tolerance_are_listed(open_engine: OpenEngine):
    """SCAT-09, SCAT-10, SCAT-18, SCAT-19, SCAT-25."""
    pipe = Pipeline("scatter")

    @pipe.scatter(range(100), tolerate=0.02, retry=False)
    async def most(no: int) -> int:
        if no in (7, 50):
            raise ValueError(f"bad {no}")
        return no

    @most.gather
    async def summary(results: Gathered[int]) -> list[int]:
        failures = [each async for each in results.failures()]
        assert [(each.key, each.item, each.attempts, each.error_type) for each in failures] == [
            (7, 7, 1, "ValueError"),
            (50, 50, 1, "ValueError"),
        ]
        assert "bad 7" in failures[0].message
        assert "in most" in failures[0].traceback_text
        assert failures[0].worker
        return [results.total, results.succeeded, results.failed]

    engine = await open_engine(pipe)
    assert await engine.run(summary) == [100, 98, 2]


async def test_a_scatter_fails_once_more_items_fail_than_it_tolerates(open_engine: OpenEngine):
    """SCAT-09, SCAT-11: at once for a count; nothing more starts, and what runs is cancelled."""
    pipe = Pipeline("scatter")
    started: list[int] = []
    cancelled: list[int] = []

    @pipe.scatter(range(1000), tolerate=Tolerance(count=1), retry=False, max_concurrent=4)
    async def failing(no: int) -> int:
        started.append(no)
        if no < 2:
            raise ValueError("bad")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(no)
            raise
        return no

    @failing.gather
    async def never(results: Gathered[int]) -> int:
        raise AssertionError("gathered")

    engine = await open_engine(pipe)
    with pytest.raises(ScatterThreshold) as caught:
        await soon(engine.run(failing))
    assert caught.value.details["failed"] == 2
    assert caught.value.details["tolerated"] == {"count": 1, "fraction": None}
    assert len(started) <= 8
    assert sorted(cancelled) == sorted(set(started) - {0, 1})


async def test_a_fraction_is_judged_against_all_items(open_engine: OpenEngine):
    """SCAT-10: not before the source has ended."""
    pipe = Pipeline("scatter")

    async def source() -> AsyncIterator[int]:
        for no in range(100):
            yield no

    @pipe.scatter(source, tolerate=0.5, retry=False, page_size=10)
    async def first_fail(no: int) -> int:
        if no < 50:
            raise ValueError("bad")
        return no

    engine = await open_engine(pipe)
    assert (await soon(engine.run(first_fail))).failed == 50


async def test_results_that_cannot_be_stored_are_failed_items(open_engine: OpenEngine):
    pipe = Pipeline("scatter")

    @pipe.scatter(range(4), tolerate=0.5, retry=False)
    async def odd(no: int) -> int:
        return no if no % 2 else "even"  # pyright: ignore[reportReturnType]

    engine = await open_engine(pipe)
    found = await engine.run(odd)
    assert await found.to_list(limit=4) == [1, 3]
    assert [each.key async for each in found.failures()] == [0, 2]


async def test_items_that_cannot_be_stored_are_failed_items(open_engine: OpenEngine):
    """SCAT-06: naming position and reason."""
    pipe = Pipeline("scatter")

    @pipe.scatter([1, object(), 3], tolerate=0.5, retry=False)
    async def plain(item: Any) -> int:
        return item

    engine = await open_engine(pipe)
    found = await engine.run(plain)
    assert await found.to_list(limit=4) == [1, 3]
    assert [(each.index, each.item) async for each in found.failures()] == [(1, None)]


@pytest.mark.parametrize(("batch", "thing"), [(None, "item"), (Batching(max_items=1), "batch")])
async def test_an_attempt_at_an_item_is_bounded_in_time(open_engine: OpenEngine, batch: Any, thing: str):
    """SCAT-15."""
    pipe = Pipeline("scatter")

    @pipe.scatter(range(3), timeout=0.05, tolerate=0.5, retry=False, batch=batch)
    async def slow(given: Any) -> int:
        no = given if batch is None else given[0]
        if no == 1:
            await asyncio.Event().wait()
        return no

    engine = await open_engine(pipe)
    found = await soon(engine.run(slow))
    [failure] = [each async for each in found.failures()]
    assert failure.error_type == "TimedOut"
    assert failure.message == f"the {thing} took longer than its timeout of 0.05 s"
    assert await found.to_list(limit=3) == [0, 2]


async def test_a_source_that_raises_fails_the_asset(open_engine: OpenEngine):
    """READ-09, SCAT-02."""
    pipe = Pipeline("scatter")

    async def broken() -> AsyncIterator[int]:
        yield 1
        raise OSError("no route")

    @pipe.scatter(broken)
    async def items(no: int) -> int:
        return no

    engine = await open_engine(pipe)
    with pytest.raises(SourceError, match="no route"):
        await soon(engine.run(items))


async def test_completion_order_is_that_of_commits(open_engine: OpenEngine):
    """SCAT-20."""
    pipe, gate = Pipeline("scatter"), Gate()

    @pipe.scatter([0, 1, 2], order="completion", results="rows")
    async def late(no: int) -> int:
        if no == 0:
            await gate()
        return no

    engine = await open_engine(pipe)
    running = asyncio.create_task(engine.run(late))
    await gate.reached()
    store = engine._live().store.scatters
    async with asyncio.timeout(30):
        while True:
            run = (await engine.runs())[0].id
            del run
            scatter = await _scatter(engine)
            totals = None if scatter is None else await store.totals(scatter)
            if totals is not None and totals.succeeded == 2:
                break
            await asyncio.sleep(0)
    gate.open()
    found = await (await soon(running)).to_list(limit=3)
    assert (sorted(found[:2]), found[2:]) == ([1, 2], [0])


async def _scatter(engine: Any) -> str | None:
    memory = getattr(engine._live().store, "_memory", None)
    if memory is not None:
        return next(iter(memory.scatters._scatters), None)
    rows = await engine._live().store._connections.fetch_text("SELECT id FROM flowstone.scatter")
    return str(rows[0][0]) if rows else None


async def test_how_far_a_scatter_is(open_engine: OpenEngine):
    """SCAT-23: the parts add up; the rest is estimated once the source has ended."""
    pipe, gate = Pipeline("scatter"), Gate()

    @pipe.scatter(range(10), max_concurrent=4, tolerate=0.5, retry=False)
    async def items(no: int) -> int:
        if no == 0:
            raise ValueError("bad")
        if no > 3:
            await gate()
        return no

    engine = await open_engine(pipe)
    run = await engine.submit(items)
    await gate.reached(4)
    async with asyncio.timeout(30):
        while (counts := (await run.status()).scatter) is None or counts.done < 3 or not counts.sealed:
            await asyncio.sleep(0)
    assert (counts.total, counts.done, counts.failed, counts.running, counts.pending) == (10, 3, 1, 6, 0)
    assert counts.sealed
    assert counts.progress == 40
    assert counts.rate
    assert counts.eta
    gate.open()
    await soon(run)
    counts = (await run.status()).scatters["items"]
    assert (counts.done, counts.failed, counts.running, counts.progress, counts.eta) == (9, 1, 0, 100, None)


async def test_a_scatter_that_is_cancelled_keeps_what_it_has(open_engine: OpenEngine):
    """SCAT-24: pending items never run, running ones are cancelled, and what is on record stays."""
    pipe, gate, calls = Pipeline("scatter"), Gate(), list[int]()

    @pipe.scatter(range(10), max_concurrent=2)
    async def items(no: int) -> int:
        calls.append(no)
        if no != 9:
            await gate()
        return no

    engine = await open_engine(pipe)
    run = await engine.submit(items)
    await gate.reached(2)
    await run.cancel()
    counts = (await run.status()).scatter
    assert counts is not None
    assert (counts.total, counts.cancelled, counts.running) == (10, 10 - counts.done, 0)
    gate.open()
    with pytest.raises(Cancelled):
        await soon(run)
    assert len(calls) <= 3


async def test_results_stay_readable_for_whoever_has_them(open_engine: OpenEngine):
    """SCAT-17: also once another run has replaced them."""
    pipe, calls = Pipeline("scatter"), list[int]()

    @pipe.scatter(range(3))
    async def items(no: int) -> int:
        calls.append(no)
        return len(calls)

    engine = await open_engine(pipe)
    before = await engine.run(items)
    after = await engine.run(items, force=True)
    assert await before.to_list(limit=3) == [1, 2, 3]
    assert await after.to_list(limit=3) == [4, 5, 6]
    assert await engine.run(items) is not after
    assert len(calls) == 6
