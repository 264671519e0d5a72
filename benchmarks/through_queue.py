"""Runs that are submitted, and executed by worker processes; and what the same costs in SQL alone."""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias

import asyncpg

from benchmarks.harness import Options, show
from benchmarks.overhead import three
from benchmarks.stored import Statement, add_workers, database, recorded
from benchmarks.workers import workers
from flowstone_async import Engine
from flowstone_async.store.embedded.server import EmbeddedServer
from flowstone_async.store.postgres.connections import plans
from flowstone_async.store.postgres.queries import QUERIES

SLOTS = 100
AHEAD = 2 * SLOTS
"""Submitted and not ended: as many again wait as are executed."""

_LOOK = 0.02
_SUBMITTERS = 8
_PAUSE = 0.001
_SEPARATOR = "\x1f"
_LEFT = "SELECT count(*) FROM flowstone.run WHERE finished_at IS NULL AND pipeline = 'three'"
_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


_Commit: TypeAlias = tuple[Statement, frozenset[str]]


@dataclass(frozen=True, slots=True)
class Counted:
    """What some runs took.

    Attributes:
        submits: The submitting statements.
        sent: Those of each worker.
        cpu: Seconds of the workers' processes.
    """

    seconds: float
    submits: list[Statement]
    sent: list[list[Statement]]
    cpu: float
    workers: list[Any]


async def push(engine: Engine, connection: Any, label: str, runs: int) -> float:
    """Submit runs, never more ahead than `AHEAD`, until all have ended; return seconds."""
    room, numbers = asyncio.Semaphore(AHEAD), iter(range(runs))
    submitted = 0

    async def submit() -> None:
        nonlocal submitted
        for number in numbers:
            await room.acquire()
            await engine.submit("total", partition=f"{label}-{number}")
            submitted += 1

    begun = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(_SUBMITTERS):
            group.create_task(submit())
        ended = 0
        while ended < runs:
            await asyncio.sleep(_LOOK)
            before, left = submitted, await connection.fetchval(_LEFT)
            for _ in range(before - left - ended):
                room.release()
            ended = max(ended, before - left)
    return time.perf_counter() - begun


async def count(dsn: str, processes: int, runs: int) -> Counted:
    """Let worker processes execute submitted runs."""
    connection = await asyncpg.connect(dsn)
    try:
        with TemporaryDirectory() as folder:
            async with (
                workers(dsn, processes, slots=SLOTS, folder=Path(folder)) as told,
                Engine(three(), store=dsn, slots=0, block_warning=False) as engine,
            ):
                await push(engine, connection, "warm", AHEAD)
                with recorded() as sent:
                    seconds = await push(engine, connection, "run", runs)
                rows = await connection.fetch("SELECT * FROM flowstone.worker")
    finally:
        await connection.close()
    share = runs / (runs + AHEAD)
    submits = [each for each in sent if each[0] == QUERIES["submit"]]
    return Counted(seconds, submits, [each.sent for each in told], sum(each.cpu for each in told) * share, rows)


async def floor(dsn: str, counted: Counted) -> float:
    """Submit, claim and commit the same again, without an engine, on an empty database; return seconds.

    Each worker's commits follow one another in two lanes, as in the engine; a lane waits for the claims of its runs.
    """
    async with Engine(three(), store=dsn, slots=0):
        pass
    ids = {str(each[1][0]) for each in counted.submits}
    names = [row["id"] for row in counted.workers]
    commits = [_commits(sent, ids, names) for sent in counted.sent]
    claims = sum(text == QUERIES["claim"] for sent in counted.sent for text, _ in sent)
    size = max(1, round((len(ids) + AHEAD) / max(1, claims)))
    claimed: set[str] = set()
    news = asyncio.Condition()
    submits = iter(counted.submits)

    async with asyncpg.create_pool(dsn, min_size=4, max_size=40, init=_settle) as pool:
        await add_workers(pool, counted.workers)

        async def submit() -> None:
            async with pool.acquire() as connection:
                for text, arguments in submits:
                    await connection.fetch(text, *arguments)

        async def claim(number: int) -> None:
            async with pool.acquire() as connection:
                while len(claimed) < len(ids):
                    rows = await connection.fetch(QUERIES["claim"], names[number], ["three"], None, size, None, None)
                    claimed.update(str(row["id"]) for row in rows)
                    async with news:
                        news.notify_all()
                    if not rows:
                        await asyncio.sleep(_PAUSE)

        async def lane(statements: Sequence[_Commit]) -> None:
            async with pool.acquire() as connection:
                for (text, arguments), needed in statements:
                    async with news:
                        await news.wait_for(lambda needed=needed: needed <= claimed)
                    await connection.fetch(text, *arguments)

        begun = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for _ in range(_SUBMITTERS):
                group.create_task(submit())
            for number, statements in enumerate(commits):
                group.create_task(claim(number))
                for own in _lanes(statements):
                    group.create_task(lane(own))
        return time.perf_counter() - begun


def _commits(sent: list[Statement], ids: set[str], workers: list[str]) -> list[_Commit]:
    """Return the statements that wrote something about some runs, and which; any worker may have claimed these."""
    anybody = _SEPARATOR.join(workers)
    found: list[_Commit] = []
    for text, arguments in sent:
        if "INSERT" in text:
            arguments = tuple(anybody if each in workers else each for each in arguments)  # noqa: PLW2901
            needed = frozenset(one for each in arguments if isinstance(each, str) for one in _ID.findall(each))
            if needed & ids:
                found.append(((text, arguments), needed & ids))
    return found


def _lanes(
    statements: list[_Commit],
) -> list[list[_Commit]]:
    """Share statements out among two lanes: those that speak of the same run stay together, in their order."""
    group: dict[str, str] = {}

    def root(one: str) -> str:
        while group.setdefault(one, one) != one:
            one = group[one]
        return one

    for _, needed in statements:
        first, *others = map(root, needed)
        for other in others:
            group[other] = first
    lanes: list[list[_Commit]] = [[], []]
    place: dict[str, list[_Commit]] = {}
    for each in statements:
        name = root(next(iter(each[1])))
        place.setdefault(name, min(lanes, key=len)).append(each)
    return lanes


async def _settle(connection: Any) -> None:
    await connection.execute(plans("SESSION"))


async def queued(given: Options, server: EmbeddedServer, processes: int, runs: int) -> None:
    """Measure runs through the queue with some worker processes."""
    name = f"queued_w{processes}"
    async with database(server, name) as dsn, database(server, f"{name}_floor") as empty:
        counted = await count(dsn, processes, runs)
        least = await floor(empty, counted)
    total = runs + AHEAD
    statements = Counter(text for sent in counted.sent for text, _ in sent)
    commits = sum(number for text, number in statements.items() if "INSERT" in text)
    show(
        given,
        name,
        floor=least / runs * 1e3,
        figure=counted.seconds / runs * 1e3,
        unit="ms_per_run",
        aim="4,000 runs/s a worker",
        runs_per_s=runs / counted.seconds,
        floor_runs_per_s=runs / least,
        worker_cpu_ms_per_run=counted.cpu / runs * 1e3,
        statements_per_run=1 + statements.total() / total,
        claims_per_run=statements[QUERIES["claim"]] / total,
        commits_per_run=commits / total,
    )
