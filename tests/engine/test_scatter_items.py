"""Items of scatters: as what they arrive, also after storage, and what they are known by (SCAT-02, SCAT-03, SCAT-06)."""

from __future__ import annotations

import asyncio
import enum
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from pydantic import BaseModel

from flowstone_async import ConfigError, Context, LeaseLost, Pipeline, Tolerance
from flowstone_async._engine.scatter.packing import Items, Packed
from tests.engine.test_scatter_resume import RARELY, kept
from tests.support.crash import kill, look_for_orphans
from tests.support.engines import OpenEngine
from tests.support.gate import Gate, soon


@dataclass(frozen=True)
class Point:
    x: int
    at: date


class Model(BaseModel):
    name: str
    sizes: tuple[int, ...]


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


TYPED: dict[str, tuple[Any, list[Any]]] = {
    "dataclass": (Point, [Point(1, date(2025, 1, 2)), Point(2, date(2025, 1, 3))]),
    "model": (Model, [Model(name="a", sizes=(1, 2)), Model(name="b", sizes=())]),
    "enum": (Colour, [Colour.RED, Colour.BLUE]),
    "date": (date, [date(2025, 1, 2), date(2025, 1, 3)]),
    "datetime": (datetime, [datetime(2025, 1, 2, 3, 4, 5, 6, tzinfo=UTC), datetime(2025, 1, 3, tzinfo=UTC)]),
    "uuid": (UUID, [UUID(int=1), UUID(int=2)]),
    "decimal": (Decimal, [Decimal("1.10"), Decimal("1e-30")]),
    "bytes": (bytes, [b"\x00\xff", b"ok"]),
    "tuple": (tuple[int, date], [(1, date(2025, 1, 2)), (2, date(2025, 1, 3))]),
    "mixed": (int | str, [1, "1"]),
    "frozenset": (frozenset[int], [frozenset({1, 2}), frozenset[int]()]),
}


@pytest.mark.parametrize("what", TYPED)
async def test_an_item_arrives_as_its_declared_type_also_after_storage(open_engine: OpenEngine, what: str):
    """SCAT-03: the second engine has only what was stored."""
    declared, given = TYPED[what]
    pipe, gate, seen = Pipeline("typed"), Gate(), list[Any]()

    async def body(item: Any, ctx: Context) -> str:
        seen.append(item)
        if ctx.item.index:
            await gate()
        return repr(item)

    body.__annotations__["item"] = declared
    pipe.scatter(given, name="items")(body)
    dying, living = await open_engine(pipe, **RARELY), await open_engine(pipe, **RARELY, slots=0)
    running = asyncio.create_task(dying.run("items"))
    await kept(living, 1)
    await gate.reached()
    await kill(dying)
    with pytest.raises(LeaseLost):
        await soon(running)
    gate.open()
    await look_for_orphans(living)
    found = await soon(living.wait("items"))
    assert [(type(each), each) for each in seen] == [(type(each), each) for each in (*given, given[1])]
    pairs = [pair async for pair in found.items()]
    assert pairs == [(each, repr(each)) for each in given]
    assert [type(key) for key, _ in pairs] == [type(each) for each in given]
    assert [await found.get(each) for each in given] == [repr(each) for each in given]


@pytest.mark.parametrize("value", [7, None, 1.5])
async def test_a_value_that_cannot_be_iterated_fails_the_asset(open_engine: OpenEngine, value: Any):
    """SCAT-02: before any item runs, naming what was found."""
    pipe = Pipeline("scatter")

    @pipe.asset
    async def wrong() -> Any:
        return value

    @pipe.scatter(wrong)
    async def never(item: Any) -> int:
        raise AssertionError("called")

    engine = await open_engine(pipe)
    with pytest.raises(ConfigError, match=f"gave a {type(value).__name__}, which cannot be iterated"):
        await soon(engine.run(never))
    assert (await engine.status(never)).state == "failed"


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ([1, 2, print], "expected int, found builtin_function_or_method"),
        ([1, date(2025, 1, 1), print], "builtin_function_or_method"),
        ([(1, 2), (3, print)], "tuple"),
        ([[1], [print]], "at [0]"),
        ([Point(1, date(2025, 1, 1)), 5, Pipeline("no value")], "found Pipeline"),
    ],
)
async def test_given_items_of_a_type_that_cannot_be_stored_fail_alone(
    open_engine: OpenEngine, given: list[Any], reason: str
):
    """SCAT-06: naming position and reason; the others go on, as what they are, also where another worker reads them."""
    pipe = Pipeline("scatter")

    @pipe.scatter(given, tolerate=Tolerance(count=1), retry=False)
    async def items(item: Any) -> str:
        return repr(item)

    found = await soon((await open_engine(pipe)).run(items))
    assert (found.total, found.failed) == (len(given), 1)
    assert await found.to_list(limit=3) == [repr(each) for each in given[:-1]]
    [failure] = [each async for each in found.failures()]
    assert (failure.index, failure.item, failure.error_type) == (len(given) - 1, None, "StorageError")
    assert reason in failure.message


