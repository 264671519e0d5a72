"""One step as rows: what an `Advance` writes, laid out as the hot statement's columns. Done before it is queued.

Every column is text, and so is NULL: a batch joins each column into one text, see queries/advance.sql.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Sequence
from itertools import pairwise

from flowstone_async.errors import StorageError
from flowstone_async.store.postgres.encoding import encode, events_text, failure_text, legible, microseconds
from flowstone_async.store.postgres.identifiers import quoted
from flowstone_async.store.postgres.ledger import DrivenRun
from flowstone_async.store.records import Advance, Advanced, AssetDone, AuditEntry, EventRecord, RunRecord
from flowstone_async.types import AssetKey, Materialization

Row = tuple[str, ...]

# Stands for NULL in a column; nobody's text by accident, for it is made anew by each process.
NULL = f"\x1e{os.urandom(6).hex()}"
_NULLS = (NULL,) * 4
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
        events: Event rows, without their place and pipeline.
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
        "payloads",
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
        gate = self.events[0][1] if self.events else "0"
        self.keys = list(_key_rows(step))
        self.materializations: list[Row] = []
        self.payloads: list[bytes | None] = []
        self.lineage: list[Row] = []
        self.tables: list[tuple[str, tuple[object, ...]]] = []
        self.weight = 0
        for done in step.done:
            if done.materialization is not None:
                self._make(done, done.materialization, gate)
        self.audit = [(run_id, gate, *_audit_row(entry)) for entry in step.audit]

    def _make(self, done: AssetDone, made: Materialization, gate: str) -> None:
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
        self.materializations.append(_materialization_row(self.step.run_id, gate, done.key, made))
        self.payloads.append(payload)
        if made.inputs:
            self.lineage += _lineage_rows(made)


def release_row(run_id: str, key: AssetKey) -> Row:
    """Return the row that lets a key go."""
    pipeline, asset, partition, io = key
    return (pipeline, asset, io, partition, "pending", run_id, NULL, "f", NULL, "0", *_NULLS)


def _claim_row(run_id: str, key: AssetKey) -> Row:
    pipeline, asset, partition, io = key
    return (pipeline, asset, io, partition, "pending", NULL, run_id, "f", NULL, "0", *_NULLS)


def _key_rows(step: Advance) -> Iterator[Row]:
    """Yield one row for each key; a key that is let go and claimed again has one row for both."""
    run_id = step.run_id
    ended = {done.key for done in step.done}
    claims = frozenset(step.claims)
    if len(ended) < len(step.done):
        raise RuntimeError(f"run {run_id} ends an asset key twice in one step")
    for done in step.done:
        yield _outcome_row(run_id, done, run_id if done.key in claims else NULL)
    for key in claims:
        if key not in ended:
            yield _claim_row(run_id, key)
    for key in dict.fromkeys(step.releases):
        if key not in ended and key not in claims:
            yield release_row(run_id, key)


def event_rows(run_id: str, events: Sequence[EventRecord]) -> Iterator[tuple[str, int, int, str]]:
    """Yield run, first number, count and text of the rows that hold events: pieces without a gap, none too long."""
    if not events:
        return
    if len(events) <= EVENTS_PER_ROW and events[-1].no - events[0].no == len(events) - 1:
        yield run_id, events[0].no, len(events), events_text(events)
        return
    breaks = [n for n, (one, other) in enumerate(pairwise(events), 1) if other.no != one.no + 1]
    for start, end in pairwise([0, *breaks, len(events)]):
        for first in range(start, end, EVENTS_PER_ROW):
            piece = events[first : min(first + EVENTS_PER_ROW, end)]
            yield run_id, piece[0].no, len(piece), events_text(piece)


def _event_rows(step: Advance) -> Iterator[tuple[str, str, int, str, str]]:
    claims = encode(step.claims) if step.claims else NULL
    for run_id, first_no, count, text in event_rows(step.run_id, step.events):
        yield run_id, str(first_no), count, text, claims
        claims = NULL
    if not step.events and (step.claims or step.done or step.audit):
        yield step.run_id, str(-_mark(step)), 0, "[]", claims


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
        str(run.fence),
        run.worker or NULL,
        run.pipeline,
        run.partition,
        encode(run.targets),
        encode(run.options),
        run.params,
        run.state if end is None else end.state,
        "t" if run.continuable else "f",
        failure_text(run.error if end is None else end.error) or NULL,
        NULL if run.created_at is None else microseconds(run.created_at),
    )


def _outcome_row(run_id: str, done: AssetDone, claims: str) -> Row:
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
        "t" if done.claimed else "f",
        NULL if made is None else made.id,
        str(done.attempts),
        NULL if done.started_at is None else microseconds(done.started_at),
        repr(done.seconds),
        failure_text(done.error) or NULL,
        NULL if done.reason is None else encode(done.reason),
    )


def _materialization_row(run_id: str, gate: str, key: AssetKey, made: Materialization) -> Row:
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
        NULL if made.version is None else "=" + made.version,
        made.code_hash,
        encode(made.inputs) if made.inputs else "[]",
        made.manager,
        made.location,
        str(made.size),
        NULL if made.checksum is None else "=" + made.checksum,
        microseconds(made.started_at),
        repr(made.seconds),
        str(made.attempts),
        made.host,
        encode(made.metadata) if made.metadata else NULL,
    )


def _lineage_rows(made: Materialization) -> Iterator[Row]:
    edges = {
        (source.key, source.materialization)
        for source in made.inputs
        if source.materialization is not None and source.key is not None
    }
    for (pipeline, asset, partition, io), upstream in edges:
        yield pipeline, asset, io, partition, made.id, upstream


def _audit_row(entry: AuditEntry) -> Row:
    return tuple(NULL if value is None else value for value in audit_row(entry))


def audit_row(entry: AuditEntry) -> tuple[str | None, ...]:
    """Return the columns of an audit entry."""
    return (
        entry.action,
        legible(entry.subject),
        legible(entry.actor),
        entry.actor_kind,
        entry.run_id,
        encode(entry.details) if entry.details else None,
    )
