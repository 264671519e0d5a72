"""What drawing, planning and running know of a scatter (SCAT-01, SCAT-02; ASSET-21..23)."""

from __future__ import annotations

import json
import pickle
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import date

from flowstone_async import Cache, Context, Gathered, Pipeline, param
from flowstone_async.clock import ManualClock
from flowstone_async.planning.freshness import taken_params
from flowstone_async.planning.units import edges_of, expand
from flowstone_async.store.memory import MemoryStore
from tests.unit.definition.reading import untyped


@dataclass
class Args:
    limit: int = 3
    size: int = 1


module_pipe = Pipeline("module")


@module_pipe.scatter([1])
async def doubled(n: int) -> int:
    return n * 2


def _pipe() -> Pipeline:
    pipe = Pipeline("p", params=Args)
    pipe.constant("rates", {"a": 1.0})
    pipe.constant("raw", [1])

    async def pages(raw: list[int], limit: int = param("limit")) -> AsyncIterator[int]:
        yield limit

    @pipe.scatter(pages, select=lambda n, rates: n)
    async def images(n: int, size: int = param("size")) -> str:
        return str(n)

    @images.gather
    async def album(results: Gathered[str]) -> int:
        return 1

    return pipe


def test_the_source_is_drawn_as_a_dependency() -> None:
    """SCAT-02, ASSET-21, ASSET-22: and so is what `select` takes."""
    pipe = _pipe()
    assert pipe.order() == ("rates", "raw", "images", "album")
    assert pipe.graph() == "rates\n└── images\n    └── album\nraw\n└── images (see above)"
    assert "raw --> images" in pipe.graph("mermaid")
    found = json.loads(pipe.graph("json"))
    assert {"name": "images", "kind": "scatter", "description": None} in found["nodes"]
    assert {"from": "raw", "to": "images", "optional": False} in found["edges"]
    assert pipe.asset_info("images").depends_on == ("raw", "rates")


def test_the_source_is_planned_as_a_dependency() -> None:
    """SCAT-02: it comes first, it is an input, and it counts for freshness; the item is no edge."""
    graph = _pipe().compiled()
    node = graph.nodes["images"]
    assert [edge.parameter for edge in edges_of(node)] == ["raw", "rates"]
    units = expand(graph, ["album"], None, io="", now=MemoryStore(ManualClock()).now())
    names = [unit.node.name for unit in units.all]
    assert names == ["raw", "rates", "images", "album"]
    (unit,) = [each for each in units.all if each.node.name == "images"]
    assert [(edge.binding.parameter, edge.units) for edge in unit.inputs] == [("raw", (0,)), ("rates", (1,))]
    assert unit.upstreams == (0, 1)


def test_params_of_the_source_are_inputs() -> None:
    """SCAT-02, FRESH: as those of the body."""
    assert taken_params(_pipe().compiled().nodes["images"]) == ("size", "limit")


def test_a_source_that_takes_the_context() -> None:
    """SCAT-02: what it reads of the params counts."""
    pipe = Pipeline("p")

    async def pages(ctx: Context) -> AsyncIterator[int]:
        yield 1

    @pipe.scatter(pages)
    async def images(n: int) -> int:
        return n

    assert pipe.compiled().nodes["images"].takes_context


async def _version(source: object, version: str | None = None) -> str | None:
    """Return what a value of a scatter on a source is known by, beside its inputs."""
    pipe = Pipeline("p")

    @untyped(pipe).scatter(source, cache=Cache(version=version))
    async def body(item):
        return item

    async with pipe._session() as session:
        catalog = session.catalogs["p"]
        return catalog.runnable(catalog.node("body")).version


class Opaque:
    """Without a fingerprint."""


async def test_other_items_make_a_value_stale() -> None:
    """SCAT-02, FRESH: those that are given in the code, as with a constant; equal ones do not, in any process."""
    given = [
        [1],
        [2],
        (1,),
        [],
        range(2),
        range(3),
        [{"a": 1}],
        {"a": 2},
        {1, 2},
        {"b", "a"},
        [date(2025, 1, 1)],
        ["1"],
    ]
    versions = [await _version(each) for each in given]
    assert [await _version(each) for each in given] == versions
    assert await _version([1]) == await _version((1,))
    assert await _version({"a", "b"}) == await _version({"b", "a"})
    assert len(set(versions)) == len(given) - 1
    assert await _version([1], "v2") == f"v2{await _version([1])}"
    opaque = [Opaque()]
    assert await _version(opaque) != await _version(opaque)


async def test_items_that_are_not_given_are_known_by_what_they_come_from() -> None:
    """SCAT-02, FRESH: a value is not looked at before the run reads it."""

    class Lazy:
        def __iter__(self) -> Iterator[int]:
            raise AssertionError

    async def pages() -> AsyncIterator[int]:
        yield 1

    assert [await _version(each) for each in (Lazy(), pages)] == [None, None]


def test_a_handle_travels_by_name() -> None:
    """ASSET-23: as any handle does."""
    assert pickle.loads(pickle.dumps(doubled)) is doubled
