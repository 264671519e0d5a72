"""Runs that an engine takes on: from the queue, and from engines that died. As many at once as it has slots.

One loop decides; each run that it takes is a task of the engine's host, beside those that were awaited. A claim whose
reply is lost, and a run that cannot be continued for want of the store, are handed back as soon as the store answers.
A claim may also take effect long after its reply was given up, on a server that hung: once a reply was lost, the engine
compares what it owns with what it drives in each poll, for as long as it lives.
"""

from __future__ import annotations

import asyncio
import logging

import anyio

from flowstone_async._engine import stopped
from flowstone_async._engine.backfill_job import drive_backfill
from flowstone_async._engine.cancelling import Left, cancel
from flowstone_async._engine.ending_orphans import end_run
from flowstone_async._engine.helpers import Helpers
from flowstone_async._engine.request import BACKFILL, PARENT
from flowstone_async._engine.resume import Past
from flowstone_async._engine.session import Session
from flowstone_async._engine.unknown import defer
from flowstone_async.clock import Timer
from flowstone_async.errors import AssetNotFound, Cancelled, FlowstoneError, StorageError, StoreUnavailable
from flowstone_async.failures import ENDINGS
from flowstone_async.store.records import RunRecord

ORPHANS_AT_ONCE = 50
_logger = logging.getLogger("flowstone")


