"""File systems of a test's own, small enough to be full."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.database import connected

_ROOM = 1 << 20
_PATIENCE = 40.0

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")


@contextmanager
def mounted(folder: Path, size: str) -> Generator[Path]:
    """Mount a file system of some size on a new folder."""
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=0755", "tmpfs", folder], check=False)
    if done.returncode:
        pytest.skip("nothing can be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@contextmanager
def stored(folder: Path, made: Path) -> Generator[tuple[Path, str]]:
    """Mount a disk with a copy of a store that was made before; gives the disk, and the store's address."""
    with mounted(folder / "disk", "200m") as disk:
        subprocess.run(["cp", "-a", made, disk / "store"], check=True)
        yield disk, f"embedded:{disk / 'store'}"


def remount(folder: Path, options: str) -> None:
    """Change its size, or whether it may be written to."""
    subprocess.run(["mount", "-o", f"remount,{options}", folder], check=True)


async def fill(disk: Path) -> None:
    """Leave less room than a value needs, and enough for the server to start and run, on a disk of `stored`."""
    async with connected(disk) as sql:
        await sql.execute("SELECT pg_switch_wal()")  # near the end of a file of its log it would begin with the next
    found = os.statvfs(disk)
    with (disk / "ballast").open("wb") as ballast:
        os.posix_fallocate(ballast.fileno(), 0, found.f_bavail * found.f_frsize - _ROOM)


def until_log_says(log: Path, words: str) -> None:
    """Wait until a server has written some words."""
    deadline = time.monotonic() + _PATIENCE
    while words not in log.read_text(errors="replace"):
        assert time.monotonic() < deadline, log.read_text(errors="replace")[-2000:]
        os.sched_yield()
