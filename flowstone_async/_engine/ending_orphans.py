"""Ending runs that nobody can continue, with the events and the audit entry of any end."""

from __future__ import annotations

from flowstone_async._engine.journal import error_body, event_of
from flowstone_async._engine.resume import Past
from flowstone_async._engine.session import Session
from flowstone_async.definition.keys import decode_key
from flowstone_async.errors import FlowstoneError, PartitionError
from flowstone_async.events import RunFailed, RunFinished
from flowstone_async.failures import describe
from flowstone_async.store.records import AuditEntry, EventRecord, RunRecord


async def end_run(session: Session, record: RunRecord, error: FlowstoneError) -> None:
    """End a run of ours as failed that nobody can continue (`JOB-11`).

    Args:
        session: Whose worker owns the run.
        record: The run.
        error: Why.
    """
    services = session.services
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
        *(await Past.read(services.store, record)).told.cancelled(now),
        EventRecord(0, RunFailed.type, now, body),
        EventRecord(0, RunFinished.type, now, {**body, "state": "failed"}),
    )
    told = {"error": services.redactor.text(error.message)}
    audit = (AuditEntry(action="run.failed", subject=record.id, run_id=record.id, details=told),)
    failure = describe(error, partition=record.partition)
    ended = await services.store.fail(record.id, record.fence, failure, events, audit)
    if ended is not None and ended.state == "failed" and _is_key(record.partition):
        told_of = [event_of(record.pipeline, record.id, event) for event in events]
        await session.hooks_of(session.catalogs[record.pipeline]).emit_all(told_of)


def _is_key(encoded: str) -> bool:
    try:
        decode_key(encoded)
    except PartitionError:
        return False
    return True
