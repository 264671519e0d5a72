"""Holding the bodies of programs/chain.py, which run in other processes, at a known point."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Self

_PATIENCE = 40.0


class Held:
    """A body that waits to be let go."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        with connection.makefile("r") as lines:
            self.asset, pid = lines.readline().split()
        self.pid = int(pid)

    def go(self) -> None:
        self._connection.close()


class Gates:
    """Where bodies wait that run in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._held = folder / "held"
        self._arrived: list[Held] = []
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(_PATIENCE)
        self._socket.bind(str(folder / "gates"))
        self._socket.listen()

    def hold(self, *names: str) -> None:
        """Hold the next bodies of these assets (`asset` or `asset:key`), and no others."""
        fresh = self._held.with_suffix(".new")
        fresh.write_text(" ".join(names))
        fresh.replace(self._held)

    def reached(self) -> Held:
        """Wait until a body that is to be held has come."""
        connection, _ = self._socket.accept()
        connection.settimeout(_PATIENCE)
        held = Held(connection)
        self._arrived.append(held)
        return held

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
        for held in self._arrived:
            held.go()
