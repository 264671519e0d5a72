"""When a stored value is reused: CACHE-01 to CACHE-04, CACHE-08, CACHE-10."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

import pytest

from flowstone_async import Cache, Context, Engine, Pipeline, dep, param
from flowstone_async._engine.verbs import Verbs
from flowstone_async.types import AssetKey
from tests.support.engines import OpenEngine, OpenVerbs

DAY = date(2025, 1, 15)


class _Tree:
    """`a` → `b` → `c`, and `side` → `c`; what `a` and `side` give can be changed."""

    def __init__(self, **a: Any) -> None:
        self.pipe = pipe = Pipeline("tree")
        self.calls: list[str] = []
        self.a, self.side = 1, 10

        async def body_a() -> int:
            self.calls.append("a")
            return self.a

        async def body_side() -> int:
            self.calls.append("side")
            return self.side

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

    def taken(self) -> list[str]:
        """Return what was called since this was last asked."""
        calls, self.calls = sorted(self.calls), []
        return calls


async def test_a_fresh_target_calls_no_body(open_verbs: OpenVerbs):
    """CACHE-01."""
    tree = _Tree()
    verbs = await open_verbs(tree.pipe)
    assert await verbs.run("c") == 11
    assert tree.taken() == ["a", "b", "c", "side"]
    assert await verbs.run("c") == 11
    assert tree.taken() == []


async def test_a_changed_input_makes_stale_what_is_below(open_verbs: OpenVerbs):
    """CACHE-01, CACHE-02: and nothing else."""
    tree = _Tree()
    verbs = await open_verbs(tree.pipe)
    await verbs.run("c")
    tree.taken()
    tree.a = 2
    await verbs.run("a", force=True)
    tree.taken()
    assert await verbs.run("c") == 10
    assert tree.taken() == ["b", "c"]


async def test_an_upstream_recomputed_to_an_equal_value_leaves_dependants_fresh(open_verbs: OpenVerbs):
    """CACHE-02: early cut-off, at the first level and at the second."""
    tree = _Tree()
    verbs = await open_verbs(tree.pipe)
    await verbs.run("c")
    await verbs.run("a", force=True)
    tree.taken()
    assert await verbs.run("c") == 11
    assert tree.taken() == []
    tree.a = 3
    await verbs.run("a", force=True)
    tree.taken()
    assert await verbs.run("c") == 11
    assert tree.taken() == ["b"]
    assert await verbs.run("c") == 11
    assert tree.taken() == []


async def test_a_stale_upstream_is_computed_first(open_verbs: OpenVerbs):
    """CACHE-02: `cache=False` counts as stale in every run, and cuts off early all the same."""
    tree = _Tree(cache=False)
    verbs = await open_verbs(tree.pipe)
    await verbs.run("c")
    tree.taken()
    assert await verbs.run("c") == 11
    assert tree.taken() == ["a"]
    tree.a = 3
    assert await verbs.run("c") == 11
    assert tree.taken() == ["a", "b"]
    tree.a = 2
    assert await verbs.run("c") == 10
    assert tree.taken() == ["a", "b", "c"]


async def test_a_deleted_upstream_is_not_looked_at(open_verbs: OpenVerbs):
    """CACHE-03: its absence makes nothing stale, at any distance."""
    tree = _Tree()
    verbs = await open_verbs(tree.pipe)
    await verbs.run("c")
    tree.taken()
    for name in ("side", "b", "a"):
        await verbs.invalidate(name)
        assert await verbs.run("c") == 11
        assert tree.taken() == []
        assert (await verbs.status("c")).fresh
        assert not await verbs.exists(name)


async def test_a_deleted_upstream_above_a_stale_one(open_verbs: OpenVerbs):
    """CACHE-03: a dependant that must run needs its inputs, deleted ones too."""
    tree = _Tree()
    verbs = await open_verbs(tree.pipe)
    await verbs.run("c")
    await verbs.invalidate("b")
    tree.side = 20
    await verbs.run("side", force=True)
    tree.taken()
    assert await verbs.run("c") == 21
    assert tree.taken() == ["b", "c"]


async def test_a_stale_upstream_above_a_deleted_one(open_verbs: OpenVerbs):
    """CACHE-03: `b` is gone and not looked at, so neither is `a`, stale as it is in every run."""
    tree = _Tree(cache=False)
    verbs = await open_verbs(tree.pipe)
    await verbs.run("c")
    await verbs.invalidate("b")
    tree.taken()
    assert await verbs.run("c") == 11
    assert tree.taken() == []


# -- cache= (CACHE-04) --------------------------------------------------------------------------------------------


async def test_exists_reuses_whatever_is_stored(open_verbs: OpenVerbs):
    """CACHE-04: `"exists"` looks at no inputs."""
    pipe, calls, value = Pipeline("exists"), [], [1]

    @pipe.asset(cache=False)
    async def raw() -> int:
        calls.append("raw")
        return value[0]

    @pipe.asset(cache="exists")
    async def kept(raw: int) -> int:
        calls.append("kept")
        return raw

    @pipe.asset
    async def after(kept: int) -> int:
        calls.append("after")
        return kept

    verbs = await open_verbs(pipe)
    assert await verbs.run(after) == 1
    calls.clear()
    value[0] = 2
    assert await verbs.run(after) == 1
    assert calls == []
    await verbs.invalidate(kept)
    assert await verbs.run(after, force=True) == 2


async def test_exists_looks_at_no_version_ttl_or_params(open_engine: OpenEngine):
    """CACHE-04: nor at what it takes."""
    calls: list[int] = []
    first = await open_engine(_kept(calls, Cache(version="1")))
    await first.run("kept")
    second = await open_engine(_kept(calls, "exists"))
    assert await second.run("kept") == 1
    assert calls == [1]
    third = await open_engine(_kept(calls, Cache(version="2")))
    assert await third.run("kept") == 2


def _kept(calls: list[int], cache: Any) -> Pipeline:
    pipe = Pipeline("kept")

    @pipe.asset(cache=cache)
    async def kept() -> int:
        calls.append(1)
        return len(calls)

    return pipe


async def test_false_is_computed_once_per_run(open_verbs: OpenVerbs):
    """CACHE-04: however many need it; its value is stored and readable."""
    pipe, calls = Pipeline("false"), []

    @pipe.asset(cache=False)
    async def now() -> int:
        calls.append("now")
        return len(calls)

    for name in ("one", "two", "three"):

        async def body(now: int) -> int:
            return now

        pipe.add(body, name=name)
    verbs = await open_verbs(pipe)
    assert await verbs.run("one", "two", "three") == (1, 1, 1)
    assert await verbs.get(now) == 1
    assert await verbs.run("one", "two", "three") == (2, 2, 2)
    assert await verbs.run(now) == 3
    assert await verbs.exists(now)


async def test_the_pipelines_default_and_the_assets_own(open_verbs: OpenVerbs):
    """CACHE-04, CFG-02: asset before pipeline; `True` is the built-in default."""
    pipe, calls = Pipeline("defaults", cache=False), []

    @pipe.asset
    async def follows() -> int:
        calls.append("follows")
        return 1

    @pipe.asset(cache=True)
    async def own() -> int:
        calls.append("own")
        return 1

    verbs = await open_verbs(pipe)
    for _ in range(2):
        await verbs.run(follows, own)
    assert sorted(calls) == ["follows", "follows", "own"]


# -- what counts as an input (CACHE-08) ---------------------------------------------------------------------------


@dataclass
class _Args:
    one: int = 1
    two: int = 2


def _taking(pipe: Pipeline, calls: list[str]) -> None:
    @pipe.asset
    async def nothing() -> int:
        calls.append("nothing")
        return 0

    @pipe.asset
    async def everything(params: _Args) -> int:
        calls.append("everything")
        return params.one

    @pipe.asset
    async def field(x: int = param("one")) -> int:
        calls.append("field")
        return x

    @pipe.asset
    async def reading(ctx: Context) -> int:
        calls.append("reading")
        return ctx.params.one

    @pipe.asset
    async def blind(ctx: Context) -> str:
        calls.append("blind")
        return ctx.asset


ALL_TAKING = ("nothing", "everything", "field", "reading", "blind")


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        (None, []),
        (_Args(1, 2), []),
        ({"one": 1}, []),
        (_Args(one=5), ["everything", "field", "reading"]),
        (_Args(two=5), ["everything", "reading"]),
    ],
    ids=["none", "equal", "mapping", "one", "two"],
)
async def test_params_are_inputs_by_field(open_verbs: OpenVerbs, params: object, expected: list[str]):
    """CACHE-08: all of them for `params` and `ctx.params`, one for `param("x")`, none for who takes none."""
    pipe, calls = Pipeline("taking", params=_Args), []
    _taking(pipe, calls)
    verbs = await open_verbs(pipe)
    await verbs.run(*ALL_TAKING)
    calls.clear()
    await verbs.run(*ALL_TAKING, params=params)
    assert sorted(calls) == expected


async def test_params_back_to_what_they_were(open_verbs: OpenVerbs):
    """CACHE-08: only the current value counts, so that it is computed again."""
    pipe, calls = Pipeline("taking", params=_Args), []
    _taking(pipe, calls)
    verbs = await open_verbs(pipe)
    for one in (1, 5, 1):
        assert await verbs.run("field", params=_Args(one=one)) == one
    assert calls == ["field"] * 3


def _version(shape: str) -> tuple[Pipeline, list[str]]:
    """Return a pipeline `p` whose asset `total` takes `a`, or `a` and `b`, or nothing."""
    pipe, calls = Pipeline("p"), []

    @pipe.asset
    async def a() -> int:
        return 1

    @pipe.asset
    async def b() -> int:
        return 2

    async def none() -> int:
        calls.append("total")
        return 0

    async def one(a: int) -> int:
        calls.append("total")
        return a

    async def both(a: int, b: int) -> int:
        calls.append("total")
        return a + b

    async def renamed(x: int = dep(a)) -> int:
        calls.append("total")
        return x

    bodies: Mapping[str, Callable[..., Any]] = {"none": none, "one": one, "both": both, "renamed": renamed}
    pipe.add(bodies[shape], name="total")
    return pipe, calls


@pytest.mark.parametrize(
    ("before", "after", "stale"),
    [
        ("one", "both", True),
        ("both", "one", True),
        ("one", "none", True),
        ("none", "one", True),
        ("one", "one", False),
        ("one", "renamed", False),
    ],
)
async def test_adding_or_removing_a_dependency_is_a_change(
    open_engine: OpenEngine, before: str, after: str, stale: bool
):
    """CACHE-08: whether or not the upstream is stored; the name of the parameter does not count."""
    first, second = _version(before), _version(after)
    engine = await open_engine(first[0])
    await engine.run("total", "a", "b")
    engine = await open_engine(second[0])
    assert (await engine.status("total")).fresh is not stale
    await engine.run("total")
    assert len(second[1]) == stale


async def test_who_asked_and_how_often_it_may_fail_do_not_count(open_engine: OpenEngine):
    """CACHE-08: retry, timeout, tags, description and run options are no inputs."""
    from flowstone_async import Retry

    calls: list[str] = []

    def make(**options: Any) -> Pipeline:
        pipe = Pipeline("p")

        @pipe.asset(**options)
        async def one() -> int:
            calls.append("one")
            return 1

        return pipe

    engine = await open_engine(make())
    await engine.run("one")
    for options in ({"retry": Retry(3)}, {"timeout": "1h"}, {"tags": ["x"]}, {"description": "x"}, {"owner": "me"}):
        engine = await open_engine(make(**options))
        await engine.run("one", concurrency=1, timeout=False)
    assert calls == ["one"]


async def test_resources_are_no_inputs(open_engine: OpenEngine):
    """CACHE-08, RES-04: and a run that reuses everything opens none."""
    opened: list[str] = []

    class Client:
        def __init__(self, url: str) -> None:
            self.url = url

    def make(url: str) -> Pipeline:
        pipe = Pipeline("p")

        @pipe.resource
        async def client() -> Client:
            opened.append(url)
            return Client(url)

        @pipe.asset
        async def one(client: Client) -> str:
            return client.url

        return pipe

    engine = await open_engine(make("first"))
    assert await engine.run("one") == "first"
    engine = await open_engine(make("second"))
    assert await engine.run("one") == "first"
    assert opened == ["first"]


async def test_an_outcome_received_as_absent_is_an_input(open_verbs: OpenVerbs):
    """CACHE-08: computed without it, stale once it is there, and once it is gone again."""
    pipe, broken, calls = Pipeline("absent"), [True], []

    @pipe.asset(cache=False)
    async def flaky() -> int:
        if broken[0]:
            raise ValueError("no")
        return 1

    @pipe.asset
    async def tolerant(flaky: int | None = dep(flaky, optional=True)) -> str:
        calls.append("tolerant")
        return repr(flaky)

    verbs = await open_verbs(pipe)
    assert await verbs.run(tolerant) == "None"
    broken[0] = False
    await verbs.run(flaky)
    assert await verbs.run(tolerant) == "1"
    assert await verbs.run(tolerant) == "1"
    assert calls == ["tolerant"] * 2
    broken[0] = True
    assert await verbs.run(tolerant) == "None"


async def test_the_order_of_assets_does_not_count(open_verbs: OpenVerbs):
    """CACHE-01: params and partitions are independent of each other's runs."""
    tree = _Tree()
    verbs = await open_verbs(tree.pipe)
    await verbs.run("c", partition=DAY)
    tree.taken()
    await verbs.run("c")
    assert tree.taken() == ["a", "b", "c", "side"]
    await verbs.run("c", partition=DAY)
    assert tree.taken() == []


