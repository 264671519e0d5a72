"""Durable runs of three assets on the embedded Postgres, one partition each.

`inline_1`: awaited inline, one after another; `inline_100`: 100 in flight. The floor is the very statements that the
engine sent in the same run, with the same rows in the same groups, replayed on an empty database by the bare driver.
`queued_w1`, `queued_w2`, `queued_w4`: submitted, and executed by 1, 2 and 4 worker processes with 100 slots together.
The floor submits, claims and commits the same rows in the same groups, without the engine's reads.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import asyncpg

from benchmarks.harness import Options, options, percentile, show
from benchmarks.overhead import three
from benchmarks.stored import Statement, add_workers, database, recorded
from benchmarks.through_queue import queued
from flowstone_async import Engine
from flowstone_async.store.embedded.server import EmbeddedServer


async def drive(engine: Engine, label: str, runs: int, flight: int) -> tuple[float, list[float]]:
    """Run the target for `runs` partitions, `flight` at a time; return seconds and latencies."""
    taken: list[float] = []
    numbers = iter(range(runs))

    async def work() -> None:
        for number in numbers:
            begun = time.perf_counter()
            await engine.run("total", partition=f"{label}-{number}")
            taken.append(time.perf_counter() - begun)

    begun = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(flight):
            group.create_task(work())
    return time.perf_counter() - begun, taken


async def replay(dsn: str, workers: list[Any], sent: list[Statement], *, together: bool) -> float:
    """Send recorded statements again on an empty database; return seconds."""
    async with Engine(three(), store=dsn):
        pass
    async with asyncpg.create_pool(dsn, min_size=2, max_size=2) as pool:
        await add_workers(pool, workers)
        reads = [each for each in sent if "INSERT" not in each[0]]
        writes = [each for each in sent if "INSERT" in each[0]]
        lanes = [reads, writes] if together else [sent]

        async def lane(statements: list[Statement]) -> None:
            async with pool.acquire() as connection:
                for text, arguments in statements:
                    await connection.fetch(text, *arguments)

        begun = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for statements in lanes:
                group.create_task(lane(statements))
        return time.perf_counter() - begun


async def measure(given: Options, server: EmbeddedServer, name: str, runs: int, flight: int, aim: str) -> None:
    async with database(server, name) as dsn, database(server, f"{name}_floor") as empty:
        async with Engine(three(), store=dsn, block_warning=False) as engine:
            await drive(engine, "warm", 2 * flight, flight)
            with recorded() as sent:
                seconds, taken = await drive(engine, "run", runs, flight)
            connection = await asyncpg.connect(dsn)
            workers = await connection.fetch("SELECT * FROM flowstone.worker")
            await connection.close()
        floor = await replay(empty, workers, sent, together=flight > 1)
    show(
        given,
        name,
        floor=floor / runs * 1e3,
        figure=seconds / runs * 1e3,
        unit="ms_per_run",
        aim=aim,
        runs_per_s=runs / seconds,
        floor_runs_per_s=runs / floor,
        p50_ms=percentile(taken, 0.5) * 1e3,
        p99_ms=percentile(taken, 0.99) * 1e3,
        statements_per_run=len(sent) / runs,
    )


async def main() -> None:
    given = options(__doc__)
    with TemporaryDirectory() as folder:
        server = EmbeddedServer(Path(folder) / "fs")
        await server.open()
        try:
            await measure(given, server, "inline_1", given.repeat(1000, 200), 1, "2x the floor")
            await measure(given, server, "inline_100", given.repeat(20_000, 3000), 100, "6,000 runs/s")
            for processes in (1, 2, 4):
                await queued(given, server, processes, given.repeat(6000, 1500))
        finally:
            await server.close()


if __name__ == "__main__":
    asyncio.run(main())
