"""Values come back as their declared type (STORE-03)."""

from __future__ import annotations

import dataclasses
import datetime as dt
import math
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from decimal import Decimal
from fractions import Fraction
from ipaddress import IPv4Address
from pathlib import Path
from typing import Annotated, Any, Literal, NewType
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from annotated_types import Gt, MaxLen
from hypothesis import given
from hypothesis import strategies as st
from pydantic import AnyUrl, AwareDatetime, Field, JsonValue
from pydantic_core import TzInfo
from typing_extensions import TypeAliasType

from flowstone_async.io.codec import codec_for
from flowstone_async.io.copying import same
from tests.unit.codec.cases import numbered
from tests.unit.codec.models import (
    Access,
    Box,
    Cat,
    Checked,
    Color,
    Counted,
    Derived,
    Dog,
    GenericModel,
    Hashed,
    Home,
    Indexed,
    Level,
    Mode,
    Model,
    Nested,
    Open,
    PairBox,
    Plain,
    Point,
    Private,
    Roots,
    Row,
    Taxed,
)

PARIS = ZoneInfo("Europe/Paris")
UserId = NewType("UserId", int)
Days = TypeAliasType("Days", list[dt.date])
NOON = dt.datetime(2025, 1, 1, 12, 0, 0, 1)  # noqa: DTZ001 # a naive one
TAXED = Taxed(2.0)
INDEXED = Indexed(["a", "bb"])
assert INDEXED.longest == 2

