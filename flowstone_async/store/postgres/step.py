"""One step as rows: what an `Advance` writes, laid out as the hot statement's columns. Done before it is queued.

Every column is text, and so is NULL: a batch joins each column into one text, see queries/advance.sql.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from flowstone_async.errors import StorageError
from flowstone_async.store.postgres.encoding import encode, events_text, failure_text, legible, microseconds
from flowstone_async.store.postgres.identifiers import quoted
from flowstone_async.store.postgres.ledger import DrivenRun
from flowstone_async.store.records import Advance, Advanced, AssetDone, AuditEntry, EventRecord, RunRecord
from flowstone_async.types import AssetKey, Materialization

Row = tuple[str, ...]


class KeyRow(NamedTuple):
    """What a step does with a key, and the key's new columns.

    Attributes:
        does: See queries/advance.sql.
        columns: State and the rest.
    """

    name: Row
    does: str
    columns: Row

    @property
    def made(self) -> str:
        """The materialization that becomes current, or NULL."""
        return self.columns[1]


# Stands for NULL in a column. No column that may be NULL holds people's own text as it is.
NULL = "\x1e"
_UNTOUCHED = ("pending", NULL, "0", NULL, NULL, NULL, NULL)
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
        events: Event rows: first number, count, text, claims. The first stands for the step.
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
        self.step = step
        self.driven = driven
        self.answer = answer
        self.earlier: Advanced | None = None
        self.begun = None if step.create is None else _run_row(step.create)
        self.events = list(_event_rows(step))
        self.keys = list(_key_rows(step))
        self.materializations: list[Row] = []
        self.payloads: list[bytes | None] = []
        self.lineage: list[Row] = []
        self.tables: list[tuple[str, tuple[object, ...]]] = []
        self.weight = 0
        for done in step.done:
            if done.materialization is not None:
                self._make(done, done.materialization)
        self.audit = [_audit_row(entry) for entry in step.audit]

    def _make(self, done: AssetDone, made: Materialization) -> None:
        payload = done.payload
        if payload is not None:
            self.weight += len(payload)
            if len(payload) > LARGEST_PAYLOAD:
                raise StorageError(
                    f"the value of {done.key} has {len(payload):,} bytes; a record takes {LARGEST_PAYLOAD:,} at most",
                    asset=done.key.asset,
                    run_id=self.step.run_id,
                    hint="Make it a stream, or keep it with io.Files or io.S3.",
                )
        if done.table is not None:
            self.tables.append((quoted(done.table), (*done.key, made.id, payload or b"")))
            payload = None
        self.materializations.append(_materialization_row(done.key, made))
        self.payloads.append(payload)
        if made.inputs:
            self.lineage += _lineage_rows(made)


def key_row(key: AssetKey, does: str) -> KeyRow:
    """Return the row of a key that is claimed or let go without an outcome."""
    return KeyRow(key_name(key), does, _UNTOUCHED)


def key_name(key: AssetKey) -> Row:
    """Return a key's names in the order of the primary key, in which keys are sorted and locked."""
    pipeline, asset, partition, io = key
    return pipeline, asset, io, partition


def _key_rows(step: Advance) -> Iterator[KeyRow]:
    """Yield one row for each key; a key that is let go and claimed again has one row for both."""
    ended = {done.key for done in step.done}
    claims = frozenset(step.claims)
    if len(ended) < len(step.done):
        raise RuntimeError(f"run {step.run_id} ends an asset key twice in one step")
    for done in step.done:
        does = "o" if done.claimed else "u"
        yield _outcome_row(done, does.upper() if done.key in claims else does)
    for key in claims:
        if key not in ended:
            yield key_row(key, "R" if key in step.releases else "c")
    for key in frozenset(step.releases):
        if key not in ended and key not in claims:
            yield key_row(key, "r")


def event_rows(events: Sequence[EventRecord]) -> Iterator[tuple[int, int, str]]:
    """Yield first number, count and text of the rows that hold events: pieces without a gap, none too long."""
    if not events:
        return
    if len(events) <= EVENTS_PER_ROW and events[-1].no - events[0].no == len(events) - 1:
        yield events[0].no, len(events), events_text(events)
        return
    breaks = [n for n, (one, other) in enumerate(pairwise(events), 1) if other.no != one.no + 1]
    for start, end in pairwise([0, *breaks, len(events)]):
        for first in range(start, end, EVENTS_PER_ROW):
            piece = events[first : min(first + EVENTS_PER_ROW, end)]
            yield piece[0].no, len(piece), events_text(piece)


def _event_rows(step: Advance) -> Iterator[tuple[int, int, str, str]]:
    claims = encode(step.claims) if step.claims else NULL
    for first_no, count, text in event_rows(step.events):
        yield first_no, count, text, claims
        claims = NULL
    if not step.events and (step.claims or step.done or step.audit):
        yield -_mark(step), 0, "[]", claims


def _mark(step: Advance) -> int:
    """Return what tells a step without events from the others of its run, the same again when it is repeated."""
    for done in step.done:
        if done.materialization is not None:
            return int(done.materialization.id.replace("-", "")[-15:], 16) + 1
    return int.from_bytes(os.urandom(7)) + 1


def _run_row(run: RunRecord) -> Row:
    return (
        run.worker or NULL,
        run.pipeline,
        run.partition,
        encode(run.targets),
        encode(run.options),
        run.params,
        "t" if run.continuable else "f",
        NULL if run.created_at is None else microseconds(run.created_at),
        run.request or NULL,
    )


def _outcome_row(done: AssetDone, does: str) -> KeyRow:
    columns = (
        done.outcome,
        NULL if done.materialization is None else done.materialization.id,
        str(done.attempts),
        NULL if done.started_at is None else microseconds(done.started_at),
        repr(done.seconds),
        failure_text(done.error) or NULL,
        NULL if done.reason is None else encode(done.reason),
    )
    return KeyRow(key_name(done.key), does, columns)


def _materialization_row(key: AssetKey, made: Materialization) -> Row:
    pipeline, asset, partition, io = key
    return (
        made.id,
        pipeline,
        asset,
        io,
        partition,
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
        yield made.id, pipeline, asset, io, partition, upstream


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
