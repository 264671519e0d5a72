"""Batches of which only some items fail (BATCH-08)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from flowstone_async import Batch, BatchFailed, Batching, ConfigError, Context, Pipeline, Retry, Tolerance
from flowstone_async.errors import NotFound, ScatterThreshold
from tests.support.engines import OpenEngine
from tests.support.gate import soon

TWICE = Retry(2, backoff="none")


@pytest.mark.parametrize("results", ["packed", "rows"])
@pytest.mark.parametrize("order", ["source", "completion"])
async def test_the_others_have_their_result_and_the_item_goes_on_alone(
    open_engine: OpenEngine, results: Any, order: Any
):
    """BATCH-08: with the attempts that are left; the total grows by one, and every number is there once."""
    pipe, calls = Pipeline("parted"), list[Any]()

    @pipe.scatter(range(12), batch=Batching(max_items=5), retry=Retry(3, backoff="none"), results=results, order=order)
    async def items(batch: Batch[int], ctx: Context) -> list[int]:
        calls.append((list(batch), batch.keys, batch.number, ctx.item.index, ctx.item.attempt, ctx.idempotency_key))
        if 8 in batch and len(batch) > 1:
            raise batch.failed({3: ValueError("eight")}, value=[no for no in batch if no != 8])
        if 8 in batch and ctx.item.attempt == 2:
            raise ConnectionError("again")
        return list(batch)

    engine = await open_engine(pipe)
    run = await engine.submit(items)
    found = await soon(run)
    assert (found.total, found.succeeded, found.failed) == (4, 4, 0)
    flat = [no async for no in found.flat()]
    assert sorted(flat) == list(range(12))
    if order == "source":
        assert flat == [0, 1, 2, 3, 4, 5, 6, 7, 9, 8, 10, 11], "right behind the batch that it was in"
    alone = [call for call in calls if call[0] == [8]]
    assert [(call[1], call[4]) for call in alone] == [((8,), 2), ((8,), 3)]
    assert len({call[2:4] for call in alone}) == 1, "it keeps its number"
    assert len({call[5] for call in alone}) == 1
    assert sorted({call[2] for call in calls}) == [0, 1, 2, 3]
    assert all(call[2] == call[3] for call in calls)
    assert len({call[5] for call in calls}) == 4
    assert await found.get(8) == [8]
    assert await found.get(7) == [5, 6, 7, 9]
    pairs = {key: value async for key, value in found.items()}
    assert pairs[(8,)] == [8]
    counts = (await run.status()).scatter
    assert counts is not None
    assert (counts.total, counts.done, counts.failed, counts.items) == (4, 4, 0, 12)


async def test_an_item_without_attempts_left_is_a_failed_batch_of_its_own(open_engine: OpenEngine):
    """BATCH-08, SCAT-12, SCAT-25: so is one whose error is not tried again."""
    pipe, calls = Pipeline("parted"), list[list[int]]()

    @pipe.scatter(
        range(8),
        batch=Batching(max_items=4),
        retry=Retry(2, backoff="none", on=ConnectionError),
        tolerate=Tolerance(count=2),
        key=lambda no: f"k{no}",
    )
    async def items(batch: Batch[int], ctx: Context) -> list[int]:
        calls.append(list(batch))
        if batch[0] == 0:
            raise batch.failed({1: ValueError("never"), 2: ConnectionError("again")}, value=[0, 3])
        if batch[0] == 2:
            raise ConnectionError("again")
        return list(batch)

    engine = await open_engine(pipe)
    found = await soon(engine.run(items))
    assert (found.total, found.succeeded, found.failed) == (4, 2, 2)
    assert [no async for no in found.flat()] == [0, 3, 4, 5, 6, 7]
    failures = [each async for each in found.failures()]
    assert [(each.key, each.item, each.attempts, each.error_type) for each in failures] == [
        (("k1",), [1], 1, "ValueError"),
        (("k2",), [2], 2, "ConnectionError"),
    ]
    assert {each.index for each in failures} | {failure.item.number for failure in failures} == {
        each.index for each in failures
    }
    assert all(each.worker for each in failures)
    assert sorted(calls) == [[0, 1, 2, 3], [2], [4, 5, 6, 7]]
    for key in ("k1", "k2"):
        with pytest.raises(NotFound, match="it did not succeed"):
            await found.get(key)
    assert await found.get("k3") == [0, 3]


async def test_a_batch_that_is_tried_again_may_fail_in_part(open_engine: OpenEngine):
    """BATCH-08: after an attempt that failed as a whole; what is left is counted from there."""
    pipe, attempts = Pipeline("parted"), list[Any]()

    @pipe.scatter(range(3), batch=Batching(max_items=3), retry=Retry(3, backoff="none"))
    async def items(batch: Batch[int], ctx: Context) -> list[int]:
        attempts.append((len(batch), ctx.item.attempt))
        if ctx.item.attempt == 1:
            raise ConnectionError("whole")
        if len(batch) > 1:
            raise batch.failed({0: ValueError("first"), 2: ValueError("last")}, value=[1])
        return list(batch)

    engine = await open_engine(pipe)
    found = await soon(engine.run(items))
    assert [no async for no in found.flat()] == [1, 0, 2]
    assert attempts == [(3, 1), (3, 2), (1, 3), (1, 3)]


async def test_naming_all_items_fails_the_batch_as_a_whole(open_engine: OpenEngine):
    """BATCH-08: there is no value for nobody; a batch of one stays what it is."""
    pipe, attempts = Pipeline("parted"), list[Any]()

    @pipe.scatter(range(3), batch=Batching(max_items=2), retry=TWICE)
    async def items(batch: Batch[int], ctx: Context) -> list[int]:
        attempts.append((list(batch), ctx.item.attempt))
        if ctx.item.attempt == 1:
            raise batch.failed({no: ValueError("no") for no in range(len(batch))}, value=[])
        return list(batch)

    engine = await open_engine(pipe)
    found = await soon(engine.run(items))
    assert await found.to_list(limit=2) == [[0, 1], [2]]
    assert sorted(attempts) == [([0, 1], 1), ([0, 1], 2), ([2], 1), ([2], 2)]


async def test_the_share_of_failed_batches_is_judged_with_those_that_came_apart(open_engine: OpenEngine):
    """BATCH-08, SCAT-10: against the total that they are part of."""
    pipe = Pipeline("parted")

    def scatter(name: str, tolerate: float) -> None:
        @pipe.scatter(range(6), batch=Batching(max_items=3), retry=False, tolerate=tolerate, name=name)
        async def items(batch: Batch[int]) -> list[int]:
            if batch[0] == 0:
                raise batch.failed({0: ValueError("zero")}, value=[1, 2])
            return list(batch)

        assert items

    scatter("third", 0.34)
    scatter("fourth", 0.3)
    engine = await open_engine(pipe)
    assert (await soon(engine.run("third"))).failed == 1
    with pytest.raises(ScatterThreshold) as caught:
        await soon(engine.run("fourth"))
    assert (caught.value.details["failed"], caught.value.details["total"]) == (1, 3)


async def test_nothing_leaves_a_batch_whose_value_cannot_be_stored(open_engine: OpenEngine):
    """BATCH-08: it has failed as a whole, as with any other error."""
    pipe = Pipeline("parted")

    @pipe.scatter(range(3), batch=Batching(max_items=3), retry=TWICE, tolerate=1.0)
    async def items(batch: Batch[int]) -> list[int]:
        if len(batch) > 1:
            raise batch.failed({0: ValueError("zero")}, value=object())
        return list(batch)

    engine = await open_engine(pipe)
    found = await soon(engine.run(items))
    assert (found.total, found.succeeded, found.failed) == (1, 0, 1)
    assert [(each.index, list(each.item)) async for each in found.failures()] == [(0, [0, 1, 2])]
    assert await engine._live().store.verify() == ()


async def test_what_is_said_of_no_batch_fails_it(open_engine: OpenEngine):
    """BATCH-08: an item outside of the batch is an error; so is what was made of another batch."""
    pipe, kept = Pipeline("parted"), list[BatchFailed]()

    @pipe.scatter(range(6), batch=Batching(max_items=3), retry=False, tolerate=1.0)
    async def items(batch: Batch[int]) -> int:
        raise batch.failed({3: ValueError("three")})

    kept.append(Batch([1, 2]).failed({0: ValueError("other")}))

    @pipe.scatter(range(3), batch=Batching(max_items=3), retry=False, tolerate=1.0)
    async def others(batch: Batch[int]) -> int:
        raise kept[0]

    @pipe.scatter(range(2), retry=False, tolerate=1.0)
    async def single(no: int) -> int:
        raise kept[0]

    engine = await open_engine(pipe)
    for name, total in (("items", 2), ("others", 1), ("single", 2)):
        found = await soon(engine.run(name))
        assert (found.total, found.failed) == (total, total), name
    [said, _] = [each.message async for each in (await engine.get(items)).failures()]
    assert "the batch has 3 items, from 0" in said
    [told] = [each async for each in (await engine.get(others)).failures()]
    assert told.error_type == "BatchFailed"
    assert "item 0 of a batch of 2 failed: ValueError: other" in told.message


def test_what_can_be_said_of_a_batch() -> None:
    batch = Batch(["a", "b", "c"])
    error = ValueError("no")
    failed = batch.failed({2: error, 0: error}, value=1)
    assert (list(failed.errors), failed.value, failed.size) == ([0, 2], 1, 3)
    assert str(failed) == "item 0 and 1 more of a batch of 3 failed: ValueError: no"
    untyped: Any = batch
    for errors in ({}, {3: error}, {-1: error}, {True: error}, {"0": error}, {0: "no"}, {0: ValueError}):
        with pytest.raises(ConfigError, match=r"batch\.failed"):
            untyped.failed(errors)


async def test_many_items_go_on_alone_at_once(open_engine: OpenEngine):
    """BATCH-08: none is lost, whatever is flushed together; and each number is given once."""
    pipe, numbers = Pipeline("parted"), list[int]()

    @pipe.scatter(range(300), batch=Batching(max_items=7), page_size=11, retry=TWICE, max_concurrent=8)
    async def items(batch: Batch[int]) -> list[int]:
        numbers.append(batch.number)
        await asyncio.sleep(0)
        odd = {place: ValueError("odd") for place, no in enumerate(batch) if no % 5 == 1}
        if odd and len(batch) > 1:
            raise batch.failed(odd, value=[no for no in batch if no % 5 != 1])
        return list(batch)

    engine = await open_engine(pipe)
    found = await soon(engine.run(items))
    assert sorted([no async for no in found.flat()]) == list(range(300))
    assert found.total == 43 + 60
    assert sorted(numbers) == list(range(103))
    assert await engine._live().store.verify() == ()
