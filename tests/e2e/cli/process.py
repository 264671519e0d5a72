"""The command line as a process of its own, waited for by what it writes."""

from __future__ import annotations

import os
import pty
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import IO, NamedTuple, Self

from tests.e2e.cli.forks import Forks
from tests.support.modes import VARIABLE, python_path

FLOW = Path(__file__).with_name("flow.py")
PROGRAM = (sys.executable, "-m", "flowstone_async.cli")
LONG = 120


class Done(NamedTuple):
    """What came of a command."""

    code: int
    data: str
    messages: str


class Shell:
    """A folder in which commands are given.

    Args:
        folder: The current directory of the commands; it gets `flow.py`.
        store: What `--store` says, unless a command says otherwise.
    """

    def __init__(self, folder: Path, store: str | None = None) -> None:
        self.folder, self.store = folder, store
        shutil.copy(FLOW, folder)

    def run(self, *words: str, env: Mapping[str, str] | None = None) -> Done:
        """Give a command and wait for its end."""
        ended = self._forked(words, env)
        if ended is not None:
            return ended
        done = subprocess.run(
            self.words(words), cwd=self.folder, env=_environment(env), capture_output=True, stdin=subprocess.DEVNULL,
            timeout=LONG, check=False,
        )  # fmt: skip
        return Done(done.returncode, done.stdout.decode(), done.stderr.decode())

    def _forked(self, words: tuple[str, ...], env: Mapping[str, str] | None) -> Done | None:
        """Give a command to a process that has everything imported; None if there is none for it."""
        if any(name.startswith("PYTHON") for name in env or ()):
            return None
        plain = self.words(words)[len(PROGRAM) :]
        done = _forks().run(plain, self.folder, _environment(env), LONG)
        return None if done is None else Done(done[0], done[1].decode(), done[2].decode())

    def start(self, *words: str, env: Mapping[str, str] | None = None) -> Running:
        """Give a command and return while it runs."""
        return Running(
            subprocess.Popen(
                self.words(words),
                cwd=self.folder,
                env=_environment(env),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        )

    def words(self, words: tuple[str, ...]) -> list[str]:
        """Return the whole command line."""
        store = [] if self.store is None or "--store" in words else ["--store", self.store]
        return [*PROGRAM, *words, *store]


class Running:
    """A command that runs."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._said = ""

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """How it ended, as far as anybody has waited for that."""
        return self._process.returncode

    def wait_for(self, text: str) -> str:
        """Return the line with `text` on standard error, once it is there."""
        return self._line(self._process.stderr, text)

    def wait_for_event(self, text: str) -> str:
        """Return the line with `text` on standard output, once it is there."""
        return self._line(self._process.stdout, text)

    def _line(self, stream: IO[bytes] | None, text: str) -> str:
        assert stream is not None
        for line in iter(stream.readline, b""):
            if stream is self._process.stderr:
                self._said += line.decode()
            if text in line.decode():
                return line.decode()
        raise AssertionError(f"the command ended and did not say {text!r}; it said {self._said}")

    def signal(self, number: signal.Signals) -> None:
        """Send the command a signal, as a terminal does to all that it started."""
        os.killpg(self._process.pid, number)

    def end(self) -> Done:
        """Wait for its end; messages that were waited for are among the others."""
        data, messages = self._process.communicate(timeout=LONG)
        return Done(self._process.returncode, data.decode(), self._said + messages.decode())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.communicate()


class Terminal:
    """A command on a terminal of 30 lines of 100 characters."""

    def __init__(self, shell: Shell, *words: str, env: Mapping[str, str] | None = None) -> None:
        main, side = pty.openpty()
        os.set_blocking(main, False)
        _size(side)
        self._main = main
        self._shown = ""
        self._process = subprocess.Popen(
            shell.words(words),
            cwd=shell.folder,
            env=_environment({"TERM": "xterm", **(env or {})}),
            stdin=side,
            stdout=side,
            stderr=side,
            start_new_session=True,
            preexec_fn=_own_terminal,  # noqa: PLW1509 - no threads here; Ctrl-C needs it
        )
        os.close(side)

    def wait_for(self, text: str) -> str:
        """Return everything shown so far, once `text` is among it."""
        while text not in self._shown:
            assert self._read(), f"the command ended and did not show {text!r}: {self._shown}"
        return self._shown

    def press(self, keys: str) -> None:
        """Press keys; `\\x03` is Ctrl-C."""
        os.write(self._main, keys.encode())

    def end(self) -> Done:
        """Wait for its end."""
        while self._read():
            pass
        return Done(self._process.wait(LONG), self._shown, "")

    def _read(self) -> bool:
        select.select([self._main], [], [], LONG)
        try:
            data = os.read(self._main, 65536)
        except OSError:  # the other side is closed
            return False
        self._shown += data.decode()
        return bool(data)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        os.close(self._main)


def _environment(more: Mapping[str, str] | None) -> dict[str, str]:
    kept = {
        name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG", "PYTHONPATH", VARIABLE)
    }
    return {**kept, "PYTHONPATH": python_path(), **(more or {})}


def _own_terminal() -> None:
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def _size(descriptor: int) -> None:
    import fcntl
    import struct
    import termios

    fcntl.ioctl(descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))


@cache
def _forks() -> Forks:
    return Forks(_environment(None))  # not before the mode was chosen
