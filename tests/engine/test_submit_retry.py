"""Submitting once more what an earlier run was asked for (FLOW-13)."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from flowstone_async import AssetNotFound, ConfigError, ExecutionError, Keys, Pipeline, RunNotFound
from flowstone_async import io as ios
from tests.support.crash import ended
from tests.support.engines import OpenEngine
from tests.support.gate import Gate, soon


@dataclass
class Args:
    limit: int = 1


async def test_a_retried_run_takes_what_was_committed(open_engine: OpenEngine):
    """FLOW-13: whatever its freshness says; the rest is computed with the same params."""
    pipe = Pipeline("again", params=Args)
    calls, broken = list[str](), [True]

    @pipe.asset(cache=False)
    async def first(params: Args) -> int:
        calls.append("first")
        return params.limit

    @pipe.asset
    async def second(first: int) -> int:
        calls.append("second")
        if broken:
            raise ValueError("not yet")
        return first + 1

    engine = await open_engine(pipe)
    run = await engine.submit("second", params=Args(4))
    with pytest.raises(ExecutionError):
        await soon(run)
    broken.clear()
    again = await engine.retry(run.id)
    assert again.id != run.id
    assert await soon(again) == 5
    assert calls == ["first", "second", "second"]
    with pytest.raises(RunNotFound):
        await engine.retry("0190a000-0000-7000-8000-000000000000")


async def test_only_what_has_ended_is_retried(open_engine: OpenEngine):
    """FLOW-13: and only what was stored as a whole."""
    pipe = Pipeline("ended")
    pipe.constant("first", 1)

    @pipe.asset
    async def broken() -> int:
        raise ValueError("broken")

    engine = await open_engine(pipe, slots=0)
    queued = await engine.submit("first")
    with pytest.raises(ConfigError, match="has not ended"):
        await engine.retry(queued.id)
    with pytest.raises(ExecutionError):
        await engine.run("broken", io=ios.Memory(), run_id="0190a000-0000-7000-8000-000000000001")
    with pytest.raises(ConfigError, match="cannot be repeated"):
        await engine.retry("0190a000-0000-7000-8000-000000000001")


async def test_a_partition_of_a_cancelled_backfill_is_retried_by_itself(open_engine: OpenEngine):
    """FLOW-13: the retried run is no part of the backfill any more, and does not end with it."""
    pipe, gate, held = Pipeline("parts"), Gate(), [True]

    @pipe.asset(partitions=Keys("a", "b"))
    async def part(partition: str) -> str:
        if held:
            await gate()
        return partition

    engine = await open_engine(pipe, poll="20ms")
    job = await engine.submit_backfill(part)
    await gate.reached()
    [child] = [record.id for record in await engine.runs() if record.id != job.id]
    await job.cancel()
    await ended(engine, child)
    held.clear()
    assert await soon(await engine.retry(child)) == "a"


async def test_a_run_of_another_pipeline_is_not_retried(open_engine: OpenEngine):
    """FLOW-13: it is told which pipeline is lacking."""
    pipe, another = Pipeline("had"), Pipeline("another")
    pipe.constant("first", 1)
    another.constant("second", 2)
    engine, lacking = await open_engine(pipe), await open_engine(another)
    run = await engine.submit("first")
    assert await soon(run) == 1
    with pytest.raises(AssetNotFound, match="'had'"):
        await lacking.retry(run.id)
