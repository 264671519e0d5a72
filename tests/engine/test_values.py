"""Values in runs: STORE-03 to STORE-06, STORE-10, STORE-11, LIN-01."""

from __future__ import annotations

import asyncio
import enum
import math
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from pydantic import BaseModel

from flowstone_async import (
    AssetFailed,
    DefinitionError,
    ExecutionError,
    Pipeline,
    Retry,
    StorageError,
    Stream,
    dep,
    io,
)
from flowstone_async._engine.verbs import Verbs
from flowstone_async.io import Memory
from flowstone_async.io.base import Stored, ValueRef
from flowstone_async.types import AssetKey, Input
from tests.support.engines import OpenEngine, OpenVerbs, SharedEngines
from tests.support.gate import Gate, soon


class Colour(enum.Enum):
    RED = "red"


@dataclass
class Point:
    x: int
    tags: list[str] = field(default_factory=list[str])


@dataclass(frozen=True)
class Place:
    at: Point
    seen: datetime
    price: Decimal
    colour: Colour


class Model(BaseModel):
    n: int
    when: date | None = None


PLACE = Place(Point(1, ["a"]), datetime(2025, 1, 15, tzinfo=UTC), Decimal("1.10"), Colour.RED)
TYPED: list[tuple[Any, Any]] = [
    (Place, PLACE),
    (list[Point], [Point(1), Point(2, ["x"])]),
    (dict[date, Point], {date(2025, 1, 1): Point(1)}),
    (Model, Model(n=1, when=date(2025, 1, 15))),
    (set[UUID], {UUID(int=7)}),
    (tuple[int, str, bytes], (1, "a", b"\0\xff")),
    (timedelta, timedelta(microseconds=1)),
    (dict[tuple[int, str], Decimal], {(1, "a"): Decimal("0.1")}),
    (int, 2**200),
    (list[float], [1.5, math.inf, -math.inf]),
    (str, "with \0 and 𝄞"),
    (Colour, Colour.RED),
    (Point | None, None),
    (frozenset[int], frozenset({1, 2})),
]


async def _returning(value: Any) -> Any:
    return value


def _giving(type_: Any, value: Any, calls: list[str]) -> Pipeline:
    pipe = Pipeline("typed")

    async def given() -> Any:
        calls.append("given")
        return value

    given.__annotations__["return"] = type_
    raw = pipe.add(given, name="given")

    async def seen(given: Any) -> str:
        calls.append("seen")
        assert given == value
        assert type(given) is type(value)
        return repr(given) if not isinstance(given, set | frozenset) else "set"

    pipe.add(seen, name="seen", deps={"given": raw})
    return pipe


@pytest.mark.parametrize(("type_", "value"), TYPED, ids=range(len(TYPED)))
async def test_values_come_back_as_the_declared_type(open_verbs: OpenVerbs, type_: Any, value: Any):
    """STORE-03, STORE-04: from `run`, from a reused run, from `get`, and as a dependency."""
    calls: list[str] = []
    verbs = await open_verbs(_giving(type_, value, calls))
    computed = await verbs.run("given")
    reused = await verbs.run("given")
    stored = await verbs.get("given")
    assert computed == reused == stored == value
    assert type(computed) is type(reused) is type(stored) is type(value)
    assert await verbs.run("seen")
    assert calls == ["given", "seen"]


async def test_nan_comes_back(open_verbs: OpenVerbs):
    """STORE-03."""
    verbs = await open_verbs(_giving(float, 1.0, []))

    @verbs_pipe(verbs).asset
    async def not_a_number() -> float:
        return math.nan

    pipe = Pipeline("nan")
    pipe.add(not_a_number.definition.body, name="nan")
    other = await open_verbs(pipe)
    assert math.isnan(await other.run("nan"))
    assert math.isnan(await other.get("nan"))


def verbs_pipe(verbs: Verbs) -> Pipeline:
    """Return the pipeline behind some verbs."""
    return verbs if isinstance(verbs, Pipeline) else verbs.pipelines[0]  # pyright: ignore[reportAttributeAccessIssue]


async def test_run_returns_what_a_reader_would_load(open_verbs: OpenVerbs):
    """STORE-04: a computed value is not the body's own object, and has the declared type."""
    pipe, made = Pipeline("copies"), []

    @pipe.asset
    async def rows() -> list[int]:
        made.append([1, 2])
        return made[0]

    verbs = await open_verbs(pipe)
    computed = await verbs.run(rows)
    assert computed == made[0]
    assert computed is not made[0]


