"""Submitted runs (JOB-01 to JOB-06, JOB-10 to JOB-14) in engines on one store, memory and Postgres."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, cast

import asyncpg
import pytest
from pydantic import SecretStr

from flowstone_async import (
    AssetNotFound,
    Cancelled,
    ConfigError,
    Context,
    Daily,
    DependencyFailed,
    DependencyNotReady,
    Engine,
    ExecutionError,
    KeyConflict,
    Keys,
    NothingToCancel,
    ParamsError,
    PartitionError,
    Pipeline,
    Retry,
    RunFinished,
    RunNotFound,
    RunStarted,
    TargetSkipped,
    TimedOut,
)
from flowstone_async import io as ios
from flowstone_async.clock import ManualClock
from tests.support.crash import ended, flight_of, kill, look_for_orphans
from tests.support.engines import OpenEngine, PostgresEngines, SharedEngines
from tests.support.gate import Gate, soon

RARELY: Any = {"poll": "60s"}


@dataclass
class Args:
    limit: int = 1


class _Case:
    """`second` after `first`; `held` waits at the gate; `broken` fails."""

    def __init__(self) -> None:
        self.pipe = Pipeline("case", params=Args)
        self.gate, self.calls = Gate(), list[str]()

        @self.pipe.asset
        async def first(params: Args) -> int:
            self.calls.append("first")
            return params.limit

        @self.pipe.asset
        async def second(first: int) -> int:
            self.calls.append("second")
            return first + 1

        @self.pipe.asset
        async def held(ctx: Context) -> str:
            self.calls.append("held")
            await self.gate()
            return str(ctx.partition)

        @self.pipe.asset
        async def broken() -> int:
            raise ValueError("broken")

        @self.pipe.asset
        async def below(broken: int) -> int:
            return broken

        @self.pipe.asset(when=lambda: False)
        async def skipped() -> int:
            return 1


async def test_a_run_is_stored_and_executed_by_whoever_has_slots(open_engine: OpenEngine):
    """JOB-01, JOB-10: `slots=0` claims none; the handle is there at once; one run holds the whole plan."""
    case = _Case()
    submitting = await open_engine(case.pipe, slots=0)
    run = await submitting.submit("second", params=Args(5))
    assert (await run.status()).state == "queued"
    assert case.calls == []
    before = await run.status()
    assert (before.targets, before.started_at, before.seconds) == (("second",), None, None)
    assert before.waiting_for == "a worker with a free slot"
    await open_engine(case.pipe)
    assert await soon(run) == 6
    after = await run.status()
    assert after.created_at == before.created_at
    assert (after.waiting_for, after.worker, after.error, after.lost) == (None, None, None, 0)
    assert after.created_at is not None
    assert after.started_at is not None
    assert after.finished_at is not None
    assert after.created_at <= after.started_at <= after.finished_at
    assert after.seconds == (after.finished_at - after.started_at).total_seconds()
    assert case.calls == ["first", "second"]
    assert len(await submitting.runs()) == 1


async def test_a_failed_upstream_ends_the_run(open_engine: OpenEngine):
    """JOB-01, RUN-14: as it would end a run that is awaited, told from the store alone."""
    case = _Case()
    submitting = await open_engine(case.pipe, slots=0)
    run = await submitting.submit("below")
    await open_engine(case.pipe)
    with pytest.raises(DependencyFailed, match="'broken' failed") as caught:
        await soon(run)
    assert "ValueError: broken" in str(caught.value.__cause__)
    assert (await run.status()).state == "failed"


async def test_a_skipped_target_is_told_from_the_store(open_engine: OpenEngine):
    """RUN-15."""
    case = _Case()
    submitting = await open_engine(case.pipe, slots=0)
    run = await submitting.submit("skipped")
    await open_engine(case.pipe)
    with pytest.raises(TargetSkipped):
        await soon(run)


async def test_upstreams_that_are_not_there_are_refused_at_submit_and_at_start(open_engine: OpenEngine):
    """JOB-01: `with_deps=False`."""
    case = _Case()
    engine = await open_engine(case.pipe, slots=0)
    with pytest.raises(DependencyNotReady, match="first"):
        await engine.submit("second", with_deps=False)
    assert await engine.runs() == ()
    await engine.run("first")
    run = await engine.submit("second", with_deps=False)
    await engine.invalidate("first")
    await open_engine(case.pipe)
    with pytest.raises(DependencyNotReady, match="first"):
        await soon(run)
    assert case.calls == ["first"]


@pytest.mark.parametrize(
    ("error", "target", "options"),
    [
        (AssetNotFound, "secnd", {}),
        (ParamsError, "second", {"params": {"limit": "many"}}),
        (ConfigError, "second", {"priority": 4}),
        (ConfigError, "second", {"priority": -1}),
        (ConfigError, "second", {"priority": True}),
        (ConfigError, "second", {"priority": "high"}),
        (ConfigError, "second", {"at": datetime(2030, 1, 1)}),  # noqa: DTZ001 - that is what is refused
        (ConfigError, "second", {"at": "2030-01-01T00:00:00Z"}),
        (ConfigError, "second", {"at": 3600}),
        (ConfigError, "second", {"at": datetime.max.replace(tzinfo=UTC)}),
        (ConfigError, "second", {"at": datetime.max.replace(tzinfo=timezone(-timedelta(hours=5)))}),
        (ConfigError, "second", {"at": datetime.min.replace(tzinfo=timezone(timedelta(hours=5)))}),
        (ConfigError, "second", {"key": ""}),
        (ConfigError, "second", {"key": 7}),
        (ConfigError, "second", {"key": "x" * 1025}),
        (ConfigError, "second", {"key": "a\0b"}),
        (ConfigError, "second", {"key": "\ud800"}),
        (ConfigError, "second", {"io": ios.Memory()}),
        (ConfigError, "second", {"io": "nowhere"}),
        (ConfigError, "second", {"conn": object()}),
        (ConfigError, "second", {"timeout": "soon"}),
        (ConfigError, "second", {"concurrency": 0}),
        (ConfigError, "second", {"run_id": "7"}),
        (PartitionError, "second", {"partition": 1.5}),
        (TypeError, "second", {"reporter": print}),
        (TypeError, "second", {"slots": 1}),
    ],
)
async def test_what_cannot_be_submitted_is_refused(
    open_engine: OpenEngine, error: type[Exception], target: str, options: dict[str, Any]
):
    """JOB-01, JOB-04, JOB-12: at the call, and nothing is stored."""
    engine = await open_engine(_Case().pipe, slots=0)
    with pytest.raises(error):
        await engine.submit(target, **options)
    assert await engine.runs() == ()


async def test_secrets_are_refused(open_engine: OpenEngine):
    """JOB-12: they are never stored, so that they could not reach the worker."""

    @dataclass
    class Secret:
        password: SecretStr

    pipe = Pipeline("secret", params=Secret)
    pipe.constant("one", 1)
    engine = await open_engine(pipe, slots=0)
    with pytest.raises(ConfigError, match="password") as caught:
        await engine.submit("one", params=Secret(SecretStr("hunter2")))
    assert "hunter2" not in str(caught.value)


async def test_a_partition_is_checked_at_submit(open_engine: OpenEngine):
    """JOB-01, PART-08."""
    pipe = Pipeline("parts")

    @pipe.asset(partitions=Keys("eu", "us"))
    async def region(partition: str) -> str:
        return partition

    engine = await open_engine(pipe, slots=0)
    for wrong in ("mars", None):
        with pytest.raises(PartitionError):
            await engine.submit("region", partition=wrong)
    assert await engine.runs() == ()


async def test_equal_runs_are_joined_unless_forced(open_engine: OpenEngine):
    """JOB-02: asset, partition, params and io; `force` makes a run of its own."""
    engine = await open_engine(_Case().pipe, slots=0, io={"lake": ios.Memory()})
    first = await engine.submit("second", params=Args(1))
    assert (await engine.submit("second", params={"limit": 1})).id == first.id
    assert (await engine.submit("second", params=Args(1), priority=3, timeout="1h")).id == first.id
    others = [
        await engine.submit("second", params=Args(2)),
        await engine.submit("first"),
        await engine.submit("second", partition="x"),
        await engine.submit("second", io="lake"),
        await engine.submit("second", force=True),
        await engine.submit("second", force=True),
        await engine.submit("second", run_id="0190a000-0000-7000-8000-000000000000"),
    ]
    assert len({first.id, *(other.id for other in others)}) == 8


async def test_a_key_stands_for_one_run(open_engine: OpenEngine):
    """JOB-03: in whatever state, from any engine; used for something else it is refused."""
    case = _Case()
    one, other = await open_engine(case.pipe, slots=0), await open_engine(case.pipe)
    run = await one.submit("second", key="order:1")
    assert await soon(run) == 2
    again = await other.submit("second", key="order:1", force=True, priority=2)
    assert again.id == run.id
    assert await soon(again) == 2
    assert case.calls == ["first", "second"]
    for changed in ({"params": Args(2)}, {"partition": "x"}):
        with pytest.raises(KeyConflict, match="order:1"):
            await one.submit("second", key="order:1", **changed)
    with pytest.raises(KeyConflict):
        await one.submit("first", key="order:1")


@pytest.mark.not_in("evict", reason="whoever was suspended comes again in the order of wakes")
async def test_priorities_decide_who_comes_first(open_engine: OpenEngine):
    """JOB-04."""
    pipe = Pipeline("order")
    seen: list[str] = []

    @pipe.asset
    async def one(ctx: Context) -> int:
        seen.append(str(ctx.partition))
        return 1

    submitting = await open_engine(pipe, slots=0)
    runs = [
        await submitting.submit(one, partition=f"{priority}-{no}", priority=priority)
        for no in range(2)
        for priority in (2, 0, 3, 1)
    ]
    await open_engine(pipe, slots=1)
    await soon(asyncio.gather(*runs))
    assert seen == [f"{priority}-{no}" for priority in range(4) for no in range(2)]


async def test_a_run_waits_for_its_time(engines: SharedEngines):
    """JOB-04: on the store's clock, in any zone."""
    clock, case = ManualClock(), _Case()
    engine = await engines.open(case.pipe, clock=clock, poll="10s")
    at = clock.now() + timedelta(hours=1)
    later = await engine.submit("second", at=at.astimezone(timezone(timedelta(hours=5))))
    assert (await engine.submit("second", at=at)).id == later.id
    assert (await later.status()).at == at
    assert "its time" in ((await later.status()).waiting_for or "")
    await clock.advance(3590)
    assert (await later.status()).state == "queued"
    for _ in range(10_000):
        if (await later.status()).state == "succeeded":
            break
        await clock.advance(1)
    assert await later.result() == 2


