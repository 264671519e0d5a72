"""Values in memory: what only this manager does."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

import pytest

from flowstone_async.errors import StorageError
from flowstone_async.io.base import ValueRef
from flowstone_async.io.memory import Memory
from tests.unit.io.refs import ref_of


async def through(memory: Memory, value: object, type_: object) -> Any:
    ref = ref_of(type_)
    await memory.store(ref, value)
    return await memory.load(ref, None)


class Opaque:
    """What no codec knows."""

    def __init__(self) -> None:
        self.items: list[int] = []


@dataclass
class Holder:
    what: Any


def test_every_memory_is_a_place_of_its_own() -> None:
    assert Memory().name != Memory().name
    assert Memory(name="memory").name == "memory"


@pytest.mark.parametrize("type_", [None, object, Any, Opaque])
async def test_any_object_is_held_and_copied_for_each_reader(type_: object) -> None:
    memory, ref, value = Memory(), ref_of(type_), Opaque()
    stored = await memory.store(ref, value)
    value.items.append(1)

    one, other = await memory.load(ref, None), await memory.load(ref, None)

    assert (one.items, other.items) == ([], [])
    assert one is not other
    assert stored.fingerprint is None


@pytest.mark.parametrize(
    ("value", "type_"),
    [([Opaque()], list[Any]), ({1: Opaque()}, dict[Any, Any]), (Holder(Opaque()), Holder), ({1: 2}, None)],
)
async def test_what_is_not_declared_may_be_anything(value: object, type_: object) -> None:
    assert type(await through(Memory(), value, type_)) is type(value)


@pytest.mark.parametrize(("value", "type_"), [("x", int), ([1, "x"], list[int]), (Holder(1), dict[str, Any])])
async def test_what_is_declared_otherwise_is_refused(value: object, type_: object) -> None:
    with pytest.raises(StorageError, match="orders"):
        await through(Memory(), value, type_)


async def test_what_cannot_be_copied_is_refused_with_the_way_out() -> None:
    with pytest.raises(StorageError, match="orders") as caught:
        await through(Memory(), threading.Lock(), None)

    assert "copy=False" in str(caught.value.hint)


async def test_without_copies_all_readers_share_the_object() -> None:
    memory = Memory(copy=False)
    lock, numbers = threading.Lock(), [1, 2]

    assert await through(memory, lock, None) is lock
    assert await through(memory, numbers, list[int]) is numbers


async def test_without_copies_there_is_a_fingerprint_where_the_value_has_one() -> None:
    shared, copied = Memory(copy=False), Memory()

    fingerprints = [(await each.store(ref_of(list[int]), [1, 2])).fingerprint for each in (shared, copied)]

    assert fingerprints[0] == fingerprints[1] is not None
    assert (await shared.store(ref_of(None), threading.Lock())).fingerprint is None


async def test_without_copies_a_value_must_still_fit_its_type() -> None:
    with pytest.raises(StorageError, match="int"):
        await through(Memory(copy=False), "x", int)


@pytest.mark.parametrize("value", [7, 1.5, "text", b"bytes", None, True, 10**50])
async def test_what_cannot_change_is_not_copied_for_each_reader(value: object) -> None:
    memory, ref = Memory(), ref_of(type(value))
    await memory.store(ref, value)

    assert await memory.load(ref, None) is await memory.load(ref, None)


async def test_a_number_comes_back_as_the_declared_type() -> None:
    assert type(await through(Memory(), 1, float)) is float


async def test_a_pickled_copy_needs_no_key() -> None:
    memory = Memory(format="pickle")

    assert isinstance(await through(memory, Opaque(), Opaque), Opaque)


async def test_without_copies_a_stream_hands_out_the_items_themselves() -> None:
    memory, ref = Memory(copy=False), ref_of(Opaque, stream=True)
    made = [Opaque(), Opaque()]

    async def items() -> AsyncGenerator[Opaque]:
        for each in made:
            yield each

    await memory.store(ref, items())

    assert [each async for each in await memory.load(ref, None)] == made


async def test_one_memory_serves_several_event_loops() -> None:
    memory = Memory()
    refs = [ref_of(list[int]) for _ in range(200)]

    async def work(own: list[ValueRef]) -> None:
        for ref in own:
            await memory.store(ref, [1])
            assert await memory.load(ref, None) == [1]

    threads = [threading.Thread(target=asyncio.run, args=(work(refs[no::4]),)) for no in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [await memory.load(ref, None) for ref in refs] == [[1]] * 200
