"""How long it takes to know what would run.

`assets_10000`: validating and planning a pipeline of 10,000 assets in memory; the floor is ordering its graph with the
standard library's `graphlib`. `history_1000000`: planning three assets on Postgres with 1,000,000 materializations of
history; the floor is the same plan on an empty database.
"""

from __future__ import annotations

import asyncio
import graphlib
import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import asyncpg

from benchmarks.harness import Options, median_seconds, options, show
from benchmarks.overhead import three
from flowstone_async import Engine, Pipeline
from flowstone_async.store.embedded.server import EmbeddedServer

HISTORY = Path(__file__).with_name("history.sql").read_text()


def ladder(count: int) -> Pipeline:
    """Return a ladder of diamonds: each asset depends on the two before it."""
    pipe = Pipeline("ladder")

    async def both(one: int, two: int) -> int:
        return one + two

    pipe.constant("a0", 1)
    pipe.constant("a1", 1)
    for number in range(2, count):
        pipe.add(both, name=f"a{number}", deps={"one": f"a{number - 1}", "two": f"a{number - 2}"})
    return pipe


async def assets(given: Options, count: int) -> None:
    taken: list[float] = []
    for _ in range(given.repeat(5, 3)):
        pipe = ladder(count)
        begun = time.perf_counter()
        await pipe.plan(f"a{count - 1}")
        taken.append(time.perf_counter() - begun)
    graph = {f"a{n}": [f"a{n - 1}", f"a{n - 2}"] for n in range(2, count)}

    async def order() -> None:
        list(graphlib.TopologicalSorter(graph).static_order())

    floor = await median_seconds(5, order)
    show(given, f"assets_{count}", floor=floor * 1e3, figure=statistics.median(taken) * 1e3, unit="ms", aim="1000 ms")


async def history(given: Options, rows: int) -> None:
    with TemporaryDirectory() as folder:
        server = EmbeddedServer(Path(folder) / "fs")
        address = await server.open()
        try:
            pipe = three()
            async with Engine(pipe, store=address.dsn()) as engine:
                await engine.run("total")
                times = given.repeat(200, 50)
                floor = await median_seconds(times, lambda: engine.plan("total"))
                connection = await asyncpg.connect(**address.arguments())
                try:
                    await connection.execute(HISTORY.replace(":rows", str(rows)), timeout=600)
                finally:
                    await connection.close()
                taken = await median_seconds(times, lambda: engine.plan("total"))
        finally:
            await server.close()
    show(given, f"history_{rows}", floor=floor * 1e3, figure=taken * 1e3, unit="ms", aim="1.5x the empty database")


async def main() -> None:
    given = options(__doc__)
    await assets(given, 10_000)
    await history(given, 1_000_000)


if __name__ == "__main__":
    asyncio.run(main())
