"""Letting engines die, so that others continue their runs."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

from flowstone_async import Engine
from flowstone_async._engine.dispatcher import Dispatcher
from flowstone_async.store.records import FINAL_RUN_STATES, RunRecord


async def kill(engine: Engine) -> None:
    """Let an engine die for the store: its lease is over, its bodies are cancelled, its runs are orphans."""
    store: Any = engine._store
    engine._live().closing = True  # the dead take nothing on, and do not come back
    expired = store.expire(engine._live().services.worker)
    if inspect.isawaitable(expired):
        await expired
    for driven in [*(flight.driver for flight in engine._live().flights.values()), *engine._live().jobs.values()]:
        await driven.done.wait()


async def look_for_orphans(engine: Engine) -> None:
    """Let an engine do now what it does every `poll`: take over runs whose engine died.

    It passes over those that a statement of the dead still has locked, which is on its way back: it looks again then.
    """
    dispatcher = Dispatcher(engine._live())
    dispatcher._slots = 10
    await dispatcher.look()
    for _ in range(1000):
        if not await _has_orphans(engine):
            return
        dispatcher._looked = float("-inf")
        await dispatcher.look()


async def _has_orphans(engine: Engine) -> bool:
    session: Any = engine._live()
    connections = getattr(session.services.store, "_connections", None)
    if connections is None:  # in memory nothing is ever locked
        return False
    rows = await connections.fetch("orphans_seen", session.services.worker, list(session.catalogs), None)
    return bool(rows[0][3])


async def flight_of(engine: Engine, run_id: str) -> Any:
    """Wait until an engine drives a run, and return how."""
    flights = engine._live().flights
    while run_id not in flights:
        await asyncio.sleep(0)
    return flights[run_id]


async def ended(engine: Engine, run_id: str) -> RunRecord:
    """Wait until a run has ended, whoever ends it."""
    store = engine._live().services.store
    while (record := await store.run(run_id)) is None or record.state not in FINAL_RUN_STATES:
        await store.changed(f"run:{run_id}", within=0.01)
    return record
