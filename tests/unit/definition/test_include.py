"""Pipelines made of others: copies under prefixed names (FLOW-11, FLOW-01, ASSET-12, ASSET-16)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
from pydantic import BaseModel

from flowstone_async import AssetFinished, ConfigError, Context, Pipeline, dep, param, resource
from flowstone_async.definition.binding import ResourceBinding
from tests.unit.definition.reading import codes, line_here, only, problems, untyped


class Pool:
    """A resource's type."""

    def __init__(self, name: str) -> None:
        self.name = name


@dataclass
class Args:
    """Params of an included pipeline."""

    limit: int = 3


@dataclass
class Wide:
    """Params that cover them."""

    limit: int = 30
    more: str = ""


class Model(BaseModel):
    """The same, as a model."""

    limit: int = 7


class Narrow(BaseModel):
    """Params that do not cover them."""

    more: str = ""


class Other(BaseModel):
    """Params with a field of another type."""

    limit: str = ""


def _orders() -> Pipeline:
    pipe = Pipeline("orders")

    @pipe.asset
    async def raw() -> list[int]:
        return [1, 2]

    @pipe.asset
    async def by_name(raw: list[int]) -> int:
        return sum(raw)

    @pipe.asset
    async def by_handle(xs: list[int] = dep(raw), ys: list[int] = dep("raw")) -> int:
        return sum(xs) + sum(ys)

    return pipe


def _upstreams(pipe: Pipeline) -> dict[str, tuple[str, ...]]:
    return {name: node.upstreams for name, node in pipe.compiled().nodes.items()}


def test_assets_keep_their_edges_under_a_prefix() -> None:
    """FLOW-11: by name, by handle, by text; the included pipeline is not changed."""
    orders = _orders()
    app = Pipeline("app").include(orders, prefix="o_")
    assert isinstance(app, Pipeline)
    assert _upstreams(app) == {"o_raw": (), "o_by_name": ("o_raw",), "o_by_handle": ("o_raw",)}
    assert app.run_sync("o_by_handle") == 6
    assert orders.assets() == ("raw", "by_name", "by_handle")
    assert _upstreams(orders)["by_name"] == ("raw",)


def test_many_files_make_one_pipeline() -> None:
    """FLOW-11: without a prefix, code sees what is around it."""
    orders, billing = _orders(), Pipeline("billing")
    by_name = orders.asset_info("by_name").name

    @billing.asset
    async def invoice(raw: list[int], total: int = dep("by_name")) -> int:
        return total + len(raw)

    app = Pipeline("app").include(orders, billing)

    @app.asset
    async def report(invoice: int) -> str:
        return f"{by_name} {invoice}"

    assert app.run_sync(report) == "by_name 5"
    assert codes(billing) == ["FS101", "FS101"]  # alone it lacks them


def test_included_twice_there_are_two_copies() -> None:
    """FLOW-11: independent of each other."""
    orders = _orders()
    app = Pipeline("app").include(orders, prefix="eu_").include(orders, prefix="us_")
    assert _upstreams(app)["eu_by_handle"] == ("eu_raw",)
    assert _upstreams(app)["us_by_handle"] == ("us_raw",)
    assert app.run_sync("eu_by_name", "us_by_name") == (3, 3)
    assert app.order() == ("eu_raw", "eu_by_name", "eu_by_handle", "us_raw", "us_by_name", "us_by_handle")


def test_an_outer_asset_takes_an_included_handle() -> None:
    """FLOW-11, ASSET-16: nearest copy; of two, it must say which."""
    orders = Pipeline("orders")
    raw = orders.constant("raw", 5)
    app = Pipeline("app").include(orders, prefix="o_")

    @app.asset
    async def down(x: int = dep(raw)) -> int:
        return x

    assert app.asset_info(down).depends_on == ("o_raw",)
    assert app.asset_info(raw).name == "o_raw"
    assert app.run_sync(down) == 5
    assert app.run_sync(raw) == 5

    app.include(orders, prefix="again_")
    assert problems(app) == [
        (
            "FS106 down(x: int) — asset 'raw' was included more than once and can be 'o_raw' or 'again_raw'."
            ' | Say which: x = dep("o_raw").'
        )
    ]
    with pytest.raises(ConfigError, match="asset 'raw' was included more than once: o_raw, again_raw"):
        app.asset_info(raw)


