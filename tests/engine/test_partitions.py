"""Partitions in runs: PART-06 to PART-09."""

from __future__ import annotations

import asyncio
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import pytest

from flowstone_async import (
    Context,
    Daily,
    DefinitionError,
    ExecutionError,
    Hourly,
    Keys,
    PartitionError,
    Pipeline,
    Single,
    dep,
    mapping,
)
from tests.support.engines import OpenEngine, OpenVerbs
from tests.support.gate import Gate, soon

DAYS = Daily("2025-01-01", end="2025-01-10")
ONE, TWO = date(2025, 1, 1), date(2025, 1, 2)


async def test_partitions_are_independent(open_verbs: OpenVerbs):
    """PART-06: values, status, freshness and invalidation."""
    pipe, calls, broken = Pipeline("days"), [], {TWO}

    @pipe.asset(partitions=DAYS)
    async def daily(partition: date) -> int:
        calls.append(partition)
        if partition in broken:
            raise ValueError("no")
        return partition.day

    verbs = await open_verbs(pipe)
    assert await verbs.run(daily, partition=ONE) == 1
    with pytest.raises(ExecutionError):
        await verbs.run(daily, partition=TWO)
    assert (await verbs.status(daily, partition=ONE)).state == "completed"
    assert (await verbs.status(daily, partition=TWO)).state == "failed"
    broken.clear()
    assert await verbs.run(daily, partition=TWO) == 2
    await verbs.invalidate(daily, partition=ONE)
    assert await verbs.get(daily, partition=TWO) == 2
    assert not await verbs.exists(daily, partition=ONE)
    assert calls == [ONE, TWO, TWO]


async def test_partitions_run_at_the_same_time(open_verbs: OpenVerbs):
    """PART-06: claims too are independent."""
    pipe, gate = Pipeline("days"), Gate()

    @pipe.asset(partitions=DAYS)
    async def daily(partition: date) -> int:
        await gate()
        return partition.day

    verbs = await open_verbs(pipe)
    tasks = [asyncio.create_task(verbs.run(daily, partition=each)) for each in (ONE, TWO)]
    await gate.reached(2)
    gate.open()
    assert await soon(asyncio.gather(*tasks)) == [1, 2]


async def test_an_undeclared_asset_follows_the_run(open_verbs: OpenVerbs):
    """PART-07: it sees the run's key, whatever it is, and stores under it."""
    pipe = Pipeline("follows")

    @pipe.asset
    async def shown(ctx: Context, partition: object) -> str:
        assert partition == ctx.partition
        assert type(partition) is type(ctx.partition)
        return repr(partition)

    verbs = await open_verbs(pipe)
    for key in (None, "us", 7, True, ONE, ("us", ONE), "2025-01-01"):
        assert await verbs.run(shown, partition=key) == repr(key)
    assert await verbs.get(shown, partition="2025-01-01") == "'2025-01-01'"
    assert await verbs.get(shown, partition=ONE) == repr(ONE)
    assert await verbs.get(shown) == "None"


async def test_one_instant_is_one_partition(open_verbs: OpenVerbs):
    """PART-05, PART-07: in two zones, given back in UTC."""
    pipe, seen = Pipeline("instants"), []

    @pipe.asset
    async def at(partition: datetime) -> str:
        seen.append(partition)
        return partition.isoformat()

    @pipe.asset(partitions=Hourly("2025-01-01"))
    async def hourly(partition: datetime) -> str:
        seen.append(partition)
        return partition.isoformat()

    verbs = await open_verbs(pipe)
    noon = datetime(2025, 1, 15, 12, tzinfo=UTC)
    elsewhere = noon.astimezone(timezone(timedelta(hours=5)))
    for asset in (at, hourly):
        seen.clear()
        await verbs.run(asset, partition=elsewhere)
        await verbs.run(asset, partition=noon)
        assert seen == [noon]
        assert (await verbs.status(asset, partition=elsewhere)).fresh
    report = await verbs.report(hourly, partition=elsewhere)
    assert report[hourly].partition.utcoffset() == timedelta(0)


