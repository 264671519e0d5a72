"""Conditions and cache keys as they are defined: parameters injected like a body's (FLOW-04, CACHE-09)."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from flowstone_async import Cache, Context, Daily, Pipeline, TargetSkipped, dep, param, resource
from flowstone_async.definition.binding import ContextBinding, DependencyBinding, ParamFieldBinding
from tests.unit.definition.reading import codes, problems


@dataclass
class Args:
    """Params."""

    env: str = "production"


class Flags:
    """A resource's type."""

    on = True


def _pipe() -> Pipeline:
    pipe = Pipeline("p", params=Args)
    pipe.constant("raw", [1, 2])

    @pipe.resource
    async def flags() -> Flags:
        return Flags()

    return pipe


async def test_conditions_take_what_bodies_take() -> None:
    """FLOW-04: sync and async, named functions, lambdas, methods; the bare name `ctx` is the `Context`."""
    pipe = _pipe()
    seen: list[object] = []

    async def when(
        ctx: object,
        context: Context,
        raw: list[int],
        flags: Flags,
        env: str = param("env"),
        numbers: list[int] = dep("raw"),
        named: Flags = resource("flags"),
        limit: int = 2,
    ) -> bool:
        seen.extend([context.asset, raw, flags is named, env, numbers, limit])
        return True

    class Rule:
        def holds(self, ctx) -> bool:
            return ctx.params.env == "test"

    @pipe.asset(when=lambda ctx: ctx.params.env == "production", unless=Rule().holds)
    async def bare() -> int:
        return 1

    assert codes(pipe) == []
    assert await pipe.run(bare) == 1

    @pipe.asset(when=when)
    async def wrong() -> int:
        return 1

    assert codes(pipe) == ["FS101"]  # only the bare name is the context; an annotated one is what it is annotated
    del pipe._assets["wrong"]
    when.__annotations__["ctx"] = "Context"
    assert await pipe.run(pipe.add(bare, name="again", when=when)) == 1
    assert seen == ["again", [1, 2], True, "production", [1, 2], 2]


def test_what_conditions_take_is_known() -> None:
    """FLOW-04: their upstreams come before the asset, after those of the body."""
    pipe = _pipe()
    pipe.constant("other", 1)

    @pipe.asset(when=lambda other, ctx: bool(other and ctx), unless=lambda env=param("env"): not env)
    async def down(raw: list[int], flags: Flags) -> int:
        return len(raw)

    node = pipe.compiled().nodes["down"]
    assert node.upstreams == ("raw", "other")
    assert [each.upstream for each in node.dependencies] == ["raw"]
    assert [(each.name, each.expected) for each in node.conditions] == [("<lambda>", True), ("<lambda>", False)]
    kinds = [type(binding) for condition in node.conditions for binding in condition.bindings]
    assert kinds == [DependencyBinding, ContextBinding, ParamFieldBinding]
    assert node.resources() == ("flags",)
    assert not node.takes_context


def test_a_condition_that_cannot_be_asked() -> None:
    """FLOW-04, ASSET-12: named in the message."""
    pipe = _pipe()
    days = Daily("2025-01-01")

    @pipe.asset(partitions=days)
    async def daily() -> int:
        return 1

    def in_season(rwa: list[int], daily: int, params: dict) -> bool:
        return bool(rwa or daily or params)

    @pipe.asset(when=in_season, unless=lambda nothing: nothing)
    async def down() -> int:
        return 1

    found = problems(pipe)
    assert found[:2] == [
        (
            "FS101 down: condition in_season(rwa: list[int]) — 'rwa' is not an asset, param or resource of this"
            " pipeline. | Did you mean 'raw'?"
        ),
        "FS101 down: condition <lambda>(nothing) — 'nothing' is not an asset, param or resource of this pipeline.",
    ]
    assert found[2].startswith("FS130 down: condition in_season(daily) — the dependant follows the run's key")
    assert found[3] == "FS104 down: condition in_season(params: dict) but the pipeline's params are Args."


def test_a_cache_key_takes_the_bodys_arguments() -> None:
    """CACHE-09: under the body's names, and anything else by the same rules."""
    pipe = _pipe()

    def key(numbers: list[int], raw: list[int], day: object, env: str = param("env")) -> str:
        return f"{numbers} {raw} {day} {env}"

    days = Daily("2025-01-01")

    @pipe.asset(partitions=days, cache=Cache(key=key))
    async def down(ctx: Context, numbers: list[int] = dep("raw"), day: object = days.key()) -> int:
        return len(numbers)

    node = pipe.compiled().nodes["down"]
    assert [each.parameter for each in node.key_bindings] == ["numbers", "raw", "day", "env"]
    assert node.key_bindings[0] in node.bindings
    assert node.key_bindings[2] in node.bindings

    @pipe.asset(cache=Cache(key=lambda rwa: f"{rwa}"))
    async def wrong() -> int:
        return 1

    assert problems(pipe) == [
        "FS101 wrong: cache key(rwa) — 'rwa' is not an asset, param or resource of this pipeline. | Did you mean 'raw'?"
    ]


async def test_two_functions_may_take_different_things_under_one_name() -> None:
    """FLOW-04: each condition has arguments of its own."""
    pipe = Pipeline("p")
    yes, no = pipe.constant("yes", True), pipe.constant("no", False)

    @pipe.asset(when=lambda x=dep(yes): x, unless=lambda x=dep(no): x, cache=Cache(key=lambda x=dep("no"): str(x)))
    async def runs(x: bool = dep(yes)) -> bool:
        return x

    assert await pipe.run(runs) is True


async def test_an_asset_whose_condition_does_not_hold() -> None:
    """FLOW-04: the reason names the condition."""
    pipe = _pipe()

    def in_test(ctx: Context) -> bool:
        return ctx.params.env == "test"

    @pipe.asset(when=in_test)
    async def down() -> int:
        raise AssertionError("not called")

    report = await pipe.report(down)
    assert "in_test" in (report[down].reason or "")
    with pytest.raises(TargetSkipped, match="in_test"):
        await pipe.run(down)