@pytest.mark.not_in("evict", reason="a run that waits holds no slot")
async def test_slots_bound_what_is_executed_at_once(open_engine: OpenEngine):
    """JOB-10: `run` takes none of them."""
    case = _Case()
    engine = await open_engine(case.pipe, slots=2, **RARELY)
    runs = [await engine.submit("held", partition=str(no)) for no in range(5)]
    await case.gate.reached(2)
    inline = asyncio.create_task(engine.run("held", partition="inline"))
    await case.gate.reached(3)
    assert case.gate.most == 3
    assert [(await run.status()).state for run in runs] == ["running"] * 2 + ["queued"] * 3
    case.gate.open()
    assert await soon(asyncio.gather(*runs, inline)) == [*"01234", "inline"]


async def test_a_worker_leaves_other_pipelines_alone(open_engine: OpenEngine):
    """JOB-11: a run stays queued for an engine that has its pipeline."""
    other = Pipeline("other")
    other.constant("one", 1)
    submitting, working = await open_engine(other, slots=0), await open_engine(_Case().pipe)
    run = await submitting.submit("one")
    done = await working.submit("first")
    await soon(done)
    assert (await run.status()).state == "queued"
    await open_engine(other)
    assert await soon(run) == 1


async def test_a_queued_run_of_an_asset_that_is_gone_fails(open_engine: OpenEngine):
    """JOB-11: with `AssetNotFound`, once, and the queue goes on; so does one whose params do not fit any more."""
    before, after = Pipeline("changing", params=Args), Pipeline("changing")
    for pipe, name in ((before, "old"), (before, "kept"), (after, "kept")):
        pipe.constant(name, 1)
    submitting = await open_engine(before, slots=0)
    gone, misfit = await submitting.submit("old"), await submitting.submit("kept", params=Args(2))
    working = await open_engine(after)
    with pytest.raises(AssetNotFound, match="old"):
        await soon((await working.find(gone.id)).result())
    assert await soon(ended(working, misfit.id)) is not None
    assert await soon(await working.submit("kept", force=True)) == 1
    assert (await ended(working, gone.id)).lost == 0
    told = [event async for event in (await working.find(gone.id)).events()]
    assert isinstance(told[-1], RunFinished)
    assert told[-1].state == "failed"


