"""Telling other processes of changes, and hearing of theirs: NOTIFY, never inside a commit, and LISTEN.

Neither is relied on. What cannot be told is dropped; while nothing can be heard, those who wait look by themselves.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Iterable

from asyncpg import Connection

from flowstone_async.errors import FlowstoneError
from flowstone_async.store.postgres.connections import DRIVER_ERRORS, Connections
from flowstone_async.store.postgres.hints import Hints, tag
from flowstone_async.types import new_id

CHANNEL = "flowstone"
EVERYTHING = "*"
PING = "?"

# Postgres refuses 8,000 bytes; a tag has 12, a sender 36.
_TAGS_PER_PAYLOAD = 300
_PAYLOADS = 10
_PING_EVERY = 15.0
_PING_WITHIN = 5.0
_FIRST_DELAY = 0.1
_LONGEST_DELAY = 5.0
# A pooler that hands connections on takes LISTEN and delivers nothing.
_DEAF_AFTER = 3

_logger = logging.getLogger("flowstone")


class Notifier:
    """Tells other processes which topics have changed, as many at a time as have come up.

    Args:
        connections: To the server.
        enabled: False tells nobody.
    """

    def __init__(self, connections: Connections, *, enabled: bool) -> None:
        self.sender = new_id()
        self._connections = connections
        self._enabled = enabled
        self._tags: set[str] = set()
        self._wake = asyncio.Event()
        self._closed = False

    def tell(self, topics: Iterable[str]) -> None:
        """Let other processes know, soon."""
        if self._enabled:
            self._tags.update(map(tag, topics))
            self._wake.set()

    def ping(self) -> None:
        """Send something that only this process's own listener takes note of."""
        self._tags.add(PING)
        self._wake.set()

    def close(self) -> None:
        """Tell what is left to tell, and no more."""
        self._closed = True
        self._wake.set()

    async def serve(self) -> None:
        """Tell, until closed."""
        while not self._closed or self._tags:
            await self._wake.wait()
            self._wake.clear()
            if self._tags:
                payloads = list(_payloads(self.sender, self._tags))
                self._tags.clear()
                try:
                    await self._connections.fetch("notify", payloads)
                except FlowstoneError as error:
                    _logger.debug("changes were not announced: %s", error)


class Listener:
    """Hears what other processes tell, on a connection that nothing else uses.

    Args:
        connections: To the server.
        hints: Who waits here.
        notifier: This process's own, to prove that something can be heard.
    """

    def __init__(self, connections: Connections, hints: Hints, notifier: Notifier) -> None:
        self._connections = connections
        self._hints = hints
        self._notifier = notifier
        self._pong = asyncio.Event()
        self._deaf = 0

    async def serve(self) -> None:
        """Listen until cancelled, over as many connections as it takes."""
        delay = _FIRST_DELAY
        while self._deaf < _DEAF_AFTER:
            try:
                connection = await self._connections.connect()
            except (*DRIVER_ERRORS, FlowstoneError) as error:
                _logger.debug("cannot listen: %s", error)
            else:
                try:
                    if await self._listen(connection):
                        delay = _FIRST_DELAY
                except DRIVER_ERRORS as error:
                    _logger.debug("listening was cut off: %s", error)
                finally:
                    connection.terminate()
            await asyncio.sleep(delay * random.uniform(0.5, 1.5))  # noqa: S311
            delay = min(2 * delay, _LONGEST_DELAY)
        _logger.warning(
            "notifications do not arrive, as behind a transaction pooler: changes are looked for by polling; "
            "name the server itself with direct="
        )

    async def _listen(self, connection: Connection) -> bool:
        """Listen until the connection is lost; returns whether anything could be heard."""
        lost = asyncio.Event()
        connection.add_termination_listener(lambda _: lost.set())
        async with asyncio.timeout(self._connections.patience):
            await connection.add_listener(CHANNEL, self._heard)
        self._hints.publish_all()
        heard = False
        while not lost.is_set():
            if not await self._answers(lost):
                self._deaf += not heard
                break
            heard, self._deaf = True, 0
            await _until(lost, _PING_EVERY)
        return heard

    async def _answers(self, lost: asyncio.Event) -> bool:
        """Tell whether a notification that this process sends comes back."""
        self._pong.clear()
        self._notifier.ping()
        await _until(self._pong, _PING_WITHIN)
        return self._pong.is_set() or lost.is_set()

    def _heard(self, _connection: object, _pid: int, _channel: str, payload: object) -> None:
        sender, _, tags = str(payload).partition(":")
        if sender == self._notifier.sender:
            self._pong.set()
        elif tags == EVERYTHING:
            self._hints.publish_all()
        else:
            self._hints.heard(tags.split(","))


async def _until(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return


def _payloads(sender: str, tags: Iterable[str]) -> Iterable[str]:
    """Yield what to send: pieces of a bounded size, or one word for everything."""
    names = [one for one in tags if one != PING]
    if len(names) > _TAGS_PER_PAYLOAD * _PAYLOADS:
        yield f"{sender}:{EVERYTHING}"
        return
    for start in range(0, len(names) or 1, _TAGS_PER_PAYLOAD):
        yield f"{sender}:{','.join(names[start : start + _TAGS_PER_PAYLOAD])}"
