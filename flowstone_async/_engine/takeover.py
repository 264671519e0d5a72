"""Taking over runs whose engine died: they go on here, or are ended where nobody can continue them."""

from __future__ import annotations

import logging

from flowstone_async._engine import stopped
from flowstone_async._engine.journal import error_body, event_of
from flowstone_async._engine.session import Session
from flowstone_async.errors import Cancelled, FlowstoneError, StoreUnavailable
from flowstone_async.events import Event, RunFailed, RunFinished
from flowstone_async.failures import describe
from flowstone_async.store.records import AuditEntry, EventRecord, RunRecord

ORPHANS_AT_ONCE = 50
_PAGE = 500
_logger = logging.getLogger("flowstone")


class Takeover:
    """Takes over what the dead left to one engine's pipelines."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._unsure = False

    async def take(self) -> None:
        """Hand back what could not be handed back before, and take over the runs of engines that died."""
        store = self._session.services.store
        if self._unsure:
            await self._find_undriven()
            self._unsure = False
        for run_id, fence in list(self._session.to_hand_back.items()):
            await store.hand_back(run_id, fence)
            del self._session.to_hand_back[run_id]
        worker = self._session.services.worker
        if worker is None:
            return
        try:
            found = await store.take_orphans(worker, tuple(self._session.catalogs), limit=ORPHANS_AT_ONCE)
        except StoreUnavailable:
            self._unsure = True
            raise
        # Ours from here on: what nobody drives for want of the store is given up as soon as it answers.
        self._session.to_hand_back |= {record.id: record.fence for record in found}
        for record in found:
            await self._continue(record)
            del self._session.to_hand_back[record.id]

    async def _find_undriven(self) -> None:
        """Find runs that are ours without our knowing, since the reply got lost when they were taken over."""
        session, last = self._session, None
        driven = {*session.flights, *session.to_hand_back}
        while page := await session.services.store.runs(
            pipelines=tuple(session.catalogs), state="running", limit=_PAGE, after=last
        ):
            for record in page:
                if record.worker == session.services.worker and record.id not in {*driven, *session.flights}:
                    session.to_hand_back[record.id] = record.fence
            last = page[-1].id

    async def _continue(self, record: RunRecord) -> None:
        if not record.continuable:
            await self._end(record, stopped.bereft(record.id))
            return
        _logger.info("continuing run %s of %s, whose engine died", record.id, ", ".join(record.targets))
        try:
            await self._session.resume(record)
        except (StoreUnavailable, Cancelled):
            raise
        except FlowstoneError as error:
            _logger.warning("run %s cannot be continued: %s", record.id, error.message)
            await self._end(record, error)

    async def _end(self, record: RunRecord, error: FlowstoneError) -> None:
        """End a run as failed that nobody can continue (`JOB-11`), with the events and the audit entry of any end."""
        services = self._session.services
        now, since = services.store.now(), 0.0
        if record.created_at is not None:
            since = max(0.0, (now - record.created_at).total_seconds())
        body: dict[str, object] = {
            "targets": list(record.targets),
            "partition": record.partition,
            "seconds": since,
            "error": error_body(error, record.partition),
        }
        events = (
            EventRecord(0, RunFailed.type, now, body),
            EventRecord(0, RunFinished.type, now, {**body, "state": "failed"}),
        )
        told = {"error": services.redactor.text(error.message)}
        audit = (AuditEntry(action="run.failed", subject=record.id, run_id=record.id, details=told),)
        failure = describe(error, partition=record.partition)
        ended = await services.store.fail(record.id, record.fence, failure, events, audit)
        if ended is not None and ended.state == "failed":
            await self._tell([event_of(record.pipeline, record.id, event) for event in events], record)

    async def _tell(self, events: list[Event], record: RunRecord) -> None:
        catalog = self._session.catalogs[record.pipeline]
        await self._session.hooks_of(catalog).emit_all(events)
