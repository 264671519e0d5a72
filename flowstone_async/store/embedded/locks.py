"""File locks that the kernel drops when their holder dies, however it dies.

`flock` belongs to an open file description, not to a process. So two `FileLock`s on one path exclude each other also
within one process, and a child that inherits the descriptor keeps the lock until it ends as well: that is how the
server's processes themselves hold a lock that proves them alive.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Generator
from pathlib import Path

from flowstone_async.errors import StoreUnavailable

if sys.platform != "win32":
    import fcntl

_PAUSE = 0.01


class FileLock:
    """One lock on one file, which is made when missing; readable and writable by its owner only."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None

    @property
    def descriptor(self) -> int:
        """The open file, for a child to inherit."""
        if self._descriptor is None:
            raise ValueError(f"{self.path} is not locked")
        return self._descriptor

    @property
    def is_current(self) -> bool:
        """Whether the file we hold is still the one at the path, and not a deleted one."""
        try:
            return os.path.samestat(os.fstat(self.descriptor), self.path.stat())
        except FileNotFoundError:
            return False

    def acquire(self, *, shared: bool = False) -> bool:
        """Take the lock, or turn a held one into the other kind; never waits.

        A held lock is lost when the other kind cannot be had: `flock` gives up the old one first.

        Returns:
            Whether the lock is held now.

        Raises:
            OSError: The file cannot be made or opened.
        """
        while True:
            if self._descriptor is None:
                self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            held = _flock(self._descriptor, shared=shared)
            if held and self.is_current:
                return True
            self.abandon()
            if not held:
                return False

    def wait(self, patience: float, *, shared: bool = False) -> bool:
        """Take the lock as soon as it is free.

        Args:
            patience: Seconds to wait at most.
            shared: Whether others may share it.

        Returns:
            Whether the lock is held now.

        Raises:
            OSError: The file cannot be made or opened.
        """
        deadline = time.monotonic() + patience
        while not self.acquire(shared=shared):
            if time.monotonic() >= deadline:
                return False
            time.sleep(_PAUSE)
        return True

    def release(self) -> None:
        """Give the lock up, also on behalf of children that inherited the file; harmless when it is not held."""
        if self._descriptor is not None:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)
        self.abandon()

    def abandon(self) -> None:
        """Close the file; children that inherited it go on holding the lock until they end."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


@contextlib.contextmanager
def exclusive(path: Path, *, patience: float) -> Generator[None]:
    """Hold the lock on `path` alone.

    Args:
        path: The file, made when missing.
        patience: Seconds to wait for it at most.

    Raises:
        OSError: The file cannot be made or opened.
        StoreUnavailable: Another process kept it longer than that.
    """
    lock = FileLock(path)
    if not lock.wait(patience):
        raise StoreUnavailable(
            f"another process has held {path} for {patience:g} s",
            hint="It starts or stops the server of this folder. If it hangs, end it and try again.",
            details={"lock": str(path)},
        )
    try:
        yield
    finally:
        lock.release()


def is_held(path: Path) -> bool:
    """Return whether some process holds a lock on `path`; a missing file is not held."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        return not _flock(descriptor, shared=True)
    finally:
        os.close(descriptor)


def _flock(descriptor: int, *, shared: bool) -> bool:
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
