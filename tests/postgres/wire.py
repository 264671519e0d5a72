"""Proxies that know Postgres' messages: one that loses replies, one that hands connections on as a pooler does."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from contextlib import suppress
from typing import Self
from urllib.parse import parse_qs, urlsplit

_GONE = (OSError, asyncio.IncompleteReadError)
_READY, _EXECUTE, _TERMINATE, _QUERY = b"Z", b"E", b"X", b"Q"
_PARSE, _SYNC, _CALL, _KEY, _ERROR, _NOTIFICATION = b"P", b"S", b"F", b"K", b"E", b"A"
_CANCEL, _SSL = 80877102, 80877103


class Stream:
    """One side of a connection, message by message."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def startup(self) -> bytes:
        head = await self._reader.readexactly(4)
        return head + await self._reader.readexactly(struct.unpack("!i", head)[0] - 4)

    async def message(self) -> tuple[bytes, bytes]:
        """Return the next message's type, and all its bytes."""
        head = await self._reader.readexactly(5)
        return head[:1], head + await self._reader.readexactly(struct.unpack("!i", head[1:])[0] - 4)

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    def cut(self) -> None:
        self._writer.transport.abort()

    def reset(self) -> None:
        """Cut it with an RST: what the other side has sent is not even acknowledged."""
        found = self._writer.get_extra_info("socket")
        if found is not None:
            with suppress(OSError):
                found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.cut()


class Proxy:
    """Stands between a client and a server.

    Args:
        dsn: The server's address, as the test server gives it.
    """

    def __init__(self, dsn: str) -> None:
        parts = urlsplit(dsn)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        self._socket = f"{query['host']}/.s.PGSQL.{query['port']}"
        self._login = parts.netloc.rpartition("@")[0]
        self._database = parts.path
        self._server: asyncio.Server | None = None
        self._streams: list[Stream] = []
        self.connections = 0

    @property
    def dsn(self) -> str:
        """The proxy's address."""
        assert self._server is not None
        port = self._server.sockets[0].getsockname()[1]
        return f"postgresql://{self._login}@127.0.0.1:{port}{self._database}?sslmode=disable"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()

    def cut(self) -> None:
        """Cut all connections."""
        for stream in self._streams:
            stream.cut()
        self._streams.clear()

    async def connect(self) -> Stream:
        """Connect to the server."""
        stream = Stream(*await asyncio.open_unix_connection(self._socket))
        self._streams.append(stream)
        return stream

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        client = Stream(reader, writer)
        self._streams.append(client)
        self.connections += 1
        with suppress(*_GONE):
            await self.serve(client, await client.startup())
        client.cut()

    async def serve(self, client: Stream, startup: bytes) -> None:
        """Serve one client."""
        raise NotImplementedError


class LossyProxy(Proxy):
    """Passes everything on, until it is told to lose a reply or to stand still.

    Attributes:
        lose: How many replies are still to be lost: the statement is executed and committed, then the connection
            breaks before its answer arrives.
        lost: How many were lost.
        flowing: Cleared, nothing passes any more in either direction.
    """

    def __init__(self, dsn: str) -> None:
        super().__init__(dsn)
        self.lose = 0
        self.lost = 0
        self.flowing = asyncio.Event()
        self.flowing.set()

    async def serve(self, client: Stream, startup: bytes) -> None:
        server = await self.connect()
        await server.send(startup)
        executed = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._to_server(client, server, executed))
            group.create_task(self._to_client(client, server, executed))

    async def _to_server(self, client: Stream, server: Stream, executed: asyncio.Event) -> None:
        with suppress(*_GONE):
            while True:
                kind, data = await client.message()
                await self.flowing.wait()
                if self.lose and (kind == _EXECUTE or (kind == _QUERY and b"COMMIT" in data)):
                    self.lose -= 1
                    executed.set()
                await server.send(data)
        server.cut()

    async def _to_client(self, client: Stream, server: Stream, executed: asyncio.Event) -> None:
        with suppress(*_GONE):
            while True:
                kind, data = await server.message()
                await self.flowing.wait()
                if kind == _READY and executed.is_set():
                    self.lost += 1
                    server.cut()
                    break
                await client.send(data)
        client.cut()


class Recorder(Proxy):
    """Passes everything on, and keeps what was said.

    Attributes:
        texts: The statements of each connection, those that are prepared and those that are sent as text.
        answered: Statements in the order in which the server was ready again after them.
    """

    def __init__(self, dsn: str) -> None:
        super().__init__(dsn)
        self.texts: list[list[str]] = []
        self.answered: list[str] = []

    async def serve(self, client: Stream, startup: bytes) -> None:
        server = await self.connect()
        await server.send(startup)
        said: list[str] = []
        self.texts.append(said)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._to_server(client, server, said))
            group.create_task(self._to_client(client, server, said))

    async def _to_server(self, client: Stream, server: Stream, said: list[str]) -> None:
        with suppress(*_GONE):
            while True:
                kind, data = await client.message()
                if kind in (_QUERY, _PARSE):
                    said.append(data[5:].split(b"\0")[kind == _PARSE].decode())
                await server.send(data)
        server.cut()

    async def _to_client(self, client: Stream, server: Stream, said: list[str]) -> None:
        with suppress(*_GONE):
            while True:
                kind, data = await server.message()
                if kind == _READY and said:
                    self.answered.append(said[-1])
                await client.send(data)
        client.cut()


