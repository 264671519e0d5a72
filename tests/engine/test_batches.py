"""Scatters in batches: what a body is called with, in memory and on Postgres (BATCH-01 to BATCH-07, BATCH-09)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest

from flowstone_async import Batch, Batching, Context, Gathered, Item, Pipeline, Retry, Tolerance, sources
from flowstone_async.errors import ConfigError, ExecutionError, NotFound, ScatterThreshold, StorageError
from tests.support.engines import OpenEngine
from tests.support.gate import Gate, soon


@dataclass(frozen=True)
class Row:
    no: int
    kind: str = "a"


class Feed(sources.Source[int]):
    """Numbers, a few to a page."""

    def __init__(self, count: int, page: int) -> None:
        self._count, self._page = count, page

    async def read(self, cursor: int | None) -> AsyncIterator[sources.Page[int]]:
        for first in range(cursor or 0, self._count, self._page):
            yield sources.Page(range(first, min(first + self._page, self._count)), first + self._page)


@pytest.mark.parametrize("count", [0, 1, 9, 10, 11, 30, 95])
@pytest.mark.parametrize("page_size", [1, 7, 10, 1000])
async def test_items_come_in_batches_in_the_order_of_the_source(open_engine: OpenEngine, count: int, page_size: int):
    """BATCH-01, BATCH-02, BATCH-09: across the borders of pages; the last may be short, and no items make none."""
    pipe, sizes = Pipeline("batches"), list[int]()

    @pipe.scatter(range(count), batch=Batching(), page_size=page_size)
    async def doubled(numbers: Batch[int]) -> list[int]:
        sizes.append(len(numbers))
        return [2 * number for number in numbers]

    @doubled.gather
    async def flat(results: Gathered[list[int]]) -> list[int]:
        return [number async for number in results.flat()]

    engine = await open_engine(pipe)
    assert await engine.run(flat) == [2 * number for number in range(count)]
    full, rest = divmod(count, 10)
    assert sorted(sizes, reverse=True) == [10] * full + [rest] * bool(rest)
    found = await engine.get(doubled)
    assert (found.total, found.succeeded) == (len(sizes), len(sizes))


async def test_a_body_can_be_called_with_a_batch(open_engine: OpenEngine):
    """ASSET-02, BATCH-01."""
    pipe = Pipeline("batches")

    @pipe.scatter(["a"], batch=Batching())
    async def lengths(texts: Batch[str]) -> list[int]:
        return [len(text) for text in texts]

    assert await lengths(Batch(["a", "bc"])) == [1, 2]


async def test_every_kind_of_source_can_be_batched(open_engine: OpenEngine):
    """BATCH-09."""
    pipe = Pipeline("batches")

    @pipe.asset
    async def listed() -> list[int]:
        return list(range(5))

    @pipe.asset
    async def streamed() -> AsyncIterator[int]:
        for no in range(5):
            yield no

    async def generated(listed: list[int]) -> AsyncIterator[int]:
        for no in listed:
            yield no

    by_two: Any = Batching(max_items=2)
    scatters: list[Any] = []
    for no, source in enumerate((listed, streamed, generated, Feed(5, 3), range(5))):

        async def items(numbers: Batch[int]) -> list[int]:
            return list(numbers)

        given: Any = source
        scatters.append(pipe.scatter(given, batch=by_two, name=f"items{no}")(items))
    engine = await open_engine(pipe)
    for scatter in scatters:
        assert await (await engine.run(scatter)).to_list(limit=3) == [[0, 1], [2, 3], [4]]


async def test_a_batch_tells_about_itself(open_engine: OpenEngine):
    """BATCH-06: its number, how many there are once that is known, and the keys of its items."""
    pipe, seen, gate = Pipeline("batches"), list[Batch[Row]](), Gate()
    facts: list[Any] = []

    async def rows() -> AsyncIterator[Row]:
        for no in range(5):
            yield Row(no)
        await gate()

    @pipe.scatter(rows, batch=Batching(max_items=2), key=lambda row: f"k{row.no}", max_concurrent=1)
    async def of_rows(batch: Batch[Row], ctx: Context) -> int:
        seen.append(batch)
        facts.append((ctx.item.key, ctx.item.index, ctx.item.attempt, ctx.idempotency_key))
        if batch.number == 1:
            gate.open()
        return len(batch)

    engine = await open_engine(pipe)
    assert await (await soon(engine.run(of_rows))).to_list(limit=3) == [2, 2, 1]
    assert [(batch.number, batch.keys) for batch in seen] == [(0, ("k0", "k1")), (1, ("k2", "k3")), (2, ("k4",))]
    assert [batch.of for batch in seen] == [None, None, 3]
    assert seen[0] == [Row(0), Row(1)]
    assert seen[0].shared is None
    assert [fact[:3] for fact in facts] == [(("k0", "k1"), 0, 1), (("k2", "k3"), 1, 1), (("k4",), 2, 1)]
    assert len({fact[3] for fact in facts}) == 3


async def test_equal_items_are_in_one_batch(open_engine: OpenEngine):
    """SCAT-05, BATCH-02: within a batch, across batches, and while the batch is open."""
    pipe = Pipeline("batches")
    rows = [{"a": 1, "b": 2}, {"b": 2, "a": 1}, {"a": 3}, {"a": 1, "b": 2}, {"a": 4}, {"a": 3}]

    @pipe.scatter(rows, batch=Batching(max_items=2), page_size=1)
    async def once(batch: Batch[Item]) -> list[int]:
        assert all(isinstance(item, Item) for item in batch)
        return [item.a for item in batch]

    @pipe.scatter(rows, batch=Batching(max_items=4), page_size=3, key=False)
    async def each(batch: Batch[Item]) -> list[int]:
        return [item.a for item in batch]

    engine = await open_engine(pipe)
    found = await engine.run(once)
    assert [pair async for pair in found.items()] == [
        (({"a": 1, "b": 2}, {"a": 3}), [1, 3]),
        (({"a": 4},), [4]),
    ]
    assert await found.get({"b": 2, "a": 1}) == [1, 3]
    assert await found.get({"a": 4}) == [4]
    with pytest.raises(NotFound):
        await found.get({"a": 5})
    every = await engine.run(each)
    assert [pair async for pair in every.items()] == [((0, 1, 2, 3), [1, 1, 3, 1]), ((4, 5), [4, 3])]
    assert (await every.get(3), await every.get(5)) == ([1, 1, 3, 1], [4, 3])
    with pytest.raises(NotFound):
        await every.get(6)


async def test_a_batch_is_closed_before_it_grows_too_large(open_engine: OpenEngine):
    """BATCH-03: by what is encoded, or what `size=` says; an item that is too large alone is a batch by itself."""
    pipe = Pipeline("batches")
    pipe.constant("weight", 2)
    texts = ["a" * 8, "b" * 8, "c" * 8, "d" * 50, "e", "f"]

    @pipe.scatter(texts, batch=Batching(max_items=3, max_bytes=20))
    async def encoded(batch: Batch[str]) -> str:
        return "".join(text[0] for text in batch)

    def weigh(text: str, weight: int) -> int:
        return weight * len(text)

    @pipe.scatter(texts, batch=Batching(max_items=3, max_bytes=50, size=weigh))
    async def weighed(batch: Batch[str]) -> str:
        return "".join(text[0] for text in batch)

    engine = await open_engine(pipe)
    assert await (await engine.run(encoded)).to_list(limit=6) == ["ab", "c", "d", "ef"]
    assert await (await engine.run(weighed)).to_list(limit=6) == ["abc", "d", "ef"]


@pytest.mark.parametrize("page_size", [2, 1000])
async def test_a_slow_source_does_not_hold_items_back(open_engine: OpenEngine, page_size: int):
    """BATCH-04: a short batch runs although nothing comes; what comes later is in other ones."""
    pipe, gates, ran = Pipeline("batches"), [Gate(), Gate()], list[list[int]]()

    async def slow() -> AsyncIterator[int]:
        for no in range(3):
            yield no
        await gates[0]()
        for no in range(3, 8):
            yield no
        await gates[1]()

    @pipe.scatter(slow, batch=Batching(max_items=4, max_wait="10ms"), page_size=page_size)
    async def items(batch: Batch[int]) -> list[int]:
        ran.append(list(batch))
        if 2 in batch:
            gates[0].open()
        if 7 in batch:
            gates[1].open()
        return list(batch)

    engine = await open_engine(pipe)
    found = await soon(engine.run(items))
    assert [no async for no in found.flat()] == list(range(8))
    assert sorted(no for batch in ran for no in batch) == list(range(8))
    assert found.total == len(ran)


async def test_a_batch_has_items_of_one_group(open_engine: OpenEngine):
    """BATCH-05: each limit holds for each group; what `group_by=` takes of dependencies is given."""
    pipe = Pipeline("batches")
    pipe.constant("parts", 3)

    def part(no: int, parts: int) -> int:
        return no % parts

    @pipe.scatter(range(14), batch=Batching(max_items=2, group_by=part), page_size=4)
    async def items(batch: Batch[int]) -> list[int]:
        return list(batch)

    engine = await open_engine(pipe)
    found = await (await engine.run(items)).to_list(limit=20)
    assert found == [[0, 3], [1, 4], [2, 5], [6, 9], [7, 10], [8, 11], [12], [13]]


async def test_at_most_a_thousand_groups_stay_open(open_engine: OpenEngine):
    """BATCH-05: beyond that the oldest is closed short."""
    pipe = Pipeline("batches")

    @pipe.scatter([*range(1003), *range(5)], batch=Batching(max_items=2, group_by=lambda no: ("g", no)), key=False)
    async def items(batch: Batch[int]) -> list[int]:
        return list(batch)

    engine = await open_engine(pipe)
    found = await engine.run(items)
    values = await found.to_list(limit=2000)
    assert values[:5] == [[0], [1], [2], [3], [4]], "one for each group too many, also those that came again"
    assert found.total == 1008


@pytest.mark.parametrize("page_size", [1, 1000])
async def test_items_that_cannot_be_put_in_a_batch_fail_alone(open_engine: OpenEngine, page_size: int):
    """SCAT-04, SCAT-06, BATCH-05: each as a failed batch of one; the others go on."""
    pipe = Pipeline("batches")

    def chosen(no: int) -> Any:
        return object() if no == 2 else Row(no) if no != 1 else 1 // 0

    def key(row: Row) -> int:
        return row.no if row.no != 3 else 1 // 0

    def group(row: Row) -> Any:
        return object() if row.no == 4 else row.kind if row.no != 5 else 1 // 0

    def size(row: Row) -> Any:
        return -1 if row.no == 6 else 1 if row.no != 7 else 1 // 0

    batching: Any = Batching(max_items=3, group_by=group, size=size, max_bytes=10)

    @pipe.scatter(range(10), select=chosen, key=key, batch=batching, tolerate=Tolerance(count=7), page_size=page_size)
    async def items(batch: Batch[Row]) -> list[int]:
        return [row.no for row in batch]

    engine = await open_engine(pipe)
    found = await engine.run(items)
    assert (found.total, found.succeeded, found.failed) == (8, 1, 7)
    assert await found.to_list(limit=3) == [[0, 8, 9]]
    failures = [each async for each in found.failures()]
    assert {(each.item, each.attempts) for each in failures} == {(None, 0)}
    assert [each.key for each in failures] == [(), (), (), (4,), (5,), (6,), (7,)], "as far as it was found out"
    said = [each.message for each in failures]
    assert [each.index for each in failures] == list(range(7))
    assert sum("ZeroDivisionError" in text for text in said) == 4
    assert "its group is object: give text, a number, or a tuple of them" in said[3]
    assert "its size= is -1: give a number of 0 or more" in said[5]


async def test_an_item_that_is_in_no_batch_is_told_by_its_error(open_engine: OpenEngine):
    """BATCH-05: where items are their own keys too, by position and value, without secrets, whatever its repr does."""
    pipe = Pipeline("batches")

    class Odd:
        def __repr__(self) -> str:
            raise RuntimeError("no text")

    def group(row: Row) -> str:
        if row.no in (1, 3):
            raise ValueError(f"no group for {row.no}")
        return row.kind

    async def given() -> AsyncIterator[Any]:
        for item in (Row(0), Row(1, "password=hunter2"), Row(2), Row(3, "x" * 1000), Odd(), Row(4)):
            yield item

    @pipe.scatter(given, batch=Batching(max_items=3, group_by=group), tolerate=1.0, page_size=2)
    async def items(batch: Batch[Row]) -> list[int]:
        return [row.no for row in batch]

    found = await (await open_engine(pipe)).run(items)
    assert await found.to_list(limit=3) == [[0, 2, 4]]
    failures = [each async for each in found.failures()]
    said = [each.message for each in failures]
    assert [each.error.details["position"] for each in failures] == [1, 3, 4]
    assert said[0].startswith("item 1 of the source, Row(no=1, kind='password=")
    assert "hunter2" not in said[0] + str(failures[0].error.details)
    assert said[0].endswith("ValueError: no group for 1")
    assert len(said[1]) < 400
    assert said[2].startswith("item 4 of the source, <Odd instance at")


async def test_what_batches_share_is_made_once(open_engine: OpenEngine):
    """BATCH-06: of its declared type, for every batch and attempt; what it was made from is an input."""
    pipe, rates, calls, seen = Pipeline("batches"), [3], list[int](), list[Any]()

    @pipe.asset
    async def rate() -> int:
        return rates[-1]

    def made(rate: int) -> Row:
        calls.append(rate)
        return Row(rate, "shared")

    @pipe.scatter(range(6), batch=Batching(max_items=2, shared=made), retry=Retry(2, backoff="none"))
    async def items(batch: Batch[int], ctx: Context) -> int:
        seen.append(batch.shared)
        if ctx.item.attempt == 1:
            raise ConnectionError("once")
        return len(batch)

    engine = await open_engine(pipe)
    await engine.run(items)
    await engine.run(items)
    assert calls == [3]
    assert seen == [Row(3, "shared")] * 6
    rates.append(4)
    await engine.run(rate, force=True)
    await engine.run(items)
    assert calls == [3, 4]
    assert seen[6:] == [Row(4, "shared")] * 6


async def test_what_batches_share_may_be_awaited_or_given(open_engine: OpenEngine):
    """BATCH-06: a value is what it is, stored or not."""
    pipe, plain = Pipeline("batches"), object()
    pipe.constant("rate", 3)

    async def fetched(rate: int) -> list[int]:
        return [rate]

    @pipe.scatter(range(2), batch=Batching(max_items=1, shared=fetched))
    async def awaited(batch: Batch[int]) -> list[int]:
        return batch.shared

    @pipe.scatter(range(2), batch=Batching(max_items=1, shared=plain))
    async def valued(batch: Batch[int]) -> bool:
        return batch.shared is plain

    engine = await open_engine(pipe)
    assert await (await engine.run(awaited)).to_list(limit=2) == [[3], [3]]
    assert await (await engine.run(valued)).to_list(limit=2) == [True, True]


async def test_what_batches_share_can_fail(open_engine: OpenEngine):
    """BATCH-06: then no batch runs."""
    pipe = Pipeline("batches")

    def broken() -> int:
        raise ValueError("no rates")

    @pipe.scatter(range(6), batch=Batching(shared=broken))
    async def items(batch: Batch[int]) -> int:
        raise AssertionError

    @pipe.scatter(range(6), batch=Batching(shared=lambda: object()))
    async def odd(batch: Batch[int]) -> int:
        raise AssertionError

    engine = await open_engine(pipe)
    with pytest.raises(ExecutionError, match="no rates"):
        await engine.run(items)
    with pytest.raises(StorageError, match="what shared= of scatter batches.odd returned cannot be recorded"):
        await engine.run(odd)


async def test_everything_is_counted_in_batches(open_engine: OpenEngine):
    """BATCH-07: totals, tolerance, attempts; only `items` counts items, those that are distinct."""
    pipe, calls = Pipeline("batches"), list[int]()

    @pipe.scatter(
        [*range(50), 1, 2], batch=Batching(max_items=10), tolerate=0.2, retry=Retry(2, backoff="none"), page_size=8
    )
    async def items(batch: Batch[int]) -> int:
        if batch.number == 2:
            calls.append(len(batch))
            raise ValueError("bad")
        return sum(batch)

    engine = await open_engine(pipe)
    run = await engine.submit(items)
    found = await soon(run)
    counts = (await run.status()).scatter
    assert counts is not None
    assert (counts.total, counts.done, counts.failed, counts.items, counts.sealed) == (5, 4, 1, 50, True)
    assert counts.progress == 100
    assert calls == [10, 10]
    [failure] = [each async for each in found.failures()]
    assert (failure.index, failure.key, failure.attempts) == (2, tuple(range(20, 30)), 2)
    assert isinstance(failure.item, Batch)
    assert (failure.item, failure.item.number) == (list(range(20, 30)), 2)


async def test_more_batches_fail_than_are_tolerated(open_engine: OpenEngine):
    """BATCH-07, SCAT-11."""
    pipe = Pipeline("batches")

    @pipe.scatter(range(50), batch=Batching(max_items=10), tolerate=0.2, retry=False)
    async def items(batch: Batch[int]) -> int:
        if batch.number < 2:
            raise ValueError("bad")
        return sum(batch)

    engine = await open_engine(pipe)
    with pytest.raises(ScatterThreshold) as caught:
        await engine.run(items)
    assert (caught.value.details["failed"], caught.value.details["total"]) == (2, 5)


async def test_at_most_so_many_batches_run_at_once(open_engine: OpenEngine):
    """BATCH-07, SCAT-07."""
    pipe, gate = Pipeline("batches"), Gate()

    @pipe.scatter(range(20), batch=Batching(max_items=2), max_concurrent=3)
    async def items(batch: Batch[int]) -> int:
        await gate()
        return len(batch)

    engine = await open_engine(pipe)
    running = asyncio.create_task(engine.run(items))
    await gate.reached(3)
    gate.open()
    assert (await soon(running)).succeeded == 10
    assert gate.most == 3


@pytest.mark.parametrize(("page_size", "most", "ahead"), [(10, 2, 40), (10, 50, 1000), (1, 1, 20)])
async def test_an_endless_source_is_read_a_few_pages_ahead(
    open_engine: OpenEngine, page_size: int, most: int, ahead: int
):
    """READ-02: of what bodies are called with, at most 4 pages or 4 x max_concurrent batches."""
    pipe, gate, pulled = Pipeline("batches"), Gate(), [0]

    async def endless() -> AsyncIterator[int]:
        while True:
            pulled[0] += 1
            yield pulled[0]

    @pipe.scatter(endless, batch=Batching(max_items=5), page_size=page_size, max_concurrent=most)
    async def items(batch: Batch[int]) -> int:
        await gate()
        return len(batch)

    engine = await open_engine(pipe)
    run = await engine.submit(items)
    await gate.reached(most)
    before = -1
    while before != pulled[0]:
        before = pulled[0]
        for _ in range(50):
            await asyncio.sleep(0)
    assert pulled[0] <= ahead + 2 * page_size + 5
    await run.cancel()


async def test_a_source_s_own_bound_counts_items(open_engine: OpenEngine):
    """READ-06: whatever batches they are in."""
    pipe, feed = Pipeline("batches"), Feed(100, 7)
    feed.max_items = 25

    @pipe.scatter(feed, batch=Batching(max_items=10), page_size=4)
    async def items(batch: Batch[int]) -> list[int]:
        return list(batch)

    engine = await open_engine(pipe)
    found = await engine.run(items)
    assert [len(batch) async for batch in found] == [10, 10, 5]
    assert [no async for no in found.flat()] == list(range(25))


@pytest.mark.parametrize("results", ["packed", "rows"])
@pytest.mark.parametrize("order", ["source", "completion"])
async def test_results_of_batches_are_read_like_others(open_engine: OpenEngine, results: Any, order: Any):
    """BATCH-09, SCAT-17, SCAT-20."""
    pipe = Pipeline("batches")

    @pipe.scatter(range(25), batch=Batching(max_items=3), page_size=4, results=results, order=order)
    async def items(batch: Batch[int]) -> list[int]:
        return list(batch)

    engine = await open_engine(pipe)
    found = await engine.run(items)
    assert sorted([no async for no in found.flat()]) == list(range(25))
    assert [pair async for pair in found.items() if list(pair[0]) != pair[1]] == []
    assert await found.get(13) == [12, 13, 14]


async def test_flat_is_for_lists(open_engine: OpenEngine):
    """BATCH-09: a text is no list."""
    pipe = Pipeline("batches")

    @pipe.scatter(range(5), batch=Batching(max_items=3))
    async def items(batch: Batch[int]) -> str:
        return "abc"

    engine = await open_engine(pipe)
    found = await engine.run(items)
    with pytest.raises(ConfigError, match=r"flat\(\) needs results that are lists, and found one that is a str"):
        [each async for each in found.flat()]


async def test_items_of_a_large_batch_are_not_written_again_and_again(open_engine: OpenEngine):
    """READ-07, G-03: what is open is recorded each time that it has doubled."""
    pipe = Pipeline("batches")

    @pipe.scatter(range(1000), batch=Batching(max_items=500), page_size=1)
    async def items(batch: Batch[int]) -> int:
        return len(batch)

    engine = await open_engine(pipe)
    run = await engine.submit(items)
    assert await (await soon(run)).to_list(limit=2) == [500, 500]
    [scatter] = await engine._live().store.scatters.of_run(run.id)
    assert scatter.pages <= 21, "2, 4, 8 and so on, and the batch; twice, and the end"
    counts = (await run.status()).scatter
    assert counts is not None
    assert (counts.total, counts.items) == (2, 1000)


async def test_rows_that_do_not_fit_are_failed_batches_of_one(open_engine: OpenEngine):
    """READ-10: with the message, in their place."""
    pipe = Pipeline("batches")

    class Rows(sources.Source[int]):
        async def read(self, cursor: int | None) -> AsyncIterator[sources.Page[int]]:
            bad: Any = sources.BadRow(message="no number", key="2")
            yield sources.Page([1, bad, 3])

    @pipe.scatter(Rows(), batch=Batching(max_items=2), tolerate=0.5)
    async def items(batch: Batch[int]) -> list[int]:
        return list(batch)

    engine = await open_engine(pipe)
    found = await engine.run(items)
    assert await found.to_list(limit=2) == [[1, 3]]
    assert [each.message async for each in found.failures()] == ["no number"]
