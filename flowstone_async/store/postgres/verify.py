"""What must always hold of the records, whatever died while they were written: looked at, and never mended."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import NamedTuple
from uuid import UUID

from asyncpg import Record

from flowstone_async.store.postgres import encoding
from flowstone_async.store.postgres.connections import Connections, Session
from flowstone_async.store.records import FINAL_RUN_STATES, EventRecord, Fault
from flowstone_async.types import AssetKey

MOST = 20
_PAGE = 500
_BEFORE_ALL = UUID(int=0)
_STATEMENT = 600.0
_FINISHED = "run.finished"
_ENDS = frozenset({f"run.{state}" for state in FINAL_RUN_STATES})
# Each table is read once, from its beginning to its end: not by index, as the store's own connections do.
_PLANS = ("enable_seqscan", "enable_bitmapscan", "enable_sort")
_BEGIN = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; " + "; ".join(f"SET LOCAL {each} = on" for each in _PLANS)


class _Check(NamedTuple):
    """A statement that returns what is wrong, and what is said of each of its rows."""

    query: str
    say: Callable[[Record], str]


async def verify(connections: Connections) -> tuple[Fault, ...]:
    """Return what is wrong with the records; see `Store.verify`."""
    async with connections.translated(), connections.session() as session:
        session.patience = _STATEMENT
        async with session.transaction(_BEGIN):
            bad_runs = await _runs(session)
            found = [*await _inputs(session)]
            for check in _CHECKS:
                found += [check.say(row) for row in await session.fetch(check.query, MOST)]
        # Partitions go for everybody at once, also for a snapshot in which their runs are still there: asked afresh.
        kept = await _kept(session, bad_runs)
    told = [text for run, texts in bad_runs.items() if run in kept for text in texts]
    return tuple(Fault(problem, "") for problem in [*told[:MOST], *found])


async def _runs(session: Session) -> Mapping[UUID, Sequence[str]]:
    """Return what is wrong with each run, until there is enough of it."""
    found: dict[UUID, Sequence[str]] = {}
    last = _BEFORE_ALL
    while (page := await session.fetch("verify_runs", last, _PAGE)) and len(found) < MOST:
        last = page[-1]["id"]
        bad = await _of_page(session, page)
        kept = await _kept(session, bad)
        found |= {run: texts for run, texts in bad.items() if run in kept}
    return found


async def _of_page(session: Session, page: Sequence[Record]) -> Mapping[UUID, Sequence[str]]:
    found: dict[UUID, list[str]] = defaultdict(list)
    ids = [row["id"] for row in page]
    ends = {row["run_id"]: row for row in await session.fetch("verify_ends", ids)}
    for row in page:
        for text in (*_of_run(row), *_of_end(row, ends.get(row["id"]))):
            found[row["id"]].append(f"run {row['id']} {text}")
    for run, no, due in await session.fetch("verify_numbers", ids):
        found[run].append(f"run {run} has an event with the number {no} where {due} comes next")
    return found


async def _kept(session: Session, runs: Collection[UUID]) -> Collection[UUID]:
    """Return those of some runs that are not being forgotten."""
    return {row[0] for row in await session.fetch("verify_kept", list(runs))} if runs else ()


def _of_run(row: Record) -> Iterator[str]:
    state, owner = row["state"], row["worker"]
    if row["finished"] != (state in FINAL_RUN_STATES):
        yield f"is {state}, and has {'an' if row['finished'] else 'no'} instant at which it ended"
    if state in ("queued", "waiting") and owner is not None:
        yield f"is {state}, and belongs to worker {owner}"
    if state == "queued" and not row["placed"]:
        yield "is queued, and has no place in the queue: nobody will claim it"
    if row["fence"] < 1:
        yield f"has the fence {row['fence']}; the first one is 1"
    if not 0 <= row["lost"] < max(row["fence"], 1):
        yield f"has lost {row['lost']} owners under the fence {row['fence']}"


def _of_end(run: Record, row: Record | None) -> Iterator[str]:
    """Tell whether a run's last events are what its state says."""
    events = [event for body in (row["told"] or () if row is not None else ()) for event in encoding.events(body)]
    finished = [event for event in events if event.type == _FINISHED]
    ends = sorted(event.type for event in events if event.type in _ENDS)
    if run["state"] not in FINAL_RUN_STATES:
        if finished or ends:
            yield f"is {run['state']}, and its events tell that it has ended"
        return
    if ends != [f"run.{run['state']}"]:
        yield f"is {run['state']}, and its events tell {' and '.join(ends) or 'of no end'}"
    if len(finished) != 1:
        yield f"is {run['state']}, and has {len(finished)} events {_FINISHED}; there must be one"
        return
    yield from _of_last(run["state"], finished[0], 0 if row is None else row["last"])


def _of_last(state: str, finished: EventRecord, last: int) -> Iterator[str]:
    if finished.body.get("state") != state:
        yield f"is {state}, and its {_FINISHED} tells {finished.body.get('state')}"
    if finished.no != last:
        yield f"has events up to number {last}, after its {_FINISHED}, which is number {finished.no}"


