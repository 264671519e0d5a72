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
    """A scatter whose items may wait, or that follows one whose items do.

    Attributes:
        quiet: Whether nothing of it is computed until a gate ends.
        resting_since: Since when, besides, none of its items is in memory; None while it is not so.
        kinds: What kinds of gates those wait for that are in nobody's memory.
        patience: Seconds after which the run need not stay for it; None for ever.
    """

    quiet: bool
    resting_since: float | None
    kinds: frozenset[GateKind]
    patience: float | None

    def look(self) -> None:
        """Hear that items may be due."""
        ...

    def check(self) -> None:
        """Look whether it is quiet, now that others are."""
        ...

    async def rests(self) -> bool:
        """Ask the store whether all that is left of it are items that wait, none of which is due."""
        ...

    async def caught_up(self) -> bool:
        """Ask the store whether it has seen all that the scatter which it follows has given, once that rests."""
        ...


class Waits(Protocol):
    """Where a body's gates are opened and waited for: in the run.

    Attributes:
        over: Whether durable calls do nothing any more, as the run goes on elsewhere, if at all.
    """

    over: bool

    @property
    def any(self) -> bool:
        """Whether anything of the run waits."""
        ...

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

    def join(self, host: Host) -> None:
        """Let a scatter count among those that may be quiet."""
        ...

    def host(self, host: Host) -> None:
        """Let a scatter hear when items of it may be due."""
        ...

    def leave(self, host: Host) -> None:
        """Let a scatter hear nothing more."""
        ...

    def rested(self) -> None:
        """Hear from a scatter that it is quiet, or rests."""
        ...

    def goes_on(self) -> None:
        """Hear from a scatter that something of it is computed from now on."""
        ...


Found = Mapping[str, Outcome]
