"""Running items of an ended scatter again, in tests."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from flowstone_async import ConfigError, Engine, Gathered, Pipeline, RunHandle
from tests.support.crash import flight_of, kill, look_for_orphans
from tests.support.engines import OpenEngine
from tests.support.gate import Gate, soon
from tests.support.scatters import RARELY


async def survived(
    open_engine: OpenEngine,
    pipe: Pipeline,
    gate: Gate,
    begin: Callable[[Engine], Awaitable[RunHandle[Any]]],
    mend: Callable[[], None],
    *,
    asset: str = "items",
    only: Any = "failed",
    reached: int,
    held: Callable[[], None] = lambda: None,
) -> tuple[Engine, RunHandle[Any]]:
    """Redrive a scatter whose engine has died, and let the engine die that does it, while bodies are at a gate.

    Args:
        open_engine: Opens engines.
        pipe: What they run.
        gate: Where bodies of the scatter come by.
        begin: Runs the pipeline on an engine, to its end.
        mend: Mends what failed.
        asset: The scatter.
        only: What is run again.
        reached: Bodies of the redrive that are at the gate then.
        held: Called while they are.

    Returns:
        The engine that goes on, and the run.
    """
    living = await open_engine(pipe, **RARELY, slots=0)
    first = await open_engine(pipe, **RARELY)
    run = await begin(first)
    await kill(first)
    mend()
    gate.close()
    began = gate.calls
    again = await (await living.find(run.id)).redrive(asset, only=only)
    second = await open_engine(pipe, **RARELY)
    await flight_of(second, again.id)
    await gate.reached(began + reached)
    held()
    await kill(second)
    gate.open()
    await look_for_orphans(living)
    return living, again


async def redriven_but_for_one(engine: Engine, asset: Any, mend: Callable[[], None]) -> Gathered[Any]:
    """Run a scatter of which two things fail, mend one, redrive it and see that the other cannot be; the value."""
    run = await engine.submit(asset)
    assert (await soon(run)).failed == 2
    mend()
    again = await run.redrive(asset)
    found = await soon(again)
    with pytest.raises(ConfigError, match="1 failed items of the scatter cannot be run"):
        await again.redrive(asset)
    return found
