"""The life of an engine: what begins, in order, when it is entered, ends when it is left, and what hooks hear of it."""

from __future__ import annotations

from contextlib import AsyncExitStack

from flowstone_async._engine import stopped
from flowstone_async._engine.host import Host
from flowstone_async._engine.orphans import rename_assets
from flowstone_async._engine.session import Session
from flowstone_async._engine.upkeep import Retention, Upkeep
from flowstone_async._engine.user_error import redacted
from flowstone_async._engine.watchdog import Watchdog
from flowstone_async.events import EngineStarted, EngineStopped, LeaseAcquired, LeaseExpired, LeaseReleased
from flowstone_async.store.records import Worker


class Life:
    """One stay in an engine.

    Args:
        session: What it runs with.
        host: Holds its tasks.
        lease: Seconds that its work outlives its last sign of life; None if it may own no runs.
        told: Whether hooks hear of it; they do not of an engine that only looks.
    """

    def __init__(self, session: Session, host: Host, *, lease: float | None, told: bool) -> None:
        self._session, self._host, self._lease, self._told = session, host, lease, told
        self._worker, self._started = "", False
        self._since = 0.0

    async def begin(self, stack: AsyncExitStack, worker: Worker, retention: Retention) -> None:
        """Open the store and all that works on it; what is pushed on `stack` ends it in reverse order."""
        session, services, host = self._session, self._session.services, self._host
        self._worker = worker.id
        await services.store.open(worker, lease=self._lease, lost=self._lose)
        self._since = services.clock.monotonic()
        stack.push_async_callback(self._tell_stopped)
        stack.push_async_callback(services.store.close)
        stack.push_async_callback(services.executor.close)
        await host.open()
        stack.push_async_callback(host.close, grace=services.settings.grace)
        stack.push_async_callback(session.observer.heard)
        stack.push_async_callback(services.resources.close)
        stack.push_async_callback(session.close, services.settings.grace)
        await rename_assets(session)
        if self._lease is not None:
            upkeep = Upkeep(session, retention)
            host.start_soon(upkeep.run, name="upkeep")
            stack.push_async_callback(upkeep.stop)
        if services.settings.block_warning is not None:
            stack.enter_context(Watchdog(services.settings.block_warning, session))

    async def tell_started(self) -> None:
        """Let hooks hear that the engine can be used."""
        if not self._told:
            return
        self._started, observer = True, self._session.observer
        if self._lease is not None:
            await observer.tell_now(LeaseAcquired, worker=self._worker)
        await observer.tell_now(EngineStarted, pipelines=tuple(self._session.catalogs))

    def _lose(self) -> None:
        session = self._session
        if self._told and not session.lost and self._host.stands:
            error = redacted(stopped.engine_lost(session.store.unreachable), session.services.redactor)
            session.observer.tell(LeaseExpired, worker=self._worker, seconds=self._seconds(), error=error)
        session.lose()

    async def _tell_stopped(self) -> None:
        if not self._started:  # it failed to open
            return
        observer = self._session.observer
        if self._lease is not None and not self._session.lost:
            await observer.tell_now(LeaseReleased, worker=self._worker, seconds=self._seconds())
        await observer.tell_now(EngineStopped, pipelines=tuple(self._session.catalogs), seconds=self._seconds())

    def _seconds(self) -> float:
        return self._session.services.clock.monotonic() - self._since