def test_pipelines_within_pipelines() -> None:
    """FLOW-11: prefixes add up, each level keeps its own names, the middle one sees the inner one's."""
    inner, middle, app = Pipeline("inner"), Pipeline("middle"), Pipeline("app")
    raw = inner.constant("raw", 1)

    @inner.asset
    async def of_inner(raw: int, shared: int) -> int:
        return raw + shared

    middle.constant("shared", 10)
    middle.constant("raw", 100)
    middle.include(inner, prefix="in_")

    @middle.asset
    async def of_middle(raw: int, in_raw: int, by_handle: int = dep(raw), text: int = dep("in_of_inner")) -> int:
        return raw + in_raw + by_handle + text

    app.constant("shared", 1000)
    app.constant("raw", 10_000)
    app.include(middle, prefix="mid_")

    @app.asset
    async def of_app(mid_in_raw: int, raw: int, by_handle: int = dep(of_middle)) -> int:
        return mid_in_raw + raw + by_handle

    assert app.problems() == ()
    assert _upstreams(app) == {
        "shared": (),
        "raw": (),
        "mid_shared": (),
        "mid_raw": (),
        "mid_in_raw": (),
        "mid_in_of_inner": ("mid_in_raw", "mid_shared"),
        "mid_of_middle": ("mid_raw", "mid_in_raw", "mid_in_of_inner"),
        "of_app": ("mid_in_raw", "raw", "mid_of_middle"),
    }
    assert app.run_sync(of_app) == 1 + 10_000 + (100 + 1 + 1 + 11)
    assert middle.run_sync(of_middle) == 113


def test_a_default_of_included_code_is_left_alone() -> None:
    """FLOW-11, ASSET-04: a name of the outer pipeline does not change what the included one means."""
    inner = Pipeline("inner")

    @inner.asset
    async def limited(limit: int = 3) -> int:
        return limit

    for prefix in ("", "in_"):
        app = Pipeline("app")
        app.constant("limit", 99)
        app.include(inner, prefix=prefix)
        assert app.run_sync(f"{prefix}limited") == 3


def test_a_clash_of_names() -> None:
    """FLOW-11: `FS105` says whose it is, and that a prefix helps."""
    first, other, app = Pipeline("first"), Pipeline("other"), Pipeline("app")
    lines = line_here(1), line_here(2)
    first.constant("raw", 1)
    other.constant("raw", 2)

    @first.resource
    async def db() -> Pool:
        return Pool("first")

    @other.resource(name="db")
    async def another() -> bytes:
        return b""

    app.include(first, other)
    file = "tests/unit/definition/test_include.py"
    found = problems(app)
    assert found[0] == (
        f"FS105 two assets are called 'raw': {file}:{lines[0]} (of pipeline 'first') and {file}:{lines[1]} (of pipeline"
        " 'other'). | Include with a prefix: include(..., prefix=\"...\")."
    )
    assert found[1].startswith("FS105 two resources are called 'db': ")
    assert codes(Pipeline("app").include(first, first)) == ["FS105", "FS105"]


def test_a_pipeline_in_itself() -> None:
    """FLOW-11: under a prefix it is a copy like any other."""
    orders = _orders()
    orders.include(orders, prefix="copy_")
    assert _upstreams(orders)["copy_by_handle"] == ("copy_raw",)
    assert _upstreams(orders)["by_handle"] == ("raw",)


def test_what_is_no_pipeline() -> None:
    """FLOW-11."""
    with pytest.raises(TypeError, match=r"include\(\) takes pipelines, not 'orders'"):
        untyped(Pipeline("app")).include("orders")


def test_a_prefix_must_make_legal_names() -> None:
    """FLOW-11, ASSET-17: one problem, not one for each asset; and too long a name is one."""
    orders = Pipeline("orders")
    orders.constant("raw", 1)
    line = line_here(1)
    app = Pipeline("app").include(orders, prefix="Orders-")
    assert (only(app).code, only(app).line) == ("FS108", line)
    assert only(app).message == "prefix='Orders-' makes no legal names."
    assert codes(Pipeline("app").include(orders, prefix="o" * 98)) == ["FS108"]
    assert codes(Pipeline("app").include(orders, prefix="o" * 97)) == []


def test_problems_of_included_pipelines_are_problems_here() -> None:
    """FLOW-11, ASSET-12: each with its own place, once."""
    orders = Pipeline("orders")
    orders.constant("raw", 1)
    orders.constant("raw", 2)

    @orders.asset  # pyright: ignore[reportArgumentType, reportCallIssue, reportUntypedFunctionDecorator]
    def blocking() -> int:
        return 1

    app = Pipeline("app").include(orders, prefix="a_").include(orders, prefix="b_")
    assert sorted(problems(app)) == sorted(
        [problems(orders)[0], *(problems(orders)[1].replace("blocking", f"{each}_blocking") for each in "ab")]
    )


