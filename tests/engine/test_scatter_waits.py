"""Items of scatters that wait at gates, and are evicted meanwhile (SIG-07, SIG-09, STEP-04, STEP-06 to STEP-08)."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest

from flowstone_async import (
    Batch,
    Batching,
    Context,
    Engine,
    Gathered,
    Pipeline,
    Retry,
    RunHandle,
    ScatterThreshold,
    StorageError,
    TimedOut,
    WaitingSignal,
)
from tests.support.crash import kill, look_for_orphans
from tests.support.engines import OpenEngine, SharedEngines
from tests.support.gate import soon
from tests.support.waits import Desk, in_state, opened, send

SECRET: Any = {"secret": b"s" * 32, "poll": "50ms"}
EVICTED: Any = {**SECRET, "park_after": 0}
PARKED: Any = {**SECRET, "park_after": False}
IN_MEMORY = pytest.mark.not_in("evict", reason="is about bodies in memory")
RESIDENT: Any = {**SECRET, "park_after": "1ms"}


async def parked(engine: Engine, run: RunHandle[Any], count: int, *, others: int = 0) -> str:
    """Return the scatter of a run once so many items of it wait and are in nobody's memory, beside other chunks."""
    return await soon(_parked(engine, run.id, count, others))


async def _parked(engine: Engine, run_id: str, count: int, others: int) -> str:
    store = engine._live().store
    while True:
        for scatter in await store.scatters.of_run(run_id):
            totals = await store.scatters.totals(scatter.id)
            if totals is not None and (totals.parked, totals.open) == (count, count + others):
                return scatter.id
        await store.changed(f"run:{run_id}", within=0.01)


class Jobs:
    """A scatter whose items start something in a step and wait for its callback, and what was called of it."""

    def __init__(self, source: Any, **options: Any) -> None:
        self.desk, self.calls, self.attempts, self.closed = Desk(), Counter[Any](), list[int](), Counter[Any]()
        self.pipe, desk = Pipeline("jobs"), self.desk

        async def start(item: object) -> str:
            self.calls["start", item] += 1
            return f"job {item}"

        @self.pipe.scatter(source, **options)
        async def answered(item: int, ctx: Context) -> str:
            self.calls["body", item] += 1
            self.attempts.append(ctx.attempt)
            try:
                job = await ctx.step(start, item)
                gate = await desk.made(ctx.signal(str, name=str(item)))
                return f"{job}: {await gate}"
            finally:
                with suppress(asyncio.CancelledError):
                    await asyncio.sleep(0)  # as a client that is closed
                self.closed[item] += 1

        self.answered = answered

        @answered.gather
        async def answers(results: Gathered[str]) -> list[str]:
            return [answer async for answer in results]

        self.answers = answers

    async def signal(self, engine: Engine, *items: object) -> None:
        gates = {gate.name: gate.id for gate in self.desk.gates}
        for item in items:
            assert (await send(engine, gates[str(item)], str, f"done {item}")).state == "accepted"


async def test_items_that_wait_hold_nothing_and_each_goes_on_once(open_engine: OpenEngine, engines: SharedEngines):
    """SIG-07, STEP-06, STEP-08: no task and no coroutine; the scatter goes on with the others meanwhile, and ends last."""
    count = 60 if engines.durable else 500
    jobs = Jobs(range(count), max_concurrent=4, page_size=5)  # far more wait than are read ahead
    engine = await open_engine(jobs.pipe, **EVICTED)
    before = len(asyncio.all_tasks())
    run = await engine.submit(jobs.answers)
    await parked(engine, run, count)
    assert len(asyncio.all_tasks()) < before + 20
    assert sum(jobs.closed.values()) == count
    counts = (await run.status()).scatter
    assert counts is not None
    assert (counts.waiting, counts.running, counts.pending, counts.done) == (count, 0, 0, 0)

    await jobs.signal(engine, *reversed(range(count)))

    assert await soon(run.result()) == [f"job {number}: done {number}" for number in range(count)]
    assert {jobs.calls["start", number] for number in range(count)} == {1}
    assert {jobs.calls["body", number] for number in range(count)} == {2}
    assert set(jobs.attempts) == {1}
    assert await engine._live().store.verify() == ()


