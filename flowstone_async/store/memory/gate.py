"""One gate in memory, and what it is among."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from threading import RLock
from typing import Literal, Protocol

from flowstone_async.clock import Clock
from flowstone_async.store.gates import Gate, Outcome, Signal
from flowstone_async.store.memory.key import Key
from flowstone_async.store.memory.run import Run
from flowstone_async.types import AssetKey
from flowstone_async.waiters import Waiters

NEVER = datetime.max.replace(tzinfo=UTC)


class Runs(Protocol):
    """What gates have to know of runs."""

    clock: Clock
    lock: RLock
    runs: dict[str, Run]
    active: dict[str, Run]
    requests: dict[tuple[str, str], dict[str, Run]]
    waiters: Waiters

    def owns(self, run_id: str, fence: int) -> bool:
        """Tell whether a run is owned under a fence."""
        ...

    def moved(self, run: Run) -> None:
        """Wake those that wait for a run."""
        ...

    def changed(self, key: Key) -> None:
        """Wake those that wait for a key."""
        ...

    def gate_ended(self, gate: str) -> None:
        """Hear that a gate has ended."""
        ...


class Entry:
    """A gate.

    Attributes:
        gate: With the deadline that stands.
        outcome: What has ended it.
    """

    __slots__ = ("gate", "opened_at", "outcome")

    def __init__(self, gate: Gate, at: datetime) -> None:
        due = at + gate.due if isinstance(gate.due, timedelta) else gate.due
        self.gate = gate._replace(due=due)
        self.opened_at = at
        self.outcome: Outcome | None = None

    @property
    def due(self) -> datetime | None:
        """Its deadline."""
        due = self.gate.due
        return due if isinstance(due, datetime) else None

    @property
    def place(self) -> tuple[datetime, str]:
        """Where it is among those that wait."""
        return self.due or NEVER, self.gate.id

    def is_over(self, now: datetime) -> bool:
        """Tell whether its deadline has passed."""
        return self.due is not None and self.due <= now


def last_ended(
    runs: Iterable[Run], of_run: Mapping[str, Sequence[Entry]], key: AssetKey, now: datetime
) -> Entry | None:
    """Return the newest gate of an asset that has ended, of those whose runs were suspended and are to go on."""
    found = (
        entry
        for run in runs
        if run.quiet is not None
        for entry in of_run.get(run.id, ())
        if entry.gate.asset == key and (run.state == "running" if entry.outcome is not None else entry.is_over(now))
    )
    return max(found, key=lambda entry: entry.opened_at, default=None)


def repeated(signal: Signal, outcome: Outcome) -> Literal["duplicate", "already"]:
    """Tell whether a signal is the one that stands."""
    same_id = signal.signal_id is not None and signal.signal_id == outcome.signal_id
    return "duplicate" if same_id or signal.payload == outcome.payload else "already"
