"""Reading the events of all runs: EVT-05, the second half; see `test_events` for those of one run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from flowstone_async import (
    AssetEvent,
    AssetFinished,
    AssetNotFound,
    AssetSucceeded,
    ConfigError,
    Event,
    Pipeline,
    RunEvent,
    RunFinished,
    RunSucceeded,
)
from tests.support.engines import OpenEngine
from tests.support.gate import Gate, soon


def _pipeline(name: str) -> Pipeline:
    pipe = Pipeline(name)

    @pipe.asset
    async def raw() -> int:
        return 1

    @pipe.asset
    async def total(raw: int) -> int:
        return raw + 1

    return pipe


async def _take(events: AsyncIterator[Event], count: int) -> list[Event]:
    return [await soon(anext(events)) for _ in range(count)]


async def test_events_of_all_runs_come_in_order_from_any_engine(open_engine: OpenEngine):
    """EVT-05: of every run, those of one run in their own order, the cursor growing."""
    one, two = _pipeline("one"), _pipeline("two")
    writer, reader = await open_engine(one, two), await open_engine(one, two, poll="10ms")
    await writer.run("one.total")
    await writer.run("two.total")
    await writer.run("one.raw", force=True)
    events = await _take(reader.events(), 9 + 9 + 6)
    assert [each.cursor for each in events] == sorted({each.cursor for each in events})
    runs = list(dict.fromkeys(each.run_id for each in events))
    assert len(runs) == 3
    for run in runs:
        numbers = [each.no for each in events if each.run_id == run]
        assert numbers == list(range(1, len(numbers) + 1))
        handle = await reader.find(run)
        assert [each async for each in handle.events()] == [each for each in events if each.run_id == run]


async def test_a_reader_hears_of_runs_that_begin_later(open_engine: OpenEngine):
    """EVT-05: live: what begins or goes on while it reads."""
    pipe = _pipeline("one")
    gate = Gate()

    @pipe.asset
    async def held() -> int:
        await gate()
        return 1

    writer, reader = await open_engine(pipe), await open_engine(pipe, poll="10ms")
    first = asyncio.create_task(_take(reader.events(), 2))
    await asyncio.sleep(0)
    running = asyncio.create_task(writer.run(held))
    started = await soon(first)
    assert [each.type for each in started] == ["run.started", "asset.started"]
    assert gate.calls == 1
    gate.open()
    await soon(running)
    rest = await _take(reader.events(after=started[-1].cursor), 4)
    assert [each.type for each in rest] == ["asset.succeeded", "asset.finished", "run.succeeded", "run.finished"]


async def test_events_are_filtered(open_engine: OpenEngine):
    """EVT-05: by asset (handle or name), pipeline and types, bases included; together they all hold."""
    one, two = _pipeline("one"), _pipeline("two")
    engine = await open_engine(one, two, poll="10ms")
    await engine.run("one.total")
    await engine.run("two.total")
    raw: Any = "one.raw"
    assert [each.type for each in await _take(engine.events(asset=raw), 3)] == [
        "asset.started",
        "asset.succeeded",
        "asset.finished",
    ]
    two_only = await _take(engine.events(pipeline="two", types=RunEvent), 3)
    assert {each.pipeline for each in two_only} == {"two"}
    some = await _take(engine.events(types=(AssetSucceeded, RunFinished)), 6)
    assert {type(each) for each in some} == {AssetSucceeded, RunFinished}
    (last,) = await _take(engine.events(asset="total", pipeline="two", types=AssetFinished), 1)
    assert isinstance(last, AssetEvent)
    assert (last.asset, last.pipeline) == ("total", "two")


async def test_a_reader_goes_on_from_its_cursor(open_engine: OpenEngine):
    """EVT-05: without a gap and without a repetition, whatever it filters."""
    engine = await open_engine(_pipeline("one"), poll="10ms")
    for _ in range(3):
        await engine.run("total", force="all")
    everything = await _take(engine.events(types=RunSucceeded), 3)
    first = await _take(engine.events(types=RunSucceeded), 1)
    rest = await _take(engine.events(types=RunSucceeded, after=first[0].cursor), 2)
    assert [*first, *rest] == everything


async def test_wrong_filters_are_refused_at_the_call(open_engine: OpenEngine):
    """EVT-05, G-05: before anything is read."""
    engine = await open_engine(_pipeline("one"))
    with pytest.raises(AssetNotFound, match="Did you mean 'total'"):
        engine.events(asset="totl")
    with pytest.raises(ConfigError, match="'two'"):
        engine.events(pipeline="two")
    wrong: Any = "run.failed"
    with pytest.raises(ConfigError, match="types="):
        engine.events(types=wrong)


async def test_events_of_an_engine_that_is_not_open():
    """RUN-02: `ConfigError` with the lines to write."""
    from flowstone_async import Engine

    with pytest.raises(ConfigError, match="not open"):
        Engine(_pipeline("one"), store="memory").events()
