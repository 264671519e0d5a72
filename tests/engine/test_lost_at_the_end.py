"""An engine that loses its lease while the last step of a run is on its way: memory and Postgres (JOB rows of leases)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from flowstone_async import DependencyFailed, Engine, LeaseLost, Pipeline
from tests.support.engines import OpenEngine
from tests.support.gate import Gate, soon

pipe = Pipeline("ending")


@pipe.asset
async def fails() -> int:
    raise ValueError("no")


@pipe.asset
async def works() -> int:
    return 1


@pipe.asset
async def behind(fails: int) -> int:
    return fails


async def _lose(engine: Engine) -> None:
    """Let the engine hear that it is dead, and not come back."""
    session: Any = engine._live()
    session.closing = True
    expired = session.services.store.expire(session.services.worker)
    if expired is not None:
        await expired
    async with asyncio.timeout(20):
        while not session.lost:
            await asyncio.sleep(0)


async def test_a_last_step_that_is_refused_says_nothing_of_assets(open_engine: OpenEngine, monkeypatch: Any) -> None:
    """What settled last was not committed: whoever owns the run computes it again."""
    engine, gate = await open_engine(pipe), Gate()
    store: Any = engine._live().services.store
    advance = store.advance

    async def held(step: Any) -> Any:
        if step.finish is not None:
            await gate()
        return await advance(step)

    monkeypatch.setattr(store, "advance", held)
    running = asyncio.create_task(engine.run(behind))
    await gate.reached()
    await _lose(engine)
    gate.open()
    with pytest.raises(LeaseLost):
        await soon(running)


async def test_a_last_step_that_was_committed_tells_how_the_run_ended(
    open_engine: OpenEngine, monkeypatch: Any
) -> None:
    """Its answer only was late."""
    engine, gate = await open_engine(pipe), Gate()
    store: Any = engine._live().services.store
    advance = store.advance

    async def late(step: Any) -> Any:
        answer = await advance(step)
        if step.finish is not None:
            await gate()
        return answer

    monkeypatch.setattr(store, "advance", late)
    failing, working = asyncio.create_task(engine.run(behind)), asyncio.create_task(engine.run(works))
    await gate.reached(2)
    await _lose(engine)
    gate.open()
    with pytest.raises(DependencyFailed, match="no"):
        await soon(failing)
    assert await soon(working) == 1
