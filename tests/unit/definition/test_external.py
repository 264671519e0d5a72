"""Edges to other pipelines (ASSET-16)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated

import pytest

from flowstone_async import Daily, DependencyNotReady, Engine, Pipeline, Stream, dep
from tests.unit.definition.reading import problems


def test_an_external_edge_reads_another_pipeline() -> None:
    """ASSET-16: no edge of this graph, checked like one."""
    orders, pipe = Pipeline("orders"), Pipeline("p")

    @orders.asset
    async def total() -> int:
        return 1

    @pipe.asset
    async def down(x: int = dep(total, external=True), y: int | None = dep(total, external=True, optional=True)) -> int:
        return x

    @pipe.asset
    async def wrong(x: str = dep(total, external=True)) -> int:  # pyright: ignore[reportArgumentType]
        return 1

    assert problems(pipe) == ["FS104 wrong(x: str) but asset 'total' of pipeline 'orders' produces int."]
    del pipe._assets["wrong"]
    assert pipe.order() == ("down",)
    assert pipe.asset_info(down).depends_on == ()
    assert pipe.asset_info(down).external == ("orders.total",)


async def test_an_external_value_comes_as_its_own_pipeline_declares_it() -> None:
    """ASSET-16: never run from here, and `DependencyNotReady` where there is none."""

    @dataclass
    class Total:
        n: int

    orders, app = Pipeline("orders"), Pipeline("app")
    ran: list[str] = []

    @orders.asset
    async def total() -> Total:
        ran.append("total")
        return Total(7)

    @orders.asset
    async def numbers() -> AsyncIterator[int]:
        yield 1
        yield 2

    @app.asset
    async def down(
        items: Annotated[AsyncIterator[int], dep(numbers, external=True)],
        unannotated=dep(total, external=True),
        stream: Stream[int] = dep(numbers, external=True),
    ) -> list[int]:
        return [unannotated.n, *[n async for n in stream], await anext(items)]

    async with Engine(orders, app, store="memory") as engine:
        with pytest.raises(DependencyNotReady, match="orders"):
            await engine.run(down)
        assert ran == []
        await engine.run(total, numbers)
        assert await engine.run(down) == [7, 1, 2, 1]
        assert ran == ["total"]


def test_a_handle_of_another_pipeline() -> None:
    """ASSET-16: `FS150` names both ways out."""
    orders, pipe = Pipeline("orders"), Pipeline("p")
    total = orders.constant("total", 1)

    @pipe.asset(when=lambda x=dep(total): True)
    async def down(x: int = dep(total)) -> int:
        return x

    hint = "Say pipe.include(...) to make it part of this one, or dep(total, external=True) to read its current value."
    assert problems(pipe) == [
        f"FS150 down(x: int) — asset 'total' belongs to pipeline 'orders'. | {hint}",
        f"FS150 down: condition <lambda>(x) — asset 'total' belongs to pipeline 'orders'. | {hint}",
    ]


def test_external_excludes_what_it_cannot_mean() -> None:
    """ASSET-16, G-05: nothing is ignored in silence."""
    days = Daily("2025-01-01")
    orders, pipe = Pipeline("orders"), Pipeline("p")

    @orders.asset(partitions=days)
    async def daily() -> int:
        return 1

    own = pipe.constant("own", 1)

    @pipe.asset(partitions=days)
    async def down(
        a: int = dep("daily", external=True),  # pyright: ignore[reportArgumentType]
        b: object = dep(daily, over=days.last(2), external=True),  # pyright: ignore[reportCallIssue]
        c: int = dep(own, external=True),
        d: object = dep(daily, over=days),  # pyright: ignore[reportArgumentType, reportCallIssue]
    ) -> int:
        return 1

    assert problems(pipe) == [
        (
            "FS109 down(a: int) — external=True needs the other pipeline's asset itself, not the name 'daily'."
            " | Import it: dep(other_asset, external=True)."
        ),
        "FS109 down(b: object) — over= and external=True exclude each other: one current value is read.",
        "FS109 down(c: int) — external=True, but asset 'own' belongs to this very pipeline. | Say dep(own).",
        (
            f"FS109 down(d: object) — over={days!r} is no mapping of partitions."
            " | Give days.last(7), days.all(), grid.dimension(days) or mapping(fn)."
        ),
    ]
