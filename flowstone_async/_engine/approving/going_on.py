"""Going on with a run that was woken, where nobody else would: in a pipeline's own memory."""

from __future__ import annotations

import asyncio

from flowstone_async._engine.session import Session
from flowstone_async.store.records import FINAL_RUN_STATES


async def go_on(session: Session, run_id: str) -> None:
    """Drive a run to its end, or until it waits again. What it fails with is raised to its own callers."""
    services = session.services
    while True:
        flight = session.flights.get(run_id)
        if flight is not None:
            flight.driver.hurry()
            await flight.driver.done.wait()
            await asyncio.sleep(0)
        session.check(run_id)
        record = await services.store.run(run_id)
        if record is None or record.state in FINAL_RUN_STATES or record.state == "waiting":
            return
        if record.worker is None and services.adopt is not None:
            await services.adopt(run_id)
            await asyncio.sleep(0)
        if run_id not in session.flights:
            await session.changed(f"run:{run_id}", within=services.settings.poll, run_id=run_id)
