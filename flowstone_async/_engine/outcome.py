"""What units end in, as frozen values."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, NamedTuple, TypeAlias

from flowstone_async._engine.waits.parked import Parked
from flowstone_async.errors import FlowstoneError
from flowstone_async.types import Input, Materialization

UnitState: TypeAlias = Literal["ok", "cached", "failed", "blocked", "skipped", "cancelled", "missing"]


class Settled(NamedTuple):
    """How a unit ended in a run.

    Attributes:
        state: `ok` (computed), `cached` (reused), `failed`, `blocked` (a required upstream failed), `skipped`,
            `cancelled`, or `missing` (not stored, in a run that computes no upstreams).
        materialization: The value's record, for `ok` and `cached`.
        payload: The encoded value, where it is at hand.
    """

    state: UnitState
    materialization: Materialization | None = None
    payload: bytes | None = None
    error: FlowstoneError | None = None
    reason: str | None = None
    seconds: float = 0.0
    attempts: int = 0

    @property
    def fingerprint(self) -> str:
        """The value's fingerprint, or `"absent:<why>"`."""
        if self.materialization is not None:
            return self.materialization.fingerprint
        return f"absent:{'failed' if self.state in ('failed', 'blocked', 'cancelled') else self.state}"


class Computed(NamedTuple):
    """An attempt gave a value, which is stored and not yet committed."""

    materialization: Materialization
    payload: bytes | None
    table: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Failing:
    """An attempt failed; `wait` seconds until the next one, or None if it was the last."""

    error: FlowstoneError
    started_at: datetime
    seconds: float
    wait: float | None = None


@dataclass(frozen=True, slots=True)
class Interrupted:
    """An attempt was cut off because the run stops; it is no outcome of the asset."""

    started_at: datetime
    seconds: float


@dataclass(frozen=True, slots=True)
class Blocked:
    """A scatter was given up because the one that it follows has ended without a value."""


@dataclass(frozen=True, slots=True)
class Evicted:
    """A body was dropped while it waited; it is called again, in the same attempt, once one of its gates has ended."""

    waits: tuple[Parked, ...]


Outcome: TypeAlias = Computed | Failing | Interrupted | Blocked | Evicted


@dataclass(slots=True)
class Tried:
    """The attempts that one unit has had and that failed.

    Attributes:
        attempts: How many, in whatever process.
        due: When the next one may begin, as a process that is gone has noted it; None in the process that waits.
        errors: What they failed with, oldest first.
    """

    attempts: int = 0
    due: datetime | None = None
    errors: list[FlowstoneError] = field(default_factory=list[FlowstoneError])

    def add(self, attempt: int, error: FlowstoneError) -> None:
        """Count an attempt that failed."""
        self.attempts = attempt
        self.errors.append(error)


class Prepared(NamedTuple):
    """A body's arguments, and what was consumed to make them."""

    arguments: dict[str, object]
    inputs: tuple[Input, ...]
