"""The probes of a worker over HTTP, from a thread of its own: it answers although a body blocks the engine's loop."""

from __future__ import annotations

import asyncio
import socket
import threading
from contextlib import suppress
from types import TracebackType
from typing import Self

from flowstone_async.errors import ConfigError
from flowstone_async.worker.http import MOST_BYTES, Responder
from flowstone_async.worker.probes import BEAT, Probes

_STOP = 5.0
_WAITING = 64


class HealthServer:
    """Serves `/health/live` and `/health/ready` while it is entered.

    Args:
        host: Where it listens.
        port: The port; 0 picks one that is free.
        probes: What it tells; their pulse is taken here.

    Raises:
        ConfigError: It cannot listen there.
    """

    def __init__(self, host: str, port: int, probes: Probes) -> None:
        self._socket = _listening(host, port)
        self._probes = probes
        self._loop: asyncio.AbstractEventLoop | None = None
        self._leave = asyncio.Event()
        self._serving = threading.Event()
        self._thread = threading.Thread(target=self._run, name="flowstone health", daemon=True)

    @property
    def url(self) -> str:
        """Where it can be asked."""
        host, port = self._socket.getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def __enter__(self) -> Self:
        self._thread.start()
        self._serving.wait(_STOP)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._loop is not None:
            with suppress(RuntimeError):  # it has ended already
                self._loop.call_soon_threadsafe(self._leave.set)
        self._thread.join(_STOP)

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        probes = self._probes
        responder = Responder({"/health/live": probes.live, "/health/ready": probes.ready})
        server = await asyncio.start_server(responder.serve, sock=self._socket, limit=MOST_BYTES)
        self._serving.set()
        async with server:
            while not self._leave.is_set():
                probes.pulse.beat()
                with suppress(TimeoutError):
                    async with asyncio.timeout(BEAT):
                        await self._leave.wait()
            server.close()
            await responder.close()


def _listening(host: str, port: int) -> socket.socket:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, *_, address = found[0]
        return socket.create_server(address, family=family, backlog=_WAITING)
    except (OSError, OverflowError, UnicodeError) as error:
        reason = str(getattr(error, "strerror", None) or error).partition(" (while ")[0]
        raise ConfigError(
            f"cannot listen on {host}:{port}: {reason}",
            hint="Give another port with --health-port (0 picks one), or another host with --health-host.",
        ) from error
