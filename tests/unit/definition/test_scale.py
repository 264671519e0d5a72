"""Work that is linear in assets plus edges, counted in calls rather than in seconds (ASSET-20, ASSET-21)."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from types import FrameType

import pytest

from flowstone_async import Failed, Pipeline
from tests.unit.definition.reading import codes


async def _step(**inputs: int) -> int:
    return sum(inputs.values()) + 1


def _chain(size: int) -> Pipeline:
    pipe = Pipeline("chain")
    for i in range(size):
        pipe.add(_step, name=f"n{i}", deps={"x": f"n{i - 1}"} if i else None)
    return pipe


def _ladder(rungs: int) -> Pipeline:
    """Return diamonds on top of each other: 3 assets, 4 edges and twice as many paths for each rung."""
    pipe = Pipeline("ladder")
    pipe.add(_step, name="top0")
    for i in range(rungs):
        pipe.add(_step, name=f"left{i}", deps={"x": f"top{i}"})
        pipe.add(_step, name=f"right{i}", deps={"x": f"top{i}"})
        pipe.add(_step, name=f"top{i + 1}", deps={"x": f"left{i}", "y": f"right{i}"})
    return pipe


def _fan(size: int) -> Pipeline:
    """Return one asset that all others depend on, and one that depends on all others."""
    pipe = Pipeline("fan")
    pipe.add(_step, name="root")
    for i in range(size):
        pipe.add(_step, name=f"n{i}", deps={"x": "root"})
    pipe.add(_step, name="last", deps={f"x{i}": f"n{i}" for i in range(size)})
    return pipe


def _copies(size: int) -> Pipeline:
    """Return many copies of a small pipeline, with an edge by handle in each."""
    small = Pipeline("small")
    raw = small.constant("raw", 1)
    small.add(_step, name="by_handle", deps={"x": raw})
    pipe = Pipeline("copies")
    for i in range(size):
        pipe.include(small, prefix=f"c{i}_")
    return pipe


SHAPES = [_chain, _ladder, _fan, _copies]


def _calls(work: Callable[[], object]) -> int:
    """Return how many Python functions a piece of work calls."""
    count = 0

    def counted(frame: FrameType, event: str, arg: object) -> None:
        nonlocal count
        count += event == "call"

    sys.setprofile(counted)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize("shape", SHAPES, ids=["chain", "ladder", "fan", "copies"])
def test_twice_the_assets_are_twice_the_work(shape: Callable[[int], Pipeline]) -> None:
    """ASSET-20, ASSET-21: validating, ordering, drawing and describing."""
    counts: list[list[int]] = []
    for size in (200, 400):
        pipe = shape(size)
        pipe.add(_step, name="extra")
        _calls(pipe.validate)
        pipe.add(_step, name="more")
        counts.append(
            [
                _calls(pipe.validate),
                _calls(pipe.order),
                *(_calls(lambda each=each, pipe=pipe: pipe.graph(each)) for each in ("tree", "mermaid", "dot")),
                _calls(lambda pipe=pipe: pipe.asset_info("more")),
            ]
        )
    for small, large in zip(*counts, strict=True):
        assert large <= 2.1 * small + 10


@pytest.mark.parametrize("shape", SHAPES, ids=["chain", "ladder", "fan", "copies"])
def test_planning_is_linear(shape: Callable[[int], Pipeline]) -> None:
    """ASSET-20."""
    counts: list[int] = []
    for size in (200, 400):
        pipe = shape(size)
        pipe.validate()
        last = pipe.order()[-1]
        asyncio.run(_planned(pipe, last))
        counts.append(_calls(lambda pipe=pipe, last=last: asyncio.run(_planned(pipe, last))))
    assert counts[1] <= 2.2 * counts[0] + 2000


def test_planning_is_linear_in_inputs_that_were_absent() -> None:
    """ASSET-20, CACHE-08: a value that was computed without very many failed inputs, which are all tried again."""
    counts: list[int] = []
    for size in (200, 400):
        pipe = _tolerant(size)
        asyncio.run(pipe.report("last"))
        assert asyncio.run(pipe.plan("last"))["n0"].action == "run"
        counts.append(_calls(lambda pipe=pipe: asyncio.run(_planned(pipe, "last"))))
    assert counts[1] <= 2.2 * counts[0] + 2000


def _tolerant(size: int) -> Pipeline:
    """Return one asset that depends on many others, which fail, and tolerates that."""
    pipe = Pipeline("tolerant")

    async def fails() -> int:
        raise ValueError("down")

    async def last(**inputs: int | Failed) -> int:
        return len(inputs)

    for i in range(size):
        pipe.add(fails, name=f"n{i}")
    pipe.add(last, name="last", deps={f"x{i}": f"n{i}" for i in range(size)})
    return pipe


async def _planned(pipe: Pipeline, target: str) -> None:
    plan = await pipe.plan(target)
    assert plan.entries


def test_a_ladder_is_drawn_with_one_line_for_each_edge() -> None:
    """ASSET-20, ASSET-21: 40 levels have a million million paths."""
    pipe = _ladder(40)
    lines = pipe.graph().splitlines()
    assert len(lines) == 1 + 40 * 4
    assert sum(line.endswith("(see above)") for line in lines) == 40
    assert len(pipe.order()) == 1 + 40 * 3


def test_ten_thousand_assets() -> None:
    """ASSET-20: a chain and a fan, whose depth no recursion would stand."""
    chain = _chain(10_000)
    assert chain.order() == chain.assets()
    assert chain.graph("mermaid").count("-->") == 9_999
    fan = _fan(10_000)
    assert fan.order()[0] == "root"
    assert fan.order()[-1] == "last"
    assert len(fan.graph().splitlines()) == 20_001


def test_misspelt_names_in_very_many_assets() -> None:
    """ASSET-12: every one is a problem; hints are looked for as long as they are few."""
    pipe = Pipeline("p")
    pipe.constant("raw", 1)
    for i in range(2_000):
        pipe.add(_step, name=f"a{i}", deps={"x": "rwa" if i % 2 else f"missing_{i}"})
    found = pipe.problems()
    assert [p.code for p in found] == ["FS101"] * 2_000
    assert sum(p.hint == "Did you mean 'raw'?" for p in found) == 1_000
    assert len({p.hint for p in found}) <= 202


def test_all_problems_of_a_large_pipeline_are_found_at_once() -> None:
    """ASSET-12."""
    pipe = Pipeline("p")
    for i in range(1_000):
        pipe.add(_step, name=f"Bad{i}")
    assert codes(pipe) == ["FS108"] * 1_000
