"""Scatters of other pipelines: as a dependency, and as a source (ASSET-16, SCAT-17, SCAT-26, BATCH-09)."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest

from flowstone_async import (
    Batch,
    Batching,
    Context,
    DefinitionError,
    DependencyNotReady,
    Gathered,
    Keys,
    LeaseLost,
    Pipeline,
    dep,
)
from tests.support.crash import kill, look_for_orphans
from tests.support.engines import OpenEngine
from tests.support.gate import Gate, soon

OFTEN: Any = {"poll": "50ms"}


@dataclass(frozen=True)
class Doc:
    name: str
    size: int


class _Two:
    """`consumer` reads `producer.first`, in several ways."""

    def __init__(self, **options: Any) -> None:
        self.factor, self.gate, self.keys = 1, Gate(), list[Any]()
        self.gate.open()
        self.producer, self.consumer = Pipeline("producer"), Pipeline("consumer")

        @self.producer.asset(cache=False)
        async def docs() -> list[Doc]:
            return [Doc(f"d{no}", no) for no in range(6)]

        untyped: Any = self.producer
        self.first = first = untyped.scatter(docs, tolerate=0.5, retry=False, cache=False, name="first", **options)(
            self._batch if "batch" in options else self._one
        )

        @self.consumer.asset
        async def taken(results: Gathered[Any] = dep(first, external=True)) -> list[Any]:
            assert (await anext(results.failures())).index in (1, 3)
            return [value async for value in results]

        @self.consumer.scatter(dep(first, external=True))
        async def second(size: Any, ctx: Context) -> Any:
            await self.gate()
            self.keys.append(ctx.item.key)
            return size

        @self.consumer.scatter(dep(first, external=True), batch=Batching(max_items=2), page_size=1)
        async def third(sizes: Batch[Any]) -> Any:
            await self.gate()
            self.keys += sizes.keys
            return list(sizes)

    async def _one(self, doc: Doc) -> int:
        return self.factor * doc.size if doc.size != 3 else 1 // 0

    async def _batch(self, docs: Batch[Doc]) -> list[int]:
        return [self.factor * doc.size for doc in docs if doc.size != 3 or 1 // 0]


@pytest.mark.parametrize("together", [True, False])
async def test_it_is_read_and_never_computed(open_engine: OpenEngine, together: bool):
    """ASSET-16, SCAT-17, SCAT-26: whatever is current, in one engine or from another, by the keys it has there."""
    case = _Two()
    engine = await open_engine(case.producer, **OFTEN)
    await soon(engine.run(case.first))
    reader = (
        await open_engine(case.producer, case.consumer, **OFTEN)
        if together
        else await open_engine(case.consumer, **OFTEN)
    )
    docs = [Doc(f"d{no}", no) for no in (0, 1, 2, 4, 5)]
    for factor in (1, 10):
        case.factor, sizes = factor, [factor * doc.size for doc in docs]
        if factor > 1:
            await soon(engine.run(case.first, force=True))
        found = await soon(reader.run("second"))
        assert {key.name: value async for key, value in found.items()} == {
            doc.name: size for doc, size in zip(docs, sizes, strict=True)
        }
        assert await found.get(docs[3]) == sizes[3]
        third = await soon(reader.run("third"))
        assert sorted([value async for value in third.flat()]) == sizes
        assert third.total == 3
        assert sorted(case.keys, key=str) == sorted([*docs, *docs], key=str)
        case.keys.clear()
        assert sorted(await soon(reader.run("taken"))) == sizes
    assert (await soon(reader.run("second"))).total == 5
    assert not case.keys, "nothing has changed"


async def test_one_in_batches(open_engine: OpenEngine):
    """SCAT-26, BATCH-09: an item for each batch, by the keys of its items."""
    case = _Two(batch=Batching(max_items=2))
    engine = await open_engine(case.producer, case.consumer, **OFTEN)
    await soon(engine.run(case.first))
    found = await soon(engine.run("second"))
    assert [tuple(doc.size for doc in key) async for key, _ in found.items()] == [(0, 1), (4, 5)]
    assert await soon(engine.run("taken")) == [[0, 1], [4, 5]]
    run = await engine.submit("third")
    assert [value async for value in (await soon(run)).flat()] == [[0, 1], [4, 5]]
    counts = (await run.status()).scatters["third"]
    assert (counts.total, counts.done, counts.skipped) == (2, 1, 1)


async def test_without_a_value_it_is_not_ready(open_engine: OpenEngine):
    """ASSET-16."""
    case = _Two()
    engine = await open_engine(case.producer, case.consumer)
    for target in ("second", "third", "taken"):
        with pytest.raises(DependencyNotReady, match=r"producer\.first"):
            await engine.run(target)


async def test_the_other_pipeline_has_problems(open_engine: OpenEngine):
    """ASSET-16, FS100: how its results are stored is not known then; that is told."""
    case = _Two()
    engine = await open_engine(case.producer, **OFTEN)
    await soon(engine.run(case.first))
    reader = await open_engine(case.consumer, **OFTEN)

    @case.producer.asset
    async def broken(nobody: int) -> int:
        return nobody

    with pytest.raises(DefinitionError, match="nobody"):
        await soon(reader.run("taken"))


async def test_it_goes_on_after_a_crash(open_engine: OpenEngine):
    """READ-07: behind what was given."""
    case = _Two()
    engine = await open_engine(case.producer, **OFTEN)
    await soon(engine.run(case.first))
    case.gate.close()
    dying, living = await open_engine(case.consumer, **OFTEN), await open_engine(case.consumer, poll="60s", slots=0)
    running = asyncio.create_task(dying.run("third"))
    await case.gate.reached(2)
    await kill(dying)
    with pytest.raises(LeaseLost):
        await soon(running)
    case.gate.open()
    await look_for_orphans(living)
    found = await soon(living.wait("third"))
    assert sorted([value async for value in found.flat()]) == [0, 1, 2, 4, 5]
    assert found.total == 3


async def test_one_key_of_it(open_engine: OpenEngine):
    """ASSET-16, PART: of the same partition."""
    producer, consumer, areas = Pipeline("producer"), Pipeline("consumer"), Keys("eu", "us")

    @producer.scatter(range(3), partitions=areas)
    async def first(no: int, ctx: Context) -> str:
        return f"{ctx.partition}{no}"

    @consumer.scatter(dep(first, external=True), partitions=areas)
    async def second(name: str) -> str:
        return name.upper()

    engine = await open_engine(producer, consumer, **OFTEN)
    for area in ("eu", "us"):
        await soon(engine.run(first, partition=area))
    found = await soon(engine.run(second, partition="us"))
    assert sorted(await found.to_list(limit=3)) == ["US0", "US1", "US2"]
