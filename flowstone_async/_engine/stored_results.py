"""What came of a run, from the store alone: for processes that did not drive it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from flowstone_async._engine import stopped
from flowstone_async._engine.backfill_progress import Progress
from flowstone_async._engine.backfill_report import BackfillReport
from flowstone_async._engine.catalog import Catalog
from flowstone_async._engine.journal import event_of
from flowstone_async._engine.reading import Reader
from flowstone_async._engine.report import AssetReport, ReportState, RunReport
from flowstone_async._engine.request import BACKFILL
from flowstone_async._engine.results import skipped
from flowstone_async._engine.session import Session
from flowstone_async._engine.targets import find
from flowstone_async._engine.waits.mismatches import mismatches
from flowstone_async.definition.keys import decode_key, encode_key
from flowstone_async.errors import AssetNotFound, ConfigError, FlowstoneError
from flowstone_async.events import (
    AssetEvent,
    AssetFailed,
    AssetFinished,
    AssetRetrying,
    AssetReused,
    AssetSkipped,
    AssetStarted,
    AssetSucceeded,
    Event,
    RunFinished,
)
from flowstone_async.failures import rebuild
from flowstone_async.planning.units import partition_for
from flowstone_async.store.records import AssetState, RunRecord
from flowstone_async.types import AssetKey


async def stored_values(session: Session, record: RunRecord) -> tuple[Any, ...]:
    """Return the values of an ended run's targets, as they are current now.

    Raises:
        FlowstoneError: The run failed or was cancelled, or a target was skipped in it.
    """
    if record.state == "cancelled":
        raise stopped.cancelled(record.id)
    if BACKFILL in record.options:
        return (await _backfill(session, record),)
    partition = decode_key(record.partition)
    if record.error is not None:
        raise rebuild(record.error, partition=partition)
    reader, io = Reader(session), str(record.options.get("io") or "") or None
    catalog = _catalog(session, record)
    keys = _targets(catalog, record)
    states = await session.store.states(keys)
    for key in keys:
        state = states.get(key)
        if state is not None and state.state == "skipped" and state.run_id == record.id:
            raise skipped(key.asset, decode_key(key.partition), state.reason or "", record.id)
    return tuple([await reader.get(f"{key.pipeline}.{key.asset}", partition, io) for key in keys])


async def _backfill(session: Session, record: RunRecord) -> BackfillReport:
    """Return the report of an ended backfill; what kept it from being carried out at all is raised."""
    report = (await Progress.read(session, record)).report
    if record.error is not None and not report.failed and not report.not_started:
        raise rebuild(record.error)
    return report


def _catalog(session: Session, record: RunRecord) -> Catalog:
    catalog = session.catalogs.get(record.pipeline)
    if catalog is None:
        raise AssetNotFound(
            f"run {record.id} is of pipeline {record.pipeline!r}, which this engine does not have",
            run_id=record.id,
            hint="Its values can be read by an engine that has the pipeline.",
        )
    return catalog


def _targets(catalog: Catalog, record: RunRecord) -> list[AssetKey]:
    io, found = str(record.options.get("io") or ""), list[AssetKey]()
    for name in record.targets:
        key: Any = partition_for(catalog.node(name), decode_key(record.partition))
        found.append(AssetKey(record.pipeline, name, encode_key(key), io))
    return found


@dataclass(slots=True, kw_only=True)
class _Entry:
    """What a run's events have told of one asset and partition."""

    asset: str
    partition: Any
    state: ReportState = "cancelled"
    seconds: float = 0.0
    attempts: int = 0
    error: FlowstoneError | None = None
    earlier: list[FlowstoneError] = field(default_factory=list[FlowstoneError])
    reason: str | None = None
    materialization: str | None = None

    def hear(self, event: Event) -> None:
        match event:
            case AssetSucceeded():
                self.state, self.seconds, self.attempts = "ok", event.seconds, event.attempts
                self.materialization = event.materialization
            case AssetFailed():
                self.state = "blocked" if event.blocked else "failed"
                self.seconds, self.attempts, self.error = event.seconds, event.attempts, event.error
            case AssetReused():
                self.state, self.materialization = "cached", event.materialization
            case AssetSkipped():
                self.state, self.reason = "skipped", event.reason
            case AssetFinished(outcome="cancelled"):
                self.seconds, self.attempts = event.seconds, event.attempts
            case AssetRetrying():
                self.attempts = event.attempt
                self.earlier += [] if event.error is None else [event.error]
            case AssetStarted():
                self.attempts = max(self.attempts, 1)
            case _:
                pass


