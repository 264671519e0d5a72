"""Items under which workers died, while others are always at hand: memory and Postgres (SCAT-14)."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest

from flowstone_async import Pipeline, Rate
from flowstone_async._engine.scatter.bodies import Bodies
from flowstone_async._engine.scatter.chunks import LocalChunk
from flowstone_async._engine.scatter.scattering import Scattering
from flowstone_async.clock import ManualClock
from tests.engine.test_scatter_resume import RARELY, kept
from tests.support.crash import kill, look_for_orphans
from tests.support.engines import OpenEngine
from tests.support.gate import Gate, soon

ENOUGH = 200


@pytest.mark.parametrize("rate", [False, Rate(100_000, per="1s"), Rate(100_000, per="1s", key=lambda no: no % 3)])
async def test_a_suspect_runs_alone_while_a_source_goes_on(
    open_engine: OpenEngine, monkeypatch: pytest.MonkeyPatch, rate: Any
):
    """SCAT-14: and all others run, before it and after it."""

    async def die(self: Scattering, bodies: Bodies) -> None:
        bodies.cancel()

    monkeypatch.setattr(Scattering, "_end", die)  # without handing anything back
    pipe, gate, times, running = Pipeline("endless"), Gate(), list[int](), set[int]()

    async def numbers() -> AsyncIterator[int]:
        for no in range(ENOUGH):
            yield no

    @pipe.scatter(numbers, page_size=20, max_concurrent=3, rate=rate)
    async def items(no: int) -> int:
        running.add(no)
        try:
            if no == 3:
                times.append(len(running))
                if len(times) < 3:
                    await gate()
            else:
                for _ in range(3 + no % 3):
                    await asyncio.sleep(0)
            return no
        finally:
            running.discard(no)

    living = await open_engine(pipe, **RARELY, slots=0)
    first = await open_engine(pipe, **RARELY)
    run = await first.submit("items")
    for died in (1, 2):
        dying = first if died == 1 else await open_engine(pipe, **RARELY)
        if died > 1:
            await look_for_orphans(dying)
        await gate.reached(died)
        await kill(dying)
        running.clear()
    await look_for_orphans(living)
    found = await soon((await living.find(run.id)).result())
    assert found.succeeded == found.total == ENOUGH
    assert (len(times), times[-1]) == (3, 1)


async def test_items_that_only_waited_do_not_fail(open_engine: OpenEngine, monkeypatch: pytest.MonkeyPatch):
    """SCAT-14, SCAT-08: more workers died than an item survives, all while a rate let it wait in their hands."""

    async def die(self: Scattering, bodies: Bodies) -> None:
        bodies.cancel()

    monkeypatch.setattr(Scattering, "_end", die)  # without handing anything back
    pipe, clock, calls, held = Pipeline("waiting"), ManualClock(), Counter[int](), list[LocalChunk]()
    hold = Scattering._hold

    def noted(self: Scattering, chunk: LocalChunk, *, suspect: bool = False) -> None:
        held.append(chunk)
        hold(self, chunk, suspect=suspect)

    monkeypatch.setattr(Scattering, "_hold", noted)

    @pipe.scatter(range(20), rate=Rate(2, per="1h"))
    async def items(no: int) -> int:
        calls[no] += 1
        return no

    options: Any = {"clock": clock, "lease": "30d", **RARELY}
    living = await open_engine(pipe, **options, slots=0)
    dying = await open_engine(pipe, **options)
    run = await dying.submit("items", timeout=False)
    await kept(living, 2)
    for died in range(5):
        if died:
            dying = await open_engine(pipe, **options)
            held.clear()
            await look_for_orphans(dying)
            async with asyncio.timeout(10):
                while sum(chunk.chunk.lost > 0 for chunk in held) < 4:
                    await asyncio.sleep(0)
        await kill(dying)
    await look_for_orphans(living)
    result = asyncio.create_task((await living.find(run.id)).result())
    while not result.done():
        await clock.advance(1800)
        await asyncio.sleep(0)
    assert await (await result).to_list(limit=20) == list(range(20))
    assert {chunk.chunk.lost for chunk in held if calls[chunk.chunk.first] == 1} == {1}, "nobody had begun them"
    assert sum(calls.values()) <= 20 + 2 * 6, "those that had begun, at most"


async def test_an_item_that_waited_for_its_turn_survives_the_death_of_its_first_worker(
    open_engine: OpenEngine, monkeypatch: pytest.MonkeyPatch
):
    """SCAT-14: `b` was in hand at three deaths, and had begun at one of them: not `max_lost` workers died under it."""

    async def die(self: Scattering, bodies: Bodies) -> None:
        bodies.cancel()

    monkeypatch.setattr(Scattering, "_end", die)  # without handing anything back
    pipe, gates, calls = Pipeline("turns"), {"a": Gate(), "b": Gate()}, Counter[str]()

    @pipe.scatter(["a", "b"], max_concurrent=1)
    async def items(name: str) -> str:
        calls[name] += 1
        await gates[name]()
        return name

    living = await open_engine(pipe, **RARELY, slots=0)
    dying = await open_engine(pipe, **RARELY)
    run = await dying.submit("items")
    for gate, times in (("a", 1), ("a", 2), ("b", 1)):
        if times > 1 or gate == "b":
            dying = await open_engine(pipe, **RARELY)
            await look_for_orphans(dying)
        if gate == "b":
            await gates["a"].reached(3)
            gates["a"].open()
        await gates[gate].reached(times)
        await kill(dying)
    gates["b"].open()
    await look_for_orphans(living)
    found = await soon((await living.find(run.id)).result())
    assert await found.to_list(limit=2) == ["a", "b"]
    assert calls == {"a": 3, "b": 2}
