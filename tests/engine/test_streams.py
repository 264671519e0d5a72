"""Stream assets: ASSET-09."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from flowstone_async import (
    ExecutionError,
    NotMaterialized,
    Pipeline,
    Retry,
    StorageError,
    Stream,
    TimedOut,
    io,
)
from tests.support.engines import OpenEngine, OpenVerbs, SharedEngines
from tests.support.gate import Gate, soon


@dataclass(frozen=True)
class Row:
    no: int
    text: str


def _rows(count: int, calls: list[int]) -> Pipeline:
    pipe = Pipeline("streams")

    @pipe.asset
    async def rows() -> AsyncIterator[Row]:
        calls.append(count)
        for number in range(count):
            yield Row(number, f"row {number}")

    @pipe.asset
    async def total(rows: Stream[Row]) -> int:
        return sum([row.no async for row in rows]) + sum([1 async for _ in rows])

    @pipe.asset
    async def evens(rows: AsyncIterator[Row]) -> AsyncIterator[int]:
        async for row in rows:
            if row.no % 2 == 0:
                yield row.no

    return pipe


async def test_a_stream_is_iterated_as_often_as_one_likes(open_verbs: OpenVerbs):
    """ASSET-09: by its caller, by dependants, twice within one, at the same time; items are of the declared type."""
    calls: list[int] = []
    verbs = await open_verbs(_rows(1000, calls))
    stream = await verbs.run("rows")
    assert isinstance(stream, Stream)
    expected = [Row(number, f"row {number}") for number in range(1000)]
    assert [row async for row in stream] == expected
    assert [row async for row in stream] == expected
    one, other = aiter(stream), aiter(stream)
    assert (await anext(one), await anext(other), await anext(one)) == (expected[0], expected[0], expected[1])
    assert await verbs.run("total") == sum(range(1000)) + 1000
    assert [n async for n in await verbs.run("evens")] == list(range(0, 1000, 2))
    assert calls == [1000]


async def test_a_stored_stream_is_read_again(open_engine: OpenEngine):
    """ASSET-09: `get` from another engine; an empty one is a value too."""
    engine = await open_engine(_rows(0, []))
    assert [row async for row in await engine.run("rows")] == []
    assert await engine.exists("rows")
    await engine.invalidate("rows")
    full = await open_engine(_rows(5, []))
    await full.run("rows")
    other = await open_engine(_rows(5, calls := []))
    assert len([row async for row in await other.get("rows")]) == 5
    assert not calls


async def test_a_stream_that_raises_midway_commits_nothing(open_verbs: OpenVerbs):
    """ASSET-09: no part of it is visible, an earlier value stays, and its `finally` has run."""
    pipe = Pipeline("streams")
    broken = [False]
    closed: list[str] = []

    @pipe.asset(cache=False)
    async def rows() -> AsyncIterator[int]:
        try:
            for number in range(5000):
                if broken[0] and number == 4000:
                    raise LookupError("the source broke off")
                yield number
        finally:
            closed.append("closed")

    verbs = await open_verbs(pipe)
    broken[0] = True
    with pytest.raises(ExecutionError, match="the source broke off"):
        await verbs.run(rows)
    with pytest.raises(NotMaterialized):
        await verbs.get(rows)
    broken[0] = False
    await verbs.run(rows)
    broken[0] = True
    with pytest.raises(ExecutionError):
        await verbs.run(rows)
    assert len([n async for n in await verbs.get(rows)]) == 5000
    assert closed == ["closed"] * 3


async def test_a_retried_stream_starts_anew(open_verbs: OpenVerbs):
    """ASSET-09, FLOW-08: nothing of the first attempt is left in it."""
    pipe = Pipeline("streams")
    attempts: list[int] = []

    @pipe.asset(retry=Retry(2, backoff="none"))
    async def rows() -> AsyncIterator[int]:
        attempts.append(len(attempts))
        for number in range(3000):
            if len(attempts) == 1 and number == 2500:
                raise ConnectionError
            yield number + 10_000 * len(attempts)

    verbs = await open_verbs(pipe)
    found = [n async for n in await verbs.run(rows)]
    assert found == [number + 20_000 for number in range(3000)]


async def test_equal_streams_leave_their_dependants_fresh(open_verbs: OpenVerbs):
    """ASSET-09, CACHE-05: the fingerprint is over the chunks."""
    pipe = Pipeline("streams")
    calls: list[int] = []
    count = [2000]

    @pipe.asset(cache=False)
    async def rows() -> AsyncIterator[int]:
        for number in range(count[0]):
            yield number

    @pipe.asset
    async def total(rows: AsyncIterator[int]) -> int:
        calls.append(1)
        return sum([n async for n in rows])

    verbs = await open_verbs(pipe)
    for each in (2000, 2000, 2001):
        count[0] = each
        assert await verbs.run(total) == sum(range(each))
    assert len(calls) == 2


async def test_an_item_of_another_type_fails_the_asset(open_verbs: OpenVerbs):
    """ASSET-09, STORE-04: wherever in the stream it comes."""
    pipe = Pipeline("streams")

    @pipe.asset
    async def rows() -> AsyncIterator[int]:
        for number in range(2000):
            yield number
        yield "no number"  # type: ignore[misc]

    verbs = await open_verbs(pipe)
    with pytest.raises(StorageError, match="rows"):
        await verbs.run(rows)
    assert not await verbs.exists(rows)


@pytest.mark.parametrize("place", ["store", "files"])
async def test_a_stream_is_never_held_whole(engines: SharedEngines, tmp_path: Path, place: str):
    """ASSET-09, G-03: 100 MB pass through with a few chunks at a time, on the way in and on the way out."""
    in_files = place == "files" or not engines.durable  # a memory store keeps what it keeps
    pipe = Pipeline("streams", io=io.Files(tmp_path) if in_files else None)

    @pipe.asset
    async def blobs() -> AsyncIterator[bytes]:
        for number in range(1000):
            yield number.to_bytes(4, "big") * 25_000

    @pipe.asset
    async def size(blobs: AsyncIterator[bytes]) -> int:
        return sum([len(blob) async for blob in blobs])

    engine = await engines.open(pipe)
    gc.collect()
    tracemalloc.start()
    try:
        assert await engine.run(size) == 100_000_000
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 30_000_000, f"{peak / 1e6:.0f} MB at once"


async def test_chunks_are_written_while_the_stream_is_produced(open_engine: OpenEngine):
    """ASSET-09: not at its end; and nobody sees them before it has ended."""
    pipe = Pipeline("streams")
    gate = Gate()

    @pipe.asset
    async def rows() -> AsyncIterator[str]:
        for number in range(200):
            yield f"{number:06}" * 10_000
        await gate()

    engine = await open_engine(pipe)
    running = asyncio.create_task(engine.run(rows))
    await gate.reached()
    assert not await engine.exists(rows)
    gate.open()
    stream = await soon(running)
    assert len([row async for row in stream]) == 200


async def test_a_stream_has_a_time_limit_too():
    """ASSET-09, FLOW-09: for all of it."""
    pipe = Pipeline("streams")

    @pipe.asset(timeout="30ms")
    async def rows() -> AsyncIterator[int]:
        yield 1
        await asyncio.Event().wait()

    with pytest.raises(TimedOut):
        await pipe.run(rows)
    assert not await pipe.exists(rows)


async def test_calling_a_stream_asset_calls_its_body():
    """ASSET-09, ASSET-02: an async iterator, nothing stored."""
    pipe = Pipeline("streams")

    @pipe.asset
    async def rows(count: int = 3) -> AsyncIterator[int]:
        for number in range(count):
            yield number

    assert [n async for n in rows()] == [0, 1, 2]
    assert not await pipe.exists(rows)
