"""Plans and explanations: RUN-33, RUN-34."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable
from dataclasses import dataclass
from datetime import date
from typing import Any

import pytest

from flowstone_async import (
    AssetEvent,
    AssetNotFound,
    Cache,
    ConfigError,
    Daily,
    Event,
    ParamsError,
    PartitionError,
    Pipeline,
    Plan,
    PlanOutdated,
    RunEvent,
    dep,
    io,
)
from flowstone_async._engine.verbs import Verbs
from tests.contract.clock import SetClock
from tests.support.engines import OpenEngine, OpenVerbs
from tests.support.gate import Gate, soon


class _Tree:
    """`a` → `b` → `c`, and `side` → `c`."""

    def __init__(self, **a: Any) -> None:
        self.pipe = pipe = Pipeline("tree")
        self.calls: list[str] = []
        self.a = 1
        self.events: list[Event] = []

        async def body_a() -> int:
            self.calls.append("a")
            return self.a

        async def body_side() -> int:
            self.calls.append("side")
            return 10

        async def body_b(a: int) -> int:
            self.calls.append("b")
            return a % 2

        async def body_c(b: int, side: int) -> int:
            self.calls.append("c")
            return b + side

        pipe.add(body_a, name="a", **a)
        pipe.add(body_side, name="side")
        pipe.add(body_b, name="b")
        pipe.add(body_c, name="c")

        @pipe.on(RunEvent)
        @pipe.on(AssetEvent)
        async def hear(event: Event) -> None:
            self.events.append(event)


def _actions(plan: Plan) -> dict[str, str]:
    return {each.asset: each.action for each in plan.entries}


# -- plan (RUN-33) ------------------------------------------------------------------------------------------------


async def test_a_plan_executes_and_writes_nothing(open_verbs: OpenVerbs):
    """RUN-33."""
    tree = _Tree()
    verbs = await open_verbs(tree.pipe)
    plan = await verbs.plan("c")
    assert _actions(plan) == {"a": "run", "b": "run", "side": "run", "c": "run"}
    assert {each.reason for each in plan.entries} == {"never computed"}
    assert tree.calls == []
    assert tree.events == []
    for name in ("a", "b", "c", "side"):
        assert not await verbs.exists(name)
        assert (await verbs.status(name)).state == "not_found"


async def test_a_plan_writes_no_run(open_engine: OpenEngine):
    """RUN-33: nor anything else into the store."""
    engine = await open_engine(_Tree().pipe)
    await engine.plan("c", run_id="01890a5d-ac96-774b-bcce-b302099a8057")
    assert await engine.runs() == ()


async def test_entries_come_in_topological_order_with_reasons(open_verbs: OpenVerbs):
    """RUN-33: asset, partition, action, reason; only what would be looked at."""
    tree = _Tree(cache=False)
    verbs = await open_verbs(tree.pipe)
    await verbs.run("c")
    plan = await verbs.plan("c")
    assert [each.asset for each in plan.entries] == ["a", "b", "side", "c"]
    assert _actions(plan) == {"a": "run", "b": "unknown", "side": "reuse", "c": "unknown"}
    assert plan["a"].reason == "cache=False: computed in every run"
    assert plan["b"].reason == (
        "depends on whether 'a' changes when computed again (cache=False: computed in every run)"
    )
    assert "'a'" in plan["c"].reason
    assert plan["side"].reason == "fresh"
    assert all(each.partition is None for each in plan.entries)


async def test_upstreams_of_a_fresh_target_are_not_looked_at(open_verbs: OpenVerbs):
    """RUN-33, CACHE-03."""
    verbs = await open_verbs(_Tree().pipe)
    await verbs.run("c")
    assert _actions(await verbs.plan("c")) == {"c": "reuse"}


async def test_a_changed_input_is_the_reason(open_verbs: OpenVerbs):
    """RUN-33."""
    tree = _Tree()
    verbs = await open_verbs(tree.pipe)
    await verbs.run("c")
    tree.a = 2
    await verbs.run("a", force=True)
    plan = await verbs.plan("c")
    assert _actions(plan) == {"a": "reuse", "b": "run", "side": "reuse", "c": "unknown"}
    assert plan["b"].reason == "input 'a' changed"


async def test_a_condition_makes_unknown_what_is_beyond_it(open_verbs: OpenVerbs):
    """RUN-33."""
    pipe, asked = Pipeline("conditions"), []

    async def wanted() -> bool:
        asked.append(1)
        return True

    @pipe.asset(when=wanted)
    async def maybe() -> int:
        return 1

    @pipe.asset
    async def after(maybe: int) -> int:
        return maybe

    verbs = await open_verbs(pipe)
    plan = await verbs.plan(after)
    assert plan["maybe"].action == "unknown"
    assert "wanted" in plan["maybe"].reason
    assert asked == []
    await verbs.run(after)
    plan = await verbs.plan(after)
    assert _actions(plan) == {"maybe": "unknown", "after": "unknown"}


async def test_a_plan_takes_the_options_of_run(open_verbs: OpenVerbs):
    """RUN-33: `force`, `with_deps`, `io`, `partition`, `params`."""
    verbs = await open_verbs(_Tree().pipe)
    await verbs.run("c")
    forced = await verbs.plan("c", force=True)
    assert _actions(forced) == {"b": "reuse", "side": "reuse", "c": "run"}
    assert forced["c"].reason == "forced"
    assert set(_actions(await verbs.plan("c", force="all")).values()) == {"run"}
    assert _actions(await verbs.plan("c", io=io.Memory()))["c"] == "run"
    day = date(2025, 1, 15)
    of_day = await verbs.plan("c", partition=day)
    assert {each.partition for each in of_day.entries} == {day}
    blocked = await verbs.plan("c", partition=day, with_deps=False)
    assert _actions(blocked)["c"] == "blocked"
    assert "'b'" in blocked["c"].reason
    assert "'side'" in blocked["c"].reason
    assert _actions(await verbs.plan("c", with_deps=False))["c"] == "reuse"


async def test_a_plan_validates_like_a_run(open_verbs: OpenVerbs):
    """RUN-33, FLOW-15."""
    verbs = await open_verbs(_Tree().pipe)
    with pytest.raises(AssetNotFound):
        await verbs.plan("d")
    with pytest.raises(TypeError):
        await verbs.plan()
    with pytest.raises(ParamsError):
        await verbs.plan("c", params={"x": 1})
    with pytest.raises(ConfigError):
        await verbs.plan("c", concurrency=0)


async def test_a_plan_over_mapped_partitions(open_verbs: OpenVerbs):
    """RUN-33: each asset and partition is an entry of its own."""
    pipe, days = Pipeline("mapped"), Daily("2025-01-01")

    @pipe.asset(partitions=days)
    async def daily(partition: date) -> int:
        return partition.day

    @pipe.asset(partitions=days)
    async def week(daily: object = dep(daily, over=days.last(3))) -> int:
        assert isinstance(daily, dict)
        return sum(daily.values())

    verbs = await open_verbs(pipe)
    await verbs.run(daily, partition=date(2025, 1, 4))
    plan = await verbs.plan(week, partition=date(2025, 1, 5))
    assert [(each.asset, each.partition, each.action) for each in plan.entries] == [
        ("daily", date(2025, 1, 3), "run"),
        ("daily", date(2025, 1, 4), "reuse"),
        ("daily", date(2025, 1, 5), "run"),
        ("week", date(2025, 1, 5), "run"),
    ]
    with pytest.raises(PartitionError):
        await verbs.plan(week)


async def test_a_plan_prints_as_a_table(open_verbs: OpenVerbs):
    """RUN-33, FLOW-15: and as JSON."""
    verbs = await open_verbs(_Tree().pipe)
    await verbs.run("b")
    plan = await verbs.plan("c")
    lines = str(plan).splitlines()
    assert lines[0].split() == ["asset", "action", "estimate", "reason"]
    assert [line.split()[:2] for line in lines[1:4]] == [["b", "reuse"], ["side", "run"], ["c", "run"]]
    assert lines[4].startswith("2 to run, 1 to reuse")
    shown = plan.as_dict()
    assert json.loads(json.dumps(shown)) == shown
    assert shown["targets"] == ["c"]
    with pytest.raises(KeyError):
        plan["a"]


async def test_estimates_are_medians(open_engine: OpenEngine):
    """FLOW-15: of the computations so far, `None` without history; the total follows the longest path."""
    pipe, clock = Pipeline("estimates"), _Ticking()

    @pipe.asset
    async def one() -> int:
        clock.passed += 2
        return 1

    @pipe.asset
    async def two(one: int) -> int:
        clock.passed += 3
        return one

    engine = await open_engine(pipe, clock=clock)
    plan = await engine.plan(two)
    assert plan.seconds is None
    assert plan["one"].seconds is None
    await engine.run(two, concurrency=1)
    plan = await engine.plan(two, force="all")
    assert (plan["one"].seconds, plan["two"].seconds, plan.seconds) == (2, 3, 5)
    assert "about 5.00s" in str(plan)


async def test_the_total_follows_the_longest_path_under_concurrency(open_engine: OpenEngine):
    """FLOW-15: four bodies of a second, then one: five, three or two seconds."""
    pipe, clock = Pipeline("estimates"), _Ticking()

    async def body() -> int:
        clock.passed += 1
        return 1

    for name in ("a", "b", "c", "d"):
        pipe.add(body, name=name)

    @pipe.asset
    async def last(a: int, b: int, c: int, d: int) -> int:
        clock.passed += 1
        return 1

    engine = await open_engine(pipe, clock=clock)
    await engine.run(last, concurrency=1)
    for concurrency, expected in ((1, 5), (2, 3), (4, 2), (32, 2)):
        assert (await engine.plan(last, force="all", concurrency=concurrency)).seconds == expected
    assert (await engine.plan(last, force=True)).seconds == 1


class _Ticking(SetClock):
    """Durations are what bodies say."""

    def __init__(self) -> None:
        super().__init__()
        self.passed = 0.0

    def monotonic(self) -> float:
        return self.passed


# -- apply (RUN-33) -----------------------------------------------------------------------------------------------


async def test_applying_a_plan_runs_it(open_verbs: OpenVerbs):
    """RUN-33: with its options, and returns what `run` would."""
    tree = _Tree()
    verbs = await open_verbs(tree.pipe)
    plan = await verbs.plan("c", "a")
    assert await plan.apply() == (11, 1)
    assert tree.calls == ["a", "b", "side", "c"] or sorted(tree.calls) == ["a", "b", "c", "side"]
    tree.calls.clear()
    assert await (await verbs.plan("c")).apply() == 11
    assert tree.calls == []
    assert await (await verbs.plan("c", force=True)).apply() == 11
    assert tree.calls == ["c"]


async def test_a_plan_with_unknowns_is_applied(open_verbs: OpenVerbs):
    """RUN-33."""
    tree = _Tree(cache=False)
    verbs = await open_verbs(tree.pipe)
    await verbs.run("c")
    tree.a = 2
    tree.calls.clear()
    assert await (await verbs.plan("c")).apply() == 10
    assert tree.calls == ["a", "b", "c"]


@pytest.mark.parametrize("change", ["invalidated", "computed", "recomputed", "changed"])
async def test_an_outdated_plan_lists_what_has_changed(open_verbs: OpenVerbs, change: str):
    """RUN-33: `PlanOutdated`, and nothing runs."""
    tree = _Tree()
    verbs = await open_verbs(tree.pipe)
    await verbs.run("b")
    plan = await verbs.plan("c")
    steps: dict[str, list[Awaitable[Any]]] = {
        "invalidated": [verbs.invalidate("b")],
        "computed": [verbs.run("side")],
        "recomputed": [verbs.run("b", force=True)],
        "changed": [_changed(tree, verbs)],
    }
    for each in steps.pop(change):
        await each
    for others in steps.values():
        for each in others:
            each.close()  # pyright: ignore[reportAttributeAccessIssue] - a coroutine that is not wanted
    tree.calls.clear()
    with pytest.raises(PlanOutdated) as caught:
        await plan.apply()
    assert tree.calls == []
    asset = "side" if change == "computed" else "b"
    assert any(asset in each for each in caught.value.details["changed"])  # pyright: ignore[reportGeneralTypeIssues]
    assert asset in caught.value.message


async def _changed(tree: _Tree, verbs: Verbs) -> None:
    tree.a = 2
    await verbs.run("a", force=True)


async def test_a_plan_outdated_by_time(open_engine: OpenEngine):
    """RUN-33: a value that has passed its ttl since."""
    clock = SetClock()
    tree = _Tree(cache=Cache(ttl="1h"))
    engine = await open_engine(tree.pipe, clock=clock)
    await engine.run("a")
    plan = await engine.plan("c")
    assert _actions(plan)["a"] == "reuse"
    clock.advance(3600)
    with pytest.raises(PlanOutdated, match="'?a'?"):
        await plan.apply()
    assert tree.calls == ["a"]


async def test_partitions_that_look_alike_are_told_apart(open_verbs: OpenVerbs):
    """RUN-33, PART-04: a plan for `1` is not one for `"1"`."""
    verbs = await open_verbs(_Tree().pipe)
    plan = await verbs.plan("a", partition=1)
    await verbs.run("a", partition="1")
    assert await plan.apply() == 1


async def test_a_plan_from_nowhere_cannot_be_applied():
    """RUN-33."""
    with pytest.raises(TypeError, match="not made by a pipeline"):
        await Plan(pipeline="tree", targets=("c",), entries=()).apply()


# -- why (RUN-34) -------------------------------------------------------------------------------------------------


async def test_why_never_run(open_verbs: OpenVerbs):
    """RUN-34."""
    verbs = await open_verbs(_Tree().pipe)
    why = await verbs.why("c", partition=date(2025, 1, 15))
    assert why.state == "never run"
    assert str(why) == "c [2025-01-15] is never run: no run has reached it, and nothing is stored"
    assert why.as_dict() == {
        "asset": "c",
        "partition": "2025-01-15",
        "state": "never run",
        "because": "no run has reached it, and nothing is stored",
        "causes": [],
    }


async def test_why_fresh(open_verbs: OpenVerbs):
    """RUN-34."""
    verbs = await open_verbs(_Tree().pipe)
    await verbs.run("c")
    why = await verbs.why("c")
    assert why.state == "fresh"
    assert why.causes == ()


async def test_why_stale(open_verbs: OpenVerbs):
    """RUN-34: which input."""
    tree = _Tree()
    verbs = await open_verbs(tree.pipe)
    await verbs.run("c")
    await _changed(tree, verbs)
    assert str(await verbs.why("b")) == "b is stale: input 'a' changed"
    why = await verbs.why("c")
    assert why.state == "stale"
    assert why.because == "depends on whether 'b' changes when computed again (input 'a' changed)"


async def test_why_stale_by_params(open_verbs: OpenVerbs):
    """RUN-34."""

    @dataclass
    class Args:
        limit: int = 1

    pipe = Pipeline("params", params=Args)

    @pipe.asset
    async def limited(params: Args) -> int:
        return params.limit

    verbs = await open_verbs(pipe)
    await verbs.run(limited, params=Args(5))
    assert (await verbs.why(limited)).because == "params changed"


async def test_why_stale_by_version_or_ttl(open_engine: OpenEngine):
    """RUN-34."""
    clock = SetClock()

    def make(cache: Cache) -> Pipeline:
        pipe = Pipeline("policies")

        @pipe.asset(cache=cache)
        async def one() -> int:
            return 1

        return pipe

    await (await open_engine(make(Cache(version="1")), clock=clock)).run("one")
    other = await open_engine(make(Cache(version="2")), clock=clock)
    assert (await other.why("one")).because == "version '2', stored with '1'"
    clock.advance(3600)
    aged = await open_engine(make(Cache(version="1", ttl="1h")), clock=clock)
    assert (await aged.why("one")).because == "older than its ttl 1h"


async def test_why_failed(open_verbs: OpenVerbs):
    """RUN-34: which upstream, down to the original error; an earlier value is mentioned."""
    pipe, broken = Pipeline("failures"), [False]

    @pipe.asset(cache=False)
    async def raw() -> int:
        if broken[0]:
            raise ValueError("no luck")
        return 1

    @pipe.asset
    async def total(raw: int) -> int:
        return raw

    verbs = await open_verbs(pipe)
    await verbs.run(total)
    broken[0] = True
    await verbs.report(total)
    why = await verbs.why(total)
    assert why.state == "failed"
    assert "'raw' failed" in why.because
    assert "no luck" in str(why)
    assert "an earlier value is stored and readable" in why.causes
    assert "no luck" in (await verbs.why(raw)).because


async def test_why_skipped(open_verbs: OpenVerbs):
    """RUN-34: which condition, for what is below it too."""
    pipe = Pipeline("skips")

    def never() -> bool:
        return False

    @pipe.asset(when=never)
    async def maybe() -> int:
        return 1

    @pipe.asset
    async def after(maybe: int) -> int:
        return maybe

    verbs = await open_verbs(pipe)
    await verbs.report(after)
    assert str(await verbs.why(maybe)) == "maybe is skipped: when=never was False"
    assert str(await verbs.why(after)) == "after is skipped: upstream 'maybe' was skipped: when=never was False"


async def test_why_running_waiting_cancelled(open_verbs: OpenVerbs):
    """RUN-34: for whom."""
    pipe, gate = Pipeline("slow"), Gate()

    @pipe.asset
    async def slow() -> int:
        await gate()
        return 1

    @pipe.asset
    async def after(slow: int) -> int:
        return slow

    verbs = await open_verbs(pipe)
    running = asyncio.create_task(verbs.report(after))
    await gate.reached()
    why = await verbs.why(slow)
    assert why.state == "running"
    assert why.because.startswith("run ")
    waiting = await verbs.why(after)
    assert waiting.state == "waiting"
    assert waiting.because.endswith("computes it after 'slow'")
    await verbs.cancel(after)
    await soon(running)
    cancelled = await verbs.why(slow)
    assert cancelled.state == "cancelled"
    assert cancelled.because.endswith("was cancelled")


async def test_why_invalidated(open_verbs: OpenVerbs):
    """RUN-34."""
    verbs = await open_verbs(_Tree().pipe)
    await verbs.run("a")
    await verbs.invalidate("a")
    why = await verbs.why("a")
    assert why.state == "never run"
    assert why.because == "its value was invalidated"
