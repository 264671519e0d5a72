"""Runs that outlive their engine: JOB-09, FLOW-08, JOB-14, RUN-16 in two engines on one store, memory and Postgres."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from flowstone_async import (
    AssetEvent,
    AssetRetrying,
    AssetSucceeded,
    Cancelled,
    ConfigError,
    Context,
    Engine,
    LeaseLost,
    Pipeline,
    Retry,
    RunEvent,
    RunFailed,
    RunFinished,
    RunStarted,
    WorkerLost,
)
from tests.support.crash import ended, flight_of, kill, look_for_orphans
from tests.support.engines import OpenEngine
from tests.support.gate import Gate, soon

RARELY: Any = {"poll": "60s"}


class _Chain:
    """`first`, `second` (which waits at the gate), `third`."""

    def __init__(self, **options: Any) -> None:
        self.pipe = pipe = Pipeline("chain")
        self.calls: list[str] = []
        self.gate = Gate()

        @pipe.asset
        async def first() -> int:
            self.calls.append("first")
            return 1

        @pipe.asset(**options)
        async def second(first: int) -> int:
            self.calls.append("second")
            await self.gate()
            return first + 1

        @pipe.asset
        async def third(second: int) -> int:
            self.calls.append("third")
            return second + 1


async def test_committed_assets_are_not_repeated(open_engine: OpenEngine):
    """JOB-09: another engine continues at what was cut off; the submitted run has one history."""
    case = _Chain()
    dying, living = await open_engine(case.pipe, **RARELY), await open_engine(case.pipe, **RARELY, slots=0)
    run = await dying.submit("third")
    await case.gate.reached()
    await kill(dying)
    assert case.gate.left == 1
    await look_for_orphans(living)
    await case.gate.reached(2)
    case.gate.open()
    handle = await living.find(run.id)
    assert await soon(handle.result()) == 3
    assert case.calls == ["first", "second", "second", "third"]
    events = [event async for event in handle.events()]
    assert [event.no for event in events] == list(range(1, len(events) + 1))
    assert [event.asset for event in events if isinstance(event, AssetSucceeded)] == ["first", "second", "third"]
    assert len([event for event in events if isinstance(event, RunStarted | RunFinished)]) == 2


async def test_the_engine_that_lost_its_lease_commits_nothing(open_engine: OpenEngine):
    """JOB-08: its caller hears `LeaseLost`, and whatever a body still returns is dropped."""
    pipe = Pipeline("stubborn")
    gate = Gate()

    @pipe.asset
    async def stubborn() -> str:
        try:
            await gate()
        except asyncio.CancelledError:
            return "too late"
        return "in time"

    dying, living = await open_engine(pipe, **RARELY), await open_engine(pipe, **RARELY, slots=0)
    running = asyncio.create_task(dying.run(stubborn))
    await gate.reached()
    await kill(dying)
    with pytest.raises(LeaseLost):
        await soon(running)
    assert not await living.exists(stubborn)
    gate.open()
    await look_for_orphans(living)
    assert await soon(living.wait(stubborn)) == "in time"


async def test_an_inline_run_is_continued_too(open_engine: OpenEngine):
    """JOB-10: `engine.run` is a leased run that another engine continues."""
    case = _Chain()
    dying, living = await open_engine(case.pipe, **RARELY), await open_engine(case.pipe, **RARELY, slots=0)
    running = asyncio.create_task(dying.run("third"))
    await case.gate.reached()
    await kill(dying)
    with pytest.raises(LeaseLost):
        await soon(running)
    case.gate.open()
    await look_for_orphans(living)
    assert await soon(living.wait("third")) == 3
    (record,) = await living.runs()
    assert (record.state, record.lost) == ("succeeded", 1)


async def test_upkeep_finds_what_was_left_behind(open_engine: OpenEngine):
    """JOB-09: by itself, every `poll`."""
    case = _Chain()
    dying = await open_engine(case.pipe, **RARELY)
    await dying.submit("third")
    await case.gate.reached()
    await open_engine(case.pipe, poll="10ms")
    await kill(dying)
    await case.gate.reached(2)
    case.gate.open()


async def test_attempts_already_made_count(open_engine: OpenEngine):
    """FLOW-08, JOB-09: the third attempt is the last, though it is the first of another engine."""
    pipe = Pipeline("attempts")
    seen: list[int] = []
    gate = Gate()

    @pipe.asset(retry=Retry(3, backoff="none"))
    async def flaky(ctx: Context) -> int:
        seen.append(ctx.attempt)
        if ctx.attempt == 3:
            await gate()
        raise ValueError(ctx.attempt)

    dying, living = await open_engine(pipe, **RARELY), await open_engine(pipe, **RARELY, slots=0)
    run = await dying.submit(flaky)
    await gate.reached()
    await kill(dying)
    gate.open()
    await look_for_orphans(living)
    report = await soon((await living.find(run.id)).report())
    assert seen == [1, 2, 3, 3]
    status = await living.status(flaky)
    assert (status.state, str(status.error).splitlines()[0]) == ("failed", "asset 'flaky' failed: ValueError: 3")
    assert report[flaky].attempts == 3
    assert [str(each.__cause__) for each in report[flaky].earlier] == ["ValueError: 1", "ValueError: 2"]


async def test_the_due_time_of_the_next_attempt_survives(open_engine: OpenEngine):
    """FLOW-08: another engine waits for what is left of the wait, not from the start and not at all."""
    pipe = Pipeline("due")
    calls: list[int] = []

    @pipe.asset(retry=Retry(2, backoff="fixed", initial="1h", maximum="2h", jitter=False))
    async def flaky(ctx: Context) -> int:
        calls.append(ctx.attempt)
        if ctx.attempt == 1:
            raise ValueError("once")
        return ctx.attempt

    retrying: list[AssetRetrying] = []
    waits = asyncio.Event()

    @pipe.on(AssetRetrying)
    async def hook(event: AssetRetrying) -> None:
        retrying.append(event)
        waits.set()

    dying, living = await open_engine(pipe, **RARELY), await open_engine(pipe, **RARELY, slots=0)
    run = await dying.submit(flaky)
    await soon(waits.wait())
    await kill(dying)
    await look_for_orphans(living)
    driver = (await soon(flight_of(living, run.id))).driver
    await driver.created.wait()
    (waiting,) = await _waits(driver)
    assert calls == [1]
    assert retrying[0].due is not None
    left = retrying[0].due - living._live().services.store.now()
    assert timedelta(minutes=59) < left <= timedelta(hours=1)
    assert waiting.get_name().startswith(f"run {run.id} retry")


async def _waits(driver: Any) -> list[asyncio.Task[Any]]:
    while not driver.waiting:
        await asyncio.sleep(0)
    return list(driver.waiting)


@pytest.mark.parametrize("max_lost", [1, 2])
async def test_a_body_that_kills_its_engine_is_not_called_for_ever(open_engine: OpenEngine, max_lost: int):
    """JOB-09: it is called again at most `max_lost` times, which uses no retry; then it fails with `WorkerLost`."""
    case = _Chain(retry=Retry(5, backoff="none"))
    engines = [
        await open_engine(case.pipe, max_lost=max_lost, slots=slots, **RARELY) for slots in (1, *[0] * (max_lost + 1))
    ]
    run = await engines[0].submit("third")
    for number, (dying, living) in enumerate(zip(engines, engines[1:], strict=False), 1):
        await case.gate.reached(number)
        await kill(dying)
        await look_for_orphans(living)
    last = engines[-1]
    with pytest.raises(Exception, match="second") as caught:
        await soon((await last.find(run.id)).result())
    assert case.calls == ["first"] + ["second"] * (max_lost + 1)
    status = await last.status("second")
    assert isinstance(status.error, WorkerLost)
    assert (status.error.asset, status.error.retryable) == ("second", False)
    assert status.error.details["lost"] == max_lost + 1
    assert caught.value is not None
    assert await last.get("first") == 1


async def test_a_run_that_kills_its_engines_before_it_starts_is_not_taken_for_ever(open_engine: OpenEngine):
    """JOB-09: by a hook, say: nothing of it was ever committed, and no body was cut off."""
    case = _Chain()
    first, second, third = [await open_engine(case.pipe, slots=0, max_lost=1, **RARELY) for _ in range(3)]
    run = await first.submit("third")
    store, other = first._live().store, second._live().store
    [claimed] = await store.claim(first._live().services.worker or "", ["chain"], limit=1)
    assert claimed.id == run.id
    await kill(first)
    assert await other.take_orphans(second._live().services.worker or "", ["chain"], limit=1)
    await kill(second)
    await look_for_orphans(third)
    with pytest.raises(WorkerLost, match="2 workers died"):
        await soon((await third.find(run.id)).result())
    assert case.calls == []


async def test_leaving_an_engine_hands_its_runs_over_at_once(open_engine: OpenEngine):
    """JOB-14: bodies have `grace`, then they are cancelled; no lost attempt is counted."""
    case = _Chain()
    living = await open_engine(case.pipe, slots=0, **RARELY)
    async with _sibling(living, case.pipe, grace="10ms", poll="60s") as leaving:
        run = await leaving.submit("third")
        await case.gate.reached()
    await look_for_orphans(living)
    await case.gate.reached(2)
    case.gate.open()
    assert await soon((await living.find(run.id)).result()) == 3
    assert case.calls == ["first", "second", "second", "third"]
    (record,) = await living.runs()
    assert record.lost == 0


def _sibling(engine: Engine, pipe: Pipeline, **options: Any) -> Engine:
    """Return one more engine on the store of `engine`, not yet entered."""
    store = engine._choice.place
    more = {} if engine._live().services.store.durable else {"io": engine._io}
    return Engine(pipe, store=store, **more, **options)


async def test_a_body_that_ends_within_the_grace_is_committed(open_engine: OpenEngine):
    """JOB-14: what it returns while its engine is being left is kept; what comes after it is another engine's."""
    case = _Chain()
    living = await open_engine(case.pipe, slots=0, **RARELY)
    leaving = _sibling(living, case.pipe, grace="20s", poll="60s")
    await leaving.__aenter__()
    run = await leaving.submit("third")
    await case.gate.reached()
    closing = asyncio.create_task(leaving.__aexit__(None, None, None))
    while leaving._opened is not None:
        await asyncio.sleep(0)
    case.gate.open()
    await soon(closing)
    await look_for_orphans(living)
    assert await soon((await living.find(run.id)).result()) == 3
    assert case.calls == ["first", "second", "third"]


