"""Bodies that fan out with `ctx.map`, and what they call."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest

from flowstone_async import Context, LeaseLost, Pipeline
from tests.support.crash import kill, look_for_orphans
from tests.support.engines import OpenEngine
from tests.support.gate import Gate, soon
from tests.support.waits import mismatch_of

OFTEN: Any = {"poll": "10ms"}
RARELY: Any = {"poll": "60s", "slots": 0}


@dataclass
class Page:
    number: int
    lines: tuple[str, ...] = ()


class Site:
    """Functions that count their calls."""

    def __init__(self) -> None:
        self.calls: Counter[Any] = Counter()
        self.gate, self.end = Gate(), Gate()

    async def fetch(self, number: int) -> Page:
        self.calls[number] += 1
        return Page(number, ("a", "b"))

    async def ended(self) -> None:
        """Hold the body: what it has done is on record."""
        await self.end()

    @property
    def made(self) -> dict[Any, int]:
        return dict(self.calls)


async def taken_over(
    open_engine: OpenEngine,
    pipes: Pipeline | tuple[Pipeline, Pipeline],
    gate: Gate,
    *,
    reached: int = 1,
    fits: bool = True,
) -> Any:
    """Run the asset `fanned` until its body waits at a gate, let the engine die, open the gate; what the next one gets.

    Where the code does not fit any more, that is the error of it.
    """
    first, second = pipes if isinstance(pipes, tuple) else (pipes, pipes)
    dying, living = await open_engine(first, **OFTEN), await open_engine(second, **RARELY)
    running = asyncio.create_task(dying.run("fanned", force=True))
    await gate.reached(gate.calls + reached)
    await kill(dying)
    with pytest.raises(LeaseLost):
        await soon(running)
    gate.open()
    await look_for_orphans(living)
    return await soon(living.wait("fanned")) if fits else await mismatch_of(living, "fanned")


def fanned(body: Callable[[Context], Awaitable[Any]], **options: Any) -> Pipeline:
    pipe = Pipeline("mapping")

    @pipe.asset(**options)
    async def fanned(ctx: Context) -> Any:
        return await body(ctx)

    return pipe