async def test_a_run_of_which_only_such_items_are_left_is_suspended_and_woken_by_any(open_engine: OpenEngine):
    """SIG-07: whoever awaits it is told; the scatter goes on where it was."""
    jobs = Jobs(range(3))
    engine = await open_engine(jobs.pipe, **EVICTED)
    with pytest.raises(WaitingSignal) as waits:
        await soon(engine.run(jobs.answers))
    status = await engine.status(jobs.answered)
    assert status.state == "waiting"
    assert status.waiting_for is not None
    assert sorted(gate["name"] for gate in waits.value.details["gates"]) == ["0", "1", "2"]
    run = await engine.find(waits.value.run_id)
    for item in (1, 0):
        await in_state(engine, run.id, "waiting")
        await jobs.signal(engine, item)
        await parked(engine, run, 2 if item else 1)
    await in_state(engine, run.id, "waiting")
    await jobs.signal(engine, 2)
    assert await soon(run.result()) == ["job 0: done 0", "job 1: done 1", "job 2: done 2"]
    assert {jobs.calls["start", item] for item in range(3)} == {1}


async def test_a_run_with_such_items_is_suspended_however_often_it_is_looked_whether_any_is_due(
    open_engine: OpenEngine,
):
    """SIG-07: hints come more often than `park_after`, as every 10 s do where that is 30 s."""
    jobs = Jobs(range(2))
    engine = await open_engine(jobs.pipe, **{**SECRET, "poll": "5ms"}, park_after="200ms")
    run = await engine.submit(jobs.answers)
    await in_state(engine, run.id, "waiting")
    await jobs.signal(engine, 0, 1)
    assert await soon(run.result()) == ["job 0: done 0", "job 1: done 1"]


async def test_a_scatter_that_has_not_come_to_begin_keeps_no_run_from_being_suspended(
    open_engine: OpenEngine, monkeypatch: pytest.MonkeyPatch
):
    jobs = Jobs(range(2))

    @jobs.pipe.scatter(range(2))
    async def other(item: int, ctx: Context) -> int:
        return item

    engine = await open_engine(jobs.pipe, **EVICTED)
    scatters = engine._live().store.scatters
    totals, failed = scatters.totals, list[str]()

    async def once(scatter: str) -> Any:
        if not failed and other.name in {
            each.key.asset for each in await scatters.of_run(run.id) if each.id == scatter
        }:
            failed.append(scatter)
            raise StorageError("unreadable")
        return await totals(scatter)

    monkeypatch.setattr(scatters, "totals", once)
    run = await engine.submit(jobs.answers, other)
    await in_state(engine, run.id, "waiting")
    assert failed


@IN_MEMORY
async def test_an_item_in_memory_waits_without_its_place_and_counts_as_waiting(open_engine: OpenEngine):
    jobs = Jobs(range(30), max_concurrent=2, page_size=3)
    engine = await open_engine(jobs.pipe, **PARKED)
    run = await engine.submit(jobs.answers)
    for number in range(30):
        await opened(engine, (await jobs.desk.gate(number)).id)
    counts = (await run.status()).scatter
    assert counts is not None
    assert (counts.waiting, counts.running) == (30, 0)
    assert (await engine.status(jobs.answered)).state == "running"
    await jobs.signal(engine, *range(30))
    assert len(await soon(run.result())) == 30
    assert {jobs.calls["body", number] for number in range(30)} == {1}


@IN_MEMORY
async def test_more_waits_than_may_be_in_memory_evict_the_longest(open_engine: OpenEngine):
    """STEP-06: `max_parked`."""
    jobs = Jobs(range(20))
    engine = await open_engine(jobs.pipe, **PARKED, max_parked=5)
    run = await engine.submit(jobs.answers)
    await parked(engine, run, 15, others=1)
    await jobs.signal(engine, *range(20))
    assert len(await soon(run.result())) == 20
    assert sum(jobs.calls["body", number] for number in range(20)) == 35


async def test_attempts_and_what_failed_count_as_if_nothing_had_waited(open_engine: OpenEngine):
    """STEP-04: eviction uses up no attempt, and a retry waits at the same gate's time again."""
    pipe, desk, attempts, calls = Pipeline("retried"), Desk(), list[int](), Counter[str]()

    @pipe.scatter(["a"], retry=Retry(3, backoff="none"))
    async def answered(item: str, ctx: Context) -> str:
        attempts.append(ctx.attempt)
        answer = await (await desk.made(ctx.signal(str, name=item)))
        calls[item] += 1
        if calls[item] < 3:
            raise ConnectionError("not yet")
        return answer

    engine = await open_engine(pipe, **EVICTED)
    run = await engine.submit(answered)
    await parked(engine, run, 1)
    await send(engine, (await desk.gate()).id, str, "yes")
    found = await soon(run.result())
    assert await found.to_list(limit=2) == ["yes"]
    assert attempts == [1, 1, 2, 3]  # the payload is on record: nobody waits for it again