async def test_whoever_awaits_a_run_of_an_engine_that_is_left_hears_of_it(open_engine: OpenEngine):
    """JOB-14: the caller inside gets `Cancelled` with the way forward, and never hangs."""
    case = _Chain()
    living = await open_engine(case.pipe, **RARELY, grace="10ms")
    leaving = _sibling(living, case.pipe, grace="10ms", poll="60s")
    await leaving.__aenter__()
    running = asyncio.create_task(leaving.run("third"))
    await case.gate.reached()
    await soon(leaving.__aexit__(None, None, None))
    with pytest.raises(Cancelled, match="closed before"):
        await soon(running)


async def test_a_cancelled_run_is_not_continued(open_engine: OpenEngine):
    """RUN-26, G-04: cancelled by another engine, it ends where it runs, and nobody takes it up."""
    case = _Chain()
    one, other = await open_engine(case.pipe, poll="20ms"), await open_engine(case.pipe, poll="20ms", slots=0)
    run = await one.submit("third")
    await case.gate.reached()
    await (await other.find(run.id)).cancel()
    with pytest.raises(Cancelled):
        await soon(run.result())
    await _left(case.gate)
    assert not other._live().flights
    assert case.calls == ["first", "second"]


async def _left(gate: Gate) -> None:
    while not gate.left:
        await asyncio.sleep(0)