async def test_single_is_one_value_whatever_the_key(open_verbs: OpenVerbs):
    """PART-07: `ctx.partition` is `None`."""
    pipe, seen = Pipeline("single"), []

    @pipe.asset(partitions=Single())
    async def config(ctx: Context) -> int:
        seen.append(ctx.partition)
        return 1

    @pipe.asset
    async def total(config: int, partition: object) -> str:
        return f"{config} {partition}"

    verbs = await open_verbs(pipe)
    assert await verbs.run(total, partition="us") == "1 us"
    assert await verbs.run(total, partition="eu") == "1 eu"
    assert await verbs.run(config) == await verbs.run(config, partition="jp") == 1
    assert seen == [None]


@pytest.mark.parametrize(
    "key",
    [None, "2025-01-15", datetime(2025, 1, 1, tzinfo=UTC), 3, date(2024, 12, 31), date(2025, 1, 11)],
    ids=str,
)
async def test_a_wrong_key_is_refused_before_anything_runs(open_verbs: OpenVerbs, key: Any):
    """PART-08: by every verb that takes one."""
    pipe, calls = Pipeline("days"), []

    @pipe.asset
    async def before() -> int:
        calls.append(1)
        return 1

    @pipe.asset(partitions=DAYS)
    async def daily(before: int) -> int:
        calls.append(2)
        return before

    @pipe.asset
    async def after(daily: object = dep(daily, over=mapping(lambda key: [key]))) -> int:
        calls.append(3)
        return 1

    verbs = await open_verbs(pipe)
    for call in (verbs.run, verbs.report, verbs.plan, verbs.get, verbs.exists, verbs.status, verbs.why, verbs.wait):
        with pytest.raises(PartitionError) as caught:
            await call("daily", partition=key)
        assert caught.value.asset == "daily"
        assert "2025-01-01" in str(caught.value)
    assert calls == []


async def test_the_nearest_keys_are_named(open_verbs: OpenVerbs):
    """PART-08: of a list of keys, with a did-you-mean."""
    pipe = Pipeline("regions")

    @pipe.asset(partitions=Keys("us", "eu"))
    async def regional() -> int:
        return 1

    verbs = await open_verbs(pipe)
    with pytest.raises(PartitionError) as caught:
        await verbs.run(regional, partition="uss")
    assert "'us'" in str(caught.value)


async def test_the_same_set_is_matched_key_by_key(open_verbs: OpenVerbs):
    """PART-09."""
    pipe = Pipeline("same")
    grid = DAYS * Keys("us", "eu")

    @pipe.asset(partitions=grid)
    async def raw(partition: tuple[date, str]) -> str:
        return f"{partition[1]} {partition[0]}"

    @pipe.asset(partitions=grid)
    async def shouted(raw: str) -> str:
        return raw.upper()

    verbs = await open_verbs(pipe)
    assert await verbs.run(shouted, partition=(ONE, "us")) == "US 2025-01-01"
    assert await verbs.exists(raw, partition=(ONE, "us"))
    assert not await verbs.exists(raw, partition=(ONE, "eu"))


def test_other_pairs_need_over():
    """PART-09: otherwise `FS130`."""
    pipe = Pipeline("pairs")

    @pipe.asset(partitions=DAYS)
    async def daily() -> int:
        return 1

    @pipe.asset(partitions=Keys("us"))
    async def regional(daily: int) -> int:
        return daily

    with pytest.raises(DefinitionError) as caught:
        pipe.validate()
    assert [each.code for each in caught.value.problems] == ["FS130"]


async def test_over_injects_an_ordered_mapping(open_verbs: OpenVerbs):
    """PART-09: keys before the start of the set are left out, missing ones are computed like any upstream."""
    pipe, calls = Pipeline("weeks"), []

    @pipe.asset(partitions=DAYS)
    async def daily(partition: date) -> int:
        calls.append(partition)
        return partition.day

    @pipe.asset(partitions=DAYS)
    async def week(daily: object = dep(daily, over=DAYS.last(7))) -> list[tuple[date, int]]:
        assert isinstance(daily, dict)
        return list(daily.items())

    verbs = await open_verbs(pipe)
    await verbs.run(daily, partition=TWO)
    calls.clear()
    assert await verbs.run(week, partition=date(2025, 1, 3)) == [(ONE, 1), (TWO, 2), (date(2025, 1, 3), 3)]
    assert sorted(calls) == [ONE, date(2025, 1, 3)]
    calls.clear()
    found = await verbs.run(week, partition=date(2025, 1, 9))
    assert [day.day for day, _ in found] == [3, 4, 5, 6, 7, 8, 9]
    assert len(calls) == 6


