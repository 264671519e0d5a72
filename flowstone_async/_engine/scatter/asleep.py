"""Items of a scatter that wait at gates and are in nobody's memory: the store knows which of them are due.

A body that has waited for `park_after` is evicted: with the next flush it leaves its chunk for one of its own, which is
not due. Whoever wakes the run because one of its gates has ended makes that due, and any worker takes it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

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


class Asleep(Host):
    """What a worker knows of such items of one scatter.

    Args:
        services: Of the engine.
        scatter: Which one.
        facts: Of its bodies; None if they have no context, and so never wait.
        look: Looks for items that are due.
    """

    def __init__(self, services: Services, scatter: str, facts: BodyFacts | None, look: Callable[[], None]) -> None:
        self._services, self._scatter, self._facts, self._look = services, scatter, facts, look
        self.patience = None if facts is None else facts.park_after
        self.resting_since: float | None = None
        self.kinds: frozenset[GateKind] = frozenset()
        self.any = False

    def begin(self) -> None:
        """Hear when gates end from now on: some items wait."""
        if not self.any and self._facts is not None:
            self.any = True
            self._facts.waits.host(self)

    def end(self) -> None:
        """Hear nothing more."""
        self.resting_since = None
        if self.any and self._facts is not None:
            self._facts.waits.leave(self)

    @override
    def look(self) -> None:
        self.resting_since = None
        self._look()

    async def rest(self) -> None:
        """Note that nothing is left of the scatter but items that wait."""
        facts = self._facts
        if self.resting_since is not None or facts is None:
            return
        since = self._services.clock.monotonic()
        self.kinds = await self._services.store.gates.open_kinds(facts.run_id, aside=ALARM)
        self.resting_since = since
        facts.waits.rested()

    @override
    async def rests(self) -> bool:
        return self.resting_since is not None and await self._services.store.scatters.left(self._scatter) == "waits"