CASES: list[tuple[object, Any]] = [
    (None, None),
    (None, {"a": [1, 2.5, None, True, "x"], "b": {}}),
    (None, math.inf),
    (Any, [1, {"a": "b"}]),
    (object, "text"),
    (type(None), None),
    (bool, True),
    (int, 2**64),
    (int, -(2**2000)),
    (float, -0.0),
    (float, math.nan),
    (float, -math.inf),
    (float, 5e-324),
    (complex, complex(-0.0, math.inf)),
    (str, "nul \0, \u2028, \U0001f600"),
    (bytes, bytes(range(256))),
    (dt.date, dt.date(1, 1, 1)),
    (dt.datetime, NOON),
    (dt.datetime, dt.datetime(2025, 1, 1, tzinfo=dt.UTC)),
    (dt.datetime, dt.datetime(2025, 1, 1, tzinfo=dt.timezone(dt.timedelta(hours=-3, seconds=7)))),
    (dt.datetime, dt.datetime(2024, 10, 27, 2, 30, tzinfo=PARIS, fold=1)),
    (dt.time, dt.time(23, 59, 59, 999999, fold=1)),
    (dt.time, dt.time(1, tzinfo=PARIS)),
    (dt.timedelta, dt.timedelta.min),
    (dt.timedelta, dt.timedelta(days=-1, microseconds=1)),
    (Decimal, Decimal("1.10")),
    (Decimal, Decimal("-Infinity")),
    (UUID, UUID(int=7)),
    (Fraction, Fraction(1, 3)),
    (Path, Path("a/b")),
    (IPv4Address, IPv4Address("127.0.0.1")),
    (AnyUrl, AnyUrl("https://example.org/x")),
    (Color, Color.RED),
    (Color, Color.BLUE),
    (Level, Level.HIGH),
    (Mode, Mode.FAST),
    (Access, Access.READ | Access.WRITE),
    (Access, Access(0)),
    (list[int], [1, 2, 3]),
    (list, [1, "x", None]),
    (tuple[int, str], (1, "a")),
    (tuple[int, ...], (1, 2)),
    (tuple[()], ()),
    (tuple, (1, "a")),
    (set[int], {3, 1, 2}),
    (set, {1, "a", None}),
    (frozenset[tuple[int, str]], frozenset({(1, "a"), (2, "b")})),
    (set[Color], {Color.RED, Color.BLUE}),
    (dict[str, int], {"b": 1, "a": 2}),
    (dict[int, str], {2: "b", 1: "a"}),
    (dict[tuple[int, str], float], {(1, "a"): math.nan}),
    (dict[dt.date, list[int]], {dt.date(2025, 1, 1): [1]}),
    (dict[Color, int], {Color.RED: 1}),
    (dict[UUID, bytes], {UUID(int=1): b"\xff"}),
    (dict[str | None, int], {None: 1, "a": 2}),
    (dict[frozenset[int], int], {frozenset({1}): 1}),
    (dict, {"a": [1]}),
    (Mapping[str, Sequence[int]], {"a": [1], "b": (2,)}),
    (Sequence[int], (1, 2)),
    (AbstractSet[int], frozenset({1})),
    (Iterable[str], {"a"}),
    (OrderedDict[str, int], OrderedDict([("b", 1), ("a", 2)])),
    (defaultdict[str, list[int]], defaultdict(list, {"a": [1]})),
    (deque[int], deque([1, 2])),
    (Counter[str], Counter("hello")),
    (int | None, None),
    (int | str | None, "1"),
    (int | float, 1),
    (int | float, 1.0),
    (bool | int, True),
    (dt.date | str, "2025-01-01"),
    (dt.date | str, dt.date(2025, 1, 1)),
    (dt.date | dt.datetime, NOON),
    (Decimal | float, 0.5),
    (bytes | str, b"a"),
    (list[int] | set[int], {1}),
    (list[int] | list[str], ["a"]),
    (Plain | Box[int], Box(1)),
    (Plain | Nested | None, Plain(1, "a")),
    (Literal["a", 1, True] | None, True),
    (Literal[Color.RED], Color.RED),
    (Annotated[int, Gt(0)], 1),
    (Annotated[list[int], MaxLen(2)], [1]),
    (Annotated[int, "only a remark"], 1),
    (AwareDatetime, dt.datetime(2025, 1, 1, tzinfo=PARIS)),
    (list[AwareDatetime], [dt.datetime(2025, 1, 1, tzinfo=dt.UTC)]),
    (Annotated[Model | Open, "either"], Open(name="a")),
    (list[Annotated[Cat | Dog, Field(discriminator="kind")]], [Dog(kind="dog")]),
    (Home, Home(pet=Dog(kind="dog"))),
    (UserId, UserId(1)),
    (Days, [dt.date(2025, 1, 1)]),
    (JsonValue, {"a": [None, {"b": 1}]}),
    (Literal[Color.RED, b"x", 1], b"x"),
    (Plain, Plain(1, "a")),
    (Nested, Nested(b"\xff", math.nan, {(1, "a"): Plain(1, "x")}, {}, [], Nested(b"", 1.0, {}))),
    (Box[dt.date], Box(dt.date(2025, 1, 1), [dt.date.min])),
    (PairBox[int, bytes], PairBox([b"a"], [[b"b"]], 1, b"\xff")),
    (Indexed, INDEXED),
    (Taxed, TAXED),
    (Derived, Derived(3, 2)),
    (Counted, Counted(1)),
    (Model, Model(at=dt.datetime(2025, 1, 1, tzinfo=TzInfo(0)), children=[Model(aliasName=2)])),
    (Model, Model(cells={(1, "a"): Plain(1, "b")}, ratio=math.inf, hidden="kept")),
    (Open, Open.model_validate({"name": "a", "more": [1, {"x": None}]})),
    (Private, Private(name="a")),
    (Hashed, Hashed(word="a")),
    (GenericModel[bytes], GenericModel[bytes](item=b"\xff")),
    (Roots, Roots([dt.date(2025, 1, 1)])),
    (Checked, Checked(1, ["a"])),
    (Point, Point(1, math.nan, UUID(int=1))),
    (Row, {"id": 1}),
    (Row, {"note": None, "id": 1}),
    (list[Model | Plain], [Plain(1, "a"), Model()]),
]


@pytest.mark.parametrize(("declared", "value"), numbered(CASES))
def test_a_value_comes_back_equal_and_of_its_type(declared: object, value: Any) -> None:
    """STORE-03, STORE-04"""
    codec = codec_for(declared)
    assert codec.supports() is None
    encoded = codec.prepare(value)
    loaded = codec.decode(encoded.data)
    assert same(loaded, value)
    assert same(encoded.value, value)
    assert str(getattr(loaded, "tzinfo", "")) == str(getattr(value, "tzinfo", ""))
    assert codec.encode(value) == encoded.data
    assert codec.fingerprint(encoded.data) == encoded.fingerprint


