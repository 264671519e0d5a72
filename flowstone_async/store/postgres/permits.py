"""Permits on Postgres: asked for together, judged by `take_permits` under the lock of each key."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from asyncpg import Record
from typing_extensions import override

from flowstone_async.errors import FlowstoneError
from flowstone_async.limits.book import PermitAsk, Permits, Waiting
from flowstone_async.limits.history import Entry, History
from flowstone_async.limits.rate import Pace
from flowstone_async.store.postgres.batched import Batched, Call, copied
from flowstone_async.store.postgres.connections import Connections
from flowstone_async.store.postgres.instants import Instants

_logger = logging.getLogger("flowstone")
Shown = Callable[[Waiting | None], tuple[int, float, str]]
"""Tells how many wait at the key of a line, for how long the first has, and the first of them as JSON."""


class PermitCall(Call):
    """Some wishes of one caller."""

    __slots__ = ("answer", "asks")

    def __init__(self, asks: Sequence[PermitAsk]) -> None:
        self.asks = asks
        self.answer: asyncio.Future[Sequence[Permits]] = asyncio.get_running_loop().create_future()

    @override
    def fail(self, error: FlowstoneError) -> None:
        if not self.answer.done():
            self.answer.set_exception(copied(error))


class PermitLane(Batched[PermitCall]):
    """Asks for permits, for all who wait.

    Args:
        connections: To the server.
        instants: The store's clock.
        process: Tells what this process is called where it waits.
        shown: Tells who waits.
    """

    def __init__(
        self, connections: Connections, instants: Instants, *, process: Callable[[], str], shown: Shown
    ) -> None:
        super().__init__()
        self._connections, self._instants = connections, instants
        self._process, self._shown = process, shown
        self._unused: list[tuple[str, datetime, int]] = []

    def give_back(self, key: str, at: datetime, count: int) -> None:
        """Take permits back that were not used, before others are asked for."""
        self._unused.append((key, at, count))
        self._wake.set()

    @override
    def due(self) -> bool:
        return bool(self._unused)

    @override
    async def answer(self, calls: Sequence[PermitCall]) -> None:
        if self._unused:
            await self._give_back()
        waiting = [call for call in calls if not call.answer.done()]
        asks = [ask for call in waiting for ask in call.asks]
        if not asks:
            return
        try:
            # Asked again when a reply is lost: what was granted then is used by nobody.
            rows = await self._connections.fetch("take_permits", *self._columns(asks), self._instants.given())
        except FlowstoneError as error:
            for call in waiting:
                call.fail(error)
            return
        found = {row["place"]: row for row in rows}
        answers = (permits(found[place]) for place in range(1, len(asks) + 1))
        for call in waiting:
            self._tell(call, [next(answers) for _ in call.asks])

    def _tell(self, call: PermitCall, answer: Sequence[Permits]) -> None:
        if not call.answer.done():
            call.answer.set_result(answer)
            return
        for ask, granted in zip(call.asks, answer, strict=True):
            if granted.granted and isinstance(granted.at, datetime):
                self.give_back(ask.key, granted.at, granted.granted)

    def _columns(self, asks: Sequence[PermitAsk]) -> Sequence[object]:
        rows = [
            (ask.key, *(ask.pace or (None, None, None)), ask.want, ask.span, *self._shown(ask.line)) for ask in asks
        ]
        keys, ns, pers, bursts, wants, spans, waiting, waits, shown = map(list, zip(*rows, strict=True))
        return self._process(), keys, ns, pers, bursts, wants, spans, waiting, waits, shown

    async def _give_back(self) -> None:
        """Give back what was not used, once: if the reply is lost, it may have been, and twice would grant too much."""
        unused, self._unused = self._unused, []
        try:
            async with self._connections.translated(), self._connections.session() as session:
                await session.fetch("give_back_permits", *map(list, zip(*unused, strict=True)))
        except FlowstoneError as error:
            _logger.debug("permits were not given back: %s", error)


def permits(row: Record) -> Permits:
    """Return what came of a wish."""
    pace = pace_of(row["rate_n"], row["rate_per"], row["rate_burst"])
    if pace is None:
        return Permits(None, slots=row["rate_n"])
    at: datetime = row["granted_at"]
    outlook = None
    if row["amounts"] is not None or not row["granted"]:
        known = history(row["first_at"], row["last_at"], row["amounts"], at)
        outlook = known.outlook(0.0, pace, row["blocked"])
    return Permits(pace, granted=row["granted"], at=at, outlook=outlook)


def pace_of(n: int | None, per: float | None, burst: int | None) -> Pace | None:
    """Return a rate as it is stored."""
    return None if n is None or per is None or burst is None else Pace(n, per, burst)


def history(firsts: Any, lasts: Any, counts: Any, now: datetime) -> History:
    """Return what was granted, in seconds from now."""
    return History(
        Entry((first - now).total_seconds(), (last - now).total_seconds(), count)
        for first, last, count in zip(firsts or (), lasts or (), counts or (), strict=True)
    )
