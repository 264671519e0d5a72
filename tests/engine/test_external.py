"""Values of other pipelines: ASSET-16."""

from __future__ import annotations

from datetime import date

import pytest

from flowstone_async import (
    Context,
    Daily,
    DefinitionError,
    DependencyNotReady,
    Pipeline,
    TargetSkipped,
    dep,
)
from tests.support.engines import OpenEngine


class _Two:
    """`producer.rates` is read by `consumer.report`."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.rate = 1.5
        self.producer = producer = Pipeline("producer")
        self.consumer = consumer = Pipeline("consumer")

        @producer.asset(cache=False)
        async def rates() -> float:
            self.calls.append("rates")
            return self.rate

        @consumer.asset
        async def report(rate: float = dep(rates, external=True)) -> str:
            self.calls.append("report")
            return f"rate {rate}"

        @consumer.asset
        async def tolerant(ctx: Context, rate: float | None = dep(rates, external=True, optional=True)) -> list[object]:
            return [rate, ctx.dep_status["rate"]]


async def test_an_external_value_is_read_and_never_computed(open_engine: OpenEngine):
    """ASSET-16: whatever is current, in one engine or from another; `force="all"` does not run it either."""
    case = _Two()
    engine = await open_engine(case.producer, case.consumer)
    await engine.run("rates")
    assert await engine.run("report") == "rate 1.5"
    assert await engine.run("report", force="all") == "rate 1.5"
    other = await open_engine(case.consumer)
    assert await other.run("report", force=True) == "rate 1.5"
    assert case.calls == ["rates", "report", "report", "report"]


async def test_without_a_value_the_dependant_is_not_ready(open_engine: OpenEngine):
    """ASSET-16: `DependencyNotReady` names pipeline and asset; nothing runs; an optional one is missing."""
    case = _Two()
    engine = await open_engine(case.producer, case.consumer)
    with pytest.raises(DependencyNotReady, match=r"producer\.rates") as caught:
        await engine.run("report")
    assert caught.value.retryable
    assert "producer.rates" in str(caught.value.details["missing"])
    assert not case.calls
    assert await engine.run("tolerant") == [None, "missing"]


async def test_the_way_out_is_the_other_pipeline_on_the_same_store(open_engine: OpenEngine):
    """ASSET-16, ERR-05: `with_deps` runs no asset of another pipeline, so that the hint does not name it."""
    case = _Two()
    with pytest.raises(DependencyNotReady) as caught:
        await case.consumer.run("report")
    assert caught.value.hint == (
        "'producer.rates' is an asset of another pipeline, which is read and never run from here: run it there, on "
        "the same store: Engine(producer, consumer). A pipeline without an engine has a store to itself."
    )
    assert caught.value.details == {"missing": ["producer.rates"], "external": ["producer.rates"]}
    engine = await open_engine(case.producer, case.consumer)
    await engine.run("rates")
    assert await engine.run("report") == "rate 1.5"


async def test_missing_values_of_both_kinds_have_a_way_out_each(open_engine: OpenEngine):
    """ASSET-16, RUN-07, ERR-05: every missing value is named, own ones and those of other pipelines."""
    one, two, pipe = Pipeline("one"), Pipeline("two"), Pipeline("mine")
    a, b, own = one.constant("a", 1), two.constant("b", 2), pipe.constant("own", 3)

    @pipe.asset
    async def total(x: int = dep(a, external=True), y: int = dep(own), z: int = dep(b, external=True)) -> int:
        return x + y + z

    engine = await open_engine(one, two, pipe)
    with pytest.raises(DependencyNotReady) as caught:
        await engine.run(total, with_deps=False)
    assert caught.value.message == "asset 'total' needs 'mine.own', 'one.a', 'two.b', which are not stored"
    assert caught.value.hint == (
        "Run 'mine.own' first, or run with with_deps=True. 'one.a', 'two.b' are assets of other pipelines, which are "
        "read and never run from here: run them there, on the same store: Engine(one, two, mine). "
        "A pipeline without an engine has a store to itself."
    )
    await engine.run(own)
    await engine.run(a)
    with pytest.raises(DependencyNotReady) as caught:
        await engine.run(total, with_deps=False)
    assert caught.value.details == {"missing": ["two.b"], "external": ["two.b"]}
    assert "with_deps" not in str(caught.value)
    await engine.run(b)
    assert await engine.run(total, with_deps=False) == 6


async def test_a_missing_value_of_its_own_is_run_by_with_deps(open_engine: OpenEngine):
    """RUN-07, ERR-05."""
    pipe = Pipeline("mine")
    pipe.constant("own", 3)

    @pipe.asset
    async def total(own: int) -> int:
        return own

    engine = await open_engine(pipe)
    with pytest.raises(DependencyNotReady) as caught:
        await engine.run(total, with_deps=False)
    assert caught.value.hint == "Run it first, or run with with_deps=True."
    assert caught.value.details == {"missing": ["mine.own"], "external": []}


async def test_an_external_value_counts_for_freshness(open_engine: OpenEngine):
    """ASSET-16, CACHE-08: another current value makes the dependant stale, an equal one does not."""
    case = _Two()
    engine = await open_engine(case.producer, case.consumer)
    await engine.run("rates")
    await engine.run("report")
    await engine.run("rates")
    assert await engine.run("report") == "rate 1.5"
    assert case.calls.count("report") == 1
    case.rate = 2.0
    await engine.run("rates")
    assert await engine.run("report") == "rate 2.0"
    assert await engine.run("tolerant") == [2.0, "ok"]


async def test_an_external_value_follows_the_run_s_key(open_engine: OpenEngine):
    """ASSET-16: of a partitioned asset, that of the run's key."""
    days = Daily("2025-01-01")
    producer, consumer = Pipeline("producer"), Pipeline("consumer")

    @producer.asset(partitions=days)
    async def daily(partition: date) -> int:
        return partition.day

    @consumer.asset(partitions=days)
    async def shown(value: int = dep(daily, external=True)) -> str:
        return f"day {value}"

    engine = await open_engine(producer, consumer)
    await engine.run(daily, partition=date(2025, 1, 2))
    assert await engine.run(shown, partition=date(2025, 1, 2)) == "day 2"
    with pytest.raises(DependencyNotReady):
        await engine.run(shown, partition=date(2025, 1, 3))


