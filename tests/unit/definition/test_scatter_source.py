"""Where the items of a scatter come from (SCAT-02, READ-01)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

import pytest

from flowstone_async import Batch, Batching, Daily, Keys, Pipeline, Stream, dep, param, sources
from flowstone_async.definition.binding import DependencyBinding, ParamFieldBinding
from flowstone_async.definition.bound_scatter import BoundScatter
from flowstone_async.definition.item_source import AssetSource, CustomSource, FixedSource, FunctionSource
from flowstone_async.sources.source import Source
from tests.unit.definition.reading import codes, only, problems, untyped

T = TypeVar("T")


@dataclass
class Page(Generic[T]):
    items: Sequence[T]


class Feed:
    """A source of the user's."""

    async def read(self, cursor: str | None) -> AsyncIterator[Page[str]]:
        yield Page(["x"])


class Table(Generic[T]):
    """A source that is told what its items are."""

    def __init__(self, model: type[T]) -> None:
        self.item_type = model

    async def read(self, cursor: str | None) -> AsyncIterator[Page[T]]:
        yield Page([])


@dataclass
class Args:
    limit: int = 3


def _scatter(pipe: Pipeline, source: object) -> BoundScatter:
    @untyped(pipe).scatter(source)
    async def scattered(item):
        return item

    found = pipe.compiled().nodes["scattered"].scatter
    assert found is not None
    return found


@pytest.mark.parametrize("items", [[1], (1, 2), {1}, frozenset({1}), range(3), {"a": 1}, []], ids=repr)
def test_a_collection(items: object) -> None:
    """SCAT-02: a plain iterable; it is kept as it is."""
    source = _scatter(Pipeline("p"), items).source
    assert isinstance(source.spec, FixedSource)
    assert source.spec.items is items
    assert source.bindings == ()


@pytest.mark.parametrize("way", ["handle", "dep", "name"])
@pytest.mark.parametrize("kind", ["asset", "stream", "constant", "blocking"])
def test_an_asset(kind: str, way: str) -> None:
    """SCAT-02: one whose value is iterable, or a stream; also as `dep(...)`, by handle or name."""
    pipe = Pipeline("p")

    async def values() -> list[int]:
        return [1]

    async def stream() -> AsyncIterator[int]:
        yield 1

    def blocking() -> list[int]:
        return [1]

    upstream: Any = {
        "asset": lambda: pipe.add(values, name="up"),
        "stream": lambda: pipe.add(stream, name="up"),
        "constant": lambda: pipe.constant("up", [1]),
        "blocking": lambda: pipe.add(blocking, name="up", run_in="thread"),
    }[kind]()
    scatter = _scatter(pipe, {"handle": upstream, "dep": dep(upstream), "name": dep("up")}[way])
    assert isinstance(scatter.source.spec, AssetSource)
    (edge,) = scatter.source.bindings
    assert isinstance(edge, DependencyBinding)
    assert (edge.parameter, edge.upstream, edge.wanted, edge.optional) == ("source", "up", None, False)
    assert scatter.source.item_type is int


async def _pages(raw: list[int], limit: int = param("limit")) -> AsyncIterator[str]:
    yield str(raw[:limit])


class Reader:
    async def __call__(self, raw: list[int]) -> AsyncIterator[str]:
        yield str(raw)


@pytest.mark.parametrize("function", [_pages, partial(_pages), Reader()], ids=["function", "partial", "object"])
def test_an_async_generator_function(function: Callable[..., Any]) -> None:
    """SCAT-02: its parameters are injected by the normal rules."""
    pipe = Pipeline("p", params=Args)
    pipe.constant("raw", [1])
    source = _scatter(pipe, function).source
    assert isinstance(source.spec, FunctionSource)
    assert source.spec.function is function
    first, *rest = source.bindings
    assert isinstance(first, DependencyBinding)
    assert (first.parameter, first.upstream, first.wanted) == ("raw", "raw", list[int])
    assert all(isinstance(each, ParamFieldBinding) for each in rest)
    assert pipe.compiled().nodes["scattered"].upstreams == ("raw",)


