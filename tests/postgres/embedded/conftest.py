"""Folders for servers, which must be down again when the test ends."""

from __future__ import annotations

import contextlib
import os
import pwd
import signal
import subprocess
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

from flowstone_async.store.embedded.locks import FileLock, is_held
from flowstone_async.store.embedded.server import EmbeddedServer
from tests.support.postgres import FAST, short_folder

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as several users")


@contextlib.contextmanager
def _checked(folder: Path) -> Generator[Path]:
    home = folder / ".flowstone"
    yield home
    for lock in home.rglob("server.lock"):
        if is_held(lock):
            pid = (lock.parent / "cluster/data/postmaster.pid").read_text().split("\n", 1)[0]
            os.kill(int(pid), signal.SIGQUIT)
            FileLock(lock).wait(30)
            pytest.fail(f"the test left a server behind: process {pid}")


@pytest.fixture
def fresh() -> Generator[Path]:
    """The path of a server's folder that is not made yet."""
    with short_folder() as folder, _checked(folder) as home:
        yield home


@pytest.fixture(scope="session")
def _made() -> Generator[Path]:
    with short_folder() as folder:
        server = EmbeddedServer(folder / ".flowstone", settings=FAST)
        server.start()
        server.stop()
        yield folder / ".flowstone"


@pytest.fixture
def home(_made: Path) -> Generator[Path]:
    """A server's folder with data."""
    with short_folder() as folder, _checked(folder) as home:
        subprocess.run(["cp", "-a", _made, home], check=True)
        yield home


@pytest.fixture
def server(home: Path) -> Generator[EmbeddedServer]:
    """A server that is not started yet, with the settings that users get; stopped at the end whatever happens."""
    server = EmbeddedServer(home)
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture(params=["self", "daemon"])
def user(request: pytest.FixtureRequest, fresh: Path) -> dict[str, Any]:
    """Options of a `Process` that runs as us, and as a plain user when we are root."""
    if request.param == "self":
        return {}
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    return plain_user(fresh.parent)


def plain_user(folder: Path) -> dict[str, Any]:
    """Give a folder to a plain user, and return the options of a `Process` that runs as it."""
    entry = pwd.getpwnam("daemon")
    os.chown(folder, entry.pw_uid, entry.pw_gid)
    return {"uid": entry.pw_uid, "gid": entry.pw_gid}


@pytest.fixture
def bystander() -> Generator[Callable[[], int]]:
    """Somebody else's living process: a function that returns its id after having heard from it."""
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as process:
        stdin, stdout = process.stdin, process.stdout
        assert stdin is not None
        assert stdout is not None

        def heard() -> int:
            stdin.write(b"?")
            assert stdout.read(1) == b"?", "the bystander was killed"
            return process.pid

        yield heard