class Pooler(Proxy):
    """A transaction pooler: each transaction of a client runs on the server connection that is next in turn.

    As PgBouncer does by default (`pool_mode = transaction`, no `server_reset_query`): a server connection is handed on as
    it is, with whatever was left on it, and is closed if a client leaves in the middle of a transaction; what a client
    says of itself when it connects, besides user and database, is not passed on; requests to cancel reach the connection
    that the client uses at the moment. What a server says to nobody, such as notifications, is dropped; those that
    PgBouncer would deliver by chance, too.

    Args:
        dsn: The server's address: a Unix socket, where nobody is asked for a password.
        size: How many server connections there are for each user and database.
    """

    def __init__(self, dsn: str, size: int = 3) -> None:
        super().__init__(dsn)
        self._size = size
        self._pools: dict[tuple[bytes, bytes], _Pool] = {}
        self._clients: dict[bytes, _Client] = {}

    async def __aexit__(self, *_: object) -> None:
        await super().__aexit__()
        # Streams that are cancelled with their loop, instead of ending, are complained of.
        while self._clients or any(pool.live for pool in self._pools.values()):
            await asyncio.sleep(0)

    async def serve(self, client: Stream, startup: bytes) -> None:
        code = struct.unpack("!i", startup[4:8])[0]
        if code == _CANCEL:
            await self._cancel(startup)
            return
        if code == _SSL:
            await client.send(b"N")
            startup = await client.startup()
        given = startup[8:].rstrip(b"\0").split(b"\0")
        said = dict(zip(given[::2], given[1::2], strict=False))
        place = (said[b"user"], said.get(b"database", said[b"user"]))
        pool = self._pools.setdefault(place, _Pool(self, self._size, *place))
        served = _Client(client, pool)
        key = os.urandom(8)
        self._clients[key] = served
        try:
            await client.send(await pool.greeting(key))
            await served.serve()
        finally:
            del self._clients[key]
            served.leave()

    async def _cancel(self, request: bytes) -> None:
        found = self._clients.get(request[8:16])
        if found is not None and found.server is not None:
            stream = await self.connect()
            await stream.send(request[:8] + found.server.key)
            stream.cut()


class _Client:
    """A client, and the server connection that its transaction runs on."""

    def __init__(self, stream: Stream, pool: _Pool) -> None:
        self.stream = stream
        self.server: _Server | None = None
        self._pool = pool

    async def serve(self) -> None:
        while True:
            kind, data = await self.stream.message()
            if kind == _TERMINATE:
                return
            if self.server is None:
                server = await self._pool.take()
                self.server, server.client = server, self
            await self.server.pass_on(kind, data)

    def leave(self) -> None:
        if self.server is not None:
            self.server.stream.cut()


class _Server:
    """A connection to the server."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.client: _Client | None = None
        self.greeting: list[tuple[bytes, bytes]] = []
        self.key = b""
        self._expected = 0

    async def greet(self, user: bytes, database: bytes) -> None:
        said = struct.pack("!i", 196608) + b"user\0" + user + b"\0database\0" + database + b"\0\0"
        await self.stream.send(struct.pack("!i", len(said) + 4) + said)
        while not self.greeting or self.greeting[-1][0] != _READY:
            kind, data = await self.stream.message()
            if kind == _ERROR:
                raise ConnectionResetError(data)
            if kind == _KEY:
                self.key = data[5:]
            self.greeting.append((kind, data))

    async def pass_on(self, kind: bytes, data: bytes) -> None:
        self._expected += kind in (_QUERY, _SYNC, _CALL)
        await self.stream.send(data)

    async def answer(self, pool: _Pool) -> None:
        """Give the client its answers; after the last of a transaction the connection is anybody's."""
        while True:
            kind, data = await self.stream.message()
            client = self.client
            if client is None or kind == _NOTIFICATION:
                continue
            if kind == _READY:
                self._expected -= 1
                if data[-1:] == b"I" and not self._expected:
                    client.server = self.client = None
                    pool.give_back(self)
            with suppress(*_GONE):
                await client.stream.send(data)


class _Pool:
    """The server connections of a user and a database."""

    def __init__(self, pooler: Pooler, size: int, user: bytes, database: bytes) -> None:
        self._pooler = pooler
        self._size = size
        self._place = (user, database)
        self._filling = asyncio.Lock()
        self.live: dict[_Server, asyncio.Task[None]] = {}
        self._idle: asyncio.Queue[_Server | None] = asyncio.Queue()
        self._greeting: list[tuple[bytes, bytes]] = []

    async def greeting(self, key: bytes) -> bytes:
        """Return what the server says to who connects, with the client's own key to cancel with."""
        await self._fill()
        return b"".join(data[:5] + key if kind == _KEY else data for kind, data in self._greeting)

    async def take(self) -> _Server:
        """Return the connection that has been idle longest."""
        while True:
            await self._fill()
            server = await self._idle.get()
            if server in self.live:
                return server

    def give_back(self, server: _Server) -> None:
        self._idle.put_nowait(server)

    async def _fill(self) -> None:
        async with self._filling:
            while len(self.live) < self._size:
                server = _Server(await self._pooler.connect())
                await server.greet(*self._place)
                self._greeting = server.greeting
                self.live[server] = asyncio.ensure_future(self._answer(server))
                self._idle.put_nowait(server)

    async def _answer(self, server: _Server) -> None:
        with suppress(*_GONE):
            await server.answer(self)
        server.stream.cut()
        del self.live[server]
        if server.client is not None:
            server.client.stream.cut()
        # Whoever waits for one makes another.
        self._idle.put_nowait(None)
