"""Which upstream types fit which parameters (ASSET-15), and how types are written in messages."""

from __future__ import annotations

import numbers
import typing
from collections import Counter, OrderedDict, abc, defaultdict
from datetime import date, datetime
from enum import Enum, IntEnum
from inspect import Parameter
from typing import (
    Annotated,
    Any,
    Generic,
    Literal,
    LiteralString,
    NamedTuple,
    NewType,
    NoReturn,
    NotRequired,
    Protocol,
    SupportsInt,
    TypedDict,
    TypeVar,
)

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel
from typing_extensions import TypeAliasType

from flowstone_async.definition.assignable import assignable, render, type_arguments
from flowstone_async.definition.stream import Stream

T = TypeVar("T")
T_contra = TypeVar("T_contra", contravariant=True)
UserId = NewType("UserId", int)
AdminId = NewType("AdminId", UserId)
Numbers = TypeAliasType("Numbers", list[int])
Pairs = TypeAliasType("Pairs", list[tuple[T, T]], type_params=(T,))


class Color(Enum):
    RED = 1
    BLUE = 2


class Level(IntEnum):
    LOW = 1


class Base:
    pass


class Derived(Base):
    pass


class Box(Generic[T]):
    pass


class IntBox(Box[int]):
    pass


class Sink(Generic[T_contra]):
    pass


class Names(list[str]):
    pass


class Config(BaseModel):
    name: str


class Runs(Protocol):
    def run(self) -> int: ...


class HasName(Protocol):
    name: str


class Runner:
    def run(self) -> int:
        return 1

    def __call__(self) -> int:
        return 1


class Row(TypedDict):
    id: int
    note: NotRequired[str]


class Narrow(TypedDict):
    id: int


class Full(TypedDict):
    id: int
    note: str


class Point(NamedTuple):
    x: int


FITS: list[tuple[Any, Any]] = [
    # unions
    (int, int | None),
    (None, int | None),
    (type(None), None),
    (int | str, str | int | None),
    (typing.Union[int, str], int | str),  # noqa: UP007
    # the numeric tower, subclasses
    (int, float),
    (int, complex),
    (float, complex),
    (bool, int),
    (bool, float),
    (Level, int),
    (Level, float),
    (int, numbers.Number),
    (int, SupportsInt),
    (int, abc.Hashable),
    (Derived, Base),
    (datetime, date),
    # generics
    (list[int], list[int]),
    (list[bool], list[int]),
    (list[int], list[float | None]),
    (list[int], abc.Sequence[int]),
    (list[int], abc.Iterable[float]),
    (list[int], abc.Collection[int]),
    (list[int], list),
    (list, list[int]),
    (typing.List[int], list[int]),  # noqa: UP006
    (set[int], abc.Set[int]),
    (frozenset[int], abc.Set[int]),
    (dict[str, int], abc.Mapping[str, int]),
    (dict[str, int], abc.MutableMapping[str, float]),
    (dict[str, int], abc.Iterable[str]),
    (dict[str, list[bool]], dict[str, abc.Sequence[int]]),
    (defaultdict[str, int], dict[str, int]),
    (OrderedDict[str, int], abc.Mapping[str, int]),
    (Counter[str], abc.Mapping[str, int]),
    (abc.Generator[int, None, None], abc.Iterator[int]),
    (str, abc.Sequence[str]),
    (bytes, abc.Sequence[int]),
    (Names, list[str]),
    (Names, abc.Sequence[str]),
    (IntBox, Box[int]),
    (Box[bool], Box[int]),
    (Sink[float], Sink[int]),
    (Stream[int], Stream[float]),
    (Stream[int], abc.AsyncIterable),
    # tuples
    (tuple[int, str], tuple[int, str]),
    (tuple[int, int], tuple[int, ...]),
    (tuple[int, ...], tuple[float, ...]),
    (tuple[int, str], abc.Sequence[int | str]),
    (tuple[()], tuple[int, ...]),
    (tuple[()], tuple[()]),
    (tuple, tuple[int]),
    (tuple[int], tuple),
    (Point, tuple[int]),
    # literals and enums
    (Literal["a"], str),
    (Literal["a"], Literal["a", "b"]),
    (Literal["a", "b"], Literal["a"] | Literal["b"]),  # noqa: PYI030
    (Literal[Color.RED], Color),
    (Color, Literal[Color.RED, Color.BLUE]),
    (bool, Literal[True, False]),
    (bool, Literal[True] | Literal[False] | None),  # noqa: PYI030
    (LiteralString, str),
    # named, annotated, typed
    (UserId, int),
    (AdminId, UserId),
    (Annotated[int, "x"], float),
    (int, Annotated[int | None, "x"]),
    (Numbers, list[int]),
    (list[bool], Numbers),
    (Pairs[int], list[tuple[int, int]]),
    (Config, BaseModel),
    # typed dicts
    (Row, Narrow),
    (Full, Row),
    (Row, abc.Mapping[str, object]),
    (Row, dict[str, Any]),
    (Row, dict),
    # callables, classes, protocols
    (abc.Callable[[int], str], abc.Callable[[int], str]),
    (abc.Callable[[float], int], abc.Callable[[int], float]),
    (abc.Callable[..., int], abc.Callable[[str], int]),
    (abc.Callable[[int], str], abc.Callable),
    (Runner, abc.Callable[[], int]),
    (type[int], abc.Callable[[], int]),
    (type[Derived], type[Base]),
    (type[Derived], type),
    (Runner, Runs),
    (Config, HasName),
    (Base, HasName),
    (NoReturn, int),
    # unchecked
    (int, Any),
    (Any, int),
    (object, int),
    (int, object),
    (list[Any], list[int]),
    (list[int], list[Any]),
    (int, T),
    (T, int),
    (list[T], list[int]),  # pyright: ignore[reportGeneralTypeIssues]
    ("Later", int),
    (int, "Later"),
    (list["Later"], list[int]),  # pyright: ignore[reportUndefinedVariable]  # noqa: F821
    (Parameter.empty, int),
    (int, Parameter.empty),
]

