"""What this process drives: for each run its owner, its pipeline and the keys it holds, as the database told."""

from __future__ import annotations

from collections.abc import Iterable

from flowstone_async.types import AssetKey


class DrivenRun:
    """A run that this process moves forward.

    Attributes:
        worker: The worker that owned it when this was learnt.
        gated: Whether it has gates.
        held: Keys it has claimed and not let go. May name one too many after a lost reply, never one too few.
    """

    __slots__ = ("gated", "held", "pipeline", "worker")

    def __init__(self, pipeline: str, worker: str, held: Iterable[AssetKey] = (), *, gated: bool = False) -> None:
        self.gated = gated
        self.pipeline = pipeline
        self.worker = worker
        self.held = set(held)


Ledger = dict[str, DrivenRun]