@pytest.mark.parametrize(
    ("column", "damage"),
    [("options", "no JSON"), ("options", "[]"), ("targets", "[7]"), ("params", "{"), ("partition", "d:nonsense")],
)
async def test_an_unreadable_run_fails_and_does_not_stop_the_queue(engines: SharedEngines, column: str, damage: str):
    """JOB-11 (durable): it is told why, wherever it is looked at."""
    if not isinstance(engines, PostgresEngines):
        return
    case = _Case()
    submitting = await engines.open(case.pipe, slots=0)
    damaged, other = await submitting.submit("second"), await submitting.submit("first")
    sql = await asyncpg.connect(engines.dsn)
    await sql.execute(f"UPDATE flowstone.run SET {column} = $2 WHERE id = $1::text::uuid", damaged.id, damage)
    await sql.close()
    working = await engines.open(case.pipe)
    assert await soon(other) == 1
    record = await soon(ended(working, damaged.id))
    assert record.state == "failed"
    assert len(await working.runs()) == 2


async def test_all_options_reach_the_worker(open_engine: OpenEngine):
    """JOB-12: however late."""
    case = _Case()
    managers = {"lake": ios.Memory()}
    submitting = await open_engine(case.pipe, slots=0, io=managers)
    run = await submitting.submit(
        "held", partition="p", params=Args(7), force="all", io="lake", timeout="1h", concurrency=3
    )
    working = await open_engine(case.pipe, io=managers)
    await case.gate.reached()
    request = (await soon(flight_of(working, run.id))).driver.request
    assert (request.force, request.io_name, request.timeout, request.concurrency) == ("all", "lake", 3600.0, 3)
    assert (request.partition, request.params) == ("p", Args(7))
    case.gate.open()
    assert await soon(run) == "p"


