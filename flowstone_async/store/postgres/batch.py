"""Steps that share one call of the hot statement: which of them can, their columns, and what the reply says of each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from asyncpg import Record

from flowstone_async.errors import StorageError
from flowstone_async.store.postgres.encoding import failure_text
from flowstone_async.store.postgres.statement import statement
from flowstone_async.store.postgres.step import NULL, KeyRow, PendingStep, Row, key_name, key_row
from flowstone_async.store.records import Claimed
from flowstone_async.types import AssetKey

MOST_STEPS = 500
MOST_KEYS = 5_000
MOST_BYTES = 8 << 20

# What no text holds, as a rule: the first that indeed none holds separates the values of a column.
_SEPARATORS = ("\x1f", "\x1d", "\x1c", "\x02", "\x01", "\ue000", "\uf8ff")
_CLAIMS = frozenset("cCROU")
_CLAIM_ONLY = frozenset("cC")


def _names(prefix: str, columns: str) -> tuple[str, ...]:
    return tuple(f"{prefix}_{column}" for column in columns.split())


_RUN = _names("run", "id fence kind state error")
_BEGUN = _names("begun", "run worker pipeline partition targets options params continuable created_at request")
_KEY = _names("key", "pipeline asset io partition run does state made attempts started_at seconds error reason")
_EVENT = _names("event", "run first_no count place pipeline body claims")
_MADE = _names(
    "made",
    "event id pipeline asset io partition fingerprint version code_hash inputs manager location size checksum "
    "started_at seconds attempts host metadata payload_at payload_size",
)
_LINEAGE = _names("lineage", "event made pipeline asset io partition upstream")
_AUDIT = _names("audit", "event action subject actor actor_kind run details")


class KeyAnswer(NamedTuple):
    """What the statement says of one claimed key."""

    holder: str
    current: str | None
    lost: int


class Reply(NamedTuple):
    """What the statement says of a batch.

    Attributes:
        refused: Runs whose token is old; nothing of their steps was written.
        repeated: Whether some steps were committed before.
        watched: Runs that another process waits for.
        claims: Answers by name of the key.
        replaced: Materializations that are current no more, by name of the key.
        released: Keys let go that another run had asked for.
    """

    at: datetime
    refused: frozenset[str]
    repeated: bool
    watched: Sequence[str]
    claims: Mapping[Row, KeyAnswer]
    replaced: Mapping[Row, str]
    released: Sequence[AssetKey]


class _Entry(NamedTuple):
    """A key of the batch: what is done with it, and by which run of the batch."""

    row: KeyRow
    run: str


class Batch:
    """Steps of different runs, or several of one run that goes on; no key of an asset twice.

    Two runs that claim one key share its row: the first asks, and the answer holds for both. Steps that write to tables
    of the users' own, by name of the table with their runs, share no batch with others: theirs takes more statements.
    """

    __slots__ = ("_keys", "_numbers", "_runs", "_shared", "_sorted", "_weight", "pending", "tables")

    def __init__(self) -> None:
        self.pending: list[PendingStep] = []
        self.tables: dict[str, list[tuple[str, tuple[object, ...]]]] = {}
        self._runs: dict[str, Row] = {}
        self._numbers: dict[str, str] = {}
        self._keys: dict[Row, _Entry] = {}
        self._shared: set[Row] = set()
        self._sorted: list[_Entry] = []
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
        run, known = _run_row(pending), self._runs.get(run_id)
        if known is not None and (known != run or run[2] != "goes"):
            return False
        number = str(len(self._runs) + 1) if known is None else self._numbers[run_id]
        rows = pending.keys if pending.step.finish is None else [*pending.keys, *_leftovers(pending)]
        if not self._enter_keys(rows, number):
            return False
        self._runs[run_id] = run
        self._numbers[run_id] = number
        for table, row in pending.tables:
            self.tables.setdefault(table, []).append((run_id, row))
        self._weight += pending.weight
        self.pending.append(pending)
        return True

    def _enter_keys(self, rows: Sequence[KeyRow], number: str) -> bool:
        """Add a step's keys, unless one of them is in the batch already and cannot be shared."""
        keys = self._keys
        shared: list[Row] = []
        for row in rows:
            other = keys.get(row.name)
            if other is not None:
                if row.does != "c" or other.row.does != "c":
                    return False
                if other.run != number:
                    shared.append(row.name)
        for row in rows:
            if row.name not in keys:
                keys[row.name] = _Entry(row, number)
        self._shared.update(shared)
        return True

    def statement(self, now: datetime | None) -> tuple[str, list[object]]:
        """Return the statement that commits the batch, and its arguments."""
        self._sorted = [self._keys[name] for name in sorted(self._keys)]
        kinds = {run[2] for run in self._runs.values()}
        columns: dict[str, Sequence[str]] = {}
        for kind, names, leading, rows in self._rows():
            if rows:
                kinds.add(kind)
                columns.update(zip(names, (*leading, *zip(*rows, strict=True)), strict=True))
        if any(one.step.finish is not None and one.driven.gated for one in self.pending):
            kinds.add("gated")
        found = statement(frozenset(kinds))
        for separator in _SEPARATORS:
            values = {name: _joined(column, separator) for name, column in columns.items()}
            if None not in values.values():
                return found.text, self._arguments(found.parameters, values, now, separator)
        raise StorageError("a step's texts hold every character that could separate them")

    def _arguments(
        self, parameters: Sequence[str], columns: Mapping[str, object], now: datetime | None, separator: str
    ) -> list[object]:
        others: dict[str, object] = {
            "now": now,
            "workers": separator.join({one.driven.worker for one in self.pending}),
            "separator": separator,
            "null": NULL,
            "payloads": b"".join(payload for one in self.pending for payload in one.payloads if payload),
        }
        return [others[name] if name in others else columns[name] for name in parameters]

    def _rows(self) -> Iterable[tuple[str, Sequence[str], Sequence[Sequence[str]], Sequence[Row]]]:
        """Yield each kind of rows: the names of its columns, the first columns, and the rows of the others."""
        pending = self.pending
        numbers = [self._numbers[one.step.run_id] for one in pending]
        yield "runs", _RUN, (), list(self._runs.values())
        begun = [one.begun for one in pending if one.begun is not None]
        yield "begins", _BEGUN, ([run for one, run in zip(pending, numbers, strict=True) if one.begun],), begun
        yield from self._key_rows()
        events: list[Row] = []
        made: list[Row] = []
        lineage: list[Row] = []
        audit: list[Row] = []
        made_by: list[str] = []
        traced_by: list[str] = []
        noted_by: list[str] = []
        place = 0
        for one, run in zip(pending, numbers, strict=True):
            event = (str(len(events) + 1),)
            for first_no, count, body, claims in one.events:
                events.append((run, str(first_no), str(count), str(place), one.driven.pipeline, body, claims))
                place += count + 1
            made += one.materializations
            made_by += event * len(one.materializations)
            lineage += one.lineage
            traced_by += event * len(one.lineage)
            audit += one.audit
            noted_by += event * len(one.audit)
        yield "events", _EVENT, (), events
        if made:
            rows = zip(made, self._payload_places(), strict=True)
            yield "made", _MADE, (made_by,), [(*row, *place) for row, place in rows]
        yield "lineage", _LINEAGE, (traced_by,), lineage
        yield "audit", _AUDIT, (noted_by,), audit

    def _key_rows(self) -> Iterable[tuple[str, Sequence[str], Sequence[Sequence[str]], Sequence[Row]]]:
        entries, shared = self._sorted, self._shared
        if entries:
            does = [entry.row.does for entry in entries]
            if shared:
                does = ["C" if entry.row.name in shared else entry.row.does for entry in entries]
            names = zip(*(entry.row.name for entry in entries), strict=True)
            leading = (*names, [entry.run for entry in entries], does)
            yield "keys", _KEY, leading, [entry.row.columns for entry in entries]

    def _payload_places(self) -> Iterable[tuple[str, str]]:
        """Yield where each payload lies among all of them, from 1, and how long it is."""
        place = 1
        for one in self.pending:
            for payload in one.payloads:
                yield (NULL, NULL) if payload is None else (str(place), str(len(payload)))
                place += 0 if payload is None else len(payload)

    def read(self, record: Record) -> Reply:
        """Return what the statement answered."""
        claims: dict[Row, KeyAnswer] = {}
        replaced: dict[Row, str] = {}
        released: list[AssetKey] = []
        answers: str = record[4] if self._keys and record[4] else ""
        for answer in answers.split(";") if answers else ():
            slot, holder, current, lost, contended, previous = answer.split(",")
            row = self._sorted[int(slot) - 1].row
            if row.does in _CLAIMS:
                claims[row.name] = KeyAnswer(holder, current or None, int(lost))
            if row.does in _CLAIM_ONLY:
                continue
            if contended == "t" and not holder:
                released.append(_key(row.name))
            if previous and row.made is not NULL:
                replaced[row.name] = previous
        refused = frozenset(run for run, accepted in zip(self._runs, record[1], strict=True) if accepted != "t")
        expected = sum(len(one.events) for one in self.pending if one.step.run_id not in refused)
        watched = record[2].split(",") if record[2] else ()
        return Reply(record[0], refused, record[3] < expected, watched, claims, replaced, released)


