"""Folders in which programs run, each with an embedded server of its own."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from flowstone_async.store.embedded.locks import FileLock, is_held
from flowstone_async.store.embedded.server import EmbeddedServer
from tests.e2e.gates import Gates
from tests.support.postgres import FAST, short_folder


@pytest.fixture(scope="session")
def made() -> Iterator[Path]:
    """A server's folder with data and without a schema."""
    with short_folder() as folder:
        server = EmbeddedServer(folder / "store", settings=FAST)
        server.start()
        server.stop()
        yield folder / "store"


@pytest.fixture
def folder() -> Iterator[Path]:
    """Where programs run; the store of a test, if it has one, is `store` in it, and must be down at the end."""
    with short_folder() as folder:
        yield folder
        if is_held(folder / "store/server.lock"):
            pid = int((folder / "store/cluster/data/postmaster.pid").read_text().split("\n", 1)[0])
            os.kill(pid, signal.SIGQUIT)
            FileLock(folder / "store/server.lock").wait(30)
            pytest.fail(f"the test left a server behind: process {pid}")


@pytest.fixture
def store(folder: Path, made: Path) -> str:
    """An embedded store whose data directory is made already: what `--store` says."""
    subprocess.run(["cp", "-a", made, folder / "store"], check=True)
    return "embedded:store"


@pytest.fixture
def gates(folder: Path) -> Iterator[Gates]:
    """Where bodies wait that a test holds."""
    with Gates(folder) as gates:
        yield gates