async def test_the_timeout_counts_from_the_start_and_over_engines(engines: SharedEngines):
    """RUN-11: not from the submission; a continued run has what is left of it."""
    clock, case = ManualClock(), _Case()
    submitting = await engines.open(case.pipe, slots=0, clock=clock, **RARELY)
    run = await submitting.submit("held", timeout="1h")
    await clock.advance(2 * 3600)
    dying = await engines.open(case.pipe, clock=clock, **RARELY)
    await case.gate.reached()
    await clock.advance(1800)
    assert (await run.status()).state == "running"
    await kill(dying)
    await look_for_orphans(submitting)
    driver = (await soon(flight_of(submitting, run.id))).driver
    await case.gate.reached(2)
    assert 1790 <= driver.seconds <= 1900
    await clock.advance(1700)
    assert driver.stopping is None
    await clock.advance(200)
    with pytest.raises(TimedOut):
        await soon(run)


async def test_a_handle_from_any_engine(open_engine: OpenEngine):
    """JOB-06: id, ref, status, result, report, events and cancel; the id of nothing is `RunNotFound`."""
    case = _Case()
    submitting, working = await open_engine(case.pipe, slots=0), await open_engine(case.pipe)
    run = await submitting.submit("second", partition="x")
    assert json.loads(json.dumps(asdict(run.ref))) == {
        "run_id": run.id,
        "pipeline": "case",
        "targets": ["second"],
        "partition": "x",
    }
    for engine in (submitting, working):
        handle = await engine.find(run.id)
        assert await soon(handle) == 2
        report = await handle.report()
        assert (report.ok, report.value, report["first"].value, report["second"].state) == (True, 2, 1, "ok")
        events = [event async for event in handle.events()]
        assert isinstance(events[0], RunStarted)
        assert [event.no async for event in handle.events(after=2)] == [event.no for event in events[2:]]
        assert [event async for event in handle.events(after=2**80)] == []
        for after in (-1, None, True, "2", 1.5):
            with pytest.raises(ConfigError, match="after="):
                await anext(handle.events(after=cast("int", after)))
        with pytest.raises(NothingToCancel):
            await handle.cancel()
    for wrong in ("0190a000-0000-7000-8000-000000000000", "nonsense"):
        with pytest.raises(RunNotFound):
            await working.find(wrong)


