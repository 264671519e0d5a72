"""Whether items, body, `select` and `key` fit each other (SCAT-01..05)."""

from __future__ import annotations

from collections import Counter, UserList, defaultdict, deque
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from enum import Enum
from operator import attrgetter, itemgetter
from typing import Annotated, Any, Generic, NamedTuple, NewType, TypedDict, TypeVar

import pytest
from pydantic import BaseModel

from flowstone_async import Context, Item, Pipeline, Stream, dep, param
from flowstone_async.definition.binding import ContextBinding, DependencyBinding
from flowstone_async.definition.bound_scatter import BoundScatter
from flowstone_async.definition.item_type import element_type, is_iterable
from tests.unit.definition.reading import codes, only, problems, untyped

T = TypeVar("T")
Urls = NewType("Urls", list[str])


class Row(TypedDict):
    id: int


class Doc(BaseModel):
    id: int


@dataclass
class Point:
    x: object = 0


class Pair(NamedTuple):
    a: int
    b: str


class Color(Enum):
    RED = 1


class Names(list[str]):
    pass


class Tree(Generic[T]):
    """Iterable in a way that no annotation tells of."""

    def __iter__(self) -> Any:
        return iter(())


ELEMENTS: list[tuple[Any, Any]] = [
    (list[int], int),
    (Sequence[str], str),
    (set[date], date),
    (frozenset[int], int),
    (tuple[int, ...], int),
    (tuple[int, str], int | str),
    (dict[str, int], str),
    (Mapping[str, int], str),
    (defaultdict[str, int], str),
    (Counter[str], str),
    (deque[int], int),
    (Iterable[int], int),
    (AsyncIterator[int], int),
    (Stream[int], int),
    (list[int] | set[str], int | str),
    (Annotated[list[int], "note"], int),
    (Names, str),
    (Urls, str),
    (range, int),
    (Pair, None),
    (list, None),
    (Any, None),
    (str, None),
    (Tree[int], None),
    (UserList, None),
    (list[int] | Tree[int], None),
    (tuple[()], None),
]


@pytest.mark.parametrize(("annotation", "element"), ELEMENTS, ids=[str(each) for each, _ in ELEMENTS])
def test_the_type_of_what_is_iterated(annotation: Any, element: Any) -> None:
    """SCAT-02: where it is known."""
    assert element_type(annotation) == element
    assert is_iterable(annotation) is (annotation is not str)


@pytest.mark.parametrize("annotation", [int, None, Point, bytes, bytearray, str | list[str], list[int] | None, Color])
def test_what_is_not_iterated(annotation: Any) -> None:
    """SCAT-02: text and bytes neither, whose items nobody means."""
    assert not is_iterable(annotation)


def _scatter(source: object, annotation: Any, **options: Any) -> BoundScatter | str:
    """Return what a scatter takes, or the one problem it has."""
    pipe = Pipeline("p")
    pipe.constant("rates", {"a": 1.0})

    async def body(item):
        return item

    if annotation is not ...:
        body.__annotations__["item"] = annotation
    untyped(pipe).scatter(source, **options)(body)
    if found := pipe.problems():
        assert len(found) == 1, problems(pipe)
        return f"{found[0].code} {found[0].message}"
    scatter = pipe.compiled().nodes["body"].scatter
    assert scatter is not None
    return scatter


FITS: list[tuple[Any, Any, Any]] = [
    ([1, 2], int, int),
    ([1, 2], float, int),
    ([1, 2.5], float, int | float),
    ([1], ..., int),
    ([1], object, int),
    ([1, None], int | None, int | None),
    ([], str, str),
    ([], ..., None),
    ([Point()], Point, Point),
    ([Color.RED], Color, Color),
    ([(1, "a")], tuple[int, str], tuple[int, str]),
    ({"a": 1}, str, str),
    (range(3), int, int),
    ([{"a": 1}], Item, dict[str, int]),
    ([{"a": 1}], dict[str, int], dict[str, int]),
    ([{"a": 1}], Mapping[str, int], dict[str, int]),
    (UserList([1]), str, str),
]


