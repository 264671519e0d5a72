"""One gate in memory."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Literal

from flowstone_async.store.gates import Gate, Outcome, Signal

NEVER = datetime.max.replace(tzinfo=UTC)


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


def repeated(signal: Signal, outcome: Outcome) -> Literal["duplicate", "already"]:
    """Tell whether a signal is the one that stands."""
    same_id = signal.signal_id is not None and signal.signal_id == outcome.signal_id
    return "duplicate" if same_id or signal.payload == outcome.payload else "already"
