"""What `run` returns, where it runs and in which order: RUN-01 to RUN-06, RUN-09, RUN-12, RUN-21."""

from __future__ import annotations

import asyncio
import os
from datetime import date
from pathlib import Path
from typing import NoReturn

import pytest

from flowstone_async import ConfigError, Context, Engine, KeyConflict, NotMaterialized, Pipeline, dep, io
from flowstone_async._engine.handle import RunHandle
from tests.support.engines import OpenEngine, OpenVerbs
from tests.support.gate import Gate, soon


def _chain(calls: list[str]) -> Pipeline:
    pipe = Pipeline("chain")

    @pipe.asset
    async def raw() -> list[int]:
        calls.append("raw")
        return [1, 2, 3]

    @pipe.asset
    async def doubled(raw: list[int]) -> list[int]:
        calls.append("doubled")
        return [each * 2 for each in raw]

    @pipe.asset
    async def total(doubled: list[int]) -> int:
        calls.append("total")
        return sum(doubled)

    return pipe


async def test_run_returns_the_value_of_its_target(open_verbs: OpenVerbs):
    """RUN-01, RUN-02, RUN-06: the target's value, each asset after all of its own upstreams."""
    calls: list[str] = []
    verbs = await open_verbs(_chain(calls))
    assert await verbs.run("total") == 12
    assert calls == ["raw", "doubled", "total"]