async def _inputs(session: Session) -> Sequence[str]:
    """Return recorded inputs that no edge leads to, until there are enough of them."""
    found: list[str] = []
    last = _BEFORE_ALL
    while (page := await session.fetch("verify_inputs", last, _PAGE)) and len(found) < MOST:
        last = page[-1]["id"]
        edges = [
            (*source.key, row["id"], source.materialization)
            for row in page
            for source in encoding.inputs(row["inputs"])
            if source.key is not None and source.materialization is not None
        ]
        if edges:
            made = {row["id"]: row for row in page}
            missing = await session.fetch("verify_untraced", *zip(*edges, strict=True))
            found += [
                f"{_key(made[row['made']])}: value {row['made']} was computed from {row['upstream']}, "
                "and lineage does not know it"
                for row in missing
            ]
    return found[:MOST]


def _run_key(row: Record) -> str:
    return f"{row['pipeline']}: the key {row['key']!r} of a submission leads to run {row['run_id']}, which there is not"


def _steps(row: Record) -> str:
    count = f"{row['steps']} step{'' if row['steps'] == 1 else 's'}"
    return f"run {row['run_id']}, which there is not, has {count} on record"


def _gate(row: Record) -> str:
    if not row["found"]:
        return f"gate {row['id']} is of run {row['run_id']}, which there is not"
    if row["how"] is None:
        return f"gate {row['id']} has ended, and there is no outcome"
    if row["told"] != row["run_id"]:
        return f"gate {row['id']} is of run {row['run_id']}, and its outcome of run {row['told']}"
    return f"gate {row['id']} is open, and {row['how']}"


def _outcome(row: Record) -> str:
    return f"gate {row['gate']}, which there is not, has {row['what']}"


def _waiting(row: Record) -> str:
    return f"run {row['id']} is waiting, and nothing will wake it: no gate of it is open"


def _claim(row: Record) -> str:
    state = "there is not" if row["state"] is None else f"is {row['state']}"
    return f"{_key(row)} is claimed by run {row['claim_run']}, which {state}"


def _current(row: Record) -> str:
    wrong = "is another key's" if row["found"] else "there is not"
    return f"{_key(row)} has the current value {row['current']}, which {wrong}"


def _value(row: Record) -> str:
    return f"{_key(row)} has the current value {row['current']}, of which nothing but the record is left"


def _counts(row: Record) -> str:
    return f"{_key(row)} has lost {row['lost']} owners and made {row['attempts']} attempts"


def _newest(row: Record) -> str:
    return f"{_key(row)} has the current value {row['current']}, and {row['id']} was committed after it"


def _superseded(row: Record) -> str:
    times = f"superseded {row['times']} time{'' if row['times'] == 1 else 's'}"
    return f"{_key(row)}: value {row['id']} is {'current' if row['current'] else 'not current'} and {times}"


def _forgotten(row: Record) -> str:
    return f"value {row['materialization']} is superseded, and there is none"


def _edge(row: Record) -> str:
    wrong = "does not record it" if row["found"] else "there is not"
    return f"lineage tells that {row['materialization']} was computed from {row['upstream']}; the former {wrong}"


def _scatter(row: Record) -> str:
    counted = f"{row['succeeded']} succeeded and {row['failed']} failed of {row['total']}, in {row['open']} open chunks"
    return (
        f"scatter {row['id']} is {row['state']} and counts {counted}; there are {row['results']} results and "
        f"{row['failures']} failures"
    )


def _parked(row: Record) -> str:
    return f"item {row['first']} of scatter {row['scatter']} waits, and nothing will wake it"


def _scattered(row: Record) -> str:
    wrong = "is not there" if row["state"] is None else f"is {row['state']}"
    return f"{_key(row)} has the current value {row['current']}, and its scatter {wrong}"


def _left(row: Record) -> str:
    what = {"run": "chunks or failures", "results": "results or notes", "read": "pages or keys"}[row["part"]]
    if row["listed"]:
        return f"scatter {row['scatter']} has {what} that are listed to be deleted, and is there"
    return f"scatter {row['scatter']} is not there, and has {what} that nobody deletes"


def _limit(row: Record) -> str:
    return f"limit {row['key']!r} remembers grants that cannot be"


def _key(row: Record) -> str:
    key = AssetKey(row["pipeline"], row["asset"], row["partition"], row["io"])
    return f"{key.pipeline}.{key.asset}{f'[{key.partition}]' if key.partition else ''}"


_CHECKS: Collection[_Check] = (
    _Check("verify_run_keys", _run_key),
    _Check("verify_steps", _steps),
    _Check("verify_gates", _gate),
    _Check("verify_outcomes", _outcome),
    _Check("verify_waiting", _waiting),
    _Check("verify_claims", _claim),
    _Check("verify_current", _current),
    _Check("verify_values", _value),
    _Check("verify_counts", _counts),
    _Check("verify_newest", _newest),
    _Check("verify_superseded", _superseded),
    _Check("verify_forgotten", _forgotten),
    _Check("verify_edges", _edge),
    _Check("verify_scatters", _scatter),
    _Check("verify_parked", _parked),
    _Check("verify_scattered", _scattered),
    _Check("verify_left", _left),
    _Check("verify_limits", _limit),
)
