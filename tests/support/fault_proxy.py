"""A proxy that breaks connections in every way a network does, at the test's word.

It knows what each connection is for (`Link.role`), so that a test may break the listener's and leave the rest alone.
`FaultProxy` belongs to an event loop; `ProxyThread` runs one beside whatever blocks the test's own.
"""

from __future__ import annotations

import asyncio
import struct
import threading
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import Generic, Literal, NamedTuple, Self, TypeAlias, TypeVar

from typing_extensions import override

from tests.postgres.wire import Proxy, Stream

T = TypeVar("T")
P = TypeVar("P", bound=Proxy)
Role: TypeAlias = Literal["lease", "listener", "committer", "pool"]
Direction: TypeAlias = Literal["to server", "to client"]
ROLES: tuple[Role, ...] = ("lease", "listener", "committer", "pool")
BOTH: tuple[Direction, ...] = ("to server", "to client")
_GONE = (OSError, asyncio.IncompleteReadError)
_READY, _ERROR = b"Z", b"E"
_IDLE = b"I"
_PATIENCE = 20.0


def _refusal(sqlstate: str, message: str) -> bytes:
    fields = b"".join(
        name + text.encode() + b"\0" for name, text in ((b"S", "FATAL"), (b"C", sqlstate), (b"M", message))
    )
    return b"E" + struct.pack("!i", len(fields) + 5) + fields + b"\0"


_FULL = _refusal("53300", "sorry, too many clients already")


class Hindrance(NamedTuple):
    """What is done to messages that go in one of some directions on links of some roles.

    Attributes:
        seconds: How late they come; None for never: they are swallowed, and the socket stays open.
    """

    roles: Collection[Role]
    directions: Collection[Direction]
    seconds: float | None


class Link:
    """A client's connection to the server, through the proxy.

    Attributes:
        role: What it is for; "pool" until it says something else.
        deaf: Directions in which bytes were swallowed: nothing passes there ever again.
        losing: Whether the reply to what is executed now is not to arrive.
    """

    def __init__(self, client: Stream) -> None:
        self.client = client
        self.server: Stream | None = None
        self.role: Role = "pool"
        self.deaf: set[Direction] = set()
        self.losing = False
        self._texts: dict[bytes, bytes] = {}
        self._bound = b""

    def hears(self, kind: bytes, data: bytes) -> bool:
        """Learn from a client's message; tell whether it executes what writes."""
        if kind == b"P":
            name, text = data[5:].split(b"\0", 2)[:2]
            self._texts[name] = text
            self._learn(text)
        elif kind == b"B":
            self._bound = self._texts.get(data[5:].split(b"\0", 2)[1], b"")
        elif kind == b"Q":
            self._learn(data[5:])
            return b"COMMIT" in data
        return kind == b"E" and any(word in self._bound for word in (b"INSERT", b"UPDATE", b"DELETE"))

    def _learn(self, text: bytes) -> None:
        if b"LISTEN" in text:
            self.role = "listener"
        elif b"INTO flowstone.worker" in text or b"SET lease_until" in text:
            self.role = "lease"
        elif b"accepted AS MATERIALIZED" in text:
            self.role = "committer"

    def reset(self) -> None:
        """End both sides as a machine does that has forgotten them."""
        for stream in (self.client, self.server):
            if stream is not None:
                stream.reset()


