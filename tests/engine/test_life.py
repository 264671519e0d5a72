"""What hooks hear of an engine as a whole, and of its lease: EVT-04; see `test_lifecycle` for what it does then."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from flowstone_async import (
    ConfigError,
    Engine,
    EngineEvent,
    EngineStarted,
    EngineStopped,
    Event,
    LeaseAcquired,
    LeaseEvent,
    LeaseExpired,
    LeaseLost,
    LeaseReleased,
    Pipeline,
)
from tests.support.crash import kill
from tests.support.engines import SharedEngines
from tests.support.gate import Gate, soon


async def test_the_life_of_an_engine(engines: SharedEngines):
    """EVT-04: its own hooks and those of each of its pipelines hear of it, once."""
    one, two, heard = Pipeline("one"), Pipeline("two"), dict[str, list[Any]]()
    engine = Engine(one, two, **engines._store({}))
    for who, on in {"one": one.on, "two": two.on, "engine": engine.on}.items():
        heard[who] = []
        for kind in (EngineEvent, LeaseEvent):
            on(kind)(heard[who].append)
    async with engine:
        worker = engine._live().services.worker
        assert [each.type for each in heard["engine"]] == ["lease.acquired", "engine.started"]
    told = heard["engine"]
    assert [type(each) for each in told] == [LeaseAcquired, EngineStarted, LeaseReleased, EngineStopped]
    assert {(each.pipeline, each.run_id, each.no) for each in told} == {("", "", 0)}
    assert {each.worker for each in told[::2]} == {worker}
    assert {each.pipelines for each in told[1::2]} == {("one", "two")}
    assert all(each.seconds > 0 for each in told[2:])
    assert heard["one"] == heard["two"] == told


async def test_a_hook_that_came_along_with_include_hears_once(engines: SharedEngines):
    """EVT-01: of what concerns both pipelines of an engine."""
    inner, outer, heard = Pipeline("inner"), Pipeline("outer"), list[Event]()
    inner.on(EngineEvent)(heard.append)
    outer.include(inner)
    async with Engine(inner, outer, **engines._store({})):
        pass
    assert [each.type for each in heard] == ["engine.started", "engine.stopped"]


async def test_hooks_of_the_start_may_use_the_engine(engines: SharedEngines):
    """EVT-04: and end before the block begins."""
    pipe, found = Pipeline("early"), list[object]()
    pipe.constant("one", 1)
    engine = Engine(pipe, **engines._store({}))

    @engine.on(EngineStarted)
    async def warm(event: EngineStarted) -> None:
        found.append(await engine.run("one"))

    async with engine:
        assert found == [1]


async def test_an_engine_that_only_looks_tells_nothing(engines: SharedEngines):
    """EVT-04: nor does one that could not be opened; what never began does not end."""
    heard = list[Event]()
    looking = Engine(Pipeline("looked"), **engines._store({}))
    looking.on(Event)(heard.append)
    async with looking.looking():
        pass
    opened = Pipeline("opened")
    opened.on(EngineStopped)(heard.append)
    cancelled = Engine(opened, **engines._store({}))

    @cancelled.on(EngineStarted)
    async def never(event: EngineStarted) -> None:
        entering.cancel()
        await asyncio.Event().wait()

    entering = asyncio.create_task(cancelled.__aenter__())
    with pytest.raises(asyncio.CancelledError):
        await soon(entering)
    assert [each.type for each in heard] == ["engine.stopped"]
    with pytest.raises(ConfigError, match="not open"):
        await cancelled.health()


async def test_a_lease_that_is_lost(engines: SharedEngines):
    """EVT-04, JOB-08: its event carries the error; it is not released afterwards."""
    pipe, gate, heard = Pipeline("leased"), Gate(), list[Any]()
    for kind in (LeaseEvent, EngineEvent):
        pipe.on(kind)(heard.append)

    @pipe.asset
    async def held() -> int:
        await gate()
        return 1

    async with Engine(pipe, **engines._store({})) as engine:
        running = asyncio.create_task(engine.run("held"))
        await gate.reached()
        await kill(engine)
        with pytest.raises(LeaseLost):
            await soon(running)
    acquired, _, expired, stopped = heard
    assert isinstance(acquired, LeaseAcquired)
    assert isinstance(expired, LeaseExpired)
    assert expired.worker == acquired.worker
    assert expired.seconds > 0
    assert isinstance(expired.error, LeaseLost)
    assert isinstance(stopped, EngineStopped)


async def test_a_failing_hook_does_not_change_how_an_engine_is_left(engines: SharedEngines):
    """EVT-03: also not while a cancellation is on its way out."""
    engine, waiting = Engine(Pipeline("left"), **engines._store({})), Gate()

    @engine.on(EngineStopped)
    async def broken(event: EngineStopped) -> None:
        raise LookupError("the hook broke")

    async def use() -> None:
        async with engine:
            await waiting()

    using = asyncio.create_task(use())
    await waiting.reached()
    using.cancel()
    with pytest.raises(asyncio.CancelledError):
        await soon(using)