async def test_a_constant_with_another_value(open_engine: OpenEngine):
    """CACHE-08: makes stale what was computed from it."""

    def make(value: int) -> Pipeline:
        pipe = Pipeline("constants")
        pipe.constant("limit", value)

        @pipe.asset
        async def twice(limit: int) -> int:
            return limit * 2

        return pipe

    assert await (await open_engine(make(1))).run("twice") == 2
    engine = await open_engine(make(2))
    assert not (await engine.status("twice")).fresh
    assert await engine.run("twice") == 4
    assert (await engine.report("twice"))["twice"].state == "cached"


# -- bounded work (CACHE-10) --------------------------------------------------------------------------------------


class _Counting:
    """A store that counts calls, without those that an engine makes by itself."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._store, name)
        if callable(found) and name not in ("now", "take_orphans", "claim", "changed", "prune", "moved_on"):
            self.calls.append(name)
        return found


def _counted(engine: Engine) -> _Counting:
    session = engine._live()
    counting = _Counting(session.services.store)
    session.services.store = counting  # pyright: ignore[reportAttributeAccessIssue] - stands for the store
    return counting


def _layers(width: int, depth: int) -> Pipeline:
    pipe = Pipeline("layers")
    for layer in range(depth):
        for place in range(width):
            deps = {} if not layer else {"x": f"a{layer - 1}_{place}", "y": f"a{layer - 1}_{(place + 1) % width}"}

            async def body(x: int = 0, y: int = 1) -> int:
                return (x + y) % 7

            pipe.add(body, name=f"a{layer}_{place}", deps=deps)
    return pipe


async def test_a_plan_takes_a_bounded_number_of_queries(open_engine: OpenEngine):
    """CACHE-10: for 1,000 assets as for one, whether they are stored or not."""
    pipe = _layers(20, 50)
    targets = [f"a49_{place}" for place in range(20)]
    engine = await open_engine(pipe)
    counting = _counted(engine)
    plan = await engine.plan(*targets)
    assert len(plan.entries) == 1000
    assert len(counting.calls) <= 4
    await engine.run(*targets)
    counting.calls.clear()
    plan = await engine.plan(*targets)
    assert {each.action for each in plan.entries} == {"reuse"}
    assert len(counting.calls) <= 4
    counting.calls.clear()
    assert (await engine.status(targets[0])).fresh
    assert len(counting.calls) <= 4
    counting.calls.clear()
    await engine.run(*targets)
    assert len(counting.calls) <= 24


async def test_one_question_about_many_keys(open_engine: OpenEngine):
    """CACHE-10: judging asks for all keys at once."""
    engine = await open_engine(_layers(5, 5))
    asked: list[int] = []
    session = engine._live()
    states = session.services.store.states

    class Store:
        def __getattr__(self, name: str) -> Any:
            return getattr(engine._store, name)

        async def states(self, keys: Collection[AssetKey]) -> Any:
            asked.append(len(keys))
            return await states(keys)

    session.services.store = Store()  # pyright: ignore[reportAttributeAccessIssue] - stands for the store
    await engine.plan("a4_0")
    assert asked == [15]


async def _stale(verbs: Verbs, asset: str) -> str | None:
    return (await verbs.status(asset)).stale_because
