"""Proxies that know Postgres' messages: one that loses replies, one that hands connections on as a pooler does."""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import suppress
from typing import Self
from urllib.parse import parse_qs, urlsplit

_GONE = (OSError, asyncio.IncompleteReadError)
_READY, _EXECUTE, _TERMINATE, _QUERY = b"Z", b"E", b"X", b"Q"


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


class Pooler(Proxy):
    """A transaction pooler: each transaction of a client runs on the server connection that is next in turn.

    Args:
        dsn: The server's address.
        size: How many server connections there are.
    """

    def __init__(self, dsn: str, size: int = 3) -> None:
        super().__init__(dsn)
        self._size = size
        self._greeting = b""
        self._idle: asyncio.Queue[Stream] = asyncio.Queue()
        self._made = 0

    async def serve(self, client: Stream, startup: bytes) -> None:
        while self._made < self._size:
            self._made += 1
            server = await self.connect()
            await server.send(startup)
            self._greeting = b"".join([data async for data in _until_ready(server)])
            self._idle.put_nowait(server)
        await client.send(self._greeting)
        while True:
            kind, data = await client.message()
            if kind == _TERMINATE:
                return
            server = await self._idle.get()
            try:
                await self._transaction(client, server, data)
            finally:
                self._idle.put_nowait(server)

    async def _transaction(self, client: Stream, server: Stream, first: bytes) -> None:
        await server.send(first)
        sending = asyncio.ensure_future(client.message())
        receiving = asyncio.ensure_future(server.message())
        try:
            while True:
                await asyncio.wait([sending, receiving], return_when=asyncio.FIRST_COMPLETED)
                if receiving.done():
                    kind, data = receiving.result()
                    await client.send(data)
                    if kind == _READY and data[-1:] == b"I":
                        return
                    receiving = asyncio.ensure_future(server.message())
                if sending.done():
                    await server.send(sending.result()[1])
                    sending = asyncio.ensure_future(client.message())
        finally:
            receiving.cancel()
            sending.cancel()
            await asyncio.wait([sending, receiving])


async def _until_ready(server: Stream):
    while True:
        kind, data = await server.message()
        yield data
        if kind == _READY:
            return
