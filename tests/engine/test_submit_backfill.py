"""Backfills as durable jobs (RUN-32): submitted, carried out elsewhere, continued after a crash, cancelled."""

from __future__ import annotations

import asyncio
from datetime import date
from typing import Any, cast

import pytest

from flowstone_async import (
    BackfillProgress,
    BackfillReport,
    Cancelled,
    ConfigError,
    Context,
    Daily,
    Engine,
    ExecutionError,
    KeyConflict,
    Keys,
    NothingToCancel,
    Pipeline,
    RunFinished,
    RunNotFound,
    RunStarted,
    TimedOut,
)
from tests.support.crash import kill, look_for_orphans
from tests.support.engines import OpenEngine
from tests.support.gate import Gate, soon
from tests.support.waits import in_state, send

DAYS = Daily("2025-01-01", end="2025-01-10")
RARELY: Any = {"poll": "60s"}


class _Case:
    """`total` of each day, which waits at the gate on days that are held, and fails on days that are bad."""

    def __init__(self, *, held: set[int] | None = None, bad: set[int] | None = None) -> None:
        self.pipe = Pipeline("sales")
        self.calls: list[int] = []
        self.gate = Gate()
        self.held, self.bad = held or set(), bad or set()

        @self.pipe.asset(partitions=DAYS)
        async def total(partition: date) -> int:
            self.calls.append(partition.day)
            if partition.day in self.held:
                await self.gate()
            if partition.day in self.bad:
                raise ValueError(partition.day)
            return partition.day


def _days(*days: int) -> list[date]:
    return [date(2025, 1, day) for day in days]


async def test_a_backfill_is_carried_out_by_another_engine(open_engine: OpenEngine):
    """RUN-32: the submitting one takes nothing on; every partition is a run of its own."""
    case = _Case()
    submitting, working = await open_engine(case.pipe, slots=0), await open_engine(case.pipe)
    job = await submitting.submit_backfill("total", partitions=DAYS.range("2025-01-02", "2025-01-04"), parallel=2)
    report = await soon(job)
    assert report == BackfillReport(succeeded=3)
    assert sorted(case.calls) == [2, 3, 4]
    assert (await job.status()).state == "succeeded"
    assert await submitting.get("total", partition=date(2025, 1, 3)) == 3
    records = await working.runs()
    assert len(records) == 4
    assert {record.options.get("parent") for record in records} == {job.id, None}


async def test_it_counts_like_a_backfill_that_is_awaited(open_engine: OpenEngine):
    """RUN-31, RUN-32: succeeded, failed and skipped add up; failures are in the report, and the job has failed."""
    case = _Case(bad={2, 5})
    engine = await open_engine(case.pipe)
    await engine.run("total", partition=date(2025, 1, 1))
    job = await engine.submit_backfill("total", parallel=3)
    report = await soon(job.result())
    assert (report.succeeded, report.failed, report.skipped, report.not_started) == (7, 2, 1, 0)
    assert {key.day: type(error) for key, error in report.errors.items()} == {2: ExecutionError, 5: ExecutionError}
    assert (await job.status()).state == "failed"
    for again in (await job.progress(), await (await engine.find(job.id)).result()):
        assert (again.succeeded, again.failed, again.skipped, set(again.errors)) == (7, 2, 1, set(report.errors))
    [record] = [each for each in await engine.runs(state="failed") if each.id == job.id]
    assert "2 partitions of 'total' failed; the first: asset 'total' failed" in str(record.error)


@pytest.mark.parametrize(("only", "expected"), [("missing", (7, 2, 1)), ("failed", (0, 1, 9))])
async def test_only_some_partitions(open_engine: OpenEngine, only: Any, expected: tuple[int, int, int]):
    """RUN-30: judged when their turn comes."""
    case = _Case(bad={2, 5})
    engine = await open_engine(case.pipe)
    await engine.run("total", partition=date(2025, 1, 1))
    with pytest.raises(ExecutionError):
        await engine.run("total", partition=date(2025, 1, 2))
    report = await soon((await engine.submit_backfill("total", only=only)).result())
    assert (report.succeeded, report.failed, report.skipped) == expected


