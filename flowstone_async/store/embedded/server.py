"""The entry: one server per folder, shared by all who use it, stopped by the last to leave."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import threading
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from anyio import CancelScope, CapacityLimiter, to_thread
from anyio.lowlevel import checkpoint_if_cancelled

from flowstone_async.errors import ConfigError, StoreUnavailable
from flowstone_async.store.embedded import workers
from flowstone_async.store.embedded.account import server_account
from flowstone_async.store.embedded.address import Address
from flowstone_async.store.embedded.binaries import find_binaries
from flowstone_async.store.embedded.cluster import Cluster
from flowstone_async.store.embedded.locks import FileLock, exclusive
from flowstone_async.store.embedded.place import STATE, Place, locate
from flowstone_async.store.embedded.workers import ProcessLock

_PATIENCE_SECONDS = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Use:
    """That we are a user of a running server."""

    place: Place
    cluster: Cluster
    lock: FileLock
    address: Address
    pid: int


class EmbeddedServer:
    """A real Postgres server in a folder, for as long as somebody uses it.

    Any number of objects, threads and processes may use one folder; each `start` needs its `stop`. Whoever dies
    instead, even by `kill -9`, is no longer counted, and a server that died is started again by the next to come.
    Methods may be called from any thread; those without `async` block it, the first `start` for about 0.7 s.

    Args:
        home: The folder, made when missing. For root with a private home the data is elsewhere; `home/where` says so.
        settings: Server settings; they count for whoever starts the server, not for those who join.
        tcp: Listen on 127.0.0.1 with a password instead of on a Unix socket only. For tests.
        notice: Called once per folder, with what its owner should know: where it lives and how to remove it.
        state: Where data goes that cannot live in `home`.
        patience: Seconds that a start may take, the recovery after a crash included.

    Raises:
        ConfigError: On Windows.

    Example:
        ```python
        server = EmbeddedServer(Path(".flowstone"), notice=print)
        address = await server.open()
        try:
            connection = await asyncpg.connect(**address.arguments())
        finally:
            await server.close()
        ```
    """

    def __init__(
        self,
        home: Path,
        *,
        settings: Mapping[str, str] | None = None,
        tcp: bool = False,
        notice: Callable[[str], None] | None = None,
        state: Path = STATE,
        patience: float = _PATIENCE_SECONDS,
    ) -> None:
        if sys.platform == "win32":
            raise ConfigError(
                "the embedded store does not run on Windows",
                hint="Use a server of your own: store='postgresql://...'.",
            )
        self._home = home
        self._settings = dict(settings or {})
        self._tcp = tcp
        self._notice = notice
        self._state = state
        self._patience = patience
        self._mutex = threading.Lock()
        self._use: _Use | None = None

    def start(self) -> Address:
        """Become a user of the server, starting it when nobody is one yet; harmless when we are.

        Returns:
            Where it answers.

        Raises:
            ConfigError: The folder is another user's, of another version of Postgres or not writable; the extra
                `embedded` is missing. Nothing was changed.
            StoreUnavailable: The server did not start, for example because the disk is full.
        """
        with self._mutex:
            if self._use is None:
                try:
                    self._use = self._enter()
                except OSError as error:
                    raise _unusable(self._home, error) from error
            return self._use.address

    def stop(self) -> None:
        """Leave the server, and stop it when nobody else uses it; harmless when we are no user."""
        with self._mutex:
            use, self._use = self._use, None
            if use is not None:
                self._exit(use)

    async def open(self) -> Address:
        """Do as `start`, in a thread. Cancelled, it leaves the server again before it ends.

        Raises:
            ConfigError: As `start`.
            StoreUnavailable: As `start`.
        """
        opened = False
        try:
            address = await to_thread.run_sync(self.start, limiter=CapacityLimiter(1))
            await checkpoint_if_cancelled()
            opened = True
            return address
        finally:
            if not opened:
                await self.close()

    async def close(self) -> None:
        """Do as `stop`, in a thread, which goes on even when we are cancelled."""
        # Begun before anything is awaited: a second native cancellation pierces a shield.
        executor = ThreadPoolExecutor(1, thread_name_prefix="flowstone-embedded")
        left = executor.submit(self.stop)
        executor.shutdown(wait=False)
        with CancelScope(shield=True):
            await to_thread.run_sync(left.result, limiter=CapacityLimiter(1))

    @property
    def folder(self) -> Path:
        """Where the data lives: `home`, or what `home/where` says.

        Raises:
            ConfigError: The server was not started.
        """
        return self._started().root

    def secret(self) -> bytes:
        """Return the folder's own 32 random bytes, for signing tokens; the same for every user of it.

        Raises:
            ConfigError: The server was not started, or the file is damaged.
        """
        return self._started().secret()

    def process_lock(self, worker_id: str) -> ProcessLock:
        """Say that this process works under an id, until the lock is released or the process ends, however it ends.

        Args:
            worker_id: An id that no other process ever had.

        Raises:
            ConfigError: The server was not started, the id is no file name, or a living process has it.
        """
        return workers.hold(self._started().workers, worker_id)

    def is_alive(self, worker_id: str) -> bool:
        """Return whether the process that took a worker's lock still holds it, in microseconds.

        Raises:
            ConfigError: The server was not started, or the id is no file name.
        """
        return workers.is_alive(self._started().workers, worker_id)

    def _enter(self) -> _Use:
        account = server_account()
        place = locate(self._home, account, state=self._state)
        place.check()
        binaries = find_binaries(account, place.data_major())
        cluster = Cluster(place, binaries, settings=self._settings, tcp=self._tcp, patience=self._patience)
        place.make()
        lock = FileLock(place.users_lock)
        with exclusive(place.start_lock, patience=2 * self._patience), _left_on_error(cluster, lock):
            lock.acquire(shared=True)
            place.secret()
            workers.sweep(place.workers)
            found_elsewhere = place.describe()
            created = cluster.ensure()
            if (created or found_elsewhere) and self._notice is not None:
                self._notice(_first_use(place))
            return _Use(place=place, cluster=cluster, lock=lock, address=cluster.address(), pid=os.getpid())

    def _exit(self, use: _Use) -> None:
        if use.pid != os.getpid():
            # A fork of the user: the lock is the parent's, and so is the server.
            use.lock.abandon()
            return
        try:
            with exclusive(use.place.start_lock, patience=self._patience):
                _leave(use.cluster, use.lock)
        except (OSError, StoreUnavailable):
            # Somebody who starts it, and will stop it, or the folder is gone.
            use.lock.release()

    def _started(self) -> Place:
        use = self._use
        if use is None:
            raise ConfigError("the embedded server is not started", hint="Call start() or await open() first.")
        return use.place


@contextlib.contextmanager
def _left_on_error(cluster: Cluster, lock: FileLock) -> Generator[None]:
    try:
        yield
    except BaseException:
        _leave(cluster, lock)
        raise


def _leave(cluster: Cluster, lock: FileLock) -> None:
    # Held shared by every user: to have it alone is to be the last.
    try:
        if lock.acquire():
            cluster.stop()
    finally:
        lock.release()


def _first_use(place: Place) -> str:
    elsewhere = "" if place.root == place.home else f" (the data in {place.root})"
    return (
        f"flowstone: an embedded Postgres server now lives in {place.home}{elsewhere}. "
        f"It stops when the last process that uses it leaves; if that one was killed, after the next use. "
        f"To remove it with all that it stores: rm -rf {place.folders}"
    )


def _unusable(home: Path, error: OSError) -> ConfigError | StoreUnavailable:
    if error.errno in _FULL:
        return StoreUnavailable(f"cannot use {home}: {error}", hint="Free some disk space, and try again.")
    return ConfigError(f"cannot use {home}: {error}", hint="Name another folder: store='embedded:<dir>'.")


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
