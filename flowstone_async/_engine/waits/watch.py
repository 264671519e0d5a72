"""How a process hears that gates have ended that it waits for: hints, and one question for all runs each poll.

A run that waits is looked at when the store hints at it, when a gate was parked, and when its number of wakes has
moved. What is looked at together is read together. Deadlines are kept here too, so that a sleep ends when it is due and
not a poll later: whoever is due first lets the store sweep.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from datetime import datetime, timedelta
from itertools import islice
from typing import Any, Protocol

from flowstone_async._engine.waits.parked import Found, Parked
from flowstone_async.clock import Clock
from flowstone_async.errors import FlowstoneError
from flowstone_async.store.protocol import Store

SWEEP = 500
_SOON = 0.005
_PAUSE = 0.02
_logger = logging.getLogger("flowstone")


class Watched(Protocol):
    """A run that waits."""

    id: str

    @property
    def awaited(self) -> Collection[str]:
        """The gates whose end it waits for."""
        ...

    @property
    def due(self) -> datetime | None:
        """The nearest deadline of these."""
        ...

    @property
    def hosts(self) -> Collection[object]:
        """Scatters with items that wait for more than that: only the store knows the gates."""
        ...

    def hand_out(self, found: Found) -> None:
        """Hear what has ended gates."""
        ...

    def reconsider(self) -> None:
        """Look again which bodies do nothing but wait."""
        ...


class Watch:
    """The runs of one process that wait.

    Args:
        store: Where gates are.
        poll: Seconds for which a lost hint may go unnoticed.
        spawn: Starts a child task of the engine.
        most: The most waits in memory; beyond it those that have waited longest are evicted.
    """

    def __init__(self, store: Store, clock: Clock, poll: float, spawn: Callable[..., None], most: int) -> None:
        self._store, self._clock, self._poll, self._spawn, self._most = store, clock, poll, spawn, most
        self._runs: dict[Watched, int | None] = {}
        self._hinted: set[Watched] = set()
        self._wake = asyncio.Event()
        self._stands = self._failing = False
        self._looked = float("-inf")
        self._due: datetime | None = None
        self._pause = _PAUSE
        self.parked: dict[Parked, Callable[[], None]] = {}

    def add(self, run: Watched) -> None:
        """Look at a run: it waits for something new."""
        self._runs.setdefault(run, None)
        self.hint(run)
        if not self._stands:
            self._stands = True
            self._spawn(self._run, name="gates")

    def remove(self, run: Watched) -> None:
        """Look at a run no longer."""
        self._runs.pop(run, None)
        self._hinted.discard(run)
        self._wake.set()

    def hint(self, run: Watched) -> None:
        """Look at a run soon: something of it may have ended."""
        if run in self._runs:
            self._hinted.add(run)
            self._wake.set()

    def crowd(self, parked: Parked, evict: Callable[[], None]) -> None:
        """Count one more wait in memory, and evict those that have waited longest if there are too many."""
        self.parked[parked] = evict
        if len(self.parked) > self._most:
            for longest in list(islice(self.parked.values(), len(self.parked) - self._most)):
                longest()

    async def _run(self) -> None:
        try:
            while self._runs:
                delay = await self._turn()
                timer = self._clock.call_later(delay, self._wake.set)
                try:
                    await self._wake.wait()
                finally:
                    timer.cancel()
        finally:
            self._stands = False

    async def _turn(self) -> float:
        """Do what there is to do, and return how long nothing is."""
        self._wake.clear()
        try:
            await self._look()
            self._failing = False
        except FlowstoneError as error:
            if not self._failing:  # once per outage, not once per poll
                _logger.warning("gates: %s; it is tried again every %g s", error.message, self._poll)
            self._failing = True
            return self._poll
        except Exception:
            if not self._failing:
                _logger.exception("gates: a mistake of flowstone_async; it is tried again every %g s", self._poll)
            self._failing = True
            return self._poll
        due = min((each for each in (self._due, *(run.due for run in self._runs)) if each is not None), default=None)
        left = self._poll if due is None else (due - self._store.now()).total_seconds()
        return min(max(left, _SOON), self._poll)

    async def _look(self) -> None:
        now, gates = self._store.now(), self._store.gates
        late = [run for run in self._runs if run.due is not None and run.due <= now]
        swept = bool(late) or (self._due is not None and self._due <= now)
        if swept:
            while await gates.sweep(limit=SWEEP) >= SWEEP:
                pass
            self._hinted.update(late)
        if self._clock.monotonic() - self._looked >= self._poll:
            self._looked = self._clock.monotonic()
            wakes = await gates.wakes([run.id for run in self._runs])
            for run, known in list(self._runs.items()):
                number = wakes[run.id].number if run.id in wakes else -1
                if run in self._runs and number != known:
                    self._runs[run] = number
                    self._hinted.add(run)
                run.reconsider()
        hinted, self._hinted = self._hinted, set()
        wanted: dict[str, Any] = {gate: None for run in hinted for gate in run.awaited}
        try:
            found: Found = await gates.outcomes(wanted) if wanted else {}
        except FlowstoneError:
            self._hinted |= hinted & self._runs.keys()
            raise
        for run in hinted:
            if run in self._runs:
                run.hand_out(found)
        self._due = await gates.next_due() if any(run.hosts for run in self._runs) else None
        if swept and self._due is not None and self._due <= now:  # somebody else decides it, or holds its run
            self._due = self._store.now() + timedelta(seconds=self._pause)
            self._pause = min(2 * self._pause, self._poll)
        else:
            self._pause = _PAUSE
