"""Forgetting what is old, batch by batch, until nothing is left or the time is up."""

from __future__ import annotations

import anyio
from anyio.lowlevel import checkpoint

from flowstone_async._engine.reading import Reader
from flowstone_async._engine.session import Session


async def prune(
    session: Session, *, runs: float | None, values: float | None, within: float | None = None
) -> tuple[int, int]:
    """Forget what is older than some seconds, with the values that I/O managers keep elsewhere.

    Args:
        session: Of an open engine.
        runs: Age of finished runs; None keeps them.
        values: Age of superseded values; None keeps them.
        within: Seconds after which no further batch is begun.

    Returns:
        How many runs and how many values went.
    """
    until = float("inf") if within is None else anyio.current_time() + within
    reader, ended, forgotten = Reader(session), 0, 0
    while True:
        pruned = await session.services.store.prune(runs=runs, values=values)
        await reader.forget(pruned.values)
        ended += pruned.runs
        forgotten += len(pruned.values)
        if not (pruned.runs or pruned.values or pruned.swept) or anyio.current_time() > until:
            return ended, forgotten
        await checkpoint()
