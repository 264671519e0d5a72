"""Results of scatters as they are stored: those that are committed together are a block."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

MOST_AT_ONCE = 64 << 20
"""Bytes of results from which on no more are written, or read, together: a statement takes 1 GB, and holds it often."""


class Block(NamedTuple):
    """Results that are committed together: their positions, and the values in that order.

    Attributes:
        body: All values, for packed results.
        rows: Each value, for results in rows; else None.
        number: As in `Chunk`, of the one result that it then has; only `committed` tells.
    """

    positions: Sequence[int]
    body: bytes
    rows: Sequence[str] | None = None
    number: int | None = None


class Committed(NamedTuple):
    """A block, as it is read. Results in rows are one each, or all of a page if all are whole.

    Attributes:
        no: Those of a scatter rise, with gaps; whoever commits later may have the smaller one.
        page: Of the items that they are of.
        whole: Whether it is there with its contents, and not only with its positions.
    """

    no: int
    page: int
    block: Block
    whole: bool = True

    def without_contents(self) -> Committed:
        """Return the same with its positions only."""
        return self._replace(block=Block(self.block.positions, b"", number=self.block.number), whole=False)


def weight(block: Block | None) -> int:
    """Return how much a block adds to a statement: bytes, or characters of rows."""
    if block is None:
        return 0
    return len(block.body) if block.rows is None else sum(map(len, block.rows))
