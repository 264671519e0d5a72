"""Where the items of a scatter are batches, some of which leave others: their positions, and what the store is told."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

from flowstone_async.errors import Failure

SPLIT = 1 << 62
"""Positions from here on are of batches that were split off. queries/scatter.sql knows it too, and the shift below."""
_SHIFT = 24


class Split(NamedTuple):
    """An item that leaves its batch and is a batch of its own from then on, which counts.

    Attributes:
        position: What `split_off` says.
        attempts: Attempts that failed so far.
        due: When it may be tried; None at once.
        error: Of the last attempt.
        failed: Whether it failed for good with that; then it is among the failures of the flush too.
    """

    position: int
    attempts: int
    due: datetime | None
    error: Failure
    failed: bool


def split_off(position: int, place: int) -> int:
    """Return the position of the batch that one item makes which leaves its batch, at any time and by any worker.

    Args:
        position: Of the batch that it was read into.
        place: Of the item in that batch.
    """
    return SPLIT | position << _SHIFT | place


def split_from(position: int) -> tuple[int, int | None]:
    """Return the position of the batch that a batch was read into, and its place in there if it was split off."""
    if position < SPLIT:
        return position, None
    return (position ^ SPLIT) >> _SHIFT, position & (1 << _SHIFT) - 1