@pytest.mark.parametrize(
    ("type_", "value"), [(int, "text"), (list[int], [1, "a"]), (Point, {"x": 1}), (Model, None)], ids=str
)
async def test_a_value_that_does_not_fit_fails_the_asset(open_verbs: OpenVerbs, type_: Any, value: Any):
    """STORE-04: with `StorageError`, and is not stored."""
    verbs = await open_verbs(_giving(type_, value, []))
    with pytest.raises(StorageError) as caught:
        await verbs.run("given")
    assert caught.value.asset == "given"
    assert not await verbs.exists("given")
    status = await verbs.status("given")
    assert status.state == "failed"
    assert isinstance(status.error, StorageError)


async def test_every_reader_has_a_copy_of_its_own(open_verbs: OpenVerbs):
    """STORE-05: a body that mutates its input changes neither the stored value nor what others see."""
    pipe = Pipeline("copies")
    shared = [Point(1, ["a"])]

    @pipe.asset
    async def raw() -> list[Point]:
        return shared

    async def spoils(raw: list[Point]) -> int:
        raw[0].tags.append("spoilt")
        raw.clear()
        return len(raw)

    async def reads(raw: list[Point]) -> list[str]:
        return raw[0].tags

    pipe.add(spoils, name="spoils")
    pipe.add(reads, name="reads")
    verbs = await open_verbs(pipe)
    returned, _, read = await verbs.run(raw, "spoils", "reads", concurrency=1)
    assert returned == [Point(1, ["a"])]
    assert read == ["a"]
    shared[0].tags.append("later")
    returned[0].tags.append("mine")
    again = await verbs.get(raw)
    assert again == [Point(1, ["a"])]
    assert (await verbs.run(raw))[0].tags == ["a"]
    report = await verbs.report(raw)
    report[raw].value.clear()
    assert await verbs.get(raw) == [Point(1, ["a"])]


async def test_memory_without_copies_hands_out_the_same_object():
    """STORE-05: `io.Memory(copy=False)`; it holds any object."""
    pipe = Pipeline("same")

    class Thing:
        pass

    thing = Thing()

    @pipe.asset(io=io.Memory(copy=False))
    async def held() -> Thing:
        return thing

    @pipe.asset
    async def seen(held: Thing) -> bool:
        return held is thing

    assert await pipe.run(held) is thing
    assert await pipe.get(held) is thing
    assert await pipe.run(seen)


async def test_a_type_that_cannot_be_stored_is_refused_on_entering(engines: SharedEngines):
    """STORE-06: `FS140` on a durable store; memory holds any object."""
    pipe = Pipeline("objects")

    class Connection:
        pass

    @pipe.asset
    async def opened() -> Connection:
        return Connection()

    if engines.durable:
        with pytest.raises(DefinitionError) as caught:
            await engines.open(pipe)
        assert [each.code for each in caught.value.problems] == ["FS140"]
        return
    engine = await engines.open(pipe)
    assert isinstance(await engine.run(opened), Connection)


async def test_a_value_that_turns_out_not_to_be_storable(open_engine: OpenEngine):
    """STORE-06: `StorageError` naming asset, type and remedy."""
    pipe = Pipeline("objects")

    @pipe.asset(io=io.Files("unused"))
    async def rows() -> list[Any]:
        return [object()]

    engine = await open_engine(pipe)
    with pytest.raises(StorageError) as caught:
        await engine.run(rows)
    text = str(caught.value)
    assert "rows" in text
    assert "object" in text
    assert caught.value.hint


# -- storing fails (STORE-10, STORE-11) ---------------------------------------------------------------------------


class _Failing(Memory):
    """A manager whose `store` or `load` fails as often as told."""

    def __init__(self, error: Exception | None = None, times: int = 0) -> None:
        super().__init__()
        self.error, self.times, self.stored = error, times, 0

    async def store(self, ref: ValueRef, value: Any) -> Stored:
        self.stored += 1
        if self.times and self.error is not None:
            self.times -= 1
            raise self.error
        return await super().store(ref, value)


@pytest.mark.parametrize("error", [StorageError("the disk is full"), OSError(28, "no space left")], ids=["own", "os"])
async def test_if_storing_fails_the_asset_ends_failed(open_verbs: OpenVerbs, error: Exception):
    """STORE-11: never stuck in `running`, and the earlier value stays current."""
    pipe, manager, value = Pipeline("failing"), _Failing(), [1]

    @pipe.asset(io=manager)
    async def raw() -> int:
        return value[0]

    verbs = await open_verbs(pipe)
    await verbs.run(raw)
    value[0] = 2
    manager.error, manager.times = error, 100
    with pytest.raises(StorageError) as caught:
        await soon(verbs.run(raw, force=True))
    assert caught.value.asset == "raw"
    status = await verbs.status(raw)
    assert status.state == "failed"
    assert isinstance(status.error, StorageError)
    assert status.has_value
    assert await verbs.get(raw) == 1
    manager.times = 0
    assert await verbs.run(raw, force=True) == 2


