"""Streams: written as they come, read any number of times, never held whole."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import anyio
import pytest

from flowstone_async.errors import ConfigError, StorageError
from flowstone_async.io import Memory, Postgres
from flowstone_async.io.fingerprint import StreamFingerprint
from tests.contract_io.places import Place


async def counting(count: int) -> AsyncGenerator[int]:
    for no in range(count):
        yield no


async def each(items: Iterable[Any]) -> AsyncGenerator[Any]:
    for item in items:
        yield item


@pytest.mark.parametrize("count", [0, 1, 999, 1000, 1001, 5000])
async def test_a_stream_comes_back_as_often_as_one_likes(streaming: Place, count: int) -> None:
    ref = await streaming.keep_stream(counting(count), int)

    for _ in range(2):
        assert await streaming.items(ref) == list(range(count))


async def test_one_stream_is_iterated_several_times_at_once(streaming: Place) -> None:
    ref = await streaming.keep_stream(counting(3000), int)
    stream = await streaming.load(ref)

    async with aclosing(aiter(stream)) as one, aclosing(aiter(stream)) as other:
        pairs = [(await anext(one), await anext(other)) async for _ in counting(3000)]
        assert await anext(one, None) is None

    assert pairs == [(no, no) for no in range(3000)]


async def test_a_reader_may_stop_anywhere(streaming: Place) -> None:
    stream = await streaming.load(await streaming.keep_stream(counting(5000), int))

    async with aclosing(aiter(stream)) as items:
        assert await anext(items) == 0

    with pytest.raises(ConfigError):
        await stream.to_list(limit=10)
    assert len(await stream.to_list(limit=5000)) == 5000


@dataclass
class Row:
    no: int


async def test_items_come_back_as_the_declared_type_and_belong_to_the_reader(streaming: Place) -> None:
    ref = await streaming.keep_stream(each([Row(1), Row(2)]), Row)
    for row in await streaming.items(ref):
        row.no = 0

    assert await streaming.items(ref) == [Row(1), Row(2)]


@dataclass(eq=False)
class Page:
    no: int


async def test_a_stream_is_never_held_whole(streaming: Place) -> None:
    alive: weakref.WeakSet[Page] = weakref.WeakSet()
    most = 0

    def noticed(row: Page) -> None:
        nonlocal most
        alive.add(row)
        most = max(most, len(alive))

    async def rows() -> AsyncGenerator[Page]:
        for no in range(10_000):
            row = Page(no)
            noticed(row)
            yield row

    ref = await streaming.keep_stream(rows(), Page)
    async for row in await streaming.load(ref):
        noticed(row)

    assert most <= 2001


async def test_large_items_make_small_chunks(streaming: Place) -> None:
    async def texts() -> AsyncGenerator[str]:
        for no in range(40):
            yield str(no % 10) * 100_000

    ref = await streaming.keep_stream(texts(), str)

    assert [len(text) async for text in await streaming.load(ref)] == [100_000] * 40


async def test_the_fingerprint_is_of_the_items_and_not_of_the_chunks(streaming: Place) -> None:
    stored = await streaming.manager.store(streaming.ref(int, stream=True), counting(2500))

    expected = StreamFingerprint()
    for no in range(2500):
        expected.update(str(no).encode())
    assert stored.fingerprint == expected.hexdigest()


async def assert_nothing_is_left(place: Place, ref: Any) -> None:
    if not isinstance(place.manager, Postgres):
        with pytest.raises(StorageError, match="missing"):
            await place.load(ref)
        return
    assert await place.items(ref) == []


async def test_a_stream_that_raises_midway_leaves_nothing(streaming: Place) -> None:
    ended: list[str] = []

    async def breaking() -> AsyncGenerator[int]:
        try:
            async for no in counting(2500):
                yield no
            raise LookupError("no more pages")
        finally:
            ended.append("closed")

    ref = streaming.ref(int, stream=True)
    with pytest.raises(LookupError, match="no more pages"):
        await streaming.manager.store(ref, breaking())

    assert ended == ["closed"]
    await assert_nothing_is_left(streaming, ref)


async def test_a_stream_that_is_cancelled_midway_is_closed_and_leaves_nothing(streaming: Place) -> None:
    ended: list[str] = []
    reached = asyncio.Event()

    async def hanging() -> AsyncGenerator[int]:
        try:
            async for no in counting(2500):
                yield no
            reached.set()
            await anyio.sleep_forever()
        finally:
            ended.append("closed")

    ref = streaming.ref(int, stream=True)
    async with anyio.create_task_group() as group:
        group.start_soon(streaming.manager.store, ref, hanging())
        await reached.wait()
        group.cancel_scope.cancel()

    assert ended == ["closed"]
    await assert_nothing_is_left(streaming, ref)


async def test_a_task_that_is_cancelled_the_plain_way_closes_the_stream_too(streaming: Place) -> None:
    ended: list[str] = []
    reached = asyncio.Event()

    async def hanging() -> AsyncGenerator[int]:
        try:
            async for no in counting(1500):
                yield no
            reached.set()
            await anyio.sleep_forever()
        finally:
            ended.append("closed")

    ref = streaming.ref(int, stream=True)
    task = asyncio.ensure_future(streaming.manager.store(ref, hanging()))
    await reached.wait()
    task.cancel()
    await asyncio.wait([task])

    assert task.cancelled()
    assert ended == ["closed"]
    await assert_nothing_is_left(streaming, ref)


@pytest.mark.parametrize("index", [0, 1, 999, 1000, 1700])
async def test_an_item_that_does_not_fit_is_named_by_its_index(streaming: Place, index: int) -> None:
    ended: list[str] = []

    async def items() -> AsyncGenerator[object]:
        try:
            for no in range(2000):
                yield "x" if no == index else no
        finally:
            ended.append("closed")

    ref = streaming.ref(int, stream=True, asset="pages", partition="us")
    with pytest.raises(StorageError, match=rf"item {index} does not fit int") as caught:
        await streaming.manager.store(ref, items())

    error = caught.value
    assert (error.asset, error.partition, error.details["item"]) == ("pages", "us", index)
    assert error.message.count("sales.pages[us]") == 1
    assert error.hint
    assert ended == ["closed"]
    await assert_nothing_is_left(streaming, ref)


async def test_what_is_no_stream_is_refused(streaming: Place) -> None:
    with pytest.raises(StorageError, match="list") as caught:
        await streaming.manager.store(streaming.ref(int, stream=True), [1, 2])

    assert "async" in str(caught.value.hint)


async def test_a_stream_that_was_read_already_is_refused_and_not_taken_for_an_empty_one(streaming: Place) -> None:
    items = counting(3)
    assert [no async for no in items] == [0, 1, 2]

    with pytest.raises(StorageError, match="read already"):
        await streaming.manager.store(streaming.ref(int, stream=True), items)


class Plain(AsyncIterator[int]):
    """An iterator that is no generator, and cannot be closed."""

    def __init__(self) -> None:
        self._next = 0

    async def __anext__(self) -> int:
        self._next += 1
        if self._next > 3:
            raise StopAsyncIteration
        return self._next


async def test_any_async_iterator_will_do(streaming: Place) -> None:
    ref = await streaming.keep(Plain(), int, stream=True)

    assert await streaming.items(ref) == [1, 2, 3]


async def test_a_stream_of_a_stream_will_do(streaming: Place) -> None:
    first = await streaming.keep_stream(counting(3), int)

    second = await streaming.keep(await streaming.load(first), int, stream=True, asset="copy")

    assert await streaming.items(second) == [0, 1, 2]


async def test_a_deleted_stream_is_missing(streaming: Place) -> None:
    ref = await streaming.keep_stream(counting(1500), int)

    await streaming.manager.delete(ref)
    await streaming.manager.delete(ref)

    with pytest.raises(StorageError, match="missing") as caught:
        await streaming.items(ref)
    assert "force=True" in str(caught.value)


async def test_a_shorter_stream_replaces_a_longer_one(streaming: Place) -> None:
    ref = streaming.ref(int, stream=True)
    await streaming.manager.store(ref, counting(3000))

    ref = await streaming.commit(ref, await streaming.manager.store(ref, counting(2)))

    assert await streaming.items(ref) == [0, 1]


async def test_streams_are_written_at_once_and_kept_apart(streaming: Place) -> None:
    refs = [streaming.ref(int, stream=True, partition=no) for no in range(5)]
    stored = await asyncio.gather(*(streaming.manager.store(ref, counting(1500 + no)) for no, ref in enumerate(refs)))
    refs = [await streaming.commit(ref, one) for ref, one in zip(refs, stored, strict=True)]

    assert [len(await streaming.items(ref)) for ref in refs] == [1500, 1501, 1502, 1503, 1504]


class Opaque:
    pass


async def test_a_stream_of_pickles_has_no_fingerprint(streaming: Place) -> None:
    ref = streaming.ref(Opaque, stream=True)
    stored = await streaming.pickling.store(ref, each([Opaque(), Opaque()]))
    ref = await streaming.commit(ref, stored)

    assert [type(item) async for item in await streaming.pickling.load(ref, None)] == [Opaque, Opaque]
    assert stored.fingerprint is None


async def test_a_stream_of_anything_is_held_in_memory_only(streaming: Place) -> None:
    ref = streaming.ref(None, stream=True)
    if isinstance(streaming.manager, Memory):
        ref = await streaming.commit(ref, await streaming.manager.store(ref, each([Opaque(), 1])))
        assert [type(item) for item in await streaming.items(ref)] == [Opaque, int]
        return
    with pytest.raises(StorageError, match="item 0"):
        await streaming.manager.store(ref, each([Opaque(), 1]))
