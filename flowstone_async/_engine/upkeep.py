"""What an engine does beside its runs: notice that some were ended elsewhere, delete what is over."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import anyio

from flowstone_async._engine.pruning import prune
from flowstone_async._engine.session import Session
from flowstone_async._engine.sweeping import sweep
from flowstone_async._engine.unknown import go_on
from flowstone_async._engine.waits.watch import SWEEP
from flowstone_async.config import seconds
from flowstone_async.definition.policy import Duration
from flowstone_async.errors import FlowstoneError

PRUNE_EVERY = 600.0
MAINTAIN_EVERY = 3600.0
_logger = logging.getLogger("flowstone")


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """How long what is over is kept.

    Attributes:
        runs: Finished runs with their events; None keeps them.
        values: Values that a newer one has superseded; None keeps them.
    """

    runs: Duration | None = "30d"
    values: Duration | None = "7d"

    @staticmethod
    def off() -> Retention:
        """Keep everything."""
        return Retention(runs=None, values=None)

    def limits(self) -> tuple[float | None, float | None]:
        """Return both in seconds."""
        runs = None if self.runs is None else seconds(self.runs, what="retention.runs")
        return runs, None if self.values is None else seconds(self.values, what="retention.values")


class Upkeep:
    """The engine's recurring duties, each of which may fail without ending the others."""

    def __init__(self, session: Session, retention: Retention) -> None:
        self._session, self._retention = session, retention
        self._limits = retention.limits()
        self._scope = anyio.CancelScope()
        self._known: str | None = None

    async def run(self) -> None:
        """Go on until `stop`."""
        poll = self._session.services.settings.poll
        with self._scope:
            async with anyio.create_task_group() as group:
                group.start_soon(self._every, poll, self.notice_ends, name="ends")
                group.start_soon(self._every, poll, self.end_gates, name="gates")
                group.start_soon(self._every, poll, self.find_known, name="known")
                group.start_soon(self._every, MAINTAIN_EVERY, self.maintain, name="maintain")
                group.start_soon(self._every, PRUNE_EVERY, self.prune, name="prune")
                group.start_soon(self._every, PRUNE_EVERY, self.sweep, name="sweep")

    async def stop(self) -> None:
        """End the duties; nothing new is begun."""
        self._scope.cancel()

    async def _every(self, period: float, duty: Callable[[], Awaitable[None]]) -> None:
        failing = False
        while True:
            try:
                await duty()
                failing = False
            except FlowstoneError as error:
                if not failing:  # once per outage, not once per poll
                    _logger.warning("upkeep: %s; it is tried again every %g s", error.message, period)
                failing = True
            except Exception:
                if not failing:
                    _logger.exception("upkeep: a mistake of flowstone_async; it is tried again every %g s", period)
                failing = True
            await self._session.services.clock.sleep(period)

    async def notice_ends(self) -> None:
        """Stop runs that somebody in another process has cancelled, or owns now."""
        session = self._session
        owned = {run_id: flight.driver.record.fence for run_id, flight in session.flights.items()}
        owned |= {run_id: job.record.fence for run_id, job in session.jobs.items()}
        for run_id in await session.store.moved_on(owned) if owned else ():
            if run_id not in session.flights and run_id not in session.jobs:  # ended meanwhile, as most do
                continue
            record, flight = await session.store.run(run_id), session.flights.get(run_id)
            driven = session.jobs.get(run_id) if flight is None else flight.driver
            if driven is None or record is None:
                continue
            if record.state == "cancelled":
                driven.stop("cancelled")
            elif record.fence != driven.record.fence:
                driven.lose()

    async def end_gates(self) -> None:
        """Do for gates what nobody has done: let those expire that nobody here waits for, and wake their runs."""
        while await self._session.services.store.gates.sweep(limit=SWEEP) >= SWEEP:
            pass

    async def find_known(self) -> None:
        """Go on with runs that other workers did not know."""
        self._known = await go_on(self._session, self._known)

    async def prune(self) -> None:
        """Forget what is old, in small batches, for half of the time at most."""
        runs, values = self._limits
        await prune(self._session, runs=runs, values=values, within=PRUNE_EVERY / 2)

    async def maintain(self) -> None:
        """Let the store keep itself in shape."""
        await self._session.services.store.maintain()

    async def sweep(self) -> None:
        """Delete values that no record names, once a day."""
        await sweep(self._session)