def claimed(step_claims: Iterable[AssetKey], run_id: str, reply: Reply) -> dict[AssetKey, Claimed]:
    """Return the answers to a step's claims; those are missing whose row another run shared that was refused."""
    answers: dict[AssetKey, Claimed] = {}
    for key in step_claims:
        found = reply.claims.get(key_name(key))
        if found is not None:
            answers[key] = Claimed(found.holder == run_id, *found)
    return answers


def _run_row(pending: PendingStep) -> Row:
    """Return the row of a step's run."""
    step = pending.step
    end = step.finish
    if step.create is not None:
        state, error = (step.create.state, step.create.error) if end is None else (end.state, end.error)
        return step.run_id, str(step.create.fence), "begins", state, failure_text(error) or NULL
    if end is not None:
        return step.run_id, str(step.fence), "ends", end.state, failure_text(end.error) or NULL
    return step.run_id, str(step.fence), "goes", NULL, NULL


def _leftovers(pending: PendingStep) -> list[KeyRow]:
    """Return rows that release what a run holds that ends."""
    held = pending.driven.held
    if not held:
        return []
    step = pending.step
    return [key_row(key, "r") for key in held.difference((done.key for done in step.done), step.releases, step.claims)]


def _joined(column: Sequence[str], separator: str) -> str | None:
    """Return a column as one text; None if a value has the separator in it."""
    text = separator.join(column)
    return text if not text or text.count(separator) == len(column) - 1 else None


def _key(name: Row) -> AssetKey:
    pipeline, asset, io, partition = name
    return AssetKey(pipeline, asset, partition, io)