@pytest.mark.parametrize(("source", "annotation", "wanted"), FITS, ids=lambda each: str(each).partition(" at ")[0])
def test_items_that_fit(source: object, annotation: Any, wanted: Any) -> None:
    """SCAT-02, SCAT-03: an item arrives as what it is, else as what the parameter says; a mapping as an `Item`."""
    scatter = _scatter(source, annotation)
    assert isinstance(scatter, BoundScatter)
    assert (scatter.item.parameter, scatter.item.wanted) == ("item", wanted)


DO_NOT_FIT: list[tuple[Any, Any, str]] = [
    ([1], str, "body(item: str) but the items of its source are int."),
    ([1, "a"], int, "body(item: int) but the items of its source are "),
    ([{"a": 1}], Doc, "body(item: Doc) but the items of its source are dict[str, int]."),
    ([{"a": 1}], list[str], "body(item: list[str]) but the items of its source are dict[str, int]."),
    (range(3), str, "body(item: str) but the items of its source are int."),
    ({"a": 1}, int, "body(item: int) but the items of its source are str."),
]


@pytest.mark.parametrize(("source", "annotation", "message"), DO_NOT_FIT, ids=str)
def test_items_that_do_not_fit(source: object, annotation: Any, message: str) -> None:
    """SCAT-02: `FS160`."""
    found = _scatter(source, annotation)
    assert isinstance(found, str)
    assert found.startswith(f"FS160 {message}")


def test_many_values_are_looked_through_for_their_types() -> None:
    """SCAT-02: all of them; into containers only so far."""
    many: list[Any] = [*range(100_000), "a"]
    assert isinstance(_scatter(many, int), str)
    assert not isinstance(_scatter([*([0],) * 2_000, ["a"]], list[int]), str)


def test_types_along_the_edge() -> None:
    """SCAT-02, SCAT-03: an asset, a stream, a function: what they declare counts."""
    pipe = Pipeline("p")

    @pipe.asset
    async def rows() -> list[Row]:
        return []

    @pipe.asset
    async def docs() -> AsyncIterator[Doc]:
        yield Doc(id=1)

    @pipe.scatter(rows)
    async def by_item(row: Item) -> int:
        return row.id

    @untyped(pipe).scatter(rows)
    async def by_row(row: Row) -> int:
        return row["id"]

    @untyped(pipe).scatter(rows)
    async def wrong_row(row: Doc) -> int:
        return row.id

    @pipe.scatter(docs)
    async def by_doc(doc: BaseModel) -> int:
        return 1

    @untyped(pipe).scatter(docs)
    async def wrong_doc(doc: Point) -> int:
        return 1

    async def pages() -> AsyncGenerator[str, None]:
        yield ""

    @untyped(pipe).scatter(pages)
    async def wrong_page(page: int) -> int:
        return page

    assert sorted(problems(pipe)) == [
        "FS160 wrong_doc(doc: Point) but the items of asset 'docs' are Doc.",
        "FS160 wrong_page(page: int) but the items of its source are str.",
        "FS160 wrong_row(row: Doc) but the items of asset 'rows' are Row.",
    ]


# -- the body -------------------------------------------------------------------------------------------------------


async def _nothing() -> int:
    return 1


async def _anything(*items: int, **more: int) -> int:
    return 1


def _plain(item: int) -> int:
    return item


async def _stream(item: int) -> AsyncIterator[int]:
    yield item


async def _context_first(ctx: Context, item: int) -> int:
    return item


async def _dependency_first(rates: dict[str, float] = dep("rates"), item: int = 0) -> int:
    return item


async def _annotated_first(limit: Annotated[int, param("limit")], item: int) -> int:
    return item


async def _positional(item: int, /) -> int:
    return item


async def _unreadable(item: Nowhere) -> int:  # noqa: F821 # pyright: ignore[reportUndefinedVariable]
    return 1


