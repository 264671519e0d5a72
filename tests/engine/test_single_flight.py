"""One computation at a time: RUN-16 within a process and across engines, RUN-17 for who cancels what."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from flowstone_async import Cancelled, Engine, ExecutionError, Pipeline, RunStarted, TimedOut
from flowstone_async._engine.verbs import Verbs
from tests.support.engines import OpenEngine, OpenVerbs
from tests.support.gate import Gate, soon


class _Slow:
    """`slow` waits at a gate, gives 1, 2, 3 …, and fails as often as told; `after` comes below it."""

    def __init__(self) -> None:
        self.pipe = pipe = Pipeline("slow")
        self.gate = Gate()
        self.failures = 0
        self.done = 0
        self.runs: list[str] = []

        @pipe.asset
        async def slow() -> int:
            await self.gate()
            if self.failures:
                self.failures -= 1
                raise ValueError("not now")
            self.done += 1
            return self.done

        @pipe.asset
        async def after(slow: int) -> int:
            return slow * 10

        @pipe.asset
        async def beside(slow: int) -> int:
            return slow * 100

        @pipe.on(RunStarted)
        async def note(event: RunStarted) -> None:
            self.runs.append(event.run_id)


async def _quiet() -> None:
    """Let everything that is ready run."""
    for _ in range(100):
        await asyncio.sleep(0)


async def _eventually(true: Callable[[], Awaitable[bool]]) -> None:
    async def look() -> None:
        while not await true():
            await asyncio.sleep(0)

    await soon(look())


async def _running(verbs: Verbs, asset: str) -> None:
    """Wait until another engine sees that an asset is being computed."""

    async def running() -> bool:
        return (await verbs.status(asset)).state == "running"

    await _eventually(running)


# -- within one process -------------------------------------------------------------------------------------------


async def test_an_equal_run_joins_the_one_that_is_running(open_verbs: OpenVerbs):
    """RUN-16: and shares its outcome."""
    slow = _Slow()
    verbs = await open_verbs(slow.pipe)
    callers = [asyncio.create_task(verbs.run("after")) for _ in range(3)]
    await slow.gate.reached()
    callers += [asyncio.create_task(verbs.run("after")) for _ in range(3)]
    await _quiet()
    slow.gate.open()
    assert await soon(asyncio.gather(*callers)) == [10] * 6
    assert slow.gate.calls == 1
    assert len(slow.runs) == 1


async def test_a_joined_failure_reaches_all(open_verbs: OpenVerbs):
    """RUN-16."""
    slow = _Slow()
    slow.failures = 1
    verbs = await open_verbs(slow.pipe)
    callers = [asyncio.create_task(verbs.run("slow")) for _ in range(3)]
    await slow.gate.reached()
    await _quiet()
    slow.gate.open()
    results = await soon(asyncio.gather(*callers, return_exceptions=True))
    assert all(isinstance(each, ExecutionError) for each in results)
    assert slow.gate.calls == 1


async def test_runs_of_one_asset_for_several_targets_compute_it_once(open_verbs: OpenVerbs):
    """RUN-16: no two runs compute the same asset and partition at once; the second waits and reuses."""
    slow = _Slow()
    verbs = await open_verbs(slow.pipe)
    callers = [asyncio.create_task(verbs.run(each)) for each in ("after", "beside", "slow")]
    await slow.gate.reached()
    await _quiet()
    slow.gate.open()
    assert await soon(asyncio.gather(*callers)) == [10, 100, 1]
    assert slow.gate.calls == slow.gate.most == 1
    assert len(slow.runs) == 3


async def test_other_partitions_and_managers_do_not_wait(open_verbs: OpenVerbs):
    """RUN-16: only an equal asset, partition, params and `io` are one flight."""
    slow = _Slow()
    verbs = await open_verbs(slow.pipe)
    callers = [asyncio.create_task(verbs.run("slow", partition=each)) for each in ("a", "b", None)]
    await slow.gate.reached(3)
    slow.gate.open()
    assert sorted(await soon(asyncio.gather(*callers))) == [1, 2, 3]
    assert slow.gate.most == 3


async def test_force_never_joins(open_verbs: OpenVerbs):
    """RUN-16: it starts when the other has ended."""
    slow = _Slow()
    verbs = await open_verbs(slow.pipe)
    plain = asyncio.create_task(verbs.run("slow"))
    await slow.gate.reached()
    forced = [asyncio.create_task(verbs.run("slow", force=True)) for _ in range(2)]
    await _quiet()
    assert slow.gate.calls == 1
    slow.gate.open()
    assert await soon(plain) == 1
    assert sorted(await soon(asyncio.gather(*forced))) == [2, 3]
    assert slow.gate.most == 1


async def test_a_joiner_has_a_timeout_of_its_own(open_verbs: OpenVerbs):
    """RUN-16, RUN-11: it bounds only its own wait, and the run goes on for the others."""
    slow = _Slow()
    verbs = await open_verbs(slow.pipe)
    first = asyncio.create_task(verbs.run("slow"))
    await slow.gate.reached()
    with pytest.raises(TimedOut, match="goes on"):
        await verbs.run("slow", timeout="20ms")
    assert slow.gate.left == 0
    slow.gate.open()
    assert await soon(first) == 1


# -- across engines -----------------------------------------------------------------------------------------------


async def _two(open_engine: OpenEngine, slow: _Slow) -> tuple[Engine, Engine]:
    return await open_engine(slow.pipe, poll="50ms"), await open_engine(slow.pipe, poll="50ms")


async def test_a_second_engine_waits_and_reuses(open_engine: OpenEngine):
    """RUN-16: also across processes."""
    slow = _Slow()
    first, second = await _two(open_engine, slow)
    one = asyncio.create_task(first.run("slow"))
    await slow.gate.reached()
    two = asyncio.create_task(second.run("slow"))
    three = asyncio.create_task(second.run("after"))
    await _runs(second, 3)
    slow.gate.open()
    assert await soon(one) == 1
    assert await soon(two) == 1
    assert await soon(three) == 10
    assert slow.gate.calls == 1
    assert (await second.report("slow"))["slow"].state == "cached"


async def _runs(engine: Engine, count: int) -> None:
    """Wait until the store knows of so many runs that are running."""

    async def known() -> bool:
        return len(await engine.runs(state="running")) == count

    await _eventually(known)


async def test_what_another_run_computed_is_reported_as_reused(open_engine: OpenEngine):
    """RUN-16, RUN-19."""
    slow = _Slow()
    first, second = await _two(open_engine, slow)
    one = asyncio.create_task(first.run("slow"))
    await slow.gate.reached()
    two = asyncio.create_task(second.report("after"))
    await _runs(second, 2)
    slow.gate.open()
    report = await soon(two)
    assert report["slow"].state == "cached"
    assert report["slow"].value == await one == 1
    assert report["after"].state == "ok"


async def test_a_second_engine_computes_itself_if_the_first_failed(open_engine: OpenEngine):
    """RUN-16."""
    slow = _Slow()
    slow.failures = 1
    first, second = await _two(open_engine, slow)
    one = asyncio.create_task(first.run("slow"))
    await slow.gate.reached()
    two = asyncio.create_task(second.run("slow"))
    await _runs(second, 2)
    slow.gate.open()
    with pytest.raises(ExecutionError):
        await soon(one)
    assert await soon(two) == 1
    assert slow.gate.calls == 2
    assert slow.gate.most == 1


async def test_a_second_engine_computes_itself_if_the_first_was_cancelled(open_engine: OpenEngine):
    """RUN-16."""
    slow = _Slow()
    first, second = await _two(open_engine, slow)
    one = asyncio.create_task(first.run("slow"))
    await slow.gate.reached()
    two = asyncio.create_task(second.run("slow"))
    await _runs(second, 2)
    one.cancel()
    with pytest.raises(asyncio.CancelledError):
        await one
    await slow.gate.reached(2)
    slow.gate.open()
    assert await soon(two) == 1


async def test_force_in_a_second_engine_starts_when_the_first_has_ended(open_engine: OpenEngine):
    """RUN-16."""
    slow = _Slow()
    first, second = await _two(open_engine, slow)
    one = asyncio.create_task(first.run("slow"))
    await slow.gate.reached()
    two = asyncio.create_task(second.run("slow", force=True))
    await _runs(second, 2)
    assert slow.gate.calls == 1
    slow.gate.open()
    assert await soon(one) == 1
    assert await soon(two) == 2
    assert slow.gate.most == 1


async def test_many_engines_and_runs_compute_once(open_engine: OpenEngine):
    """RUN-16: whoever comes, the body is called once."""
    slow = _Slow()
    engines = [*await _two(open_engine, slow), *await _two(open_engine, slow)]
    tasks = [asyncio.create_task(each.run(asset)) for each in engines for asset in ("slow", "after", "beside")]
    await slow.gate.reached()
    await _runs(engines[0], 12)
    slow.gate.open()
    assert await soon(asyncio.gather(*tasks)) == [1, 10, 100] * 4
    assert slow.gate.calls == 1


# -- cancelling (RUN-17) ------------------------------------------------------------------------------------------


async def _cancelled(task: asyncio.Task[Any]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await soon(task)


async def test_cancelling_the_awaiting_task_cancels_the_run(open_verbs: OpenVerbs):
    """RUN-17."""
    slow = _Slow()
    verbs = await open_verbs(slow.pipe)
    task = asyncio.create_task(verbs.run("after"))
    await slow.gate.reached()
    await _cancelled(task)
    assert slow.gate.left == 1
    assert (await verbs.status("slow")).state == "cancelled"
    assert not await verbs.exists("slow")


async def test_cancelling_before_anything_has_started(open_verbs: OpenVerbs):
    """RUN-17: at whatever point of its start, no body runs on."""
    for rounds in range(30):
        slow = _Slow()
        verbs = await open_verbs(slow.pipe)
        task = asyncio.create_task(verbs.run("after"))
        for _ in range(rounds):
            await asyncio.sleep(0)
        await _cancelled(task)
        slow.gate.open()
        await _quiet()
        assert slow.gate.calls == slow.gate.left
        assert not await verbs.exists("slow")
        assert slow.done == 0


async def test_a_run_that_others_have_joined_goes_on(open_verbs: OpenVerbs):
    """RUN-17: until the last of them is gone."""
    slow = _Slow()
    verbs = await open_verbs(slow.pipe)
    first = asyncio.create_task(verbs.run("after"))
    await slow.gate.reached()
    second = asyncio.create_task(verbs.run("after"))
    third = asyncio.create_task(verbs.run("after"))
    await _quiet()
    await _cancelled(first)
    await _cancelled(second)
    assert slow.gate.left == 0
    slow.gate.open()
    assert await soon(third) == 10
    assert slow.gate.calls == 1


async def test_the_last_of_several_callers_cancels_the_run(open_verbs: OpenVerbs):
    """RUN-17."""
    slow = _Slow()
    verbs = await open_verbs(slow.pipe)
    tasks = [asyncio.create_task(verbs.run("after")) for _ in range(3)]
    await slow.gate.reached()
    await _quiet()
    for task in tasks:
        assert slow.gate.left == 0
        await _cancelled(task)
    assert slow.gate.left == 1


async def test_a_joiner_that_timed_out_does_not_keep_the_run_alive(open_verbs: OpenVerbs):
    """RUN-17: it is no caller any more."""
    slow = _Slow()
    verbs = await open_verbs(slow.pipe)
    first = asyncio.create_task(verbs.run("slow"))
    await slow.gate.reached()
    with pytest.raises(TimedOut):
        await verbs.run("slow", timeout="20ms")
    await _cancelled(first)
    assert slow.gate.left == 1


async def test_a_new_call_does_not_join_a_run_that_is_being_cancelled(open_verbs: OpenVerbs):
    """RUN-16, RUN-17: it starts its own."""
    slow = _Slow()
    verbs = await open_verbs(slow.pipe)
    first = asyncio.create_task(verbs.run("slow"))
    await slow.gate.reached()
    first.cancel()
    second = asyncio.create_task(verbs.run("slow"))
    with pytest.raises(asyncio.CancelledError):
        await soon(first)
    slow.gate.open()
    assert await soon(second) == 1


async def test_cancelling_the_await_of_a_handle_leaves_the_run_alone(open_engine: OpenEngine):
    """RUN-17."""
    slow = _Slow()
    engine = await open_engine(slow.pipe)
    handle = await engine.submit("after")
    await slow.gate.reached()
    waiting = asyncio.ensure_future(_await(handle))
    await _quiet()
    await _cancelled(waiting)
    assert slow.gate.left == 0
    assert (await handle.status()).state == "running"
    slow.gate.open()
    assert await soon(handle) == 10


async def test_a_submitted_run_that_a_call_has_joined_outlives_it(open_engine: OpenEngine):
    """RUN-17."""
    slow = _Slow()
    engine = await open_engine(slow.pipe)
    handle = await engine.submit("after")
    await slow.gate.reached()
    task = asyncio.create_task(engine.run("after"))
    await _quiet()
    await _cancelled(task)
    assert slow.gate.left == 0
    slow.gate.open()
    assert await soon(handle) == 10
    assert len(slow.runs) == 1


async def test_a_submit_equal_to_a_running_run_joins_it(open_engine: OpenEngine):
    """RUN-17, JOB-02: and keeps it alive when its first caller goes."""
    slow = _Slow()
    engine = await open_engine(slow.pipe)
    task = asyncio.create_task(engine.run("after"))
    await slow.gate.reached()
    handle = await engine.submit("after")
    assert [handle.id] == slow.runs
    await _cancelled(task)
    assert slow.gate.left == 0
    slow.gate.open()
    assert await soon(handle) == 10


async def test_cancelling_one_of_two_engines_leaves_the_other(open_engine: OpenEngine):
    """RUN-17: runs of two engines are two runs; the waiting one is cancelled without harm to the first."""
    slow = _Slow()
    first, second = await _two(open_engine, slow)
    one = asyncio.create_task(first.run("slow"))
    await slow.gate.reached()
    two = asyncio.create_task(second.run("slow"))
    await _runs(second, 2)
    await _quiet()
    await _cancelled(two)
    assert slow.gate.left == 0
    slow.gate.open()
    assert await soon(one) == 1


async def test_a_handle_of_a_run_that_its_caller_cancelled(open_engine: OpenEngine):
    """RUN-17, RUN-27: whoever holds a handle sees `Cancelled`."""
    slow = _Slow()
    engine = await open_engine(slow.pipe)
    task = asyncio.create_task(engine.run("after"))
    await slow.gate.reached()
    handle = await engine.find(slow.runs[0])
    await _cancelled(task)
    with pytest.raises(Cancelled):
        await soon(handle)


async def _await(awaited: Awaitable[Any]) -> Any:
    return await awaited
