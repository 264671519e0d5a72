"""The life of an engine: what begins, in order, when it is entered, ends when it is left, and what hooks hear of it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import replace

from flowstone_async._engine import stopped
from flowstone_async._engine.dispatcher import Dispatcher
from flowstone_async._engine.host import Host
from flowstone_async._engine.orphans import rename_assets
from flowstone_async._engine.session import Session
from flowstone_async._engine.upkeep import Retention, Upkeep
from flowstone_async._engine.user_error import redacted
from flowstone_async._engine.watchdog import Watchdog
from flowstone_async.errors import FlowstoneError
from flowstone_async.events import EngineStarted, EngineStopped, LeaseAcquired, LeaseExpired, LeaseReleased
from flowstone_async.store.records import Worker
from flowstone_async.types import new_id

_logger = logging.getLogger("flowstone")


class Life:
    """One stay in an engine.

    Args:
        session: What it runs with.
        host: Holds its tasks.
        lease: Seconds that its work outlives its last sign of life; None if it may own no runs.
        told: Whether hooks hear of it; they do not of an engine that only looks.
        enlist: Lets this process count as alive under one more worker's id.
    """

    def __init__(
        self,
        session: Session,
        host: Host,
        *,
        lease: float | None,
        told: bool,
        enlist: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._session, self._host, self._lease, self._told, self._enlist = session, host, lease, told, enlist
        self._record = Worker(id="", host="", pid=0, pipelines=())
        self._started = False
        self._since = 0.0

    async def begin(self, stack: AsyncExitStack, worker: Worker, retention: Retention) -> None:
        """Open the store and all that works on it; what is pushed on `stack` ends it in reverse order."""
        session, services, host = self._session, self._session.services, self._host
        self._record = worker
        await services.store.open(worker, lease=self._lease, lost=self._lose)
        self._since = services.clock.monotonic()
        stack.push_async_callback(self._tell_stopped)
        stack.push_async_callback(services.store.close)
        stack.push_async_callback(services.executor.close)
        await host.open()
        stack.push_async_callback(host.close, grace=services.settings.grace)
        stack.push_async_callback(session.observer.heard)
        stack.push_async_callback(services.resources.close)
        stack.callback(services.limits.close)
        upkeep = Upkeep(session, retention)
        stack.push_async_callback(upkeep.stop)  # not before: a body that is cancelled elsewhere ends within the grace
        stack.push_async_callback(session.close, services.settings.grace)
        await rename_assets(session)
        if self._lease is not None:
            host.start_soon(upkeep.run, name="upkeep")
            dispatcher = Dispatcher(session)
            services.dispatches = True
            host.start_soon(dispatcher.run, name="dispatcher")
            stack.push_async_callback(dispatcher.stop)
        if services.settings.block_warning is not None:
            stack.enter_context(Watchdog(services.settings.block_warning, session))

    async def tell_started(self) -> None:
        """Let hooks hear that the engine can be used."""
        if not self._told:
            return
        self._started, observer = True, self._session.observer
        if self._lease is not None:
            await observer.tell_now(LeaseAcquired, worker=self._record.id)
        await observer.tell_now(EngineStarted, pipelines=tuple(self._session.catalogs))

    def _lose(self) -> None:
        session = self._session
        if self._told and not session.lost and self._host.stands:
            error = redacted(stopped.engine_lost(session.store.unreachable), session.services.redactor)
            session.observer.tell(LeaseExpired, worker=self._record.id, seconds=self._seconds(), error=error)
        session.lose()
        session.services.limits.lose()
        if self._host.stands and not session.closing:
            self._host.start_soon(self._rejoin, name="rejoin")

    async def _rejoin(self) -> None:
        """Come back under a new worker id, once all that was driven under the old one is torn down."""
        session, services = self._session, self._session.services
        for driven in [*(flight.driver for flight in session.flights.values()), *session.jobs.values()]:
            await driven.done.wait()
        worker = replace(self._record, id=new_id())
        self._enlist(worker.id)
        while not session.closing:
            try:
                await services.store.rejoin(worker, lease=self._lease or 0.0, lost=self._lose)
                break
            except FlowstoneError as error:
                _logger.info("the engine has lost its lease and cannot come back yet: %s", error.message)
            await services.clock.sleep(services.settings.poll)
        else:
            return
        self._record = worker
        self._since = services.clock.monotonic()
        session.regain(worker.id)
        _logger.warning("the engine had lost its lease; it goes on as worker %s", worker.id)
        if self._told:
            await session.observer.tell_now(LeaseAcquired, worker=worker.id)

    async def _tell_stopped(self) -> None:
        if not self._started:  # it failed to open
            return
        observer = self._session.observer
        if self._lease is not None and not self._session.lost:
            await observer.tell_now(LeaseReleased, worker=self._record.id, seconds=self._seconds())
        await observer.tell_now(EngineStopped, pipelines=tuple(self._session.catalogs), seconds=self._seconds())

    def _seconds(self) -> float:
        return self._session.services.clock.monotonic() - self._since