@pytest.mark.parametrize(("source", "items"), [(Feed(), str), (Table(Args), Args)], ids=["Feed", "Table"])
def test_a_source_object(source: object, items: object) -> None:
    """SCAT-02, READ-01: anything that reads pages."""
    found = _scatter(Pipeline("p"), source).source
    assert isinstance(found.spec, CustomSource)
    assert found.spec.source is source
    assert (found.bindings, found.item_type) == ((), items)


def test_what_a_source_function_takes_is_checked() -> None:
    """SCAT-02, ASSET-15: as in any body."""
    pipe = Pipeline("p")
    pipe.constant("raw", [1])

    async def pages(raw: list[str], missing: int) -> AsyncIterator[str]:
        yield ""

    @pipe.scatter(pages)
    async def scattered(item: str) -> str:
        return item

    assert sorted(problems(pipe)) == [
        "FS101 scattered: source(missing: int) — 'missing' is not an asset, param or resource of this pipeline.",
        "FS104 scattered: source(raw: list[str]) but asset 'raw' produces list[int].",
    ]


COLLECTIONS = "Give a collection, an asset, dep(...), a Source, or an async generator function."
ONCE = "Give a collection, or the async generator function itself, uncalled."
REFUSED: dict[str, tuple[object, str]] = {
    "text": ("urls", "source='urls': a text is no source. | For an asset of that name say dep('urls')."),
    "bytes": (b"x", f"source=b'x': it has no items. | {COLLECTIONS}"),
    "number": (5, f"source=5: it has no items. | {COLLECTIONS}"),
    "nothing": (None, f"source=None: it has no items. | {COLLECTIONS}"),
    "param": (param("urls"), f"source=ParamField(name='urls'): it has no items. | {COLLECTIONS}"),
    "generator": (
        (n for n in (1, 2)),
        f"source=<generator>: an iterator gives its items once, but a scatter may run again. | {ONCE}",
    ),
    "iterator": (
        iter([1]),
        f"source=<list_iterator>: an iterator gives its items once, but a scatter may run again. | {ONCE}",
    ),
    "class": (Feed, "source=Feed: a class is no source. | Give an instance: Feed(...)."),
    "optional": (
        dep("up", optional=True),
        (
            "source=dep(..., optional=True): a scatter cannot do without its source."
            " | Without the optional=True a scatter fails or is skipped with its source."
        ),
    ),
    "over": (
        dep("up", over=Daily("2025-01-01").last(2)),
        (
            "source=dep(..., over=...): a mapping from keys to values is no source."
            " | Take the mapping in an async generator function, which yields the items."
        ),
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_source(case: str) -> None:
    """SCAT-02: `FS109`, when the pipeline is validated."""
    pipe = Pipeline("p")
    pipe.constant("up", [1])
    source, expected = REFUSED[case]

    @untyped(pipe).scatter(source)
    async def scattered(item):
        return item

    assert [each for each in problems(pipe) if "FS130" not in each] == [f"FS109 scattered: {expected}"]


def test_an_async_generator_that_was_called() -> None:
    """SCAT-02: it could be read only once."""
    pipe, opened = Pipeline("p"), _pages([1])

    @pipe.scatter(opened)
    async def scattered(item: str) -> str:
        return item

    assert "source=<async_generator>: an iterator gives its items once" in only(pipe).message


def test_a_source_whose_read_is_no_generator() -> None:
    """READ-01."""

    class Wrong:
        async def read(self, cursor: str | None) -> list[str]:
            return []

        def __repr__(self) -> str:
            return "Wrong()"

    pipe = Pipeline("p")

    @untyped(pipe).scatter(Wrong())
    async def scattered(item):
        return item

    assert problems(pipe) == [
        (
            "FS109 scattered: source=Wrong(): its `read` is no async generator."
            " | Write: async def read(self, cursor): ... yield Page(items, cursor)."
        )
    ]


class Entries(Source[Args]):
    """A source by inheritance, which says by its base what its items are."""

    async def read(self, cursor: str | None) -> AsyncIterator[sources.Page[Args]]:
        yield sources.Page([])


class Unfinished(Source[T]):
    """A source without `read`."""

    max_items = 0


def test_a_subclass_of_source() -> None:
    """READ-01: what it says of itself counts."""
    assert _scatter(Pipeline("p"), Entries()).source.item_type is Args
    pipe = Pipeline("p")

    @pipe.scatter(Unfinished[int]())
    async def scattered(item: int) -> int:
        return item

    assert problems(pipe) == [
        (
            "FS109 scattered: source=Unfinished: Unfinished has no read():"
            " write `async def read(self, cursor)` that yields Page(items, cursor)."
        ),
        "FS109 scattered: source=Unfinished: max_items=0: give a whole number of 1 or more, or False.",
    ]


def _plain(n: int) -> int:
    return n


async def _awaited() -> list[int]:
    return [1]


@pytest.mark.parametrize("function", [_plain, _awaited, len])
def test_a_decorator_without_its_parentheses(function: Callable[..., Any]) -> None:
    """SCAT-02: told at once, since no asset would come of it."""
    with pytest.raises(TypeError, match=r"write @pipe\.scatter\(items\) above the body"):
        untyped(Pipeline("p")).scatter(function)


def test_a_scatter_on_a_scatter() -> None:
    """SCAT-26: its items are the results, however it is said, and their type has to fit."""
    pipe = Pipeline("p")

    @pipe.scatter([1])
    async def first(n: int) -> str:
        return str(n)

    @pipe.scatter(first)
    async def second(text: str) -> int:
        return len(text)

    @untyped(pipe).scatter(dep("second"))
    async def third(text: str) -> str:
        return text

    @pipe.scatter(first, select=len)
    async def fourth(size: int) -> int:
        return size

    assert problems(pipe) == ["FS160 third(text: str) but the items of asset 'second' are int."]


def test_a_scatter_on_a_scatter_with_batches() -> None:
    """SCAT-02, SCAT-26, BATCH-01: an item is one result, of an item or of a batch; on either side."""
    pipe = Pipeline("p")

    @pipe.scatter(["a"])
    async def first(text: str) -> int:
        return len(text)

    @pipe.scatter(first, batch=Batching(max_items=2))
    async def second(sizes: Batch[int]) -> list[str]:
        return [str(size) for size in sizes]

    @pipe.scatter(second)
    async def third(texts: list[str]) -> str:
        return "".join(texts)

    @pipe.scatter(second, batch=Batching(max_items=2))
    async def fourth(lists: Batch[list[str]]) -> int:
        return len(lists)

    @untyped(pipe).scatter(first, batch=Batching(max_items=2))
    async def texts(texts: Batch[str]) -> int:
        return len(texts)

    @untyped(pipe).scatter(first, batch=Batching(max_items=2))
    async def single(size: int) -> int:
        return size

    @untyped(pipe).scatter(second)
    async def elements(text: str) -> str:
        return text

    @untyped(pipe).scatter(dep("second"), batch=Batching(max_items=2))
    async def flattened(texts: Batch[str]) -> int:
        return len(texts)

    assert sorted(each.partition(" | ")[0] for each in problems(pipe)) == [
        "FS160 elements(text: str) but the items of asset 'second' are list[str].",
        "FS160 flattened(texts: Batch[str]) but the items of asset 'second' are list[str].",
        "FS160 single(size: int) but the body is called with batches.",
        "FS160 texts(texts: Batch[str]) but the items of asset 'first' are int.",
    ]


def test_a_scatter_on_one_of_another_pipeline() -> None:
    """SCAT-02, SCAT-26, ASSET-16: its results are the items, of the type that it declares."""
    other, pipe = Pipeline("other"), Pipeline("p")

    @other.scatter([1])
    async def first(n: int) -> str:
        return str(n)

    @pipe.scatter(dep(first, external=True))
    async def second(text: str) -> int:
        return len(text)

    @pipe.scatter(dep(first, external=True), batch=Batching(max_items=2))
    async def third(texts: Batch[str]) -> int:
        return len(texts)

    @pipe.scatter(dep(first, external=True))
    async def fourth(number: int) -> int:
        return number

    assert problems(pipe) == ["FS160 fourth(number: int) but the items of asset 'first' are str."]


def test_an_asset_without_items() -> None:
    """SCAT-02: as far as its annotation tells; a value that it does not tell of is looked at in the run."""
    pipe = Pipeline("p")

    @pipe.asset
    async def number() -> int:
        return 1

    @pipe.asset
    async def text() -> str:
        return ""

    @pipe.asset
    async def perhaps() -> list[int] | None:
        return None

    @pipe.asset
    async def unknown():
        return 1

    for upstream in (number, text, perhaps, unknown):

        async def body(item):
            return item

        untyped(pipe).scatter(upstream, name=f"on_{upstream.name}")(body)
    hint = "Let it produce a collection, or yield: an async generator is a stream."
    assert sorted(problems(pipe)) == [
        f"FS160 on_number: source=number: it produces int, which has no items. | {hint}",
        f"FS160 on_perhaps: source=perhaps: it produces list[int] | None, which has no items. | {hint}",
        f"FS160 on_text: source=text: it produces str, which has no items. | {hint}",
    ]


def test_an_asset_that_is_not_there() -> None:
    """SCAT-02, ASSET-16."""
    pipe, other = Pipeline("p"), Pipeline("other")
    foreign = other.constant("foreign", [1])
    pipe.constant("urls", ["x"])

    @untyped(pipe).scatter(dep("url"))
    async def a(item):
        return item

    @pipe.scatter(foreign)
    async def b(item: int) -> int:
        return item

    @pipe.scatter(dep(foreign, external=True))
    async def c(item: int) -> int:
        return item

    assert codes(pipe) == ["FS101", "FS150"]
    first, second = pipe.problems()
    assert first.message == "a(source) — 'url' is not an asset of this pipeline."
    assert first.hint == "Did you mean 'urls'?"
    assert second.message == "b(source) — asset 'foreign' belongs to pipeline 'other'."


def test_an_external_source() -> None:
    """SCAT-02, ASSET-16: the other pipeline's current value is iterated."""
    pipe, other = Pipeline("p"), Pipeline("other")
    scatter = _scatter(pipe, dep(other.constant("foreign", [1]), external=True))
    (edge,) = scatter.source.bindings
    assert isinstance(edge, DependencyBinding)
    assert edge.external is not None
    assert pipe.asset_info("scattered").external == ("other.foreign",)
    assert scatter.source.item_type is int


def test_partition_sets_of_source_and_scatter() -> None:
    """SCAT-02, PART: as for any edge."""
    pipe, days = Pipeline("p"), Daily("2025-01-01")

    @pipe.asset(partitions=days)
    async def urls() -> list[str]:
        return []

    @pipe.scatter(urls, partitions=days)
    async def same(url: str) -> str:
        return url

    @pipe.scatter(urls, partitions=Keys("us"))
    async def different(url: str) -> str:
        return url

    assert only(pipe).code == "FS130"
    assert only(pipe).message.startswith("different(source) — ")


def test_a_source_is_in_the_copy_of_an_included_pipeline() -> None:
    """SCAT-02: names and handles mean what they mean where the scatter was written."""
    inner, outer = Pipeline("inner"), Pipeline("outer")
    urls = inner.constant("urls", ["x"])
    outer.constant("urls", [1])

    @inner.scatter(urls)
    async def by_handle(url: str) -> str:
        return url

    @inner.scatter(dep("urls"))
    async def by_name(url: str, urls: list[str]) -> str:
        return url

    outer.include(inner, prefix="a_").include(inner, prefix="b_")
    nodes = outer.compiled().nodes
    assert {name: node.upstreams for name, node in nodes.items() if node.scatter} == {
        "a_by_handle": ("a_urls",),
        "a_by_name": ("a_urls",),
        "b_by_handle": ("b_urls",),
        "b_by_name": ("b_urls",),
    }


def test_a_source_that_comes_round() -> None:
    """ASSET-13: through its source a scatter can be part of a cycle."""
    pipe = Pipeline("p")

    @pipe.scatter(dep("up"))
    async def scattered(item: int) -> int:
        return item

    @pipe.asset
    async def up(scattered: object) -> list[int]:
        return []

    assert codes(pipe) == ["FS110"]


def test_a_stream_by_another_name() -> None:
    """SCAT-02: a body may take the source's whole value beside the item."""
    pipe = Pipeline("p")

    @pipe.asset
    async def urls() -> AsyncIterator[str]:
        yield ""

    @pipe.scatter(urls)
    async def scattered(url: str, everything: Stream[str] = dep(urls)) -> str:
        return url

    assert problems(pipe) == []
    assert pipe.compiled().nodes["scattered"].upstreams == ("urls",)
