"""What came of a run, without raising: RUN-18, RUN-19."""

from __future__ import annotations

import asyncio
from datetime import date

import pytest

from flowstone_async import (
    AssetNotFound,
    Cancelled,
    ConfigError,
    DefinitionError,
    DependencyFailed,
    ExecutionError,
    ParamsError,
    Pipeline,
    Retry,
    StorageError,
    TargetSkipped,
    TimedOut,
    dep,
)
from flowstone_async.io import Memory
from flowstone_async.io.base import ValueRef
from tests.support.engines import OpenEngine, OpenVerbs
from tests.support.gate import Gate, soon


class _All:
    """One asset for each way to end."""

    def __init__(self) -> None:
        self.pipe = pipe = Pipeline("all")

        @pipe.asset
        async def fine() -> list[int]:
            return [1, 2]

        @pipe.asset
        async def bad(fine: list[int]) -> int:
            raise ValueError("no")

        @pipe.asset
        async def blocked(bad: int) -> int:
            return bad

        @pipe.asset(when=never)
        async def skipped() -> int:
            return 1

        @pipe.asset
        async def beside(fine: list[int]) -> int:
            return len(fine)


def never() -> bool:
    return False


async def test_a_report_has_one_entry_for_each_way_to_end(open_verbs: OpenVerbs):
    """RUN-18, RUN-19: without a target it runs every asset."""
    verbs = await open_verbs(_All().pipe)
    report = await verbs.report()
    assert not report.ok
    states = {each.asset: (each.state, each.status) for each in report}
    assert states == {
        "fine": ("ok", "completed"),
        "bad": ("failed", "failed"),
        "blocked": ("blocked", "failed"),
        "skipped": ("skipped", "skipped"),
        "beside": ("ok", "completed"),
    }
    assert report.failed == ("bad",)
    assert report.error is report["bad"].error
    assert isinstance(report["bad"].error, ExecutionError)
    assert isinstance(report["blocked"].error, DependencyFailed)
    assert report["skipped"].reason == "when=never was False"
    assert report["skipped"].error is None
    assert report["fine"].value == [1, 2]
    assert report["bad"].value is None
    assert report["beside"].value == 2
    assert report.run_id
    assert report.seconds >= max(each.seconds for each in report) > 0
    assert report["fine"].attempts == report["bad"].attempts == 1
    assert report["blocked"].attempts == report["skipped"].attempts == 0


async def test_a_report_of_success(open_verbs: OpenVerbs):
    """RUN-19: value, and entries by handle or name; reused ones are `cached`."""
    all_ = _All()
    verbs = await open_verbs(all_.pipe)
    fine = all_.pipe.assets()[0]
    assert fine == "fine"
    report = await verbs.report("beside")
    assert report.ok
    assert report.value == 2
    assert report.failed == ()
    assert report.error is None
    again = await verbs.report("beside", "fine")
    assert again.ok
    assert again.value == (2, [1, 2])
    assert (again["beside"].state, again["fine"].state) == ("cached", "cached")
    assert again["beside"].status == "completed"
    assert again["fine"].value == [1, 2]
    assert again.run_id != report.run_id


async def test_entries_by_handle(open_verbs: OpenVerbs):
    """RUN-19."""
    pipe = Pipeline("handles")

    @pipe.asset
    async def one() -> int:
        return 1

    @pipe.asset
    async def other() -> int:
        return 2

    verbs = await open_verbs(pipe)
    report = await verbs.report(one)
    assert report[one].value == report["one"].value == 1
    with pytest.raises(KeyError, match="other"):
        report[other]
    with pytest.raises(AssetNotFound):
        report["neither"]


async def test_values_of_several_targets_where_one_failed(open_verbs: OpenVerbs):
    """RUN-19: values of assets that succeeded are readable after a failed run."""
    verbs = await open_verbs(_All().pipe)
    report = await verbs.report("fine", "bad")
    assert not report.ok
    assert report.value == ([1, 2], None)
    assert report["fine"].value == [1, 2]


async def test_a_skipped_target_is_reported(open_verbs: OpenVerbs):
    """RUN-18: a skip is no failure, and raises nothing."""
    verbs = await open_verbs(_All().pipe)
    with pytest.raises(TargetSkipped):
        await verbs.run("skipped")
    report = await verbs.report("skipped")
    assert report.ok
    assert report.value is None
    assert report["skipped"].state == "skipped"
    assert report.failed == ()


async def test_failed_assets_come_in_order(open_verbs: OpenVerbs):
    """RUN-19: `failed` in order, `error` is the first."""
    pipe = Pipeline("several")

    async def body(**_: int) -> int:
        raise ValueError("no")

    for name in ("b", "a", "c"):

        async def failing(name: str = name) -> int:
            raise ValueError(name)

        pipe.add(failing, name=name)
    verbs = await open_verbs(pipe)
    report = await verbs.report()
    assert report.failed == ("b", "a", "c")
    assert report.error is not None
    assert report.error.asset == "b"


async def test_retries_are_counted():
    """RUN-19: `attempts`, and the seconds of the last one."""
    pipe, tries = Pipeline("retries"), []

    @pipe.asset(retry=Retry(3, initial="10s", jitter=False))
    async def flaky() -> int:
        tries.append(1)
        if len(tries) < 3:
            raise ValueError("not yet")
        return 1

    async with pipe.test() as t:
        report = await t.report(flaky)
        assert report.ok
        assert report[flaky].attempts == 3
        assert report.seconds == 30