FIRST = "Put the parameter for the item first; the others are injected."
ASYNC = "Make it async def, and let it return the item's result."
BODIES: dict[str, tuple[Any, list[str]]] = {
    "nothing": (_nothing, [f"FS161 x: its body has no parameter for the item. | {FIRST}"]),
    "anything": (_anything, [f"FS161 x: its body has no parameter for the item. | {FIRST}"]),
    "plain": (_plain, [f"FS161 x: its body, called once for each item, is a plain def. | {ASYNC}"]),
    "stream": (_stream, [f"FS161 x: its body, called once for each item, is an async generator. | {ASYNC}"]),
    "context": (
        _context_first,
        [
            f"FS161 x(ctx: Context) — the first parameter receives the item, not the context. | {FIRST}",
            "FS101 x(item: int) — 'item' is not an asset, param or resource of this pipeline.",
        ],
    ),
    "dependency": (
        _dependency_first,
        [
            (
                "FS161 x(rates: dict[str, float]) — the first parameter receives the item, but it says what else to take."
                f" | {FIRST}"
            ),
        ],
    ),
    "annotated": (
        _annotated_first,
        [
            f"FS161 x(limit: int) — the first parameter receives the item, but it says what else to take. | {FIRST}",
            "FS101 x(item: int) — 'item' is not an asset, param or resource of this pipeline.",
        ],
    ),
    "positional": (
        _positional,
        ["FS161 x(item: int) — 'item' is positional-only, but arguments are passed by name. | Take the '/' away."],
    ),
    "unreadable": (_unreadable, ["FS101 x(item) — its annotation cannot be read: name 'Nowhere' is not defined."]),
}


@pytest.mark.parametrize("case", BODIES)
def test_bodies_that_cannot_be_called_with_an_item(case: str) -> None:
    """SCAT-01: `FS161`."""
    pipe = Pipeline("p")
    pipe.constant("rates", {"a": 1.0})
    body, expected = BODIES[case]
    untyped(pipe).scatter([1], name="x")(body)
    assert sorted(problems(pipe)) == sorted(expected)


def test_the_first_parameter_is_the_item_whatever_it_is_called() -> None:
    """SCAT-01: also like an asset, or like what other bodies are given."""
    pipe = Pipeline("p")
    pipe.constant("rates", {"a": 1.0})

    @pipe.scatter([1])
    async def a(rates: int) -> int:
        return rates

    @pipe.scatter([1])
    async def b(partition: int, rates: dict[str, float], ctx: Context) -> int:
        return partition

    @pipe.scatter([1])
    async def c(item: int = 3) -> int:
        return item

    assert problems(pipe) == []
    nodes = pipe.compiled().nodes
    assert (nodes["a"].bindings, nodes["a"].upstreams) == ((), ())
    assert [each.parameter for each in nodes["b"].bindings] == ["rates", "ctx"]
    assert [scatter.item.parameter for node in nodes.values() if (scatter := node.scatter)] == [
        "rates",
        "partition",
        "item",
    ]


def test_the_others_are_injected_as_in_any_asset() -> None:
    """SCAT-01: and checked so."""
    pipe = Pipeline("p")
    pipe.constant("rates", {"a": 1.0})

    @pipe.scatter([1])
    async def body(item: int, rates: str, rate: int) -> int:
        return item

    first, second = sorted(problems(pipe))
    assert first.startswith("FS101 body(rate: int) — 'rate' is not an asset")
    assert second == "FS104 body(rates: str) but asset 'rates' produces dict[str, float]."


# -- select and key -------------------------------------------------------------------------------------------------


def test_functions_of_an_item_take_dependencies_by_name() -> None:
    """SCAT-04, SCAT-05: beside the item, which comes first."""
    pipe = Pipeline("p")
    pipe.constant("rates", {"a": 1.0})
    pipe.constant("names", ["a"])

    def select(row: int, rates: dict[str, float], ctx: Context) -> str:
        return str(row * rates["a"])

    @pipe.scatter([1], select=select, key=lambda text, names: (text, names[0]))
    async def body(text: str, rates: dict[str, float]) -> str:
        return text

    node = pipe.compiled().nodes["body"]
    scatter = node.scatter
    assert scatter is not None
    assert scatter.select is not None
    assert scatter.key is not None
    assert scatter.select.function is select
    first, second = scatter.select.bindings
    assert isinstance(first, DependencyBinding)
    assert isinstance(second, ContextBinding)
    assert [each.parameter for each in scatter.key.bindings] == ["names"]
    assert (scatter.source.item_type, scatter.select.annotation, scatter.select.returns) == (int, int, str)
    assert scatter.item.wanted is str
    assert node.upstreams == ("rates", "names")
    assert [each.parameter for each in node.dependencies] == ["rates", "rates", "names"]
    assert [each.parameter for each in node.taken] == ["rates", "rates", "ctx", "names"]
    assert node.takes_context