@pytest.mark.parametrize(("bad", "left"), [(3, "7 were"), (9, "1 was")])
async def test_halting_leaves_the_rest_out(open_engine: OpenEngine, bad: int, left: str):
    """RUN-31: and says how much that is."""
    case = _Case(bad={bad})
    engine = await open_engine(case.pipe)
    job = await engine.submit_backfill("total", on_error="halt")
    report = await soon(job.result())
    assert (report.succeeded, report.failed, report.not_started) == (bad - 1, 1, 10 - bad)
    assert case.calls == list(range(1, bad + 1))
    [record] = [each for each in await engine.runs(state="failed") if each.id == job.id]
    assert f"1 partition of 'total' failed, {left} not started; the cause: asset 'total' failed" in str(record.error)


async def test_after_a_crash_it_goes_on_with_what_is_left(open_engine: OpenEngine):
    """RUN-32: also with `force`; what had ended is not repeated, what was cut off is called again."""
    case = _Case(held={4})
    dying, living = await open_engine(case.pipe, **RARELY), await open_engine(case.pipe, slots=0, poll="20ms")
    job = await dying.submit_backfill("total", force=True, params=None)
    await case.gate.reached()
    await kill(dying)
    case.gate.open()
    await look_for_orphans(living)
    report = await soon((await living.find(job.id)).result())
    assert report == BackfillReport(succeeded=10)
    assert case.calls == [1, 2, 3, 4, 4, *range(5, 11)]
    events = [event async for event in (await living.find(job.id)).events()]
    assert [event.no for event in events] == list(range(1, len(events) + 1))
    assert len([event for event in events if isinstance(event, RunStarted | RunFinished)]) == 2
    told = [event for event in events if isinstance(event, BackfillProgress)]
    assert sum(len(event.outcomes) for event in told) == 10
    assert told[-1].succeeded == 10


async def test_leaving_the_engine_hands_it_over(open_engine: OpenEngine):
    """JOB-14: the partition at work has its grace, and nothing of it is lost."""
    case = _Case(held={2})
    living = await open_engine(case.pipe, slots=0, poll="20ms")
    more = {} if living._live().services.store.durable else {"io": living._io}
    async with Engine(case.pipe, store=living._choice.place, grace="20s", **RARELY, **more) as leaving:
        job = await leaving.submit_backfill("total", partitions=_days(1, 2, 3))
        await case.gate.reached()
        asyncio.get_running_loop().call_soon(case.gate.open)
    await look_for_orphans(living)
    report = await soon((await living.find(job.id)).result())
    assert report == BackfillReport(succeeded=3)
    assert case.calls == [1, 2, 3]


async def test_an_engine_that_lost_its_lease_comes_back_once_its_job_is_torn_down(open_engine: OpenEngine):
    """JOB-08, RUN-32: or it would take its own orphan up while a hook still hears of the old job's last commit."""
    case, hooked, heard = _Case(held={2}), Gate(), list[BackfillProgress]()
    engine = await open_engine(case.pipe, poll="20ms", hook_timeout="60s")

    @engine.on(BackfillProgress)
    async def hear(event: BackfillProgress) -> None:
        heard.append(event)
        if len(heard) == 1:
            await hooked()

    job = await engine.submit_backfill("total", partitions=_days(1, 2))
    await hooked.reached()
    session = engine._live()
    before, store = session.services.worker, cast("Any", engine._store)
    expired = store.expire(before)
    if expired is not None:
        await expired
    while not session.lost:
        await store.changed("nothing", within=0.01)
    await store.changed("nothing", within=0.1)  # a few polls, in which it could come back
    assert session.services.worker == before
    hooked.open()
    await case.gate.reached()
    assert list(session.jobs) == [job.id]
    assert session.services.worker != before
    case.gate.open()
    assert await soon(job) == BackfillReport(succeeded=2)
    assert (await engine.find(job.id)).id not in session.jobs