MISFITS: list[tuple[Any, Any]] = [
    (int | None, int),
    (None, int),
    (int, None),
    (str, int | None),
    (int | str, int),
    (float, int),
    (complex, float),
    (int, bool),
    (int, str),
    (bytes, str),
    (Base, Derived),
    (date, datetime),
    (list[int], list[str]),
    (list[int], abc.Sequence[str]),
    (list[int], set[int]),
    (list[int], tuple[int, ...]),
    (abc.Sequence[int], list[int]),
    (list[int | None], list[int]),
    (dict[str, int], dict[str, str]),
    (dict[int, str], abc.Mapping[str, str]),
    (dict[str, int], abc.Iterable[int]),
    (dict[str, list[int]], dict[str, list[str]]),
    (Counter[str], abc.Mapping[str, str]),
    (str, list[str]),
    (str, abc.Sequence[int]),
    (Names, list[int]),
    (IntBox, Box[str]),
    (Box[int], Box[str]),
    (Box[int], IntBox),
    (Sink[int], Sink[str]),
    (Stream[int], Stream[str]),
    (Stream[int], list[int]),
    (abc.AsyncIterator[int], abc.Iterator[int]),
    (tuple[int, str], tuple[int, int]),
    (tuple[int], tuple[int, int]),
    (tuple[int, ...], tuple[int, int]),
    (tuple[int, str], tuple[int, ...]),
    (tuple[str, int], abc.Sequence[int]),
    (str, Literal["a"]),
    (Literal["a"], int),
    (Literal["a", "c"], Literal["a", "b"]),
    (Literal[1], Literal[True]),
    (Color, Literal[Color.RED]),
    (bool, Literal[True]),
    (int, UserId),
    (UserId, AdminId),
    (UserId, str),
    (list[str], Numbers),
    (Pairs[str], list[tuple[int, int]]),
    (Narrow, Full),
    (Row, Full),
    (dict[str, int], Row),
    (Row, dict[str, int]),
    (abc.Callable[[int], str], abc.Callable[[int], int]),
    (abc.Callable[[int], str], abc.Callable[[str], str]),
    (abc.Callable[[int], str], abc.Callable[[int, int], str]),
    (int, abc.Callable[[], int]),
    (type[Base], type[Derived]),
    (int, Runs),
    (int, NoReturn),
]


