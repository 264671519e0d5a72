"""Optional dependencies and outcomes received as values: ASSET-07 and ASSET-08."""

from __future__ import annotations

from datetime import date
from typing import Any, Literal

import pytest

from flowstone_async import (
    ConfigError,
    Context,
    Daily,
    DependencyFailed,
    DependencyNotReady,
    Failed,
    Pipeline,
    Skipped,
    TargetSkipped,
    dep,
)
from tests.support.engines import OpenVerbs

Way = Literal["ok", "none", "skipped", "failed", "blocked", "missing"]


class _Case:
    """`target` takes `upstream` as optional; `way` says what becomes of it."""

    def __init__(self, way: Way, tolerates: set[Any] | None = None) -> None:
        options: Any = {} if tolerates is None else {"optional_tolerates": tolerates}
        self.pipe = pipe = Pipeline("optional", **options)
        self.calls: list[str] = []
        self.with_deps = way != "missing"

        @pipe.asset
        async def above() -> int:
            if way == "blocked":
                raise ValueError("above is broken")
            return 7

        @pipe.asset(when=lambda ctx: way != "skipped")
        async def upstream(above: int) -> int | None:
            self.calls.append("upstream")
            if way == "failed":
                raise LookupError("upstream is broken")
            return None if way == "none" else above

        @pipe.asset
        async def target(ctx: Context, value: int | None = dep(upstream, optional=True)) -> list[object]:
            self.calls.append("target")
            return [value, ctx.dep_status["value"]]


EXPECTED: dict[Way, list[object]] = {
    "ok": [7, "ok"],
    "none": [None, "ok"],
    "skipped": [None, "skipped"],
    "failed": [None, "failed"],
    "blocked": [None, "failed"],
    "missing": [None, "missing"],
}


@pytest.mark.parametrize("way", list(EXPECTED))
async def test_an_optional_dependency_tells_an_absent_value_from_a_stored_none(open_verbs: OpenVerbs, way: Way):
    """ASSET-07: the dependant runs with None, and `ctx.dep_status` says why; the upstream is executed like any other."""
    case = _Case(way)
    verbs = await open_verbs(case.pipe)
    assert await verbs.run("target", with_deps=case.with_deps) == EXPECTED[way]
    ran = {"ok", "none", "failed"}
    assert case.calls == (["upstream", "target"] if way in ran else ["target"])


async def test_an_absent_input_counts_for_freshness(open_verbs: OpenVerbs):
    """ASSET-07, CACHE-08: computed without, it is stale once the value is there; and fresh until then."""
    case = _Case("missing")
    verbs = await open_verbs(case.pipe)
    assert await verbs.run("target", with_deps=False) == [None, "missing"]
    assert await verbs.run("target", with_deps=False) == [None, "missing"]
    assert case.calls == ["target"]
    assert await verbs.run("upstream") == 7
    assert await verbs.run("target", with_deps=False) == [7, "ok"]


@pytest.mark.parametrize("way", ["skipped", "failed", "missing"])
async def test_what_optional_tolerates_can_be_narrowed(open_verbs: OpenVerbs, way: Way):
    """ASSET-07: each of the three by itself; what is not tolerated counts as for a required dependency."""
    tolerant = _Case(way, {way})
    verbs = await open_verbs(tolerant.pipe)
    assert await verbs.run("target", with_deps=tolerant.with_deps) == EXPECTED[way]
    narrow = _Case(way, {"skipped", "failed", "missing"} - {way})
    narrow.pipe.name = "narrow"
    verbs = await open_verbs(narrow.pipe)
    expected = {"skipped": TargetSkipped, "failed": DependencyFailed, "missing": DependencyNotReady}[way]
    with pytest.raises(expected):
        await verbs.run("target", with_deps=narrow.with_deps)
    assert "target" not in narrow.calls


@pytest.mark.parametrize("tolerates", [{"late"}, "failed"])
def test_optional_tolerates_takes_only_what_there_is(tolerates: Any):
    """ASSET-07, G-05: anything else is refused on construction."""
    with pytest.raises(ConfigError, match="'failed', 'skipped', 'missing'"):
        Pipeline("optional", optional_tolerates=tolerates)


async def test_a_failure_received_as_a_value(open_verbs: OpenVerbs):
    """ASSET-08: `T | Failed` names asset, partition, class and message; a blocked upstream comes the same way."""
    pipe = Pipeline("outcomes")
    days = Daily("2025-01-01")

    @pipe.asset(partitions=days)
    async def broken(partition: date) -> int:
        raise LookupError("nothing for the day")

    @pipe.asset(partitions=days)
    async def blocked(broken: int) -> int:
        return broken

    @pipe.asset(partitions=days)
    async def target(partition: date, broken: int | Failed, blocked: int | Failed) -> list[Any]:
        assert isinstance(broken, Failed)
        assert isinstance(blocked, Failed)
        assert broken.partition == partition
        return [broken.asset, broken.error_type, "nothing for the day" in broken.message, blocked.asset]

    verbs = await open_verbs(pipe)
    found = await verbs.run(target, partition=date(2025, 1, 2))
    assert found == ["broken", "LookupError", True, "blocked"]


async def test_an_outcome_that_is_not_annotated_is_not_received(open_verbs: OpenVerbs):
    """ASSET-08: `| Failed` takes no skip and `| Skipped` no failure; both together take both."""
    pipe = Pipeline("outcomes")

    @pipe.asset
    async def failed() -> int:
        raise ValueError("no")

    @pipe.asset(when=lambda ctx: False)
    async def skipped() -> int:
        return 1

    @pipe.asset
    async def failed_as_skipped(failed: int | Skipped) -> int:
        return 1

    @pipe.asset
    async def skipped_as_failed(skipped: int | Failed) -> int:
        return 1

    @pipe.asset
    async def both(failed: int | Failed | Skipped, skipped: int | Failed | Skipped) -> list[str]:
        return [type(failed).__name__, type(skipped).__name__]

    verbs = await open_verbs(pipe)
    with pytest.raises(DependencyFailed):
        await verbs.run(failed_as_skipped)
    with pytest.raises(TargetSkipped):
        await verbs.run(skipped_as_failed)
    assert await verbs.run(both) == ["Failed", "Skipped"]


async def test_outcomes_among_several_partitions(open_verbs: OpenVerbs):
    """ASSET-08: with `over=` each key has its own value or outcome."""
    pipe = Pipeline("outcomes")
    days = Daily("2025-01-01")

    @pipe.asset(partitions=days)
    async def daily(partition: date) -> int:
        if partition.day == 2:
            raise ValueError("a bad day")
        return partition.day

    from collections.abc import Mapping

    @pipe.asset(partitions=days)
    async def week(by_day: Mapping[date, int | Failed] = dep(daily, over=days.last(3))) -> list[object]:
        return [each.error_type if isinstance(each, Failed) else each for each in by_day.values()]

    verbs = await open_verbs(pipe)
    assert await verbs.run(week, partition=date(2025, 1, 3)) == [1, "ValueError", 3]