@pytest.mark.parametrize(("times", "fits"), [(1, True), (2, True), (3, False)])
async def test_transient_errors_are_tried_three_times(times: int, fits: bool):
    """STORE-11: and are retryable; the body is called once."""
    pipe, manager, calls = Pipeline("failing"), _Failing(StorageError("busy", retryable=True), times), []

    @pipe.asset(io=manager)
    async def raw() -> int:
        calls.append(1)
        return 1

    async with pipe.test() as t:
        report = await t.report(raw)
        assert report.ok is fits
        assert manager.stored == min(times + 1, 3)
        assert calls == [1]
        if not fits:
            assert report.error is not None
            assert report.error.retryable


async def test_a_storing_error_that_lasts_is_not_tried_again():
    """STORE-11."""
    pipe, manager = Pipeline("failing"), _Failing(StorageError("read-only"), 1)

    @pipe.asset(io=manager, retry=Retry(3))
    async def raw() -> int:
        return 1

    async with pipe.test() as t:
        report = await t.report(raw)
        assert not report.ok
        assert manager.stored == 1


async def test_a_manager_that_breaks_fails_the_asset_alone(open_verbs: OpenVerbs):
    """STORE-11: whatever it raises."""
    pipe, manager = Pipeline("failing"), _Failing(ZeroDivisionError("oops"), 1)

    @pipe.asset(io=manager)
    async def raw() -> int:
        return 1

    @pipe.asset
    async def beside() -> int:
        return 2

    verbs = await open_verbs(pipe)
    report = await soon(verbs.report(raw, beside))
    assert report.failed == ("raw",)
    assert report[beside].value == 2


async def test_missing_bytes_are_never_taken_for_not_stored(open_verbs: OpenVerbs, tmp_path: Path):
    """STORE-10: `StorageError` naming the location and `force=True`; forcing mends it."""
    pipe = Pipeline("lost")

    @pipe.asset(io=io.Files(str(tmp_path)))
    async def raw() -> str:
        return "here"

    verbs = await open_verbs(pipe)
    await verbs.run(raw)
    for each in tmp_path.rglob("*"):
        if each.is_file():
            each.unlink()
    for call in (verbs.get(raw), verbs.run(raw)):
        with pytest.raises(StorageError) as caught:
            await call
        assert "force=True" in str(caught.value)
        assert str(tmp_path) in str(caught.value)
    assert await verbs.exists(raw)
    assert await verbs.run(raw, force=True) == "here"


async def test_damaged_bytes_fail_their_checksum(open_verbs: OpenVerbs, tmp_path: Path):
    """STORE-10: for a dependant too, whose own body is not called."""
    pipe, calls = Pipeline("damaged"), []

    @pipe.asset(io=io.Files(str(tmp_path)))
    async def raw() -> list[int]:
        return [1, 2, 3]

    @pipe.asset
    async def total(raw: list[int]) -> int:
        calls.append(1)
        return sum(raw)

    verbs = await open_verbs(pipe)
    await verbs.run(raw)
    for each in tmp_path.rglob("*"):
        if each.is_file():
            each.write_bytes(each.read_bytes().replace(b"2", b"3"))
    with pytest.raises(StorageError, match="force=True") as caught:
        await verbs.run(total)
    assert caught.value.asset in ("raw", "total")
    assert calls == []


async def test_a_stream_that_raises_midway_commits_nothing(open_verbs: OpenVerbs):
    """ASSET-09, STORE-11: the earlier stream stays."""
    pipe, broken = Pipeline("streams"), [False]

    @pipe.asset
    async def rows() -> AsyncIterator[int]:
        for number in range(2500):
            yield number
        if broken[0]:
            raise ValueError("midway")

    verbs = await open_verbs(pipe)
    first = await verbs.run(rows)
    assert isinstance(first, Stream)
    assert [each async for each in first] == [each async for each in first] == list(range(2500))
    broken[0] = True
    with pytest.raises(ExecutionError, match="midway"):
        await verbs.run(rows, force=True)
    again = await verbs.get(rows)
    assert sum([each async for each in again]) == sum(range(2500))


