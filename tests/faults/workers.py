"""Worker processes: forked from one that has imported everything, so that the next one is there in milliseconds."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from tests.faults.program import Spec, main

_PATIENCE = 30.0
_PAUSE = 0.005
_NEVER = threading.Event()


class Broken(AssertionError):
    """Something that must hold does not, or does not come about in time."""


def until(holds: Callable[[], object], what: str, patience: float = _PATIENCE) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + patience
    while not holds():
        if time.monotonic() > deadline:
            raise Broken(f"in vain, for {patience:g} s: {what}")
        _NEVER.wait(_PAUSE)


@dataclass(eq=False)
class Worker:
    """A worker process.

    Attributes:
        asleep: Whether it was stopped.
        cut_off: Whether it has lost a connection in a way that it only notices in time.
    """

    spec: Spec
    process: ForkServerProcess
    asleep: bool = False
    cut_off: bool = False

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    def kill(self) -> None:
        self.process.kill()
        self._join()

    def stop(self) -> None:
        """Stop it as if its machine slept, and wait until it has stopped."""
        self.asleep = True
        os.kill(self.pid, signal.SIGSTOP)
        stat = Path(f"/proc/{self.pid}/stat")
        until(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T", f"process {self.pid} stops")

    def go_on(self) -> None:
        self.asleep = False
        os.kill(self.pid, signal.SIGCONT)

    def end(self) -> int | None:
        """Ask it to end, and return what it ended with."""
        os.kill(self.pid, signal.SIGTERM)
        self._join()
        return self.process.exitcode

    def _join(self) -> None:
        self.process.join(_PATIENCE)
        if self.process.is_alive():
            raise Broken(f"{self.spec.name}, process {self.pid}, does not end")

    @property
    def is_dead(self) -> bool:
        return not self.process.is_alive()


@dataclass
class Crew:
    """All worker processes of a fault run; those that are left are killed at its end."""

    workers: list[Worker] = field(default_factory=list)
    started: int = 0

    def start(self, spec: Spec) -> Worker:
        """Start one more."""
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["tests.faults.program"])
        process = context.Process(target=main, args=(spec,), name=spec.name, daemon=True)
        process.start()
        self.started += 1
        worker = Worker(spec, process)
        self.workers.append(worker)
        return worker

    def close(self) -> None:
        """Kill whoever is left."""
        for worker in self.workers:
            if not worker.is_dead:
                worker.kill()
        self.workers.clear()
