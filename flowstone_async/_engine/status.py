"""What is known of one asset and partition."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, TypeAlias

from flowstone_async.definition.scatter_counts import ScatterCounts
from flowstone_async.errors import FlowstoneError

StatusState: TypeAlias = Literal[
    "pending", "running", "waiting", "completed", "failed", "skipped", "cancelled", "not_found"
]


@dataclass(frozen=True, slots=True, kw_only=True)
class AssetStatus:
    """The newest attempt to compute an asset for a partition, and the value that is stored.

    Attributes:
        state: Of the newest attempt; `not_found` when nothing was ever tried or stored.
        seconds: Duration of the newest computation.
        io: Name of the I/O manager that holds the value, or without one was to hold that of a failed attempt; or None.
        error: Why the newest attempt failed.
        has_value: Whether `get` returns a value, also after a failed attempt.
        fresh: Whether a run would reuse it.
        stale_because: Why not.
        code_changed: `function (line n)` of the asset, if its code or that of its helpers changed since; else None.
        waiting_for: Whom or what it waits for.
        scatter: Counts of its items; None for an asset that is no scatter.
    """

    asset: str
    partition: Any
    state: StatusState
    run_id: str | None = None
    started_at: datetime | None = None
    completed_at: datetime | None = None
    seconds: float | None = None
    io: str | None = None
    error: FlowstoneError | None = None
    reason: str | None = None
    has_value: bool = False
    fresh: bool = False
    stale_because: str | None = None
    code_changed: str | None = None
    waiting_for: str | None = None
    scatter: ScatterCounts | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Why:
    """The state of an asset and partition, explained.

    Attributes:
        state: `fresh`, `stale`, `failed`, `skipped`, `running`, `waiting`, `cancelled` or `never run`.
        because: One sentence.
        causes: The chain behind it, nearest first.
    """

    asset: str
    partition: Any
    state: str
    because: str
    causes: tuple[str, ...] = ()

    def __str__(self) -> str:
        where = "" if self.partition is None else f" [{self.partition}]"
        lines = [f"{self.asset}{where} is {self.state}: {self.because}", *(f"  {cause}" for cause in self.causes)]
        return "\n".join(lines)

    def as_dict(self) -> dict[str, object]:
        """Return the explanation as JSON-compatible values."""
        partition = None if self.partition is None else str(self.partition)
        return {
            "asset": self.asset,
            "partition": partition,
            "state": self.state,
            "because": self.because,
            "causes": list(self.causes),
        }
