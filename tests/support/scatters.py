"""Seeing what a scatter has on record."""

from __future__ import annotations

import asyncio
from typing import Any

from flowstone_async import Engine

RARELY: Any = {"poll": "60s"}


async def kept(engine: Engine, count: int, what: str = "succeeded", *, asset: str = "") -> None:
    """Wait until so many items of a scatter are on record: of the only one, or of an asset's."""
    store: Any = engine._live().store
    async with asyncio.timeout(30):
        while True:
            for run in await engine.runs():
                for scatter in await store.scatters.of_run(run.id):
                    totals = await store.scatters.totals(scatter.id)
                    if asset in ("", scatter.key.asset) and getattr(totals, what) >= count:
                        return
            await asyncio.sleep(0)