@pytest.mark.parametrize(("declared", "value"), numbered(CASES))
def test_what_is_loaded_shares_nothing_mutable_with_the_original(declared: object, value: Any) -> None:
    """STORE-05"""
    copied = codec_for(declared).copy(value)
    if isinstance(value, list | dict | set | Plain | Nested | Model):
        assert copied is not value


def test_types_of_fields_may_be_local_where_names_are_given() -> None:
    """ASSET-06"""

    @dataclasses.dataclass
    class Inner:
        x: int

    @dataclasses.dataclass
    class Outer:
        inner: Inner

    assert "Inner" in (codec_for(Outer).supports() or "")
    codec = codec_for(Outer, names={"Inner": Inner})
    assert codec.decode(codec.encode(Outer(Inner(1)))) == Outer(Inner(1))


def test_an_int_that_a_float_can_hold_comes_back_as_the_declared_float() -> None:
    """STORE-04"""
    loaded = codec_for(list[float]).copy([0, 0.5])
    assert same(loaded, [0.0, 0.5])


def test_a_field_that_was_added_with_a_default_is_filled_in() -> None:
    """CACHE-07: a code change alone leaves a value fresh, so that it must stay readable."""
    old = dataclasses.make_dataclass("Report", [("a", int), ("gone", str)])
    new = dataclasses.make_dataclass("Report", [("a", int), ("b", list[int], dataclasses.field(default_factory=list))])
    loaded: Any = codec_for(new).decode(codec_for(old).encode(old(1, "x")))
    assert loaded == new(1, [])


def test_a_json_value_is_legible_for_any_json_tool() -> None:
    assert codec_for(dict[dt.date, Plain]).encode({dt.date(2025, 1, 1): Plain(1, "a")}) == (
        b' {"2025-01-01":{"number":1,"ratio":1.0,"text":"a"}}'
    )


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abc\0", max_size=3), inner, max_size=4),
    max_leaves=20,
)


@given(JSON)
def test_any_plain_json_comes_back(value: object) -> None:
    """STORE-03"""
    codec = codec_for(None)
    assert same(codec.decode(codec.encode(value)), value)


SCALAR = st.one_of(
    st.tuples(st.just(int), st.integers()),
    st.tuples(st.just(float), st.floats()),
    st.tuples(st.just(str), st.text(st.characters(exclude_categories=["Cs"]))),
    st.tuples(st.just(bytes), st.binary()),
    st.tuples(st.just(Decimal), st.decimals()),
    st.tuples(st.just(dt.date), st.dates()),
    st.tuples(st.just(dt.datetime), st.datetimes(timezones=st.none() | st.timezones(), allow_imaginary=False)),
    st.tuples(st.just(dt.time), st.times()),
    st.tuples(st.just(dt.timedelta), st.timedeltas()),
    st.tuples(st.just(UUID), st.uuids()),
    st.tuples(st.just(complex), st.complex_numbers()),
    st.tuples(st.just(Color), st.sampled_from(Color)),
)


def _wrapped(inner: st.SearchStrategy[tuple[Any, Any]]) -> st.SearchStrategy[tuple[Any, Any]]:
    return inner.flatmap(
        lambda each: st.sampled_from(
            [
                (list[each[0]], [each[1], each[1]]),
                (tuple[each[0], ...], (each[1],)),
                (tuple[each[0], int], (each[1], 1)),
                (each[0] | None, each[1]),
                (Box[each[0]], Box(each[1], [each[1]])),
                (dict[str, each[0]], {"k": each[1]}),
                (each[0] | list[each[0]], [each[1]]),
            ]
        )
    )


def _equal(one: Any, other: Any) -> bool:
    """Compare as `same` does, and tell NaN decimals alike, which equal nothing."""
    return same(one, other) or (type(one) is type(other) and repr(one) == repr(other))


@given(st.recursive(SCALAR, _wrapped, max_leaves=3))
def test_any_nesting_of_types_comes_back(case: tuple[object, Any]) -> None:
    """STORE-03"""
    declared, value = case
    codec = codec_for(declared)
    encoded = codec.prepare(value)
    assert _equal(codec.decode(encoded.data), value)
    assert codec.fingerprint(encoded.data) == encoded.fingerprint == codec_for(declared).prepare(value).fingerprint
