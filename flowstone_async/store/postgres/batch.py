"""Steps that share one call of the hot statement: which of them can, their columns, and what the reply says of each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from asyncpg import Record

from flowstone_async.errors import StorageError
from flowstone_async.store.postgres.encoding import failure_text
from flowstone_async.store.postgres.step import NULL, KeyRow, PendingStep, Row, key_name, key_row
from flowstone_async.store.records import Claimed
from flowstone_async.types import AssetKey

MOST_STEPS = 500
MOST_KEYS = 5_000
MOST_BYTES = 8 << 20

# What no text holds, as a rule: the first that indeed none holds separates the values of a column.
_SEPARATORS = ("\x1f", "\x1d", "\x1c", "\x02", "\x01", "\ue000", "\uf8ff")
# Payloads are bytes, and go as an array among the texts, at this place.
_PAYLOADS = 53
_CLAIMS = frozenset("cCROU")
_CLAIM_ONLY = frozenset("cC")


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
    claims: Mapping[Row, KeyAnswer]
    replaced: Mapping[Row, str]
    released: Sequence[AssetKey]


class _Entry(NamedTuple):
    """A key of the batch: what is done with it, by which run of the batch, and which materialization is its first."""

    row: KeyRow
    run: str
    made: int


class Batch:
    """Steps of different runs, or several of one run that goes on; no key of an asset twice.

    Two runs that claim one key share its row: the first asks, and the answer holds for both. Steps that write to tables
    of the users' own, by name of the table with their runs, share no batch with others: theirs takes more statements.
    """

    __slots__ = ("_keys", "_made", "_numbers", "_runs", "_shared", "_sorted", "_weight", "pending", "tables")

    def __init__(self) -> None:
        self.pending: list[PendingStep] = []
        self.tables: dict[str, list[tuple[str, tuple[object, ...]]]] = {}
        self._runs: dict[str, Row] = {}
        self._numbers: list[str] = []
        self._keys: dict[Row, _Entry] = {}
        self._shared: set[Row] = set()
        self._sorted: list[_Entry] = []
        self._made = 0
        self._weight = 0

    @property
    def is_full(self) -> bool:
        """Whether no further step should be added."""
        return len(self.pending) >= MOST_STEPS or len(self._keys) >= MOST_KEYS or self._weight >= MOST_BYTES

    def add(self, pending: PendingStep) -> bool:
        """Add a step; returns False, and does nothing, if it must wait for the next batch."""
        if self.pending and bool(pending.tables) != bool(self.tables):
            return False
        run_id = pending.step.run_id
        run, known = _run(pending), self._runs.get(run_id)
        if known is not None and (known != run or run[2] != "go"):
            return False
        rows = pending.keys if pending.step.finish is None else [*pending.keys, *_leftovers(pending)]
        if not self._enter_keys(rows, run_id):
            return False
        self._runs[run_id] = run
        for table, row in pending.tables:
            self.tables.setdefault(table, []).append((run_id, row))
        self._made += len(pending.materializations)
        self._weight += pending.weight
        self.pending.append(pending)
        return True

    def _enter_keys(self, rows: Sequence[KeyRow], run_id: str) -> bool:
        """Add a step's keys, unless one of them is in the batch already and cannot be shared."""
        keys = self._keys
        number = str(len(self._runs) + 1)
        if run_id in self._runs:
            number = str(list(self._runs).index(run_id) + 1)
        shared: list[Row] = []
        for row in rows:
            other = keys.get(row.name)
            if other is not None:
                if row.does != "c" or other.row.does != "c":
                    return False
                if other.run != number:
                    shared.append(row.name)
        for row in rows:
            keys.setdefault(row.name, _Entry(row, number, self._made))
        self._shared.update(shared)
        self._numbers.append(number)
        return True

    def arguments(self, now: datetime | None) -> list[object]:
        """Return the statement's arguments."""
        self._sorted = [self._keys[name] for name in sorted(self._keys)]
        groups = list(self._groups())
        for separator in _SEPARATORS:
            columns = _joined(groups, separator)
            if columns is not None:
                workers = list({one.driven.worker for one in self.pending})
                columns.insert(_PAYLOADS, [payload for one in self.pending for payload in one.payloads])
                return [now, workers, separator, NULL, *columns]
        raise StorageError("a step's texts hold every character that could separate them")

    def _groups(self) -> Iterable[Sequence[Sequence[str]]]:
        """Yield the columns of each kind of rows."""
        events: list[Row] = []
        begun: list[Row] = []
        made: list[Row] = []
        lineage: list[Row] = []
        audit: list[Row] = []
        place = 0
        for one, run in zip(self.pending, self._numbers, strict=True):
            step, first = str(len(events) + 1), len(made)
            if one.begun is not None:
                begun.append((run, *one.begun))
            for first_no, count, body, claims in one.events:
                events.append((run, str(first_no), str(count), str(place), one.driven.pipeline, body, claims))
                place += count + 1
            made += [(step, *row) for row in one.materializations]
            lineage += [(step, str(first + number), *row) for number, row in one.lineage]
            audit += [(step, *row) for row in one.audit]
        yield _transposed(list(self._runs.values()), 5)
        yield _transposed(begun, 9)
        yield self._key_columns()
        yield _transposed(events, 7)
        yield _transposed(made, 19)
        yield _transposed(lineage, 7)
        yield _transposed(audit, 7)

    def _key_columns(self) -> Sequence[Sequence[str]]:
        entries = self._sorted
        does = [entry.row.does for entry in entries]
        if self._shared:
            does = ["C" if entry.row.name in self._shared else entry.row.does for entry in entries]
        state, *others = _transposed([entry.row.columns for entry in entries], 6)
        return [
            *_transposed([entry.row.name for entry in entries], 4),
            [entry.run for entry in entries],
            does,
            state,
            [str(entry.made + entry.row.made) if entry.row.made else NULL for entry in entries],
            *others,
        ]

    def read(self, record: Record) -> Reply:
        """Return what the statement answered."""
        claims: dict[Row, KeyAnswer] = {}
        replaced: dict[Row, str] = {}
        released: list[AssetKey] = []
        for slot, holder, current, lost, contended, previous in zip(*(record[n] or () for n in range(3, 9)), strict=True):
            row = self._sorted[slot - 1].row
            if row.does in _CLAIMS:
                claims[row.name] = KeyAnswer(str(holder), None if current is None else str(current), lost)
            if row.does in _CLAIM_ONLY:
                continue
            if contended and holder is None:
                released.append(_key(row.name))
            if previous is not None and row.made:
                replaced[row.name] = str(previous)
        refused = frozenset[str]()
        if record[1] is not None:
            refused = frozenset(run for run, accepted in zip(self._runs, record[1], strict=True) if not accepted)
        return Reply(record[0], refused, [str(one) for one in record[2] or ()], claims, replaced, released)


