"""Cancelling runs: RUN-26, RUN-27, G-04."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from datetime import date
from typing import Any

import pytest

from flowstone_async import (
    AssetFinished,
    Cancelled,
    DependencyFailed,
    FlowstoneError,
    NothingToCancel,
    Pipeline,
    Retry,
    RunCancelled,
    RunFailed,
    RunFinished,
    RunSucceeded,
    TimedOut,
)
from flowstone_async._engine.verbs import Verbs
from flowstone_async.clock import settle
from flowstone_async.store.records import RunRecord
from tests.support.engines import OpenEngine, OpenVerbs
from tests.support.gate import Gate, soon


class _Slow:
    """`slow` waits at a gate and may clean up slowly or ignore its cancellation; `after` comes below it."""

    def __init__(self) -> None:
        self.pipe = pipe = Pipeline("slow")
        self.gate, self.cleaning = Gate(), Gate()
        self.cleaning.open()
        self.ignores = False
        self.cleaned = 0
        self.events: list[Any] = []

        @pipe.asset
        async def before() -> int:
            return 1

        @pipe.asset
        async def slow(before: int) -> int:
            try:
                await self.gate()
            except asyncio.CancelledError:
                if not self.ignores:
                    raise
            finally:
                await self.cleaning()
                self.cleaned += 1
            return before

        @pipe.asset
        async def after(slow: int) -> int:
            self.events.append("after was called")
            return slow

        for kind in (RunCancelled, RunFailed, RunFinished, RunSucceeded, AssetFinished):
            pipe.on(kind)(self._hear)

    async def _hear(self, event: Any) -> None:
        self.events.append(type(event).__name__)


async def _started(verbs: Verbs, slow: _Slow, *targets: str, **options: Any) -> asyncio.Task[Any]:
    task = asyncio.create_task(verbs.run(*targets, **options))
    await slow.gate.reached()
    return task


async def test_cancel_stops_the_run(open_verbs: OpenVerbs):
    """RUN-26, RUN-27: no asset starts, nothing commits, bodies get the cancellation; `run` raises `Cancelled`."""
    slow = _Slow()
    verbs = await open_verbs(slow.pipe)
    task = await _started(verbs, slow, "after")
    assert await verbs.cancel("after") == 1
    with pytest.raises(Cancelled) as caught:
        await soon(task)
    assert not isinstance(caught.value, asyncio.CancelledError)
    assert caught.value.run_id
    assert slow.gate.left == slow.cleaned == 1
    assert "after was called" not in slow.events
    assert await verbs.exists("before")
    assert not await verbs.exists("slow")
    slow.gate.open()
    assert await verbs.run("after") == 1


async def test_any_asset_that_the_run_will_compute_names_it(open_verbs: OpenVerbs):
    """RUN-26: `cancel(asset)` of the one that runs, of one below, not of one that ended or was never looked at."""
    for name in ("slow", "after"):
        slow = _Slow()
        verbs = await open_verbs(slow.pipe)
        task = await _started(verbs, slow, "after")
        with pytest.raises(NothingToCancel):
            await verbs.cancel("before")
        await verbs.cancel(name)
        with pytest.raises(Cancelled):
            await soon(task)


async def test_partitions_are_cancelled_one_by_one(open_verbs: OpenVerbs):
    """RUN-26, PART-06."""
    slow = _Slow()
    verbs = await open_verbs(slow.pipe)
    one, two = date(2025, 1, 1), date(2025, 1, 2)
    tasks = [asyncio.create_task(verbs.run("slow", partition=each)) for each in (one, two)]
    await slow.gate.reached(2)
    assert await verbs.cancel("slow", partition=two) == 1
    with pytest.raises(Cancelled):
        await soon(tasks[1])
    assert slow.gate.left == 1
    slow.gate.open()
    assert await soon(tasks[0]) == 1


async def test_all_runs_that_need_the_asset_are_cancelled(open_verbs: OpenVerbs):
    """RUN-26."""
    slow = _Slow()
    verbs = await open_verbs(slow.pipe)
    tasks = [await _started(verbs, slow, name) for name in ("slow", "after")]
    for _ in range(50):
        await asyncio.sleep(0)
    assert await verbs.cancel("slow") >= 1
    for task in tasks:
        with contextlib.suppress(NothingToCancel):
            await verbs.cancel("slow")
        with pytest.raises(Cancelled):
            await soon(task)
    assert not await verbs.exists("slow")


async def test_nothing_to_cancel(open_verbs: OpenVerbs):
    """RUN-26: before, after, and twice."""
    slow = _Slow()
    verbs = await open_verbs(slow.pipe)
    with pytest.raises(NothingToCancel, match="slow"):
        await verbs.cancel("slow")
    slow.cleaning.close()
    task = await _started(verbs, slow, "slow")
    await verbs.cancel("slow")
    with pytest.raises(NothingToCancel):
        await verbs.cancel("slow")
    slow.cleaning.open()
    with pytest.raises(Cancelled):
        await soon(task)
    with pytest.raises(NothingToCancel):
        await verbs.cancel("slow")


async def test_cancel_returns_at_once(open_verbs: OpenVerbs):
    """RUN-26: it records the cancellation and returns; `finally` blocks may await."""
    slow = _Slow()
    slow.cleaning.close()
    verbs = await open_verbs(slow.pipe)
    task = await _started(verbs, slow, "after")
    await soon(verbs.cancel("after"))
    await slow.cleaning.reached()
    assert (await verbs.status("slow")).state == "cancelled"
    assert slow.cleaned == 0
    slow.cleaning.open()
    with pytest.raises(Cancelled):
        await soon(task)
    assert slow.cleaned == 1


async def test_a_body_that_ignores_cancellation(open_verbs: OpenVerbs):
    """RUN-27: cannot turn the run back into a success."""
    slow = _Slow()
    slow.ignores = True
    verbs = await open_verbs(slow.pipe)
    task = await _started(verbs, slow, "after")
    await verbs.cancel("after")
    with pytest.raises(Cancelled):
        await soon(task)
    assert slow.cleaned == 1
    assert not await verbs.exists("slow")
    assert (await verbs.status("slow")).state == "cancelled"
    assert "RunSucceeded" not in slow.events
    assert "after was called" not in slow.events


async def test_a_body_that_outstays_its_grace_is_cut_off():
    """RUN-26: `cancel_grace` [10 s] for `finally`, then every await is cancelled."""
    slow = _Slow()
    slow.cleaning.close()
    async with slow.pipe.test() as t:
        run = await t.submit("after")
        await slow.gate.reached()
        await run.cancel()
        await slow.cleaning.reached()
        await t.advance(seconds=9.9)
        assert slow.cleaning.left == 0
        await t.advance(seconds=0.1)
        assert slow.cleaning.left == 1
        await t.until(run, state="cancelled")
        with pytest.raises(Cancelled):
            await run


async def test_the_engine_sets_the_grace(open_engine: OpenEngine):
    """RUN-26."""
    slow = _Slow()
    slow.cleaning.close()
    engine = await open_engine(slow.pipe, cancel_grace="20ms")
    task = await _started(engine, slow, "after")
    await engine.cancel("after")
    with pytest.raises(Cancelled):
        await soon(task)
    assert slow.cleaning.left == 1
    assert slow.cleaned == 0


async def test_a_cancelled_run_is_never_retried(open_verbs: OpenVerbs):
    """FLOW-08: nor is one that waits for its next attempt."""
    pipe, tries = Pipeline("retries"), Gate()
    tries.open()

    @pipe.asset(retry=Retry(3, initial="1h", maximum="1h"))
    async def flaky() -> int:
        await tries()
        raise ValueError("no")

    verbs = await open_verbs(pipe)
    task = asyncio.create_task(verbs.run(flaky))
    await tries.reached()
    for _ in range(50):
        await asyncio.sleep(0)
    await verbs.cancel(flaky)
    with pytest.raises(Cancelled):
        await soon(task)
    assert tries.calls == 1


async def test_the_events_of_a_cancelled_run(open_verbs: OpenVerbs):
    """EVT-02: one `RunCancelled`, one `RunFinished`, their hooks end before `run` returns; no other end."""
    slow = _Slow()
    verbs = await open_verbs(slow.pipe)
    task = await _started(verbs, slow, "after")
    await verbs.cancel("after")
    with pytest.raises(Cancelled):
        await soon(task)
    assert slow.events.count("RunCancelled") == slow.events.count("RunFinished") == 1
    assert "RunFailed" not in slow.events
    assert "RunSucceeded" not in slow.events


async def test_all_callers_of_a_cancelled_run_hear_of_it(open_verbs: OpenVerbs):
    """RUN-27: those who joined it too."""
    slow = _Slow()
    verbs = await open_verbs(slow.pipe)
    tasks = [await _started(verbs, slow, "after") for _ in range(3)]
    for _ in range(50):
        await asyncio.sleep(0)
    await verbs.cancel("after")
    for task in tasks:
        with pytest.raises(Cancelled):
            await soon(task)


async def test_cancelling_through_a_handle(open_engine: OpenEngine):
    """RUN-26, RUN-27: `RunHandle.cancel` records and returns; awaiting it raises `Cancelled`."""
    slow = _Slow()
    engine = await open_engine(slow.pipe)
    handle = await engine.submit("after")
    await slow.gate.reached()
    await handle.cancel()
    assert (await handle.status()).state == "cancelled"
    with pytest.raises(Cancelled):
        await soon(handle)
    with pytest.raises(NothingToCancel):
        await handle.cancel()
    found = await engine.find(handle.id)
    with pytest.raises(Cancelled):
        await soon(found)


async def test_cancelling_does_not_wait_for_finally_and_awaiting_does(open_engine: OpenEngine):
    """RUN-26, RUN-27: `cancel` returns while bodies clean up; whoever awaits the run hears once they have."""
    slow = _Slow()
    slow.cleaning.close()
    engine = await open_engine(slow.pipe)
    handle = await engine.submit("after")
    await slow.gate.reached()
    await handle.cancel()
    assert slow.cleaned == 0
    assert (await handle.status()).state == "cancelled"
    awaiting = asyncio.ensure_future(handle)
    await settle()
    assert not awaiting.done()
    slow.cleaning.open()
    with pytest.raises(Cancelled):
        await soon(awaiting)
    assert slow.cleaned == 1


async def test_cancelling_from_another_engine(open_engine: OpenEngine):
    """RUN-26, RUN-27: of what is computed there, and of the target; who awaits it there hears `Cancelled`."""
    for name in ("slow", "after"):
        slow = _Slow()
        first, second = await open_engine(slow.pipe, poll="50ms"), await open_engine(slow.pipe)
        task = await _started(first, slow, "after", force="all")
        assert await second.cancel(name) == 1
        with pytest.raises(Cancelled):
            await soon(task)
        assert slow.cleaned == 1
        assert not await second.exists("slow")
        assert slow.events.count("RunCancelled") == slow.events.count("RunFinished") == 1


async def test_a_run_that_is_cancelled_elsewhere_ends_while_its_engine_is_left(open_engine: OpenEngine):
    """RUN-26, JOB-14: the grace is for bodies that may end; who leaves goes on to hear of cancellations."""
    slow = _Slow()
    living = await open_engine(slow.pipe, slots=0)
    leaving = await open_engine(slow.pipe, poll="50ms", grace="1h")
    task = await _started(leaving, slow, "slow")
    session = leaving._live()
    left = asyncio.create_task(leaving.__aexit__(None, None, None))
    while not session.closing:
        await asyncio.sleep(0)
    assert await living.cancel("slow") == 1
    with pytest.raises(Cancelled):
        await soon(task)
    await soon(left)
    assert slow.cleaned == 1


async def test_a_step_that_comes_after_a_cancellation_elsewhere(open_engine: OpenEngine):
    """RUN-27: the run whose commit was refused because somebody cancelled it is cancelled, not lost."""
    slow = _Slow()
    first, second = await open_engine(slow.pipe, poll="1h"), await open_engine(slow.pipe)
    task = await _started(first, slow, "after")
    [run] = await second.runs(state="running")
    handle = await second.find(run.id)
    await handle.cancel()
    slow.gate.open()
    with pytest.raises(Cancelled):
        await soon(task)
    assert not await second.exists("slow")
    assert slow.events.count("RunCancelled") == slow.events.count("RunFinished") == 1


async def test_a_run_that_waits_for_another_is_cancelled(open_engine: OpenEngine):
    """RUN-26: the one that computes goes on."""
    slow = _Slow()
    first, second = await open_engine(slow.pipe), await open_engine(slow.pipe)
    one = await _started(first, slow, "slow")
    handle = await second.submit("after")
    await handle.cancel()
    with pytest.raises(Cancelled):
        await soon(handle)
    assert slow.gate.left == 0
    slow.gate.open()
    assert await soon(one) == 1


async def test_closing_an_engine_leaves_nothing_behind(open_engine: OpenEngine):
    """G-04: bodies have `grace`, then they are cancelled; the awaiting call ends."""
    slow = _Slow()
    engine = await open_engine(slow.pipe, grace="20ms")
    task = await _started(engine, slow, "after")
    before = asyncio.all_tasks()
    await engine.__aexit__(None, None, None)
    with pytest.raises(FlowstoneError):
        await soon(task)
    assert slow.cleaned == 1
    assert not await _left(before)


async def _left(before: set[asyncio.Task[Any]]) -> list[asyncio.Task[Any]]:
    for _ in range(20):
        await asyncio.sleep(0)
    return [each for each in asyncio.all_tasks() - before if not each.done()]


async def test_cancelling_leaves_no_task_behind():
    """G-04."""
    slow = _Slow()
    before = asyncio.all_tasks()
    task = await _started(slow.pipe, slow, "after")
    await slow.pipe.cancel("after")
    with pytest.raises(Cancelled):
        await soon(task)
    assert not await _left(before)


async def test_a_library_cancelled_of_a_body_is_a_failure(open_verbs: OpenVerbs):
    """RUN-27: a body that awaited a cancelled run of another pipeline failed; its own run was not cancelled."""
    inner = _Slow()
    outer = Pipeline("outer")

    @outer.asset
    async def uses() -> int:
        return await inner.pipe.run("after")

    @outer.asset
    async def below(uses: int) -> int:
        return uses

    verbs = await open_verbs(outer)
    task = asyncio.create_task(verbs.report(below))
    await inner.gate.reached()
    await inner.pipe.cancel("after")
    report = await soon(task)
    assert report.state == "failed"
    assert isinstance(report["uses"].error, Cancelled)
    assert isinstance(report["below"].error, DependencyFailed)


async def test_cancelled_error_of_a_body_itself_is_a_failure(open_verbs: OpenVerbs):
    """RUN-27: nobody cancelled the run, and nothing hangs."""
    pipe = Pipeline("odd")

    @pipe.asset
    async def odd() -> int:
        raise asyncio.CancelledError

    verbs = await open_verbs(pipe)
    report = await soon(verbs.report(odd))
    assert report.state == "failed"
    assert report["odd"].error is not None
    assert "nobody cancelled" in report["odd"].error.message


async def test_a_timeout_around_run_is_a_timeout(open_verbs: OpenVerbs):
    """RUN-17: `asyncio.timeout` around `run` cancels the run and raises its own `TimeoutError`."""
    slow = _Slow()
    verbs = await open_verbs(slow.pipe)
    with pytest.raises(TimeoutError) as caught:
        async with asyncio.timeout(0.02):
            await verbs.run("after")
    assert not isinstance(caught.value, TimedOut)
    assert not await verbs.exists("slow")
    assert slow.cleaned == slow.gate.calls


async def test_a_run_that_ended_while_it_was_being_cancelled(open_engine: OpenEngine, monkeypatch: pytest.MonkeyPatch):
    """RUN-26: it is said that nothing was cancelled."""
    pipe = Pipeline("late")
    pipe.constant("first", 1)
    engine = await open_engine(pipe)
    run = await engine.submit("first")
    assert await soon(run) == 1
    over = await run._look()

    async def look() -> RunRecord:
        return replace(over, state="running", finished_at=None)

    monkeypatch.setattr(run, "_look", look)
    with pytest.raises(NothingToCancel, match="succeeded"):
        await run.cancel()
