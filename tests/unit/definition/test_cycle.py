"""Cycles: each once, with its path (ASSET-13)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowstone_async import Cache, Pipeline
from flowstone_async.definition.cycle import components, cycles
from flowstone_async.definition.graph import followers, topological
from tests.unit.definition.reading import problems

Upstreams = Mapping[str, Sequence[str]]


def _pipe(upstreams: Upstreams) -> Pipeline:
    pipe = Pipeline("p")

    async def combine(**inputs: int) -> int:
        return sum(inputs.values())

    for name, above in upstreams.items():
        pipe.add(combine, name=name, deps={f"n{i}": each for i, each in enumerate(above)})
    return pipe


def _paths(pipe: Pipeline) -> list[str]:
    return [text.removeprefix("FS110 cycle: ").partition(".")[0] for text in problems(pipe) if text.startswith("FS110")]


def test_a_cycle_is_named_with_its_path() -> None:
    """ASSET-13: in the direction of the data, from the asset that was defined first."""
    pipe = _pipe({"out": ["b"], "a": ["c"], "b": ["a"], "c": ["b"], "fine": []})
    assert problems(pipe) == ["FS110 cycle: a -> b -> c -> a. | Take one of these edges away."]
    assert pipe.problems()[0].asset == "a"


def test_an_asset_that_depends_on_itself() -> None:
    """ASSET-13: a cycle of one."""
    pipe = Pipeline("p")

    @pipe.asset
    async def narcissus(narcissus: int) -> int:
        return narcissus

    assert _paths(pipe) == ["narcissus -> narcissus"]


def test_cycles_that_share_edges_are_each_named_once() -> None:
    """ASSET-13: two through one edge, one within the other, one apart."""
    pipe = _pipe({"a": ["b", "c"], "b": ["a"], "c": ["b"], "x": ["y"], "y": ["x", "y"]})
    assert sorted(_paths(pipe)) == ["a -> b -> a", "a -> b -> c -> a", "x -> y -> x", "y -> y"]


def test_a_condition_or_a_cache_key_may_close_a_cycle() -> None:
    """ASSET-13, FLOW-04."""
    pipe = Pipeline("p")

    @pipe.asset(when=lambda b: b > 0)
    async def a() -> int:
        return 1

    @pipe.asset
    async def b(a: int) -> int:
        return a

    @pipe.asset(cache=Cache(key=lambda d: f"{d}"))
    async def c() -> int:
        return 1

    @pipe.asset
    async def d(c: int) -> int:
        return c

    assert _paths(pipe) == ["a -> b -> a", "c -> d -> c"]


def test_of_very_many_cycles_some_are_named() -> None:
    """ASSET-13: a complete graph of 12 has over 100 million cycles."""
    names = [f"n{i}" for i in range(12)]
    pipe = _pipe(dict.fromkeys(names, names))
    assert len(_paths(pipe)) == len(set(_paths(pipe))) == 20
    assert problems(pipe)[-1].endswith("There may be more cycles than these.")


def test_a_cycle_of_ten_thousand() -> None:
    """ASSET-13, ASSET-20: found without recursion."""
    size = 10_000
    ring = {f"n{i}": [f"n{(i - 1) % size}"] for i in range(size)}
    (found,) = cycles(followers(ring))
    assert found[:3] == ("n0", "n1", "n2")
    assert len(found) == size + 1


class _Counted(dict[str, Sequence[str]]):
    """Counts how often edges are looked at."""

    looks = 0

    def __getitem__(self, name: str) -> Sequence[str]:
        def counted() -> Iterator[str]:
            for each in super(_Counted, self).__getitem__(name):
                self.looks += 1
                yield each

        return _Seen(counted)


class _Seen(Sequence[str]):
    def __init__(self, each: Callable[[], Iterator[str]]) -> None:
        self._each = each

    def __iter__(self) -> Iterator[str]:
        return self._each()

    def __len__(self) -> int:
        raise NotImplementedError

    def __getitem__(self, index: object) -> str:
        raise NotImplementedError


def test_looking_for_cycles_is_linear() -> None:
    """ASSET-20: a diamond ladder of 40 levels has a million million paths and 160 edges."""
    rungs = 40
    after = _Counted()
    for i in range(rungs):
        after[f"top{i}"] = [f"left{i}", f"right{i}"]
        after[f"left{i}"] = after[f"right{i}"] = [f"top{i + 1}"]
    after[f"top{rungs}"] = []
    edges = 4 * rungs
    assert components(after) == []
    assert after.looks <= 2 * edges


@st.composite
def _graphs(draw: st.DrawFn) -> dict[str, list[str]]:
    names = [f"n{i}" for i in range(draw(st.integers(1, 6)))]
    return {name: draw(st.lists(st.sampled_from(names), unique=True, max_size=4)) for name in names}


@given(_graphs())
def test_every_cycle_is_found_exactly_once(after: dict[str, list[str]]) -> None:
    """ASSET-13: compared with trying every path."""
    found = [frozenset(pairwise(path)) for path in cycles(after, limit=10_000)]
    assert len(found) == len(set(found))
    assert set(found) == set(_all_cycles(after))
    nodes = {name for path in cycles(after, limit=10_000) for name in path}
    assert nodes == set().union(*components(after))


def _all_cycles(after: dict[str, list[str]]) -> Iterator[frozenset[tuple[str, str]]]:
    def walk(path: list[str]) -> Iterator[frozenset[tuple[str, str]]]:
        for following in after[path[-1]]:
            if following == path[0]:
                closed = [*path, following]
                yield frozenset(pairwise(closed))
            elif following not in path:
                yield from walk([*path, following])

    for start in after:
        yield from walk([start])


@given(_graphs())
def test_an_order_leaves_out_what_hangs_on_a_cycle(upstreams: dict[str, list[str]]) -> None:
    """ASSET-20: everything else comes after its upstreams, ties in the order of declaration."""
    order = topological(upstreams)
    place = {name: index for index, name in enumerate(order)}
    assert all(place[above] < place[name] for name in order for above in upstreams[name])
    stuck = set(upstreams) - set(order)
    assert all(stuck.intersection(upstreams[name]) for name in stuck)
    declared = list(upstreams)
    for one, other in pairwise(order):
        assert declared.index(one) < declared.index(other) or one in upstreams[other]


@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_ring_is_one_cycle(size: int) -> None:
    """ASSET-13."""
    ring = {f"n{i}": [f"n{(i + 1) % size}"] for i in range(size)}
    assert len(list(cycles(ring))) == 1
