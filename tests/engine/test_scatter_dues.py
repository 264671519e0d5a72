"""How much is held of items that wait for their next attempt (READ-02, SCAT-12)."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from typing import Any

import pytest

from flowstone_async import Context, Pipeline, Retry
from flowstone_async._engine.scatter.scattering import Scattering
from flowstone_async.clock import ManualClock
from tests.support.engines import OpenEngine
from tests.support.rates import at_rest

ITEMS, PAGE = 300, 10


@pytest.mark.parametrize("jitter", [True, False])
async def test_items_that_wait_are_in_the_store(open_engine: OpenEngine, jitter: bool):
    """However many there are, only when the next few are due is held here; each is called again in its time."""
    pipe, clock, attempts = Pipeline("waiting"), ManualClock(), Counter[int]()
    begun, held, known = dict[int, float](), Counter[str](), list[Any]()

    def scattering() -> Any:
        known[:] = known or [each for each in gc.get_objects() if isinstance(each, Scattering)]
        return known[0]

    @pipe.scatter(range(ITEMS), page_size=PAGE, max_concurrent=5, retry=Retry(3, initial="60s", jitter=jitter))
    async def items(no: int, ctx: Context) -> int:
        attempts[no] += 1
        if ctx.item.attempt == 1:
            begun[no] = clock.monotonic()
            held["due"] = max(held["due"], len(scattering()._due))
            held["chunks"] = max(held["chunks"], len(scattering()._held))
            raise ConnectionError("gone")
        assert jitter or clock.monotonic() - begun[no] >= 60
        return no

    options: Any = {"clock": clock, "poll": "24h", "lease": "30d"}
    engine = await open_engine(pipe, **options)
    run = asyncio.create_task(engine.run("items", timeout=False))
    while not begun:
        await asyncio.sleep(0)
    while not run.done():
        await at_rest(engine)
        await clock.jump()
        await asyncio.sleep(0)
    found = await run
    assert await found.to_list(limit=ITEMS) == list(range(ITEMS))
    assert set(attempts.values()) == {2}
    assert 0 < held["due"] <= 4 * PAGE
    assert held["chunks"] <= 8
