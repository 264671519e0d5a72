"""Time limits of assets and runs: FLOW-09, and what is left of RUN-11."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from flowstone_async import (
    AssetFailed,
    ConfigError,
    DefinitionError,
    DependencyFailed,
    ExecutionError,
    Pipeline,
    RunFailed,
    RunFinished,
    TimedOut,
)
from tests.support.engines import OpenEngine, OpenVerbs
from tests.support.gate import Gate, soon

NEVER = asyncio.Event


async def test_an_attempt_that_takes_too_long_raises_timed_out(open_verbs: OpenVerbs):
    """FLOW-09: with asset, limit and the way out; it is retryable, and recorded as the asset's failure."""
    pipe = Pipeline("limits")
    left: list[str] = []

    @pipe.asset(timeout="20ms")
    async def slow() -> int:
        try:
            await asyncio.Event().wait()
        finally:
            left.append("finally")
        return 1

    @pipe.asset
    async def below(slow: int) -> int:
        return slow

    verbs = await open_verbs(pipe)
    with pytest.raises(TimedOut, match=r"asset 'slow' took longer than its timeout of 0\.02 s") as caught:
        await verbs.run(slow)
    assert isinstance(caught.value, TimeoutError)
    assert (caught.value.asset, caught.value.retryable, caught.value.details["timeout"]) == ("slow", True, 0.02)
    with pytest.raises(DependencyFailed, match="slow"):
        await verbs.run(below)
    assert left == ["finally"] * 2
    status = await verbs.status(slow)
    assert status.state == "failed"
    assert isinstance(status.error, TimedOut)


async def test_the_limit_counts_from_the_start_of_the_attempt_on_the_clock():
    """FLOW-09: not a moment before."""
    pipe = Pipeline("limits")

    @pipe.asset(timeout="10s")
    async def slow() -> int:
        await asyncio.Event().wait()
        return 1

    async with pipe.test() as t:
        run = await t.submit(slow)
        await t.advance(seconds=9.9)
        assert (await run.status()).state == "running"
        await t.advance(seconds=0.1)
        with pytest.raises(TimedOut):
            await run


async def test_a_body_that_swallows_its_cancellation_times_out_all_the_same(open_verbs: OpenVerbs):
    """FLOW-09: what it returns afterwards is dropped, whatever it is."""
    pipe = Pipeline("limits")

    @pipe.asset(timeout="20ms")
    async def stubborn() -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            pass
        return "too late"

    @pipe.asset(timeout="20ms")
    async def angry() -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise ValueError("interrupted") from None
        return ""

    verbs = await open_verbs(pipe)
    for asset in (stubborn, angry):
        with pytest.raises(TimedOut):
            await verbs.run(asset)
        assert not await verbs.exists(asset)


async def test_a_body_that_goes_on_for_ever_after_its_cancellation_is_cut_off():
    """FLOW-09: its `finally` has `cancel_grace`, then it is cancelled at the next await again."""
    pipe = Pipeline("limits")
    reached: list[str] = []

    @pipe.asset(timeout="5s")
    async def slow() -> int:
        try:
            await asyncio.Event().wait()
        finally:
            reached.append("finally")
            await asyncio.Event().wait()
            reached.append("after the wait")
        return 1

    async with pipe.test() as t:
        run = await t.submit(slow)
        await t.advance(seconds=5)
        assert reached == ["finally"]
        await t.advance(seconds=9.9)
        assert (await run.status()).state == "running"
        await t.advance(seconds=0.2)
        with pytest.raises(TimedOut, match="asset 'slow'"):
            await soon(run.result())
        assert reached == ["finally"]


async def test_finally_may_await_within_the_grace():
    """FLOW-09: what it does there is not interrupted."""
    pipe = Pipeline("limits")
    cleaned = asyncio.Event()

    @pipe.asset(timeout="20ms")
    async def slow() -> int:
        try:
            await asyncio.Event().wait()
        finally:
            for _ in range(5):
                await asyncio.sleep(0)
            cleaned.set()
        return 1

    with pytest.raises(TimedOut):
        await pipe.run(slow)
    assert cleaned.is_set()


async def test_child_tasks_end_with_the_body(open_verbs: OpenVerbs):
    """FLOW-09: those of a task group that it awaits; none is left behind."""
    pipe = Pipeline("limits")
    ended: list[int] = []

    async def child(number: int) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(number)

    @pipe.asset(timeout="20ms")
    async def parent() -> int:
        async with asyncio.TaskGroup() as group:
            for number in range(3):
                group.create_task(child(number), name=f"child {number}")
        return 1

    verbs = await open_verbs(pipe)
    with pytest.raises(TimedOut):
        await verbs.run(parent)
    assert sorted(ended) == [0, 1, 2]
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("child")]


