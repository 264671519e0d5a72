"""What is told of assets that a run's end cut off: by its timeout (RUN-11, RUN-19, RUN-24), by a cancellation (EVT-01)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from flowstone_async import (
    AssetEvent,
    AssetFailed,
    AssetFinished,
    AssetStarted,
    Cancelled,
    Engine,
    Event,
    Pipeline,
    Retry,
    RunCancelled,
    RunFinished,
    TimedOut,
)
from flowstone_async.clock import ManualClock, settle
from tests.support.engines import OpenEngine, SharedEngines
from tests.support.gate import Gate, soon


async def test_a_report_and_the_status_agree_on_what_a_timeout_cut_off(open_engine: OpenEngine) -> None:
    """RUN-19, RUN-24: an asset that waited for its next attempt is failed in both, with the attempts it had."""
    pipe, clock = Pipeline("cut"), ManualClock()

    @pipe.asset(retry=Retry(5, initial="10s", jitter=False))
    async def waits() -> int:
        raise ValueError("not yet")

    @pipe.asset
    async def below(waits: int) -> int:
        return waits

    engine = await open_engine(pipe, clock=clock)
    reporting = asyncio.ensure_future(engine.report(below, timeout="3s"))
    while (await engine.status(waits)).state != "running":
        await settle()
    while not reporting.done():
        await clock.advance(1)
    report = await soon(reporting)
    entry = report[waits]
    assert (entry.state, entry.attempts) == ("failed", 1)
    assert isinstance(entry.error, TimedOut)
    assert [str(error.__cause__) for error in entry.earlier] == ["not yet"]
    assert report.failed == ("waits",)
    assert report[below].state == "cancelled"
    status = await engine.status(waits)
    assert status.state == "failed"
    assert isinstance(status.error, TimedOut)


async def test_a_body_that_ignores_its_cancellation_is_recorded_too(open_engine: OpenEngine) -> None:
    """RUN-11, RUN-24, EVT-01: as failed, with its events; what it returns too late is dropped."""
    pipe, clock, tries = Pipeline("cut"), ManualClock(), list[int]()

    @pipe.asset
    async def stubborn() -> int:
        for number in range(3):
            tries.append(number)
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                continue
        return 3

    told: list[Event] = []
    pipe.on(AssetEvent)(told.append)
    engine = await open_engine(pipe, clock=clock, cancel_grace="2s")
    running = asyncio.ensure_future(engine.run(stubborn, timeout="1s"))
    while not tries:
        await settle()
    while not running.done():
        await clock.advance(1)
    with pytest.raises(TimedOut):
        await soon(running)
    assert (await engine.status(stubborn)).state == "failed"
    assert not await engine.exists(stubborn)
    assert [type(event) for event in told] == [AssetStarted, AssetFailed, AssetFinished]


def _held() -> tuple[Pipeline, Gate, list[Event]]:
    pipe, gate, told = Pipeline("held"), Gate(), list[Event]()

    @pipe.asset
    async def done() -> int:
        return 1

    @pipe.asset
    async def held(done: int) -> int:
        await gate()
        return done

    @pipe.asset
    async def below(held: int) -> int:
        return held

    pipe.on(AssetEvent)(told.append)
    pipe.on(RunFinished)(told.append)
    return pipe, gate, told


@pytest.mark.parametrize("elsewhere", [False, True], ids=["here", "from another engine"])
async def test_every_asset_that_started_finishes_also_when_it_is_cancelled(
    engines: SharedEngines, elsewhere: bool
) -> None:
    """EVT-01, EVT-02: before the run's end, for hooks and for whoever reads the events; none for what never began."""
    pipe, gate, told = _held()
    engine: Engine = await engines.open(pipe, poll="10ms")
    canceller: Engine = await engines.open(pipe, slots=0) if elsewhere else engine
    run = await engine.submit("below")
    await gate.reached()
    while elsewhere and len(await canceller._live().services.store.events(run.id)) < 5:
        await settle()  # what has begun is committed a little later
    await (await canceller.find(run.id)).cancel()
    with pytest.raises(Cancelled):
        await soon(run)
    stored = [event async for event in run.events()]
    for events in (told, stored):
        ends: list[Any] = [event for event in events if isinstance(event, AssetFinished)]
        assert [(event.asset, event.outcome, event.attempts) for event in ends] == [
            ("done", "succeeded", 1),
            ("held", "cancelled", 1),
        ]
        assert ends[1].seconds >= 0
        assert isinstance(events[-1], RunFinished)
    assert [type(event) for event in stored[-3:]] == [AssetFinished, RunCancelled, RunFinished]
