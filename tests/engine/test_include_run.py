"""Running included pipelines: FLOW-11; assets that were added rather than decorated: ASSET-10."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest

from flowstone_async import (
    AssetSucceeded,
    ConfigError,
    Context,
    DefinitionError,
    Pipeline,
    RunStarted,
    TargetSkipped,
    dep,
    param,
    resource,
)
from tests.support.engines import OpenEngine, OpenVerbs


@dataclass
class Inner:
    limit: int = 2
    tags: tuple[str, ...] = ()


@dataclass
class Outer:
    env: str = "test"
    limit: int = 3
    tags: tuple[str, ...] = ("outer",)


class Api:
    def __init__(self, name: str) -> None:
        self.name = name


class _Orders:
    """A pipeline with what travels: edges, params, a resource, a condition, a hook."""

    def __init__(self) -> None:
        self.pipe = pipe = Pipeline("orders", params=Inner)
        self.heard: list[str] = []
        self.opened = 0
        self.params: list[object] = []

        @pipe.resource(scope="run")
        async def api(limit: int = param("limit")) -> AsyncIterator[Api]:
            self.opened += 1
            yield Api(f"api {limit}")

        @pipe.asset
        async def raw(params: Inner, api: Api) -> list[int]:
            self.params.append(params)
            assert api.name == f"api {params.limit}"
            return list(range(params.limit))

        @pipe.asset
        async def doubled(raw: list[int], limit: int = param("limit")) -> list[int]:
            return [n * limit for n in raw]

        @pipe.asset
        async def total(doubled: list[int], ctx: Context, numbers: list[int] = dep(raw)) -> dict[str, Any]:
            return {"asset": ctx.asset, "sum": sum(doubled) + sum(numbers), "pipeline": ctx.pipeline}

        @pipe.asset(when=lambda ctx: ctx.params.limit > 100)
        async def archived(total: dict[str, Any]) -> int:
            return 1

        pipe.on(AssetSucceeded)(lambda event: self.heard.append(event.asset))


async def test_an_included_pipeline_runs_inside_the_outer_one(open_verbs: OpenVerbs):
    """FLOW-11: prefixed names, edges intact, params of its own type made of the outer ones."""
    orders = _Orders()
    app = Pipeline("app", params=Outer).include(orders.pipe, prefix="orders_")

    @app.asset
    async def report(result: dict[str, Any] = dep("orders_total")) -> str:
        return f"{result['pipeline']}.{result['asset']}: {result['sum']}"

    verbs = await open_verbs(app)
    assert await verbs.run(report) == "app.orders_total: 12"
    assert await verbs.run(report, params={"limit": 4}) == "app.orders_total: 30"
    assert orders.params == [Inner(3, ("outer",)), Inner(4, ("outer",))]
    with pytest.raises(TargetSkipped):
        await verbs.run("orders_archived")
    assert set(orders.heard) == {"orders_raw", "orders_doubled", "orders_total", "report"}


async def test_the_included_pipeline_stays_as_it_was(open_verbs: OpenVerbs):
    """FLOW-11: by itself it runs with its own names, params and values."""
    orders = _Orders()
    app = Pipeline("app", params=Outer).include(orders.pipe)
    verbs = await open_verbs(app)
    await verbs.run("total")
    assert (await orders.pipe.run("total"))["pipeline"] == "orders"
    assert list(orders.pipe.assets()) == ["raw", "doubled", "total", "archived"]
    assert (await orders.pipe.run("total", params=Inner(4)))["sum"] == 30


async def test_two_copies_are_independent(open_verbs: OpenVerbs):
    """FLOW-11: values, freshness and resources of each its own."""
    inner = Pipeline("inner")
    opened: list[int] = []
    calls: list[str] = []

    @inner.resource
    async def api() -> AsyncIterator[Api]:
        opened.append(1)
        yield Api(f"api {len(opened)}")

    @inner.asset
    async def fetched(api: Api, ctx: Context) -> str:
        calls.append(ctx.asset)
        return api.name

    @inner.asset
    async def shown(fetched: str) -> str:
        return fetched.upper()

    app = Pipeline("app").include(inner, prefix="eu_").include(inner, prefix="us_")
    verbs = await open_verbs(app)
    values = await verbs.run("eu_shown", "us_shown", concurrency=1)
    assert sorted(values) == ["API 1", "API 2"]
    assert await verbs.invalidate("eu_fetched") == 1
    await verbs.run("eu_shown", "us_shown", force="all", concurrency=1)
    assert sorted(calls) == ["eu_fetched", "eu_fetched", "us_fetched", "us_fetched"]
    assert await verbs.exists("eu_fetched")


async def test_handles_of_an_included_pipeline_work_as_targets(open_engine: OpenEngine):
    """FLOW-11: where the copy is unambiguous; a name always does."""
    orders = _Orders()
    app = Pipeline("app", params=Outer).include(orders.pipe, prefix="orders_")
    engine = await open_engine(app)
    handle: Any = orders.pipe._assets["raw"]
    assert handle.name == "raw"
    assert await engine.run("orders_raw") == [0, 1, 2]
    assert await engine.run("app.orders_raw") == [0, 1, 2]


def test_a_clash_and_params_that_do_not_cover_are_definition_errors():
    """FLOW-11: `FS105` with both places, `FS113` naming the field."""
    inner = Pipeline("inner", params=Inner)

    @inner.asset
    async def raw() -> int:
        return 1

    app = Pipeline("app")

    @app.asset(name="raw")
    async def other() -> int:
        return 1

    app.include(inner)
    with pytest.raises(DefinitionError) as caught:
        app.validate()
    assert {problem.code for problem in caught.value.problems} == {"FS105", "FS113"}


async def test_resources_of_an_included_pipeline_are_prefixed_and_replaceable():
    """FLOW-11, RES-05: by prefixed name, or by type for all copies."""
    inner = Pipeline("inner")

    @inner.resource
    async def api() -> Api:
        raise AssertionError("it is replaced")

    @inner.asset
    async def fetched(api: Api = resource("api")) -> str:
        return api.name

    app = Pipeline("app").include(inner, prefix="eu_").include(inner, prefix="us_")
    async with app.test(resources={"eu_api": Api("eu"), "us_api": Api("us")}) as t:
        assert await t.run("eu_fetched", "us_fetched") == ("eu", "us")
    async with app.test(resources={Api: Api("both")}) as t:
        assert await t.run("eu_fetched", "us_fetched") == ("both", "both")


async def test_hooks_of_an_included_pipeline_hear_of_the_whole_run(open_verbs: OpenVerbs):
    """FLOW-11: each once, though it was included twice."""
    inner = Pipeline("inner")
    heard: list[str] = []
    inner.constant("one", 1)
    inner.on(RunStarted)(lambda event: heard.append(event.pipeline))
    app = Pipeline("app").include(inner, prefix="a_").include(inner, prefix="b_")
    verbs = await open_verbs(app)
    await verbs.run("a_one", "b_one")
    assert heard == ["app"]


class _Shop:
    def __init__(self, factor: int) -> None:
        self.factor = factor

    async def priced(self, raw: list[int]) -> list[int]:
        return [n * self.factor for n in raw]


class _Adding:
    def __init__(self, more: int) -> None:
        self.more = more

    async def __call__(self, numbers: list[int], ctx: Context) -> int:
        return sum(numbers) + self.more


async def test_added_assets_behave_like_decorated_ones(open_verbs: OpenVerbs):
    """ASSET-10: a function, a bound method, an object with an async `__call__`, a partial, `**inputs`, a constant."""
    pipe = Pipeline("forms")

    async def numbers() -> list[int]:
        return [1, 2, 3]

    async def together(**inputs: Any) -> list[str]:
        return sorted(f"{name}={value}" for name, value in inputs.items())

    async def scaled(raw: list[int], by: int) -> list[int]:
        return [n * by for n in raw]

    raw = pipe.add(numbers, name="raw")
    priced = pipe.add(_Shop(10).priced)
    total = pipe.add(_Adding(5), name="total", deps={"numbers": priced})
    pipe.add(partial(scaled, by=3), name="tripled", deps={"raw": raw})
    pipe.add(together, name="both", deps={"sum": total, "rate": "rate"})
    rate = pipe.constant("rate", 0.5)
    verbs = await open_verbs(pipe)
    assert await verbs.run("both", "tripled") == (["rate=0.5", "sum=65"], [3, 6, 9])
    assert await verbs.run(raw, priced, total) == ([1, 2, 3], [10, 20, 30], 65)
    assert await verbs.get(rate) == 0.5
    report = await verbs.report("both", "tripled")
    assert {entry.state for entry in report} == {"cached"}


async def test_a_constant_with_another_value_makes_its_dependants_stale(open_engine: OpenEngine):
    """ASSET-10, CACHE-06: and an equal one does not."""
    calls: list[float] = []

    def pipeline(rate: float) -> Pipeline:
        pipe = Pipeline("constants")
        pipe.constant("rate", rate)

        @pipe.asset
        async def price(rate: float) -> float:
            calls.append(rate)
            return 100 * rate

        return pipe

    for rate in (0.5, 0.5, 0.25):
        engine = await open_engine(pipeline(rate))
        assert await engine.run("price") == 100 * rate
    assert calls == [0.5, 0.25]


async def test_a_constant_is_copied_for_each_reader(open_verbs: OpenVerbs):
    """ASSET-10, STORE-05: a dependant that changes it changes nobody else's."""
    pipe = Pipeline("constants")
    numbers = [1, 2]
    pipe.constant("numbers", numbers)

    @pipe.asset
    async def spoiled(numbers: list[int]) -> int:
        numbers.clear()
        return 0

    @pipe.asset
    async def summed(numbers: list[int], spoiled: int) -> int:
        return sum(numbers)

    verbs = await open_verbs(pipe)
    assert await verbs.run(summed) == 3
    assert numbers == [1, 2]


async def test_deps_that_name_nothing_are_definition_errors():
    """ASSET-10: an unknown upstream, a parameter that the body does not have."""
    pipe = Pipeline("forms")

    async def total(numbers: list[int]) -> int:
        return sum(numbers)

    pipe.add(total, deps={"numbers": "raw"})
    pipe.add(total, name="other", deps={"nombers": "total"})
    with pytest.raises(DefinitionError) as caught:
        await pipe.run("total")
    assert {problem.asset for problem in caught.value.problems} == {"total", "other"}
    with pytest.raises(TypeError, match="unexpected keyword"):
        pipe.add(total, name="third", dep={"numbers": "raw"})  # type: ignore[call-overload]
    assert issubclass(ConfigError, ValueError)
