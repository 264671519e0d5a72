"""Any graph, any history: what runs, what is reused and what comes out is what a simple model says (CACHE, RUN-06, 07)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flowstone_async import Pipeline, Plan, dep
from flowstone_async._engine.report import RunReport

Value: TypeAlias = "int | None"
Kind: TypeAlias = Literal["plain", "coarse", "volatile", "exists"]


@dataclass
class Spec:
    """One asset: what it depends on, how it is cached, whether it tolerates absent inputs."""

    name: str
    upstreams: tuple[str, ...]
    kind: Kind
    optional: bool = False
    conditional: bool = False


@dataclass
class World:
    """What bodies look at beside their inputs, and what they did."""

    sources: dict[str, int] = field(default_factory=dict[str, int])
    broken: set[str] = field(default_factory=set[str])
    unwanted: set[str] = field(default_factory=set[str])
    calls: list[str] = field(default_factory=list[str])


def build(specs: list[Spec], world: World) -> Pipeline:
    """Return a pipeline of the given shape, whose bodies look at `world`."""
    pipe = Pipeline("model")
    for spec in specs:
        pipe.add(_body(spec, world), name=spec.name, cache=_cache(spec), **_condition(spec, world))
    return pipe


def _cache(spec: Spec) -> Any:
    return {"volatile": False, "exists": "exists"}.get(spec.kind, True)


def _condition(spec: Spec, world: World) -> dict[str, Any]:
    def wanted() -> bool:
        return spec.name not in world.unwanted

    return {"when": wanted} if spec.conditional else {}


def _body(spec: Spec, world: World) -> Callable[..., Any]:
    """Return a body with one parameter for each upstream."""

    async def body(**inputs: Value) -> int:
        world.calls.append(spec.name)
        await asyncio.sleep(0)
        if spec.name in world.broken:
            raise ValueError(spec.name)
        return compute(spec, world.sources[spec.name], inputs)

    names = ", ".join(f"{each}: Value = dep({each!r}, optional={spec.optional})" for each in spec.upstreams)
    passed = ", ".join(f"{each}={each}" for each in spec.upstreams)
    scope = {"body": body, "dep": dep, "Value": int | None}
    exec(f"async def {spec.name}({names}) -> int:\n    return await body({passed})", scope)
    return scope[spec.name]


def compute(spec: Spec, source: int, inputs: Mapping[str, Value]) -> int:
    """Return what an asset gives: coarse ones often the same for other inputs."""
    total = source + sum(7 * (each or 0) + (each is None) for each in inputs.values())
    return total % 2 if spec.kind == "coarse" else total % 1000


NAMES = ("a", "b", "c", "d", "e", "f", "g")


@st.composite
def graphs(draw: st.DrawFn, *, outcomes: bool) -> list[Spec]:
    """Draw assets in topological order; with `outcomes` some are optional or have conditions."""
    specs: list[Spec] = []
    for place, name in enumerate(NAMES[: draw(st.integers(2, 7))]):
        upstreams = draw(st.lists(st.sampled_from(NAMES[:place]), unique=True, max_size=3)) if place else []
        kind: Kind = draw(st.sampled_from(["plain", "plain", "coarse", "volatile", "exists"]))
        flags = draw(st.tuples(st.booleans(), st.booleans())) if outcomes else (False, False)
        specs.append(Spec(name, tuple(upstreams), kind, optional=flags[0], conditional=flags[1]))
    return specs


Step: TypeAlias = tuple[str, str, Any]
OPTIONS: list[dict[str, Any]] = [{}, {}, {}, {"force": True}, {"force": "all"}, {"concurrency": 1}]
SHALLOW: list[dict[str, Any]] = [{"with_deps": False}, {"with_deps": False, "force": True}]


def steps(names: tuple[str, ...]) -> st.SearchStrategy[list[Step]]:
    """Draw what happens: runs, and changes of the world between them."""
    one = st.sampled_from(names)
    run = st.tuples(st.just("run"), one, st.sampled_from(OPTIONS + SHALLOW))
    change = st.tuples(
        st.sampled_from(["source", "source", "invalidate", "cascade", "break", "unwant"]), one, st.just(None)
    )
    return st.lists(st.one_of(run, run, change), min_size=1, max_size=12)


@dataclass
class Stored:
    """What the model has on record: the value, and what it was computed from."""

    value: int
    inputs: dict[str, Any]


class Model:
    """The rules in their plainest form: recursive, one asset after another."""

    def __init__(self, specs: list[Spec]) -> None:
        self.specs = {spec.name: spec for spec in specs}
        self.stored: dict[str, Stored] = {}

    def run(
        self, world: World, target: str, *, force: object = False, with_deps: bool = True, concurrency: int = 0
    ) -> tuple[dict[str, tuple[str, Value]], list[str]]:
        """Return how each asset that is looked at ends, and which bodies are called."""
        self.ended: dict[str, tuple[str, Value]] = {}
        self.called: list[str] = []
        self.world, self.force, self.target, self.with_deps = world, force, target, with_deps
        self.settle(target, demanded=True)
        return self.ended, self.called

    def settle(self, name: str, *, demanded: bool) -> tuple[str, Value] | None:
        """Bring an asset to its end; None for one without a value that nobody demands."""
        if name in self.ended:
            return self.ended[name]
        spec, stored = self.specs[name], self.stored.get(name)
        if not self.with_deps and name != self.target:
            return self.end(name, "missing", None) if stored is None else self.end(name, "cached", stored.value)
        forced = self.force == "all" or (self.force is True and name == self.target)
        if spec.conditional and name in self.world.unwanted:
            return self.end(name, "skipped", None)
        if stored is not None and not forced and self.fresh(spec, stored):
            return self.end(name, "cached", stored.value)
        if stored is None and not demanded:
            return None
        return self.compute(spec)

    def fresh(self, spec: Spec, stored: Stored) -> bool:
        if spec.kind == "volatile":
            return False
        if spec.kind == "exists":
            return True
        same = True
        for each in spec.upstreams:
            before = stored.inputs[each]
            settled = self.settle(each, demanded=isinstance(before, str))
            same = same and (settled is None or settled[0] == "missing" or _print(settled) == before)
        return same

    def compute(self, spec: Spec) -> tuple[str, Value]:
        ends = {each: self.settle(each, demanded=True) for each in spec.upstreams}
        states = {each: end[0] for each, end in ends.items() if end is not None}
        bad = [each for each in spec.upstreams if states[each] in ("failed", "blocked")]
        if (bad or "missing" in states.values()) and not spec.optional:
            return self.end(spec.name, "blocked", None)
        if "skipped" in states.values() and not spec.optional:
            return self.end(spec.name, "skipped", None)
        self.called.append(spec.name)
        if spec.name in self.world.broken:
            return self.end(spec.name, "failed", None)
        inputs = {each: end[1] for each, end in ends.items() if end is not None}
        value = compute(spec, self.world.sources[spec.name], inputs)
        self.stored[spec.name] = Stored(value, {each: _print(end) for each, end in ends.items() if end is not None})
        return self.end(spec.name, "ok", value)

    def end(self, name: str, state: str, value: Value) -> tuple[str, Value]:
        self.ended[name] = (state, value)
        return self.ended[name]

    def invalidate(self, name: str, *, cascade: bool) -> int:
        """Take a value away, and with `cascade` all that was computed from it."""
        gone, queue = dict[str, None](), [name]
        while queue:
            each = queue.pop()
            if each in gone:
                continue
            gone[each] = None
            below = [
                other for other, stored in self.stored.items() if not isinstance(stored.inputs.get(each, "absent"), str)
            ]
            queue.extend(below if cascade else [])
        return sum(self.stored.pop(each, None) is not None for each in gone)

    def narrow(self, name: str) -> bool:
        """Tell whether an asset and all below it have one dependant at most."""
        below = [each.name for each in self.specs.values() if name in each.upstreams]
        return len(below) <= 1 and all(self.narrow(each) for each in below)


def _print(end: tuple[str, Value]) -> Any:
    state, value = end
    if state in ("ok", "cached"):
        return value
    return f"absent:{state}" if state in ("skipped", "missing") else "absent:failed"


async def play(specs: list[Spec], happening: list[Step]) -> None:
    """Let a pipeline and the model live through the same.

    A value that is missing makes nothing stale, and is computed where somebody else needs it. What that does to the
    others depends on who comes first, so that here it only happens to assets with one dependant.
    """
    world = World({spec.name: number for number, spec in enumerate(specs)})
    pipe, model = build(specs, world), Model(specs)
    for what, name, how in happening:
        cascade = what == "cascade" or (what == "invalidate" and not model.narrow(name))
        if what == "run":
            await _compare(pipe, model, world, name, how)
        elif what == "source":
            world.sources[name] += 1
        elif what in ("invalidate", "cascade"):
            assert await pipe.invalidate(name, cascade=cascade) == model.invalidate(name, cascade=cascade)
        elif what == "unwant":
            world.unwanted ^= {name}
        else:
            world.broken ^= {name}


async def _compare(pipe: Pipeline, model: Model, world: World, target: str, options: dict[str, Any]) -> None:
    plan = await pipe.plan(target, **options)
    expected, called = model.run(world, target, **options)
    world.calls.clear()
    report: RunReport = await asyncio.wait_for(pipe.report(target, **options), 10)
    assert sorted(world.calls) == sorted(called)
    _check_plan(plan, world, report)
    found = {each.asset: (each.state, each.value) for each in report}
    for name, end in expected.items():
        if name == target or name in called:
            assert found[name] == end
    assert {name for name in found if found[name][0] == "ok"} == {n for n, end in expected.items() if end[0] == "ok"}
    state, value = expected[target]
    assert report.ok == (state not in ("failed", "blocked"))
    assert report.value == value
    for name, stored in model.stored.items():
        assert await pipe.get(name) == stored.value
    for name in {*model.specs} - {*model.stored}:
        assert not await pipe.exists(name)


def _check_plan(plan: Plan, world: World, report: RunReport) -> None:
    """What was to run was not reused, what was to be reused did not run, and nothing ran that was not thought of."""
    planned = {each.asset: each.action for each in plan.entries}
    states = {each.asset: each.state for each in report}
    assert all(planned[name] in ("run", "unknown") for name in world.calls)
    assert all(states[name] != "cached" for name, action in planned.items() if action == "run")


async def anything(specs: list[Spec], happening: list[Step]) -> None:
    """Let a pipeline live through what it must survive, and check what always holds."""
    world = World({spec.name: number for number, spec in enumerate(specs)})
    pipe, by_name = build(specs, world), {spec.name: spec for spec in specs}
    for what, name, how in happening:
        if what == "run":
            world.calls.clear()
            report: RunReport = await asyncio.wait_for(pipe.report(name, **how), 10)
            assert len(world.calls) == len(set(world.calls))
            _check_report(by_name, world, report, with_deps=how.get("with_deps", True))
        elif what == "source":
            world.sources[name] += 1
        elif what in ("invalidate", "cascade"):
            await pipe.invalidate(name, cascade=what == "cascade")
        elif what == "break":
            world.broken ^= {name}
        else:
            world.unwanted ^= {name}
    await _check_rest(pipe, by_name, world)
    world.broken.clear()
    await _check_rest(pipe, by_name, world)


def _check_report(specs: Mapping[str, Spec], world: World, report: RunReport, *, with_deps: bool) -> None:
    """Each value was computed from what the run itself says of the inputs."""
    absent = {"failed", "blocked"} if with_deps else {"skipped"}
    for each in report:
        spec = specs[each.asset]
        ends = {name: report[name] for name in spec.upstreams} if each.state in ("ok", "blocked") else {}
        if each.state == "ok":
            inputs = {name: end.value for name, end in ends.items()}
            assert each.value == compute(spec, world.sources[spec.name], inputs)
            assert spec.name in world.calls
        elif each.state == "blocked":
            assert any(end.state in absent for end in ends.values())
        assert (each.state == "failed") == (each.asset in world.calls and each.asset in world.broken)
        assert each.state != "ok" or each.asset not in world.unwanted or not spec.conditional


async def _check_rest(pipe: Pipeline, specs: Mapping[str, Spec], world: World) -> None:
    """Without changes, runs come to rest: soon only what has to run every time or fails is called; the value stays."""
    target = next(reversed(specs))
    for _ in specs:
        await pipe.report(target)
    world.calls.clear()
    before = await pipe.report(target)
    assert all(specs[name].kind == "volatile" or name in world.broken for name in world.calls)
    assert (await pipe.report(target)).value == before.value
    plan = await pipe.plan(target)
    stored = [each for each in plan.entries if each.materialization is not None]
    tried = {name for name, spec in specs.items() if spec.kind == "volatile"} | world.broken
    assert all(each.action != "run" or each.asset in tried for each in stored)


PATIENT = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@PATIENT
@given(st.data())
def test_runs_match_the_model(data: st.DataObject):
    """CACHE-01 to CACHE-04, RUN-06, RUN-08, RUN-12, RUN-28: freshness, early cut-off, force, deleted values."""
    specs = data.draw(graphs(outcomes=False))
    names = tuple(spec.name for spec in specs)
    happening = [each for each in data.draw(steps(names)) if each[0] not in ("break", "unwant")]
    asyncio.run(play(specs, happening))


@PATIENT
@given(st.data())
def test_runs_with_failures_and_skips_match_the_model(data: st.DataObject):
    """RUN-13 to RUN-15, FLOW-05, ASSET-07, CACHE-08: failures, skips, and inputs received as absent."""
    specs = data.draw(graphs(outcomes=True))
    asyncio.run(play(specs, data.draw(steps(tuple(spec.name for spec in specs)))))


@PATIENT
@given(st.data())
def test_whatever_happens(data: st.DataObject):
    """CACHE-01, RUN-12, RUN-13: no body twice in a run, no value from other inputs than the run shows, rest at last."""
    specs = data.draw(graphs(outcomes=True))
    asyncio.run(anything(specs, data.draw(steps(tuple(spec.name for spec in specs)))))


# -- values that are gone, and needed after all -------------------------------------------------------------------


def _shared() -> tuple[Pipeline, World]:
    """Return `b` from `a`, and `d` from both."""
    world = World({"a": 1, "b": 10, "d": 100, "w": 0})
    specs = [Spec("a", (), "plain"), Spec("b", ("a",), "plain"), Spec("d", ("a", "b"), "plain")]
    return build(specs, world), world


async def test_an_input_that_is_computed_for_another_counts():
    """CACHE-01, CACHE-03: `a` is gone, and computed because `d` needs it; then `b` is judged by it too."""
    pipe, world = _shared()
    await pipe.run("b")
    world.sources["a"] = 2
    await pipe.invalidate("a")
    plan = await pipe.plan("d")
    assert {each.asset: each.action for each in plan.entries} == {"a": "run", "b": "unknown", "d": "run"}
    world.calls.clear()
    report = await pipe.report("d")
    assert world.calls == ["a", "b", "d"]
    assert report["b"].value == 10 + 7 * 2
    assert report.value == 100 + 7 * (2 + 24)


async def test_an_input_that_is_computed_to_the_same_leaves_the_other_fresh():
    """CACHE-02, CACHE-03."""
    pipe, world = _shared()
    await pipe.run("b")
    await pipe.invalidate("a")
    world.calls.clear()
    await pipe.run("d")
    assert world.calls == ["a", "d"]


async def test_an_input_that_turns_out_to_be_needed_counts():
    """CACHE-01: `v` runs because `w` has changed, and needs `a`, which is gone; `b` is judged by it too."""
    world = World({"a": 1, "w": 5, "v": 0, "b": 10, "d": 100})
    specs = [
        Spec("a", (), "plain"),
        Spec("w", (), "volatile"),
        Spec("v", ("a", "w"), "plain"),
        Spec("b", ("a",), "plain"),
        Spec("d", ("b", "v"), "plain"),
    ]
    pipe = build(specs, world)
    await pipe.run("d")
    world.sources["a"], world.sources["w"] = 2, 6
    await pipe.invalidate("a")
    world.calls.clear()
    await pipe.run("d")
    assert sorted(world.calls) == ["a", "b", "d", "v", "w"]
    assert await pipe.get("b") == 10 + 7 * 2


async def test_an_input_that_nobody_needs_after_all_is_left_alone():
    """CACHE-03: nothing has changed but that `a` is gone."""
    pipe, world = _shared()
    await pipe.run("d")
    await pipe.invalidate("a")
    world.calls.clear()
    assert await pipe.run("d") == 100 + 7 * (1 + 17)
    assert world.calls == []
    assert {each.asset: each.action for each in (await pipe.plan("d")).entries} == {"d": "reuse"}
