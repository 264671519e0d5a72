"""Running batches of an ended scatter again: memory and Postgres (SCAT-25, BATCH-06 to BATCH-09, READ-09)."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest

from flowstone_async import (
    Batch,
    Batching,
    ConfigError,
    Context,
    DependencyFailed,
    Engine,
    ExecutionError,
    Gathered,
    Pipeline,
    Retry,
    RunHandle,
    ScatterItem,
    sources,
)
from tests.support.engines import OpenEngine
from tests.support.gate import Gate, soon
from tests.support.redriving import redriven_but_for_one, survived


class _Case:
    """Twelve numbers in batches of three, of which 4 and 7 leave theirs and fail, 1 leaves its own, and 9 fails its batch.

    Attributes:
        broken: The numbers that fail, by how: alone in the end, or with their batch.
        leaving: Those that leave their batch.
        calls: Of each batch, by its items.
        given: What each batch was the last time: number, keys, what is shared, and the attempt.
    """

    def __init__(self, **options: Any) -> None:
        self.pipe = pipe = Pipeline("case")
        self.broken, self.leaving, self.whole = {4, 7}, {1, 4, 7}, {9}
        self.calls, self.given = Counter[tuple[int, ...]](), dict[tuple[int, ...], Any]()
        self.made, self.gate = 0, Gate()
        self.gate.open()

        def shared() -> str:
            self.made += 1
            return f"made {self.made}"

        given: dict[str, Any] = {
            "batch": Batching(max_items=3, shared=shared),
            "tolerate": 0.9,
            "retry": Retry(2, backoff="none"),
            "key": lambda no: f"k{no}",
            "page_size": 6,
            **options,
        }

        @pipe.scatter(given.pop("source", range(12)), **given)
        async def items(batch: Batch[int], ctx: Context) -> list[int]:
            self.calls[tuple(batch)] += 1
            self.given[tuple(batch)] = batch.number, batch.keys, batch.shared, ctx.item.attempt
            await self.gate()
            if self.whole.intersection(batch) or (len(batch) == 1 and self.broken.intersection(batch)):
                raise ValueError(f"{batch[0]} is broken")
            left: dict[int, BaseException] = {
                place: ValueError("leaves") for place, no in enumerate(batch) if no in self.leaving and len(batch) > 1
            }
            if left:
                raise batch.failed(left, value=[no for no in batch if no not in self.leaving])
            return list(batch)

        @items.gather
        async def total(results: Gathered[list[int]]) -> int:
            return sum([no async for no in results.flat()])

    def mend(self) -> None:
        self.broken.clear()
        self.whole.clear()
        self.calls.clear()

    async def first(self, engine: Engine) -> RunHandle[Any]:
        run = await engine.submit("total")
        assert await soon(run) == sum(range(12)) - 4 - 7 - 9 - 10 - 11
        return run


class _Feed(sources.Source[int]):
    """Pages of four numbers up to twelve; the last of them cannot be read as long as it is down."""

    read_retry = False

    def __init__(self) -> None:
        self.down, self.cursors = True, list[Any]()

    async def read(self, cursor: Any) -> AsyncIterator[sources.Page[int]]:
        self.cursors.append(cursor)
        for first in range(cursor or 0, 12, 4):
            if first == 8 and self.down:
                raise ConnectionError("down")
            yield sources.Page(range(first, first + 4), cursor=first + 4, last=first == 8)


async def counted(run: RunHandle[Any]) -> tuple[int, int, int, int | None]:
    counts = (await run.status()).scatter
    assert counts is not None
    assert counts.done + counts.failed + counts.pending + counts.running + counts.cancelled == counts.total
    return counts.total, counts.done, counts.failed, counts.items


def told(items: tuple[ScatterItem, ...]) -> dict[tuple[int, ...], int]:
    assert [each.place for each in items] == sorted(each.place for each in items)
    assert all(isinstance(each.item, Batch) and each.key == each.item.keys for each in items)
    return {tuple(each.item): each.index for each in items}


async def test_what_failed_runs_again_as_it_was(open_engine: OpenEngine):
    """SCAT-25, BATCH-07, BATCH-08: a batch that failed whole runs whole, what left its batch runs alone; nothing else."""
    case = _Case()
    engine = await open_engine(case.pipe)
    run = await case.first(engine)
    before = dict(case.given)
    assert await counted(run) == (7, 4, 3, 12)
    case.mend()
    again = await run.redrive("items")
    assert await soon(again) == sum(range(12))
    assert case.calls == {(4,): 1, (7,): 1, (9, 10, 11): 1}
    for batch in case.calls:
        number, keys, shared, _ = before[batch]
        assert case.given[batch] == (number, keys, shared, 1), "with fresh attempts, and all else as it was"
    assert case.made == 1
    assert await counted(again) == (7, 7, 0, 12)
    found = await engine.get("items")
    assert [each async for each in found] == [[0, 2], [1], [3, 5], [4], [6, 8], [7], [9, 10, 11]]
    assert [await found.get(f"k{no}") for no in (0, 4, 7, 9)] == [[0, 2], [4], [7], [9, 10, 11]]
    assert [each async for each in found.failures()] == []
    assert await engine._live().store.verify() == ()


async def test_all_batches_run_again_as_they_were_read(open_engine: OpenEngine):
    """SCAT-25: what had left its batch is part of it again, and the total is what it was; what is shared is made anew."""
    case = _Case()
    engine = await open_engine(case.pipe)
    run = await case.first(engine)
    before = dict(case.given)
    case.mend()
    case.leaving = {4, 5}
    again = await run.redrive("items", only="all")
    assert await soon(again) == sum(range(12))
    assert case.calls == dict.fromkeys([(0, 1, 2), (3, 4, 5), (6, 7, 8), (9, 10, 11), (4,), (5,)], 1)
    numbers = {batch: case.given[batch][0] for batch in case.calls}
    assert {batch: numbers[batch] for batch in numbers if batch != (5,)} == {
        batch: before[batch][0] for batch in numbers if batch != (5,)
    }
    assert len(set(numbers.values())) == 6
    assert numbers[5,] == 7, "no number is given to another one"
    assert {shared for _, _, shared, _ in map(case.given.__getitem__, case.calls)} == {"made 2"}
    assert await counted(again) == (6, 6, 0, 12)
    found = await engine.get("items")
    assert [each async for each in found] == [[0, 1, 2], [3], [4], [5], [6, 7, 8], [9, 10, 11]]
    assert [await found.get(key) for key in ("k1", "k4", "k7")] == [[0, 1, 2], [4], [6, 7, 8]]
    assert await engine._live().store.verify() == ()


@pytest.mark.parametrize("results", ["packed", "rows"])
@pytest.mark.parametrize("order", ["source", "completion"])
async def test_kept_results_are_read_with_the_new_ones(open_engine: OpenEngine, results: Any, order: Any):
    """BATCH-09, SCAT-20: in whatever form and order, along a chain."""
    case = _Case(results=results, order=order, max_concurrent=1)
    engine = await open_engine(case.pipe)
    run = await case.first(engine)
    case.broken.remove(4)
    second = await run.redrive("items")
    assert await soon(second) == sum(range(12)) - 7 - 9 - 10 - 11
    case.mend()
    assert await soon(await second.redrive("items")) == sum(range(12))
    found = await engine.get("items")
    batches = [each async for each in found]
    whole = [[0, 2], [1], [3, 5], [4], [6, 8], [7], [9, 10, 11]]
    if order == "source":
        assert batches == whole
    else:
        assert sorted(batches) == sorted(whole)
        assert batches.index([4]) > batches.index([6, 8])
        assert max(batches.index([7]), batches.index([9, 10, 11])) == 6
    assert await engine._live().store.verify() == ()


async def test_batches_are_listed(open_engine: OpenEngine):
    """SCAT-25, BATCH-08: with what left them, in every state, page by page, before and after a redrive."""
    case = _Case()
    engine = await open_engine(case.pipe)
    run = await case.first(engine)
    failed = await run.items("items")
    numbers = {batch: number for batch, (number, *_) in case.given.items()}
    assert told(failed) == {batch: numbers[batch] for batch in [(9, 10, 11), (4,), (7,)]}
    assert [(each.attempts, each.error_type) for each in failed] == [(2, "ValueError")] * 3
    done = await run.items("items", state="done")
    batches = [(0, 1, 2), (3, 4, 5), (6, 7, 8), (1,)]
    assert told(done) == {batch: numbers[batch] for batch in batches}
    paged, after = list[ScatterItem](), None
    while page := await run.items("items", state="done", limit=1, after=after):
        paged += page
        after = page[-1].place
    assert paged == list(done)
    assert await run.items("items", state="pending") == ()
    case.mend()
    case.gate.close()
    began = case.gate.calls
    again = await run.redrive("items")
    await case.gate.reached(began + 3)
    assert told(await again.items("items", state="pending")) == told(failed)
    assert told(await again.items("items", state="done")) == told(done)
    case.gate.open()
    await soon(again)
    assert told(await again.items("items", state="done")) == {**told(done), **told(failed)}


async def test_a_scatter_in_batches_that_failed_goes_on(open_engine: OpenEngine):
    """SCAT-25, SCAT-11: with what it never came to, and with what was read and in no batch yet."""
    pulled, blocked = list[int](), asyncio.Event()

    async def numbers() -> AsyncIterator[int]:
        for no in range(10):
            if no == 8:
                await blocked.wait()
            pulled.append(no)
            yield no

    case = _Case(source=numbers, tolerate=0, retry=False, page_size=1, max_concurrent=1)
    case.leaving, case.whole = {4}, set()
    engine = await open_engine(case.pipe)
    run = await engine.submit("total")
    with pytest.raises(DependencyFailed, match="leaves"):
        await soon(run)
    done = set(told(await run.items("items", state="done")))
    case.mend()
    blocked.set()
    again = await run.redrive("items")
    assert await soon(again) == sum(range(10))
    assert not done & set(case.calls)
    found = await engine.get("items")
    assert [no async for no in found.flat()] == [0, 1, 2, 3, 5, 4, 6, 7, 8, 9]
    assert [len(each) async for each in found] == [3, 2, 1, 3, 1]
    assert await counted(again) == (5, 5, 0, 10)
    assert await engine._live().store.verify() == ()


async def test_a_retried_run_goes_on_with_open_batches(open_engine: OpenEngine):
    """READ-09, BATCH-07: at the cursor of the source, with the batches that were open; results and shared are kept."""
    feed, made = _Feed(), list[int]()

    def shared() -> int:
        made.append(0)
        return len(made)

    batching = Batching(max_items=3, group_by=lambda no: no % 2, shared=shared)
    case = _Case(source=feed, batch=batching, page_size=4)
    case.whole, case.broken, case.leaving = set(), {4}, {4}
    engine = await open_engine(case.pipe)
    run = await engine.submit("total")
    with pytest.raises((DependencyFailed, ExecutionError)):
        await soon(run)
    ended = told(await run.items("items", state="done")) | told(await run.items("items"))
    case.calls.clear()
    feed.down = False
    again = await engine.retry(run.id)
    assert await soon(again) == sum(range(12)) - 4
    assert not set(ended) & set(case.calls), "what ended keeps its result, or its failure"
    assert feed.cursors == [None, 8]
    assert {shared for _, _, shared, _ in case.given.values()} == {1}
    batches = {batch for batch in case.given if len(batch) > 1}
    assert batches == {(0, 2, 4), (1, 3, 5), (6, 8, 10), (7, 9, 11)}, "no border has moved"
    assert len({number for number, *_ in case.given.values()}) == len(case.given) == 5
    assert await counted(again) == (5, 4, 1, 12)
    assert await engine._live().store.verify() == ()


async def test_batches_and_single_items_do_not_mix(open_engine: OpenEngine):
    """G-05: other code takes what was stored in another form."""
    case = _Case()
    first = await open_engine(case.pipe)
    run = await case.first(first)
    pipe = Pipeline("case")

    @pipe.scatter(range(12), tolerate=0.9)
    async def items(no: int) -> int:
        return no

    @items.gather
    async def total(results: Gathered[int]) -> int:
        return results.succeeded

    other = await open_engine(pipe)
    with pytest.raises(ConfigError, match="were stored in batches, and its body takes them one by one"):
        await (await other.find(run.id)).redrive(items)


async def test_batches_that_could_not_be_made_stay_failed(open_engine: OpenEngine):
    """SCAT-04, BATCH-05: there is nothing to call the body with."""
    pipe, broken = Pipeline("made"), {2}

    def group(no: int) -> float:
        return 1 / no

    @pipe.scatter([0, 1, 2], batch=Batching(max_items=3, group_by=group), tolerate=1.0, retry=False)
    async def items(batch: Batch[int]) -> int:
        if broken.intersection(batch):
            raise ValueError("broken")
        return batch[0]

    found = await redriven_but_for_one(await open_engine(pipe), items, broken.clear)
    assert (found.total, found.succeeded, found.failed) == (3, 2, 1)


@pytest.mark.parametrize("only", ["failed", "all"])
async def test_a_redrive_of_batches_survives_its_engine(open_engine: OpenEngine, only: Any):
    """JOB-09, BATCH-07: killed in the middle of it; numbers, keys and what is shared are those of the first attempt."""
    case, seen = _Case(), dict[tuple[int, ...], Any]()

    def held() -> None:
        seen.update({batch: case.given[batch][:3] for batch in case.calls})

    living, again = await survived(
        open_engine, case.pipe, case.gate, case.first, case.mend, only=only, reached=3, held=held
    )
    assert len(seen) >= 3
    assert await soon(again) == sum(range(12))
    assert {batch: case.given[batch][:3] for batch in seen} == seen
    assert case.made == (1 if only == "failed" else 2)
    assert await living._live().store.verify() == ()
    total, done, failed, items = await counted(again)
    assert (total, done, failed, items) == (7, 7, 0, 12)
