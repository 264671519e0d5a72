"""Waiting on an engine that is left meanwhile: nobody waits for ever (G-04, G-06, RUN-02)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from flowstone_async import Cancelled, ConfigError, Engine, Pipeline
from flowstone_async._engine.handle import RunHandle
from flowstone_async.clock import settle
from tests.support.engines import SharedEngines
from tests.support.gate import Gate, soon

Wait = Callable[[Engine, "RunHandle[Any]"], Awaitable[object]]


async def _all(events: Any) -> None:
    async for _ in events:
        pass


async def _find(engine: Engine, run: RunHandle[Any]) -> Any:
    return await (await engine.find(run.id)).result()


WAYS: dict[str, Wait] = {
    "result": lambda _, run: run.result(),
    "find": _find,
    "wait": lambda engine, _: engine.wait("held"),
    "events of the run": lambda _, run: _all(run.events()),
    "all events": lambda engine, _: _all(engine.events()),
}


def _pipe() -> tuple[Pipeline, Gate]:
    pipe, gate = Pipeline("left"), Gate()

    @pipe.asset
    async def held() -> int:
        await gate()
        return 1

    @pipe.asset
    async def quick() -> int:
        return 2

    return pipe, gate


@pytest.mark.parametrize("way", WAYS)
async def test_whoever_waits_hears_that_the_engine_was_left(engines: SharedEngines, way: str) -> None:
    """G-06: `Cancelled` for a run that had not ended, `ConfigError` for the engine's own verbs."""
    pipe, gate = _pipe()
    gate.close()
    engine = await engines.open(pipe, grace="10ms", poll="1h")
    run = await engine.submit("held")
    await gate.reached()
    waiting = asyncio.ensure_future(WAYS[way](engine, run))
    await settle()
    await soon(engine.__aexit__(None, None, None))
    with pytest.raises((Cancelled, ConfigError), match=r"engine (was closed|has been left)"):
        await soon(waiting)


async def test_a_handle_of_an_engine_that_was_left_says_so(engines: SharedEngines) -> None:
    """RUN-02: on either store with the same errors; what had ended and is at hand is still told."""
    pipe, gate = _pipe()
    gate.close()
    engine = await engines.open(pipe, grace="10ms")
    run = await engine.submit("held")
    await gate.reached()
    await soon(engine.__aexit__(None, None, None))
    with pytest.raises(Cancelled, match="engine was closed before run"):
        await soon(run.result())
    with pytest.raises(ConfigError, match="engine has been left"):
        await run.status()
    with pytest.raises(ConfigError, match="engine has been left"):
        await soon(_all(run.events()))
    with pytest.raises(ConfigError, match="not open"):
        await engine.get("quick")