async def test_a_run_that_no_code_fits_any_more_fails_with_the_reason(open_engine: OpenEngine):
    """JOB-11: an engine without the asset ends the run as failed; the queue goes on."""
    case = _Chain()
    dying = await open_engine(case.pipe, **RARELY)
    run = await dying.submit("third")
    await case.gate.reached()
    await kill(dying)
    changed = Pipeline("chain")
    changed.constant("other", 1)
    living = await open_engine(changed, **RARELY)
    record = await soon(ended(living, run.id))
    assert record.state == "failed"
    assert record.error is not None
    assert (record.error.type, record.error.asset) == ("AssetNotFound", "third")
    assert await living.run("other") == 1


async def test_options_reach_the_engine_that_continues(open_engine: OpenEngine):
    """JOB-12: force, concurrency, time limit and params."""
    from dataclasses import dataclass

    @dataclass
    class Args:
        limit: int = 1

    pipe = Pipeline("options", params=Args)
    gate = Gate()

    @pipe.asset
    async def counted(params: Args) -> int:
        await gate()
        return params.limit

    dying, living = await open_engine(pipe, **RARELY), await open_engine(pipe, **RARELY, slots=0)
    run = await dying.submit(counted, params=Args(9), force="all", concurrency=7, timeout="1h")
    await gate.reached()
    await kill(dying)
    await look_for_orphans(living)
    request = (await soon(flight_of(living, run.id))).driver.request
    assert (request.force, request.concurrency, request.timeout) == ("all", 7, 3600.0)
    gate.open()
    assert await soon((await living.find(run.id)).result()) == 9


