"""How parameters get their values: the rules in their order, and what two of them would take (ASSET-03, 04, 05)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import date
from typing import Annotated, Optional

from flowstone_async import Context, Daily, Pipeline, dep, param, resource
from flowstone_async.definition.binding import (
    Binding,
    ContextBinding,
    DependencyBinding,
    ParamFieldBinding,
    ParamsBinding,
    PartitionBinding,
    ResourceBinding,
)
from tests.unit.definition.reading import codes, problems, untyped

days = Daily("2025-01-01")


class Pool:
    """A resource's type."""


class OtherPool(Pool):
    """A subclass of it."""


@dataclass
class Args:
    """Params."""

    limit: int = 10
    start: date = date(2025, 1, 1)


def _bindings(pipe: Pipeline, asset: str) -> dict[str, Binding]:
    return {each.parameter: each for each in pipe.compiled().nodes[asset].bindings}


def _pipe() -> Pipeline:
    pipe = Pipeline("p", params=Args)
    pipe.constant("raw", [1])
    pipe.constant("other", "x")

    @pipe.resource
    async def pool() -> AsyncIterator[Pool]:
        yield Pool()

    return pipe


def test_each_rule_in_turn() -> None:
    """ASSET-04: one parameter for each rule."""
    pipe = _pipe()

    @pipe.asset(partitions=days)
    async def all_rules(
        raw: list[int],
        ctx: Context,
        partition: date,
        params: Args,
        db: Pool,
        by_reference: list[int] = dep("raw"),
        day: date = days.key(),
        limit: int = param("limit"),
        named: Pool = resource("pool"),
        left_alone: int = 7,
    ) -> int:
        return left_alone

    assert pipe.problems() == ()
    found = _bindings(pipe, "all_rules")
    assert {name: type(each) for name, each in found.items()} == {
        "raw": DependencyBinding,
        "ctx": ContextBinding,
        "partition": PartitionBinding,
        "params": ParamsBinding,
        "db": ResourceBinding,
        "by_reference": DependencyBinding,
        "day": PartitionBinding,
        "limit": ParamFieldBinding,
        "named": ResourceBinding,
    }
    assert pipe.asset_info("all_rules").depends_on == ("raw",)


async def test_values_arrive_where_the_rules_say() -> None:
    """ASSET-03, ASSET-04: the same, run."""
    pipe = _pipe()

    @pipe.asset
    async def taken(
        raw: list[int],
        what: Context,
        partition: object,
        params: Args,
        db: Pool,
        by_reference: list[int] = dep("raw"),
        limit: int = param("limit"),
        named: Pool = resource("pool"),
        left_alone: int = 7,
    ) -> list[object]:
        same = db is named
        return [raw, what.asset, partition, params.limit, same, by_reference, limit, left_alone]

    assert await pipe.run(taken, partition="us") == [[1], "taken", "us", 10, True, [1], 10, 7]


def test_a_marker_comes_before_every_other_rule() -> None:
    """ASSET-04, ASSET-05: a marker settles what two rules would take."""
    pipe = _pipe()
    pipe.constant("partition", "a")
    pipe.constant("ctx", "c")

    @pipe.asset
    async def marked(
        partition: str = dep("other"),
        raw: str = dep("other"),
        ctx: str = dep("ctx"),
        other: int = param("limit"),
        params: Pool = resource("pool"),
    ) -> str:
        return partition

    assert pipe.problems() == ()
    found = _bindings(pipe, "marked")
    assert found["partition"] == DependencyBinding(parameter="partition", upstream="other", annotation=str, wanted=str)
    assert isinstance(found["other"], ParamFieldBinding)
    assert isinstance(found["params"], ResourceBinding)


