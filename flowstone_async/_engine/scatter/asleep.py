"""Items of a scatter that wait at gates and are in nobody's memory: the store knows which of them are due.

A body that has waited for `park_after` is evicted: with the next flush it leaves its chunk for one of its own, which is
not due. Whoever wakes the run because one of its gates has ended makes that due, and any worker takes it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from typing_extensions import override

from flowstone_async._engine.replay.facts import BodyFacts
from flowstone_async._engine.services import Services
from flowstone_async._engine.waits.alarms import ALARM
from flowstone_async._engine.waits.parked import Host, Parked
from flowstone_async.store.gates import GateKind


class Evicted(Exception):
    """What a call of a body ends with that was evicted, or has returned a gate.

    Args:
        waits: What it waits for.
    """

    def __init__(self, waits: Iterable[Parked]) -> None:
        super().__init__()
        self.waits = tuple(waits)

    @property
    def gates(self) -> tuple[str, ...]:
        """The gates that it waits at."""
        return tuple(each.id for each in self.waits)


class Final(Exception):
    """What an item fails with for good: another attempt would change nothing. Its cause says why."""


class Upstream(Protocol):
    """The results of the scatter that another one follows."""

    def look(self) -> None:
        """Look soon for what is new."""
        ...

    async def caught_up(self) -> bool:
        """Ask the store whether all that there is was given."""
        ...


class Asleep(Host):
    """What a worker knows of such items of one scatter; and whether anything else goes on there.

    Args:
        services: Of the engine.
        scatter: Which one.
        facts: Of its bodies; None if they have no context, and so never wait, and it follows no other scatter.
        look: Looks for items that are due.

    Attributes:
        any: Whether there are such items.
        upstream: What it follows.
    """

    def __init__(self, services: Services, scatter: str, facts: BodyFacts | None, look: Callable[[], None]) -> None:
        self._services, self._scatter, self._facts, self._look = services, scatter, facts, look
        self.patience: float | None = 0.0
        self.resting_since: float | None = None
        self.kinds: frozenset[GateKind] = frozenset()
        self.any = self.quiet = False
        self.upstream: Upstream | None = None
        self._stirs = 0
        self._since: float | None = None  # nothing was computed; looking for what may be due changes nothing of that

    def join(self) -> None:
        """Count, for the run, among what may do nothing but wait."""
        if self._facts is not None:
            self._facts.waits.join(self)

    def begin(self) -> None:
        """Hear when gates end from now on: some items wait."""
        if not self.any and self._facts is not None:
            self.any, self.patience = True, self._facts.park_after
            self._facts.waits.host(self)

    def end(self) -> None:
        """Hear nothing more."""
        self.resting_since = self._since = None
        self.quiet = False
        if self._facts is not None:
            self._facts.waits.leave(self)

    @property
    def possible(self) -> bool:
        """Whether anything of the run waits: else nobody has to know whether anything goes on here."""
        return self._facts is not None and self._facts.waits.any

    def is_settled(self, *, held: bool) -> bool:
        """Tell whether `settle` has said so already."""
        return self.quiet and (held or self.resting_since is not None)

    @override
    def look(self) -> None:
        self.resting_since = None
        self._stirs += 1
        if self.upstream is not None:
            self.upstream.look()
        self._look()

    @override
    def check(self) -> None:
        if not self.quiet:
            self._look()

    def computes(self) -> None:
        """Note that something of the scatter is computed from now on."""
        self.resting_since = self._since = None
        self.quiet = False
        self._stirs += 1
        if self._facts is not None:
            self._facts.waits.goes_on()

    async def settle(self, *, held: bool) -> None:
        """Note that nothing goes on but items that wait, in memory (`held`) or not."""
        facts = self._facts
        if facts is None:
            return
        if not held:
            since, stirs = self._services.clock.monotonic(), self._stirs
            if self.any:
                self.kinds = await self._services.store.gates.open_kinds(facts.run_id, aside=ALARM)
            if self._stirs != stirs:
                return
            self.resting_since = self._since = since if self._since is None else self._since
        self.quiet = True
        facts.waits.rested()

    @override
    async def rests(self) -> bool:
        return self.resting_since is not None and await self._services.store.scatters.left(self._scatter) != "work"

    @override
    async def caught_up(self) -> bool:
        return self.upstream is None or await self.upstream.caught_up()
