"""The server on a data directory: started, proven to answer, stopped. Callers hold `start_lock`.

The server's processes hold `server_lock`, which they inherit. While it is held some of them live; once it is free
none does, whatever the pid file says, so that it is safe to clear up and to start another.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from flowstone_async.errors import ConfigError, StoreUnavailable
from flowstone_async.store.embedded.address import ROLE, Address
from flowstone_async.store.embedded.binaries import Binaries, runnable
from flowstone_async.store.embedded.data import create_data
from flowstone_async.store.embedded.locks import FileLock, is_held
from flowstone_async.store.embedded.place import Place, write_whole
from flowstone_async.store.embedded.postmaster import Postmaster, read_postmaster

_SETTINGS = {
    "dynamic_shared_memory_type": "mmap",  # in the folder and gone with it, also after a kill; /dev/shm may be tiny
    "jit": "off",
    "log_checkpoints": "off",
    "log_timezone": "UTC",
    "max_connections": "300",
    "timezone": "UTC",
}
_LOOPBACK = "127.0.0.1"
_PORT = 5432
_PORT_ATTEMPTS = 5
_PORT_TAKEN = "Address already in use"
_START_MARK = b"--- start\n"
# A Unix socket's path has 104 bytes on macOS and 108 on Linux. Other characters mean something in a list or a URL.
_SOCKET_FOLDER = re.compile(r"[A-Za-z0-9/._@+-]{1,85}")
_LOG_BYTES = 1_000_000
_IMMEDIATE_SECONDS = 10.0
_UNSENT_SECONDS = 2.0
_PAUSE_SECONDS = (0.005, 0.1)


class Cluster:
    """One data directory and its server.

    Args:
        place: Where it lives.
        binaries: Programs of the data's version.
        settings: Server settings that win over the defaults.
        tcp: Whether it listens on 127.0.0.1 too.
        patience: Seconds that a start, with the recovery after a crash, or a stop may take.
    """

    def __init__(
        self, place: Place, binaries: Binaries, *, settings: Mapping[str, str], tcp: bool, patience: float
    ) -> None:
        self._place = place
        self._binaries = binaries
        self._settings = {**_SETTINGS, **settings}
        self._tcp = tcp
        self._patience = patience

    def ensure(self) -> bool:
        """Start the server unless it runs already.

        Returns:
            Whether the data directory was made just now.

        Raises:
            ConfigError: The server's user cannot be let in.
            OSError: The folder cannot be written to.
            StoreUnavailable: It did not start, or a server that does not answer is in the way.
        """
        if self._settles():
            return False
        created, attempts = self._launch(), 1
        while not self._settles():
            tail = self._tail()
            if not (self._tcp and _PORT_TAKEN in tail and attempts < _PORT_ATTEMPTS):
                raise StoreUnavailable(
                    f"the embedded server in {self._place.data} did not start:\n{tail}",
                    hint=f"The whole log is {self._place.log}.",
                    details={"log": str(self._place.log), "output": tail},
                )
            attempts += 1
            self._launch()
        return created

    def address(self) -> Address:
        """Return where the running server answers.

        Raises:
            ConfigError: TCP was asked for, and it was started without.
            StoreUnavailable: It is gone.
        """
        postmaster = read_postmaster(self._place.data)
        if postmaster is None:
            raise StoreUnavailable(f"the embedded server in {self._place.data} went away while it was started")
        if not self._tcp:
            return Address(host=postmaster.socket, port=postmaster.port)
        if not postmaster.host:
            raise ConfigError(
                f"the server in {self._place.data} was started without TCP",
                hint="End the programs that use it, or do without tcp=True.",
            )
        return Address(host=postmaster.host, port=postmaster.port, password=self._place.password())

    def stop(self) -> None:
        """Stop the server, breaking off its connections; harmless when it is down already.

        A server that does not end is left to itself; the next start waits for it.
        """
        if self._shut_down(signal.SIGINT, self._patience) or self._shut_down(signal.SIGQUIT, _IMMEDIATE_SECONDS):
            self._clear()

    def _settles(self) -> bool:
        """Wait until the server answers, or no process of it is left, and tell which."""
        deadline = time.monotonic() + self._patience
        pause, longest = _PAUSE_SECONDS
        while True:
            if not is_held(self._place.server_lock):
                return False
            postmaster = read_postmaster(self._place.data)
            if postmaster is not None and self._answers(postmaster):
                return True
            if postmaster is not None and postmaster.status == "stopping":
                # It may be waiting for its clients to leave, which do not know.
                postmaster.signal(signal.SIGINT)
            if time.monotonic() >= deadline:
                raise self._stuck(postmaster)
            time.sleep(pause)
            pause = min(pause * 1.5, longest)

    def _answers(self, postmaster: Postmaster) -> bool:
        if postmaster.status != "ready":
            return False
        program = self._binaries.program("pg_isready")
        options = ("-q", "-t", "3", "-U", ROLE, "-d", "postgres", "-h", postmaster.socket, "-p", str(postmaster.port))
        return self._place.account.caller.run(program, *options, patience=30).code == 0

    def _launch(self) -> bool:
        """Run the server, and make its data first where there is none; tell whether it was made."""
        place, lock = self._place, FileLock(self._place.server_lock)
        postmaster = read_postmaster(place.data)
        if not lock.acquire():
            raise self._stuck(postmaster)
        try:
            if not self._clear():
                pid = None if postmaster is None else postmaster.pid
                raise StoreUnavailable(
                    f"process {pid} runs a server on {place.data} that was started by other means",
                    hint=f"Stop it: kill -INT {pid}",
                    details={"pid": pid},
                )
            binaries = runnable(self._binaries, place.account, place.cluster / "binaries")
            created = not place.data.exists()
            if created:
                durable = self._settings.get("fsync") != "off"
                create_data(place, binaries, lock=lock.descriptor, durable=durable)
            self._start(binaries, lock.descriptor)
        finally:
            lock.abandon()
        return created

    def _start(self, binaries: Binaries, lock: int) -> None:
        place = self._place
        logins = f"local all all peer map=flowstone\nhost all all {_LOOPBACK}/32 scram-sha-256\n"
        options = self._settings | {
            "cluster_name": "flowstone",
            "hba_file": self._write("pg_hba.conf", logins),
            "ident_file": self._write("pg_ident.conf", f'flowstone "{place.account.client}" {ROLE}\n'),
            "listen_addresses": _LOOPBACK if self._tcp else "",
            "port": str(_free_port() if self._tcp else _PORT),
            "unix_socket_directories": str(self._socket_folder()),
            "unix_socket_permissions": "0700",
        }
        if place.log.exists() and place.log.stat().st_size > _LOG_BYTES:
            place.log.replace(place.log.with_suffix(".old"))
        with place.log.open("ab") as log:
            log.write(_START_MARK)
            log.flush()
            # The shell ends at once and leaves the server to init: it is nobody's child, and nobody's zombie.
            place.account.run(
                "/bin/sh",
                "-c",
                '"$@" &',
                "sh",
                str(binaries.program("postgres")),
                "-D",
                str(place.data),
                *(word for name, value in options.items() for word in ("-c", f"{name}={value}")),
                patience=60,
                output=log,
                inherit=[lock],
            )

    def _write(self, name: str, text: str) -> str:
        path = self._place.cluster / name
        write_whole(path, text.encode())
        self._place.account.share(path, mode=0o640)
        return str(path)

    def _socket_folder(self) -> Path:
        """Return the data directory, or a folder of our own whose path is short and plain."""
        place = self._place
        if _SOCKET_FOLDER.fullmatch(str(place.data)):
            return place.data
        for parent in dict.fromkeys([tempfile.gettempdir(), "/tmp"]):  # noqa: S108 - with a random name, checked below
            if _SOCKET_FOLDER.fullmatch(f"{parent}/flowstone-12345678/socket") and place.account.can_enter(
                Path(parent)
            ):
                outer = Path(tempfile.mkdtemp(prefix="flowstone-", dir=parent))
                write_whole(place.cluster / "socket", os.fsencode(outer))
                place.account.share(outer, mode=0o710)
                inner = outer / "socket"
                inner.mkdir(mode=0o700)
                place.account.give(inner)
                return inner
        raise ConfigError(
            f"the path of {place.data} is too long for a Unix socket, and so is that of the folder for temporary files",
            hint="Name another folder: store='embedded:<dir>'.",
        )

    def _clear(self) -> bool:
        """Remove what a server that is gone left behind; tell whether it is gone, or runs without our lock."""
        place = self._place
        postmaster = read_postmaster(place.data)
        if postmaster is not None and postmaster.is_running:
            return False
        for path in (place.data / "postmaster.pid", *place.data.glob(".s.PGSQL.*")):
            path.unlink(missing_ok=True)
        record = place.cluster / "socket"
        if record.exists():
            shutil.rmtree(Path(os.fsdecode(record.read_bytes())), ignore_errors=True)
            record.unlink()
        return True

    def _shut_down(self, number: signal.Signals, patience: float) -> bool:
        """Send a signal and wait until no process is left; tell whether that was in time."""
        began, sent = time.monotonic(), False
        pause, longest = _PAUSE_SECONDS
        while is_held(self._place.server_lock):
            if not sent:
                postmaster = read_postmaster(self._place.data)
                sent = postmaster is not None and postmaster.signal(number)
            if time.monotonic() - began >= (patience if sent else _UNSENT_SECONDS):
                return False
            time.sleep(pause)
            pause = min(pause * 1.5, longest)
        return True

    def _tail(self) -> str:
        text = self._place.log.read_bytes()[-_LOG_BYTES:].rpartition(_START_MARK)[2]
        return text.decode(errors="replace").strip()[-2000:]

    def _stuck(self, postmaster: Postmaster | None) -> StoreUnavailable:
        who = "" if postmaster is None else f" (process {postmaster.pid})"
        return StoreUnavailable(
            f"the embedded server in {self._place.data}{who} runs, but does not answer; it has been given "
            f"{self._patience:g} s",
            hint=f"Look into {self._place.log}. To end it: kill -QUIT its process; the next start recovers the data.",
            details={"log": str(self._place.log), "pid": None if postmaster is None else postmaster.pid},
        )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_LOOPBACK, 0))
        return int(probe.getsockname()[1])
