"""Many partitions of one asset: RUN-29, RUN-30, RUN-31, PART-07 in a backfill."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import pytest

from flowstone_async import (
    BackfillReport,
    Cancelled,
    ConfigError,
    Daily,
    DependencyFailed,
    ExecutionError,
    Keys,
    ParamsError,
    PartitionError,
    Pipeline,
    Single,
    TimedOut,
)
from flowstone_async.clock import ManualClock
from tests.support.engines import OpenEngine, OpenVerbs
from tests.support.gate import Gate, soon

DAYS = Daily("2025-01-01", end="2025-01-05")
FIVE = [date(2025, 1, number) for number in range(1, 6)]


class _Days:
    """`raw` and `total` per day; `raw` waits at a gate and fails on the days told."""

    def __init__(self) -> None:
        self.pipe = pipe = Pipeline("days")
        self.calls: list[Any] = []
        self.gate = Gate()
        self.gate.open()
        self.broken: set[date] = set()

        @pipe.asset(partitions=DAYS)
        async def raw(partition: date) -> int:
            self.calls.append(("raw", partition))
            await self.gate()
            if partition in self.broken:
                raise ValueError(f"no {partition}")
            return partition.day

        @pipe.asset(partitions=DAYS)
        async def total(raw: int, partition: date) -> int:
            self.calls.append(("total", partition))
            return raw * 10

    def taken(self, name: str) -> list[date]:
        """Return the days that an asset was called for since this was last asked."""
        found = [day for each, day in self.calls if each == name]
        self.calls[:] = [each for each in self.calls if each[0] != name]
        return found


def _counts(report: BackfillReport) -> tuple[int, int, int, int]:
    return report.succeeded, report.failed, report.skipped, report.not_started


# -- which partitions (RUN-29) ------------------------------------------------------------------------------------


async def test_a_backfill_runs_every_partition_given(open_verbs: OpenVerbs):
    """RUN-29: in the order given, with each partition's missing upstreams."""
    days = _Days()
    verbs = await open_verbs(days.pipe)
    report = await verbs.backfill("total", partitions=[FIVE[2], FIVE[0]])
    assert _counts(report) == (2, 0, 0, 0)
    assert report.ok
    assert report.errors == {}
    assert days.calls == [(name, day) for day in (FIVE[2], FIVE[0]) for name in ("raw", "total")]
    assert await verbs.get("total", partition=FIVE[2]) == 30


async def test_without_partitions_a_finite_set_is_used_in_full(open_verbs: OpenVerbs):
    """RUN-29."""
    days = _Days()
    verbs = await open_verbs(days.pipe)
    assert _counts(await verbs.backfill("total")) == (5, 0, 0, 0)
    assert days.taken("total") == FIVE


async def test_without_partitions_and_without_a_set(open_verbs: OpenVerbs):
    """RUN-29: a `ConfigError`; for a `Single` too, which has no keys."""
    pipe = Pipeline("none")

    @pipe.asset
    async def undeclared() -> int:
        return 1

    @pipe.asset(partitions=Single())
    async def single() -> int:
        return 1

    verbs = await open_verbs(pipe)
    for asset in ("undeclared", "single"):
        with pytest.raises(ConfigError, match="partitions"):
            await verbs.backfill(asset)


async def test_any_keys_of_an_undeclared_asset(open_verbs: OpenVerbs):
    """RUN-29: it follows the run's key, whatever that is."""
    pipe = Pipeline("any")

    @pipe.asset
    async def shown(partition: object) -> str:
        return repr(partition)

    verbs = await open_verbs(pipe)
    report = await verbs.backfill(shown, partitions=[1, "1", True, FIVE[0], (1, "a")])
    assert _counts(report) == (5, 0, 0, 0)
    assert await verbs.get(shown, partition="1") == "'1'"
    assert await verbs.get(shown, partition=True) == "True"


async def _lazily() -> AsyncIterator[date]:
    for day in FIVE:
        await asyncio.sleep(0)
        yield day


def _generated() -> Iterator[date]:
    yield from FIVE


@pytest.mark.parametrize(
    "make",
    [_lazily, _generated, lambda: set(FIVE), lambda: DAYS.range(FIVE[0], FIVE[4])],
    ids=["async", "generator", "set", "range"],
)
@pytest.mark.parametrize("parallel", [1, 3])
async def test_any_iterable(open_verbs: OpenVerbs, make: Any, parallel: int):
    """RUN-29: sync or async, or a range of the set."""
    days = _Days()
    verbs = await open_verbs(days.pipe)
    report = await verbs.backfill("total", partitions=make(), parallel=parallel)
    assert _counts(report) == (5, 0, 0, 0)
    assert sorted(days.taken("total")) == FIVE


