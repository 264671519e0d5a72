"""Handles of pipelines that are not asked: RUN-22, ASSET-16, ERR-05."""

from __future__ import annotations

from typing import Any

import pytest

from flowstone_async import AssetNotFound, OpenRef, Pipeline
from tests.support.engines import OpenEngine, OpenVerbs


def _one(name: str, asset: str) -> tuple[Pipeline, OpenRef[Any]]:
    pipe = Pipeline(name)
    return pipe, pipe.constant(asset, name)


def _is_told(error: AssetNotFound, asset: str = "a", pipeline: str = "p") -> bool:
    return (
        error.message == f"asset {asset!r} belongs to pipeline 'q', not to pipeline {pipeline!r}"
        and error.details == {"pipeline": pipeline, "belongs_to": "q"}
        and "p.include(q)" in str(error.hint)
        and "Engine(p, q)" in str(error.hint)
    )


@pytest.mark.parametrize("name", ["a", "only_here"])
async def test_every_verb_says_whose_asset_it_is(open_verbs: OpenVerbs, name: str):
    """RUN-22: also where the pipeline has an asset of that name, which is not what was asked for."""
    pipe, own = _one("p", "a")
    _, handle = _one("q", name)
    verbs = await open_verbs(pipe)
    calls = (
        verbs.run(handle),
        verbs.run(own, handle),
        verbs.report(handle),
        verbs.plan(handle),
        verbs.get(handle),
        verbs.exists(handle),
        verbs.status(handle),
        verbs.why(handle),
        verbs.wait(handle),
        verbs.cancel(handle),
        verbs.invalidate(handle),
        verbs.backfill(handle, partitions=[1]),
    )
    for call in calls:
        with pytest.raises(AssetNotFound) as caught:
            await call
        assert _is_told(caught.value, name)
    report = await verbs.report(own)
    for ask in (lambda: report[handle], lambda: pipe.asset_info(handle)):
        with pytest.raises(AssetNotFound) as caught:
            ask()
        assert _is_told(caught.value, name)


async def test_a_trial_says_whose_asset_it_is():
    """RUN-22, TEST-01: in values=, and when it is asked about calls."""
    pipe, own = _one("p", "a")
    _, handle = _one("q", "a")
    async with pipe.test() as t:
        with pytest.raises(AssetNotFound) as caught:
            await t.run(own, values={handle: 1})
        assert _is_told(caught.value)
        with pytest.raises(AssetNotFound) as caught:
            t.calls(handle)
        assert _is_told(caught.value)


async def test_an_engine_of_several_pipelines_names_them(open_engine: OpenEngine):
    """RUN-22."""
    engine = await open_engine(_one("p", "a")[0], _one("r", "a")[0])
    with pytest.raises(AssetNotFound, match="asset 'a' belongs to pipeline 'q', not to one of 'p', 'r'"):
        await engine.run(_one("q", "a")[1])


async def test_the_ways_out_lead_out(open_engine: OpenEngine):
    """RUN-22: what the hint says works."""
    pipe, own = _one("p", "b")
    other, handle = _one("q", "a")
    engine = await open_engine(pipe, other)
    assert await engine.run(handle) == "q"
    pipe.include(other)
    assert await pipe.run(handle) == "q"
    assert await pipe.run(own) == "p"


async def test_a_handle_of_a_pipeline_that_was_made_anew_is_taken_by_name():
    """ASSET-14: in a REPL the pipeline of that name is another object; what it lacks it does not have."""
    pipe, _ = _one("q", "a")
    assert await pipe.run(_one("q", "a")[1]) == "q"
    with pytest.raises(AssetNotFound, match=r"pipeline 'q' has no asset 'c'\. It has: a\."):
        await pipe.run(_one("q", "c")[1])