class Dispatcher:
    """Takes runs on for one engine.

    Args:
        session: What they run in.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._slots = session.services.settings.slots
        self._runs = session.services.slots
        self._wake = asyncio.Event()
        self._scope = anyio.CancelScope()
        self._unsure = self._failing = self._found = False
        self._looked = self._compared = float("-inf")
        self._later: Timer | None = None
        self._undriven: set[tuple[str, int]] = set()
        session.services.adopt = self.adopt
        self._helpers = Helpers(session)

    async def run(self) -> None:
        """Take runs on until `stop`."""
        self._runs.freed = self._wake.set
        with self._scope:
            async with anyio.create_task_group() as group:
                group.start_soon(self._listen, name="queue listener")
                group.start_soon(self._hear_woken, name="listener for woken runs")
                while True:
                    self._wake.clear()
                    await self._try()
                    await self._wake.wait()

    async def stop(self) -> None:
        """Take nothing more on; what was taken goes on."""
        self._scope.cancel()
        if self._later is not None:
            self._later.cancel()
        self._helpers.stop()

    async def _listen(self) -> None:
        """Wake the loop when there may be something in the queue, and once each poll."""
        store, poll = self._session.services.store, self._session.services.settings.poll
        while True:
            await store.changed("queue", within=poll)
            self._wake.set()

    async def _hear_woken(self) -> None:
        """Wake the loop when a suspended run can go on: it is looked for at once."""
        services = self._session.services
        store, clock, poll = services.store, services.clock, services.settings.poll
        while True:
            begun = clock.monotonic()
            await store.changed("woken", within=poll)
            if clock.monotonic() - begun < poll * 0.9:  # a hint; else the queue listener has woken it
                self._found = True
                self._wake.set()

    async def _try(self) -> None:
        try:
            await self.look()
            self._failing = False
        except FlowstoneError as error:
            if not self._failing:  # once per outage, not once per poll
                poll = self._session.services.settings.poll
                _logger.warning("queue: %s; it is tried again every %g s", error.message, poll)
            self._failing = True
        except Exception:
            if not self._failing:
                _logger.exception("queue: a mistake of flowstone_async; it is tried again")
            self._failing = True

    async def look(self) -> None:
        """Take on what there is, as far as slots are free: the dead's runs first."""
        session, store = self._session, self._session.services.store
        if self._unsure:
            await self._find_undriven()
        for run_id, fence in list(session.to_hand_back.items()):
            if run_id not in self._runs.taken:
                await store.hand_back(run_id, fence)
                session.to_hand_back.pop(run_id, None)  # the lease may have been lost meanwhile
        worker = session.services.worker
        if worker is None or session.lost or session.closing:
            return
        pipelines = tuple(session.catalogs)
        await self._helpers.leave_rest(worker)
        try:
            if self._is_time_for_orphans():
                limit = min(self._free, ORPHANS_AT_ONCE)
                taken = await store.take_orphans(worker, pipelines, limit=limit)
                self._found = bool(taken) or (self._found and not limit)
                self._take(taken, begun=True)
            if self._free:
                self._take(await store.claim(worker, pipelines, limit=self._free), begun=False)
            if self._free:
                await self._helpers.look(worker, pipelines)
        except StoreUnavailable:
            self._unsure = True
            raise

    @property
    def _free(self) -> int:
        return max(0, self._slots - self._runs.busy)

    def _is_time_for_orphans(self) -> bool:
        """Whether to look for them: where there were some there are more, else a few times in each poll at most.

        However busy the queue is; what was hinted at meanwhile is looked for as soon as it may be.
        """
        services = self._session.services
        now, pause = services.clock.monotonic(), services.settings.poll / 5
        left = self._looked + pause - now
        if left > 0 and not (self._found and self._free):
            if self._later is None and self._slots:
                self._later = services.clock.call_later(left, self._look_later)
            return False
        self._looked = now
        return True

    def _look_later(self) -> None:
        self._later = None
        self._wake.set()

    async def adopt(self, run_id: str) -> None:
        """Take over one run if its owner is dead, whatever slots are free: something here waits for it."""
        session = self._session
        worker = session.services.worker
        if worker is None or session.lost or session.closing or run_id in self._runs.taken or run_id in session.flights:
            return
        try:
            taken = await session.services.store.take_orphans(worker, tuple(session.catalogs), limit=1, run_id=run_id)
        except StoreUnavailable:
            self._unsure = True
            raise
        self._take(taken, begun=True)

    def _take(self, records: tuple[RunRecord, ...], *, begun: bool) -> None:
        session = self._session
        for record in records:
            # Ours from here on: what nobody drives for want of the store is given up as soon as it answers.
            session.to_hand_back[record.id] = record.fence
            self._runs.take(record.id)
            session.services.start_soon(self._drive, record, begun, name=f"run {record.id}")

    async def _drive(self, record: RunRecord, begun: bool) -> None:  # noqa: FBT001 - started as a task
        try:
            await self._continue(record, begun=begun)
        except (StoreUnavailable, Cancelled) as error:
            self._found = False  # it would be found at once
            _logger.info("run %s is handed back: %s", record.id, error.message)
        finally:
            self._runs.leave(record.id)
            self._wake.set()

    async def _continue(self, record: RunRecord, *, begun: bool) -> None:
        session = self._session
        if not record.continuable:
            await self._end(record, stopped.bereft(record.id))
            return
        if begun:
            _logger.info("continuing run %s of %s", record.id, ", ".join(record.targets))
        try:
            if record.unreadable is not None:
                raise StorageError(f"the stored run cannot be read: {record.unreadable}", run_id=record.id)
            if BACKFILL in record.options:
                await drive_backfill(session, record, begun=begun)
            elif not await self._ended_with_parent(record):
                await self._helpers.leave(record.id)
                await session.resume(record, begun=begun)
        except (StoreUnavailable, Cancelled, asyncio.CancelledError, *ENDINGS):
            raise
        except FlowstoneError as error:
            if isinstance(error, AssetNotFound) and await defer(session, record, error):
                _logger.info("run %s waits for a worker that knows it: %s", record.id, error.message)
                session.to_hand_back.pop(record.id, None)
                return
            _logger.warning("run %s cannot be continued: %s", record.id, error.message)
            await self._end(record, error)
        except Exception as error:
            _logger.exception("run %s cannot be continued", record.id)
            await self._end(record, stopped.bug(record.id, error))

    async def _ended_with_parent(self, record: RunRecord) -> bool:
        """End a partition's run whose backfill was cancelled while nobody drove either."""
        store, parent = self._session.store, record.options.get(PARENT)
        backfill = await store.run(parent) if isinstance(parent, str) else None
        if backfill is None or backfill.state != "cancelled":
            return False
        past = await Past.read(store, record)
        now = store.now()
        await cancel(store, record, Left(past.unfinished(now), past.told.cancelled(now)), 0.0, "engine")
        self._session.to_hand_back.pop(record.id, None)
        return True

    async def _end(self, record: RunRecord, error: FlowstoneError) -> None:
        await end_run(self._session, record, error)
        self._session.to_hand_back.pop(record.id, None)

    async def _find_undriven(self) -> None:
        """Find runs that are ours without our knowing, since the reply got lost when they were taken.

        One that is seen so for the first time may be about to be driven: its reply is on the way.
        """
        session, services = self._session, self._session.services
        now = services.clock.monotonic()
        if services.worker is None or now - self._compared < services.settings.poll:
            return
        owned = await services.store.owned(services.worker, tuple(session.catalogs))
        known = {*session.flights, *self._runs.taken, *session.to_hand_back}
        undriven = {each for each in owned.items() if each[0] not in known}
        session.to_hand_back.update(undriven & self._undriven)
        self._undriven, self._compared = undriven, now
