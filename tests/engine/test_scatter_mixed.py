"""Batches, scatters on scatters, redrives and deletions together: memory and Postgres."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from flowstone_async import (
    Batch,
    Batching,
    ConfigError,
    Context,
    Pipeline,
    Rate,
    Retry,
    RunHandle,
    ScatterThreshold,
    SourceError,
    StorageError,
    Tolerance,
    dep,
)
from flowstone_async._engine.pruning import prune
from tests.support.engines import OpenEngine, SharedEngines
from tests.support.gate import Gate, soon

OFTEN: Any = {"poll": "20ms"}


class _Case:
    """Twelve numbers in batches of three; those of `leaving` leave theirs; `second` follows, in batches of two."""

    def __init__(self, *, results: Any = "packed", **options: Any) -> None:
        self.pipe, self.other = Pipeline("case"), Pipeline("other")
        pipe, other = self.pipe, self.other
        self.leaving, self.broken, self.second_broken = {1, 4, 7}, {4}, set[int]()
        self.calls, self.keys = Counter[Any](), list[Any]()

        @pipe.scatter(
            range(12),
            batch=Batching(max_items=3),
            key=options.pop("key", lambda no: f"k{no}"),
            page_size=6,
            retry=Retry(2, backoff="none"),
            tolerate=0.9,
            results=results,
        )
        async def first(batch: Batch[int]) -> list[int]:
            self.calls[("first", *batch)] += 1
            if len(batch) == 1 and self.broken.intersection(batch):
                raise ValueError(f"{batch[0]} is broken")
            left: dict[int, BaseException] = {
                place: ValueError("leaves") for place, no in enumerate(batch) if no in self.leaving and len(batch) > 1
            }
            if left:
                raise batch.failed(left, value=[no for no in batch if no not in self.leaving])
            return list(batch)

        async def follow(batch: Batch[list[int]]) -> list[int]:
            self.calls[("second", *(tuple(each) for each in batch))] += 1
            self.keys += batch.keys
            if any(self.second_broken.intersection(each) for each in batch):
                raise ValueError("broken")
            return [no for each in batch for no in each]

        made: dict[str, Any] = {
            "batch": Batching(max_items=2),
            "tolerate": 0.9,
            "retry": False,
            "page_size": 2,
            "name": "second",
            "results": results,
        }
        self.second = pipe.scatter(first, **made)(follow)
        self.foreign = other.scatter(dep(first, external=True), **made)(follow)
        self.first = first


async def counted(run: RunHandle[Any], asset: str) -> tuple[int, int, int, int]:
    counts = (await run.status()).scatters[asset.rsplit(".", maxsplit=1)[-1]]
    assert (
        counts.done + counts.failed + counts.pending + counts.running + counts.cancelled + counts.skipped
        == counts.total
    ), counts
    return counts.total, counts.done, counts.failed, counts.skipped


@pytest.mark.parametrize("results", ["packed", "rows"])
@pytest.mark.parametrize("foreign", [False, True])
async def test_what_left_is_followed_once_the_scatter_before_is_gone(
    open_engine: OpenEngine, results: Any, foreign: bool
):
    """BATCH-08, SCAT-25, SCAT-26: a redriven scatter knows what left its batches, whoever had the results committed."""
    case = _Case(results=results)
    engine = await open_engine(case.pipe, case.other, **OFTEN)
    run = await engine.submit("case.first")
    await soon(run)
    assert await counted(run, "case.first") == (7, 6, 1, 0)
    case.broken.clear()
    again = await run.redrive("case.first")
    await soon(again)
    await prune(engine._live(), runs=0.0, values=0.0)
    found = await soon(engine.run("other.second" if foreign else "case.second"))
    assert sorted([no async for no in found.flat()]) == list(range(12))
    assert sorted(case.keys) == sorted(
        [("k0", "k1", "k2"), ("k1",), ("k3", "k4", "k5"), ("k4",), ("k6", "k7", "k8"), ("k7",), ("k9", "k10", "k11")]
    )
    assert await engine._live().store.verify() == ()


@pytest.mark.parametrize("foreign", [False, True])
async def test_batches_of_what_follows_are_listed(open_engine: OpenEngine, foreign: bool):
    """SCAT-25, SCAT-26: by the keys of their upstream items, as the `Gathered` has them."""
    case = _Case(key=None)
    case.second_broken = {1, 4}
    engine = await open_engine(case.pipe, case.other, **OFTEN)
    await soon(engine.run("case.first"))
    name = "other.second" if foreign else "case.second"
    run = await engine.submit(name)
    found = await soon(run)
    assert [each.key for each in await run.items(name, state="done")] == [key async for key, _ in found.items()]
    failed = await run.items(name)
    assert failed
    assert [each.key for each in failed] == [each.key async for each in found.failures()]


async def test_a_share_is_not_judged_while_a_batch_waits(open_engine: OpenEngine):
    """SCAT-10, BATCH-08: items may leave it when it is tried again, and then there are more of which some may fail."""
    pipe = Pipeline("case")

    @pipe.scatter(range(12), batch=Batching(max_items=6), retry=Retry(3, initial="50ms", jitter=False), tolerate=0.25)
    async def first(batch: Batch[int], ctx: Context) -> int:
        if batch[0] == 0:
            raise StorageError("no")
        if ctx.item.attempt == 1:
            raise ValueError("again")
        if len(batch) > 1:
            raise batch.failed({place: ValueError() for place in range(5)}, value=1)
        return 1

    engine = await open_engine(pipe, poll="60s")
    found = await soon(engine.run("first"))
    assert (found.total, found.succeeded, found.failed) == (7, 6, 1)


async def test_a_key_of_what_was_deleted(open_engine: OpenEngine):
    """SCAT-17, BATCH-09: it is not told that nothing had that key."""
    case = _Case()
    engine = await open_engine(case.pipe, **OFTEN)
    found = await soon(engine.run("first"))
    await engine.invalidate("first")
    try:
        value = await found.get("k2")
    except StorageError as error:
        assert "gone from the store" in error.message  # noqa: PT017 - in memory it lives for as long as it is held
    else:
        assert value == [0, 2]


@pytest.mark.parametrize("only", ["failed", "all"])
@pytest.mark.parametrize("batch", [False, True])
async def test_items_whose_key_for_the_rate_was_mended_run_again(open_engine: OpenEngine, only: Any, batch: bool):
    """SCAT-25, RATE-08: they are at hand, unlike what `select` refused; and none is both failed and done."""
    pipe, broken = Pipeline("case"), {3}

    def host(item: Any) -> str:
        if broken.intersection(item if batch else [item]):
            raise ValueError("no host")
        return "host"

    async def body(item: Any) -> Any:
        return item[0] if batch else item

    body.__annotations__["item"] = Batch[int] if batch else int
    options: Any = {"batch": Batching(max_items=1)} if batch else {}
    pipe.scatter(range(6), tolerate=0.5, rate=Rate(1000, key=host), name="items", **options)(body)
    engine = await open_engine(pipe, **OFTEN)
    run = await engine.submit("items")
    assert (await soon(run)).failed == 1
    broken.clear()
    again = await run.redrive("items", only=only)
    assert sorted([no async for no in await soon(again)]) == list(range(6))
    assert await counted(again, "items") == (6, 6, 0, 0)


async def test_errors_tell_of_batches(open_engine: OpenEngine):
    """SCAT-11, BATCH-07: what is counted is what is named."""
    pipe = Pipeline("case")

    @pipe.scatter(range(4), batch=Batching(max_items=2), retry=False, tolerate=Tolerance(count=1), max_concurrent=1)
    async def items(batch: Batch[int]) -> None:
        raise ValueError(f"{batch[0]} is broken")

    engine = await open_engine(pipe, **OFTEN)
    told = r"2 of 2 batches of scatter case\.items failed, more than the 1 batches .*: 2 x a batch of 'items' failed"
    with pytest.raises(ScatterThreshold, match=told):
        await soon(engine.run("items"))


@pytest.mark.parametrize("how", ["invalidated", "redriven", "computed"])
async def test_what_is_followed_is_gone_while_it_is_read(open_engine: OpenEngine, engines: SharedEngines, how: str):
    """SCAT-26, READ-09: that is what is told, and a retry begins with what is current; in memory it is held meanwhile."""
    producer, consumer, gate = Pipeline("producer"), Pipeline("consumer"), Gate()

    @producer.scatter(range(400), page_size=4, batch=Batching(max_items=2))
    async def first(batch: Batch[int]) -> int:
        return batch[0]

    @consumer.scatter(dep(first, external=True), page_size=2, max_concurrent=2)
    async def second(no: int) -> int:
        await gate()
        return no

    engine, reader = await open_engine(producer, **OFTEN), await open_engine(consumer, **OFTEN)
    run = await engine.submit(first)
    await soon(run)
    reading = await reader.submit(second)
    await gate.reached(2)
    if how == "invalidated":
        await engine.invalidate(first)
    else:
        await soon(await run.redrive(first, only="all") if how == "redriven" else engine.run(first, force=True))
        await prune(engine._live(), runs=0.0, values=0.0)
    gate.open()
    if not engines.durable:
        assert (await soon(reading)).total == 200
        return
    with pytest.raises(SourceError, match="the results of scatter first are gone from the store") as raised:
        await soon(reading)
    assert "cursor" not in raised.value.message
    if how == "invalidated":
        await soon(engine.run(first))
    assert (await soon(await reader.retry(reading.id))).total == 200


@pytest.mark.parametrize("only", ["failed", "all"])
async def test_a_scatter_without_items_is_not_redriven(open_engine: OpenEngine, only: Any):
    """SCAT-25: and nobody is told that all of them would run again."""
    pipe, none = Pipeline("case"), list[int]()

    @pipe.scatter(none, batch=Batching(max_items=2))
    async def items(batch: Batch[int]) -> int:
        return batch[0]

    engine = await open_engine(pipe, **OFTEN)
    run = await engine.submit(items)
    await soon(run)
    with pytest.raises(ConfigError, match="the scatter has no items: its source gave none"):
        await run.redrive(items, only=only)
