"""When to look for what is free: the nearest instants, however many items wait for theirs."""

from __future__ import annotations

import heapq
import math


class Dues:
    """Instants of the clock, of which so many are held; those that are left out are asked for when they come near.

    Args:
        most: How many are held.

    Attributes:
        lacking: Whether the store has to be asked for the next ones.
    """

    __slots__ = ("_beyond", "_instants", "_most", "lacking")

    def __init__(self, most: int) -> None:
        self._most = max(2, most)
        self._instants: list[float] = []
        self._beyond = math.inf
        self.lacking = False

    def __len__(self) -> int:
        return len(self._instants)

    @property
    def batch(self) -> int:
        """How many to ask for."""
        return self._most // 2

    @property
    def first(self) -> float:
        """The next one; infinite if there is none."""
        return self._instants[0] if self._instants else math.inf

    def add(self, instant: float) -> None:
        """Add one."""
        if instant > self._beyond:
            return
        heapq.heappush(self._instants, instant)
        if len(self._instants) > self._most:
            self._instants = heapq.nsmallest(self.batch, self._instants)
            self._beyond = self._instants[-1]

    def learn(self, instants: list[float]) -> None:
        """Add those that were asked for."""
        self.lacking = False
        if len(instants) >= self.batch:
            self._beyond = min(self._beyond, max(instants))
        for instant in instants:
            self.add(instant)

    def pop(self, now: float) -> None:
        """Forget those that have come."""
        while self._instants and self._instants[0] <= now:
            heapq.heappop(self._instants)
        if self._beyond <= now:
            self._beyond, self.lacking = math.inf, True
