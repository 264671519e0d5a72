"""What a server writes about itself into `postmaster.pid`.

Nothing in the file is proof: after `kill -9` it stays, cut short perhaps, and its process id may belong to a zombie
or to somebody else's program. Proof that a server lives is the lock that its processes hold; proof that it answers, a
connection.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

_LINES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Postmaster:
    """The first process of a server, by its own account.

    Attributes:
        socket: Folder of its Unix socket.
        host: Where it listens to TCP, or "".
        status: `starting`, `ready`, `standby` or `stopping`.
    """

    data: Path
    pid: int
    port: int
    socket: str
    host: str
    status: str

    @property
    def is_running(self) -> bool:
        """Whether that process runs on that data: is neither dead, nor another one by now, nor in another container."""
        return str(self.data) in _command(self.pid)

    def signal(self, number: signal.Signals) -> bool:
        """Send a signal, if the process is running.

        Returns:
            Whether it was sent.
        """
        if not self.is_running:
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)
        return True


def read_postmaster(data: Path) -> Postmaster | None:
    """Return what the server on a data directory says of itself, or None where it says nothing whole."""
    try:
        lines = [line.strip() for line in os.fsdecode((data / "postmaster.pid").read_bytes()).split("\n")]
        if len(lines) < _LINES:
            return None
        pid, port = int(lines[0]), int(lines[3])
    except (FileNotFoundError, ValueError):
        return None
    return Postmaster(data=data, pid=pid, port=port, socket=lines[4], host=lines[5], status=lines[7])


def _command(pid: int) -> list[str]:
    """Return the command line of a process, or nothing."""
    try:
        return os.fsdecode(Path(f"/proc/{pid}/cmdline").read_bytes()).split("\0")
    except FileNotFoundError:
        if Path("/proc/self").exists():
            return []
    except OSError:
        return []
    # No /proc, as on macOS: arguments come as one line.
    listed = subprocess.run(  # noqa: S603 - a number
        ["/bin/ps", "-ww", "-o", "command=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    command = listed.stdout.strip()
    _, flag, data = command.partition(" -D ")
    return [command, data.split(" -c ", 1)[0]] if flag else [command]
