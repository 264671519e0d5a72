"""What a source is, what a page may hold, and what is refused when a source is defined."""

from __future__ import annotations

import abc
from collections.abc import AsyncIterator
from datetime import date
from typing import Any, Generic, TypeVar

import pytest

from flowstone_async.errors import ConfigError
from flowstone_async.retry import Retry
from flowstone_async.sources import BadRow, Page, Source
from flowstone_async.sources.reading import read_pages
from tests.unit.sources.feeds import Feed, items_of, read_all

T = TypeVar("T")


class Paged(Source[T], abc.ABC, Generic[T]):
    """An intermediate class: no `read` of its own, which is nobody's mistake."""


class Api(Paged[int]):
    async def read(self, cursor: int | None) -> AsyncIterator[Page[int]]:
        yield Page([1, 2])


async def test_a_source_is_a_class_with_read() -> None:
    """READ-01."""
    assert list(Api().problems()) == []
    assert items_of(await read_all(Api())) == [1, 2]


def test_a_subclass_without_read_has_a_problem_and_an_intermediate_class_is_none() -> None:
    """READ-01."""

    class Empty(Paged[int]):
        pass

    (problem,) = Empty().problems()
    assert problem == "Empty has no read(): write `async def read(self, cursor)` that yields Page(items, cursor)"


async def test_reading_a_source_without_read_is_refused() -> None:
    """READ-01: for whoever reads it without a pipeline that checks it."""

    class Empty(Source[int]):
        pass

    with pytest.raises(ConfigError, match=r"Empty has no read\(\)"):
        await anext(read_pages(Empty()))


def test_a_plain_generator_is_no_read() -> None:
    """READ-01."""

    class Plain(Source[int]):
        def read(self, cursor: object) -> Any:
            yield Page([1])

    (problem,) = Plain().problems()
    assert "plain generator" in problem


async def test_read_may_return_its_iterator_when_awaited() -> None:
    """READ-01: the signature as written is that of a coroutine too."""

    class Delegating(Source[int]):
        async def read(self, cursor: object) -> AsyncIterator[Page[int]]:  # pyright: ignore[reportIncompatibleMethodOverride]
            return Api().read(None)

    assert items_of(await read_all(Delegating())) == [1, 2]


@pytest.mark.parametrize(
    ("attribute", "value", "problem"),
    [
        ("max_items", 0, "max_items=0: give a whole number of 1 or more, or False"),
        ("max_items", True, "max_items=True"),
        ("max_items", 1.5, "max_items=1.5"),
        ("read_retry", Retry(0), "Retry(0): attempts must be"),
        ("read_retry", 3, "read_retry=3: allowed are Retry(...) and False"),
        ("read_timeout", "soon", "read_timeout='soon'"),
        ("read_timeout", 0, "read_timeout=0"),
        ("stable", 1, "stable=1: allowed are True, False"),
    ],
)
async def test_a_bad_attribute_is_a_problem(attribute: str, value: object, problem: str) -> None:
    """READ-06, READ-07, READ-09."""
    feed = Feed([1])
    setattr(feed, attribute, value)
    assert any(each.startswith(problem) or problem in each for each in feed.problems())
    with pytest.raises(ConfigError):
        await anext(read_pages(feed))
    assert feed.log == []


def test_the_defaults() -> None:
    """READ-06, READ-07, READ-09."""
    feed = Feed()
    assert (feed.max_items, feed.read_retry, feed.read_timeout, feed.stable) == (False, Retry(3), "5m", False)
    assert feed.resumable
    assert list(feed.problems()) == []


def test_the_type_of_the_items_is_known() -> None:
    """SCAT-02: the definition layer compares it with the first parameter."""

    class Pairs(Source[tuple[T, str]], Generic[T]):
        pass

    class Dated(Pairs[date]):
        pass

    class Late(Source["date"]):
        pass

    class Bare(Source):
        pass

    assert Api().item_type is int
    assert Dated().item_type == tuple[date, str]
    assert Pairs().item_type is None
    assert Late().item_type is None
    assert Bare().item_type is None


@pytest.mark.parametrize(
    "cursor", [None, True, 0, -(10**30), 1.5, "a", "ключ", "", [1, [None]], {"after": {"id": 1, "at": "2025"}}]
)
def test_a_cursor_may_be(cursor: object) -> None:
    """READ-01, READ-07: what can be stored and comes back equal, of the same type."""
    assert Page([1], cursor).cursor == cursor


@pytest.mark.parametrize(
    ("cursor", "message"),
    [
        ((1, 2), r"holds a tuple.*\n.*for a tuple, a list"),
        (date(2025, 1, 1), r"holds a date.*\n.*value\.isoformat\(\)"),
        ([b"x"], "holds a bytes"),
        (float("nan"), "holds nan"),
        ({1: 2}, "a dict with keys that are no text"),
        ({"a": {"b": {1}}}, "holds a set"),
        ("\ud800", r"holds '\\ud800'"),
        (type("Text", (str,), {})("a"), "holds a Text"),
    ],
)
def test_a_cursor_that_cannot_be_stored_is_refused(cursor: object, message: str) -> None:
    """READ-01, READ-07."""
    with pytest.raises(ConfigError, match=message):
        Page([1], cursor)


def test_a_cursor_that_contains_itself_is_refused() -> None:
    """READ-07."""
    cursor: list[object] = []
    cursor.append(cursor)
    with pytest.raises(ConfigError, match="nested more than 32 deep"):
        Page([1], cursor)


def test_a_page_keeps_copies() -> None:
    """READ-01: whoever makes pages may use its list and its cursor again."""
    items, cursor = [1], {"at": 1}
    page = Page(items, cursor)
    items.append(2)
    cursor["at"] = 2
    assert page == Page([1], {"at": 1})


@pytest.mark.parametrize("items", ["text", b"bytes", {"a": 1}])
def test_a_page_of_something_that_is_rather_one_item_is_refused(items: Any) -> None:
    """READ-01."""
    with pytest.raises(ConfigError, match="a page of a "):
        Page(items)


async def test_a_source_that_yields_anything_but_pages_is_refused() -> None:
    """READ-01."""

    class Wrong(Source[int]):
        read_retry = False

        async def read(self, cursor: object) -> AsyncIterator[Any]:
            yield [1, 2]

    with pytest.raises(ConfigError, match=r"Wrong.read gave a list\n  Yield Page"):
        await read_all(Wrong())


async def test_what_a_source_may_leave_out() -> None:
    """READ-01: count, open and close."""
    assert await Api().count() is None
    resolved, recorded = await Api().resolved({})
    assert isinstance(resolved, Api)
    assert recorded is None
    assert (Api().functions(), Api().parameters()) == ((), ())
    async with Api().lending():
        pass


async def test_a_bad_row_is_told_its_position() -> None:
    """READ-10: over pages and pieces of pages."""
    feed = Feed([0, BadRow(message="no"), 2], [BadRow(message="nor this", key="k")])
    pages = await read_all(feed, page_size=2)
    assert items_of(pages) == [
        0,
        BadRow(message="no", position=1),
        2,
        BadRow(message="nor this", key="k", position=3),
    ]
    (again,) = (item for item in items_of(await read_all(feed, pages[1].token)))
    assert again.position == 3