async def test_a_report_from_the_store_says_what_the_driver_would(open_engine: OpenEngine):
    """JOB-06, RUN-19: states, attempts, earlier errors, reasons and values."""
    pipe = Pipeline("told")
    attempts: list[int] = []

    @pipe.asset
    async def good() -> int:
        return 1

    @pipe.asset(retry=Retry(3, backoff="none"))
    async def flaky(good: int, ctx: Context) -> int:
        attempts.append(ctx.attempt)
        if ctx.attempt < 3:
            raise ValueError(ctx.attempt)
        return good

    @pipe.asset
    async def bad(good: int) -> int:
        raise KeyError("bad")

    @pipe.asset
    async def blocked(bad: int, flaky: int) -> int:
        return bad + flaky

    @pipe.asset(when=lambda: False)
    async def skipped() -> int:
        return 1

    submitting, working = await open_engine(pipe, slots=0), await open_engine(pipe)
    await working.run("good")
    run = await submitting.submit("blocked", "skipped")
    report = await soon(run.report())
    assert {entry.asset: entry.state for entry in report.entries} == {
        "good": "cached",
        "flaky": "ok",
        "bad": "failed",
        "blocked": "blocked",
        "skipped": "skipped",
    }
    assert (report.ok, report.state, report.failed) == (False, "failed", ("bad",))
    assert isinstance(report.error, ExecutionError)
    assert (report["flaky"].attempts, report["flaky"].value) == (3, 1)
    assert [str(each.__cause__) for each in report["flaky"].earlier] == ["ValueError: 1", "ValueError: 2"]
    assert isinstance(report["blocked"].error, DependencyFailed)
    assert report["skipped"].reason
    assert report.seconds > 0


async def test_waiting_may_end_before_the_run(open_engine: OpenEngine):
    """JOB-06, RUN-17: expiry and cancellation of the wait leave the run alone."""
    case = _Case()
    for engine in (await open_engine(case.pipe), await open_engine(case.pipe, slots=0)):
        run = await engine.submit("held")
        with pytest.raises(TimedOut):
            await run.result(timeout="10ms")
        waiting = asyncio.create_task(run.result())
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    await case.gate.reached()
    case.gate.open()
    assert await soon(run) == "None"
    assert case.calls == ["held"]


