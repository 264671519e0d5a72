"""What a fault run computes, and what must come of it."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import asyncpg

from flowstone_async import AlreadySignalled, Engine, GateClosed
from flowstone_async.clock import SystemClock
from flowstone_async.store.postgres import PostgresStore
from flowstone_async.store.records import Worker
from flowstone_async.types import new_id
from tests.e2e.invariants import Call, assert_whole, calls, without_lease
from tests.faults.program import ANSWERS, ITEMS, KEYS, MAX_LOST, PIPELINES, token_of
from tests.faults.workers import Broken

_ENDED = "SELECT id::text, state, error FROM flowstone.run"
_EARLY = """
SELECT r.id, r.at, min(e.at) AS began FROM flowstone.run AS r JOIN flowstone.event AS e ON e.run_id = r.id
GROUP BY r.id HAVING min(e.at) < r.at
"""
_DERIVED = """
SELECT m.asset, m.partition, m.payload, l.asset AS of, l.partition AS key, u.payload AS source
FROM flowstone.materialization AS m
JOIN flowstone.lineage AS l ON l.materialization = m.id
JOIN flowstone.materialization AS u ON u.id = l.upstream
WHERE m.asset NOT IN ('whole', 'unpacked')
"""
_ANSWERED = "SELECT run_id::text, payload FROM flowstone.materialization WHERE asset = 'asked'"
_GATES = """
SELECT g.id, g.name, g.open, o.how, o.woken, r.state
FROM flowstone.gate AS g
JOIN flowstone.run AS r ON r.id = g.run_id
LEFT JOIN flowstone.gate_outcome AS o ON o.gate = g.id
WHERE o.how IS DISTINCT FROM 'signalled' OR NOT o.woken OR g.open
"""
_GATHERED = "SELECT partition, payload FROM flowstone.materialization WHERE asset = 'whole'"
_UNPACKED = "SELECT partition, payload FROM flowstone.materialization WHERE asset = 'unpacked'"


class Wanted(NamedTuple):
    """A run, and how it must end.

    Attributes:
        error: Name of the error's class; None for none.
        force: Whether it computes what may be there already, and so replaces values.
        later: Seconds after its submission before which it must not start.
    """

    target: str
    partition: str | None
    state: str = "succeeded"
    error: str | None = None
    force: bool = False
    later: float = 0.0

    @property
    def call(self) -> str:
        """What the target is called in `calls`."""
        return self.target if self.partition is None else f"{self.target}:{self.partition}"


def choose(chance: random.Random, *, doomed: bool) -> list[Wanted]:
    """Choose the runs of a seed, in the order in which they are submitted."""
    keys = list(KEYS.whole())
    wanted = [
        Wanted("table", None),
        *(Wanted("clean", key) for key in chance.sample(keys, 5)),
        *(Wanted("clean", key, force=True) for key in chance.sample(keys, 3)),
        *(Wanted("raw", key, force=True, later=0.4) for key in chance.sample(keys, 2)),
        *(Wanted("text", key) for key in chance.sample(keys, 4)),
        *(Wanted("whole", key) for key in chance.sample(keys, 2)),
        *(Wanted("unpacked", key) for key in chance.sample(keys, 2)),
        *(Wanted("asked", key) for key in chance.sample(keys, 4)),
        *(Wanted("odd", key, "failed", "StorageError") for key in chance.sample(keys, 2)),
        *(Wanted("endless", key, "cancelled") for key in chance.sample(keys, 2)),
    ]
    if doomed:
        wanted.append(Wanted("doomed", None, "failed", "WorkerLost"))
    chance.shuffle(wanted)
    return wanted


async def submit(dsn: str, wanted: list[Wanted], chance: random.Random) -> dict[str, Wanted]:
    """Submit the runs, each twice under one key, and return them by their ids.

    Raises:
        Broken: The second time another run came of it.
    """
    found: dict[str, Wanted] = {}
    async with Engine(*PIPELINES.values(), store=dsn, slots=0) as engine:
        for no, each in enumerate(wanted):
            found[await _submitted(engine, no, each, chance.randrange(4))] = each
    await submit_again(dsn, found)
    return found


async def submit_again(dsn: str, found: dict[str, Wanted]) -> None:
    """Submit the same once more: nothing may come of it, in whatever state the runs are.

    Raises:
        Broken: Something did.
    """
    async with Engine(*PIPELINES.values(), store=dsn, slots=0) as engine:
        for no, (run_id, each) in enumerate(found.items()):
            if (again := await _submitted(engine, no, each)) != run_id:
                raise Broken(f"the second submission of {each.call} is run {again}, not {run_id}")


async def _submitted(engine: Engine, no: int, each: Wanted, priority: int = 0) -> str:
    at = datetime.now(UTC) + timedelta(seconds=each.later) if each.later else None
    handle = await engine.submit(
        each.target, partition=each.partition, force=each.force, key=f"run {no}", priority=priority, at=at
    )
    return handle.id


async def cancel(dsn: str, run_id: str) -> None:
    """Cancel a run, from a process that has nothing to do with it."""
    async with Engine(*PIPELINES.values(), store=dsn, slots=0) as engine:
        await (await engine.find(run_id)).cancel()


async def answer(dsn: str, run_id: str, name: str) -> None:
    """Answer a run of `asked`, from a process that has nothing to do with it: twice, and otherwise the third time.

    Raises:
        Broken: The first answer does not count, or another one does.
        FlowstoneError: The store is away: nobody knows.
    """
    token = token_of(run_id, name)
    async with Engine(*PIPELINES.values(), store=dsn, slots=0) as engine:
        await engine.signal(token, answer_of(run_id, name))
        if not (await engine.signal(token, answer_of(run_id, name))).duplicate:
            raise Broken(f"the same answer to {token} was accepted twice")
        try:
            await engine.signal(token, "another")
        except (AlreadySignalled, GateClosed):
            return
        raise Broken(f"another answer to {token} was accepted, too")


def answer_of(run_id: str, name: str) -> str:
    """Return what is answered."""
    return f"{name} for {run_id}"


async def check(sql: asyncpg.Connection, dsn: str, folder: Path, wanted: dict[str, Wanted]) -> None:
    """Compare the database with what must be.

    Raises:
        Broken: Something is not as it must be.
    """
    problems = [*_of_ends(await sql.fetch(_ENDED), wanted), *await _of_calls(sql, folder, wanted)]
    problems += [f"too early: {dict(row)}" for row in await sql.fetch(_EARLY)]
    problems += _of_values(await sql.fetch(_DERIVED))
    problems += [
        f"asked of run {run_id} is {value}"
        for run_id, value in ((run_id, _value(payload)) for run_id, payload in await sql.fetch(_ANSWERED))
        if value["answers"] != [answer_of(run_id, name) for name in ANSWERS]
        or sorted(value["order"]) != sorted(ANSWERS)
        or value["ended"] != f"{value['began']} {'+'.join(value['order'])}"
    ]
    problems += [f"a gate is left: {dict(row)}" for row in await sql.fetch(_GATES)]
    problems += [
        f"whole {partition} is {_value(payload)}"
        for partition, payload in await sql.fetch(_GATHERED)
        if _value(payload) != list(range(ITEMS))
    ]
    problems += [
        f"unpacked {partition} is {pairs}"
        for partition, pairs in ((partition, _value(payload)) for partition, payload in await sql.fetch(_UNPACKED))
        if sorted(number for number, _ in pairs) != list(range(ITEMS)) or len({salt for _, salt in pairs}) > 1
    ]
    try:
        await assert_whole(sql)
    except AssertionError as error:
        problems.append(str(error))
    problems += await verified(dsn)
    if problems:
        raise Broken("\n".join(problems))


def _of_ends(rows: list[asyncpg.Record], wanted: dict[str, Wanted]) -> Iterator[str]:
    ended = {row["id"]: row for row in rows}
    for run_id in ended.keys() - wanted.keys():
        yield f"run {run_id} was never asked for"
    for run_id, each in wanted.items():
        run = ended.get(run_id)
        if run is None:
            yield f"run {run_id} of {each.call} is gone"
            continue
        error = None if run["error"] is None else json.loads(run["error"])["type"]
        if (run["state"], error) != (each.state, each.error):
            yield f"run {run_id} of {each.call} is {run['state']} ({run['error']}), not {each.state} ({each.error})"


async def _of_calls(sql: asyncpg.Connection, folder: Path, wanted: dict[str, Wanted]) -> list[str]:
    made = calls(folder)
    times = Counter(call.asset for call in made)
    problems = [f"{each.call} was never called" for each in wanted.values() if not times[each.call]]
    if times["doomed"] > MAX_LOST + 1:
        problems.append(f"doomed was called {times['doomed']} times, and may be {MAX_LOST + 1} times")
    over = await without_lease(folder, sql)
    cancelled = {run_id for run_id, each in wanted.items() if each.state == "cancelled"}
    problems += [
        f"two live workers computed one key at once: {one} and {other}"
        for one, other in overlapping(made)
        if one.process not in over and one.run_id not in cancelled
    ]
    return problems


def overlapping(made: list[Call]) -> Iterator[tuple[Call, Call]]:
    """Yield calls for one key of which the second began before the first had ended."""
    latest: dict[str, list[Call]] = {}
    for call in made:
        going = [one for one in latest.get(call.asset, []) if one.ended is None or one.ended > call.began]
        yield from ((one, call) for one in going)
        latest[call.asset] = [*going, call]


def _of_values(rows: list[asyncpg.Record]) -> Iterator[str]:
    for asset, partition, payload, of, key, source in rows:
        if payload is None or source is None:
            yield f"{asset} {partition}, computed from {of} {key}: a value is gone"
            continue
        value, origin = _value(payload), _value(source)
        right = {
            "clean": lambda: key == partition and value["clean"] == origin["salt"],
            "asked": lambda: key == partition and value["salt"] == origin["salt"],
            "text": lambda: key == partition and value["text"] == f"\0{origin['salt']}",
            "table": lambda: value[key.removeprefix("s:")] == origin["clean"],
        }
        if not right[asset]():
            yield f"{asset} {partition} is {value}, and {of} {key}, which it was computed from, {origin}"


def _value(payload: bytes) -> Any:
    return json.loads(payload[1:])


async def verified(dsn: str) -> list[str]:
    """Return what the library itself finds wrong."""
    store = PostgresStore(dsn, clock=SystemClock(), notify=False)
    await store.open(Worker(id=new_id(), host="", pid=0, pipelines=()), lease=None, lost=lambda: None)
    try:
        return [fault.problem for fault in await store.verify()]
    finally:
        await store.close()
