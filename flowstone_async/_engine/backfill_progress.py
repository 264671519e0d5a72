"""What has come of a submitted backfill so far, told by its events."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from flowstone_async._engine.backfill_report import BackfillReport, Outcome
from flowstone_async._engine.journal import failure_of
from flowstone_async._engine.session import Session
from flowstone_async.definition.keys import decode_key
from flowstone_async.errors import FlowstoneError
from flowstone_async.events import BackfillProgress, RunStarted
from flowstone_async.failures import rebuild
from flowstone_async.store.records import RunRecord
from flowstone_async.types import AssetKey


@dataclass(slots=True)
class Progress:
    """What has come of a backfill so far, from its events."""

    report: BackfillReport = field(default_factory=BackfillReport)
    ended: set[str] = field(default_factory=set[str])
    last_event: int = 0
    started: bool = False

    @staticmethod
    async def read(session: Session, record: RunRecord) -> Progress:
        """Read a backfill's events, page by page."""
        found = Progress(report=BackfillReport(_session=session))
        while page := await session.store.events(record.id, after=found.last_event):
            for event in page:
                found.last_event = event.no
                found.started |= event.type == RunStarted.type
                if event.type == BackfillProgress.type:
                    found.add(record, cast("Mapping[str, Any]", event.body))
        return found

    def add(self, record: RunRecord, body: Mapping[str, Any]) -> None:
        """Take one event into account."""
        self.report.not_started += int(body.get("not_started", 0))
        for key, outcome, failure in body.get("outcomes", ()):
            self.ended.add(key)
            partition = decode_key(key)
            error = None if failure is None else rebuild(failure_of(failure), partition=partition)
            count(self.report, record, key, outcome, error)


def count(report: BackfillReport, record: RunRecord, key: str, outcome: Outcome, error: FlowstoneError | None) -> None:
    """Count a partition that has ended."""
    match outcome:
        case "succeeded":
            report.succeeded += 1
        case "skipped":
            report.skipped += 1
        case "failed":
            unknown = FlowstoneError("its failure is not on record", asset=record.targets[0])
            report.add_failure(decode_key(key), error or unknown, AssetKey(record.pipeline, record.targets[0], key))
