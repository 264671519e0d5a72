"""What is known of an asset's definition (ASSET-19, ASSET-18)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import fields

from flowstone_async import AssetInfo, Cache, Daily, Pipeline, Retry, Stream, dep
from tests.unit.definition.reading import line_here

days = Daily("2025-01-01")


def test_everything_that_is_known() -> None:
    """ASSET-19."""
    lake = object()
    pipe = Pipeline("p")
    pipe.constant("raw", 1)
    pipe.constant("maybe", 1)
    pipe.constant("flag", True)
    line = line_here(2)

    @pipe.asset(
        name="down",
        description="All of it.",
        tags=["a", "b"],
        owner="me",
        metadata={"unit": "m"},
        partitions=days,
        io=lake,
        cache=Cache(ttl="1h"),
        retry=Retry(2),
        timeout="1m",
        run_in="thread",
        when=lambda flag: flag,
        renamed_from="older",
    )
    def body(raw: int, other: int | None = dep("maybe", optional=True)) -> dict[str, int]:
        return {}

    assert pipe.asset_info(body) == AssetInfo(
        name="down",
        kind="asset",
        depends_on=("raw", "maybe", "flag"),
        optional=("maybe",),
        external=(),
        description="All of it.",
        tags=("a", "b"),
        owner="me",
        metadata={"unit": "m"},
        partitions=days,
        io=lake,
        cache=Cache(ttl="1h"),
        retry=Retry(2),
        timeout="1m",
        run_in="thread",
        value_type=dict[str, int],
        location=f"tests/unit/definition/test_info.py:{line}",
        scatter=False,
        parallel=False,
        has_approval=False,
    )


def test_what_is_known_of_an_asset_that_says_nothing() -> None:
    """ASSET-19: the defaults."""
    pipe = Pipeline("p")

    @pipe.asset
    async def plain():
        return 1

    info = pipe.asset_info("plain")
    silent = {"io", "owner", "description", "partitions", "retry", "timeout", "run_in", "value_type"}
    assert {each.name for each in fields(info) if getattr(info, each.name) is None} == silent
    assert info.cache is True
    assert (info.depends_on, info.optional, info.external, info.tags, info.metadata) == ((), (), (), (), {})


def test_kinds_and_the_types_that_are_read() -> None:
    """ASSET-19, ASSET-09, ASSET-10."""
    pipe = Pipeline("p")
    line = line_here(1)
    constant = pipe.constant("constant", [1])

    @pipe.asset
    async def stream() -> AsyncIterator[str]:
        yield ""

    @pipe.asset
    async def plain(stream: Stream[str]) -> Callable[[int], str]:
        return str

    kinds = {name: pipe.asset_info(name).kind for name in pipe.assets()}
    assert kinds == {"constant": "constant", "stream": "stream", "plain": "asset"}
    types = [pipe.asset_info(each).value_type for each in (constant, stream, plain)]
    assert types == [list[int], Stream[str], Callable[[int], str]]
    assert pipe.asset_info(constant).location == f"tests/unit/definition/test_info.py:{line}"


def test_what_is_given_is_not_kept_by_reference() -> None:
    """ASSET-19: changing a list or a mapping afterwards changes no definition."""
    pipe = Pipeline("p")
    tags, metadata = ["a"], {"unit": "m"}
    pipe.constant("x", 1, tags=tags, metadata=metadata)
    tags.append("b")
    metadata["unit"] = "km"
    assert pipe.asset_info("x").tags == ("a",)
    assert pipe.asset_info("x").metadata == {"unit": "m"}
