"""One step as rows: what an `Advance` writes, laid out as the hot statement's columns. Done before it is queued."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Sequence
from itertools import pairwise

from flowstone_async.errors import StorageError
from flowstone_async.store.postgres.encoding import encode, failure_text, legible
from flowstone_async.store.postgres.identifiers import quoted
from flowstone_async.store.postgres.ledger import DrivenRun
from flowstone_async.store.records import Advance, Advanced, AssetDone, AuditEntry, EventRecord, RunRecord
from flowstone_async.types import AssetKey, Materialization

Row = tuple[object, ...]

# Events in one row: bounds what a reader has to look back for.
EVENTS_PER_ROW = 1000
# Postgres takes a message of 1 GB; a value of a quarter of that is better streamed.
LARGEST_PAYLOAD = 256 << 20


class PendingStep:
    """A step that waits for its commit.

    Attributes:
        step: What is to be committed.
        driven: What is known of its run.
        answer: What its caller awaits.
        keys: Rows of asset keys: claims, outcomes and releases.
        events: Event rows.
        begun: The run's row, if the step creates it.
        tables: Rows for tables of the users' own: the table as SQL, then what `upsert` takes.
        weight: Bytes of the parts that may be large.
        earlier: What an earlier flush has answered already, if only claims were left over.
    """

    __slots__ = (
        "answer",
        "audit",
        "begun",
        "driven",
        "earlier",
        "events",
        "keys",
        "lineage",
        "materializations",
        "step",
        "tables",
        "weight",
    )

    def __init__(self, step: Advance, driven: DrivenRun, answer: asyncio.Future[Advanced]) -> None:
        run_id = step.run_id
        self.step = step
        self.driven = driven
        self.answer = answer
        self.earlier: Advanced | None = None
        self.begun = None if step.create is None else _run_row(step.create, step)
        self.events = list(_event_rows(step))
        gate = self.events[0][1] if self.events else 0
        self.keys = list(_key_rows(step))
        self.materializations: list[Row] = []
        self.lineage: list[Row] = []
        self.tables: list[tuple[str, Row]] = []
        self.weight = 0
        for done in step.done:
            if done.materialization is not None:
                self._make(done, done.materialization, gate)
        self.audit = [(run_id, gate, *audit_row(entry)) for entry in step.audit] if step.audit else ()

    def _make(self, done: AssetDone, made: Materialization, gate: object) -> None:
        payload = done.payload
        if payload is not None:
            self.weight += len(payload)
            if len(payload) > LARGEST_PAYLOAD:
                raise StorageError(
                    f"the value of {done.key} is {len(payload):,} bytes; at most {LARGEST_PAYLOAD:,} fit into one record",
                    asset=done.key.asset,
                    run_id=self.step.run_id,
                    hint="Make it a stream, or keep it with io.Files or io.S3.",
                )
        if done.table is not None:
            self.tables.append((quoted(done.table), (*done.key, made.id, payload or b"")))
            payload = None
        self.materializations.append(_materialization_row(self.step.run_id, gate, done.key, made, payload))
        self.lineage += _lineage_rows(made)


def release_row(run_id: str, key: AssetKey) -> Row:
    """Return the row that lets a key go."""
    pipeline, asset, partition, io = key
    return (pipeline, asset, io, partition, "pending", run_id, None, False, None, 0, None, None, None, None)


def _claim_row(run_id: str, key: AssetKey) -> Row:
    pipeline, asset, partition, io = key
    return (pipeline, asset, io, partition, "pending", None, run_id, False, None, 0, None, None, None, None)


def _key_rows(step: Advance) -> Iterator[Row]:
    """Yield one row for each key; a key that is let go and claimed again has one row for both."""
    run_id = step.run_id
    ended = {done.key for done in step.done}
    if len(ended) < len(step.done):
        raise RuntimeError(f"run {run_id} ends an asset key twice in one step")
    again = ended.intersection(step.claims)
    for done in step.done:
        yield _outcome_row(run_id, done, run_id if done.key in again else None)
    for key in dict.fromkeys(step.claims):
        if key not in again:
            yield _claim_row(run_id, key)
    for key in dict.fromkeys(step.releases):
        if key not in ended and key not in step.claims:
            yield release_row(run_id, key)


def audit_row(entry: AuditEntry) -> Row:
    """Return the columns of an audit entry."""
    return (
        entry.action,
        legible(entry.subject),
        legible(entry.actor),
        entry.actor_kind,
        entry.run_id,
        encode(entry.details) if entry.details else None,
    )


def event_rows(run_id: str, events: Sequence[EventRecord]) -> Iterator[tuple[str, int, int, str]]:
    """Yield run, first number, count and text of the rows that hold events: pieces without a gap, none too long."""
    if not events:
        return
    if len(events) <= EVENTS_PER_ROW and events[-1].no - events[0].no == len(events) - 1:
        yield run_id, events[0].no, len(events), encode(events)
        return
    breaks = [n for n, (one, other) in enumerate(pairwise(events), 1) if other.no != one.no + 1]
    for start, end in pairwise([0, *breaks, len(events)]):
        for first in range(start, end, EVENTS_PER_ROW):
            piece = events[first : min(first + EVENTS_PER_ROW, end)]
            yield run_id, piece[0].no, len(piece), encode(piece)


def _event_rows(step: Advance) -> Iterator[Row]:
    claims = encode(step.claims) if step.claims else None
    for row in event_rows(step.run_id, step.events):
        yield (*row, claims)
        claims = None
    if not step.events and (step.claims or step.done or step.audit):
        yield step.run_id, -_mark(step), 0, "[]", claims


def _mark(step: Advance) -> int:
    """Return what tells a step without events from the others of its run, the same again when it is repeated."""
    for done in step.done:
        if done.materialization is not None:
            return int(done.materialization.id.replace("-", "")[-15:], 16) + 1
    return int.from_bytes(os.urandom(7)) + 1


def _run_row(run: RunRecord, step: Advance) -> Row:
    end = step.finish
    return (
        run.id,
        run.fence,
        run.worker,
        run.pipeline,
        run.partition,
        encode(run.targets),
        encode(run.options),
        run.params,
        run.state if end is None else end.state,
        run.continuable,
        failure_text(run.error if end is None else end.error),
        run.created_at,
    )


def _outcome_row(run_id: str, done: AssetDone, claims: str | None) -> Row:
    pipeline, asset, partition, io = done.key
    made = done.materialization
    return (
        pipeline,
        asset,
        io,
        partition,
        done.outcome,
        run_id,
        claims,
        done.claimed,
        None if made is None else made.id,
        done.attempts,
        done.started_at,
        done.seconds,
        failure_text(done.error),
        None if done.reason is None else encode(done.reason),
    )


def _materialization_row(run_id: str, gate: object, key: AssetKey, made: Materialization, payload: bytes | None) -> Row:
    pipeline, asset, partition, io = key
    return (
        made.id,
        gate,
        pipeline,
        asset,
        io,
        partition,
        run_id,
        made.fingerprint,
        made.version,
        made.code_hash,
        encode(made.inputs),
        made.manager,
        made.location,
        made.size,
        made.checksum,
        made.started_at,
        made.seconds,
        made.attempts,
        made.host,
        encode(made.metadata) if made.metadata else None,
        payload,
    )


def _lineage_rows(made: Materialization) -> Iterator[Row]:
    edges = {
        (source.key, source.materialization)
        for source in made.inputs
        if source.materialization is not None and source.key is not None
    }
    for (pipeline, asset, partition, io), upstream in edges:
        yield pipeline, asset, io, partition, made.id, upstream