@pytest.mark.parametrize("elsewhere", [False, True])
async def test_cancelling_it_cancels_what_is_running(open_engine: OpenEngine, elsewhere: bool):
    """RUN-32, RUN-26."""
    case = _Case(held={2, 3})
    engine, other = await open_engine(case.pipe, poll="20ms"), await open_engine(case.pipe, slots=0)
    job = await engine.submit_backfill("total", parallel=2)
    await case.gate.reached(2)
    if elsewhere:
        await (await other.find(job.id)).cancel()
    else:
        await job.cancel()
    with pytest.raises(Cancelled):
        await soon(job)
    while case.gate.left < 2 or engine._live().flights or engine._live().jobs:
        await asyncio.sleep(0)
    assert sorted(case.calls) == [1, 2, 3]
    assert {record.state for record in await engine.runs()} == {"succeeded", "cancelled"}
    with pytest.raises(NothingToCancel):
        await job.cancel()


async def test_its_partitions_are_not_continued_once_it_was_cancelled(open_engine: OpenEngine):
    """RUN-32: also if nobody drove either at that moment."""
    case = _Case(held={1})
    dying, living = await open_engine(case.pipe, **RARELY), await open_engine(case.pipe, slots=0, poll="20ms")
    job = await dying.submit_backfill("total", partitions=_days(1, 2))
    await case.gate.reached()
    await kill(dying)
    await (await living.find(job.id)).cancel()
    await look_for_orphans(living)
    while {record.state for record in await living.runs()} != {"cancelled"}:
        await asyncio.sleep(0)
    assert case.calls == [1]


async def test_cancelling_it_after_a_crash_cancels_what_is_running(open_engine: OpenEngine):
    """RUN-32: also a partition whose run was begun by another engine, and is continued here."""
    case = _Case(held={1})
    dying, living = await open_engine(case.pipe, **RARELY), await open_engine(case.pipe, slots=0, poll="20ms")
    job = await dying.submit_backfill("total", partitions=_days(1, 2))
    await case.gate.reached()
    await kill(dying)
    await look_for_orphans(living)
    await case.gate.reached(2)
    await (await living.find(job.id)).cancel()
    while {record.state for record in await soon(living.runs())} != {"cancelled"}:
        await living._live().store.changed("run", within=0.01)
    assert case.calls == [1, 1]


def _waits() -> tuple[Pipeline, dict[str, Any]]:
    """Return a pipeline with `total` of each day, which waits for a signal, and options that have it suspended there."""
    pipe = Pipeline("sales")

    @pipe.asset(partitions=DAYS)
    async def total(partition: date, ctx: Context) -> int:
        return await ctx.signal(int)

    return pipe, {"secret": b"s" * 32, "park_after": 0, **RARELY}


async def _suspended(engine: Engine) -> None:
    """Return once the only run of a partition is suspended."""
    async with asyncio.timeout(20):
        while not (found := await engine.gates.waiting(asset="total", kind="signal")):
            await asyncio.sleep(0)
    await in_state(engine, found[0].run_id, "waiting")


@pytest.mark.parametrize("dies", [False, True], ids=["left", "dead"])
async def test_cancelling_it_cancels_what_waits_and_nobody_drives(open_engine: OpenEngine, dies: bool):
    """RUN-32, G-04: a suspended run of a partition has nobody who would hear of it; its gate is closed."""
    pipe, options = _waits()
    driving, other = await open_engine(pipe, **options), await open_engine(pipe, slots=0, **options)
    job = await driving.submit_backfill("total", partitions=_days(1))
    await _suspended(driving)
    await soon(kill(driving) if dies else driving.__aexit__(None, None, None))
    await (await other.find(job.id)).cancel()
    assert {record.state for record in await other.runs()} == {"cancelled"}
    assert not await other.gates.waiting()