async def test_duplicates_count_once(open_verbs: OpenVerbs):
    """RUN-29."""
    days = _Days()
    verbs = await open_verbs(days.pipe)
    report = await verbs.backfill("total", partitions=[*FIVE, *FIVE, FIVE[0]], parallel=3, force=True)
    assert _counts(report) == (5, 0, 0, 0)
    assert len(days.taken("total")) == 5


async def test_no_partitions_at_all(open_verbs: OpenVerbs):
    """RUN-29, RUN-31."""
    verbs = await open_verbs(_Days().pipe)
    report = await verbs.backfill("total", partitions=[])
    assert _counts(report) == (0, 0, 0, 0)
    assert report.ok


async def test_nothing_is_read_ahead(open_verbs: OpenVerbs):
    """RUN-29, G-03: an endless iterable is fine; a key is asked for when there is room to run it."""
    days, asked = _Days(), []

    def endless() -> Iterator[date]:
        for number in range(10**9):
            asked.append(number)
            yield FIVE[number % 5] + timedelta(days=0 if number < 5 else 10_000)

    days.gate.close()
    verbs = await open_verbs(days.pipe)
    task = asyncio.create_task(verbs.backfill("total", partitions=endless(), parallel=2))
    await days.gate.reached(2)
    assert len(asked) == 2
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await soon(task)
    assert days.gate.left == 2


async def test_the_callers_generator_is_closed(open_verbs: OpenVerbs):
    """RUN-29: an async generator's `finally` runs before `backfill` returns, however it ends."""
    closed: list[str] = []

    async def keys() -> AsyncIterator[date]:
        try:
            for day in FIVE:
                yield day
        finally:
            closed.append("closed")

    days = _Days()
    days.gate.close()
    verbs = await open_verbs(days.pipe)
    task = asyncio.create_task(verbs.backfill("total", partitions=keys()))
    await days.gate.reached()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await soon(task)
    assert closed == ["closed"]


async def test_an_iterable_that_fails(open_verbs: OpenVerbs):
    """RUN-29: what it raises is raised as it is, once the running partitions have ended."""
    days = _Days()

    def keys() -> Iterator[date]:
        yield FIVE[0]
        yield FIVE[1]
        raise OSError("the list is gone")

    verbs = await open_verbs(days.pipe)
    with pytest.raises(OSError, match="the list is gone"):
        await verbs.backfill("total", partitions=keys(), parallel=2)
    assert sorted(days.taken("total")) == FIVE[:2]


@pytest.mark.parametrize("wrong", ["2025-01-01", 1.5, None, date(2030, 1, 1), [1]])
async def test_a_wrong_key_in_a_list_runs_nothing(open_verbs: OpenVerbs, wrong: object):
    """PART-08: raised before anything runs."""
    days = _Days()
    verbs = await open_verbs(days.pipe)
    with pytest.raises(PartitionError):
        await verbs.backfill("total", partitions=[FIVE[0], wrong])
    assert days.calls == []


@pytest.mark.parametrize("wrong", ["2025-01-01", 1.5, [1]])
async def test_a_wrong_key_of_a_generator_fails_alone(open_verbs: OpenVerbs, wrong: object):
    """RUN-31: what comes lazily cannot be checked before; it counts as failed and the rest go on."""
    verbs = await open_verbs(_Days().pipe)
    report = await verbs.backfill("total", partitions=iter([FIVE[0], wrong, FIVE[1]]))
    assert _counts(report) == (2, 1, 0, 0)
    [error] = report.errors.values()
    assert isinstance(error, PartitionError)


@pytest.mark.parametrize("wrong", ["2025-01-01", 3, date(2025, 1, 1)])
async def test_partitions_that_are_no_series(open_verbs: OpenVerbs, wrong: Any):
    """RUN-29: a single key is not a list of keys, and text is not a list of letters."""
    verbs = await open_verbs(_Days().pipe)
    with pytest.raises(ConfigError, match="list"):
        await verbs.backfill("total", partitions=wrong)


