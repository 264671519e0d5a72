"""What must hold of a database after any number of crashes, told by SQL and not by the library."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import asyncpg

_FINAL = {"succeeded", "failed", "cancelled"}
_RUNS = "SELECT id, state, worker, finished_at FROM flowstone.run"
_EVENTS = "SELECT run_id, first_no, count, body FROM flowstone.event WHERE count > 0 ORDER BY run_id, first_no"
_CLAIMED = """
SELECT k.asset, k.partition, k.claim_run, r.state, w.dead
FROM flowstone.asset_key AS k
LEFT JOIN flowstone.run AS r ON r.id = k.claim_run
LEFT JOIN flowstone.worker AS w ON w.id = r.worker
WHERE k.claim_run IS NOT NULL
"""
_ASTRAY = """
SELECT k.asset, k.partition, k.current
FROM flowstone.asset_key AS k
LEFT JOIN flowstone.materialization AS m ON m.id = k.current
    AND (m.pipeline, m.asset, m.io, m.partition) = (k.pipeline, k.asset, k.io, k.partition)
WHERE (k.current IS NOT NULL AND m.id IS NULL) OR (k.state = 'completed' AND k.current IS NULL)
"""
# A materialization is either the current one of its key and the newest, or superseded, once.
_LOST = """
SELECT m.asset, m.partition, m.id, k.current IS NOT NULL AS current, s.times
FROM flowstone.materialization AS m
LEFT JOIN flowstone.asset_key AS k ON k.current = m.id
CROSS JOIN LATERAL (SELECT count(*) AS times FROM flowstone.superseded AS s WHERE s.materialization = m.id) AS s
WHERE s.times <> CASE WHEN k.current IS NULL THEN 1 ELSE 0 END
    OR (k.current IS NOT NULL AND EXISTS (
        SELECT FROM flowstone.materialization AS n
        WHERE (n.pipeline, n.asset, n.io, n.partition) = (m.pipeline, m.asset, m.io, m.partition) AND n.seq > m.seq))
"""
_MADE = """
SELECT m.id, m.run_id, m.asset, m.partition, m.inputs, m.payload IS NOT NULL OR m.manager = 'scatter' AS has_payload,
    ARRAY (SELECT l.upstream FROM flowstone.lineage AS l WHERE l.materialization = m.id ORDER BY 1) AS edges
