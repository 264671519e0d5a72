"""How often items and batches begin, on a clock that tests advance."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any

import pytest

from flowstone_async import Cancelled, Engine, LeaseLost, Pipeline, RunHandle
from flowstone_async.clock import ManualClock
from tests.support.crash import kill, look_for_orphans
from tests.support.engines import OpenEngine
from tests.support.gate import soon
from tests.support.scatters import RARELY, kept


async def at_rest(engine: Engine) -> None:
    """Return when all that an engine does is to wait for time."""
    async with asyncio.timeout(20):
        while any(not each.driver.only_waits for each in engine._live().flights.values()):
            await asyncio.sleep(0)


async def passing(clock: ManualClock, engine: Engine, seconds: float) -> None:
    """Let time pass, from one timer to the next, each when all that the one before set going has settled."""
    until = clock.monotonic() + seconds
    clock.call_later(seconds, lambda: None)
    while clock.monotonic() < until:
        await at_rest(engine)
        assert await clock.jump()
    await at_rest(engine)


class Begun:
    """Notes when items begin, by key."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.at: dict[object, list[float]] = defaultdict(list)

    def __call__(self, key: object = None) -> None:
        self.at[key].append(self.clock.monotonic())

    @property
    def counts(self) -> Counter[object]:
        return Counter({key: len(times) for key, times in self.at.items()})


async def ended(engine: Engine, running: asyncio.Task[Any], step: float) -> Any:
    """Let time pass until a run has ended; return its value."""
    while not running.done():
        await passing(engine._live().services.clock, engine, step)  # pyright: ignore[reportArgumentType]
    return await running


async def cancel(run: RunHandle[Any]) -> None:
    """Cancel a run, and see that it ends so."""
    await run.cancel()
    with pytest.raises(Cancelled):
        await soon(run)


async def gone_on_with(
    open_engine: OpenEngine, pipe: Pipeline, clock: ManualClock, asset: Any, held: Callable[[], bool]
) -> Any:
    """Let an engine die while four results are kept and the rest waits for time; the value that the next one gets.

    Args:
        open_engine: Opens engines.
        pipe: What they run.
        clock: Theirs.
        asset: The target.
        held: Tells whether all has begun that may, and no more.
    """
    dying = await open_engine(pipe, clock=clock, **RARELY)
    living = await open_engine(pipe, clock=clock, **RARELY, slots=0)
    running = asyncio.create_task(dying.run(asset, timeout=False))
    await kept(living, 4)
    await at_rest(dying)
    assert held()
    await kill(dying)
    with pytest.raises(LeaseLost):
        await soon(running)
    await look_for_orphans(living)
    waiting = asyncio.create_task(living.wait(asset))
    while not waiting.done():
        await passing(clock, living, 1)
    return await soon(waiting)
