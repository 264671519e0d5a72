"""The `flowstone` command and other programs in processes of their own, which a test holds, stops and kills."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple, Self

from tests.support.modes import python_path

ROOT = Path(__file__).parents[2]
CHAIN = ROOT / "tests/e2e/programs/chain.py"
_PATIENCE = 60.0


class Ended(NamedTuple):
    """How a program ended: its exit code, or the negated number of the signal that killed it."""

    code: int
    out: str
    err: str


class Program:
    """A running program, in a session of its own.

    Args:
        folder: Where it runs.
        module: What it is.
        words: Its arguments.
    """

    _count = 0

    def __init__(self, folder: Path, module: str, *words: str) -> None:
        Program._count += 1
        self._streams = [folder / f"{name}-{Program._count}" for name in ("out", "err")]
        with self._streams[0].open("wb") as out, self._streams[1].open("wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-m", module, *words],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                cwd=folder,
                env={**os.environ, "PYTHONPATH": python_path(), "PYTHONUNBUFFERED": "1"},
                start_new_session=True,
            )

    def end(self) -> Ended:
        """Wait until it has ended by itself."""
        return self._ended(self.process.wait(_PATIENCE))

    def _ended(self, code: int) -> Ended:
        out, err = (stream.read_text(errors="replace") for stream in self._streams)
        return Ended(code, out, err)

    def kill(self) -> None:
        self.process.kill()
        assert self.process.wait(_PATIENCE) == -signal.SIGKILL, self._ended(self.process.returncode)

    def stop(self) -> None:
        """Stop it as if its machine slept, and wait until it has stopped."""
        self.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WNOWAIT)

    def go_on(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def interrupt(self) -> None:
        """Press Ctrl-C at its terminal."""
        os.killpg(self.process.pid, signal.SIGINT)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(_PATIENCE)


def flowstone(folder: Path, *words: str, point: str | None = None) -> Program:
    """Start the command; at `point` (programs/victim.py) it dies."""
    if point is None:
        return Program(folder, "flowstone_async.cli", *words)
    return Program(folder, "tests.e2e.programs.victim", point, *words)


def run(folder: Path, asset: str, store: str, *more: str, point: str | None = None) -> Program:
    """Start `flowstone run` of an asset of programs/chain.py."""
    return flowstone(folder, "run", str(CHAIN), asset, "--store", store, "--json", *more, point=point)


def work(folder: Path, store: str, *runs: tuple[str, str | None], **options: object) -> Program:
    """Start an engine (programs/worker.py) that runs assets of programs/chain.py."""
    given = {"store": store, "run": runs, **options}
    return Program(folder, "tests.e2e.programs.worker", json.dumps(given))