async def test_a_body_s_own_timeouts_are_its_own():
    """FLOW-09, ERR-04: `asyncio.timeout` inside a body works as everywhere, with a limit around it."""
    pipe = Pipeline("limits")

    @pipe.asset(timeout="10s")
    async def patient() -> str:
        try:
            async with asyncio.timeout(0.01):
                await asyncio.Event().wait()
        except TimeoutError:
            return "gave up by itself"
        return ""

    @pipe.asset(timeout="10s")
    async def impatient() -> str:
        async with asyncio.timeout(0.01):
            await asyncio.Event().wait()
        return ""

    assert await pipe.run(patient) == "gave up by itself"
    with pytest.raises(ExecutionError, match="TimeoutError") as caught:
        await pipe.run(impatient)
    assert not isinstance(caught.value, TimedOut)


async def test_a_run_s_limit_ends_its_bodies_and_commits_nothing_more(open_verbs: OpenVerbs):
    """RUN-11, FLOW-09: what was committed before stays; exactly one end is told."""
    pipe = Pipeline("limits")
    heard: list[str] = []
    gate = Gate()
    for kind in (RunFailed, RunFinished, AssetFailed):
        pipe.on(kind)(lambda event: heard.append(event.type))

    @pipe.asset
    async def quick() -> int:
        return 1

    @pipe.asset
    async def slow(quick: int) -> int:
        await gate()
        return quick

    verbs = await open_verbs(pipe)
    with pytest.raises(TimedOut, match=r"run of 'slow' took longer than its timeout of 0\.2 s"):
        await verbs.run(slow, timeout=0.2)
    assert gate.left == 1
    assert await verbs.get(quick) == 1
    assert not await verbs.exists(slow)
    assert heard == ["asset.failed", "run.failed", "run.finished"]
    gate.open()
    assert await verbs.run(slow) == 1


async def test_a_body_that_ignores_the_run_s_limit_is_cut_off_after_the_grace(open_engine: OpenEngine):
    """RUN-11, CFG-01: `cancel_grace` bounds how long the caller waits for it."""
    pipe = Pipeline("limits")

    @pipe.asset
    async def stubborn() -> int:
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                if asyncio.current_task().cancelling() > 1:  # type: ignore[union-attr]
                    raise

    engine = await open_engine(pipe, cancel_grace="50ms")
    with pytest.raises(TimedOut, match="run of"):
        await soon(engine.run(stubborn, timeout=0.05))
    assert not engine._live().flights


async def test_a_wait_for_another_run_counts(open_engine: OpenEngine):
    """FLOW-09: the limit of a run bounds its waits too."""
    pipe = Pipeline("limits")
    gate = Gate()

    @pipe.asset
    async def shared() -> int:
        await gate()
        return 1

    engine, other = await open_engine(pipe), await open_engine(pipe)
    first = asyncio.create_task(engine.run(shared))
    await gate.reached()
    with pytest.raises(TimedOut):
        await soon(other.run(shared, force=True, timeout=0.1))
    gate.open()
    assert await soon(first) == 1
    assert gate.calls == 1


@pytest.mark.parametrize("timeout", [0, -1, "soon", True, "0s"])
async def test_a_limit_that_is_no_duration_is_refused(timeout: Any):
    """FLOW-09, G-05: on an asset `FS109`, in a call `ConfigError`; nothing runs."""
    pipe = Pipeline("limits")

    @pipe.asset
    async def one() -> int:
        raise AssertionError

    with pytest.raises(ConfigError, match="timeout="):
        await pipe.run(one, timeout=timeout)
    with pytest.raises(ConfigError):
        await pipe.report(one, timeout=timeout)
    wrong = Pipeline("wrong")

    @wrong.asset(timeout=timeout)
    async def other() -> int:
        return 1

    with pytest.raises(DefinitionError, match="FS109"):
        wrong.validate()


async def test_false_is_no_limit():
    """CFG-02: call before engine, asset before pipeline, False switches off."""
    pipe = Pipeline("limits", timeout="1s")

    @pipe.asset(timeout=False)
    async def endless() -> int:
        await asyncio.Event().wait()
        return 1

    @pipe.asset
    async def limited() -> int:
        await asyncio.Event().wait()
        return 1

    async with pipe.test() as t:
        runs = [await t.submit(endless), await t.submit(limited)]
        await t.advance(hours=5)
        assert (await runs[0].status()).state == "running"
        with pytest.raises(TimedOut):
            await runs[1]


async def test_storing_a_value_is_part_of_the_attempt():
    """FLOW-09: an I/O manager that hangs does not make an asset hang."""
    from flowstone_async import io

    class Stuck(io.Memory):
        async def store(self, ref: Any, value: Any) -> Any:
            await asyncio.Event().wait()

    pipe = Pipeline("limits", io=Stuck(name="stuck"))

    @pipe.asset(timeout="20ms")
    async def one() -> int:
        return 1

    with pytest.raises(TimedOut):
        await pipe.run(one)
