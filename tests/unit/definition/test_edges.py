"""Whether an upstream fits its parameter: types, outcomes, optional edges (ASSET-07, 08, 15)."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Mapping, Sequence
from enum import Enum
from typing import Any, Literal, NewType, Optional, Protocol, TypedDict, TypeVar, Union

import pytest
from pydantic import BaseModel

from flowstone_async import Failed, Pipeline, Skipped, Stream, dep
from flowstone_async.definition.assignable import render
from tests.unit.definition.reading import codes, problems

T = TypeVar("T")
UserId = NewType("UserId", int)


class Base:
    pass


class Child(Base):
    pass


class Color(Enum):
    RED = "red"


class Row(TypedDict):
    id: int


class Model(BaseModel):
    n: int = 0


class Sized(Protocol):
    def __len__(self) -> int: ...


def _edge(produced: Any, wanted: Any) -> Pipeline:
    """Return a pipeline with one edge, annotated so."""
    pipe = Pipeline("p")

    @pipe.asset
    async def up() -> produced:  # pyright: ignore[reportInvalidTypeForm]
        raise NotImplementedError

    @pipe.asset
    async def down(up: wanted) -> int:  # pyright: ignore[reportInvalidTypeForm]
        return 1

    return pipe


FITS = [
    (int, int),
    (int, float),  # the numeric tower
    (int, complex),
    (float, complex),
    (bool, int),
    (int, int | None),  # unions
    (int, Optional[int]),  # noqa: UP045
    (int, Union[str, int]),  # noqa: UP007
    (int | str, str | int | None),
    (Literal["a"], Literal["a", "b"]),
    (Literal["a"], str),
    (Color, Color),
    (Child, Base),  # subclasses
    (Child, Base | None),
    (UserId, int),
    (list[int], list[float]),  # generics
    (list[int], Sequence[int]),
    (list[int], Iterable[object]),
    (list[Child], list[Base]),
    (dict[str, list[int]], Mapping[str, Sequence[int]]),
    (tuple[int, str], tuple[int, ...] | tuple[int, str]),
    (list[int], list),
    (list, list[int]),
    (str, Sized),
    (Row, Row),
    (Model, BaseModel),
    (Callable[[int], str], Callable[..., str]),
    (int, Any),  # nothing to check
    (int, object),
    (Any, int),
    (int, T),
    (list[T], list[int]),  # pyright: ignore[reportGeneralTypeIssues]
    (None, None),
    (None, int | None),
    (int, int | Failed),  # outcomes
    (int, int | Skipped | None),
    (int | None, Failed | None | int),
]

FITS_NOT = [
    (int, str, "produces int"),
    (float, int, "produces float"),
    (int | None, int, "produces int | None"),
    (int | str, int, "produces int | str"),
    (Base, Child, "produces Base"),
    (int, UserId, "produces int"),
    (list[int], list[str], "produces list[int]"),
    (list[int], set[int], "produces list[int]"),
    (dict[str, int], dict[int, int], "produces dict[str, int]"),
    (tuple[int, str], tuple[str, int], "produces tuple[int, str]"),
    (Literal["a", "c"], Literal["a", "b"], "produces Literal['a', 'c']"),
    (str, Literal["a"], "produces str"),
    (None, int, "produces None"),
    (int, None, "produces int"),
    (int, Sized, "produces int"),
    (Model, Row, "produces Model"),
    (int, Failed, "produces int"),
    (int, str | Failed | Skipped, "produces int"),
]


@pytest.mark.parametrize(("produced", "wanted"), FITS, ids=map(str, FITS))
def test_a_value_that_fits(produced: Any, wanted: Any) -> None:
    """ASSET-15."""
    assert problems(_edge(produced, wanted)) == []


@pytest.mark.parametrize(("produced", "wanted", "words"), FITS_NOT, ids=map(str, FITS_NOT))
def test_a_value_that_does_not_fit(produced: Any, wanted: Any, words: str) -> None:
    """ASSET-15: `FS104`."""
    (found,) = problems(_edge(produced, wanted))
    assert found.startswith("FS104 down(up: ")
    assert found.endswith(f") but asset 'up' {words}.")


def test_an_unannotated_side_is_not_checked() -> None:
    """ASSET-15."""
    pipe = Pipeline("p")

    @pipe.asset
    async def unannotated():
        return 1

    @pipe.asset
    async def annotated() -> int:
        return 1

    @pipe.asset
    async def down(unannotated: str, annotated, either=dep(annotated)) -> int:
        return 1

    assert problems(pipe) == []


def test_edges_of_every_form_are_checked() -> None:
    """ASSET-15: by name, by reference, in `Annotated`, of `pipe.add`, of conditions and of cache keys."""
    from typing import Annotated

    from flowstone_async import Cache

    pipe = Pipeline("p")
    up = pipe.constant("up", 1)

    def condition(up: str) -> bool:
        return bool(up)

    def key(up: str, marked: str) -> str:  # `marked` is the body's argument, and judged with it
        return up + marked

    async def body(x: str) -> int:
        return len(x)

    pipe.add(body, name="added", deps={"x": up})

    @pipe.asset(when=condition, cache=Cache(key=key))
    async def down(a: Annotated[str, dep(up)], marked: str = dep("up"), fits: int = dep(up)) -> int:
        return 1

    assert sorted(problems(pipe)) == [
        "FS104 added(x: str) but asset 'up' produces int.",
        "FS104 down(a: str) but asset 'up' produces int.",
        "FS104 down(marked: str) but asset 'up' produces int.",
        "FS104 down: cache key(up: str) but asset 'up' produces int.",
        "FS104 down: condition condition(up: str) but asset 'up' produces int.",
    ]


STREAM_FITS = [
    Stream[int],
    Stream[float],
    Stream,
    AsyncIterable[int],
    AsyncIterator[int],
    Stream[int] | None,
    object,
    Any,
]
STREAM_FITS_NOT = [list[int], Stream[str], AsyncIterable[str], AsyncIterator[str], Iterable[int], int]


@pytest.mark.parametrize("wanted", STREAM_FITS, ids=map(render, STREAM_FITS))
def test_a_stream_is_taken_as_one(wanted: Any) -> None:
    """ASSET-09, ASSET-15."""
    assert problems(_stream(wanted)) == []


@pytest.mark.parametrize("wanted", STREAM_FITS_NOT, ids=map(render, STREAM_FITS_NOT))
def test_a_stream_is_nothing_else(wanted: Any) -> None:
    """ASSET-09, ASSET-15."""
    (found,) = problems(_stream(wanted))
    assert found.endswith("but asset 'up' produces Stream[int].")


def _stream(wanted: Any) -> Pipeline:
    pipe = Pipeline("p")

    @pipe.asset
    async def up() -> AsyncIterator[int]:
        yield 1

    @pipe.asset
    async def down(up: wanted) -> int:  # pyright: ignore[reportInvalidTypeForm]
        return 1

    return pipe


OPTIONAL = [
    (int | None, True),
    (None | Failed | int, True),
    (object, True),
    (Any, True),
    (int, False),
    (int | Failed, False),
]


@pytest.mark.parametrize(("wanted", "fits"), OPTIONAL)
def test_an_optional_edge_admits_none(wanted: Any, fits: bool) -> None:
    """ASSET-08: `FS111`."""
    pipe = Pipeline("p")
    up = pipe.constant("up", 1)

    @pipe.asset
    async def down(x: wanted = dep(up, optional=True)) -> int:  # pyright: ignore[reportInvalidTypeForm]
        return 1

    assert codes(pipe) == ([] if fits else ["FS111"])


def test_how_to_admit_none() -> None:
    """ASSET-08."""
    pipe = Pipeline("p")
    up = pipe.constant("up", 1)

    @pipe.asset
    async def down(x: int = dep(up, optional=True)) -> int:  # pyright: ignore[reportArgumentType]
        return x

    @pipe.asset
    async def unannotated(x=dep(up, optional=True)) -> int:
        return x or 0

    assert problems(pipe) == ["FS111 down(x: int) — it is optional, so it may be None. | Annotate it as int | None."]


def test_what_the_annotation_admits_is_known() -> None:
    """ASSET-08: the value is loaded as the rest of the annotation."""
    pipe = Pipeline("p")
    up = pipe.constant("up", 1)
    Outcome = int | Failed | Skipped  # noqa: N806

    @pipe.asset
    async def down(
        plain: int = dep(up),
        failed: int | Failed = dep(up),
        skipped: int | Skipped | None = dep(up, optional=True),
        both: Outcome = dep(up),  # pyright: ignore[reportInvalidTypeForm]
    ) -> int:
        return plain

    edges = {each.parameter: each for each in pipe.compiled().nodes["down"].dependencies}
    admits = {name: (edge.admits_failed, edge.admits_skipped, edge.optional) for name, edge in edges.items()}
    assert admits == {
        "plain": (False, False, False),
        "failed": (True, False, False),
        "skipped": (False, True, True),
        "both": (True, True, False),
    }
    assert [edge.wanted for edge in edges.values()] == [int, int, int | None, int]
    assert pipe.asset_info(down).optional == ()  # it is needed by another parameter


async def test_a_stream_is_an_iterator_where_one_is_annotated() -> None:
    """ASSET-09, ASSET-15: what `FS104` lets through can be used as it is annotated."""
    pipe = Pipeline("p")

    @pipe.asset
    async def up() -> AsyncIterator[int]:
        yield 1
        yield 2

    @pipe.asset
    async def down(up: AsyncIterator[int], again: AsyncIterator[int] | None = dep("up")) -> list[int]:
        assert again is not None
        return [await anext(up), await anext(up), await anext(again)]

    assert await pipe.run(down) == [1, 2, 1]
