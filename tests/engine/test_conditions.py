"""Conditions and the skips they make: FLOW-04 and FLOW-05."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from typing import Any

import pytest

from flowstone_async import (
    AssetFailed,
    AssetSkipped,
    ConfigError,
    Context,
    Daily,
    DependencyFailed,
    Event,
    ExecutionError,
    Failed,
    Pipeline,
    Skipped,
    TargetSkipped,
    dep,
    param,
)
from tests.support.engines import OpenVerbs


@dataclass
class Args:
    env: str = "test"
    limit: int = 3


def _sync(answer: bool) -> Callable[..., object]:
    def decided() -> bool:
        return answer

    return decided


def _async(answer: bool) -> Callable[..., object]:
    async def decided() -> bool:
        await asyncio.sleep(0)
        return answer

    return decided


def _lambda(answer: bool) -> Callable[..., object]:
    return lambda ctx: answer and ctx.asset == "asked"


def _object(answer: bool) -> Callable[..., object]:
    class Decision:
        async def __call__(self) -> bool:
            return answer

    return Decision()


@pytest.mark.parametrize("made", [_sync, _async, _lambda, _object])
@pytest.mark.parametrize(
    ("when", "unless", "runs"),
    [
        (True, None, True),
        (False, None, False),
        (None, True, False),
        (None, False, True),
        (True, False, True),
        (True, True, False),
        (False, False, False),
        (False, True, False),
    ],
)
async def test_an_asset_runs_if_when_is_true_and_unless_is_false(
    made: Callable[[bool], Any], when: bool | None, unless: bool | None, runs: bool
):
    """FLOW-04: sync, async, a lambda with ctx, an object; each alone and both together."""
    pipe = Pipeline("conditions")

    @pipe.asset(
        when=None if when is None else made(when),
        unless=None if unless is None else made(unless),
    )
    async def asked() -> int:
        return 1

    if runs:
        assert await pipe.run(asked) == 1
    else:
        with pytest.raises(TargetSkipped):
            await pipe.run(asked)


async def test_a_skip_has_the_condition_s_name_as_its_reason(open_verbs: OpenVerbs):
    """FLOW-04: in the error, the report, the status, the event; and nothing is stored."""
    pipe = Pipeline("conditions", params=Args)
    heard: list[AssetSkipped] = []
    pipe.on(AssetSkipped)(heard.append)

    def in_production(env: str = param("env")) -> bool:
        return env == "production"

    @pipe.asset(when=in_production)
    async def deployed() -> str:
        return "live"

    verbs = await open_verbs(pipe)
    with pytest.raises(TargetSkipped, match="in_production") as caught:
        await verbs.run(deployed)
    assert (caught.value.asset, caught.value.retryable) == ("deployed", False)
    report = await verbs.report(deployed)
    assert report.ok
    assert report[deployed].state == "skipped"
    assert "in_production" in str(report[deployed].reason)
    status = await verbs.status(deployed)
    assert (status.state, status.has_value) == ("skipped", False)
    assert [("in_production" in each.reason, each.asset) for each in heard] == [(True, "deployed")] * 2
    assert await verbs.run(deployed, params=Args("production")) == "live"


async def test_parameters_of_a_condition_are_injected(open_verbs: OpenVerbs):
    """FLOW-04: by the rules of bodies: values of assets, a field of the params, the key, a resource."""
    pipe = Pipeline("conditions", params=Args)
    days = Daily("2025-01-01")
    seen: list[object] = []

    @pipe.resource
    async def threshold() -> float:
        return 2.5

    @pipe.asset(partitions=days)
    async def rows(partition: date) -> list[int]:
        return [1] * partition.day

    async def enough(
        rows: list[int], threshold: float, ctx: Context, limit: int = param("limit"), day: date = days.key()
    ) -> bool:
        seen.append((len(rows), threshold, limit, day, ctx.partition, ctx.asset))
        return len(rows) > threshold

    @pipe.asset(partitions=days, when=enough)
    async def summary(partition: date) -> int:
        return partition.day

    verbs = await open_verbs(pipe)
    assert await verbs.run(summary, partition=date(2025, 1, 3)) == 3
    with pytest.raises(TargetSkipped):
        await verbs.run(summary, partition=date(2025, 1, 2))
    third, second = date(2025, 1, 3), date(2025, 1, 2)
    assert seen == [(3, 2.5, 3, third, third, "summary"), (2, 2.5, 3, second, second, "summary")]


async def test_a_failed_dependency_of_a_condition_blocks_the_asset(open_verbs: OpenVerbs):
    """FLOW-04: what a condition takes comes first, and its failure is not a "no"."""
    pipe = Pipeline("conditions")
    asked: list[int] = []

    @pipe.asset
    async def broken() -> int:
        raise ValueError("nothing")

    def positive(broken: int) -> bool:
        asked.append(broken)
        return True

    @pipe.asset(when=positive)
    async def target() -> int:
        return 1

    verbs = await open_verbs(pipe)
    with pytest.raises(DependencyFailed, match="broken"):
        await verbs.run(target)
    assert not asked


@pytest.mark.parametrize("way", ["when", "unless"])
async def test_a_condition_that_raises_fails_the_asset(open_verbs: OpenVerbs, way: str):
    """FLOW-04: it never counts as false, nor `unless` as true."""
    pipe = Pipeline("conditions")
    called: list[str] = []
    heard: list[Event] = []
    pipe.on(AssetFailed)(heard.append)

    async def undecided() -> bool:
        raise LookupError("no flag")

    options: Any = {way: undecided}

    @pipe.asset(**options)
    async def target() -> int:
        called.append("target")
        return 1

    verbs = await open_verbs(pipe)
    with pytest.raises(
        ExecutionError, match="condition undecided of asset 'target' failed: LookupError: no flag"
    ) as caught:
        await verbs.run(target)
    assert isinstance(caught.value.__cause__, LookupError)
    assert "undecided" in caught.value.traceback_text
    assert (caught.value.asset, caught.value.run_id is not None) == ("target", True)
    status = await verbs.status(target)
    assert status.state == "failed"
    assert not called
    assert len(heard) == 1


async def test_a_library_error_of_a_condition_passes_through(open_verbs: OpenVerbs):
    """FLOW-04, ERR-04: its type is kept."""
    pipe = Pipeline("conditions")

    def undecided(ctx: Context) -> bool:
        raise ConfigError("flags are not configured")

    @pipe.asset(when=undecided)
    async def target() -> int:
        return 1

    verbs = await open_verbs(pipe)
    with pytest.raises(ConfigError, match="flags") as caught:
        await verbs.run(target)
    assert (caught.value.asset, caught.value.run_id is not None) == ("target", True)


@pytest.mark.parametrize("answer", [None, 0, 1, "yes", []])
async def test_a_condition_that_answers_neither_true_nor_false_fails_the_asset(answer: object):
    """FLOW-04, G-05: nothing is guessed from an answer such as None, which a forgotten `return` gives."""
    pipe = Pipeline("conditions")
    unclear: Any = lambda ctx: answer  # noqa: E731

    @pipe.asset(when=unclear)
    async def target() -> int:
        return 1

    with pytest.raises(ExecutionError, match="True or False"):
        await pipe.run(target)


async def test_conditions_come_before_freshness_in_every_run(open_verbs: OpenVerbs):
    """FLOW-04: a fresh value is not returned if the condition does not hold now; it is asked once for each run."""
    pipe = Pipeline("conditions", params=Args)
    asked: list[str] = []
    called: list[str] = []

    def in_production(ctx: Context) -> bool:
        asked.append(ctx.params.env)
        return ctx.params.env == "production"

    @pipe.asset(when=in_production)
    async def target() -> int:
        called.append("target")
        return 1

    @pipe.asset
    async def below(target: int) -> int:
        return target + 1

    verbs = await open_verbs(pipe)
    assert await verbs.run(below, params=Args("production")) == 2
    assert await verbs.run(below, params=Args("production")) == 2
    assert called == ["target"]
    with pytest.raises(TargetSkipped, match="upstream 'target' was skipped"):
        await verbs.run(below)
    with pytest.raises(TargetSkipped):
        await verbs.run(target)
    assert asked == ["production", "production", "test", "test"]
    assert await verbs.get(target) == 1


def _below_a_skip() -> Pipeline:
    pipe = Pipeline("travelling", params=Args)

    @pipe.asset(when=lambda ctx: ctx.params.env == "production")
    async def source() -> int:
        return 1

    @pipe.asset
    async def required(source: int) -> int:
        return source

    @pipe.asset
    async def further(required: int) -> int:
        return required

    @pipe.asset
    async def tolerant(ctx: Context, value: int | None = dep(required, optional=True)) -> list[object]:
        return [value, dict(ctx.dep_status)["value"]]

    @pipe.asset
    async def absorbing(further: int | Skipped) -> str:
        return further.reason if isinstance(further, Skipped) else str(further)

    @pipe.asset
    async def after(tolerant: list[object], absorbing: str) -> bool:
        return True

    return pipe


async def test_a_skip_travels_down_to_where_it_is_absorbed(open_verbs: OpenVerbs):
    """FLOW-05: dependants are skipped down to an edge that is optional or takes `Skipped`; the run succeeds."""
    verbs = await open_verbs(_below_a_skip())
    report = await verbs.report()
    assert report.ok
    states = {entry.asset: entry.state for entry in report}
    assert states == {
        "source": "skipped",
        "required": "skipped",
        "further": "skipped",
        "tolerant": "ok",
        "absorbing": "ok",
        "after": "ok",
    }
    assert report["tolerant"].value == [None, "skipped"]
    assert report["absorbing"].value.startswith("upstream 'source' was skipped")


async def test_no_earlier_value_stands_in_for_a_skipped_one(open_verbs: OpenVerbs):
    """FLOW-05: though one is stored, dependants do not get it; with the condition true again they do."""
    verbs = await open_verbs(_below_a_skip())
    assert await verbs.run("tolerant", "absorbing", params=Args("production")) == ([1, "ok"], "1")
    tolerant, absorbing = await verbs.run("tolerant", "absorbing")
    assert tolerant == [None, "skipped"]
    assert absorbing.startswith("upstream")
    assert await verbs.get("required") == 1
    assert await verbs.run("tolerant", "absorbing", params=Args("production")) == ([1, "ok"], "1")


async def test_a_failure_counts_before_a_skip(open_verbs: OpenVerbs):
    """FLOW-05, RUN-13: an asset with a skipped and a failed upstream is blocked, not skipped."""
    pipe = Pipeline("both")

    @pipe.asset(when=lambda ctx: False)
    async def skipped() -> int:
        return 1

    @pipe.asset
    async def failed() -> int:
        raise ValueError("no")

    @pipe.asset
    async def target(skipped: int, failed: int) -> int:
        return 1

    @pipe.asset
    async def sees(skipped: int | Skipped, failed: int | Failed) -> list[str]:
        return [type(skipped).__name__, type(failed).__name__]

    verbs = await open_verbs(pipe)
    with pytest.raises(DependencyFailed, match="failed"):
        await verbs.run(target)
    assert await verbs.run(sees) == ["Skipped", "Failed"]
