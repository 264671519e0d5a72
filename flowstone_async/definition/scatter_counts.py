"""How far a scatter is, in numbers."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class ScatterCounts:
    """How far a scatter is; its parts add up to `total`.

    Attributes:
        total: Distinct items; until it is sealed, those that were read so far.
        done: Items that succeeded.
        failed: Items that failed for good.
        pending: Items that were read and not begun, those in a retry delay included.
        running: Items that a worker has in hand; at most `max_concurrent` of their bodies run at once.
        waiting: Items that wait for something outside the run.
        skipped: Items whose upstream item, or batch, failed; where the body takes batches each stands for one.
        cancelled: Items that never ran, or were cut off.
        sealed: Whether all items are read, so that `total` is final.
        rate: Items that ended in a second, on average since it began; None where that is not known.
        eta: How long the rest takes at that rate; None before it is sealed.
        items: Items that were read; where the body takes batches, the distinct ones: all other numbers are in batches.

    Raises:
        ValueError: A part is negative, or they do not add up.
    """

    total: int = 0
    done: int = 0
    failed: int = 0
    pending: int = 0
    running: int = 0
    waiting: int = 0
    skipped: int = 0
    cancelled: int = 0
    sealed: bool = False
    rate: float | None = None
    eta: timedelta | None = None
    items: int = 0

    def __post_init__(self) -> None:
        parts = (self.done, self.failed, self.pending, self.running, self.waiting, self.skipped, self.cancelled)
        if min(parts) < 0 or sum(parts) != self.total:
            raise ValueError(f"the parts of {self.total} items are {', '.join(map(str, parts))}")

    @property
    def progress(self) -> float:
        """Percent of the items that ended, done or failed; 0 where there are none."""
        return (self.done + self.failed) / self.total * 100 if self.total else 0.0