async def test_a_queued_run_that_is_cancelled_never_starts(open_engine: OpenEngine):
    """RUN-26: by its handle, by asset and partition; its end is told."""
    case = _Case()
    engine = await open_engine(case.pipe, slots=0)
    one, other = await engine.submit("first"), await engine.submit("second", partition="x")
    await one.cancel()
    assert await engine.cancel("second", partition="x") == 1
    for run in (one, other):
        with pytest.raises(Cancelled):
            await soon(run)
        assert [type(event).__name__ async for event in run.events()] == ["RunCancelled", "RunFinished"]
    working = await open_engine(case.pipe)
    assert await soon(await working.submit("first", force=True)) == 1
    assert case.calls == ["first"]


async def test_a_wait_for_an_asset_sees_the_queue(open_engine: OpenEngine):
    """RUN-25: a queued run of it is active."""
    case = _Case()
    engine = await open_engine(case.pipe, slots=0)
    await engine.submit("first")
    waiting = asyncio.create_task(engine.wait("first"))
    await open_engine(case.pipe)
    assert await soon(waiting) == 1


async def test_runs_are_listed_by_page(open_engine: OpenEngine):
    """JOB-06: by state and asset."""
    engine = await open_engine(_Case().pipe, slots=0)
    ids = [(await engine.submit("first", partition=str(no))).id for no in range(5)]
    await engine.submit("second")
    assert [run.id for run in await engine.runs(asset="first", state="queued", limit=2)] == ids[:-3:-1]
    assert [run.id for run in await engine.runs(asset="first", after=ids[3])] == ids[2::-1]
    assert await engine.runs(state="running") == ()


@pytest.mark.not_in("evict", reason="an equal call joins a run that was suspended")
async def test_full_slots_do_not_keep_a_run_waiting_for_the_dead(open_engine: OpenEngine):
    """JOB-10: whoever waits for a key takes its dead holder over, also without a free slot."""
    case = _Case()
    dying, living = await open_engine(case.pipe, **RARELY), await open_engine(case.pipe, slots=0, poll="20ms")
    run = await dying.submit("held")
    await case.gate.reached()
    waiting = asyncio.create_task(living.run("held"))
    while len(await living.runs()) < 2:
        await asyncio.sleep(0)
    await kill(dying)
    await case.gate.reached(2)
    case.gate.open()
    assert await soon(waiting) == "None"
    assert await soon((await living.find(run.id)).result()) == "None"
    assert case.calls == ["held", "held"]


async def test_an_engine_that_lost_its_lease_comes_back(open_engine: OpenEngine):
    """JOB-07, JOB-08: under another id; it takes its own orphan up again, and new runs."""
    case = _Case()
    engine = await open_engine(case.pipe, poll="20ms")
    before = engine._live().services.worker
    run = await engine.submit("held")
    await case.gate.reached()
    store: Any = engine._store
    expired = store.expire(before)
    if expired is not None:
        await expired
    await case.gate.reached(2)
    assert case.gate.left == 1
    case.gate.open()
    assert await soon(run) == "None"
    assert engine._live().services.worker != before
    assert (await engine.health()).ok
    assert (await engine.runs())[0].lost == 1
    assert await soon(await engine.submit("first")) == 1


async def test_a_daily_asset(open_engine: OpenEngine):
    """JOB-01, PART-02: keys are real objects on both sides."""
    pipe = Pipeline("daily")

    @pipe.asset(partitions=Daily("2025-01-01"))
    async def day(ctx: Context) -> str:
        return str(ctx.partition)

    submitting, _ = await open_engine(pipe, slots=0), await open_engine(pipe)
    when = datetime(2025, 1, 15, tzinfo=UTC).date()
    assert await soon(await submitting.submit(day, partition=when)) == "2025-01-15"


@pytest.mark.parametrize("slots", [-1, 1.5, "many", True, None])
def test_slots_are_a_number(slots: Any):
    """CFG-01."""
    build: Callable[..., Engine] = Engine
    with pytest.raises(ConfigError, match="slots"):
        build(_Case().pipe, store="memory", slots=slots)