def claimed(step_claims: Iterable[AssetKey], run_id: str, reply: Reply) -> dict[AssetKey, Claimed]:
    """Return the answers to a step's claims; those are missing whose row another run shared that was refused."""
    answers: dict[AssetKey, Claimed] = {}
    for key in step_claims:
        found = reply.claims.get(key_name(key))
        if found is not None:
            answers[key] = Claimed(found.holder == run_id, *found)
    return answers


def _run(pending: PendingStep) -> Row:
    """Return the row of a step's run."""
    step = pending.step
    end = step.finish
    if step.create is not None:
        state, error = (step.create.state, step.create.error) if end is None else (end.state, end.error)
        return step.run_id, str(step.create.fence), "begin", state, failure_text(error) or NULL
    if end is not None:
        return step.run_id, str(step.fence), "end", end.state, failure_text(end.error) or NULL
    return step.run_id, str(step.fence), "go", NULL, NULL


def _leftovers(pending: PendingStep) -> list[KeyRow]:
    """Return rows that release what a run holds that ends."""
    held = pending.driven.held
    if not held:
        return []
    step = pending.step
    return [key_row(key, "r") for key in held.difference((done.key for done in step.done), step.releases, step.claims)]


def _joined(groups: Iterable[Sequence[Sequence[str]]], separator: str) -> list[object] | None:
    """Return each column as one text; None if a value has the separator in it."""
    joined: list[object] = []
    for columns in groups:
        breaks = len(columns[0]) - 1
        for column in columns:
            text = separator.join(column)
            if text and text.count(separator) != breaks:
                return None
            joined.append(text)
    return joined


def _transposed(rows: Sequence[Row], width: int) -> list[Sequence[str]]:
    return list(zip(*rows, strict=True)) if rows else [()] * width


def _key(name: Row) -> AssetKey:
    pipeline, asset, io, partition = name
    return AssetKey(pipeline, asset, partition, io)