async def stored_report(session: Session, record: RunRecord) -> RunReport:
    """Return what came of a run that has ended, or is suspended, asset by asset; values are those that the run
    committed, as far as they are current still.
    """
    if BACKFILL in record.options:
        raise ConfigError(
            f"run {record.id} is a backfill, whose partitions are runs of their own",
            run_id=record.id,
            hint="Use result(): it returns the report of the backfill.",
        )
    catalog = _catalog(session, record)
    entries: dict[tuple[str, str], _Entry] = {}
    seconds, last = 0.0, 0
    while page := await session.store.events(record.id, after=last):
        for stored in page:
            last = stored.no
            event = event_of(record.pipeline, record.id, stored)
            if isinstance(event, AssetEvent):
                key: Any = event.partition
                name = (event.asset, encode_key(key))
                entries.setdefault(name, _Entry(asset=event.asset, partition=event.partition)).hear(event)
            elif isinstance(event, RunFinished):
                seconds = event.seconds
    if record.state == "waiting":
        changed = mismatches(await session.store.gates.of_run(record.id))
        for name, entry in entries.items():
            if entry.state == "cancelled":
                entry.state, entry.error = "waiting", changed.get(name)
    states = await _states(session, record, entries)
    reports = {name: await _report(session, catalog, entry, states.get(name)) for name, entry in entries.items()}
    reached = [reports.get((key.asset, key.partition)) for key in _targets(catalog, record)]
    values = tuple(None if each is None else each.value for each in reached)
    failed = [each for each in reports.values() if each.state == "failed"]
    ok = record.state == "succeeded" and all(each is not None and each.error is None for each in reached)
    return RunReport(
        run_id=record.id,
        ok=ok,
        state=record.state,
        seconds=seconds,
        value=values[0] if len(values) == 1 else values or None,
        failed=tuple(dict.fromkeys(each.asset for each in failed)),
        tolerated=tuple(dict.fromkeys(each.asset for each in failed)) if ok else (),
        error=_error(record, failed or [each for each in reports.values() if each.error is not None], ok=ok),
        entries=tuple(reports.values()),
        resolve=lambda asset: find({record.pipeline: catalog}, asset)[1],
    )


def _error(record: RunRecord, failed: list[AssetReport[Any]], *, ok: bool) -> FlowstoneError | None:
    if failed:
        return failed[0].error
    if record.state == "cancelled":
        return stopped.cancelled(record.id)
    return None if ok or record.error is None else rebuild(record.error, partition=decode_key(record.partition))


async def _states(
    session: Session, record: RunRecord, entries: dict[tuple[str, str], _Entry]
) -> dict[tuple[str, str], AssetState]:
    io = str(record.options.get("io") or "")
    keys = [AssetKey(record.pipeline, *name, io) for name, entry in entries.items() if entry.materialization]
    found = await session.store.states(keys)
    return {(key.asset, key.partition): state for key, state in found.items()}


async def _report(session: Session, catalog: Catalog, entry: _Entry, state: AssetState | None) -> AssetReport[Any]:
    value, shown, error = None, entry.state, entry.error
    current = None if state is None else state.current
    if current is not None and current.id == entry.materialization and entry.asset in catalog.graph.nodes:
        runnable = catalog.runnable(catalog.node(entry.asset))
        manager = runnable.manager_for(catalog.managers.find(current.key.io) if current.key.io else None)
        try:
            value = await Reader(session).load(runnable, entry.partition, current, manager)
        except FlowstoneError as unreadable:
            shown, error = "failed", unreadable
    return AssetReport(
        asset=entry.asset,
        partition=entry.partition,
        state=shown,
        seconds=entry.seconds,
        attempts=entry.attempts,
        error=error,
        earlier=tuple(entry.earlier),
        reason=entry.reason,
        value=value,
    )
