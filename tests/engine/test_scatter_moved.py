"""A run goes on after a crash, and what its scatter came from was replaced and pruned meanwhile (SCAT-01).

What is stored still is taken by its version (test_resume_after_crash).
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from flowstone_async import Batch, Batching, Engine, Gathered, LeaseLost, Pipeline, dep
from flowstone_async._engine.pruning import prune
from tests.support.crash import kill, look_for_orphans
from tests.support.engines import OpenEngine
from tests.support.gate import Gate, soon

OFTEN: Any = {"poll": "20ms"}


class _Case:
    """Ten numbers, times a factor; `second` has them from what `source` says, with an `offset`, and `third` follows it."""

    def __init__(self, source: str, **options: Any) -> None:
        self.producer, self.consumer = Pipeline("producer"), Pipeline("consumer")
        self.factor, self.offset_now, self.gate = 1, 0, Gate()

        @self.producer.asset(cache=False)
        async def numbers() -> list[int]:
            return [no * self.factor for no in range(10)]

        @self.producer.scatter(range(10), cache=False)
        async def first(no: int) -> int:
            return no * self.factor

        @self.consumer.asset(cache="exists")
        async def mine() -> list[int]:
            return [no * self.factor for no in range(10)]

        @self.consumer.asset(cache="exists")
        async def offset() -> int:
            return self.offset_now

        async def second(no: Any, offset: int) -> int:
            await self.gate()
            return offset + (no if isinstance(no, int) else no[0])

        second.__annotations__["no"] = Batch[int] if "batch" in options else int
        sources = {"scatter": dep(first, external=True), "asset": dep(numbers, external=True), "own": mine}
        made: Any = self.consumer.scatter(sources[source], name="second", page_size=2, max_concurrent=2, **options)(
            second
        )

        @self.consumer.scatter(made)
        async def third(no: int) -> int:
            return -no

        @third.gather
        async def total(results: Gathered[int]) -> int:
            return sum([no async for no in results])

    async def made(self, engine: Engine) -> None:
        await soon(engine.run("producer.numbers", force=True))
        await soon(engine.run("producer.first", force=True))


@pytest.mark.parametrize("batch", [False, True])
@pytest.mark.parametrize("source", ["scatter", "asset", "own"])
async def test_no_value_is_made_of_two_sources(open_engine: OpenEngine, source: str, batch: bool):
    """SCAT-01, CACHE-01: the scatter begins anew, as for a retried run, and so does what follows it."""
    case = _Case(source, **({"batch": Batching[int](max_items=1)} if batch else {}))
    living = await open_engine(case.producer, case.consumer, poll="60s", slots=0)
    await case.made(living)
    await soon(living.run("consumer.mine"))
    dying = await open_engine(case.consumer, **OFTEN)
    running = asyncio.create_task(dying.run("total"))
    await case.gate.reached(2)
    await kill(dying)
    with pytest.raises(LeaseLost):
        await soon(running)
    case.factor = 10
    await case.made(living)
    await soon(living.run("consumer.mine", force=True))
    await prune(living._live(), runs=None, values=0.0)
    case.gate.open()
    await look_for_orphans(living)
    assert await soon(living.wait("consumer.total")) == -450
    for name, sign in (("consumer.second", 1), ("consumer.third", -1)):
        found = await living.get(name)
        assert sorted([abs(no) async for no in found]) == [no * 10 for no in range(10)], sign
        assert found.total == 10
        assert (await living.status(name)).fresh
    assert await living._live().store.verify() == ()


async def test_all_items_have_the_same_dependencies(open_engine: OpenEngine):
    """SCAT-01: those of the run, in every item and on every worker."""
    case = _Case("own")
    living = await open_engine(case.consumer, poll="60s", slots=0)
    dying = await open_engine(case.consumer, **OFTEN)
    running = asyncio.create_task(dying.run("second"))
    await case.gate.reached(2)
    await kill(dying)
    with pytest.raises(LeaseLost):
        await soon(running)
    case.offset_now = 100
    await soon(living.run("offset", force=True))
    await prune(living._live(), runs=None, values=0.0)
    case.gate.open()
    await look_for_orphans(living)
    found = await soon(living.wait("second"))
    assert sorted([no async for no in found]) == list(range(100, 110))