class FaultProxy(Proxy):
    """Passes everything on, until it is told otherwise.

    Attributes:
        links: Connections that are open.
        lost: How many replies were lost.
        most: How many connections there may be at once; None for any number. Whoever comes then is refused as by a
            server that has no room.
        refused: How many were refused.
    """

    def __init__(self, dsn: str) -> None:
        super().__init__(dsn)
        self.most: int | None = None
        self.refused = 0
        self.links: set[Link] = set()
        self.lost = 0
        self._hindrances: list[Hindrance] = []
        self._to_lose = 0
        self._losers: Collection[Role] = ()
        self._then: Callable[[], None] = _nothing

    def hinder(
        self,
        roles: Collection[Role] = ROLES,
        directions: Collection[Direction] = BOTH,
        *,
        seconds: float | None = None,
    ) -> None:
        """Swallow what passes from now on, or let it come `seconds` late."""
        self._hindrances.append(Hindrance(roles, directions, seconds))

    def heal(self) -> None:
        """Let new connections pass; one that has lost bytes stays deaf."""
        self._hindrances.clear()
        self._to_lose = 0

    def lose(
        self,
        times: int = 1,
        roles: Collection[Role] = ("committer", "pool"),
        *,
        then: Callable[[], None] | None = None,
    ) -> None:
        """Break the connection off after each of the next commits on links of some roles, before the reply arrives.

        Args:
            then: Done before the client can notice.
        """
        self._to_lose, self._losers, self._then = times, roles, then or _nothing

    def reset(self, roles: Collection[Role] = ROLES) -> int:
        """Reset the connections of some roles, and return how many there were."""
        found = [link for link in self.links if link.role in roles]
        for link in found:
            link.reset()
        return len(found)

    def open_links(self, role: Role) -> list[Link]:
        """Return the connections of a role on which everything has passed so far."""
        return [link for link in self.links if link.role == role and not link.deaf]

    @override
    async def __aexit__(self, *_: object) -> None:
        await super().__aexit__()
        # Streams that are cancelled with their loop, instead of ending, are complained of.
        async with asyncio.timeout(_PATIENCE):
            while self.links:
                await asyncio.sleep(0)

    @override
    async def serve(self, client: Stream, startup: bytes) -> None:
        if self.most is not None and len(self.links) >= self.most:
            self.refused += 1
            await client.send(_FULL)
            return
        link = Link(client)
        self.links.add(link)
        try:
            if not await self._passes(link, "to server"):
                while True:
                    await client.message()
            link.server = await self.connect()
            await link.server.send(startup)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._to_server(link, link.server))
                group.create_task(self._to_client(link, link.server))
        finally:
            self.links.discard(link)

    async def _to_server(self, link: Link, server: Stream) -> None:
        with suppress(*_GONE):
            while True:
                kind, data = await link.client.message()
                writes = link.hears(kind, data)
                if not await self._passes(link, "to server"):
                    continue
                if writes and self._to_lose and link.role in self._losers:
                    link.losing = True
                await server.send(data)
        server.cut()

    async def _to_client(self, link: Link, server: Stream) -> None:
        with suppress(*_GONE):
            kept: list[bytes] = []
            failed = False
            while True:
                kind, data = await server.message()
                kept.append(data)
                failed = failed or kind == _ERROR
                if link.losing and kind == _READY:
                    link.losing = False
                    if data[-1:] == _IDLE and not failed and self._to_lose:
                        self._to_lose -= 1
                        self.lost += 1
                        self._then()
                        server.cut()
                        break
                if link.losing:
                    continue
                if await self._passes(link, "to client"):
                    await link.client.send(b"".join(kept))
                kept, failed = [], False
        link.client.cut()

    async def _passes(self, link: Link, direction: Direction) -> bool:
        for each in self._hindrances:
            if link.role in each.roles and direction in each.directions:
                if each.seconds is None:
                    link.deaf.add(direction)
                else:
                    with suppress(TimeoutError):
                        await asyncio.wait_for(asyncio.Event().wait(), each.seconds)
        return direction not in link.deaf


def _nothing() -> None:
    pass


class ProxyThread(Generic[P]):
    """A proxy in a thread of its own.

    Args:
        make: Makes the proxy, in that thread.
    """

    def __init__(self, make: Callable[[], P]) -> None:
        self._make = make
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="proxy", daemon=True)

    @property
    def dsn(self) -> str:
        """The proxy's address."""
        return self.do(lambda proxy: proxy.dsn)

    def do(self, act: Callable[[P], T]) -> T:
        """Do something with the proxy, in its own loop."""

        async def acted() -> T:
            return act(self._proxy)

        return asyncio.run_coroutine_threadsafe(acted(), self._loop).result(_PATIENCE)

    def start(self) -> Self:
        """Start it, for good."""
        self._thread.start()
        assert self._ready.wait(_PATIENCE), "the proxy did not start"
        return self

    async def _serve(self) -> None:
        self._loop, self._left = asyncio.get_running_loop(), asyncio.Event()
        async with self._make() as self._proxy:
            self._ready.set()
            await self._left.wait()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._left.set)
        self._thread.join(_PATIENCE)
        assert not self._thread.is_alive(), "the proxy did not end"
