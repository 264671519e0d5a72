"""A scatter over many items that is submitted once and worked off by whoever lives: `million.py DSN ITEMS`."""

from __future__ import annotations

import asyncio
import json
import resource
import sys
from collections.abc import AsyncIterator

from flowstone_async import Engine, Gathered, Pipeline

DSN, ITEMS = sys.argv[1], int(sys.argv[2])
pipe = Pipeline("million")


@pipe.asset
async def numbers() -> AsyncIterator[int]:
    for number in range(ITEMS):
        yield number


@pipe.scatter(numbers)
async def squares(number: int) -> int:
    return number * number


@squares.gather
async def seen(results: Gathered[int]) -> int:
    """Return how many results there are, each where it belongs."""
    count = 0
    async for number, square in results.items():
        if (number, square) != (count, count * count):
            raise ValueError(f"item {count} is {number}: {square}")
        count += 1
    return count


async def main() -> None:
    async with Engine(pipe, store=DSN, lease="2s", poll="100ms") as engine:
        run = await engine.submit(seen, key="once")
        count = await run
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(json.dumps({"seen": count, "peak_mb": peak}))


asyncio.run(main())
