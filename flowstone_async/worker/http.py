"""As much of HTTP/1.1 as probes need: one bounded request on a connection, one JSON answer, and the connection ends."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from http import HTTPStatus
from typing import NamedTuple

MOST_BYTES = 8192
MOST_CONNECTIONS = 64
READ_WITHIN = 5.0
_METHODS = ("GET", "HEAD")
_PARTS_OF_A_LINE = 3


class Answer(NamedTuple):
    """A status and what is told with it."""

    status: HTTPStatus
    body: Mapping[str, object]


Route = Callable[[], Awaitable[Answer]]


class Responder:
    """Answers GET and HEAD of a few paths.

    Args:
        routes: By path.
        read_within: Seconds that a request may take to arrive, and its answer to be taken.
    """

    def __init__(self, routes: Mapping[str, Route], *, read_within: float = READ_WITHIN) -> None:
        self._routes, self._within = routes, read_within
        self._open: set[asyncio.StreamWriter] = set()
        self._none = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the one request of a connection; one too many is not answered."""
        self._open.add(writer)
        self._none.clear()
        try:
            if len(self._open) <= MOST_CONNECTIONS:
                await self._serve(reader, writer)
        except (ConnectionError, TimeoutError, asyncio.IncompleteReadError):
            pass  # whoever asked has gone
        finally:
            writer.close()
            with suppress(ConnectionError, TimeoutError):
                async with asyncio.timeout(self._within):
                    await writer.wait_closed()
            self._open.discard(writer)
            if not self._open:
                self._none.set()

    async def close(self) -> None:
        """End all connections, and wait until their ends have been taken note of."""
        for writer in self._open:
            writer.transport.abort()
        if self._open:
            await self._none.wait()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        method = ""
        try:
            async with asyncio.timeout(self._within):
                head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            answer = _refusal(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        except TimeoutError:
            answer = _refusal(HTTPStatus.REQUEST_TIMEOUT)
        else:
            method, answer = await self._answer(head)
        async with asyncio.timeout(self._within):
            writer.write(_encoded(answer, whole=method != "HEAD"))
            await writer.drain()

    async def _answer(self, head: bytes) -> tuple[str, Answer]:
        words = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ")
        if len(words) != _PARTS_OF_A_LINE or not words[2].startswith("HTTP/1."):
            return "", _refusal(HTTPStatus.BAD_REQUEST)
        method, path = words[0], words[1].partition("?")[0]
        route = self._routes.get(path)
        if route is None:
            return method, _refusal(HTTPStatus.NOT_FOUND)
        if method not in _METHODS:
            return method, _refusal(HTTPStatus.METHOD_NOT_ALLOWED)
        return method, await route()


def _refusal(status: HTTPStatus) -> Answer:
    return Answer(status, {"error": status.phrase})


def _encoded(answer: Answer, *, whole: bool) -> bytes:
    status = answer.status
    body = json.dumps(answer.body, default=str).encode() + b"\n"
    lines = [
        f"HTTP/1.1 {status.value} {status.phrase}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        "Cache-Control: no-store",
        "Connection: close",
        *([f"Allow: {', '.join(_METHODS)}"] if status is HTTPStatus.METHOD_NOT_ALLOWED else []),
    ]
    return "\r\n".join([*lines, "", ""]).encode() + (body if whole else b"")
