"""Scatters in batches that follow a scatter, and scatters that follow one in batches: in memory and on Postgres."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from typing import Any

import pytest

from flowstone_async import (
    Batch,
    Batching,
    Context,
    Engine,
    Gathered,
    NotFound,
    Pipeline,
    Rate,
    Retry,
    ScatterCounts,
    StorageError,
)
from flowstone_async._engine.scatter import upstream
from flowstone_async._engine.scatter.intake import Intake
from flowstone_async._engine.scatter.scattering import Scattering
from tests.support.engines import OpenEngine
from tests.support.gate import Gate, soon

OFTEN: Any = {"poll": "50ms"}


@dataclass(frozen=True)
class Doc:
    name: str
    size: int = 0


def _docs(count: int) -> list[Doc]:
    return [Doc(f"d{no}", no) for no in range(count)]


async def counts_of(engine: Engine, asset: str) -> ScatterCounts:
    [run] = await engine.runs(limit=1)
    return (await (await engine.find(run.id)).status()).scatters[asset]


# -- batch= on a scatter ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("results", ["packed", "rows"])
async def test_a_batch_begins_before_the_upstream_ends(open_engine: OpenEngine, results: Any):
    """SCAT-26, BATCH-09: an item is in a batch as soon as its upstream item is on record; its key is that one's."""
    pipe, gate, seen = Pipeline("ahead"), Gate(), list[Any]()

    @pipe.scatter(_docs(10), results=results, page_size=3)
    async def first(doc: Doc) -> int:
        if doc.size >= 6:
            await gate()
        return doc.size

    @pipe.scatter(first, batch=Batching(max_items=3), page_size=2)
    async def second(sizes: Batch[int], ctx: Context) -> list[str]:
        assert ctx.item.key == sizes.keys == tuple(Doc(f"d{no}", no) for no in sizes)
        seen.append((sizes.number, ctx.idempotency_key))
        if len(seen) == 2:
            gate.open()
        return [f"{sizes.number}: {no}" for no in sizes]

    @second.gather
    async def names(results: Gathered[list[str]]) -> list[str]:
        return sorted([each.partition(": ")[2] async for each in results.flat()])

    engine = await open_engine(pipe, **OFTEN)
    assert await soon(engine.run(names)) == [str(no) for no in range(10)]
    assert sorted(number for number, _ in seen) == [0, 1, 2, 3]
    assert len({key for _, key in seen}) == 4
    found = await engine.get(second)
    assert (found.total, found.succeeded) == (4, 4)
    async for keys, value in found.items():
        assert [each.partition(": ")[2] for each in value] == [str(doc.size) for doc in keys]
    for doc in _docs(10):
        assert any(each.endswith(f": {doc.size}") for each in await found.get(doc))
    with pytest.raises(NotFound, match="no item has that key"):
        await found.get(Doc("d10", 10))
    counts = await counts_of(engine, "second")
    assert (counts.total, counts.done, counts.items, counts.skipped) == (4, 4, 10, 0)


async def test_a_short_batch_does_not_wait_for_a_slow_upstream(open_engine: OpenEngine):
    """BATCH-04, SCAT-26: it is closed although the upstream has nothing new."""
    pipe, gate, seen = Pipeline("slow"), Gate(), list[list[int]]()

    @pipe.scatter(range(5))
    async def first(no: int) -> int:
        if no >= 2:
            await gate()
        return no

    @pipe.scatter(first, batch=Batching(max_items=4, max_wait="100ms"))
    async def second(numbers: Batch[int]) -> list[int]:
        seen.append(list(numbers))
        gate.open()
        return list(numbers)

    engine = await open_engine(pipe, **OFTEN)
    found = await soon(engine.run(second))
    assert sorted([no async for no in found.flat()]) == list(range(5))
    assert sorted(seen[0]) == [0, 1]


