"""What a call of `ctx.map` costs: no-op calls of one body, each of which is put on record.

`map_memory`, `map_durable`: microseconds per call, on the memory store and on the embedded Postgres, with the default
of 20 at once. `map_again`: the same where all results are on record already, which is a second attempt. The floor
makes the same calls without any record: as many tasks at once, which take items from one iterator.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.harness import Options, options, show
from benchmarks.stored import database, recorded
from flowstone_async import Context, Engine, Pipeline, Retry
from flowstone_async.store.embedded.server import EmbeddedServer

AT_ONCE = 20


async def call(number: int) -> int:
    return number


async def bare(calls: int) -> float:
    """Return the seconds that so many calls take without a record."""
    found: list[int] = []

    async def work(numbers: Iterator[int]) -> None:
        for number in numbers:
            found.append(await call(number))
            await asyncio.sleep(0)

    begun = time.perf_counter()
    numbers = iter(range(calls))
    async with asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(work(numbers))
    assert len(found) == calls
    return time.perf_counter() - begun


def pipeline(calls: int, taken: list[float]) -> Pipeline:
    """Return an asset that fans out in each of two attempts, and notes how long that took."""
    pipe = Pipeline("mapping")

    @pipe.asset(retry=Retry(attempts=2, backoff="none"))
    async def mapped(ctx: Context) -> int:
        gc.collect()
        begun, count = time.perf_counter(), 0
        async for _ in ctx.map(call, range(calls)):
            count += 1
        taken.append(time.perf_counter() - begun)
        if ctx.attempt == 1:
            raise ConnectionError("again")
        return count

    return pipe


async def measure(given: Options, name: str, calls: int, store: str) -> None:
    """Measure first and second attempts."""
    taken: list[float] = []
    floor = min([await bare(calls) for _ in range(3)])
    pipe = pipeline(calls, taken)
    with recorded() as sent:
        async with Engine(pipe, store=store) as engine:
            for _ in range(given.repeat(5, 2)):
                assert await engine.run("mapped", force=True) == calls
    statements = sum("flowstone.step" in statement for statement, _ in sent)
    made, again = (min(taken[no::2]) / calls * 1e6 for no in (0, 1))
    per = floor / calls * 1e6
    more: dict[str, float] = {"calls": calls, "statements_per_call": statements / len(taken) * 2 / calls}
    show(given, f"map_{name}", floor=per, figure=made, unit="us_per_call", aim="", **more)
    show(given, f"map_{name}_again", floor=per, figure=again, unit="us_per_call", calls=calls)


async def main() -> None:
    given = options(__doc__)
    logging.getLogger("flowstone").setLevel(logging.CRITICAL)  # of the failures that are meant
    calls = given.repeat(5000, 2000)
    await measure(given, "memory", calls, "memory")
    with TemporaryDirectory() as folder:
        server = EmbeddedServer(Path(folder) / "fs")
        await server.open()
        try:
            async with database(server, "mapped") as dsn:
                await measure(given, "durable", calls, dsn)
        finally:
            await server.close()


if __name__ == "__main__":
    asyncio.run(main())