async def test_all_and_mapping_and_dimension(open_verbs: OpenVerbs):
    """PART-09: `all()`, `mapping(fn)`, and a product's shared dimension."""
    pipe = Pipeline("over")
    regions = Keys("us", "eu")
    grid = DAYS * regions

    @pipe.asset(partitions=grid)
    async def raw(partition: tuple[date, str]) -> str:
        return f"{partition[1]}{partition[0].day}"

    @pipe.asset(partitions=DAYS)
    async def of_day(raw: object = dep(raw, over=grid.dimension(DAYS))) -> list[str]:
        assert isinstance(raw, dict)
        return list(raw.values())

    @pipe.asset
    async def everything(of_day: object = dep(of_day, over=DAYS.all())) -> int:
        assert isinstance(of_day, dict)
        return len(of_day)

    @pipe.asset(partitions=DAYS)
    async def with_day_before(
        of_day: object = dep(of_day, over=mapping(lambda day: [day - timedelta(days=1), day])),
    ) -> list[int]:
        assert isinstance(of_day, dict)
        return [key.day for key in of_day]

    verbs = await open_verbs(pipe)
    assert await verbs.run(of_day, partition=TWO) == ["us2", "eu2"]
    assert await verbs.run(with_day_before, partition=ONE) == [1]
    assert await verbs.run(with_day_before, partition=TWO) == [1, 2]
    assert await verbs.run(everything) == 10


async def test_a_changed_day_makes_stale_only_the_weeks_that_read_it(open_verbs: OpenVerbs):
    """PART-09, CACHE-08: each dependency with its partition is an input."""
    pipe, weeks, values = Pipeline("weeks"), [], {}

    @pipe.asset(partitions=DAYS)
    async def daily(partition: date) -> int:
        return values.get(partition, partition.day)

    @pipe.asset(partitions=DAYS)
    async def last_two(partition: date, daily: object = dep(daily, over=DAYS.last(2))) -> int:
        assert isinstance(daily, dict)
        weeks.append(partition.day)
        return sum(daily.values())

    verbs = await open_verbs(pipe)
    await verbs.backfill(last_two)
    weeks.clear()
    values[date(2025, 1, 5)] = 50
    await verbs.run(daily, partition=date(2025, 1, 5), force=True)
    report = await verbs.backfill(last_two)
    assert weeks == [5, 6]
    assert (report.succeeded, report.skipped) == (2, 8)
    status = await verbs.status(last_two, partition=date(2025, 1, 6))
    assert status.fresh


async def test_a_failing_key_of_many_is_named(open_verbs: OpenVerbs):
    """PART-09, RUN-14: the upstream's partition."""
    from flowstone_async import DependencyFailed

    pipe = Pipeline("weeks")

    @pipe.asset(partitions=DAYS)
    async def daily(partition: date) -> int:
        if partition == TWO:
            raise ValueError("no")
        return 1

    @pipe.asset(partitions=DAYS)
    async def last_three(daily: object = dep(daily, over=DAYS.last(3))) -> int:
        return 1

    verbs = await open_verbs(pipe)
    with pytest.raises(DependencyFailed, match=r"'daily' \[2025-01-02\]") as caught:
        await verbs.run(last_three, partition=date(2025, 1, 3))
    assert caught.value.__cause__ is not None
    assert getattr(caught.value.__cause__, "partition", None) == TWO


async def test_open_sets_end_with_the_last_closed_window(open_engine: OpenEngine):
    """PART-09, RUN-29: `all()`, and a backfill without partitions."""
    from tests.contract.clock import SetClock

    pipe, days = Pipeline("open"), Daily("2025-05-28")

    @pipe.asset(partitions=days)
    async def daily(partition: date) -> int:
        return partition.day

    @pipe.asset
    async def everything(daily: object = dep(daily, over=days.all())) -> list[int]:
        assert isinstance(daily, dict)
        return [key.day for key in daily]

    engine = await open_engine(pipe, clock=SetClock())
    assert await engine.run(everything) == [28, 29, 30, 31]
    report = await engine.backfill(daily)
    assert (report.succeeded, report.skipped) == (0, 4)