FROM flowstone.materialization AS m
"""
_STRAY_STEPS = """
SELECT DISTINCT run_id FROM flowstone.step WHERE run_id NOT IN (SELECT id FROM flowstone.run)
"""
_SCATTERS = "SELECT id, asset, state, sealed, pages, read, total FROM flowstone.scatter"
_PAGES = "SELECT no, count, first, before, duplicates FROM flowstone.scatter_page WHERE scatter = $1 ORDER BY no"
_CHUNKS = """
SELECT page, first, count, alone, state, succeeded, failed, lost
FROM flowstone.scatter_chunk WHERE scatter = $1 ORDER BY first, alone
"""
_BLOCKS = "SELECT page, first, places FROM flowstone.scatter_block WHERE scatter = $1"
_ROWS = "SELECT item_no FROM flowstone.scatter_result WHERE scatter = $1"
_FAILED = "SELECT item_no FROM flowstone.scatter_failure WHERE scatter = $1"


class Call(NamedTuple):
    """One call of a body, as programs/chain.py wrote it down.

    Attributes:
        asset: Name, or `name:key`.
        process: Its id, or the worker's.
        ended: Instant on the machine's monotonic clock, or None for one that was cut off.
    """

    asset: str
    run_id: str
    process: str
    began: int
    ended: int | None
    cancelled: bool


def calls(folder: Path) -> list[Call]:
    """Return the calls of all bodies in a folder, in the order of their beginning."""
    found: list[Call] = []
    going: dict[tuple[str, ...], int] = {}
    log = folder / "calls"
    for line in log.read_text().splitlines() if log.exists() else ():
        what, asset, run_id, process, instant = line.split()
        words = (asset, run_id, process)
        if what == "start":
            going[words] = len(found)
            found.append(Call(asset, run_id, process, int(instant), None, cancelled=False))
        else:
            place = going.pop(words)
            found[place] = found[place]._replace(ended=int(instant), cancelled=what == "cancelled")
    return found


async def without_lease(folder: Path, connection: asyncpg.Connection) -> set[str]:
    """Return the workers whose lease ended otherwise than by leaving: others may compute what they had begun.

    They are told by the database, which has declared them dead, or by themselves: one that comes back under another id
    removes what the database knew of it.
    """
    dead = {row[0] for row in await connection.fetch("SELECT id FROM flowstone.worker WHERE dead")}
    lost = folder / "lost"
    return dead | set(lost.read_text().split() if lost.exists() else ())


def counts(folder: Path) -> dict[str, int]:
    """Return how often each body was called."""
    return dict(Counter(call.asset for call in calls(folder)))


async def assert_whole(connection: asyncpg.Connection, *, ended: bool = True) -> None:
    """Fail with a list of everything that is wrong.

    Args:
        connection: To the database.
        ended: Whether every run must have ended.
    """
    runs = {row["id"]: row for row in await connection.fetch(_RUNS)}
    told = _events(await connection.fetch(_EVENTS))
    problems = [
        *_of_runs(runs, told, ended=ended),
        *_of_claims(await connection.fetch(_CLAIMED), ended=ended),
        *(f"run {row[0]}, which there is not, has steps" for row in await connection.fetch(_STRAY_STEPS)),
        *(f"key of {dict(row)} has no such value" for row in await connection.fetch(_ASTRAY)),
        *(f"materialization {dict(row)} is lost" for row in await connection.fetch(_LOST)),
        *_of_materializations(await connection.fetch(_MADE), told),
    ]
    assert not problems, "\n".join(["", *problems])


def _events(rows: list[asyncpg.Record]) -> dict[Any, list[list[Any]]]:
    told: dict[Any, list[list[Any]]] = defaultdict(list)
    for row in rows:
        piece = json.loads(row["body"])
        assert [event[0] for event in piece] == list(range(row["first_no"], row["first_no"] + row["count"])), dict(row)
        told[row["run_id"]] += piece
    return told


def _of_runs(runs: dict[Any, asyncpg.Record], told: dict[Any, list[list[Any]]], *, ended: bool) -> Iterator[str]:
    for run_id in told.keys() - runs.keys():
        yield f"events of run {run_id}, which there is not"
    for run_id, run in runs.items():
        events = told[run_id]
        if [event[0] for event in events] != list(range(1, len(events) + 1)):
            yield f"events of run {run_id} are numbered {[event[0] for event in events]}"
        kinds = Counter(event[1] for event in events)
        finished = [event for event in events if event[1] == "run.finished"]
        if kinds["run.started"] != 1:
            yield f"run {run_id} has {kinds['run.started']} run.started"
        if run["state"] not in _FINAL:
            if ended:
                yield f"run {run_id} is {run['state']}, owned by {run['worker']}"
            if finished:
                yield f"run {run_id} is {run['state']} and has a run.finished"
            continue
        if len(finished) != 1 or events[-1] is not finished[0] or finished[0][3]["state"] != run["state"]:
            yield f"run {run_id} is {run['state']}, and its last events are {events[-3:]}"
        ends = {kind: kinds[f"run.{kind}"] for kind in _FINAL if kinds[f"run.{kind}"]}
        if ends != {run["state"]: 1}:
            yield f"run {run_id} is {run['state']}, and its events tell {ends}"


def _of_claims(rows: list[asyncpg.Record], *, ended: bool) -> Iterator[str]:
    for row in rows:
        if ended or row["state"] != "running" or row["dead"]:
            yield f"a claim was left: {dict(row)}"


def _of_materializations(rows: list[asyncpg.Record], told: dict[Any, list[list[Any]]]) -> Iterator[str]:
    known = {row["id"] for row in rows}
    announced = Counter(
        (run_id, event[3]["materialization"])
        for run_id, events in told.items()
        for event in events
        if event[1] == "asset.succeeded"
    )
    for row in rows:
        inputs = {made for _, _, _, _, made in json.loads(row["inputs"]) if made is not None}
        edges = {str(upstream) for upstream in row["edges"]}
        if inputs != edges or not set(row["edges"]) <= known:
            yield f"materialization {row['id']} of {row['asset']}: inputs {inputs}, lineage {edges}"
        if not row["has_payload"]:
            yield f"materialization {row['id']} of {row['asset']} has no value"
        if announced.pop((row["run_id"], str(row["id"])), 0) != 1:
            yield f"materialization {row['id']} of {row['asset']} was not announced once by its run"
    for (run_id, made), times in announced.items():
        yield f"run {run_id} announced {made} {times} times, which there is not"


# -- scatters ---------------------------------------------------------------------------------------------------------


async def assert_scatters(connection: asyncpg.Connection, *, closed: bool = True) -> None:
    """Fail with a list of everything that is wrong with scatters: gaps, overlaps, items with several ends or none.

    Args:
        connection: To the database.
        closed: Whether every scatter must have come to its end.
    """
    problems: list[str] = []
    for scatter in await connection.fetch(_SCATTERS):
        pages = await connection.fetch(_PAGES, scatter["id"])
        chunks = await connection.fetch(_CHUNKS, scatter["id"])
        ended = await recorded(connection, scatter["id"])
        failed = [row[0] for row in await connection.fetch(_FAILED, scatter["id"])]
        found = [*_of_pages(scatter, pages), *_of_chunks(pages, chunks), *_of_ends(pages, chunks, ended, failed)]
        if closed and (scatter["state"], {chunk["state"] for chunk in chunks} - {"done"}) != ("closed", set()):
            found.append(f"is {scatter['state']}, and chunks of it are {Counter(chunk['state'] for chunk in chunks)}")
        if closed and len(ended) + len(failed) != scatter["total"]:
            found.append(f"has {len(ended)} results and {len(failed)} failures of {scatter['total']} items")
        problems += (f"scatter {scatter['asset']} {scatter['id']}: {problem}" for problem in found)
    assert not problems, "\n".join(["", *problems])


async def recorded(connection: asyncpg.Connection, scatter: Any) -> list[int]:
    """Return the positions of a scatter that have a result, each as often as it has one."""
    blocks = await connection.fetch(_BLOCKS, scatter)
    packed = [
        block["first"] + int.from_bytes(block["places"][at : at + 4], "little")
        for block in blocks
        for at in range(0, len(block["places"]), 4)
    ]
    return sorted([*packed, *(row[0] for row in await connection.fetch(_ROWS, scatter))])


def _of_pages(scatter: asyncpg.Record, pages: list[asyncpg.Record]) -> Iterator[str]:
    if [page["no"] for page in pages] != list(range(scatter["pages"])):
        yield f"has {scatter['pages']} pages: {[page['no'] for page in pages]}"
    first = before = 0
    for page in pages:
        if (page["first"], page["before"]) != (first, before):
            yield f"page {page['no']} begins at {page['first']} ({page['before']}) and not at {first} ({before})"
        first += page["count"]
        before += page["count"] - len(page["duplicates"])
    if (first, before) != (scatter["read"], scatter["total"]):
        yield f"{scatter['read']} items were read, {scatter['total']} distinct; its pages have {first}, {before}"


def _of_chunks(pages: list[asyncpg.Record], chunks: list[asyncpg.Record]) -> Iterator[str]:
    reached = 0
    for chunk in chunks:
        if chunk["alone"]:
            if chunk["count"] != 1 or chunk["first"] >= reached:
                yield f"the item {chunk['first']} on its own has left no chunk"
            continue
        if chunk["first"] != reached:
            yield f"a chunk begins at {chunk['first']} and not at {reached}"
        reached = chunk["first"] + chunk["count"]
    if reached != sum(page["count"] for page in pages):
        yield f"its chunks end at {reached}, its pages at {sum(page['count'] for page in pages)}"


def _of_ends(
    pages: list[asyncpg.Record], chunks: list[asyncpg.Record], ended: list[int], failed: list[int]
) -> Iterator[str]:
    items = {page["first"] + place for page in pages for place in range(page["count"])}
    items -= {page["first"] + place for page in pages for place in page["duplicates"]}
    for position, times in Counter([*ended, *failed]).items():
        if times > 1:
            yield f"item {position} ended {times} times"
        if position not in items:
            yield f"item {position} ended, which there is not"
    counted = (sum(chunk["succeeded"] for chunk in chunks), sum(chunk["failed"] for chunk in chunks))
    if counted != (len(ended), len(failed)):
        yield f"its chunks count {counted}, and {(len(ended), len(failed))} are on record"
