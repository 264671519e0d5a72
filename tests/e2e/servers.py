"""A Postgres server of a test's own, to be killed, started again and looked at."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Self

from flowstone_async.store.embedded.address import Address
from flowstone_async.store.embedded.locks import is_held
from flowstone_async.store.embedded.server import EmbeddedServer

# A process that dies loses nothing that the operating system has been given.
_SETTINGS = {"fsync": "off", "full_page_writes": "off"}


def signal_server(folder: Path, number: signal.Signals) -> None:
    """Send a signal to the first process of the server of a folder."""
    os.kill(int((folder / "cluster/data/postmaster.pid").read_text().split("\n", 1)[0]), number)


def kill_server(folder: Path) -> None:
    """Kill a server, and wait until none of its processes is left."""
    signal_server(folder, signal.SIGKILL)
    while is_held(folder / "server.lock"):
        os.sched_yield()


class Server:
    """A server on a folder, for programs that are given its address.

    Args:
        folder: Where its data lie, or will.
        tcp: Whether it listens on 127.0.0.1, with a password, too.
    """

    def __init__(self, folder: Path, *, tcp: bool = False) -> None:
        self._folder = folder
        self._tcp = tcp
        self._user = self._started()

    def _started(self) -> EmbeddedServer:
        server = EmbeddedServer(self._folder, settings=_SETTINGS, tcp=self._tcp)
        server.start()
        return server

    @property
    def address(self) -> Address:
        return self._user.start()

    @property
    def dsn(self) -> str:
        return self.address.dsn()

    def quit(self) -> None:
        """Let it end at once, without a checkpoint."""
        signal_server(self._folder, signal.SIGQUIT)

    def kill(self) -> None:
        """Kill it, and wait until none of its processes is left."""
        kill_server(self._folder)

    def start_again(self) -> None:
        """Start it after it was killed, at the same address."""
        before, self._user = self._user, self._started()
        before.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._user.stop()