async def test_a_condition_may_read_external_values(open_engine: OpenEngine):
    """ASSET-16, FLOW-04: conditions take what bodies take."""
    producer, consumer = Pipeline("producer"), Pipeline("consumer")
    ready = producer.constant("ready", False)

    def is_ready(flag: bool = dep(ready, external=True)) -> bool:
        return flag

    @consumer.asset(when=is_ready)
    async def shown() -> int:
        return 1

    engine = await open_engine(producer, consumer)
    await engine.run(ready)
    with pytest.raises(TargetSkipped):
        await engine.run(shown)


def test_a_handle_of_another_pipeline_is_a_definition_error():
    """ASSET-16: `FS150` names both ways out."""
    other = Pipeline("other")

    @other.asset
    async def rates() -> float:
        return 1.0

    pipe = Pipeline("mine")

    @pipe.asset
    async def report(rate: float = dep(rates)) -> float:
        return rate

    with pytest.raises(DefinitionError, match=r"FS150(.|\n)*include(.|\n)*external=True"):
        pipe.validate()


async def test_a_value_stays_fresh_when_an_external_input_is_deleted(open_engine: OpenEngine):
    """CACHE-03, ASSET-16: like any other upstream's; what has not been computed yet still needs it."""
    up, down, calls = Pipeline("up"), Pipeline("down"), list[float]()

    @up.asset
    async def rates() -> float:
        return 1.5

    @down.asset
    async def shown(rate: float = dep(rates, external=True)) -> float:
        calls.append(rate)
        return rate

    engine = await open_engine(up, down)
    await engine.run(rates)
    assert await engine.run(shown) == 1.5
    await engine.invalidate(rates)
    assert await engine.run(shown) == 1.5
    status = await engine.status(shown)
    assert (status.fresh, calls) == (True, [1.5])
    with pytest.raises(DependencyNotReady):
        await engine.run(shown, force=True)