SELECTS: list[Any] = [str, str.strip, len, itemgetter(0), attrgetter("real"), Point, lambda *items: items[0]]


@pytest.mark.parametrize("function", SELECTS, ids=range(len(SELECTS)))
def test_any_function_of_one_item_will_do(function: Any) -> None:
    """SCAT-04, SCAT-05: also one written in C, of which nothing is known, and a class."""
    scatter = _scatter(["a"], ..., select=function, key=function)
    assert isinstance(scatter, BoundScatter)
    assert scatter.select is not None
    assert scatter.select.bindings == ()
    assert scatter.item.wanted is (function if isinstance(function, type) else None)


def test_what_select_gives_arrives() -> None:
    """SCAT-03, SCAT-04: its annotation says as what; without one the parameter's does."""

    def untold(row):
        return row

    scatter = _scatter([1], Point, select=untold)
    assert isinstance(scatter, BoundScatter)
    assert scatter.item.wanted is Point


def _takes_text(item: str) -> str:
    return item


def _takes_text_gives_int(item: str) -> int:
    return int(item)


def _gives_text(item: int) -> str:
    return str(item)


def _needs_more(item: int, missing: int) -> int:
    return item


def _wrong_rates(item: int, rates: str) -> int:
    return item


def _none() -> int:
    return 1


def _named(*, item: int) -> int:
    return item


MISFITS: list[tuple[dict[str, Any], str]] = [
    ({"select": _takes_text_gives_int}, "FS160 body: select(item: str) but the items of its source are int."),
    ({"select": _gives_text}, "FS160 body(item: int) but select= gives str."),
    ({"key": _takes_text}, "FS160 body: key(item: str) but the items of its source are int."),
    (
        {"key": _needs_more},
        "FS101 body: key(missing: int) — 'missing' is not an asset, param or resource of this pipeline.",
    ),
    ({"select": _wrong_rates}, "FS104 body: select(rates: str) but asset 'rates' produces dict[str, float]."),
    ({"select": _none}, "FS161 body: select= takes no parameter, but is called with an item."),
    ({"key": _named}, "FS161 body: key= takes no parameter, but is called with an item."),
]


@pytest.mark.parametrize(("options", "message"), MISFITS, ids=[message for _, message in MISFITS])
def test_functions_that_do_not_fit(options: dict[str, Any], message: str) -> None:
    """SCAT-04, SCAT-05."""
    assert _scatter([1], int, **options) == message


def test_key_is_asked_for_what_the_body_receives() -> None:
    """SCAT-05: for the selected item."""
    assert isinstance(_scatter([1], str, select=_gives_text, key=_takes_text), BoundScatter)
    found = _scatter([1], str, select=_gives_text, key=_needs_int)
    assert found == "FS160 body: key(item: int) but select= gives str."


def _needs_int(item: int) -> int:
    return item


def test_a_cache_key_takes_what_the_body_takes_beside_the_item() -> None:
    """FRESH: there is one for all items."""
    from flowstone_async import Cache

    pipe = Pipeline("p")
    pipe.constant("rates", {"a": 1.0})

    @pipe.scatter([1], cache=Cache(key=lambda rates: str(rates)))
    async def fine(item: int, rates: dict[str, float]) -> int:
        return item

    @pipe.scatter([1], cache=Cache(key=lambda item: str(item)))
    async def wrong(item: int) -> int:
        return item

    assert codes(pipe) == ["FS101"]
    assert only(pipe).message.startswith("wrong: cache key(item)")


async def _streamed() -> AsyncIterable[int]:
    raise NotImplementedError


def test_a_function_that_only_returns_an_iterable_is_no_source() -> None:
    """SCAT-02: it has to yield."""
    with pytest.raises(TypeError, match="async generator function"):
        untyped(Pipeline("p")).scatter(_streamed)
