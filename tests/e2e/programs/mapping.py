"""Assets that fan out inside their bodies and write down every call, for tests that kill what runs them.

`calls` gets a line for each call: its function, the item and the process. A call waits where a test holds it, as
bodies of programs/chain.py do, under the name `function:item`.
"""

from __future__ import annotations

import asyncio

from flowstone_async import Context, Pipeline
from tests.e2e.programs.chain import pause
from tests.e2e.programs.scattered import write

ITEMS, INSIDE = 12, 3

pipe = Pipeline("mapping")


async def called(name: str, item: int) -> None:
    write(name, item)
    await pause(f"{name}:{item}")
    await asyncio.sleep(0)


@pipe.asset
async def squares(ctx: Context) -> list[int]:
    async def square(no: int) -> int:
        await called("square", no)
        return no * no

    return [found async for found in ctx.map(square, range(ITEMS), max_concurrent=4)]


@pipe.asset
async def sums(ctx: Context) -> int:
    async def cell(no: int) -> int:
        await called("cell", no)
        return no

    async def row(no: int) -> int:
        of = range(INSIDE * no, INSIDE * (no + 1))
        return sum([found async for found in ctx.map(cell, of, key=lambda each: each)])

    return sum([found async for found in ctx.map(row, range(ITEMS // INSIDE), max_concurrent=2)])