async def test_a_run_with_an_io_object_cannot_be_continued(open_engine: OpenEngine, tmp_path: Any):
    """JOB-12, EVT-02: `submit` refuses it; if its engine dies, another ends it with `WorkerLost`, and tells so once."""
    from flowstone_async import io

    case = _Chain()
    heard: list[RunEvent] = []
    case.pipe.on(RunEvent)(heard.append)
    dying, living = await open_engine(case.pipe, **RARELY), await open_engine(case.pipe, **RARELY, slots=0)
    files = io.Files(tmp_path)
    with pytest.raises(ConfigError, match="must be a name"):
        await dying.submit("third", io=files)
    running = asyncio.create_task(dying.run("third", io=files))
    await case.gate.reached()
    await kill(dying)
    with pytest.raises(LeaseLost):
        await soon(running)
    await look_for_orphans(living)
    (record,) = await living.runs()
    record = await soon(ended(living, record.id))
    assert record.state == "failed"
    assert record.error is not None
    assert record.error.type == "WorkerLost"
    told = [event async for event in (await living.find(record.id)).events()]
    assert [event.no for event in told] == list(range(1, len(told) + 1))
    ends = [event for event in told if isinstance(event, RunFailed | RunFinished)]
    assert [type(event) for event in ends] == [RunFailed, RunFinished]
    assert all(isinstance(event.error, WorkerLost) for event in ends)
    while len(heard) < 3:
        await asyncio.sleep(0)
    assert [type(event) for event in heard] == [RunStarted, RunFailed, RunFinished]
    assert heard[-1].state == "failed"


async def test_events_of_a_continued_run_reach_the_hooks_of_its_new_engine(open_engine: OpenEngine):
    """EVT-03: hooks run in the process that made the event; `RunStarted` is not repeated."""
    case = _Chain()
    heard: list[tuple[str, str]] = []
    dying, living = await open_engine(case.pipe, **RARELY), await open_engine(case.pipe, **RARELY, slots=0)
    for kind in (RunEvent, AssetEvent):
        dying.on(kind)(lambda event: heard.append(("dying", event.type)))
        living.on(kind)(lambda event: heard.append(("living", event.type)))
    run = await dying.submit("third")
    await case.gate.reached()
    await kill(dying)
    case.gate.open()
    await look_for_orphans(living)
    await soon((await living.find(run.id)).result())
    by = {who: [kind for each, kind in heard if each == who] for who in ("dying", "living")}
    assert by["dying"][:2] == ["run.started", "asset.started"]
    assert "run.started" not in by["living"]
    assert by["living"][-1] == "run.finished"
    assert ("dying", "run.finished") not in heard
