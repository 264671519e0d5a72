"""Proof that a worker's process is alive, or dead: a lock that only its kernel entry keeps.

A lease tells the same some 30 s later, and on another host. A child made by `os.fork` without `exec` shares the
lock, so that its parent counts as alive until both are gone; the lease decides then.
"""

from __future__ import annotations

import contextlib
import re
import uuid
from pathlib import Path
from types import TracebackType
from typing import Self

from flowstone_async.errors import ConfigError
from flowstone_async.store.embedded.locks import FileLock

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")


class ProcessLock:
    """Says that this process works under a worker's id, until it releases it or ends."""

    def __init__(self, path: Path, lock: FileLock) -> None:
        self._path = path
        self._lock: FileLock | None = lock

    def release(self) -> None:
        """Say that the worker is gone; harmless when it was said before."""
        lock, self._lock = self._lock, None
        if lock is not None:
            self._path.unlink(missing_ok=True)
            lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def hold(folder: Path, worker_id: str) -> ProcessLock:
    """Make the file of a worker: under another name first, so that it appears locked.

    Args:
        folder: Where the files of all workers are.
        worker_id: An id that no other process ever had.

    Raises:
        ConfigError: The id is no file name, or a living process has it.
    """
    path = _file(folder, worker_id)
    while True:
        lock = FileLock(folder / f".{uuid.uuid4().hex}")
        while not lock.acquire():
            """Somebody sweeps the folder and looks at the file just now."""
        if _probe(path):
            lock.path.unlink()
            lock.release()
            raise ConfigError(f"worker id {worker_id!r} is in use by a living process")
        # Of two who swept at once, one may have removed the file that the other made room for: ours.
        with contextlib.suppress(FileNotFoundError):
            lock.path.replace(path)
            lock.path = path
        if lock.path == path and lock.is_current:
            return ProcessLock(path, lock)
        lock.release()


def is_alive(folder: Path, worker_id: str) -> bool:
    """Return whether a living process on this machine holds the worker's lock; a dead one's file is removed.

    Raises:
        ConfigError: The id is no file name.
    """
    return _probe(_file(folder, worker_id))


def sweep(folder: Path) -> None:
    """Remove the files of the dead."""
    for path in folder.iterdir():
        _probe(path)


def _probe(path: Path) -> bool:
    if not path.exists():
        return False
    lock = FileLock(path)
    # Shared, so that two who ask at once do not take each other for the worker.
    if not lock.acquire(shared=True):
        return True
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    lock.release()
    return False


def _file(folder: Path, worker_id: str) -> Path:
    if not _NAME.fullmatch(worker_id):
        raise ConfigError(
            f"worker id {worker_id!r} is not a file name",
            hint="Use letters, digits, dots, dashes and underscores, such as str(uuid.uuid4()).",
        )
    return folder / worker_id
