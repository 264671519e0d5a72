"""Reading a run's events: EVT-05. See `test_hooks` for hooks."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from flowstone_async import (
    AssetEvent,
    AssetFailed,
    AssetRetrying,
    AssetSucceeded,
    Engine,
    Event,
    ExecutionError,
    Keys,
    Pipeline,
    Retry,
    RunEvent,
    RunFinished,
    RunHandle,
    RunStarted,
)
from tests.support.engines import OpenEngine
from tests.support.gate import Gate, soon

REGIONS = Keys("us", "eu")


class _Held:
    """`raw`, then `target`, which waits at a gate; and what its hooks heard."""

    def __init__(self) -> None:
        self.pipe = pipe = Pipeline("held")
        self.gate, self.broken = Gate(), False
        self.heard: list[Event] = []

        @pipe.asset(partitions=REGIONS)
        async def raw(partition: str) -> str:
            return partition

        @pipe.asset(partitions=REGIONS, retry=Retry(2, backoff="none"))
        async def target(raw: str) -> str:
            await self.gate()
            if self.broken:
                raise LookupError("gone")
            return raw.upper()

        @pipe.on(RunEvent)
        @pipe.on(AssetEvent)
        async def hear(event: Event) -> None:
            self.heard.append(event)


async def _all(run: RunHandle[Any], after: int = 0) -> list[Event]:
    return [event async for event in run.events(after=after)]


async def _types(run: RunHandle[Any], after: int = 0) -> list[str]:
    return [event.type for event in await soon(_all(run, after))]


STARTED = ["run.started", "asset.started", "asset.succeeded", "asset.finished", "asset.started"]
ENDED = ["asset.succeeded", "asset.finished", "run.succeeded", "run.finished"]


@pytest.mark.parametrize("elsewhere", [False, True])
async def test_a_reader_hears_of_a_run_while_it_goes_on(open_engine: OpenEngine, elsewhere: bool):
    """EVT-05: in order, without gaps, live, from any process; it ends after `RunFinished`."""
    held = _Held()
    engine = await open_engine(held.pipe, poll="20ms")
    run = await engine.submit("target", partition="eu")
    reader = await (await open_engine(held.pipe, poll="20ms")).find(run.id) if elsewhere else run
    read, live = list[Event](), asyncio.Event()

    async def follow() -> None:
        async for event in reader.events():
            read.append(event)
            if event.type == "asset.started" and event.no == len(STARTED):
                live.set()

    following = asyncio.create_task(follow())
    await held.gate.reached()
    await soon(live.wait())
    assert [each.type for each in read] == STARTED
    held.gate.open()
    await soon(following)
    assert [each.type for each in read] == STARTED + ENDED
    assert [each.no for each in read] == list(range(1, 10))
    assert {each.run_id for each in read} == {run.id}


@pytest.mark.parametrize("elsewhere", [False, True])
async def test_a_reader_goes_on_from_its_cursor(open_engine: OpenEngine, elsewhere: bool):
    """EVT-05: also once the run has ended, and if nothing is left."""
    held = _Held()
    engine = await open_engine(held.pipe)
    run = await engine.submit("target", partition="eu")
    held.gate.open()
    await soon(run.result())
    if elsewhere:
        run = await (await open_engine(held.pipe)).find(run.id)
    every = STARTED + ENDED
    assert await _types(run) == every
    for seen in (1, 4, 8, 9):
        assert await _types(run, after=seen) == every[seen:]


async def test_a_reader_that_stops_leaves_the_run_alone(open_engine: OpenEngine):
    """EVT-05."""
    held = _Held()
    engine = await open_engine(held.pipe)
    run = await engine.submit("target", partition="eu")
    seen = 0
    async for event in run.events():
        seen = event.no
        if isinstance(event, AssetSucceeded):
            break
    held.gate.open()
    assert await soon(run.result()) == "EU"
    assert await _types(run, after=seen) == (STARTED + ENDED)[seen:]


async def test_events_are_read_as_hooks_hear_them(open_engine: OpenEngine):
    """EVT-05, EVT-01: the same types and fields, keys as real objects, errors as errors."""
    held = _Held()
    held.broken = True
    held.gate.open()
    engine = await open_engine(held.pipe)
    run = await engine.submit("target", partition="eu")
    with pytest.raises(ExecutionError):
        await soon(run.result())
    other = await (await open_engine(held.pipe)).find(run.id)
    read = await soon(_all(other))
    assert [(each.no, type(each)) for each in read] == [(each.no, type(each)) for each in held.heard]
    for here, there in zip(held.heard, read, strict=True):
        assert here.at == there.at
        assert getattr(here, "partition", None) == getattr(there, "partition", None) == "eu"
        assert getattr(here, "seconds", None) == getattr(there, "seconds", None)
    started, finished = read[0], read[-1]
    assert isinstance(started, RunStarted)
    assert started.targets == ("target",)
    assert isinstance(finished, RunFinished)
    assert finished.state == "failed"
    retrying = next(each for each in read if isinstance(each, AssetRetrying))
    assert (retrying.attempt, retrying.wait, retrying.due) == (1, 0, retrying.at)
    failed = next(each for each in read if isinstance(each, AssetFailed))
    assert isinstance(failed.error, ExecutionError)
    assert (failed.error.asset, failed.error.partition, failed.attempts) == ("target", "eu", 2)
    assert "gone" in failed.error.message


async def test_a_cancelled_run_ends_its_readers(open_engine: OpenEngine):
    """EVT-05, EVT-02: one `run.cancelled`, one `run.finished`; nothing after them."""
    held = _Held()
    engine = await open_engine(held.pipe)
    run = await engine.submit("target", partition="eu")
    await held.gate.reached()
    reading = asyncio.create_task(_types(run))
    await run.cancel()
    read = await soon(reading)
    assert read[-2:] == ["run.cancelled", "run.finished"]
    assert [each for each in read if each.startswith("run.")] == ["run.started", "run.cancelled", "run.finished"]
    assert await _types(run) == read


async def test_an_event_is_committed_with_what_it_describes(open_engine: OpenEngine):
    """EVT-05: whoever hears that an asset succeeded, or that a run ended, finds it so; in hooks and elsewhere."""
    held, found = _Held(), list[object]()
    engine, other = await open_engine(held.pipe), await open_engine(held.pipe, slots=0)
    held.gate.open()

    @engine.on(AssetSucceeded)
    async def look(event: AssetSucceeded) -> None:
        found.append(await other.exists(event.asset, partition="eu"))

    @engine.on(RunFinished)
    async def look_at_the_run(event: RunFinished) -> None:
        found.append((await (await other.find(event.run_id)).status()).state)

    run = await engine.submit("target", partition="eu")
    read = await other.find(run.id)
    async for event in read.events():
        if isinstance(event, AssetSucceeded):
            assert await other.get(event.asset, partition="eu") == ("eu" if event.asset == "raw" else "EU")
        if isinstance(event, RunFinished):
            assert (await read.status()).state == "succeeded"
    await soon(run.result())
    assert found == [True, True, "succeeded"]


async def test_two_runs_number_their_events_by_themselves(engines: Any):
    """EVT-05: each from 1, whatever else goes on."""
    held = _Held()
    async with Engine(held.pipe, **engines._store({})) as engine:
        runs = [await engine.submit("target", partition=key) for key in ("us", "eu")]
        held.gate.open()
        for run in runs:
            read = await soon(_all(run))
            assert [each.no for each in read] == list(range(1, 10))
            assert {each.run_id for each in read} == {run.id}
