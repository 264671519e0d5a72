"""Waits that are in memory: a body's, a run's."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from flowstone_async._engine.waits.seats import Seats
from flowstone_async.store.gates import Gate, GateKind, Outcome, StoredGate


@dataclass(slots=True, eq=False)
class Parked:
    """One wait.

    Attributes:
        future: Gets what has ended it.
        timed: Whether something in the body ends the wait when a time has passed.
    """

    id: str
    kind: GateKind
    due: datetime | None
    future: asyncio.Future[Outcome]
    timed: bool


class Lodger(Protocol):
    """A body that waits.

    Attributes:
        seats: What it leaves while all of it waits.
        parked: Its waits that have not ended, by gate.
        since: When it began to do nothing but wait; None while it does anything else.
        patience: Seconds after which it is evicted; None never.
    """

    seats: Seats
    parked: dict[str, Parked]
    since: float | None
    patience: float | None

    def rest(self) -> bool:
        """Look whether all of it waits, and if so leave its place; tell whether it does."""
        ...

    def evict(self) -> None:
        """End it without an outcome; it is called again once one of its gates has ended."""
        ...

    def abandon(self) -> None:
        """Let durable calls that it still makes do nothing; somebody else ends it."""
        ...


class Host(Protocol):
    """A scatter with items that wait, and are in nobody's memory.

    Attributes:
        resting_since: Since when all that is left of it are such items; None while it is not so.
        kinds: What kinds of gates they wait for.
        patience: Seconds after which the run need not stay for it; None for ever.
    """

    resting_since: float | None
    kinds: frozenset[GateKind]
    patience: float | None

    def look(self) -> None:
        """Hear that items may be due."""
        ...

    async def rests(self) -> bool:
        """Ask the store whether all that is left of it are such items, none of which is due."""
        ...


class Waits(Protocol):
    """Where a body's gates are opened and waited for: in the run.

    Attributes:
        over: Whether durable calls do nothing any more, as the run goes on elsewhere, if at all.
    """

    over: bool

    async def open(self, gate: Gate) -> StoredGate | None:
        """Record a gate, together with others of the run; None if the run is not ours any more."""
        ...

    async def rearm(self, gate: str, due: datetime) -> bool:
        """Open a gate again that has expired; tell whether it is open."""
        ...

    async def refuse(self, gate: str, payload: bytes) -> bool:
        """Open a gate again whose signal does not fit; tell whether it is open."""
        ...

    async def withdraw(self, gates: Collection[str]) -> bool:
        """Cancel gates that nobody waits for any more; tell whether the run is ours still."""
        ...

    async def park(self, stored: StoredGate, lodger: Lodger) -> Outcome:
        """Wait until a gate ends, without a place; then come back to one."""
        ...

    def host(self, host: Host) -> None:
        """Let a scatter hear when items of it may be due."""
        ...

    def leave(self, host: Host) -> None:
        """Let a scatter hear nothing more."""
        ...

    def rested(self) -> None:
        """Hear from a scatter that it rests."""
        ...


Found = Mapping[str, Outcome]
