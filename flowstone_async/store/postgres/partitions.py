"""The partitions of events: made ahead of their day, dropped when all of their runs are to be forgotten."""

from __future__ import annotations

import asyncio
import random
from datetime import date

from flowstone_async.store.postgres.connections import Connections
from flowstone_async.store.postgres.instants import Instants

_AHEAD = 3
_ATTEMPTS = 5
_PAUSE = 0.2


class Partitions:
    """Adds and drops partitions, from any number of processes at once.

    Each attempt waits for its lock only as long as steps may be kept waiting behind it: 100 ms.

    Args:
        connections: To the server.
        instants: The store's clock.
    """

    def __init__(self, connections: Connections, instants: Instants) -> None:
        self._connections = connections
        self._instants = instants

    async def add(self) -> None:
        """Add those of today and the next days, and of days whose events are in the default partition."""
        for row in await self._connections.fetch("missing_days", self._instants.given(), _AHEAD):
            await self._add(row[0])

    async def _add(self, day: date) -> None:
        for _ in range(_ATTEMPTS):
            if (await self._connections.fetch("add_event_partition", day))[0][0] != "busy":
                return
            await asyncio.sleep(_PAUSE * random.uniform(0.5, 1.5))  # noqa: S311 - it keeps processes apart

    async def add_deliveries(self) -> None:
        """Add those of deliveries, of today and the next days; a day without one has them in the default partition."""
        for row in await self._connections.fetch("missing_deliveries", self._instants.given(), _AHEAD):
            await self._connections.fetch("add_delivery_partition", row[0])

    async def analyze(self) -> None:
        """Analyse the events, once a day."""
        await self._connections.fetch("analyze_events")

    async def drop(self, age: float) -> date | None:
        """Drop the partitions of days that were over some seconds ago, if all of their runs ended before that.

        Returns:
            The first day whose runs are to wait for the drop of their partition, or None: for a day, those that ended
            later than others hold it up. After that, and where a lock was not to be had, events go row by row.
        """
        now = self._instants.given()
        for name, first, late in await self._connections.fetch("partitions_over", age, now):
            answer = (await self._connections.fetch("drop_event_partition", name, age, now))[0][0]
            if answer in {"kept", "busy"} and not late:
                return first
        return None
