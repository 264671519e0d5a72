"""The store's port for scatters that several workers run: who takes part, how many bodies each may run, who gets what.

The workers of a scatter are its crew. One of them owns the run and reads the source; the others take chunks. Only
durable stores have crews: nobody else sees the others. docs/adr/0008-scatter.md says how they share.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from flowstone_async.store.scatters import ScatterRecord, ScatterState


class Attendance(NamedTuple):
    """How a scatter stands, as its crew sees it.

    Attributes:
        fence: Under which it is read now.
        led: Whether the worker that owns its run takes part, or nobody owns the run just now.
        permits: Up to how many bodies the worker may run at once; None for no bound. More that run already may end.
        others: Other workers of the crew that are alive.
        hungry: How many of them could run more than they have.
        elsewhere: Items of chunks that the worker does not own and that are not final yet.
        facts: A number that changes with what is decided for the scatter.
    """

    state: ScatterState
    sealed: bool
    fence: int
    led: bool
    permits: int | None
    others: int
    hungry: int
    elsewhere: int
    facts: int = 0


class Gift(NamedTuple):
    """A chunk of a page that its owner gives back, whole, or but for its first items.

    Attributes:
        first: Position of the chunk's first item.
        keep: Number of its first items that stay; 0 for a chunk that goes whole.
        alone: Whether it is an item on its own.
    """

    first: int
    fence: int
    keep: int
    alone: bool = False


class Crews(Protocol):
    """Who runs which scatter."""

    async def attend(
        self, scatter: str, worker: str, *, most: int | None, running: int, hungry: bool
    ) -> Attendance | None:
        """Take part in a scatter, or go on doing so. All together never have more than `most` permits.

        Args:
            scatter: Which one.
            worker: Who.
            most: Bodies of the scatter at once, over all workers; None for no bound.
            running: How many the worker runs now, and does not exceed before it has the answer.
            hungry: Whether it could run more than it has.

        Returns:
            None if the worker's lease is over, or there is no such scatter of a run that goes on.
        """
        ...

    async def leave(self, scatter: str, worker: str) -> None:
        """Take part no longer."""
        ...

    async def give(self, scatter: str, worker: str, gifts: Sequence[Gift]) -> frozenset[int]:
        """Let anybody take items of chunks that `worker` owns and has not begun. Repeated, it answers the same.

        Returns:
            The places in `gifts` of those that were given; the chunks of the others are not the worker's any more.
        """
        ...

    async def joinable(self, worker: str, pipelines: Sequence[str], *, limit: int) -> tuple[ScatterRecord, ...]:
        """Return scatters of pipelines that others run and in which `worker` does not take part."""
        ...


def permits(most: int | None, *, place: int, members: int, others: int) -> int | None:
    """Return up to how many bodies one of a crew may run at once.

    Args:
        most: How many all may run; None for no bound.
        place: How many of the crew came before it.
        members: How many there are.
        others: Permits that the others have, or have given up and still use.
    """
    if most is None:
        return None
    fair = most // members + (place < most % members)
    return max(0, min(fair, most - others))
