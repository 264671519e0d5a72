"""What has come of a submitted backfill, from the store."""

from __future__ import annotations

from flowstone_async._engine.backfill import BackfillReport
from flowstone_async._engine.backfill_progress import Progress
from flowstone_async._engine.session import Session
from flowstone_async.store.records import RunRecord


async def stored_backfill(session: Session, record: RunRecord) -> BackfillReport:
    """Return what has come of a backfill so far."""
    return (await Progress.read(session, record)).report