async def test_a_range_outside_the_set(open_verbs: OpenVerbs):
    """PART-08: a range of another set."""
    days = _Days()
    verbs = await open_verbs(days.pipe)
    with pytest.raises(PartitionError):
        await verbs.backfill("total", partitions=Daily("2030-01-01").range(date(2030, 1, 1), date(2030, 1, 3)))
    assert days.calls == []


# -- options (RUN-30) ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [{"parallel": 0}, {"parallel": True}, {"only": "some"}, {"on_error": "stop"}, {"timeout": 0}, {"force": "some"}],
)
async def test_bad_options_run_nothing(open_verbs: OpenVerbs, options: dict[str, Any]):
    """RUN-30, G-05."""
    days = _Days()
    verbs = await open_verbs(days.pipe)
    with pytest.raises(ConfigError):
        await verbs.backfill("total", partitions=FIVE, **options)
    assert days.calls == []


@pytest.mark.parametrize("parallel", [1, 2, 4])
async def test_parallel_bounds_partitions_running_at_once(open_verbs: OpenVerbs, parallel: int):
    """RUN-30: [1], not merely started."""
    days = _Days()
    days.gate.close()
    verbs = await open_verbs(days.pipe)
    options: dict[str, Any] = {} if parallel == 1 else {"parallel": parallel}
    task = asyncio.create_task(verbs.backfill("total", partitions=FIVE, **options))
    await days.gate.reached(parallel)
    for _ in range(100):
        await asyncio.sleep(0)
    assert days.gate.calls == parallel
    days.gate.open()
    assert _counts(await soon(task)) == (5, 0, 0, 0)
    assert days.gate.most == parallel


async def test_fresh_partitions_are_skipped(open_verbs: OpenVerbs):
    """RUN-30, RUN-31: with `force` they are not; fresh upstreams are reused."""
    days = _Days()
    verbs = await open_verbs(days.pipe)
    await verbs.backfill("total", partitions=FIVE[:2])
    days.calls.clear()
    assert _counts(await verbs.backfill("total")) == (3, 0, 2, 0)
    assert days.taken("raw") == FIVE[2:]
    days.calls.clear()
    assert _counts(await verbs.backfill("total", force=True)) == (5, 0, 0, 0)
    assert days.taken("total") == FIVE
    assert days.taken("raw") == []


async def test_only_missing_failed_or_stale(open_verbs: OpenVerbs):
    """RUN-30."""
    pipe, broken, version = Pipeline("only"), {FIVE[1]}, [1]

    @pipe.asset(partitions=DAYS, cache=False)
    async def raw(partition: date) -> int:
        return version[0] if partition == FIVE[2] else 0

    @pipe.asset(partitions=DAYS)
    async def total(raw: int, partition: date) -> int:
        if partition in broken:
            raise ValueError("no")
        return raw

    verbs = await open_verbs(pipe)
    await verbs.backfill(total, partitions=FIVE[:4])
    # FIVE: fresh, failed, about to be stale, fresh, missing
    version[0] = 2
    await verbs.run(raw, partition=FIVE[2])
    report = await verbs.backfill(total, only="failed")
    assert _counts(report) == (0, 1, 4, 0)
    broken.clear()
    assert _counts(await verbs.backfill(total, only="failed")) == (1, 0, 4, 0)
    assert _counts(await verbs.backfill(total, only="missing")) == (1, 0, 4, 0)
    assert await verbs.get(total, partition=FIVE[2]) == 1
    assert _counts(await verbs.backfill(total, only="stale"))[0] == 1
    assert await verbs.get(total, partition=FIVE[2]) == 2


async def test_only_failed_includes_what_timed_out(open_engine: OpenEngine):
    """RUN-30: a partition that timed out counts as failed, in the next backfill too."""
    days, clock = _Days(), ManualClock()
    days.gate.close()
    verbs = await open_engine(days.pipe, clock=clock)
    filling = asyncio.ensure_future(verbs.backfill("raw", partitions=FIVE[:1], timeout="20m"))
    await days.gate.reached()
    await clock.advance(20 * 60)
    assert (await soon(filling)).failed == 1
    assert (await verbs.status("raw", partition=FIVE[0])).state == "failed"
    assert isinstance((await verbs.status("raw", partition=FIVE[0])).error, TimedOut)
    days.gate.open()
    assert _counts(await verbs.backfill("raw", only="failed")) == (1, 0, 4, 0)


@dataclass
class _Args:
    factor: int = 1


