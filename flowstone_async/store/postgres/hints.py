"""Who waits for a change in this process. A hint is never needed: whoever waits looks again in time.

A topic is followed from the first time somebody is interested in it: when a claim is refused, or somebody waits for it.
From then on no change of it is missed between a look and a wait.
"""

from __future__ import annotations

import asyncio
import hashlib
from base64 import b64encode
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress

from flowstone_async.store.postgres.batch import Reply
from flowstone_async.store.postgres.step import PendingStep
from flowstone_async.types import AssetKey

# Topics that nobody waits for at the moment are forgotten beyond this many.
_FOLLOWED = 10_000


class _Topic:
    __slots__ = ("changed", "waiting")

    def __init__(self) -> None:
        self.changed = False
        self.waiting: set[asyncio.Future[None]] = set()


class Hints:
    """Topics that are followed here, and the news for other processes.

    Args:
        tell: Takes topics that other processes may wait for.
    """

    def __init__(self, tell: Callable[[Iterable[str]], None]) -> None:
        self._tell = tell
        self._topics: OrderedDict[str, _Topic] = OrderedDict()
        self._by_tag: dict[str, str] = {}

    def follow(self, topic: str) -> bool:
        """Remember changes of a topic from now on; returns whether it was not followed before."""
        if topic in self._topics:
            self._topics.move_to_end(topic)
            return False
        self._topics[topic] = _Topic()
        self._by_tag[tag(topic)] = topic
        if len(self._topics) > _FOLLOWED:
            self._forget_some()
        return True

    def _forget_some(self) -> None:
        """Forget the tenth that nobody has asked for longest."""
        idle = [topic for topic, state in self._topics.items() if not state.waiting]
        for topic in idle[: _FOLLOWED // 10]:
            del self._topics[topic]
            del self._by_tag[tag(topic)]

    async def wait(self, topic: str, *, within: float) -> None:
        """Return when a followed topic has changed since it was last waited for, or after `within` seconds."""
        state = self._topics.get(topic)
        if state is None:
            return
        if not state.changed:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            state.waiting.add(future)
            try:
                with suppress(TimeoutError):
                    async with asyncio.timeout(within):
                        await future
            finally:
                state.waiting.discard(future)
        state.changed = False

    def publish(self, topic: str) -> None:
        """Wake who waits for a topic here."""
        state = self._topics.get(topic)
        if state is not None:
            state.changed = True
            for future in state.waiting:
                if not future.done():
                    future.set_result(None)

    def publish_all(self) -> None:
        """Wake everybody: it is not known what has changed."""
        for topic in list(self._topics):
            self.publish(topic)

    def heard(self, tags: Iterable[str]) -> None:
        """Wake who waits for topics that another process tells of."""
        for one in tags:
            topic = self._by_tag.get(one)
            if topic is not None:
                self.publish(topic)

    def committed(self, pending: Iterable[PendingStep], reply: Reply) -> None:
        """Tell of what a batch has changed."""
        if self._topics:
            for one in pending:
                step = one.step
                if step.run_id not in reply.refused:
                    self.publish(f"run:{step.run_id}")
                    for done in step.done:
                        self.publish(f"key:{done.key}")
                    for key in step.releases:
                        self.publish(f"key:{key}")
        if reply.released or reply.watched:
            self._announce([f"key:{key}" for key in reply.released] + [f"run:{run}" for run in reply.watched])

    def ended(self, run_id: str, freed: Sequence[AssetKey]) -> None:
        """Tell of a run that was ended or given up from outside, and of the keys that it held."""
        self._announce([f"run:{run_id}", *(f"key:{key}" for key in freed)])

    def queued(self) -> None:
        """Tell of runs that wait for a worker."""
        self._announce(["queue"])

    def woken(self) -> None:
        """Tell of suspended runs that wait for a worker to go on."""
        self._announce(["woken"])

    def limits(self, keys: Iterable[str], told: Iterable[str]) -> None:
        """Tell of limits that have changed: those who wait at `keys` here, those at `told` in other processes."""
        for key in keys:
            self.publish(f"limit:{key}")
        topics = [f"limit:{key}" for key in told]
        if topics:
            self._tell(topics)

    def taken_away(self, keys: Iterable[AssetKey]) -> None:
        """Tell of keys whose current value was taken away."""
        for key in keys:
            self.publish(f"key:{key}")

    def _announce(self, topics: Sequence[str]) -> None:
        for topic in topics:
            self.publish(topic)
        self._tell(topics)


def tag(topic: str) -> str:
    """Return a topic's short name in notifications: as good as unique, and never a special character."""
    return b64encode(hashlib.blake2b(topic.encode("utf-8", "surrogatepass"), digest_size=9).digest()).decode()
