"""Scatters that follow one another, in batches, and outlive their engine: in memory and on Postgres (READ-07, BATCH-07)."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from typing import Any

import pytest

from flowstone_async import Batch, Batching, FlowstoneError, LeaseLost, Pipeline, Retry
from tests.engine.test_batches_resume import Death, Seen
from tests.engine.test_scatter_resume import kept
from tests.support.crash import kill, look_for_orphans
from tests.support.engines import OpenEngine
from tests.support.gate import Gate, soon

OFTEN: Any = {"poll": "10ms"}
RARELY: Any = {"poll": "60s"}
TWICE = Retry(2, backoff="none")


@dataclass(frozen=True)
class Doc:
    name: str
    size: int


DOCS = [Doc(f"d{no}", no) for no in range(20)]


@pytest.mark.parametrize("key", [None, False, lambda doc: doc.name])
@pytest.mark.parametrize("group", [False, lambda size: size % 2])
async def test_what_is_in_no_batch_yet_goes_on(open_engine: OpenEngine, key: Any, group: Any):
    """READ-07, SCAT-26: it was given already, and is not given again; it has its key still."""
    pipe, gate, seen, keys = Pipeline("carried"), Gate(), Seen(), dict[int, Any]()

    @pipe.scatter(DOCS, key=key, page_size=7)
    async def first(doc: Doc) -> int:
        if doc.size >= 10:
            await gate()
        return doc.size

    @pipe.scatter(first, batch=Batching(max_items=4, group_by=group), page_size=3)
    async def second(sizes: Batch[int]) -> list[int]:
        seen.note(sizes)
        keys.update(zip(sizes, sizes.keys, strict=True))
        return list(sizes)

    dying, living = await open_engine(pipe, **OFTEN), await open_engine(pipe, **RARELY, slots=0)
    running = asyncio.create_task(dying.run(second))
    await kept(living, 10, "read", asset="second")
    await kill(dying)
    with pytest.raises(LeaseLost):
        await soon(running)
    gate.open()
    before = set(seen.calls)
    await look_for_orphans(living)
    found = await soon(living.wait(second))
    assert sorted([no async for no in found.flat()]) == list(range(20))
    composed = seen.composed()
    assert sorted(no for batch in composed for no in batch) == list(range(20))
    assert {len(composed[number]) for number in before} <= {4}, "none had begun that was not whole"
    known = {None: lambda no: DOCS[no], False: lambda no: no}.get(key, lambda no: f"d{no}")
    assert keys == {no: known(no) for no in range(20)}
    for no in (0, 19):
        assert no in await found.get(known(no))


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize(("name", "nth"), [*(("add_page", nth) for nth in range(1, 9)), ("flush", 3), ("close", 2)])
async def test_wherever_the_reader_dies_each_item_is_in_one_batch(
    open_engine: OpenEngine, monkeypatch: pytest.MonkeyPatch, name: str, nth: int, after: bool
):
    """READ-07, BATCH-07, SCAT-26: results that were given and are in no batch yet are neither lost nor repeated."""
    pipe, seen = Pipeline("dying"), Seen()

    @pipe.scatter(DOCS, page_size=6, tolerate=0.5, retry=False)
    async def first(doc: Doc) -> int:
        if doc.size == 7:
            raise ValueError("seven")
        return doc.size

    @pipe.scatter(first, batch=Batching(max_items=4), page_size=3)
    async def second(sizes: Batch[int]) -> list[int]:
        seen.note(sizes)
        assert sizes.keys == tuple(DOCS[size] for size in sizes)
        return list(sizes)

    dying, living = await open_engine(pipe, **OFTEN), await open_engine(pipe, poll="50ms", slots=0)
    Death(dying, monkeypatch, name, nth, after=after)
    with pytest.raises(FlowstoneError):
        await soon(dying.run(second))
    await look_for_orphans(living)
    found = await soon(living.wait(second))
    wanted = [no for no in range(20) if no != 7]
    assert sorted([no async for no in found.flat()]) == wanted
    assert sorted(no for batch in seen.composed() for no in batch) == wanted
    assert [len(batch) for batch in seen.composed()] == [4, 4, 4, 4, 3]
    assert await living._live().store.verify() == ()
    [run] = await living.runs()
    counts = (await (await living.find(run.id)).status()).scatters["second"]
    assert (counts.total, counts.skipped, counts.items) == (6, 1, 19)


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize(
    ("name", "nth"), [*(("add_page", nth) for nth in (2, 3, 4, 5)), *(("flush", nth) for nth in range(1, 7))]
)
@pytest.mark.parametrize("results", ["packed", "rows"])
async def test_wherever_a_worker_dies_each_batch_is_one_item(
    open_engine: OpenEngine, monkeypatch: pytest.MonkeyPatch, name: str, nth: int, after: bool, results: Any
):
    """SCAT-16, SCAT-26, BATCH-08: that of those that left theirs, too."""
    pipe, seen = Pipeline("dying"), Counter[int]()

    @pipe.scatter(DOCS, batch=Batching(max_items=4), page_size=8, retry=TWICE, max_concurrent=2, results=results)
    async def first(docs: Batch[Doc]) -> list[int]:
        await asyncio.sleep(0)
        if len(docs) > 1:
            raise docs.failed({1: ConnectionError("gone")}, value=[doc.size for doc in docs if doc.size % 4 != 1])
        return [doc.size for doc in docs]

    @pipe.scatter(first, key=False, page_size=3)  # so that nothing else finds out what is given twice
    async def second(sizes: list[int]) -> list[int]:
        seen.update(sizes)
        return sizes

    dying, living = await open_engine(pipe, **OFTEN), await open_engine(pipe, poll="50ms", slots=0)
    Death(dying, monkeypatch, name, nth, after=after)
    with pytest.raises(FlowstoneError):
        await soon(dying.run(second))
    await look_for_orphans(living)
    found = await soon(living.wait(second))
    assert (found.total, found.succeeded) == (10, 10)
    assert sorted([no async for no in found.flat()]) == list(range(20))
    assert set(seen) == set(range(20))
    assert await living._live().store.verify() == ()
