"""Looking at what a store knows."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from flowstone_async import Context, Engine, Pipeline
from flowstone_async.cli import look
from flowstone_async.cli.table import ago, moment, table

NOW = datetime(2025, 1, 15, 12, tzinfo=UTC)


def _pipeline() -> Pipeline:
    pipe = Pipeline("looked_at")

    @pipe.asset
    async def one() -> int:
        return 1

    return pipe


async def test_runs_are_read_page_by_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(look, "_PAGE", 2)
    async with Engine(_pipeline(), store="memory") as engine:
        for _ in range(5):
            await engine.run("one", force=True)
        newest_first = [run.id for run in await engine.runs()]
        assert [run.id async for run in look._pages(engine, None, 50)] == newest_first
        assert [run.id async for run in look._pages(engine, None, 3)] == newest_first[:3]
        assert [run.id async for run in look._pages(engine, "failed", 3)] == []


async def test_the_list_of_assets_says_whom_one_waits_for() -> None:
    pipe = _pipeline()

    @pipe.asset
    async def asks(ctx: Context) -> None:
        await ctx.signal(str, token="go", name="the depot")

    async with Engine(pipe, store="memory", park_after=0) as engine:
        assert (await engine.report("asks"))["asks"].state == "waiting"
        nodes = engine._live().catalogs["looked_at"].graph.nodes.values()
        rows = [look._cells(await look._overview(engine, node, 0, NOW), NOW) for node in nodes]
    assert [row[:2] for row in rows] == [["one", "never run"], ["asks", "waiting"]]
    assert rows[1][-1].startswith("signal 'the depot' (")


async def test_an_engine_that_looks_registers_no_worker() -> None:
    async with Engine(_pipeline(), store="memory").looking() as session:
        assert session.services.worker is None
    async with Engine(_pipeline(), store="memory") as engine:
        assert (await engine.health()).parts["workers"].state == "ok"


def test_a_table_leaves_empty_columns_out() -> None:
    rows = [["asset", "empty", "state"], ["a", "", "fresh"], ["longer", "", ""]]
    assert table(rows) == "asset   state\na       fresh\nlonger"


@pytest.mark.parametrize(
    ("passed", "text"),
    [
        (timedelta(seconds=-3), "0s ago"),
        (timedelta(seconds=59), "59s ago"),
        (timedelta(minutes=14), "14m ago"),
        (timedelta(hours=3), "3h ago"),
        (timedelta(days=40), "40d ago"),
    ],
)
def test_time_passed_is_said_in_one_unit(passed: timedelta, text: str) -> None:
    assert ago(NOW - passed, NOW) == text


def test_an_instant_is_shown_with_the_time_since() -> None:
    assert moment(NOW - timedelta(minutes=5), NOW) == "2025-01-15 11:55:00 UTC (5m ago)"
    assert moment(None, NOW) == ""
