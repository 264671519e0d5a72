"""Single values: stored, committed, loaded, deleted."""

from __future__ import annotations

import asyncio
import enum
import math
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from pydantic import BaseModel

from flowstone_async import io
from flowstone_async.errors import StorageError
from flowstone_async.io.base import IOManager
from flowstone_async.io.codec import codec_for
from tests.contract_io.places import Place


class Colour(enum.Enum):
    RED = "red"


@dataclass
class Point:
    x: int
    tags: list[str] = field(default_factory=list)


class Order(BaseModel):
    id: UUID
    total: Decimal


VALUES: list[tuple[object, object]] = [
    (int, 7),
    (int, 10**60),
    (float, math.inf),
    (str, "text with \0 and é"),
    (bytes, b"\x00\xff"),
    (type(None), None),
    (None, {"plain": [1, 2.5, None, True, "x"]}),
    (Colour, Colour.RED),
    (date, date(2025, 1, 15)),
    (datetime, datetime(2025, 1, 15, 12, tzinfo=UTC)),
    (timedelta, timedelta(seconds=1.5)),
    (Decimal, Decimal("1.10")),
    (Point, Point(1, ["a"])),
    (list[Point], [Point(1), Point(2)]),
    (Order, Order(id=UUID(int=3), total=Decimal(2))),
    (set[int], {1, 2}),
    (tuple[int, ...], (1, 2)),
    (dict[int, str], {1: "one"}),
    (Point | None, None),
]


@pytest.mark.parametrize(("type_", "value"), VALUES, ids=str)
async def test_a_value_comes_back_equal_and_of_the_same_type(place: Place, type_: object, value: object) -> None:
    ref = await place.keep(value, type_)

    loaded = await place.load(ref)

    assert loaded == value
    assert type(loaded) is type(value)


async def test_nan_comes_back(place: Place) -> None:
    assert math.isnan(await place.load(await place.keep(math.nan, float)))


async def test_each_reader_gets_its_own_copy(place: Place) -> None:
    value = Point(1, ["a"])
    ref = await place.keep(value, Point)

    value.tags.append("by the body")
    (await place.load(ref)).tags.append("by a reader")

    assert await place.load(ref) == Point(1, ["a"])


async def test_a_value_that_does_not_fit_its_type_is_refused_and_not_kept(place: Place) -> None:
    ref = place.ref(list[int], asset="sum", partition="us")

    with pytest.raises(StorageError) as caught:
        await place.manager.store(ref, [1, "2"])

    error = caught.value
    assert (error.asset, error.partition, error.retryable) == ("sum", "us", False)
    assert "sales.sum[us]" in error.message
    assert "list[int]" in error.message
    assert error.hint
    assert "annotation" in error.hint
    with pytest.raises(StorageError):
        await place.load(ref)


async def test_a_value_that_is_gone_is_an_error_that_names_the_place_and_the_way_out(place: Place) -> None:
    ref = await place.keep(7, int, asset="sum")
    await place.manager.delete(ref)

    with pytest.raises(StorageError, match="missing") as caught:
        await place.load(ref)

    assert caught.value.asset == "sum"
    assert caught.value.details["location"]
    assert str(caught.value.details["location"]) in caught.value.message
    assert "force=True" in str(caught.value)


async def test_deleting_twice_is_harmless(place: Place) -> None:
    ref = await place.keep(7, int)

    await place.manager.delete(ref)
    await place.manager.delete(ref)
    await place.manager.delete(place.ref(int))


async def test_deleting_one_value_leaves_the_others(place: Place) -> None:
    one, other = await place.keep(1, int, asset="one"), await place.keep(2, int, asset="other")

    await place.manager.delete(one)

    assert await place.load(other) == 2


async def test_storing_again_replaces(place: Place) -> None:
    ref = place.ref(int)
    await place.manager.store(ref, 1)

    ref = await place.commit(ref, await place.manager.store(ref, 2))

    assert await place.load(ref) == 2


@pytest.mark.parametrize(
    "partition", ["../up", "/etc/passwd", "a/b", ".", "..", "nul", "CON", "a\\b", "x" * 400, "é", "us ", "d|e", 7]
)
async def test_keys_of_any_kind_are_kept_apart(place: Place, partition: Any) -> None:
    ref = await place.keep("this", str, partition=partition)
    other = await place.keep("that", str, partition="other")

    assert [await place.load(ref), await place.load(other)] == ["this", "that"]


