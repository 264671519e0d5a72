"""Runs that wait for signals: `suspended.py begin|send|go_on DSN RUNS`, each in a process of its own.

What a body does once it was signalled is counted in a table of the database, outside of all that the engine records.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

import asyncpg

from flowstone_async import Context, Engine, Pipeline

PHASE, DSN, RUNS = sys.argv[1], sys.argv[2], int(sys.argv[3])
AT_ONCE = 100
SECRET: Any = {"secret": b"s" * 32}
pipe = Pipeline("suspended")


@pipe.resource
async def counting() -> AsyncIterator[asyncpg.Pool]:
    async with asyncpg.create_pool(DSN, min_size=1, max_size=4) as pool:
        yield pool


@pipe.asset
async def job(ctx: Context, pool: asyncpg.Pool, partition: str) -> str:
    await pool.execute("INSERT INTO called (partition) VALUES ($1)", partition)
    answer = await ctx.signal(str, token=f"job {partition}", timeout=False)
    await pool.execute("INSERT INTO went_on (partition) VALUES ($1)", partition)
    return answer


async def _each(do: Any) -> None:
    """Do something for each run, some at once."""
    numbers = iter(range(RUNS))

    async def some() -> None:
        for number in numbers:
            await do(str(number))

    async with asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(some())


async def _until(query: str) -> None:
    connection = await asyncpg.connect(DSN)
    while not await connection.fetchval(query, RUNS):
        await connection.execute("SELECT pg_sleep(0.2)")
    await connection.close()


async def main() -> None:
    if PHASE == "begin":
        async with Engine(pipe, store=DSN, **SECRET, park_after=0, slots=AT_ONCE) as engine:
            await _each(lambda partition: engine.submit("job", partition=partition))
            await _until("SELECT count(*) >= $1 FROM flowstone.run WHERE state = 'waiting'")
    elif PHASE == "send":
        async with Engine(pipe, store=DSN, **SECRET).looking() as session:
            assert session.services.worker is None  # nobody is there who could go on with anything
            engine = Engine(pipe, store=DSN, **SECRET, slots=0)
            async with engine:
                await _each(lambda partition: engine.signal(f"job {partition}", f"answer {partition}"))
    else:
        async with Engine(pipe, store=DSN, **SECRET, slots=AT_ONCE):
            await _until("SELECT count(*) >= $1 FROM flowstone.run WHERE state = 'succeeded'")


began = time.monotonic()
asyncio.run(main())
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
print(json.dumps({"phase": PHASE, "seconds": round(time.monotonic() - began, 1), "peak_mb": peak}))
