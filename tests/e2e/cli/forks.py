"""Commands that need not import anything: processes forked from one that has imported it all.

What a command does is the same, in a process of its own; it begins half a second of computing later.

    test ── words, folder, environment, two files ──> this program ── forks ──> the command
    test <── process id, then exit code ───────────── waits
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import json
import os
import random
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

_MODULE = "flowstone_async.cli"
_MOST = 1 << 20


class Forks:
    """Gives commands, one at a time.

    Args:
        environment: Of the program that forks.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = dict(environment)
        self._busy = threading.Lock()
        self._socket: socket.socket | None = None

    def run(
        self, words: Sequence[str], folder: Path, environment: Mapping[str, str], timeout: float
    ) -> tuple[int, bytes, bytes] | None:
        """Give a command and wait for its end.

        Returns:
            Exit code, standard output and standard error; None if another command is being run.
        """
        if not self._busy.acquire(blocking=False):
            return None
        try:
            with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
                asked = json.dumps([[*words], str(folder), dict(environment)]).encode()
                code = self._asked(asked, (out.fileno(), err.fileno()), timeout)
                out.seek(0)
                err.seek(0)
                return code, out.read(), err.read()
        finally:
            self._busy.release()

    def _asked(self, asked: bytes, files: Sequence[int], timeout: float) -> int:
        if self._socket is None:
            self._socket = self._started()
        self._socket.settimeout(timeout)
        socket.send_fds(self._socket, [asked], list(files))
        pid = int(self._socket.recv(100))
        try:
            return int(self._socket.recv(100))
        except TimeoutError:
            os.kill(pid, signal.SIGKILL)
            self._socket.recv(100)
            raise subprocess.TimeoutExpired(asked.decode(), timeout) from None

    def _started(self) -> socket.socket:
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with its:
            process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(its.fileno())], env=self._environment, pass_fds=[its.fileno()]
            )

        def end() -> None:
            ours.close()
            process.wait()

        atexit.register(end)
        return ours


def _serve(end: socket.socket) -> list[str] | None:
    """Fork for each command; return its words in the process that is to be it, and None once nobody asks any more."""
    while True:
        asked, files, _, _ = socket.recv_fds(end, _MOST, 2)
        if not asked:
            return None
        words, folder, environment = json.loads(asked)
        pid = os.fork()
        if not pid:
            end.close()
            _become(folder, environment, files)
            return words
        for file in files:
            os.close(file)
        end.send(str(pid).encode())
        end.send(str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])).encode())


def _become(folder: str, environment: Mapping[str, str], files: Sequence[int]) -> None:
    nothing = os.open(os.devnull, os.O_RDONLY)
    for number, file in enumerate((nothing, *files)):
        os.dup2(file, number)
        os.close(file)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    random.seed()


def _import() -> None:
    from flowstone_async.cli import arguments, call, job, process  # noqa: F401
    from flowstone_async.store import memory, postgres  # noqa: F401
    from flowstone_async.store.embedded import server  # noqa: F401

    for name in ("run", "look", "backfill", "submit", "items", "limits", "gates", "approvals"):
        with contextlib.suppress(ModuleNotFoundError):
            __import__(f"{_MODULE}.{name}")


def _main() -> None:
    os.setpgid(0, 0)  # Ctrl-C on a terminal is for who tests
    _import()
    gc.collect()
    gc.freeze()
    words = _serve(socket.socket(fileno=int(sys.argv[1])))
    if words is not None:
        sys.argv[1:] = words
        sys.path[0] = str(Path.cwd())
        runpy.run_module(_MODULE, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _main()