@pytest.mark.parametrize(
    ("key", "reason"), [("x" * 1023, "the key is 1,025 bytes long"), (object(), "the key is object"), (KeyError, "odd")]
)
async def test_a_key_that_cannot_be_one_makes_its_item_fail(open_engine: OpenEngine, key: Any, reason: str):
    """SCAT-06: naming position and reason; the others go on."""
    pipe = Pipeline("scatter")

    def key_of(no: int) -> Any:
        if no != 1:
            return "x" * 1022 if no else no
        if key is KeyError:
            raise KeyError("odd")
        return key

    @pipe.scatter([0, 1, 2], key=key_of, tolerate=Tolerance(count=1), page_size=2)
    async def items(no: int) -> int:
        return no

    engine = await open_engine(pipe)
    found = await soon(engine.run(items))
    assert await found.to_list(limit=3) == [0, 2]
    assert await found.get("x" * 1022) == 2
    [failure] = [each async for each in found.failures()]
    assert (failure.index, failure.item, failure.attempts, failure.worker) == (1, None, 0, None)
    assert reason in failure.message


async def test_an_index_is_the_same_after_a_restart(open_engine: OpenEngine):
    """SCAT-06, SCAT-05: it counts distinct items, wherever duplicates are."""
    pipe, gate = Pipeline("scatter"), Gate()
    seen: list[tuple[str, int, str]] = []
    letters = "abacadbbefga"

    async def source() -> AsyncIterator[str]:
        for letter in letters:
            yield letter

    @pipe.scatter(source, page_size=3)
    async def items(letter: str, ctx: Context) -> int:
        seen.append((letter, ctx.item.index, ctx.idempotency_key))
        if letter > "b":
            await gate()
        return ctx.item.index

    dying, living = await open_engine(pipe, **RARELY), await open_engine(pipe, **RARELY, slots=0)
    running = asyncio.create_task(dying.run(items))
    await kept(living, 2)
    await gate.reached(3)
    await kill(dying)
    with pytest.raises(LeaseLost):
        await soon(running)
    gate.open()
    await look_for_orphans(living)
    found = await soon(living.wait(items))
    distinct = "abcdefg"
    assert [pair async for pair in found.items()] == [(letter, no) for no, letter in enumerate(distinct)]
    assert {each[:2] for each in seen} == {(letter, no) for no, letter in enumerate(distinct)}
    assert len({each[2] for each in seen}) == len(distinct), "one for each item, the same in both engines"
    assert len(seen) > len(distinct)


LARGE = ["x" * 300_000 + str(no) for no in range(5)], {str(no): "y" * no for no in range(2000)}, "small"
MARKED = {"tokens": [7] * 300_000}, *({"text": "\u8a9e" * 1000} for _ in range(430))


@pytest.mark.parametrize("results", ["packed", "rows"])
@pytest.mark.parametrize("what", [*TYPED, "large", "marked"])
async def test_a_result_comes_back_as_its_declared_type(open_engine: OpenEngine, what: str, results: Any):
    """SCAT-17: in either form, whatever its size."""
    more = {"large": (Any, LARGE), "marked": (Any, MARKED)}
    declared, values = {**TYPED, **more}[what]
    pipe = Pipeline("typed")

    async def body(place: int) -> Any:
        return values[place]

    body.__annotations__["return"] = declared
    pipe.scatter(range(len(values)), name="items", results=results)(body)
    engine = await open_engine(pipe)
    found = await soon(engine.run("items"))
    given = await found.to_list(limit=len(values))
    assert [(type(each), each) for each in given] == [(type(each), each) for each in values]
    assert [value async for _, value in found.items()] == given


async def test_keys_for_bodies_are_made_many_at_a_time(open_engine: OpenEngine, monkeypatch: pytest.MonkeyPatch):
    """SCAT-22: no encoder is called for each item."""
    pipe, pack, packed, keys = Pipeline("asking"), Items.pack, list[int](), set[str]()

    def counted(items: Items, values: Sequence[Any]) -> Packed:
        packed.append(len(values))
        return pack(items, values)

    @pipe.scatter(range(1000), page_size=500)
    async def items(no: int, ctx: Context) -> int:
        keys.add(ctx.idempotency_key)
        return ctx.item.key

    monkeypatch.setattr(Items, "pack", counted)
    engine = await open_engine(pipe)
    assert (await soon(engine.run(items))).succeeded == len(keys) == 1000
    assert sum(packed) == 2 * 1000, "once to be stored, once for the bodies"
    assert len(packed) <= 3 + 1000 / 100


async def test_an_item_that_was_spoilt_fails_alone(open_engine: OpenEngine):
    """SCAT-06: by another body, after it was read; keys of others are made together with its own."""
    pipe, data = Pipeline("spoilt"), [[no] for no in range(150)]

    @pipe.scatter(data, tolerate=1.0, retry=False, max_concurrent=1)
    async def items(row: list[Any], ctx: Context) -> str:
        if row[0] == 0:
            data[149].append(object())
        return ctx.idempotency_key

    engine = await open_engine(pipe)
    found = await soon(engine.run(items))
    assert found.failed <= 1
    assert len(set(await found.to_list(limit=150))) == found.succeeded
