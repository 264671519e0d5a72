"""Whether all parts of a scatter wait: then nothing but time brings it on, and a test may let it pass."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable


class Resting:
    """Knows the parts of a scatter, and which of them wait for an event."""

    __slots__ = ("_events", "_parts")

    def __init__(self) -> None:
        self._events: list[asyncio.Event] = []
        self._parts = 0

    async def part(self, run: Callable[[], Awaitable[None]]) -> None:
        """Run a part."""
        self._parts += 1
        try:
            await run()
        finally:
            self._parts -= 1

    async def on(self, event: asyncio.Event) -> None:
        """Wait, in a part, for an event that another part or a timer sets."""
        self._events.append(event)
        try:
            await event.wait()
        finally:
            self._events.remove(event)

    @property
    def all(self) -> bool:
        """Whether every part waits, and for what has not happened yet."""
        return len(self._events) == self._parts and not any(event.is_set() for event in self._events)
