"""Rows as records."""

from __future__ import annotations

from typing import cast

from asyncpg import Record

from flowstone_async.errors import Failure
from flowstone_async.store.postgres.encoding import decode, failure, inputs, mapping
from flowstone_async.store.records import AssetState, AuditEntry, RunRecord
from flowstone_async.types import AssetKey, Materialization


def run_record(row: Record) -> RunRecord:
    """Return the run of a row of the `run*` queries; one that cannot be read says why."""
    targets: tuple[str, ...] = ()
    options: dict[str, object] = {}
    error: Failure | None = None
    unreadable: str | None = None
    try:
        targets, options, error = _targets(row["targets"]), _options(row["options"]), failure(row["error"])
    except (ValueError, TypeError) as damage:
        unreadable = str(damage)
    return RunRecord(
        id=str(row["id"]),
        pipeline=row["pipeline"],
        targets=targets,
        partition=row["partition"],
        options=options,
        params=row["params"],
        state=row["state"],
        worker=row["worker"],
        fence=row["fence"],
        continuable=row["continuable"],
        lost=row["lost"],
        created_at=row["created_at"],
        finished_at=row["finished_at"],
        error=error,
        submitted=row["submitted"],
        priority=row["priority"],
        at=row["at"],
        unreadable=unreadable,
    )


def _targets(text: str) -> tuple[str, ...]:
    found = tuple(decode(text))
    if not all(isinstance(target, str) for target in found):
        raise ValueError("its targets are no names")
    return found


def _options(text: str) -> dict[str, object]:
    found = decode(text)
    if not isinstance(found, dict):
        raise TypeError("its options are no mapping")
    return cast("dict[str, object]", found)


def materialization(row: Record) -> Materialization:
    """Return the materialization whose columns a row begins with, in the order of the queries."""
    return Materialization(
        id=str(row[0]),
        key=AssetKey(row[1], row[2], row[3], row[4]),
        run_id=str(row[5]),
        fingerprint=row[6],
        version=row[7],
        code_hash=row[8],
        inputs=inputs(row[9]),
        manager=row[10],
        location=row[11],
        size=row[12],
        checksum=row[13],
        started_at=row[14],
        committed_at=row[15],
        seconds=row[16],
        attempts=row[17],
        host=row[18],
        metadata=mapping(row[19]),
    )


def asset_state(row: Record) -> AssetState:
    """Return the state of a key: its materialization's columns, then its own, in the order of the queries."""
    key = AssetKey(row[20], row[21], row[22], row[23])
    current = None if row[0] is None else materialization(row)
    holder = row[26]
    if holder is not None:
        run_id = str(holder)
        return AssetState(
            key=key, current=current, state="running", run_id=run_id, claimed_by=run_id, started_at=row[27]
        )
    return AssetState(
        key=key,
        current=current,
        state=row[24],
        run_id=None if row[25] is None else str(row[25]),
        started_at=row[28],
        completed_at=row[29],
        seconds=row[30],
        attempts=row[31],
        error=failure(row[32]),
        reason=None if row[33] is None else decode(row[33]),
    )


def audit_entry(row: Record) -> AuditEntry:
    """Return the entry of a row of `audit`."""
    return AuditEntry(
        action=row["action"],
        subject=row["subject"],
        actor=row["actor"],
        actor_kind=row["actor_kind"],
        run_id=None if row["run_id"] is None else str(row["run_id"]),
        details=mapping(row["details"]),
    )