@pytest.mark.parametrize("items", [[], [1, 2, 3]])
@pytest.mark.parametrize("batch", [(True, False), (False, True), (True, True)])
async def test_nothing_to_follow(open_engine: OpenEngine, items: list[int], batch: tuple[bool, bool]):
    """SCAT-19, BATCH-02: no items, or none that succeeded; each counts as one that is skipped."""
    pipe = Pipeline("empty")

    async def fails(given: Any) -> int:
        raise ValueError(given)

    async def never(given: Any) -> int:
        raise AssertionError(given)

    above, below = ({"batch": Batching(max_items=2)} if each else {} for each in batch)
    untyped: Any = pipe
    first = untyped.scatter(items, tolerate=1.0, retry=False, name="first", **above)(fails)
    second = untyped.scatter(first, name="second", **below)(never)

    @second.gather
    async def total(results: Gathered[int]) -> int:
        return results.total

    engine = await open_engine(pipe, **OFTEN)
    assert await soon(engine.run(total)) == 0
    counts, expected = await counts_of(engine, "second"), -(-len(items) // 2) if batch[0] else len(items)
    assert (counts.total, counts.skipped, counts.items, counts.done) == (expected, expected, 0, 0)


async def test_what_fails_above_is_skipped_below(open_engine: OpenEngine):
    """SCAT-26, BATCH-07: each by itself, along a chain; what is skipped counts neither as failed nor against tolerate."""
    pipe = Pipeline("skipped")

    @pipe.scatter(range(20), tolerate=0.5, retry=False)
    async def first(no: int) -> int:
        if no % 5 == 0:
            raise ValueError(no)
        return no

    @pipe.scatter(first, batch=Batching(max_items=4), tolerate=0.5, retry=False)
    async def second(numbers: Batch[int]) -> list[int]:
        if 1 in numbers:
            raise ValueError("one")
        return list(numbers)

    @pipe.scatter(second)
    async def third(numbers: list[int]) -> int:
        return sum(numbers)

    engine = await open_engine(pipe, **OFTEN)
    found = await soon(engine.run(third))
    assert (found.total, found.succeeded) == (3, 3)
    counts = await counts_of(engine, "second")
    assert (counts.total, counts.done, counts.failed, counts.skipped, counts.items) == (8, 3, 1, 4, 16)
    counts = await counts_of(engine, "third")
    assert (counts.total, counts.done, counts.failed, counts.skipped) == (8, 3, 0, 5)


@pytest.mark.parametrize("page_size", [2, 1000])
async def test_batches_of_groups_and_of_bytes(open_engine: OpenEngine, page_size: int):
    """BATCH-03, BATCH-05: of the results of the upstream, as `select` makes them."""
    pipe = Pipeline("groups")

    @pipe.asset
    async def unit() -> int:
        return 10

    @pipe.scatter(range(12))
    async def first(no: int) -> str:
        return f"{no:02}"

    batching: Batching[int] = Batching(
        max_items=3, max_bytes=100, size=lambda no, unit: 5 * unit if no == 2 else 1, group_by=lambda no: no % 2
    )

    @pipe.scatter(first, select=int, batch=batching, page_size=page_size)
    async def second(numbers: Batch[int]) -> list[int]:
        assert len({no % 2 for no in numbers}) == 1
        assert numbers.keys == tuple(numbers)
        return list(numbers)

    engine = await open_engine(pipe, **OFTEN)
    found = await soon(engine.run(second))
    assert sorted([no async for no in found.flat()]) == list(range(12))
    assert found.total == 4
    assert 7 in await found.get(7)


async def test_items_that_cannot_be_put_in_a_batch(open_engine: OpenEngine):
    """SCAT-04, BATCH-07: a failed batch of one, which has the key of its upstream item."""
    pipe = Pipeline("refused")

    @pipe.scatter(_docs(6))
    async def first(doc: Doc) -> int:
        return doc.size

    def chosen(size: int) -> int:
        return size if size != 2 else 1 // 0

    @pipe.scatter(
        first,
        select=chosen,
        batch=Batching(max_items=2, group_by=lambda size: size if size != 3 else 1 // 0),
        tolerate=0.5,
    )
    async def second(sizes: Batch[int]) -> list[int]:
        return list(sizes)

    engine = await open_engine(pipe, **OFTEN)
    found = await soon(engine.run(second))
    assert sorted([no async for no in found.flat()]) == [0, 1, 4, 5]
    assert {each.key async for each in found.failures()} == {(Doc("d2", 2),), (Doc("d3", 3),)}
    with pytest.raises(NotFound, match="it did not succeed"):
        await found.get(Doc("d2", 2))


@pytest.mark.parametrize("key", [False, lambda no: no // 2])
async def test_a_batch_of_items_with_other_keys(open_engine: OpenEngine, key: Any):
    """SCAT-05, BATCH-06: as `key=` says; equal ones are one."""
    pipe, keys = Pipeline("keys"), list[Any]()

    @pipe.scatter(_docs(6))
    async def first(doc: Doc) -> int:
        return doc.size

    @pipe.scatter(first, key=key, batch=Batching(max_items=2))
    async def second(sizes: Batch[int], ctx: Context) -> list[int]:
        assert ctx.item.key == sizes.keys
        keys.extend(sizes.keys)
        return list(sizes)

    engine = await open_engine(pipe, **OFTEN)
    found = await soon(engine.run(second))
    assert sorted(keys) == list(range(3 if key else 6))
    assert len([no async for no in found.flat()]) == len(keys)
    assert len(await found.get(2)) in (1, 2)


@pytest.mark.parametrize("key", [None, lambda doc: doc.name])
async def test_batches_that_follow_begin_at_a_rate(open_engine: OpenEngine, key: Any):
    """SCAT-08, BATCH-07: those that wait for a permit know their keys."""
    pipe, keys = Pipeline("rated"), list[Any]()

    @pipe.scatter(_docs(6), key=key)
    async def first(doc: Doc) -> int:
        return doc.size

    @pipe.scatter(first, batch=Batching(max_items=2), rate=Rate(1000), retry=Retry(2, backoff="none"))
    async def second(sizes: Batch[int], ctx: Context) -> int:
        keys.extend(ctx.item.key)
        if len(sizes) == 2 and 3 in sizes:
            raise sizes.failed({sizes.index(3): ConnectionError("gone")}, value=1)
        return len(sizes)

    engine = await open_engine(pipe, **OFTEN)
    await soon(engine.run(second))
    known = {no: Doc(f"d{no}", no) if key is None else f"d{no}" for no in range(6)}
    assert Counter(keys) == Counter([*known.values(), known[3]])


# -- a scatter on one in batches ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("results", ["packed", "rows"])
@pytest.mark.parametrize("key", [None, False, lambda doc: doc.name])
async def test_each_batch_gives_an_item_as_soon_as_it_ends(open_engine: OpenEngine, results: Any, key: Any):
    """SCAT-26, BATCH-09: known by the keys of the batch, as a tuple."""
    pipe, gate, keys = Pipeline("each"), Gate(), list[Any]()

    @pipe.scatter(_docs(10), key=key, batch=Batching(max_items=3), results=results)
    async def first(docs: Batch[Doc]) -> list[int]:
        if docs.number >= 2:
            await gate()
        return [doc.size for doc in docs]

    @pipe.scatter(first)
    async def second(sizes: list[int], ctx: Context) -> int:
        keys.append(ctx.item.key)
        if len(keys) == 2:
            gate.open()
        return sum(sizes)

    engine = await open_engine(pipe, **OFTEN)
    found = await soon(engine.run(second))
    assert (found.total, sorted(await found.to_list(limit=4))) == (4, [3, 9, 12, 21])
    known = {None: Doc, False: lambda _, no: no}.get(key, lambda name, _: name)
    wanted = {tuple(known(f"d{no}", no) for no in range(at, min(at + 3, 10))) for at in range(0, 10, 3)}
    assert set(keys) == wanted
    assert {each async for each, _ in found.items()} == wanted
    assert await found.get(tuple(known(f"d{no}", no) for no in range(3))) == 3
    for other in (known("d0", 0), (known("d0", 0),), 17, "x", ()):
        with pytest.raises(NotFound):
            await found.get(other)


async def test_a_chain_of_batches(open_engine: OpenEngine):
    """SCAT-26, BATCH-09: an item is the value of one batch, whatever that is; keys are those above, in tuples."""
    pipe = Pipeline("chain")

    @pipe.scatter(_docs(8), batch=Batching(max_items=2))
    async def pairs(docs: Batch[Doc]) -> list[int]:
        return [doc.size for doc in docs]

    @pipe.scatter(pairs, batch=Batching(max_items=2))
    async def fours(pairs: Batch[list[int]]) -> list[list[int]]:
        assert all(len(key) == 2 for key in pairs.keys)
        return list(pairs)

    @pipe.scatter(fours, batch=Batching(max_items=1))
    async def last(fours: Batch[list[list[int]]], ctx: Context) -> int:
        assert [[[doc.size for doc in pair] for pair in four] for four in ctx.item.key] == list(fours)
        return sum(no for four in fours for pair in four for no in pair)

    engine = await open_engine(pipe, **OFTEN)
    found = await soon(engine.run(last))
    assert sum(await found.to_list(limit=2)) == 28
    async for key, value in found.items():
        [four] = key
        assert sum(doc.size for pair in four for doc in pair) == value
        assert await found.get(four) == value


@pytest.mark.parametrize("results", ["packed", "rows"])
@pytest.mark.parametrize("batch", [False, True])
async def test_what_leaves_its_batch_above_is_an_item_below(open_engine: OpenEngine, results: Any, batch: bool):
    """BATCH-08, SCAT-26: once it ended, whenever that is; if it failed it is skipped."""
    pipe, gate, seen = Pipeline("left"), Gate(), Counter[Any]()

    @pipe.scatter(
        range(40),
        batch=Batching(max_items=4),
        page_size=8,
        retry=Retry(2, backoff="none"),
        tolerate=1.0,
        results=results,
    )
    async def first(numbers: Batch[int], ctx: Context) -> list[int]:
        if len(numbers) > 1:
            assert ctx.item.attempt == 1
            left = {0: OSError("later"), 2: OSError("never")}
            raise numbers.failed(left, value=[numbers[1], numbers[3]])
        if numbers[0] % 4 == 2:
            raise ValueError("never")
        await gate()
        return list(numbers)

    async def taken(numbers: list[int], key: Any) -> list[int]:
        seen[key] += 1
        if sum(len(each) == 4 for each in seen) == 10:
            gate.open()
        return numbers

    if batch:

        @pipe.scatter(first, batch=Batching(max_items=1), page_size=3, name="second")
        async def batched(batch: Batch[list[int]]) -> list[int]:
            return await taken(batch[0], batch.keys[0])
    else:

        @pipe.scatter(first, page_size=3, name="second")
        async def single(numbers: list[int], ctx: Context) -> list[int]:
            return await taken(numbers, ctx.item.key)

    engine = await open_engine(pipe, **OFTEN)
    found = await soon(engine.run("second"))
    assert set(seen.values()) == {1}
    fours = {tuple(range(at, at + 4)) for at in range(0, 40, 4)}
    assert set(seen) == fours | {(at,) for at in range(0, 40, 4)}
    assert sorted([no async for no in found.flat()]) == [no for no in range(40) if no % 4 != 2]
    counts = await counts_of(engine, "second")
    assert (counts.total, counts.done, counts.skipped) == (30, 20, 10)


async def test_an_item_that_leaves_its_batch_below(open_engine: OpenEngine):
    """BATCH-08: it keeps the key of its upstream item."""
    pipe, calls = Pipeline("left"), list[Any]()

    @pipe.scatter(_docs(6))
    async def first(doc: Doc) -> int:
        return doc.size

    @pipe.scatter(first, batch=Batching(max_items=6), retry=Retry(3, backoff="none"), tolerate=0.5)
    async def second(sizes: Batch[int], ctx: Context) -> list[int]:
        calls.append((len(sizes), ctx.item.attempt))
        if len(sizes) > 1:
            away = {place: OSError(str(no)) for place, no in enumerate(sizes) if no in (1, 4)}
            raise sizes.failed(away, value=[no for no in sizes if no not in (1, 4)])
        assert sizes.keys == (Doc(f"d{sizes[0]}", sizes[0]),) == ctx.item.key
        if sizes[0] == 4:
            raise ValueError("four")
        return list(sizes)

    engine = await open_engine(pipe, **OFTEN)
    found = await soon(engine.run(second))
    assert sorted([no async for no in found.flat()]) == [0, 1, 2, 3, 5]
    assert await found.get(Doc("d1", 1)) == [1]
    assert sorted(await found.get(Doc("d5", 5))) == [0, 2, 3, 5]
    assert [each.key async for each in found.failures()] == [(Doc("d4", 4),)]
    assert (found.total, found.succeeded, found.failed) == (3, 2, 1)
    assert sorted(calls) == [(1, 2), (1, 2), (1, 3), (6, 1)]


# -- how much of it is at hand ----------------------------------------------------------------------------------------


async def test_what_is_read_ahead_is_bounded(open_engine: OpenEngine, monkeypatch: pytest.MonkeyPatch):
    """READ-02: 4 pages of batches, or four times as many as run at once; the upstream goes on meanwhile."""
    pipe, gate, full = Pipeline("pressed"), Gate(), asyncio.Event()
    wait = Scattering._wait_for_room

    async def told(self: Scattering) -> None:
        if self._name.endswith("second"):
            full.set()
        await wait(self)

    monkeypatch.setattr(Scattering, "_wait_for_room", told)

    @pipe.scatter(range(100))
    async def first(no: int) -> int:
        return no

    @pipe.scatter(first, batch=Batching(max_items=2), page_size=4, max_concurrent=2)
    async def second(numbers: Batch[int]) -> list[int]:
        await gate()
        return list(numbers)

    engine = await open_engine(pipe, **OFTEN)
    running = asyncio.create_task(engine.run(second))
    await soon(full.wait())
    await gate.reached(2)
    assert (await counts_of(engine, "second")).total <= 8
    gate.open()
    found = await soon(running)
    assert sorted([no async for no in found.flat()]) == list(range(100))
    assert gate.most == 2


async def test_large_results_are_given_in_small_pages(open_engine: OpenEngine, monkeypatch: pytest.MonkeyPatch):
    """READ-03, SCAT-22: a page of them is not larger than a statement takes, and neither are their keys."""
    monkeypatch.setattr(upstream, "_MOST_BYTES", 1000)
    pipe, pages = Pipeline("large"), list[int]()
    prepare = Intake.prepare

    async def told(self: Intake, items: Any, position: int) -> Any:
        pages.extend([len(items)] * bool(items and isinstance(items[0], upstream.Arrived)))
        return await prepare(self, items, position)

    monkeypatch.setattr(Intake, "prepare", told)

    @pipe.scatter([f"{no:0100}" for no in range(100)], batch=Batching(max_items=10), tolerate=1.0)
    async def first(names: Batch[str]) -> list[str]:
        return list(names) if names.number % 2 else ["x"]

    @pipe.scatter(first)
    async def second(names: list[str]) -> int:
        return len(names)

    engine = await open_engine(pipe, **OFTEN)
    await soon(engine.run(first))
    found = await soon(engine.run(second))
    assert sum(await found.to_list(limit=10)) == 55
    assert (sum(pages), max(pages)) == (10, 1)


async def test_keys_that_are_too_large_together_say_what_to_do(
    open_engine: OpenEngine, monkeypatch: pytest.MonkeyPatch
):
    """READ-03: of a batch that is closed at last, which no smaller page would have helped."""
    monkeypatch.setattr("flowstone_async._engine.scatter.intake.LARGEST_PAGE", 1000)
    pipe = Pipeline("large")

    @pipe.scatter([f"{no}" * 200 for no in range(9)], page_size=2)
    async def first(text: str) -> int:
        return len(text)

    @pipe.scatter(first, batch=Batching(max_items=9), page_size=2)
    async def second(sizes: Batch[int]) -> int:
        return sum(sizes)

    engine = await open_engine(pipe, **OFTEN)
    with pytest.raises(StorageError, match="together with their keys"):
        await soon(engine.run(second))