async def test_only_stale_is_judged_with_the_params_given(open_verbs: OpenVerbs):
    """RUN-30, CACHE-08."""
    pipe = Pipeline("params", params=_Args)

    @pipe.asset(partitions=DAYS)
    async def scaled(partition: date, params: _Args) -> int:
        return partition.day * params.factor

    verbs = await open_verbs(pipe)
    assert _counts(await verbs.backfill(scaled, params=_Args(2))) == (5, 0, 0, 0)
    assert _counts(await verbs.backfill(scaled, params=_Args(2), only="stale")) == (0, 0, 5, 0)
    assert _counts(await verbs.backfill(scaled, params={"factor": 3}, only="stale")) == (5, 0, 0, 0)
    assert await verbs.get(scaled, partition=FIVE[4]) == 15
    with pytest.raises(ParamsError):
        await verbs.backfill(scaled, params={"fcator": 3})


async def test_a_timeout_is_per_partition(open_verbs: OpenVerbs):
    """RUN-30: one that times out counts as failed, while the rest go on."""
    pipe, gate = Pipeline("slow"), Gate()

    @pipe.asset(partitions=DAYS)
    async def slow(partition: date) -> int:
        if partition == FIVE[1]:
            await gate()
        return 1

    verbs = await open_verbs(pipe)
    report = await soon(verbs.backfill(slow, timeout="500ms"))
    assert _counts(report) == (4, 1, 0, 0)
    assert isinstance(report.errors[FIVE[1]], TimedOut)
    assert gate.left == 1


@pytest.mark.parametrize(
    ("options", "expected"), [({}, 1800.0), ({"timeout": "2s"}, 2.0), ({"timeout": False}, None)], ids=str
)
async def test_the_default_timeout_is_30_minutes(options: dict[str, Any], expected: float | None):
    """RUN-30, CFG-02."""
    days, seen = _Days(), []
    days.gate.close()
    task = asyncio.create_task(days.pipe.backfill("total", partitions=FIVE[:1], **options))
    await days.gate.reached()
    for here in days.pipe._here.values():
        assert here._session is not None
        seen += [flight.driver.request.timeout for flight in here._session.flights.values()]
    assert seen == [expected]
    days.gate.open()
    await soon(task)


async def test_progress_is_told_after_each_partition(open_verbs: OpenVerbs):
    """RUN-30: what `on_progress` raises stops nothing."""
    days, told = _Days(), []

    def tell(report: BackfillReport) -> None:
        told.append(sum(_counts(report)))
        raise ValueError("no matter")

    verbs = await open_verbs(days.pipe)
    assert _counts(await verbs.backfill("total", on_progress=tell)) == (5, 0, 0, 0)
    assert told == [1, 2, 3, 4, 5]


# -- the report (RUN-31) ------------------------------------------------------------------------------------------


async def test_failed_partitions_do_not_stop_the_rest(open_verbs: OpenVerbs):
    """RUN-31: `on_error="continue"`; errors by partition, as real keys."""
    days = _Days()
    days.broken = {FIVE[1], FIVE[3]}
    verbs = await open_verbs(days.pipe)
    report = await verbs.backfill("total", parallel=2)
    assert _counts(report) == (3, 2, 0, 0)
    assert not report.ok
    assert set(report.errors) == {FIVE[1], FIVE[3]}
    error = report.errors[FIVE[1]]
    assert isinstance(error, DependencyFailed)
    assert isinstance(error.__cause__, ExecutionError)
    assert error.partition == FIVE[1]
    assert {key async for key, _ in report.failures()} == {FIVE[1], FIVE[3]}


async def test_halt_starts_no_further_partition(open_verbs: OpenVerbs):
    """RUN-31: after the first failure; running ones finish, the others count as `not_started`."""
    days = _Days()
    days.broken = {FIVE[0]}
    days.gate.close()
    verbs = await open_verbs(days.pipe)
    task = asyncio.create_task(verbs.backfill("total", parallel=2, on_error="halt"))
    await days.gate.reached(2)
    days.gate.open()
    report = await soon(task)
    assert _counts(report) == (1, 1, 0, 3)
    assert not report.ok
    assert sorted(days.taken("raw")) == FIVE[:2]


async def test_halt_without_a_failure_is_like_continue(open_verbs: OpenVerbs):
    """RUN-31."""
    verbs = await open_verbs(_Days().pipe)
    assert _counts(await verbs.backfill("total", on_error="halt")) == (5, 0, 0, 0)


