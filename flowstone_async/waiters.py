"""Who waits for a change of what, in whichever event loop."""

from __future__ import annotations

import asyncio


class Waiter:
    """One call that waits; may be woken from any thread."""

    __slots__ = ("_future", "_loop")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._future: asyncio.Future[None] = self._loop.create_future()

    async def woken(self) -> None:
        """Return once woken."""
        await self._future

    def expire(self) -> None:
        """Wake it, from its own loop."""
        if not self._future.done():
            self._future.set_result(None)

    def wake(self) -> None:
        """Wake it, from any thread; a loop that is closed has nobody waiting."""
        try:
            self._loop.call_soon_threadsafe(self.expire)
        except RuntimeError:
            if not self._loop.is_closed():
                raise


class Waiters:
    """Waiters by topic; the hot path looks whether there is any before it names what has changed."""

    __slots__ = ("topics",)

    def __init__(self) -> None:
        self.topics: dict[str, set[Waiter]] = {}

    def add(self, topic: str, waiter: Waiter) -> None:
        """Let a waiter wait for the next change."""
        self.topics.setdefault(topic, set()).add(waiter)

    def discard(self, topic: str, waiter: Waiter) -> None:
        """Forget a waiter, if it is still there."""
        waiters = self.topics.get(topic)
        if waiters is not None:
            waiters.discard(waiter)
            if not waiters:
                del self.topics[topic]

    def wake(self, topic: str) -> None:
        """Wake all that wait for a topic."""
        for waiter in self.topics.pop(topic, ()):
            waiter.wake()

    def wake_all(self) -> None:
        """Wake all, for each to look whether it may go on waiting."""
        for topic in list(self.topics):
            self.wake(topic)