def test_a_dependency_may_stand_in_the_annotation() -> None:
    """ASSET-03: `Annotated[T, dep(x)]`, with or without other notes and defaults."""
    pipe = _pipe()

    @pipe.asset
    async def annotated(
        xs: Annotated[list[int], dep("raw")],
        limit: Annotated[int, "at most", param("limit")],
        db: Annotated[Pool, "a note that means nothing"],
        with_default: Annotated[list[int], dep("raw")] = [],  # noqa: B006
        default_wins: Annotated[list[int], dep("other")] = dep("raw"),
    ) -> int:
        return limit

    assert pipe.problems() == ()
    found = _bindings(pipe, "annotated")
    edge = DependencyBinding(parameter="xs", upstream="raw", annotation=list[int], wanted=list[int])
    assert found["xs"] == edge
    assert isinstance(found["limit"], ParamFieldBinding)
    assert isinstance(found["db"], ResourceBinding)
    assert isinstance(found["with_default"], DependencyBinding)
    assert isinstance(found["default_wins"], DependencyBinding)
    assert found["default_wins"].upstream == "raw"


def test_what_nothing_provides_is_a_problem_with_a_hint() -> None:
    """ASSET-04: `FS101`."""
    pipe = _pipe()

    @pipe.asset
    async def wrong(rwa: list[int], unannotated, nothing_like_it: OtherPool, wider: object) -> int:
        return 1

    is_not = "is not an asset, param or resource of this pipeline."
    assert problems(pipe) == [
        f"FS101 wrong(rwa: list[int]) — 'rwa' {is_not} | Did you mean 'raw'?",
        f"FS101 wrong(unannotated) — 'unannotated' {is_not}",
        f"FS101 wrong(nothing_like_it: OtherPool) — 'nothing_like_it' {is_not}",
        f"FS101 wrong(wider: object) — 'wider' {is_not}",
    ]


def test_markers_that_name_nothing() -> None:
    """ASSET-04: `FS101` for each kind of marker."""
    pipe = _pipe()

    @pipe.asset
    async def wrong(
        a: list[int] = dep("rwa"),
        b: int = param("limt"),
        c: Pool = resource("pol"),
        d: int = untyped(dep)(5),
        e: int = untyped(param)(5),
        f: int = untyped(resource)(5),
    ) -> int:
        return 1

    assert problems(pipe) == [
        "FS101 wrong(a: list[int]) — 'rwa' is not an asset of this pipeline. | Did you mean 'raw'?",
        "FS101 wrong(b: int = param('limt')) — Args has no field 'limt'. | Did you mean 'limit'?",
        "FS101 wrong(c: Pool = resource('pol')) — this pipeline has no resource 'pol'. | Did you mean 'pool'?",
        "FS109 wrong(d: int) — 5 is neither an asset nor a name.",
        "FS101 wrong(e: int = param(5)) — Args has no field 5.",
        "FS101 wrong(f: int = resource(5)) — this pipeline has no resource 5.",
    ]


def test_another_default_is_left_alone() -> None:
    """ASSET-04: rule 6 comes after rules 2 to 5."""
    pipe = _pipe()

    @pipe.asset
    async def defaults(
        raw: list[int] = [9],  # noqa: B006
        db: Pool | None = None,
        limit: int = 3,
        pool: Pool = Pool(),
    ) -> list[object]:
        return [raw, db, limit, type(pool) is Pool]

    assert set(_bindings(pipe, "defaults")) == {"raw", "pool"}
    assert pipe.run_sync(defaults) == [[1], None, 3, True]


def test_a_context_that_may_be_none_is_the_context() -> None:
    """ASSET-04: rule 2; the default is for whoever calls the body alone (ASSET-02)."""
    pipe = _pipe()

    @pipe.asset
    async def shown(
        one: Context | None = None,
        two: Optional[Context] = None,  # noqa: UP045
        three: "Context | None" = None,  # noqa: UP037
        fourth: Context | int | None = None,
    ) -> list[str | None]:
        return [None if each is None or isinstance(each, int) else each.asset for each in (one, two, three, fourth)]

    assert set(_bindings(pipe, "shown")) == {"one", "two", "three"}
    assert pipe.run_sync(shown) == ["shown", "shown", "shown", None]
    assert asyncio.run(shown()) == [None] * 4


def test_a_condition_that_may_have_no_context_has_it() -> None:
    """FLOW-04, ASSET-04: injected like a body's."""
    pipe = Pipeline("p")

    def is_asked(what: Context | None = None) -> bool:
        return what is not None and what.asset == "asked"

    @pipe.asset(when=is_asked)
    async def asked() -> int:
        return 1

    assert pipe.run_sync(asked) == 1


