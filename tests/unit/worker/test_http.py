"""One bounded request on a connection, one JSON answer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from http import HTTPStatus
from typing import Any

import pytest

from flowstone_async.worker.http import MOST_BYTES, MOST_CONNECTIONS, Answer, Responder


async def fine() -> Answer:
    return Answer(HTTPStatus.OK, {"ok": True})


async def ill() -> Answer:
    return Answer(HTTPStatus.SERVICE_UNAVAILABLE, {"ok": False})


@asynccontextmanager
async def served(*, read_within: float = 20.0) -> AsyncGenerator[int]:
    responder = Responder({"/fine": fine, "/ill": ill}, read_within=read_within)
    server = await asyncio.start_server(responder.serve, "127.0.0.1", 0, limit=MOST_BYTES)
    async with server:
        yield server.sockets[0].getsockname()[1]
        server.close()
        await responder.close()


async def ended(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()


async def asked(port: int, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    await writer.drain()
    try:
        answer = await asyncio.wait_for(reader.read(), 20)
    except ConnectionResetError:  # it was closed without having been read
        answer = b""
    await ended(writer)
    return answer


def parts(answer: bytes) -> tuple[int, dict[str, str], Any]:
    head, _, body = answer.decode().partition("\r\n\r\n")
    first, *lines = head.split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    return int(first.split()[1]), headers, json.loads(body) if body else None


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        ("GET /fine HTTP/1.1", 200),
        ("GET /fine?verbose=1 HTTP/1.0", 200),
        ("HEAD /fine HTTP/1.1", 200),
        ("GET /ill HTTP/1.1", 503),
        ("HEAD /ill HTTP/1.1", 503),
        ("GET / HTTP/1.1", 404),
        ("GET /fine/ HTTP/1.1", 404),
        ("POST /nowhere HTTP/1.1", 404),
        ("POST /fine HTTP/1.1", 405),
        ("get /fine HTTP/1.1", 405),
        ("GET /fine", 400),
        ("GET  /fine HTTP/1.1", 400),
        ("GET /fine HTTP/2", 400),
        ("\x16\x03\x01\x02", 400),
        ("", 400),
    ],
)
async def test_each_request_has_its_status(request_line: str, status: int) -> None:
    async with served() as port:
        answer = await asked(port, f"{request_line}\r\nHost: x\r\n\r\n".encode("latin-1"))
    found, headers, body = parts(answer)
    assert (found, headers["Content-Type"], headers["Connection"]) == (status, "application/json", "close")
    assert ("Allow" in headers) == (status == 405)
    assert int(headers["Content-Length"]) > 0
    assert (body is None) == request_line.startswith("HEAD")


async def test_a_head_that_is_too_large_is_refused() -> None:
    async with served() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /fine HTTP/1.1\r\nX: " + b"x" * (2 * MOST_BYTES))
        first = await asyncio.wait_for(reader.readline(), 20)
        await ended(writer)
    assert b" 431 " in first


async def test_who_says_nothing_is_sent_away() -> None:
    async with served(read_within=0.05) as port:
        assert parts(await asked(port, b"GET /fine HTTP/1.1\r\n"))[0] == 408


async def test_who_goes_away_harms_nobody() -> None:
    async with served() as port:
        for said in (b"", b"GET", b"GET /fine HTTP/1.1\r\n\r\n"):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(said)
            writer.transport.abort()
            await ended(writer)
        assert parts(await asked(port, b"GET /fine HTTP/1.1\r\n\r\n"))[0] == 200


async def test_connections_are_bounded() -> None:
    async with served() as port:
        idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(MOST_CONNECTIONS)]
        assert await asked(port, b"GET /fine HTTP/1.1\r\n\r\n") == b""
        for _, writer in idle:
            await ended(writer)
        while not await asked(port, b"GET /fine HTTP/1.1\r\n\r\n"):
            await asyncio.sleep(0)
