"""The web side of an engine as its clients see it: with a socket, or without one where none is needed."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Generator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, NamedTuple

import anyio
import httpx
import uvicorn

from flowstone_async import Engine

TOKEN = "a-token-for-the-tests"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


@asynccontextmanager
async def client(engine: Engine, **options: Any) -> AsyncGenerator[httpx.AsyncClient]:
    """A client of an engine's app that has its token."""
    async with calling(engine.asgi(**{"auth": TOKEN, **options}), headers=BEARER) as opened:
        yield opened


@asynccontextmanager
async def calling(app: Any, **options: Any) -> AsyncGenerator[httpx.AsyncClient]:
    """A client that calls an app without a socket."""
    transport = httpx.ASGITransport(app=app, client=options.pop("client", ("127.0.0.1", 1)))
    async with httpx.AsyncClient(transport=transport, base_url="http://test", timeout=30, **options) as opened:
        yield opened


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Generator[None]:
        yield


@asynccontextmanager
async def served(app: Any, **options: Any) -> AsyncGenerator[str]:
    """An app on a port of its own; yields its address."""
    listening = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        app, interface="asgi3", lifespan="off", log_config=None, access_log=False, ws="none",
        timeout_graceful_shutdown=5, **options,
    )  # fmt: skip
    server = _Server(config)
    with listening:
        async with anyio.create_task_group() as group:
            group.start_soon(server.serve, [listening], name="server")
            try:
                yield f"http://127.0.0.1:{listening.getsockname()[1]}"
            finally:
                server.should_exit = True


class Sse(NamedTuple):
    """An event as a browser gets it."""

    id: str
    type: str
    data: dict[str, Any]


async def sse(response: httpx.Response) -> AsyncIterator[Sse]:
    """Yield events of a stream as they come."""
    found: dict[str, str] = {}
    async for line in response.aiter_lines():
        if line.startswith(":"):
            continue
        if line:
            name, _, value = line.partition(": ")
            found[name] = value
        elif found:
            yield Sse(found["id"], found["event"], json.loads(found["data"]))
            found = {}


async def submitted(client: httpx.AsyncClient, *targets: str, **order: Any) -> dict[str, Any]:
    """Submit a run and return it."""
    response = await client.post("/api/v1/runs", json={"targets": list(targets), **order})
    assert response.status_code == 202, response.text
    return response.json()


async def ended(client: httpx.AsyncClient, *targets: str, **order: Any) -> dict[str, Any]:
    """Submit a run, wait for its end and return it."""
    response = await client.post("/api/v1/runs", params={"wait": "30s"}, json={"targets": list(targets), **order})
    assert response.status_code == 200, response.text
    return response.json()


async def raw(url: str, data: bytes) -> bytes:
    """Send bytes to a server and return whatever comes back until it hangs up."""
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(data)
    try:
        return await reader.read()
    except ConnectionResetError:
        return b""
    finally:
        writer.close()