async def test_an_engine_that_is_left_does_not_wait_for_what_is_suspended(open_engine: OpenEngine):
    """JOB-14, RUN-32: whoever goes on with it then takes the same runs of partitions."""
    pipe, options = _waits()
    leaving = await open_engine(pipe, **options)
    job = await leaving.submit_backfill("total", partitions=_days(1))
    await _suspended(leaving)
    for _ in range(2):
        await soon(leaving.__aexit__(None, None, None))
        leaving = await open_engine(pipe, **options)
        while job.id not in leaving._live().jobs:
            await asyncio.sleep(0)
    await soon(leaving.__aexit__(None, None, None))
    engine = await open_engine(pipe, **options)
    [gate] = await engine.gates.waiting()
    await send(engine, gate.id, int, 5)
    assert await soon(await engine.find(job.id)) == BackfillReport(succeeded=1)
    assert len(await engine.runs()) == 2


async def test_waiting_for_it_may_end_before_it(open_engine: OpenEngine):
    """JOB-06: and `progress` tells what there is."""
    case = _Case(held={2})
    engine = await open_engine(case.pipe)
    job = await engine.submit_backfill("total", partitions=_days(1, 2))
    await case.gate.reached()
    with pytest.raises(TimedOut):
        await job.result(timeout="10ms")
    assert (await job.status()).state == "running"
    assert (await job.progress()).succeeded == 1
    case.gate.open()
    assert (await soon(job)).succeeded == 2


async def test_a_key_gives_the_same_backfill(open_engine: OpenEngine):
    """JOB-03: another set of partitions is another backfill."""
    engine = await open_engine(_Case().pipe, slots=0)
    first = await engine.submit_backfill("total", partitions=_days(1, 2), key="january")
    assert (await engine.submit_backfill("total", partitions=_days(1, 2), key="january")).id == first.id
    with pytest.raises(KeyConflict):
        await engine.submit_backfill("total", partitions=_days(1, 3), key="january")
    assert (await engine.submit_backfill("total", partitions=_days(1, 2))).id != first.id


async def test_what_cannot_be_a_backfill_is_refused(open_engine: OpenEngine):
    """RUN-29, JOB-12: before anything is stored."""
    pipe = _Case().pipe
    pipe.constant("plain", 1)
    keys = Keys(*map(str, range(3)))

    @pipe.asset(partitions=keys)
    async def other(partition: str) -> str:
        return partition

    engine = await open_engine(pipe, slots=0)
    refused: list[tuple[str, dict[str, Any]]] = [
        ("plain", {}),
        ("total", {"parallel": 0}),
        ("total", {"only": "some"}),
        ("total", {"on_error": "stop"}),
        ("total", {"partitions": [date(2030, 1, 1)]}),
        ("total", {"partitions": "2025-01-01"}),
        ("total", {"priority": 4}),
        ("total", {"params": {"x": 1}}),
        ("total", {"force": "all"}),
        ("plain", {"partitions": range(100_001)}),
    ]
    for asset, options in refused:
        with pytest.raises(ConfigError):
            await engine.submit_backfill(asset, **options)
    assert await engine.runs() == ()


async def test_a_report_of_a_backfill_is_its_result(open_engine: OpenEngine):
    """RUN-32: it computes no asset itself."""
    engine = await open_engine(_Case().pipe)
    job = await engine.submit_backfill("total", partitions=_days(1))
    await soon(job)
    with pytest.raises(ConfigError, match="is a backfill"):
        await (await engine.find(job.id)).report()


async def test_a_backfill_that_is_not_on_record_any_more(open_engine: OpenEngine):
    """CFG-06: it is told so, and is not taken for one without partitions."""
    engine = await open_engine(_Case().pipe)
    job = await engine.submit_backfill("total", partitions=_days(1))
    await soon(job)
    await engine._live().store.prune(runs=0.0, values=None)
    with pytest.raises(RunNotFound):
        await job.progress()
