"""Results of scatters that are too large to be held together: memory and Postgres (SCAT-17)."""

from __future__ import annotations

import random
from typing import Any

import pytest

from flowstone_async import Batch, Batching, Gathered, Pipeline
from flowstone_async._engine.scatter import chunks, contents, flushing, upstream
from flowstone_async.store import blocks
from flowstone_async.store.blocks import weight
from tests.support.engines import OpenEngine

COUNT, SIZE = 60, 100
LEAST = 5 * SIZE
VALUES = {no: f"{no:03}" + "x" * SIZE for no in range(COUNT)}


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let little be written and read together, and tell how much was each time: bytes of contents, less the last block's."""
    for module in (chunks, contents, flushing):
        monkeypatch.setattr(module, "MOST_AT_ONCE", LEAST)
    monkeypatch.setattr(upstream, "_MOST_BYTES", LEAST)
    return []


def _watch(engine: Any, held: list[int]) -> None:
    """Note what the store gives, and let it give as little as the engine keeps."""
    store = engine._live().store.scatters

    def watched(name: str) -> Any:
        read = getattr(store, name)

        async def asked(*args: Any, **options: Any) -> Any:
            found = await read(*args, **{"most": LEAST, **options})
            sizes = [weight(each.block) for each in found if each.whole]
            held.append(sum(sizes[:-1]) if name == "committed" else sum(sizes))
            return found

        return asked

    for name in ("blocks", "committed"):
        setattr(store, name, watched(name))


@pytest.mark.parametrize("order", ["source", "completion"])
@pytest.mark.parametrize("form", ["packed", "rows"])
@pytest.mark.parametrize("batch", [None, 3])
async def test_large_results_are_read_some_at_a_time(
    open_engine: OpenEngine, held: list[int], order: Any, form: Any, batch: int | None
) -> None:
    pipe, left = Pipeline("large"), list(range(COUNT))
    random.Random(7).shuffle(left)
    options: Any = {"results": form, "order": order, "page_size": 30, "max_concurrent": 20}

    if batch is None:

        @pipe.scatter(left, key=False, **options)
        async def items(no: int) -> str:
            return VALUES[no]
    else:

        @pipe.scatter(left, batch=Batching(max_items=batch), **options)
        async def items(some: Batch[int]) -> list[str]:
            return [VALUES[no] for no in some]

    engine = await open_engine(pipe)
    _watch(engine, held)
    run = await engine.submit(items)
    found: Gathered[Any] = await run
    assert len(held) == 0, "nothing is read before somebody asks"

    expected = [VALUES[no] for no in left]
    if batch is not None:
        expected = [expected[place : place + batch] for place in range(0, COUNT, batch)]  # type: ignore[misc]
    read = [value async for value in found]
    assert read == expected if order == "source" else sorted(read) == sorted(expected)
    assert [value async for _, value in found.items()] == read
    assert await found.get(7 if batch is None else left[7]) == expected[7 if batch is None else 7 // batch]
    assert len(await run.items(items, state="done", limit=1000)) == len(expected)
    assert max(held) <= LEAST
    assert len(held) > 2 * (COUNT * SIZE // (2 * LEAST)), "twice, some at a time"


@pytest.mark.parametrize("form", ["packed", "rows"])
async def test_large_results_are_followed_some_at_a_time(open_engine: OpenEngine, held: list[int], form: Any) -> None:
    """SCAT-26: also what is read page by page once the upstream is closed."""
    pipe = Pipeline("large")

    @pipe.scatter(range(COUNT), results=form, page_size=30, max_concurrent=20)
    async def first(no: int) -> str:
        return VALUES[no]

    @pipe.scatter(first, page_size=30)
    async def second(text: str) -> int:
        return int(text[:3])

    engine = await open_engine(pipe)
    _watch(engine, held)
    found: Gathered[int] = await engine.run(second)
    assert sorted([no async for no in found]) == list(range(COUNT))
    assert max(held) <= LEAST


def test_what_is_written_together_may_be_read_together() -> None:
    """Else a block would never be at hand."""
    assert contents.MOST_AT_ONCE == upstream._MOST_BYTES == blocks.MOST_AT_ONCE
