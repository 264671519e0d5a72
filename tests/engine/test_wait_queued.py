"""Waiting for an asset whose run waits in the queue (RUN-25)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from flowstone_async import Pipeline
from tests.support.engines import OpenEngine
from tests.support.gate import Gate, soon


async def test_a_run_that_is_claimed_between_two_looks_is_not_missed(
    open_engine: OpenEngine, monkeypatch: pytest.MonkeyPatch
):
    """RUN-25: between the look into the queue and the one at what runs."""
    pipe, gate = Pipeline("waiting"), Gate()

    @pipe.asset
    async def held() -> int:
        await gate()
        return 1

    engine = await open_engine(pipe, slots=0)
    await engine.submit(held)
    store = engine._live().store
    looked, claimed = store.runs, asyncio.Event()

    async def runs(**asked: Any) -> Any:
        found = await looked(**asked)
        if not claimed.is_set():
            claimed.set()
            await open_engine(pipe)
            await gate.reached()
        return found

    monkeypatch.setattr(store, "runs", runs)
    waiting = asyncio.create_task(engine.wait(held))
    await soon(claimed.wait())
    await gate.reached()
    gate.open()
    assert await soon(waiting) == 1