async def test_pipe_run_touches_no_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """RUN-01: in memory, no file, no server."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("builtins.open", _refuse)
    monkeypatch.setattr(os, "open", _refuse)
    assert await _chain([]).run("total") == 12
    assert list(tmp_path.iterdir()) == []


def _refuse(*_: object, **__: object) -> NoReturn:
    raise AssertionError("pipe.run opened a file")


async def test_pipe_run_honours_a_declared_manager(tmp_path: Path):
    """RUN-01: a declared `io=` is honoured, also in memory."""
    pipe = Pipeline("files")

    @pipe.asset(io=io.Files(str(tmp_path)))
    async def raw() -> list[int]:
        return [1, 2]

    assert await pipe.run(raw) == [1, 2]
    assert [each for each in tmp_path.rglob("*") if each.is_file()]
    assert await pipe.get(raw) == [1, 2]


async def test_a_pipeline_keeps_its_memory():
    """RUN-01: `get`, `exists`, `status` … read the same memory, and later runs reuse its values."""
    calls: list[str] = []
    pipe = _chain(calls)
    await pipe.run("total")
    assert await pipe.run("total") == 12
    assert calls == ["raw", "doubled", "total"]
    assert await pipe.get("doubled") == [2, 4, 6]
    assert await pipe.exists("doubled")
    assert (await pipe.status("doubled")).fresh
    assert (await pipe.plan("total"))["total"].action == "reuse"
    assert (await pipe.why("total")).state == "fresh"
    assert (await pipe.report("total"))["total"].state == "cached"
    assert await pipe.invalidate("doubled") == 1
    assert not await pipe.exists("doubled")


def test_a_pipeline_is_tied_to_no_event_loop():
    """RUN-01: loops come and go, the memory stays."""
    calls: list[str] = []
    pipe = _chain(calls)
    assert asyncio.run(pipe.run("total")) == 12
    assert asyncio.run(pipe.run("total")) == 12
    assert asyncio.run(pipe.get("raw")) == [1, 2, 3]
    assert calls == ["raw", "doubled", "total"]


async def test_the_history_of_a_pipeline_is_capped():
    """RUN-01: the run history is capped [1,000 runs]."""
    pipe = _chain([])
    for _ in range(1010):
        await pipe.run("total")
    assert pipe._wiring is not None
    assert len(await pipe._wiring.store.runs(pipelines=["chain"], limit=5000)) == 1000


async def test_definitions_are_the_same_in_both(open_engine: OpenEngine):
    """RUN-02: engine and pipeline share definitions, and no values."""
    pipe = _chain([])
    engine = await open_engine(pipe)
    assert await engine.run("total") == await pipe.run("total") == 12
    await engine.invalidate("total")
    assert await pipe.exists("total")


async def test_an_engine_that_is_not_open_says_what_to_write():
    """RUN-02: outside its `async with`."""
    engine = Engine(_chain([]), store="memory")
    with pytest.raises(ConfigError, match="async with Engine"):
        await engine.run("total")
    async with engine:
        assert await engine.run("total") == 12
    with pytest.raises(ConfigError, match="async with Engine"):
        await engine.get("total")


def test_a_pipeline_submits_nothing():
    """RUN-02: `pipe.submit` shows the lines to write."""
    with pytest.raises(ConfigError, match=r"async with Engine\(pipe\)(.|\n)*submit"):
        _chain([]).submit("total")


async def test_submit_returns_a_handle_and_run_a_value(open_engine: OpenEngine):
    """RUN-03."""
    engine = await open_engine(_chain([]))
    handle = await engine.submit("total")
    assert isinstance(handle, RunHandle)
    assert await soon(handle) == 12
    assert await engine.run("total") == 12


async def test_several_targets_give_a_tuple_in_their_order(open_verbs: OpenVerbs):
    """RUN-04: in the order asked for; shared upstreams run once."""
    calls: list[str] = []
    verbs = await open_verbs(_chain(calls))
    assert await verbs.run("total", "raw", "doubled") == (12, [1, 2, 3], [2, 4, 6])
    assert sorted(calls) == ["doubled", "raw", "total"]


async def test_the_same_target_twice(open_verbs: OpenVerbs):
    """RUN-04: a target named twice is computed once and returned twice."""
    calls: list[str] = []
    verbs = await open_verbs(_chain(calls))
    assert await verbs.run("raw", "raw") == ([1, 2, 3], [1, 2, 3])
    assert calls == ["raw"]


async def test_run_without_a_target_is_a_type_error(open_verbs: OpenVerbs):
    """RUN-04."""
    verbs = await open_verbs(_chain([]))
    with pytest.raises(TypeError, match="at least one asset"):
        await verbs.run()  # pyright: ignore[reportCallIssue] - that is the point


async def test_an_unknown_option_is_a_type_error(open_verbs: OpenVerbs):
    """Conventions: an unknown keyword is a `TypeError` at the call."""
    verbs = await open_verbs(_chain([]))
    with pytest.raises(TypeError, match="forced"):
        await verbs.run("total", forced=True)  # pyright: ignore[reportCallIssue] - that is the point


@pytest.mark.parametrize(
    "options",
    [
        {"force": "some"},
        {"with_deps": 1},
        {"concurrency": 0},
        {"concurrency": True},
        {"timeout": 0},
        {"timeout": "soon"},
    ],
)
async def test_a_bad_option_runs_nothing(open_verbs: OpenVerbs, options: dict[str, object]):
    """G-05: a known keyword with a bad value is a `ConfigError`, before anything runs."""
    calls: list[str] = []
    verbs = await open_verbs(_chain(calls))
    with pytest.raises(ConfigError):
        await verbs.run("total", **options)  # pyright: ignore[reportArgumentType, reportCallIssue] - that is the point
    assert calls == []


def test_run_sync_is_the_bridge():
    """RUN-05."""
    pipe = _chain([])
    assert pipe.run_sync("total") == 12
    assert pipe.run_sync("raw", "total") == ([1, 2, 3], 12)


async def test_run_sync_inside_a_loop_says_what_to_write():
    """RUN-05."""
    with pytest.raises(ConfigError, match=r"await pipe\.run"):
        _chain([]).run_sync("total")


async def test_every_materialization_of_a_run_carries_its_id(open_verbs: OpenVerbs):
    """RUN-06: `run_id=` sets it."""
    verbs = await open_verbs(_chain([]))
    mine = "01890a5d-ac96-774b-bcce-b302099a8057"
    report = await verbs.report("total", run_id=mine)
    assert report.run_id == mine
    assert {(await verbs.status(name)).run_id for name in ("raw", "doubled", "total")} == {mine}


async def test_a_run_id_is_used_once(open_verbs: OpenVerbs):
    """RUN-06: one already used is refused, and nothing runs."""
    calls: list[str] = []
    verbs = await open_verbs(_chain(calls))
    mine = "01890a5d-ac96-774b-bcce-b302099a8057"
    await verbs.run("raw", run_id=mine)
    with pytest.raises(KeyConflict, match="used already"):
        await verbs.run("raw", force=True, run_id=mine)
    assert calls == ["raw"]


async def test_a_run_id_is_used_once_also_while_its_run_goes_on(open_engine: OpenEngine):
    """RUN-06: also by another engine on the store, at the same time."""
    pipe, gate = Pipeline("ids"), Gate()

    @pipe.asset
    async def slow() -> int:
        await gate()
        return 1

    first, second = await open_engine(pipe), await open_engine(pipe)
    mine = "01890a5d-ac96-774b-bcce-b302099a8057"
    running = asyncio.create_task(first.run(slow, run_id=mine))
    await gate.reached()
    for engine in (first, second):
        with pytest.raises(KeyConflict):
            await engine.run(slow, run_id=mine)
    gate.open()
    assert await soon(running) == 1
    assert gate.calls == 1


async def test_the_run_partition_reaches_every_upstream(open_verbs: OpenVerbs):
    """RUN-09: `partition` is `ctx.partition` in the target and in every upstream executed."""
    pipe, seen = Pipeline("keys"), []

    @pipe.asset
    async def raw(ctx: Context) -> str:
        seen.append(ctx.partition)
        return str(ctx.partition)

    @pipe.asset
    async def total(raw: str, ctx: Context, partition: date) -> str:
        seen.extend([ctx.partition, partition])
        return raw

    verbs = await open_verbs(pipe)
    day = date(2025, 1, 15)
    assert await verbs.run(total, partition=day) == "2025-01-15"
    assert seen == [day, day, day]
    assert await verbs.get(raw, partition=day) == "2025-01-15"
    with pytest.raises(NotMaterialized):
        await verbs.get(raw)


def _diamond(calls: list[str], gate: Gate | None = None) -> Pipeline:
    pipe = Pipeline("diamond")

    @pipe.asset
    async def top() -> int:
        calls.append("top")
        return 1

    @pipe.asset
    async def left(top: int) -> int:
        calls.append("left")
        if gate is not None:
            await gate()
        return top + 1

    @pipe.asset
    async def right(top: int) -> int:
        calls.append("right")
        if gate is not None:
            await gate()
        return top + 2

    @pipe.asset
    async def bottom(left: int, right: int) -> int:
        calls.append("bottom")
        return left * right

    return pipe


async def test_the_shared_upstream_of_a_diamond_runs_once(open_verbs: OpenVerbs):
    """RUN-12."""
    calls: list[str] = []
    verbs = await open_verbs(_diamond(calls))
    assert await verbs.run("bottom") == 6
    assert sorted(calls) == ["bottom", "left", "right", "top"]


async def test_a_ladder_of_diamonds_runs_each_asset_once(open_verbs: OpenVerbs):
    """RUN-12: forty diamonds on top of each other."""
    pipe, calls = Pipeline("ladder"), []
    for level in range(40):
        deps = {} if not level else {"a": f"left{level - 1}", "b": f"right{level - 1}"}
        for side in ("left", "right"):
            name = f"{side}{level}"

            async def body(a: int = 0, b: int = 1, name: str = name) -> int:
                calls.append(name)
                return (a + b) % 1000

            pipe.add(body, name=name, deps=deps)
    verbs = await open_verbs(pipe)
    await verbs.run("left39")
    assert len(calls) == len(set(calls)) == 79


async def test_independent_assets_run_at_the_same_time(open_verbs: OpenVerbs):
    """RUN-12: both sides are inside their bodies at once."""
    gate = Gate()
    verbs = await open_verbs(_diamond([], gate))
    running = asyncio.create_task(verbs.run("bottom"))
    await gate.reached(2)
    assert gate.most == 2
    gate.open()
    assert await soon(running) == 6


@pytest.mark.parametrize("concurrency", [1, 3])
async def test_at_most_concurrency_bodies_run_at_once(open_verbs: OpenVerbs, concurrency: int):
    """RUN-12."""
    pipe, gate = Pipeline("wide"), Gate()

    async def body() -> int:
        await gate()
        return 1

    for number in range(8):
        pipe.add(body, name=f"a{number}")
    verbs = await open_verbs(pipe)
    running = asyncio.create_task(verbs.run(*(f"a{number}" for number in range(8)), concurrency=concurrency))
    await gate.reached(concurrency)
    for _ in range(50):
        await asyncio.sleep(0)
    assert gate.calls == concurrency
    gate.open()
    await soon(running)
    assert gate.calls == 8
    assert gate.most == concurrency


async def test_concurrency_is_32_unless_the_engine_says_otherwise(open_engine: OpenEngine):
    """RUN-12, CFG-02: the call before the engine before the default."""
    pipe, gate = Pipeline("wide"), Gate()

    async def body() -> int:
        await gate()
        return 1

    names = [f"a{number}" for number in range(40)]
    for name in names:
        pipe.add(body, name=name)
    plain, narrow = await open_engine(pipe), await open_engine(pipe, concurrency=2)
    gate.open()
    for engine, options, expected in ((plain, {}, 32), (narrow, {}, 2), (narrow, {"concurrency": 4}, 4)):
        gate.most = gate.calls = 0
        gate.close()
        running = asyncio.create_task(engine.run(*names, force=True, **options))
        await gate.reached(expected)
        gate.open()
        await soon(running)
        assert gate.most == expected


async def test_concurrency_1_gives_the_order_of_the_pipeline(open_verbs: OpenVerbs):
    """RUN-12: the order of `pipe.order()`, ties in declaration order."""
    pipe, calls = Pipeline("order"), []
    edges = {"z": (), "c": (), "a": ("c",), "m": ("z", "c"), "b": ("a", "m"), "k": ("z",), "last": ("b", "k")}
    for name, upstreams in edges.items():

        async def body(p0: int = 0, p1: int = 0, *, name: str = name) -> int:
            calls.append(name)
            return len(calls)

        pipe.add(body, name=name, deps={f"p{number}": each for number, each in enumerate(upstreams)})
    verbs = await open_verbs(pipe)
    await verbs.run("last", concurrency=1)
    assert tuple(calls) == tuple(pipe.order())


async def test_a_stored_none_is_a_value(open_verbs: OpenVerbs):
    """RUN-21: `get` returns it, `exists` is true, a second run reuses it, dependants receive it."""
    pipe, calls = Pipeline("nothing"), []

    @pipe.asset
    async def nothing() -> None:
        calls.append("nothing")

    @pipe.asset
    async def after(given: object = dep(nothing)) -> str:
        calls.append("after")
        return repr(given)

    verbs = await open_verbs(pipe)
    assert await verbs.run(nothing) is None
    assert await verbs.run(nothing) is None
    assert calls == ["nothing"]
    assert await verbs.get(nothing) is None
    assert await verbs.exists(nothing)
    assert (await verbs.status(nothing)).has_value
    assert await verbs.run(after) == "None"
    assert calls == ["nothing", "after"]