async def test_time_passes_for_items_in_nobody_s_memory(open_engine: OpenEngine):
    """STEP-05, SIG-06: sleeps and deadlines end; no poll is waited for."""
    pipe, desk = Pipeline("late"), Desk()

    @pipe.scatter(range(11), max_concurrent=1)
    async def waited(number: int, ctx: Context) -> str:
        if number == 10:  # the one in memory
            return await (await desk.made(ctx.signal(str, timeout=False)))
        if number % 2:
            await ctx.sleep("30ms")
            return "slept"
        try:
            return await ctx.signal(str, timeout="30ms")
        except TimedOut:
            return "late"

    @waited.gather
    async def all_of_them(results: Gathered[str]) -> list[str]:
        return [each async for each in results]

    engine = await open_engine(pipe, **{**PARKED, "max_parked": 1, "poll": "30s"})
    run = await engine.submit(all_of_them)
    await soon(_done(run, 10))
    await send(engine, (await desk.gate()).id, str, "signalled")
    assert await soon(run.result()) == [*(["late", "slept"] * 5), "signalled"]


async def _done(run: RunHandle[Any], count: int) -> None:
    while (counts := (await run.status()).scatter) is None or counts.done < count:
        await asyncio.sleep(0)


async def test_some_are_done_while_others_wait_and_fail(open_engine: OpenEngine):
    """SCAT-15: more failures than are tolerated end the scatter, and nobody waits any more."""
    pipe, desk = Pipeline("mixed"), Desk()

    @pipe.scatter(range(6), retry=False, tolerate=0)
    async def mixed(number: int, ctx: Context) -> str:
        if number < 5:
            return await (await desk.made(ctx.signal(str, name=str(number))))
        await ctx.sleep("10ms")
        raise ValueError("five")

    engine = await open_engine(pipe, **EVICTED)
    run = await engine.submit(mixed)
    with pytest.raises(ScatterThreshold):
        await soon(run.result())
    assert (await send(engine, desk.gates[0].id, str, "too late")).state == "closed"
    assert await engine._live().store.verify() == ()


async def test_cancelling_a_run_ends_the_waits_of_its_items(open_engine: OpenEngine):
    jobs = Jobs(range(5))
    engine = await open_engine(jobs.pipe, **RESIDENT)
    run = await engine.submit(jobs.answers)
    await parked(engine, run, 5)
    await run.cancel()
    counts = (await run.status()).scatter
    assert counts is not None
    assert (counts.cancelled, counts.waiting) == (5, 0)
    assert (await send(engine, jobs.desk.gates[0].id, str, "late")).state == "closed"


async def test_what_a_cancelled_run_left_waiting_runs_anew_in_a_retry(open_engine: OpenEngine):
    """RUN-12: other gates, since it is another run; results that are on record stay."""
    jobs = Jobs(range(3))
    engine = await open_engine(jobs.pipe, **RESIDENT)
    run = await engine.submit(jobs.answers)
    await parked(engine, run, 3)
    await jobs.signal(engine, 0)
    await parked(engine, run, 2)
    await run.cancel()
    before, jobs.desk.gates = jobs.desk.gates, []
    again = await engine.retry(run.id)
    await parked(engine, again, 2)
    assert not {gate.id for gate in before} & {gate.id for gate in jobs.desk.gates}
    await jobs.signal(engine, 1, 2)
    assert await soon(again.result()) == ["job 0: done 0", "job 1: done 1", "job 2: done 2"]
    assert jobs.calls["start", 0] == 1


@pytest.mark.parametrize("options", [PARKED, RESIDENT], ids=["in memory", "in nobody's memory"])
async def test_leaving_an_engine_leaves_items_that_wait_to_others(open_engine: OpenEngine, options: Any):
    """STEP-06: shutdown evicts all, and takes no grace."""
    jobs = Jobs(range(8))
    engine = await open_engine(jobs.pipe, **options, grace="60s")
    run = await engine.submit(jobs.answers)
    for number in range(8):
        await opened(engine, (await jobs.desk.gate(number)).id)
    if options is RESIDENT:
        await parked(engine, run, 8)
    other = await open_engine(jobs.pipe, **RESIDENT, slots=0)
    await soon(engine.__aexit__(None, None, None))
    await parked(other, run, 8)
    await jobs.signal(other, *range(8))
    await look_for_orphans(other)
    again = await other.find(run.id)
    assert len(await soon(again.result())) == 8
    assert {jobs.calls["body", number] for number in range(8)} == {2}


