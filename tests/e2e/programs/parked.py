"""Items that wait for a signal each, in nobody's memory: `python -m tests.e2e.programs.parked DSN ITEMS`.

Run again, it goes on with the same run. Each call is a line of the file `calls`.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from flowstone_async import Context, Engine, Gathered, Pipeline

SECRET = b"s" * 32
pipe = Pipeline("parked")
items: list[int] = []


def note(*what: object) -> None:
    with Path("calls").open("a") as calls:
        calls.write(" ".join(map(str, what)) + "\n")


async def start(item: int) -> str:
    note("start", item)
    return f"job {item}"


async def finish(answer: int) -> int:
    note("finish", answer)
    return 2 * answer


@pipe.asset
async def numbers() -> list[int]:
    return items


@pipe.scatter(numbers, max_concurrent=20, page_size=50)
async def answered(item: int, ctx: Context) -> int:
    note("body", item)
    await ctx.step(start, item)
    return await ctx.step(finish, await ctx.signal(int, token=f"item {item}", timeout=False))


@answered.gather
async def total(results: Gathered[int]) -> int:
    return sum([each async for each in results])


async def main(dsn: str, count: int) -> None:
    """Submit the run, or go on with it, and print its result."""
    items.extend(range(count))
    async with Engine(pipe, store=dsn, secret=SECRET, park_after="1ms", poll="100ms", lease="2s") as engine:
        run = await engine.submit(total, key="the one")
        print(await run.result())


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