async def test_what_a_condition_skips_counts_as_skipped(open_verbs: OpenVerbs):
    """RUN-31."""
    pipe = Pipeline("skips")

    async def odd(partition: date) -> bool:
        return partition.day % 2 == 1

    @pipe.asset(partitions=DAYS, when=odd)
    async def some(partition: date) -> int:
        return 1

    verbs = await open_verbs(pipe)
    report = await verbs.backfill(some)
    assert _counts(report) == (3, 0, 2, 0)
    assert report.ok


async def test_the_first_hundred_errors_and_the_rest(open_verbs: OpenVerbs):
    """RUN-31: `errors` has 100, `failures()` all of them."""
    pipe = Pipeline("many")

    @pipe.asset
    async def bad(partition: int) -> int:
        raise ValueError(f"no {partition}")

    verbs = await open_verbs(pipe)
    report = await verbs.backfill(bad, partitions=range(230), parallel=20)
    assert _counts(report) == (0, 230, 0, 0)
    assert len(report.errors) == 100
    failures = {key: error async for key, error in report.failures()}
    assert set(failures) == set(range(230))
    for key, error in failures.items():
        assert isinstance(error, ExecutionError)
        assert f"no {key}" in error.message
        assert error.partition == key


async def test_a_cancelled_partition_counts_as_failed(open_verbs: OpenVerbs):
    """RUN-31, RUN-27: the rest go on."""
    days = _Days()
    days.gate.close()
    verbs = await open_verbs(days.pipe)
    task = asyncio.create_task(verbs.backfill("total"))
    await days.gate.reached()
    await verbs.cancel("total", partition=FIVE[0])
    await days.gate.reached(2)
    days.gate.open()
    report = await soon(task)
    assert _counts(report) == (4, 1, 0, 0)
    assert isinstance(report.errors[FIVE[0]], Cancelled)


# -- shared upstreams ---------------------------------------------------------------------------------------------


async def test_a_single_upstream_is_computed_once(open_verbs: OpenVerbs):
    """PART-07: `Single()` gives exactly one value whatever the key, for a whole backfill; `ctx.partition` is None."""
    pipe, calls = Pipeline("single"), []

    @pipe.asset(partitions=Single())
    async def config(partition: object) -> int:
        calls.append(partition)
        await asyncio.sleep(0)
        return 7

    @pipe.asset(partitions=DAYS)
    async def total(config: int, partition: date) -> int:
        return config * partition.day

    verbs = await open_verbs(pipe)
    assert _counts(await verbs.backfill(total, parallel=5)) == (5, 0, 0, 0)
    assert calls == [None]
    assert await verbs.get(config) == 7
    assert await verbs.get(config, partition=FIVE[0]) == 7


async def test_an_undeclared_upstream_follows_each_key(open_verbs: OpenVerbs):
    """PART-07: it sees each partition's key, and stores under it."""
    pipe, calls = Pipeline("follows"), []

    @pipe.asset
    async def raw(partition: str) -> str:
        calls.append(partition)
        return partition.upper()

    @pipe.asset(partitions=Keys("us", "eu"))
    async def total(raw: str) -> str:
        return raw

    verbs = await open_verbs(pipe)
    assert _counts(await verbs.backfill(total, parallel=2)) == (2, 0, 0, 0)
    assert sorted(calls) == ["eu", "us"]
    assert await verbs.get(raw, partition="eu") == "EU"


async def test_two_backfills_at_once_compute_each_partition_once(open_engine: OpenEngine):
    """RUN-29, RUN-16: also from two engines."""
    days = _Days()
    first, second = await open_engine(days.pipe, poll="50ms"), await open_engine(days.pipe, poll="50ms")
    days.gate.close()
    tasks = [asyncio.create_task(each.backfill("total", parallel=5)) for each in (first, second)]
    await days.gate.reached(5)
    days.gate.open()
    reports = await soon(asyncio.gather(*tasks))
    assert sum(each.succeeded for each in reports) == 5
    assert sum(each.skipped for each in reports) == 5
    assert sorted(days.taken("raw")) == sorted(days.taken("total")) == FIVE


async def test_a_finite_set_that_ends_in_the_future(open_verbs: OpenVerbs):
    """RUN-29: a finite set is used in full."""
    pipe = Pipeline("future")
    days = Daily("2100-01-01", end="2100-01-03")

    @pipe.asset(partitions=days)
    async def total(partition: date) -> int:
        return partition.day

    verbs = await open_verbs(pipe)
    assert _counts(await verbs.backfill(total)) == (3, 0, 0, 0)
