"""What would not come back as it is, is refused: the type, the place and the remedy are named (STORE-04, STORE-06)."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import IO, Annotated, Any, Literal

import pytest
from annotated_types import Gt
from pydantic import AfterValidator, BaseModel, ConfigDict, ImportString, PlainSerializer, SecretStr, SkipValidation

from flowstone_async.errors import StorageError
from flowstone_async.io.codec import codec_for
from tests.unit.codec.cases import numbered
from tests.unit.codec.models import Box, Color, Counted, Level, Model, Nested, Plain, Point, Private, Row


class Child(Plain):
    pass


class Pool:
    pass


class Holder(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)

    pool: Pool


class Locked(BaseModel):
    key: SecretStr


@dataclass
class Dangling:
    other: Nowhere  # pyright: ignore[reportUndefinedVariable]  # noqa: F821


@dataclass
class TwoOfOne:
    """Its first field says how to store what the second cannot."""

    one: Annotated[Pool, SkipValidation, PlainSerializer(str)]
    two: Pool


def _stray() -> Plain:
    value = Plain(1, "a")
    vars(value)["note"] = "x"
    return value


def _seen() -> Private:
    value = Private(name="a")
    value._seen = 3
    return value


def _mutated() -> Model:
    value = Model()
    vars(value)["alias"] = "one"
    return value


def _looped() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


def _deep(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("declared", "value", "problem"),
    numbered(
        [
            (int, "1", "expected int, found str"),
            (int, True, "expected int, found bool"),
            (int, 1.0, "expected int, found float"),
            (int, Level.LOW, "expected int, found Level"),
            (float, "1", "expected float, found str"),
            (float, 2**53 + 1, "expected float, found int"),
            (float, 10**400, "expected float, found int"),
            (str, b"a", "expected str, found bytes"),
            (dt.date, dt.datetime(2025, 1, 1, tzinfo=dt.UTC), "expected date, found datetime"),
            (Color, "r", "expected Color, found str"),
            (Literal["a", "b"], "c", "expected one of 'a', 'b'"),
            (Literal[1], True, "expected one of 1"),
            (Literal[1], [1], "expected one of 1"),
            (list[int], [1, 2, "3"], "at [2], expected int, found str"),
            (list[int], (1, 2), "expected list, found tuple"),
            (tuple[int, str], (1,), "expected 2 items, found 1"),
            (tuple[int, str], (1, 2), "at [1], expected str, found int"),
            (set[int], {1, "a"}, "expected int, found str"),
            (dict[str, list[int]], {"a": [1], "b": ["x"]}, "at ['b'][0], expected int, found str"),
            (dict[str, int], {1: 1}, "expected str, found int"),
            (dict[str, int], defaultdict(int), "expected dict, found defaultdict"),
            (int | None, "x", "expected int | None, found str"),
            (list[int] | None, ["x"], "at [0], expected int, found str"),
            (Plain, Child(1, "a"), "expected Plain, found Child"),
            (Plain, Plain("1", "a"), "at .number, expected int, found str"),  # pyright: ignore[reportArgumentType]
            (Plain, {"number": 1, "text": "a"}, "expected Plain, found dict"),
            (Plain, _stray(), "attribute 'note' of Plain is not one of its fields"),
            (Nested, Nested(b"", 1.0, {(1, "a"): Plain(1, 2)}), "at .cells[(1, 'a')].text, expected str"),  # pyright: ignore[reportArgumentType]
            (Box[int], Box("a"), "at .item, expected int, found str"),
            (Point, Point("1"), "at .x, expected int, found str"),  # pyright: ignore[reportArgumentType]
            (Row, {"id": 1, "extra": 2}, "Row has no key 'extra'"),
            (Row, {"note": "a"}, "field 'id' of dict is not set"),
            (Model, _mutated(), "at .alias, expected int, found str"),
            (Private, _seen(), "it would not come back as it is"),
            (Counted, Counted(0), "greater than 0"),
            (Annotated[int, Gt(0)], 0, "greater than 0"),
            (Annotated[str, AfterValidator(str.lower)], "ABC", "its validator changes it"),
            (None, {"a": [(1,)]}, "at ['a'][0], tuple is not plain JSON, and no type is declared for it"),
            (None, {1: 2}, "no type is declared for it"),
            (None, Plain(1, "a"), "Plain is not plain JSON"),
            (None, Decimal(1), "Decimal is not plain JSON"),
            (None, "\ud800", "lone surrogate"),
            (list[str], ["a", "\udcff"], "lone surrogate"),
            (int, 10**5000, "more than 4300 digits"),
            (None, _looped(), "nested too deeply"),
            (None, _deep(300), "nested too deeply"),
            (
                dt.datetime,
                dt.datetime(2025, 1, 1, tzinfo=type("Odd", (dt.tzinfo,), {"utcoffset": lambda *_: None})()),
                "zone",
            ),
        ]
    ),
)
def test_a_value_that_does_not_fit_is_refused_with_its_place(declared: object, value: object, problem: str) -> None:
    """STORE-04, STORE-06"""
    codec = codec_for(declared)
    assert codec.supports() is None
    for refuse in (codec.encode, codec.prepare, codec.copy):
        with pytest.raises(StorageError) as caught:
            refuse(value)
        assert problem in caught.value.message
        assert codec.name in caught.value.message
        assert caught.value.hint
        assert not caught.value.retryable
        assert caught.value.details["type"] == codec.name


@pytest.mark.parametrize(
    ("declared", "reason"),
    numbered(
        [
            (Callable[[int], int], "code"),
            (type[int], "code"),
            (ImportString, "code"),
            (list[ImportString[Any]], "code"),
            (TwoOfOne, "Pool"),
            (IO[str], "IO[str]"),
            (Pool, "Pool"),
            (asyncio.Queue, "Queue"),
            (dict[str, list[Pool]], "Pool"),
            (Holder, "Pool"),
            (Plain | Pool, "Pool"),
            (SecretStr, "secret"),
            (Locked, "SecretStr is a secret"),
            (Iterator[int], "only once"),
            (Generator[int, None, None], "only once"),
            (list[AsyncIterator[int]], "only once"),
            (Dangling, "Nowhere"),
            ("Nowhere", "cannot be found"),
            (range, "range"),
            (5, "5"),
            ([], "unhashable"),
        ]
    ),
)
def test_a_type_that_cannot_be_stored_says_why(declared: object, reason: str) -> None:
    """STORE-06: the reason of FS140"""
    codec = codec_for(declared)
    assert reason in (codec.supports() or "")
    with pytest.raises(StorageError, match="does not fit"):
        codec.encode(object())


def test_the_remedy_for_a_subclass_of_a_builtin_is_to_convert_it() -> None:
    with pytest.raises(StorageError, match=r"return dict\(value\)"):
        codec_for(dict[str, int]).encode(defaultdict(int))
    with pytest.raises(StorageError, match="declare Child"):
        codec_for(Plain).encode(Child(1, "a"))


def test_no_message_shows_the_value() -> None:
    """ERR-05: it may be a secret."""
    for declared, value in [(int, "hunter2"), (Annotated[int, Gt(5)], "hunter2"), (dict[str, int], {"a": "hunter2"})]:
        with pytest.raises(StorageError) as caught:
            codec_for(declared).encode(value)
        assert "hunter2" not in str(caught.value)
        assert "hunter2" not in str(caught.value.details)


@pytest.mark.parametrize(
    ("declared", "data", "problem"),
    numbered(
        [
            (int, b"", "not in the JSON format"),
            (int, b"1", "not in the JSON format"),
            (int, b"P123", "not in the JSON format"),
            (int, b" ", "damaged"),
            (int, b" [1", "damaged"),
            (int, b' "1"', "expected int, found str"),
            (list[int], b" [1,2.5]", "at [1], expected int, found float"),
            (list[int], b" {}", "expected list, found dict"),
            (dict[int, str], b' [[1,"a",2]]', "expected 2 items, found 3"),
            (dict[str, int], b' {"a":"b"}', "at ['a'], expected int, found str"),
            (dt.date, b' "yesterday"', "not a date"),
            (dt.datetime, b' "2025-01-01T00:00:00+00:00[No/Where]"', "not a datetime"),
            (bytes, b' "a"', "not a bytes"),
            (Color, b' "GREEN"', "not a Color"),
            (int | None, b' "a"', "expected int | None, found str"),
            (Plain | Box[int], b' ["Nested",{}]', "expected Plain | Box[int], found list"),
            (Plain | Box[int], b" [[1],{}]", "expected Plain | Box[int], found list"),
            (Literal["a"], b' "b"', "expected one of 'a'"),
            (Plain, b' {"number":1}', "Plain has a field 'text' now, which the stored value lacks"),
            (Plain, b" []", "expected dict, found list"),
        ]
    ),
)
def test_what_was_stored_and_no_longer_fits_says_how_to_go_on(declared: object, data: bytes, problem: str) -> None:
    """STORE-10"""
    with pytest.raises(StorageError) as caught:
        codec_for(declared).decode(data)
    assert problem in caught.value.message
    assert caught.value.hint
