"""What a permit costs, and whether a limit that several processes share is kept.

`local`: permits of `Limits()` one after another; the floor is a list of instants that does the same for one key.
`shared`: permits of one limit on Postgres, for 100 callers at once; the floor is as many commits of one row, one after
another, as the engine sent statements. `one_by_one`: the same for one caller. `exact`: three processes ask for one
limit as fast as they can; the figure is the most permits in any window of its length, the floor what the limit allows.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from asyncio.subprocess import PIPE
from collections import deque
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import asyncpg

from benchmarks.harness import Options, options, show
from benchmarks.stored import Statement, database, recorded
from flowstone_async import Engine, Limits, Pipeline, Rate
from flowstone_async.limits.stock import Stock
from flowstone_async.store.embedded.server import EmbeddedServer

ENDLESS = Rate(10**9)
CALLERS = 100
LIMIT, PER, PROCESSES = 200, 1.0, 3
_ROW = "CREATE TABLE bare (id int PRIMARY KEY, granted bigint NOT NULL); INSERT INTO bare VALUES (1, 0)"
_GRANT = "UPDATE bare SET granted = granted + 1 WHERE id = 1"


class Bare:
    """A limit without anything around it: when each permit was granted, for one key."""

    def __init__(self, n: int, per: float) -> None:
        self._n, self._per = n, per
        self._granted: deque[float] = deque()

    async def check(self) -> float:
        now, granted = time.monotonic(), self._granted
        while granted and now - granted[0] >= self._per:
            granted.popleft()
        if len(granted) >= self._n:
            return granted[0] + self._per - now
        granted.append(now)
        return 0.0


async def local(given: Options) -> None:
    count = given.repeat(200_000, 20_000)
    bare, limits = Bare(10**9, 1.0), Limits()
    begun = time.perf_counter()
    for _ in range(count):
        await bare.check()
    floor = time.perf_counter() - begun
    begun = time.perf_counter()
    for _ in range(count):
        await limits.check("key", ENDLESS)
    taken = time.perf_counter() - begun
    show(given, "local", floor=count / floor, figure=count / taken, unit="acquires_per_s")


async def shared(given: Options, server: EmbeddedServer, *, callers: int, name: str) -> None:
    each = given.repeat(20_000, 2_000) // callers
    async with database(server, name) as dsn, Engine(Pipeline("bench"), store=dsn, slots=0) as engine:

        async def use(times: int) -> None:
            for _ in range(times):
                async with engine.limits.limit("key", ENDLESS):
                    pass

        await use(20)
        with recorded() as sent:
            begun = time.perf_counter()
            async with asyncio.TaskGroup() as group:
                for _ in range(callers):
                    group.create_task(use(each))
            taken = time.perf_counter() - begun
        statements = sum(_takes(statement) for statement in sent)
        floor = await commits(dsn, statements)
    total = each * callers
    show(
        given,
        name,
        floor=total / floor,
        figure=total / taken,
        unit="acquires_per_s",
        statements_per_acquire=statements / total,
    )


def _takes(statement: Statement) -> bool:
    return "take_permits" in statement[0]


async def commits(dsn: str, count: int) -> float:
    """Return the seconds that so many bare commits take."""
    connection: Any = await asyncpg.connect(dsn)
    try:
        await connection.execute(_ROW)
        await connection.execute(_GRANT)
        begun = time.perf_counter()
        for _ in range(count):
            await connection.fetch(_GRANT)
        return time.perf_counter() - begun
    finally:
        await connection.close()


async def exact(given: Options, server: EmbeddedServer) -> None:
    seconds = given.repeat(20, 5)
    async with database(server, "exact") as dsn:
        async with Engine(Pipeline("bench"), store=dsn, slots=0):  # makes the schema
            pass
        words = ("-m", "benchmarks.limits", "--user", dsn, "--seconds", str(seconds))
        users = [await asyncio.create_subprocess_exec(sys.executable, *words, stdout=PIPE) for _ in range(PROCESSES)]
        answers = [await user.communicate() for user in users]
    uses = sorted(instant for answer, _ in answers for instant in json.loads(answer))
    most, first = 0, 0
    for last, instant in enumerate(uses):
        while instant - uses[first] >= PER:
            first += 1
        most = max(most, last - first + 1)
    windows = (uses[-1] - uses[0]) / PER
    show(given, "exact", floor=LIMIT, figure=most, unit="most_in_a_window", share=len(uses) / LIMIT / (windows + 1))


async def use_it(dsn: str, seconds: float) -> list[float]:
    """Be one of the processes; return when each permit was used, on the clock that processes share."""
    used: list[float] = []
    draw = Stock.draw

    def drawn(stock: Stock) -> Any:
        instant = time.monotonic()
        found = draw(stock)
        if found == "drawn":
            used.append(instant)
        return found

    Stock.draw = drawn  # pyright: ignore[reportAttributeAccessIssue] - takes the time, then draws
    async with Engine(Pipeline("bench"), store=dsn, slots=0) as engine:
        end = time.monotonic() + seconds

        async def use() -> None:
            while time.monotonic() < end:
                async with engine.limits.limit("key", Rate(LIMIT, per=PER), max_wait="1m"):
                    pass

        async with asyncio.TaskGroup() as group:
            for _ in range(LIMIT // 2):
                group.create_task(use())
    return used


async def main() -> None:
    given = options(__doc__)
    await local(given)
    with TemporaryDirectory() as folder:
        server = EmbeddedServer(Path(folder) / "fs")
        await server.open()
        try:
            await shared(given, server, callers=CALLERS, name="shared")
            await shared(given, server, callers=1, name="one_by_one")
            await exact(given, server)
        finally:
            await server.close()


if __name__ == "__main__":
    if "--user" in sys.argv:
        parser = argparse.ArgumentParser()
        parser.add_argument("--user", required=True)
        parser.add_argument("--seconds", type=float, required=True)
        words = parser.parse_args()
        print(json.dumps(asyncio.run(use_it(words.user, words.seconds))))
    else:
        asyncio.run(main())