async def test_whoever_takes_over_from_the_dead_calls_only_those_that_go_on(open_engine: OpenEngine):
    """SIG-07, SCAT-14: those in nobody's memory died with nobody."""
    jobs = Jobs(range(6))
    engine = await open_engine(jobs.pipe, **RESIDENT)
    run = await engine.submit(jobs.answers)
    await parked(engine, run, 6)
    await kill(engine)
    other = await open_engine(jobs.pipe, **RESIDENT)
    await jobs.signal(other, 2, 4)
    await parked(other, run, 4)
    assert [jobs.calls["body", number] for number in range(6)] == [1, 1, 2, 1, 2, 1]
    await jobs.signal(other, 0, 1, 3, 5)
    assert len(await soon((await other.find(run.id)).result())) == 6


async def test_workers_share_what_waits(open_engine: OpenEngine):
    """SCAT-21: any of them goes on with an item."""
    jobs = Jobs(range(40), max_concurrent=4, page_size=5)
    engine = await open_engine(jobs.pipe, **RESIDENT)
    other = await open_engine(jobs.pipe, **RESIDENT)
    run = await engine.submit(jobs.answers)
    await parked(engine, run, 40)
    await jobs.signal(other, *range(40))
    assert len(await soon(run.result())) == 40
    assert {jobs.calls["start", number] for number in range(40)} == {1}
    assert await engine._live().store.verify() == ()


async def test_a_batch_waits_as_one(open_engine: OpenEngine):
    pipe, desk, sizes = Pipeline("batches"), Desk(), list[int]()

    @pipe.scatter(range(10), batch=Batching(max_items=4), retry=Retry(2, backoff="none"))
    async def answered(numbers: Batch[int], ctx: Context) -> list[int]:
        sizes.append(len(numbers))
        answer = await (await desk.made(ctx.signal(int, name=str(numbers.number))))
        if len(numbers) > 1 and 5 in numbers:
            rest = [answer + number for number in numbers if number != 5]
            raise numbers.failed({list(numbers).index(5): ValueError("five")}, value=rest)
        return [answer + number for number in numbers]

    @answered.gather
    async def flat(results: Gathered[list[int]]) -> list[int]:
        return sorted([each async for each in results.flat()])

    engine = await open_engine(pipe, **RESIDENT)
    run = await engine.submit(flat)
    await parked(engine, run, 3)
    for gate in list(desk.gates):
        await send(engine, gate.id, int, 100)
    alone = await desk.gate(6)  # the batch that 5 makes, which has a body, and a gate, of its own
    await parked(engine, run, 1)
    await send(engine, alone.id, int, 100)
    assert await soon(run.result()) == [100 + number for number in range(10)]
    assert Counter(sizes) == {4: 4, 2: 2, 1: 2}


async def test_a_body_that_awaits_something_else_stays(open_engine: OpenEngine):
    """STEP-07: seen through the group of an item's body."""
    pipe, desk, calls, go_on = Pipeline("busy"), Desk(), Counter[int](), asyncio.Event()

    @pipe.scatter([1, 2])
    async def item(number: int, ctx: Context) -> str:
        calls[number] += 1
        gate = await desk.made(ctx.signal(str, name=str(number)))
        async with asyncio.TaskGroup() as group:
            answer = group.create_task(_wait(gate))
            if number == 1:
                group.create_task(_wait(go_on.wait()))
        return answer.result()

    @item.gather
    async def both(results: Gathered[str]) -> list[str]:
        return [each async for each in results]

    engine = await open_engine(pipe, **EVICTED)
    run = await engine.submit(both)
    await parked(engine, run, 1, others=1)
    assert calls == {1: 1, 2: 1}
    for gate in list(desk.gates):
        await send(engine, gate.id, str, "yes")
    go_on.set()
    assert await soon(run.result()) == ["yes", "yes"]
    assert calls == {1: 1, 2: 2}


async def _wait(what: Any) -> Any:
    return await what


@IN_MEMORY
async def test_a_source_goes_on_being_read_behind_items_that_wait(open_engine: OpenEngine):
    """SIG-07: they are not counted as work at hand, in memory or not."""
    desk, read, pipe = Desk(), list[int](), Pipeline("sources")

    async def numbers() -> AsyncIterator[int]:
        for number in range(100):
            read.append(number)
            yield number

    @pipe.scatter(numbers, page_size=5, max_concurrent=5)
    async def answered(number: int, ctx: Context) -> int:
        return await (await desk.made(ctx.signal(int, name=str(number))))

    engine = await open_engine(pipe, **PARKED, max_parked=20)
    run = await engine.submit(answered)
    await desk.gate(99)
    await parked(engine, run, 80, others=4)
    assert len(read) == 100
    for gate in list(desk.gates):
        await send(engine, gate.id, int, 1)
    assert (await soon(run.result())).succeeded == 100
