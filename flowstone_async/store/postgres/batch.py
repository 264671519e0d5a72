"""Steps that share one call of the hot statement: which of them can, their columns, and what the reply says of each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from asyncpg import Record

from flowstone_async.errors import StorageError
from flowstone_async.store.postgres.encoding import failure_text
from flowstone_async.store.postgres.step import NULL, PendingStep, Row, release_row
from flowstone_async.store.records import Claimed
from flowstone_async.types import AssetKey

Name = tuple[str, ...]

MOST_STEPS = 500
MOST_KEYS = 5_000
MOST_BYTES = 8 << 20

# What no text holds, as a rule: the first that indeed none holds separates the values of a column.
_SEPARATORS = ("\x1f", "\x1d", "\x1c", "\x02", "\x01", "\ue000", "\uf8ff")
_PAYLOAD = 60
_KEY_WIDTH = 14
_SLOT = 4
_RUN = 5
_CLAIM = 6
_CONTENDED = 7
_CURRENT = 8


class KeyAnswer(NamedTuple):
    """What the statement says of one claimed key."""

    holder: str
    current: str | None
    lost: int


class Reply(NamedTuple):
    """What the statement says of a batch.

    Attributes:
        refused: Runs whose token is old; nothing of their steps was written.
        watched: Runs that another process waits for.
        claims: Answers by name of the key.
        replaced: Materializations that are current no more, by name of the key.
        released: Keys let go that another run had asked for.
    """

    at: datetime
    refused: frozenset[str]
    watched: Sequence[str]
    claims: Mapping[Name, KeyAnswer]
    replaced: Mapping[Name, str]
    released: Sequence[AssetKey]


class Batch:
    """Steps of different runs, or several of one run that goes on; no key of an asset twice.

    Two runs that claim one key share its row: the first asks, and the answer holds for both. Steps that write to tables
    of the users' own, by name of the table with their runs, share no batch with others: theirs takes more statements.
    """

    __slots__ = ("_begun", "_ended", "_held", "_roles", "_rows", "_shared", "_sorted", "_weight", "pending", "tables")

    def __init__(self) -> None:
        self.pending: list[PendingStep] = []
        self._roles: dict[str, tuple[bool, int]] = {}
        self._held: list[Row] = []
        self._ended: list[Row] = []
        self._begun: list[Row] = []
        self._rows: dict[Name, Row] = {}
        self._shared: set[Name] = set()
        self._sorted: list[Row] = []
        self._weight = 0
        self.tables: dict[str, list[tuple[str, tuple[object, ...]]]] = {}

    @property
    def is_full(self) -> bool:
        """Whether no further step should be added."""
        return len(self.pending) >= MOST_STEPS or len(self._rows) >= MOST_KEYS or self._weight >= MOST_BYTES

    def add(self, pending: PendingStep) -> bool:
        """Add a step; returns False, and does nothing, if it must wait for the next batch."""
        step = pending.step
        goes_on = step.create is None and step.finish is None
        if self.pending and bool(pending.tables) != bool(self.tables):
            return False
        role = self._roles.get(step.run_id)
        if role is not None and not (goes_on and role == (True, step.fence)):
            return False
        rows = pending.keys if step.finish is None else [*pending.keys, *_leftovers(pending)]
        known = self._rows
        shared: list[Name] = []
        for row in rows:
            name = row[:4]
            other = known.get(name)
            if other is not None:
                if row[_RUN] is not NULL or other[_RUN] is not NULL:
                    return False
                if row[_CLAIM] != other[_CLAIM]:
                    shared.append(name)
        for row in rows:
            known.setdefault(row[:4], row)
        self._shared.update(shared)
        if role is None:
            self._enter(pending, goes_on)
        for table, row in pending.tables:
            self.tables.setdefault(table, []).append((step.run_id, row))
        self._weight += pending.weight
        self.pending.append(pending)
        return True

    def _enter(self, pending: PendingStep, goes_on: bool) -> None:  # noqa: FBT001
        step = pending.step
        self._roles[step.run_id] = (goes_on, step.fence)
        if pending.begun is not None:
            self._begun.append(pending.begun)
        elif step.finish is not None:
            end = step.finish
            self._ended.append((step.run_id, str(step.fence), end.state, failure_text(end.error) or NULL))
        else:
            self._held.append((step.run_id, str(step.fence)))

    def arguments(self, now: datetime | None) -> list[object]:
        """Return the statement's arguments."""
        self._sorted = sorted(self._rows.values())
        for separator in _SEPARATORS:
            columns = self._columns(separator)
            if columns is not None:
                workers = list({one.driven.worker for one in self.pending})
                payloads = [payload for one in self.pending for payload in one.payloads]
                columns.insert(_PAYLOAD, payloads)
                return [now, workers, separator, NULL, *columns]
        raise StorageError("a step's texts hold every control character there is")

    def _columns(self, separator: str) -> list[object] | None:
        """Return all columns, each as one text; None if one of them has the separator in it."""
        pending = self.pending
        keys = _transposed(self._sorted, _KEY_WIDTH)
        if self._shared:
            keys[_CONTENDED] = ["t" if row[:4] in self._shared else row[_CONTENDED] for row in self._sorted]
        keys.insert(_SLOT, list(map(str, range(len(self._sorted)))))
        groups = (
            _transposed(self._held, 2),
            _transposed(self._ended, 4),
            _transposed(self._begun, 12),
            keys,
            _transposed(self._event_rows(), 7),
            _transposed([row for one in pending for row in one.materializations], 20),
            _transposed([row for one in pending for row in one.lineage], 6),
            _transposed([row for one in pending for row in one.audit], 8),
        )
        joined: list[object] = []
        for columns in groups:
            breaks = len(columns[0]) - 1
            for column in columns:
                text = separator.join(column)
                if text and text.count(separator) != breaks:
                    return None
                joined.append(text)
        return joined

    def _event_rows(self) -> list[Row]:
        rows: list[Row] = []
        place = 0
        for one in self.pending:
            pipeline = one.driven.pipeline
            for run_id, first_no, count, body, claims in one.events:
                rows.append((run_id, first_no, str(count), str(place), pipeline, body, claims))
                place += count + 1
        return rows

    def read(self, record: Record) -> Reply:
        """Return what the statement answered."""
        claims: dict[Name, KeyAnswer] = {}
        replaced: dict[Name, str] = {}
        released: list[AssetKey] = []
        for slot, holder, current, lost, contended, previous in zip(*(record[n] or () for n in range(3, 9)), strict=True):
            row = self._sorted[slot]
            name = row[:4]
            if row[_CLAIM] is not NULL:
                claims[name] = KeyAnswer(str(holder), None if current is None else str(current), lost)
            if row[_RUN] is NULL:
                continue
            if contended and holder is None:
                released.append(_key(row))
            if previous is not None and row[_CURRENT] == str(current):
                replaced[name] = str(previous)
        refused = frozenset(map(str, record[1] or ()))
        return Reply(record[0], refused, [str(one) for one in record[2] or ()], claims, replaced, released)


def claimed(step_claims: Iterable[AssetKey], run_id: str, reply: Reply) -> dict[AssetKey, Claimed]:
    """Return the answers to a step's claims; those are missing whose row another run shared that was refused."""
    answers: dict[AssetKey, Claimed] = {}
    for key in step_claims:
        found = reply.claims.get((key[0], key[1], key[3], key[2]))
        if found is not None:
            answers[key] = Claimed(found.holder == run_id, *found)
    return answers


def _leftovers(pending: PendingStep) -> list[Row]:
    """Return rows that release what a run holds that ends."""
    held = pending.driven.held
    if not held:
        return []
    step = pending.step
    left = held.difference((done.key for done in step.done), step.releases)
    return [release_row(step.run_id, key) for key in left]


def _transposed(rows: Sequence[Row], width: int) -> list[Sequence[str]]:
    return list(zip(*rows, strict=True)) if rows else [()] * width


def _key(row: Row) -> AssetKey:
    pipeline, asset, io, partition = row[:4]
    return AssetKey(pipeline, asset, partition, io)