# -- resources ------------------------------------------------------------------------------------------------------


def _with_pool(name: str) -> Pipeline:
    pipe = Pipeline(name)

    @pipe.resource
    async def pool() -> AsyncIterator[Pool]:
        yield Pool(name)

    @pipe.asset
    async def of_pool(db: Pool, same: Pool = resource("pool")) -> str:
        assert db is same
        return db.name

    return pipe


def _resource_of(pipe: Pipeline, asset: str) -> list[str]:
    bindings = pipe.compiled().nodes[asset].bindings
    return [each.resource for each in bindings if isinstance(each, ResourceBinding)]


def test_resources_come_along() -> None:
    """FLOW-11: each copy has its own, under its prefix, found by type and by name."""
    inner = _with_pool("inner")
    app = Pipeline("app").include(inner, prefix="a_").include(inner, prefix="b_")
    assert _resource_of(app, "a_of_pool") == ["a_pool", "a_pool"]
    assert _resource_of(app, "b_of_pool") == ["b_pool", "b_pool"]
    assert app.run_sync("a_of_pool") == "inner"


def test_a_pipelines_own_resource_comes_first() -> None:
    """FLOW-11, ASSET-05: then those of included ones, then those around it."""
    app = _with_pool("app").include(_with_pool("inner"), prefix="in_")
    assert _resource_of(app, "of_pool") == ["pool", "pool"]
    assert _resource_of(app, "in_of_pool") == ["in_pool", "in_pool"]
    assert app.run_sync("of_pool", "in_of_pool") == ("app", "inner")

    needy = Pipeline("needy")

    @needy.asset
    async def needs(db: Pool) -> str:
        return db.name

    assert codes(needy) == ["FS101"]
    app.include(needy, prefix="n_")
    assert _resource_of(app, "n_needs") == ["pool"]

    around = Pipeline("around").include(_with_pool("one"), prefix="one_")

    @around.asset
    async def takes(db: Pool) -> str:
        return db.name

    assert _resource_of(around, "takes") == ["one_pool"]
    around.include(_with_pool("two"), prefix="two_")
    assert codes(around) == ["FS106"]


# -- hooks ----------------------------------------------------------------------------------------------------------


async def test_hooks_come_along() -> None:
    """FLOW-11, EVT-01: each is called once for an event, however often its pipeline was included."""
    inner, app = Pipeline("inner"), Pipeline("app")
    heard: list[str] = []

    @inner.on(AssetFinished)
    async def hook(event: AssetFinished) -> None:
        heard.append(event.asset)

    @inner.asset
    async def raw() -> int:
        return 1

    app.include(inner, prefix="a_").include(inner, prefix="b_")
    assert await app.run("a_raw", "b_raw") == (1, 1)
    assert sorted(heard) == ["a_raw", "b_raw"]


# -- params ---------------------------------------------------------------------------------------------------------


def _with_params() -> Pipeline:
    pipe = Pipeline("inner", params=Args)

    @pipe.asset
    async def whole(params: Args) -> int:
        assert type(params) is Args
        return params.limit

    @pipe.asset
    async def field(limit: int = param("limit")) -> int:
        return limit

    @pipe.asset
    async def by_context(ctx: Context) -> int:
        return ctx.params.limit

    return pipe


@pytest.mark.parametrize("params", [Args, Wide, Model])
def test_params_that_cover_those_of_an_included_pipeline(params: type) -> None:
    """FLOW-11: its bodies receive their own type."""
    app = Pipeline("app", params=params).include(_with_params(), prefix="in_")
    limit = params().limit
    assert app.run_sync("in_whole", "in_field", "in_by_context") == (limit, limit, limit)


def test_params_that_do_not_cover_those_of_an_included_pipeline() -> None:
    """FLOW-11: `FS113`, once, at the place of the include."""
    line = line_here(1)
    app = Pipeline("app").include(_with_params())
    found = next(each for each in app.problems() if each.code == "FS113")
    assert found.line == line
    assert found.message == "included pipeline 'inner' has params Args, but pipeline 'app' has none."
    assert found.hint == "Say Pipeline('app', params=Args)."

    said = "FS113 included pipeline 'inner' has params Args, which {} of pipeline 'app' does not cover: {}."
    app = Pipeline("app", params=Narrow).include(_with_params())
    assert said.format("Narrow", "it misses 'limit'") in problems(app)
    app = Pipeline("app", params=Other).include(_with_params())
    assert said.format("Other", "its 'limit' is str, not int") in problems(app)
    assert codes(app).count("FS113") == 1