def _named(pairs: list[tuple[Any, Any]]) -> list[Any]:
    return [
        pytest.param(*pair, id=f"{number}: {render(pair[0])} to {render(pair[1])}") for number, pair in enumerate(pairs)
    ]


@pytest.mark.parametrize(("source", "target"), _named(FITS))
def test_every_value_of_one_fits_the_other(source: object, target: object) -> None:
    """ASSET-15"""
    assert assignable(source, target)


@pytest.mark.parametrize(("source", "target"), _named(MISFITS))
def test_some_value_of_one_does_not_fit_the_other(source: object, target: object) -> None:
    """ASSET-15"""
    assert not assignable(source, target)


def test_what_refuses_to_be_judged_fits() -> None:
    """ASSET-15: a side that cannot be decided is not checked."""

    class Meta(type):
        def __subclasscheck__(cls, subclass: type) -> bool:
            raise TypeError

    assert assignable(int, Meta("Odd", (), {}))


TYPES = st.recursive(
    st.sampled_from([int, bool, float, str, None, Base, Derived, Color, Literal["a"], UserId]),
    lambda inner: st.one_of(
        inner.map(lambda each: list[each]),
        inner.map(lambda each: each | None if each is not None else each),
        st.tuples(inner, inner).map(lambda pair: dict[pair[0], pair[1]]),
        st.tuples(inner, inner).map(lambda pair: tuple[pair]),
        inner.map(lambda each: abc.Callable[[each], each]),
    ),
    max_leaves=6,
)


@given(TYPES, TYPES)
def test_a_type_fits_itself_any_union_with_itself_and_any(one: Any, other: Any) -> None:
    """ASSET-15"""
    assert assignable(one, one)
    assert assignable(one, typing.Union[one, other])  # noqa: UP007
    assert assignable(one, Any)
    assert assignable(typing.Union[one, other], one) == assignable(other, one)  # noqa: UP007


@given(TYPES, TYPES, TYPES)
def test_what_fits_fits_on(one: Any, two: Any, three: Any) -> None:
    """ASSET-15"""
    if assignable(one, two) and assignable(two, three):
        assert assignable(one, three)


@pytest.mark.parametrize(
    ("annotation", "text"),
    [
        (int, "int"),
        (None, "None"),
        (type(None), "None"),
        (Any, "Any"),
        (object, "object"),
        (int | None, "int | None"),
        (typing.Optional[str], "str | None"),  # noqa: UP045
        (list[dict[str, Color]], "list[dict[str, Color]]"),
        (typing.List[int], "list[int]"),  # noqa: UP006
        (abc.Mapping[str, int], "Mapping[str, int]"),
        (tuple[int, ...], "tuple[int, ...]"),
        (tuple[()], "tuple[()]"),
        (tuple, "tuple"),
        (abc.Callable[[int, str], None], "Callable[[int, str], None]"),
        (abc.Callable[..., Any], "Callable[..., Any]"),
        (Literal["a", 1, Color.RED], "Literal['a', 1, Color.RED]"),
        (Annotated[int, "x"], "int"),
        (UserId, "UserId"),
        (T, "T"),
        ("Later", "Later"),
        (list["Later"], "list[Later]"),  # pyright: ignore[reportUndefinedVariable]  # noqa: F821
        (Box[int], "Box[int]"),
        (Numbers, "Numbers"),
        (type[Base], "type[Base]"),
        (date, "date"),
        (NoReturn, "NoReturn"),
    ],
    ids=repr,
)
def test_an_annotation_is_rendered_as_one_would_write_it(annotation: object, text: str) -> None:
    """ERR-05"""
    assert render(annotation) == text


def test_a_class_local_to_a_function_goes_by_its_name() -> None:
    class Local:
        class Inner:
            pass

    assert render(list[Local.Inner]) == "list[Local.Inner]"


def test_type_arguments_follow_the_bases_of_a_class() -> None:
    class Deep(Box[list[T]], Generic[T]):
        pass

    assert type_arguments(Deep[int])[Box] == (list[int],)
    assert type_arguments(Names)[list] == (str,)
