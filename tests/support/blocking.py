"""Bodies that other processes can import, and holding threads at a known point."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from dataclasses import dataclass

from flowstone_async import Context, StorageError


class Latch:
    """A point in threads: `latch()` waits there until `open()`."""

    def __init__(self) -> None:
        self._lock = threading.Condition()
        self._open = False
        self.inside = self.most = self.calls = 0

    def __call__(self) -> None:
        with self._lock:
            self.calls += 1
            self.inside += 1
            self.most = max(self.most, self.inside)
            self._lock.notify_all()
            self._lock.wait_for(lambda: self._open, timeout=20)
            self.inside -= 1
            self._lock.notify_all()

    def reached(self, inside: int = 1) -> None:
        """Wait in another thread until so many are there."""
        with self._lock:
            assert self._lock.wait_for(lambda: self.inside >= inside, timeout=20)

    def open(self) -> None:
        """Let all through."""
        with self._lock:
            self._open = True
            self._lock.notify_all()


@dataclass
class Point:
    x: int
    y: int


class Awkward(Exception):
    """Cannot be unpickled: its constructor takes what `args` does not hold."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{reason} ({code})")


def moved(point: Point, by: int) -> Point:
    return Point(point.x + by, point.y + by)


def own_pid() -> int:
    return os.getpid()


def noted(ctx: Context) -> int:
    ctx.metadata(rows=3, limit=ctx.params["limit"] if ctx.params else None)
    return ctx.attempt


def endless(path: str) -> int:
    with open(path, "a") as file:  # noqa: PTH123 - as simple as can be
        file.write(f"{os.getpid()}\n")
    threading.Event().wait()


def raises_value_error() -> int:
    raise ValueError("in another process")


def raises_awkward() -> int:
    raise Awkward(7, "in another process")


def raises_storage_error() -> int:
    raise StorageError("the disk is full", retryable=True)


def exits() -> int:
    sys.exit(3)


def dies() -> int:
    os._exit(9)


def returns_a_lock() -> object:
    return threading.Lock()


def prints() -> int:
    print("from the body")
    subprocess.run([sys.executable, "-c", "print('from a program'); import sys; sys.stdin.read()"], check=True)
    return 1