def test_a_name_that_two_rules_would_take() -> None:
    """ASSET-05: `FS106` with both readings, for every pair of rules 2 to 5."""
    pipe = _pipe()
    for name in ("partition", "params", "ctx", "db"):
        pipe.constant(name, 1)

    @pipe.resource
    async def context() -> AsyncIterator[Context]:
        raise NotImplementedError
        yield

    @pipe.asset
    async def asset_or_context(ctx: Context) -> int:
        return 1

    @pipe.asset
    async def asset_or_partition(partition: int) -> int:
        return 1

    @pipe.asset
    async def asset_or_params(params: int) -> int:
        return 1

    @pipe.asset
    async def asset_or_resource(db: Pool) -> int:
        return 1

    assert [p for p in problems(pipe) if p.startswith("FS106")] == [
        (
            "FS106 asset_or_context(ctx: Context) — 'ctx' can be read as the context, asset 'ctx' and resource"
            " 'context'."
            ' | Say which: ctx = dep("ctx") or ctx = resource("context") or another name for the parameter.'
        ),
        (
            "FS106 asset_or_partition(partition: int) — 'partition' can be read as the partition key and"
            " asset 'partition'. | Say which: partition = <the partition set>.key() or partition = dep(\"partition\")"
            " or another name for the parameter."
        ),
        (
            "FS106 asset_or_params(params: int) — 'params' can be read as the params and asset 'params'."
            ' | Say which: params = dep("params") or another name for the parameter.'
        ),
        (
            "FS106 asset_or_resource(db: Pool) — 'db' can be read as asset 'db' and resource 'pool'."
            ' | Say which: db = dep("db") or db = resource("pool") or another name for the parameter.'
        ),
    ]
    assert set(codes(pipe)) == {"FS106"}


def test_two_resources_of_one_type() -> None:
    """RES-01, ASSET-05: `FS106` unless a name tells them apart."""
    pipe = _pipe()

    @pipe.resource(name="reporting")
    async def another() -> Pool:
        return Pool()

    @pipe.asset
    async def ambiguous(db: Pool) -> int:
        return 1

    @pipe.asset
    async def named(db: Pool = resource("reporting")) -> int:
        return 1

    assert problems(pipe) == [
        (
            "FS106 ambiguous(db: Pool) — 'db' can be read as resource 'pool' and resource 'reporting'."
            ' | Say which: db = resource("pool") or db = resource("reporting") or another name for the parameter.'
        )
    ]


def test_the_registered_type_counts_and_no_other() -> None:
    """ASSET-04: a subclass that is registered is not injected where its base is annotated, but hinted at."""
    pipe = Pipeline("p")

    @pipe.resource
    async def other() -> OtherPool:
        return OtherPool()

    @pipe.asset
    async def wide(db: Pool) -> int:
        return 1

    assert problems(pipe) == [
        (
            "FS101 wide(db: Pool) — 'db' is not an asset, param or resource of this pipeline."
            " | Resource 'other' provides a subclass of it: annotate that, or say db = resource(\"other\")."
        )
    ]


def test_params_of_a_pipeline_that_declares_none() -> None:
    """FLOW-01, ASSET-04."""
    pipe = Pipeline("p")

    @pipe.asset
    async def wrong(params: Args, limit: int = param("limit")) -> int:
        return 1

    assert problems(pipe) == [
        "FS101 wrong(params: Args) — this pipeline has no params. | Say Pipeline(..., params=YourModel).",
        (
            "FS101 wrong(limit: int = param('limit')) — this pipeline has no params."
            " | Say Pipeline(..., params=YourModel)."
        ),
    ]


def test_a_stringly_dependency_may_come_before_its_upstream() -> None:
    """ASSET-03: names are looked up at validation, so that order of definition does not matter."""
    pipe = Pipeline("p")

    @pipe.asset
    async def late(early: int, xs: int = dep("early")) -> int:
        return early + xs

    pipe.constant("early", 4)
    assert pipe.run_sync(late) == 8
