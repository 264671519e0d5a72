"""Hearing what other processes tell, on a connection that nothing else uses, and telling them on another.

They are two so that the self-test proves something: a transaction pooler lets a connection hear what it tells itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable, Sequence

from asyncpg import Connection

from flowstone_async.errors import FlowstoneError
from flowstone_async.store.postgres.connections import DRIVER_ERRORS, connect
from flowstone_async.store.postgres.errors import is_lost
from flowstone_async.store.postgres.outbox import CHANNEL, EVERYTHING, Outbox

_PING_EVERY = 15.0
_PING_WITHIN = 5.0
# Less often than this nothing is sent, however much there is to tell: each NOTIFY takes a lock of the whole server.
_PAUSE = 0.01
_FIRST_DELAY = 0.1
_LONGEST_DELAY = 5.0
# A pooler that hands connections on takes LISTEN and delivers nothing: it is seldom tried again.
_DEAF_AFTER = 3
_DEAF_DELAY = 60.0
_FAILURES = (*DRIVER_ERRORS, FlowstoneError)

_logger = logging.getLogger("flowstone")


class Speaker:
    """Tells what is in the outbox, all that has come up at once, on a connection of its own.

    Args:
        address: DSN of the server; it may lead through a pooler.
        outbox: What to tell.
        left: Set when nothing comes any more.
    """

    def __init__(self, address: str, outbox: Outbox, left: asyncio.Event) -> None:
        self._address = address
        self._outbox = outbox
        self._left = left
        self._wake = asyncio.Event()
        self._pinging = False
        self._connection: Connection | None = None

    def wake(self) -> None:
        """Look into the outbox."""
        self._wake.set()

    def ping(self) -> None:
        """Send something, though it be nothing."""
        self._pinging = True
        self._wake.set()

    async def serve(self) -> None:
        """Tell until left, and then what is left to tell."""
        try:
            while self._outbox or not self._left.is_set():
                await self._wake.wait()
                self._wake.clear()
                if self._outbox or (self._pinging and not self._left.is_set()):
                    self._pinging = False
                    await self._tell(self._outbox.take())
                    await until(self._left, _PAUSE)
        finally:
            self._hang_up()

    async def _tell(self, statement: str) -> None:
        # A connection that died idle is noticed only when it is used: then once more, on another.
        for again in (self._connection is not None, False):
            try:
                if self._connection is None or self._connection.is_closed():
                    self._connection = await connect(self._address)
                await self._connection.execute(statement, timeout=_PING_WITHIN)
            except _FAILURES as error:
                _logger.debug("changes were not announced: %s", error)
                if not is_lost(error):
                    return
                self._hang_up()
                if not again:
                    return
            else:
                return

    def _hang_up(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()


class Listener:
    """Hears, and makes sure that it can.

    Args:
        address: DSN of the server itself.
        speaker: To send what must come back.
        sender: What that begins with.
        hear: Takes the tags of topics that another process tells of; None for everything.
        left: Set when nobody is interested any more.
    """

    def __init__(
        self,
        address: str,
        speaker: Speaker,
        sender: str,
        hear: Callable[[Sequence[str] | None], None],
        left: asyncio.Event,
    ) -> None:
        self._address = address
        self._speaker = speaker
        self._sender = sender
        self._hear = hear
        self._left = left
        self._stirred = asyncio.Event()
        self._answered = False
        self._deaf = 0

    async def serve(self) -> None:
        """Listen until left, over as many connections as it takes."""
        delay = _FIRST_DELAY
        while not self._left.is_set():
            self._answered = False
            try:
                connection = await connect(self._address)
                try:
                    await self._listen(connection)
                finally:
                    connection.terminate()
            except _FAILURES as error:
                _logger.debug("listening was cut off: %s", error)
            delay = _FIRST_DELAY if self._answered else min(2 * delay, _LONGEST_DELAY)
            if self._deaf >= _DEAF_AFTER:
                delay = _DEAF_DELAY
            await until(self._left, delay * random.uniform(0.5, 1.5))  # noqa: S311

    async def _listen(self, connection: Connection) -> None:
        """Listen until nothing is heard any more; first what may have been missed is looked for."""
        connection.add_termination_listener(lambda _: self._stirred.set())
        async with asyncio.timeout(_PING_WITHIN):
            await connection.add_listener(CHANNEL, self._heard)
        self._hear(None)
        while await self._pings_come_back(connection):
            self._deaf = 0
            self._stirred.clear()
            if connection.is_closed() or self._left.is_set():
                return
            await until(self._stirred, _PING_EVERY)
        if not connection.is_closed() and not self._left.is_set():
            self._note_deafness()

    async def _pings_come_back(self, connection: Connection) -> bool:
        self._answered = False
        self._speaker.ping()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_PING_WITHIN):
                while not self._answered and not connection.is_closed() and not self._left.is_set():
                    self._stirred.clear()
                    await self._stirred.wait()
        return self._answered

    def leave(self) -> None:
        """Notice that nobody is interested any more."""
        self._stirred.set()

    def _note_deafness(self) -> None:
        self._deaf += 1
        if self._deaf == _DEAF_AFTER:
            _logger.warning(
                "notifications do not arrive, as behind a transaction pooler: changes are looked for by polling; "
                "name the server itself with direct="
            )

    def _heard(self, _connection: object, _pid: int, _channel: str, payload: object) -> None:
        sender, _, tags = str(payload).partition(":")
        if sender == self._sender:
            if not self._answered:
                self._answered = True
                self._stirred.set()
        else:
            self._hear(None if tags == EVERYTHING else tags.split(","))


async def until(event: asyncio.Event, seconds: float) -> None:
    """Return when something happens, or after so many seconds."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
