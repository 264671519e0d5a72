"""Places for what runs at once, which a body leaves while it waits and takes again before it goes on."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable


class Seats:
    """Who has left a place, and who wants one back: first come, first served.

    Args:
        free: Whether one more may come back now.
        left: Told that somebody has left.
        back: Told that somebody comes back, before that goes on.

    Attributes:
        away: How many have left.
    """

    __slots__ = ("_back", "_free", "_left", "_queue", "away")

    def __init__(
        self, free: Callable[[], bool], left: Callable[[], None], back: Callable[[], None] = lambda: None
    ) -> None:
        self._free, self._left, self._back = free, left, back
        self._queue: deque[asyncio.Future[None]] = deque()
        self.away = 0

    @property
    def wanted(self) -> bool:
        """Whether anybody wants to come back."""
        return bool(self._queue)

    def leave(self) -> None:
        """Leave a place for others."""
        self.away += 1
        self._left()

    async def take(self) -> None:
        """Come back as soon as there is a place; whoever is cancelled comes back at once, to end."""
        self._back()
        if not self._queue and self._free():
            self.away -= 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._queue.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.done() or turn.cancelled():
                self._queue.remove(turn)
                self.away -= 1
            raise

    def back(self) -> None:
        """Come back at once, whether or not there is a place: to end."""
        self._back()
        self.away -= 1

    def close(self) -> None:
        """Let go of whoever was asked and told."""
        self._free, self._left, self._back = _always, _nothing, _nothing

    def offer(self) -> None:
        """Let those come back that want to, as far as there is room."""
        while self._queue and self._free():
            turn = self._queue.popleft()
            if not turn.cancelled():
                self.away -= 1
                turn.set_result(None)


def _always() -> bool:
    return True


def _nothing() -> None:
    pass