async def test_a_cancelled_stream_closes_its_generator(open_verbs: OpenVerbs):
    """ASSET-09, G-04: `finally` runs before `run` ends."""
    pipe, gate, closed = Pipeline("streams"), Gate(), []

    @pipe.asset
    async def rows() -> AsyncIterator[int]:
        try:
            yield 1
            await gate()
            yield 2
        finally:
            closed.append(1)

    verbs = await open_verbs(pipe)
    task = asyncio.create_task(verbs.run(rows))
    await gate.reached()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await soon(task)
    assert closed == [1]
    assert not await verbs.exists(rows)


async def test_what_was_not_committed_is_not_kept():
    """STORE-07, G-04: a body that ignored its cancellation leaves no value behind in memory."""
    pipe, lake, gate = Pipeline("left"), io.Memory(), Gate()

    @pipe.asset(io=lake)
    async def stubborn() -> int:
        try:
            await gate()
        except asyncio.CancelledError:
            return 1
        return 2

    task = asyncio.create_task(pipe.run(stubborn))
    await gate.reached()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await soon(task)
    assert not lake._values


# -- lineage (LIN-01) ---------------------------------------------------------------------------------------------


async def _inputs(verbs: Verbs, asset: str, partition: Any = None) -> tuple[list[Input], str]:
    """Return the inputs on record of a stored value, and its id."""
    async with verbs._session() as session:
        catalog = next(iter(session.catalogs.values()))
        from flowstone_async.definition.keys import encode_key

        key = AssetKey(catalog.graph.pipeline, asset, encode_key(partition))
        states = await session.services.store.states([key])
        current = states[key].current
        assert current is not None
        return [each for each in current.inputs if each.kind == "asset"], current.id


async def _edges(verbs: Verbs, materialization: str) -> set[tuple[str, str]]:
    async with verbs._session() as session:
        found = await session.services.store.upstream(materialization)
        return {(key.asset, made) for key, made in found}


async def test_a_materialization_records_an_edge_per_input(open_verbs: OpenVerbs):
    """LIN-01: reused inputs and `None` are edges; skipped and failed ones are not; on every path, `pipe.run` too."""
    pipe = Pipeline("lineage")

    @pipe.asset
    async def reused() -> int:
        return 1

    @pipe.asset
    async def nothing() -> None:
        return None

    @pipe.asset(when=lambda: False)
    async def skipped() -> int:
        return 1

    @pipe.asset
    async def failing() -> int:
        raise ValueError("no")

    @pipe.asset
    async def total(
        reused: int,
        nothing: None,
        skipped: int | None = dep(skipped, optional=True),
        failing: int | None = dep(failing, optional=True),
    ) -> int:
        return reused

    verbs = await open_verbs(pipe)
    await verbs.run(reused)
    await verbs.run(total)
    inputs, made = await _inputs(verbs, "total")
    assert {each.name: each.materialization is not None for each in inputs} == {
        "reused": True,
        "nothing": True,
        "skipped": False,
        "failing": False,
    }
    expected = {(name, (await _inputs(verbs, name))[1]) for name in ("reused", "nothing")}
    assert await _edges(verbs, made) == expected


async def test_a_mapping_records_an_edge_per_key(open_verbs: OpenVerbs):
    """LIN-01, PART-09."""
    from flowstone_async import Daily

    pipe, days = Pipeline("lineage"), Daily("2025-01-01")

    @pipe.asset(partitions=days)
    async def daily(partition: date) -> int:
        return partition.day

    @pipe.asset(partitions=days)
    async def week(daily: object = dep(daily, over=days.last(3))) -> int:
        return 1

    verbs = await open_verbs(pipe)
    await verbs.run(week, partition=date(2025, 1, 5))
    inputs, made = await _inputs(verbs, "week", date(2025, 1, 5))
    assert [each.key.partition for each in inputs if each.key is not None] == [
        "d:2025-01-03",
        "d:2025-01-04",
        "d:2025-01-05",
    ]
    assert len(await _edges(verbs, made)) == 3


async def test_failed_executions_record_no_edges(open_verbs: OpenVerbs):
    """LIN-01: the record of the earlier value stays as it was."""
    pipe, broken, failures = Pipeline("lineage"), [False], []

    @pipe.asset
    async def raw() -> int:
        return 1

    @pipe.asset
    async def total(raw: int) -> int:
        if broken[0]:
            raise ValueError("no")
        return raw

    @pipe.on(AssetFailed)
    async def hear(event: AssetFailed) -> None:
        failures.append(event.asset)

    verbs = await open_verbs(pipe)
    await verbs.run(total)
    _, before = await _inputs(verbs, "total")
    edges = await _edges(verbs, before)
    broken[0] = True
    with pytest.raises(ExecutionError):
        await verbs.run(total, force=True)
    _, after = await _inputs(verbs, "total")
    assert after == before
    assert await _edges(verbs, after) == edges
    assert failures == ["total"]
