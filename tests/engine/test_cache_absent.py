"""Inputs that a value was computed without are asked for again: ASSET-07, ASSET-08, CACHE-03, CACHE-08, RUN-07."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import Any, Literal

import pytest

from flowstone_async import Cache, Daily, Failed, Pipeline, Plan, dep
from tests.support.engines import OpenEngine, OpenVerbs

TRIED = "input 'boom' failed when this was computed and is tried again"


class _Case:
    """`above` → `boom` → `tol` → `end`; `boom` takes part as an optional dependency or as an outcome."""

    def __init__(self, way: Literal["optional", "outcome"] = "optional", **options: Any) -> None:
        self.pipe = pipe = Pipeline("absent")
        self.broken = {"boom"}
        self.calls: list[str] = []
        boom_cache = options.pop("boom_cache", True)

        @pipe.asset
        async def above() -> int:
            self._enter("above")
            return 6

        @pipe.asset(cache=boom_cache)
        async def boom(above: int) -> int:
            self._enter("boom")
            return above + 1

        async def optional(boom: int | None = dep(boom, optional=True)) -> str:
            self._enter("tol")
            return f"boom={boom}"

        async def outcome(boom: int | Failed) -> str:
            self._enter("tol")
            return f"boom={None if isinstance(boom, Failed) else boom}"

        pipe.add(optional if way == "optional" else outcome, name="tol", **options)

        @pipe.asset
        async def end(tol: str) -> str:
            self._enter("end")
            return tol.upper()

    def _enter(self, name: str) -> None:
        self.calls.append(name)
        if name in self.broken:
            raise ValueError(name)

    def called(self) -> list[str]:
        """Return the bodies called since the last question."""
        calls, self.calls = self.calls, []
        return calls


def _actions(plan: Plan) -> dict[str, str]:
    return {each.asset: each.action for each in plan.entries}


# -- failed ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("boom_cache", [True, False])
@pytest.mark.parametrize("way", ["optional", "outcome"])
async def test_a_failed_input_is_tried_again_in_each_run(
    open_verbs: OpenVerbs, way: Literal["optional", "outcome"], boom_cache: bool
):
    """ASSET-07, ASSET-08, CACHE-08: while it fails the dependant stays fresh, and is stale once there is a value."""
    case = _Case(way, boom_cache=boom_cache)
    verbs = await open_verbs(case.pipe)
    assert await verbs.run("end") == "BOOM=NONE"
    assert case.called() == ["above", "boom", "tol", "end"]
    for _ in range(2):
        report = await verbs.report("end")
        assert case.called() == ["boom"]
        assert (report.ok, report.value, report.failed, report.tolerated) == (True, "BOOM=NONE", ("boom",), ("boom",))
        assert (report["tol"].state, report["end"].state) == ("cached", "cached")
    case.broken.clear()
    assert await verbs.run("end") == "BOOM=7"
    assert case.called() == ["boom", "tol", "end"]
    assert await verbs.run("tol") == "boom=7"
    assert case.called() == (["boom"] if boom_cache is False else [])


async def test_a_blocked_input_is_tried_again(open_verbs: OpenVerbs):
    """CACHE-08: from the asset on that failed; failing itself is the same absence as being blocked."""
    case = _Case()
    case.broken = {"above"}
    verbs = await open_verbs(case.pipe)
    assert await verbs.run("tol") == "boom=None"
    assert await verbs.run("tol") == "boom=None"
    assert case.called() == ["above", "tol", "above"]
    case.broken = {"boom"}
    assert await verbs.run("tol") == "boom=None"
    assert case.called() == ["above", "boom"]
    case.broken.clear()
    assert await verbs.run("tol") == "boom=7"
    assert case.called() == ["boom", "tol"]


async def test_an_input_skipped_for_something_above_is_asked_again(open_verbs: OpenVerbs):
    """CACHE-08: the condition may be anywhere above, and the input has none of its own."""
    pipe, wanted = Pipeline("skips"), [False]

    @pipe.asset(when=lambda: wanted[0])
    async def maybe() -> int:
        return 1

    @pipe.asset
    async def below(maybe: int) -> int:
        return maybe + 1

    @pipe.asset
    async def tol(below: int | None = dep(below, optional=True)) -> str:
        return repr(below)

    verbs = await open_verbs(pipe)
    assert await verbs.run(tol) == "None"
    assert await verbs.run(tol) == "None"
    wanted[0] = True
    assert await verbs.run(tol) == "2"


async def test_only_what_was_absent_is_tried_again(open_verbs: OpenVerbs):
    """CACHE-03: an input that was there, and is deleted, is not looked at."""
    pipe, broken, calls = Pipeline("two"), [True], []

    @pipe.asset
    async def there() -> int:
        calls.append("there")
        return 1

    @pipe.asset
    async def boom() -> int:
        calls.append("boom")
        if broken[0]:
            raise ValueError("down")
        return 7

    @pipe.asset
    async def tol(there: int, boom: int | None = dep(boom, optional=True)) -> list[int | None]:
        calls.append("tol")
        return [there, boom]

    verbs = await open_verbs(pipe)
    await verbs.run(tol)
    await verbs.invalidate(there)
    calls.clear()
    assert _actions(await verbs.plan(tol)) == {"there": "unknown", "boom": "run", "tol": "unknown"}
    assert await verbs.run(tol) == [1, None]
    assert calls == ["boom"]
    assert not await verbs.exists(there)
    broken[0] = False
    assert await verbs.run(tol) == [1, 7]
    assert calls == ["boom", "boom", "there", "tol"]


async def test_of_several_partitions_only_the_absent_are_tried_again(open_verbs: OpenVerbs):
    """ASSET-08, CACHE-08: each key of an edge with `over=` is an input of its own."""
    pipe, days, calls, broken = Pipeline("mapped"), Daily("2025-01-01"), list[object](), [2]

    @pipe.asset(partitions=days)
    async def daily(partition: date) -> int:
        calls.append(partition.day)
        if partition.day in broken:
            raise ValueError("a bad day")
        return partition.day

    @pipe.asset(partitions=days)
    async def week(by_day: Mapping[date, int | Failed] = dep(daily, over=days.last(3))) -> list[int]:
        calls.append("week")
        return [0 if isinstance(each, Failed) else each for each in by_day.values()]

    verbs = await open_verbs(pipe)
    last = date(2025, 1, 3)
    assert await verbs.run(week, partition=last) == [1, 0, 3]
    await verbs.invalidate(daily, partition=date(2025, 1, 1))
    calls.clear()
    assert await verbs.run(week, partition=last) == [1, 0, 3]
    assert calls == [2]
    status = await verbs.status(week, partition=last)
    assert status.stale_because == ("input 'daily' [d:2025-01-02] failed when this was computed and is tried again")
    broken.clear()
    assert await verbs.run(week, partition=last) == [1, 2, 3]
    assert calls == [2, 2, 1, "week"]


@pytest.mark.parametrize("policy", ["exists", Cache(key=lambda: "same")])
async def test_what_is_not_judged_by_its_inputs_tries_none_again(open_verbs: OpenVerbs, policy: Any):
    """CACHE-04, CACHE-09: any stored value is reused, or a key stands for all inputs."""
    case = _Case(cache=policy)
    verbs = await open_verbs(case.pipe)
    assert await verbs.run("tol") == "boom=None"
    case.broken.clear()
    case.called()
    assert await verbs.run("tol") == "boom=None"
    assert case.called() == []


async def test_a_condition_is_asked_before_inputs_are_tried_again(open_verbs: OpenVerbs):
    """FLOW-04, CACHE-08."""
    wanted = [True]
    case = _Case(when=lambda: wanted[0])
    verbs = await open_verbs(case.pipe)
    await verbs.run("tol")
    case.called()
    wanted[0] = False
    assert (await verbs.report("tol"))["tol"].state == "skipped"
    assert case.called() == []
    wanted[0] = True
    assert _actions(await verbs.plan("tol")) == {"above": "reuse", "boom": "unknown", "tol": "unknown"}
    assert await verbs.run("tol") == "boom=None"
    assert case.called() == ["boom"]
    case.broken.clear()
    assert await verbs.run("tol") == "boom=7"


# -- missing, and runs that take what is stored ---------------------------------------------------------------------


async def test_a_missing_input_is_computed_by_a_run_with_dependencies(open_verbs: OpenVerbs):
    """ASSET-07, RUN-07: computed without it by `with_deps=False`, it is executed like any other afterwards."""
    case = _Case()
    case.broken.clear()
    verbs = await open_verbs(case.pipe)
    assert await verbs.run("tol", with_deps=False) == "boom=None"
    assert await verbs.run("tol", with_deps=False) == "boom=None"
    assert case.called() == ["tol"]
    status = await verbs.status("tol")
    assert (status.fresh, status.stale_because) == (
        False,
        "input 'boom' was not stored when this was computed and is tried again",
    )
    assert await verbs.run("tol") == "boom=7"
    assert case.called() == ["above", "boom", "tol"]
    assert (await verbs.status("tol")).fresh


async def test_an_input_that_is_absent_in_another_way_is_a_change(open_verbs: OpenVerbs):
    """CACHE-08: missing at first, failed afterwards; `ctx.dep_status` would tell the difference."""
    case = _Case()
    verbs = await open_verbs(case.pipe)
    await verbs.run("tol", with_deps=False)
    await verbs.run("tol")
    assert case.called() == ["tol", "above", "boom", "tol"]
    await verbs.run("tol")
    assert case.called() == ["boom"]


@pytest.mark.parametrize("condition", [False, True])
async def test_without_dependencies_a_value_is_judged_by_what_is_stored(open_verbs: OpenVerbs, condition: bool):
    """RUN-07, CACHE-03: absent as it was or deleted since is fresh; there and not so before is stale."""
    case = _Case(when=(lambda: True) if condition else None)
    verbs = await open_verbs(case.pipe)
    await verbs.run("tol")
    case.called()
    assert _actions(await verbs.plan("tol", with_deps=False))["tol"] == ("unknown" if condition else "reuse")
    assert await verbs.run("tol", with_deps=False) == "boom=None"
    assert case.called() == []
    case.broken.clear()
    await verbs.run("boom")
    assert case.called() == ["boom"]
    assert await verbs.run("tol", with_deps=False) == "boom=7"
    assert case.called() == ["tol"]
    await verbs.invalidate("boom")
    assert await verbs.run("tol", with_deps=False) == "boom=7"
    assert case.called() == []


async def test_a_target_beside_its_dependant_is_tried_again_without_dependencies(open_verbs: OpenVerbs):
    """RUN-07: targets are computed, also those that another target takes."""
    case = _Case()
    verbs = await open_verbs(case.pipe)
    await verbs.run("tol")
    case.called()
    assert _actions(await verbs.plan("tol", "boom", with_deps=False)) == {
        "above": "reuse",
        "boom": "run",
        "tol": "unknown",
    }
    case.broken.clear()
    assert await verbs.run("tol", "boom", with_deps=False) == ("boom=7", 7)
    assert case.called() == ["boom", "tol"]


async def test_an_absent_value_of_another_pipeline_is_read_once_it_is_there(open_engine: OpenEngine):
    """ASSET-16, CACHE-08: it is never run, so that the dependant is fresh until somebody else has computed it."""
    producer, consumer, calls = Pipeline("producer"), Pipeline("consumer"), []

    @producer.asset
    async def rates() -> int:
        return 2

    @consumer.asset
    async def tol(rate: int | None = dep(rates, external=True, optional=True)) -> str:
        calls.append("tol")
        return repr(rate)

    engine = await open_engine(producer, consumer)
    assert await engine.run(tol) == "None"
    assert await engine.run(tol) == "None"
    assert (await engine.status(tol)).fresh
    assert _actions(await engine.plan(tol)) == {"tol": "reuse"}
    assert calls == ["tol"]
    await engine.run(rates)
    assert (await engine.status(tol)).stale_because == "input 'rates' changed"
    assert await engine.run(tol) == "2"


# -- what is told of it ---------------------------------------------------------------------------------------------


async def test_plan_status_and_why_say_what_is_tried_again(open_verbs: OpenVerbs):
    """RUN-33, RUN-34."""
    case = _Case()
    verbs = await open_verbs(case.pipe)
    await verbs.run("end")
    plan = await verbs.plan("end")
    assert _actions(plan) == {"above": "reuse", "boom": "run", "tol": "unknown", "end": "unknown"}
    assert (plan["boom"].reason, plan["tol"].reason) == ("never computed", TRIED)
    assert plan["end"].reason == f"depends on 'tol': {TRIED}"
    for name, because in (("tol", TRIED), ("end", f"depends on 'tol': {TRIED}")):
        status, why = await verbs.status(name), await verbs.why(name)
        assert (status.fresh, status.stale_because) == (False, because)
        assert (why.state, why.because) == ("stale", because)
    case.called()
    assert await plan.apply() == "BOOM=NONE"
    assert case.called() == ["boom"]
    case.broken.clear()
    await verbs.run("end")
    assert _actions(await verbs.plan("end")) == {"end": "reuse"}
    assert (await verbs.status("tol")).fresh


async def test_another_that_was_computed_with_the_input_is_judged_by_what_comes_of_it(open_verbs: OpenVerbs):
    """CACHE-01, CACHE-03: `boom` is deleted, and tried again for `tol`; `firm`, computed with it, is judged by it too."""
    case = _Case()
    value = [7]

    async def firm(boom: int) -> int:
        case.calls.append("firm")
        return boom * value[0]

    case.pipe.add(firm, name="firm")
    verbs = await open_verbs(case.pipe)
    await verbs.run("tol")
    case.broken.clear()
    await verbs.run("firm")
    await verbs.invalidate("boom")
    case.called()
    plan = await verbs.plan("tol", "firm")
    assert _actions(plan) == {"above": "reuse", "boom": "run", "tol": "unknown", "firm": "unknown"}
    assert await verbs.run("tol", "firm") == ("boom=7", 49)
    assert case.called() == ["boom", "tol"]
