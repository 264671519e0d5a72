"""A line of items that wait for permits of one key; see rating.py."""

from __future__ import annotations

import math
from collections import deque
from typing import Literal

from flowstone_async._engine.scatter.chunks import LocalChunk, Todo, Withheld
from flowstone_async._engine.scatter.supply import withheld
from flowstone_async.limits.stock import Stock


class Line:
    """Items with one key.

    Args:
        key: Of the limit.
        alone: Whether nothing may run beside them.

    Attributes:
        count: How many items there are.
        due: When it is worth asking for more permits.
        hope: When the next permit may come, if nothing changes.
        place: Where the line is: `ready` if an item may begin, `late` if it waits for its due time.
        asked: Whether permits are being asked for.
        lot: Permits that were granted last.
    """

    __slots__ = ("_blocks", "alone", "asked", "count", "due", "hope", "key", "lot", "place", "stocks")

    def __init__(self, key: str, *, alone: bool) -> None:
        self.key, self.alone = key, alone
        self._blocks: deque[tuple[LocalChunk, list[Todo]]] = deque()
        self.stocks: deque[Stock] = deque()
        self.count = self.lot = 0
        self.due = self.hope = -math.inf
        self.place: Literal["", "ready", "late"] = ""
        self.asked = False

    @property
    def stocked(self) -> int:
        """How many permits it has."""
        return sum(stock.count for stock in self.stocks)

    def add(self, chunk: LocalChunk, todos: list[Todo]) -> None:
        """Put items of a chunk at the end, the first of them being the last of the list."""
        self._blocks.append((chunk, todos))
        self.count += len(todos)

    def pop(self) -> tuple[LocalChunk, Todo]:
        """Take the first item."""
        while not self._blocks[0][1]:  # all of it was withheld
            self._blocks.popleft()
        chunk, todos = self._blocks[0]
        todo = todos.pop()
        if not todos:
            self._blocks.popleft()
        self.count -= 1
        return chunk, todo

    def withhold(self, count: int) -> list[Withheld]:
        """Take out the last items of its chunks, `count` at most."""
        found = withheld([chunk for chunk, _ in self._blocks], count)
        self.count -= sum(each.size for each in found)
        return found
