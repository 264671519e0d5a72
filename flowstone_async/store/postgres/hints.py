"""Who waits for a change, in this process and in others. A hint is never needed: whoever waits looks again in time."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress

from flowstone_async.store.postgres.batch import Reply
from flowstone_async.store.postgres.step import PendingStep
from flowstone_async.types import AssetKey


class Hints:
    """Topics that somebody is interested in.

    A topic that changes while nobody waits, but after somebody has waited, is remembered: its next wait returns at
    once. So none is missed between looking and waiting.
    """

    def __init__(self) -> None:
        self._waiting: dict[str, set[asyncio.Future[None]]] = {}

    def committed(self, pending: Iterable[PendingStep], reply: Reply) -> None:
        """Tell of what a batch has changed."""
        if not self._waiting:
            return
        for one in pending:
            step = one.step
            if step.run_id in reply.refused:
                continue
            self.publish(f"run:{step.run_id}")
            for done in step.done:
                self.publish(f"key:{done.key}")
            for key in step.releases:
                self.publish(f"key:{key}")

    def ended(self, run_id: str, keys: Iterable[AssetKey]) -> None:
        """Tell of a run that was ended or given up from outside, and of keys that it held."""
        self.publish(f"run:{run_id}")
        for key in keys:
            self.publish(f"key:{key}")

    def publish(self, topic: str) -> None:
        """Wake who waits for a topic here."""
        for future in self._waiting.pop(topic, ()):
            if not future.done():
                future.set_result(None)

    async def changed(self, topic: str, *, within: float) -> None:
        """Return when a topic may have changed, at the latest after `within` seconds."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(topic, set()).add(future)
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(within):
                    await future
        finally:
            waiting = self._waiting.get(topic)
            if waiting is not None:
                waiting.discard(future)
                if not waiting:
                    del self._waiting[topic]