async def test_upper_and_lower_case_are_two_keys(place: Place) -> None:
    one, other = await place.keep(1, int, partition="US"), await place.keep(2, int, partition="us")

    assert [await place.load(one), await place.load(other)] == [1, 2]


async def test_equal_values_have_equal_fingerprints_wherever_they_are_kept(place: Place) -> None:
    stored = await place.manager.store(place.ref(dict[str, int]), {"b": 2, "a": 1})

    expected = codec_for(dict[str, int]).prepare({"a": 1, "b": 2})
    assert stored.fingerprint == expected.fingerprint
    assert stored.size == len(expected.data)


async def test_many_values_are_stored_and_loaded_at_once(place: Place) -> None:
    refs = [place.ref(list[int], partition=no) for no in range(50)]
    stored = await asyncio.gather(*(place.manager.store(ref, [no]) for no, ref in enumerate(refs)))
    refs = [await place.commit(ref, each) for ref, each in zip(refs, stored, strict=True)]

    loaded = await asyncio.gather(*(place.load(ref) for ref in refs))

    assert loaded == [[no] for no in range(50)]


async def test_a_large_value_comes_back(place: Place) -> None:
    value = [{"id": no, "text": "x" * 20} for no in range(50_000)]

    assert await place.load(await place.keep(value, list[dict[str, int | str]])) == value


seen_in_threads: set[int] = set()


@dataclass
class Witness:
    """Notes in which thread it was made."""

    text: str

    def __post_init__(self) -> None:
        seen_in_threads.add(threading.get_ident())


async def test_a_large_value_is_encoded_and_decoded_off_the_event_loop(place: Place) -> None:
    value = [Witness("x" * 1000) for _ in range(200)]
    seen_in_threads.clear()

    assert await place.load(await place.keep(value, list[Witness])) == value

    assert seen_in_threads
    assert threading.get_ident() not in seen_in_threads


async def test_what_can_be_stored_is_known_by_its_type(place: Place) -> None:
    assert place.manager.supports(list[Point])
    assert place.manager.supports(None)
    assert place.manager.supports(Callable[[], int]) == isinstance(place.manager, io.Memory)
    assert place.manager.supports(Iterator[int]) == isinstance(place.manager, io.Memory)


async def test_annotations_may_use_names_of_the_place_where_the_asset_was_defined(place: Place) -> None:
    @dataclass
    class Inner:
        x: int

    @dataclass
    class Outer:
        inner: Inner

    names = {"Inner": Inner}
    ref = place.ref(Outer)._replace(names=names)

    ref = await place.commit(ref, await place.manager.store(ref, Outer(Inner(1))))

    assert await place.load(ref) == Outer(Inner(1))


class Opaque:
    """What no codec knows."""

    def __init__(self, text: str) -> None:
        self.text = text


async def test_a_pickle_takes_any_object(place: Place) -> None:
    ref = place.ref(Opaque)
    stored = await place.pickling.store(ref, Opaque("text"))
    ref = await place.commit(ref, stored)

    loaded = await place.pickling.load(ref, None)

    assert isinstance(loaded, Opaque)
    assert loaded.text == "text"
    assert stored.fingerprint is None


async def test_a_pickle_is_not_read_where_none_was_declared(place: Place) -> None:
    ref = place.ref(int)
    ref = await place.commit(ref, await place.pickling.store(ref, 7))

    # What one memory holds, no other finds.
    with pytest.raises(StorageError, match="missing" if isinstance(place.manager, io.Memory) else "JSON") as caught:
        await place.load(ref)

    assert caught.value.asset == "numbers"


async def test_a_cancelled_store_or_load_leaves_the_manager_usable(place: Place) -> None:
    value = ["x" * 100] * 20_000
    ref = await place.keep(value, list[str])
    tasks = [asyncio.ensure_future(place.load(ref)), asyncio.ensure_future(place.manager.store(ref, value))]
    await asyncio.sleep(0)

    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)

    assert await place.load(ref) == value


async def test_managers_are_io_managers(place: Place) -> None:
    assert isinstance(place.manager, IOManager)
    assert place.manager.name
