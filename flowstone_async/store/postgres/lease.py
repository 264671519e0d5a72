"""The worker's lease: a row that a thread of its own renews, so that a blocked event loop keeps it.

The thread has its own loop and its own direct connection. Whoever may write asks `holds()`, which judges by the local
monotonic clock: a renewal counts from before it was sent. So a worker stops before anybody else may take its runs,
also when the thread has died or the database cannot be reached.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from asyncpg import Connection

from flowstone_async.errors import FlowstoneError
from flowstone_async.store.postgres.connections import DRIVER_ERRORS, Connections
from flowstone_async.store.postgres.errors import translate
from flowstone_async.store.postgres.queries import QUERIES
from flowstone_async.store.records import Worker

_RENEWALS = 4
_STOP = 5.0


class Lease:
    """One worker's lease.

    Args:
        connections: Where direct connections come from.
        worker: Whose lease it is.
        seconds: How long it outlives its last renewal.
        lost: Called once, in the loop that starts the lease, when it is lost.
        monotonic: Seconds on a clock that never goes back.

    Attributes:
        unreachable: What the last attempt to renew failed with; None if it succeeded.
    """

    def __init__(
        self,
        connections: Connections,
        worker: Worker,
        seconds: float,
        lost: Callable[[], None],
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._connections = connections
        self._worker = worker
        self._seconds = seconds
        self._lost = lost
        self._monotonic = monotonic
        self.unreachable: FlowstoneError | None = None
        self._deadline = 0.0
        self._healthy_since = 0.0
        self._registered = False
        self._ended = self._told = False
        self._loop = asyncio.get_running_loop()
        self._started: asyncio.Future[None] = self._loop.create_future()
        self._stopped: asyncio.Future[None] = self._loop.create_future()
        self._timer: asyncio.TimerHandle | None = None
        self._thread_loop: asyncio.AbstractEventLoop | None = None
        self._awake = asyncio.Event()
        self._leaving = False
        self._thread = threading.Thread(target=self._run, name=f"flowstone lease {worker.id}", daemon=True)

    def holds(self) -> bool:
        """Tell whether this worker may still write. Once it was told no, a renewal that comes late changes nothing."""
        passed = self._monotonic() >= self._deadline
        self._told = self._told or (passed and self._registered)
        return not (passed or self._told or self._ended)

    def may_claim(self) -> bool:
        """Tell whether enough of the lease is left to take on more."""
        return self.holds() and self._deadline - self._monotonic() > self._seconds / 3

    def is_healthy(self) -> bool:
        """Tell whether the lease was renewed without a break for its whole length: only then may others be reaped."""
        return self.holds() and self._monotonic() - self._healthy_since >= self._seconds

    async def start(self) -> None:
        """Register the worker and begin to renew.

        Raises:
            FlowstoneError: The worker could not be registered.
        """
        self._thread.start()
        try:
            await self._started
        except BaseException:
            self._leaving = True
            raise
        self._watch()

    async def stop(self) -> None:
        """Stop renewing and remove the worker's row, as far as the database can be reached."""
        self._ended = True
        if self._timer is not None:
            self._timer.cancel()
        self._leaving = True
        self.renew_now()
        with suppress(TimeoutError):
            async with asyncio.timeout(_STOP):
                await self._stopped

    def renew_now(self) -> None:
        """Let the thread renew at once."""
        if self._thread_loop is not None and self._thread.is_alive():
            with suppress(RuntimeError):
                self._thread_loop.call_soon_threadsafe(self._awake.set)

    def _watch(self) -> None:
        """Fence the worker when the deadline passes, whatever the thread does."""
        left = self._deadline - self._monotonic()
        if left <= 0 or self._told:
            self._end()
        elif not self._ended:
            self._timer = self._loop.call_later(min(left, self._seconds / _RENEWALS), self._watch)

    def _end(self) -> None:
        if not self._ended:
            self._ended = True
            self._lost()

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        finally:
            self._tell(self._finished)

    def _finished(self) -> None:
        """Note that the thread has ended; if nobody has asked it to, the lease ends with it."""
        if self._registered and not self._leaving:
            self._end()
        if not self._stopped.done():
            self._stopped.set_result(None)
        if not self._started.done():
            self._started.cancel()

    def _tell(self, callback: Callable[..., None], *arguments: object) -> None:
        """Call something in the opener's loop, if it still runs."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(callback, *arguments)

    async def _serve(self) -> None:
        self._thread_loop = asyncio.get_running_loop()
        connection: Connection | None = None
        try:
            connection = await self._register()
            while connection is not None and not self._leaving:
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._seconds / _RENEWALS):
                        await self._awake.wait()
                self._awake.clear()
                if not self._leaving:
                    connection = await self._renew(connection)
            if connection is not None:
                with suppress(*DRIVER_ERRORS):
                    await connection.fetch(QUERIES["unregister"], self._worker.id, timeout=_STOP)
        finally:
            if connection is not None:
                connection.terminate()

    async def _register(self) -> Connection | None:
        """Register the worker; the opener hears of it, or of what went wrong."""
        sent = self._monotonic()
        worker = self._worker
        row = (worker.id, worker.host, worker.pid, list(worker.pipelines), self._seconds)
        try:
            async with self._connections.translated():
                connection = await self._connections.connect()
                try:
                    await connection.fetch(QUERIES["register"], *row, timeout=self._connections.patience)
                except BaseException:
                    connection.terminate()
                    raise
        except FlowstoneError as error:
            self._tell(_fail, self._started, error)
            return None
        self._healthy_since = sent
        self._deadline = sent + self._seconds
        self._registered = True
        self._tell(_succeed, self._started)
        return connection

    async def _renew(self, connection: Connection) -> Connection | None:
        """Renew until it is done, the deadline has passed or the worker was declared dead; None ends the thread."""
        live: Connection | None = connection
        while not self._leaving:
            sent = self._monotonic()
            left = self._deadline - sent
            if left <= 0:
                break
            try:
                async with asyncio.timeout(min(left, max(self._seconds / _RENEWALS, 0.1))):
                    live = live or await self._connections.connect()
                    rows = await live.fetch(QUERIES["renew"], self._worker.id, self._seconds)
            except (*DRIVER_ERRORS, FlowstoneError) as error:
                self.unreachable = translate(error, where=self._connections.where)
                if live is not None:
                    live.terminate()
                live = None
                await asyncio.sleep(min(1.0, self._seconds / 20))
                continue
            self.unreachable = None
            if not rows:
                break
            self._deadline = sent + self._seconds
            return live
        if live is not None:
            live.terminate()
        return None


def _succeed(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _fail(future: asyncio.Future[None], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)