async def test_a_cancelled_run_is_reported(open_verbs: OpenVerbs):
    """RUN-18: states of what had ended, of what was cut off, and no entry for what was never reached."""
    pipe, gate = Pipeline("cancelled"), Gate()

    @pipe.asset
    async def first() -> int:
        return 1

    @pipe.asset
    async def slow(first: int) -> int:
        await gate()
        return first

    verbs = await open_verbs(pipe)
    reporting = asyncio.create_task(verbs.report(slow))
    await gate.reached()
    assert await verbs.cancel(slow) == 1
    report = await soon(reporting)
    assert not report.ok
    assert report.state == "cancelled"
    assert isinstance(report.error, Cancelled)
    assert report["first"].state == "ok"
    assert report["first"].value == 1
    assert report[slow].state == "cancelled"
    assert report[slow].status == "cancelled"
    assert report.failed == ()
    assert report.value is None


async def test_a_run_that_timed_out_is_reported(open_verbs: OpenVerbs):
    """RUN-18, RUN-11."""
    pipe, gate = Pipeline("timeouts"), Gate()

    @pipe.asset
    async def slow() -> int:
        await gate()
        return 1

    verbs = await open_verbs(pipe)
    report = await verbs.report(slow, timeout="20ms")
    assert not report.ok
    assert report.state == "failed"
    assert isinstance(report.error, TimedOut)


async def test_wrong_usage_still_raises(open_verbs: OpenVerbs):
    """RUN-18."""
    verbs = await open_verbs(_All().pipe)
    with pytest.raises(AssetNotFound):
        await verbs.report("fin")
    with pytest.raises(ParamsError):
        await verbs.report("fine", params={"limit": 1})
    with pytest.raises(ConfigError):
        await verbs.report("fine", force="some")  # pyright: ignore[reportArgumentType] - that is the point
    with pytest.raises(TypeError):
        await verbs.report("fine", forced=True)  # pyright: ignore[reportCallIssue] - that is the point


async def test_a_wrong_definition_still_raises():
    """RUN-18."""
    pipe = Pipeline("wrong")

    @pipe.asset
    async def one(nothing: int) -> int:
        return nothing

    with pytest.raises(DefinitionError):
        await pipe.report()


async def test_an_empty_pipeline_is_ok(open_verbs: OpenVerbs):
    """RUN-18."""
    verbs = await open_verbs(Pipeline("empty"))
    report = await verbs.report()
    assert report.ok
    assert list(report) == []
    assert report.value is None


async def test_report_takes_the_options_of_run(open_verbs: OpenVerbs):
    """RUN-18: `force`, `with_deps`, `partition`, `run_id` …"""
    verbs = await open_verbs(_All().pipe)
    day = date(2025, 1, 15)
    report = await verbs.report("beside", with_deps=False, partition=day)
    assert not report.ok
    assert report["beside"].state == "blocked"
    assert report["beside"].partition == day
    await verbs.run("beside", partition=day)
    report = await verbs.report("beside", force="all", partition=day)
    assert {each.asset: each.state for each in report} == {"fine": "ok", "beside": "ok"}
    assert {each.partition for each in report} == {day}


async def test_the_counts_of_a_report(open_verbs: OpenVerbs):
    """RUN-19."""
    verbs = await open_verbs(_All().pipe)
    assert (await verbs.report()).by_state() == {"ok": 2, "failed": 1, "blocked": 1, "skipped": 1}


async def test_a_reused_value_that_cannot_be_read_is_reported(open_verbs: OpenVerbs):
    """RUN-18, STORE-10: the report shows it, instead of raising."""
    lake = Memory()
    verbs = await open_verbs(_All().pipe)
    await verbs.run("beside", io=lake)
    for made in list(lake._values):
        await lake.delete(_ref(made))
    report = await verbs.report("beside", io=lake)
    assert not report.ok
    assert isinstance(report.error, StorageError)
    assert isinstance(report["beside"].error, StorageError)
    assert report.value is None


def _ref(materialization: str) -> ValueRef:
    from flowstone_async.types import AssetKey

    return ValueRef(key=AssetKey("all", "x"), partition=None, materialization=materialization, run_id="", type=int)


async def test_a_handle_gives_the_same_report(open_engine: OpenEngine):
    """RUN-18, JOB-06."""
    engine = await open_engine(_All().pipe)
    handle = await engine.submit("blocked", "fine")
    report = await soon(handle.report())
    assert report.failed == ("bad",)
    assert report["blocked"].state == "blocked"
    assert report.run_id == handle.id


async def test_tolerated_failures_are_listed(open_verbs: OpenVerbs):
    """RUN-19, RUN-13."""
    all_ = _All()

    @all_.pipe.asset
    async def tolerant(bad: int | None = dep("bad", optional=True)) -> bool:
        return bad is None

    verbs = await open_verbs(all_.pipe)
    report = await verbs.report(tolerant)
    assert report.ok
    assert report.value is True
    assert report.failed == ("bad",)
    assert report.tolerated == ("bad",)
