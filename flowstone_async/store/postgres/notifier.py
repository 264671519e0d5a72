"""Telling other processes of changes, and hearing of theirs: NOTIFY, never inside a commit, and LISTEN.

Neither is relied on. What cannot be told is dropped; while nothing can be heard, those who wait look by themselves.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

from flowstone_async.errors import FlowstoneError
from flowstone_async.store.postgres.connections import Connections
from flowstone_async.store.postgres.exchange import Exchange, Member, join, leave
from flowstone_async.store.postgres.hints import Hints, tag
from flowstone_async.store.postgres.outbox import Outbox

_logger = logging.getLogger("flowstone")


class Notifier:
    """A store's way to other processes: its process's exchange, or a pool, on which nothing can be heard.

    Args:
        connections: To the server.
        enabled: False tells nobody, and hears nothing.
    """

    def __init__(self, connections: Connections, *, enabled: bool) -> None:
        self._connections = connections
        self._enabled = enabled
        self._member: Member | None = None
        self._exchange: Exchange | None = None
        self._outbox = Outbox()
        self._wake = asyncio.Event()
        self._closed = False

    def tell(self, topics: Iterable[str]) -> None:
        """Let other processes know, soon."""
        if not self._enabled or self._closed:
            return
        tags = [tag(topic) for topic in topics]
        if self._exchange is not None and self._member is not None:
            self._exchange.tell(tags, self._member)
        else:
            self._outbox.add(tags)
            self._wake.set()

    async def serve(self, hints: Hints) -> None:
        """Hear for `hints` and tell, until closed; then tell what is left to tell."""
        if not self._enabled:
            return
        direct = self._connections.direct_address
        if direct is None:
            await self._tell_by_pool()
            return
        self._member = Member(hints)
        self._exchange = join(direct, self._connections.address or direct, self._member)
        try:
            while not self._closed:
                await self._wake.wait()
        finally:
            self._closed = True
            await leave(self._exchange, self._member)

    def close(self) -> None:
        """Tell what is left to tell, and no more."""
        self._closed = True
        self._wake.set()

    async def _tell_by_pool(self) -> None:
        while not self._closed or self._outbox:
            await self._wake.wait()
            self._wake.clear()
            if self._outbox:
                try:
                    async with self._connections.translated(), self._connections.session() as session:
                        await session.execute(self._outbox.take())
                except FlowstoneError as error:
                    _logger.debug("changes were not announced: %s", error)
