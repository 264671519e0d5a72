"""Taking stored values away: RUN-28, STORE-10."""

from __future__ import annotations

import asyncio
from datetime import date
from pathlib import Path

import pytest

from flowstone_async import ALL, Daily, NotMaterialized, PartitionError, Pipeline, dep, io, mapping
from tests.support.engines import OpenEngine, OpenVerbs
from tests.support.gate import Gate, soon

DAYS = [date(2025, 1, number) for number in range(1, 6)]


def _diamond() -> Pipeline:
    pipe = Pipeline("diamond")

    @pipe.asset
    async def top() -> int:
        return 1

    @pipe.asset
    async def left(top: int) -> int:
        return top + 1

    @pipe.asset
    async def right(top: int) -> int:
        return top + 2

    @pipe.asset
    async def bottom(left: int, right: int) -> int:
        return left * right

    return pipe


def _days() -> Pipeline:
    """`daily` per day, `week` over the last three, `report` over all that `week` has, `alone` per day."""
    pipe = Pipeline("days")
    days = Daily("2025-01-01", end="2025-01-05")

    @pipe.asset(partitions=days)
    async def daily(partition: date) -> int:
        return partition.day

    @pipe.asset(partitions=days)
    async def week(daily: object = dep(daily, over=days.last(3))) -> int:
        assert isinstance(daily, dict)
        return sum(daily.values())

    @pipe.asset
    async def report(week: object = dep(week, over=mapping(lambda _: DAYS))) -> int:
        assert isinstance(week, dict)
        return sum(week.values())

    @pipe.asset(partitions=days)
    async def alone(partition: date) -> int:
        return partition.day

    return pipe


async def test_invalidate_counts_what_it_deleted(open_verbs: OpenVerbs):
    """RUN-28: 0 when nothing was stored; the value is really gone and is computed again."""
    verbs = await open_verbs(_diamond())
    assert await verbs.invalidate("top") == 0
    await verbs.run("bottom")
    assert await verbs.invalidate("top") == 1
    assert await verbs.invalidate("top") == 0
    with pytest.raises(NotMaterialized):
        await verbs.get("top")
    assert not await verbs.exists("top")
    for name in ("left", "right", "bottom"):
        assert await verbs.exists(name)
    assert await verbs.run("top") == 1


async def test_cascade_counts_each_once(open_verbs: OpenVerbs):
    """RUN-28: what was computed from it, transitively, in a diamond too."""
    verbs = await open_verbs(_diamond())
    await verbs.run("bottom")
    assert await verbs.invalidate("left", cascade=True) == 2
    assert await verbs.exists("right")
    await verbs.run("bottom")
    assert await verbs.invalidate("top", cascade=True) == 4
    for name in ("top", "left", "right", "bottom"):
        assert not await verbs.exists(name)


async def test_cascade_goes_on_below_what_is_gone_already(open_verbs: OpenVerbs):
    """RUN-28: `top` has no value any more; what was computed from it still goes."""
    verbs = await open_verbs(_diamond())
    await verbs.run("bottom")
    await verbs.invalidate("top")
    assert await verbs.invalidate("top", cascade=True) == 3
    assert not await verbs.exists("bottom")


async def test_other_partitions_stay(open_verbs: OpenVerbs):
    """RUN-28, PART-06."""
    verbs = await open_verbs(_diamond())
    for day in DAYS[:3]:
        await verbs.run("bottom", partition=day)
    assert await verbs.invalidate("top", partition=DAYS[1], cascade=True) == 4
    assert [await verbs.exists("bottom", partition=day) for day in DAYS[:3]] == [True, False, True]
    assert not await verbs.exists("bottom")


async def test_all_partitions(open_verbs: OpenVerbs):
    """RUN-28: `partition=ALL`, of a declared set and of whatever keys there are."""
    verbs = await open_verbs(_diamond())
    for key in (*DAYS, "text", 7, None):
        await verbs.run("left", partition=key)
    assert await verbs.invalidate("left", partition=ALL) == 8
    assert not await verbs.exists("left", partition="text")
    assert await verbs.exists("top", partition="text")
    assert await verbs.invalidate("left", partition=ALL) == 0
    assert await verbs.invalidate("top", partition=ALL, cascade=True) == 8


async def test_all_of_more_partitions_than_a_page(open_verbs: OpenVerbs):
    """RUN-28, G-03: page by page."""
    pipe = Pipeline("many")

    @pipe.asset
    async def each(partition: int) -> int:
        return partition

    verbs = await open_verbs(pipe)
    report = await verbs.backfill(each, partitions=range(510), parallel=50)
    assert report.succeeded == 510
    assert await verbs.invalidate(each, partition=ALL) == 510
    assert not await verbs.exists(each, partition=509)


async def test_cascade_across_partition_mappings(open_verbs: OpenVerbs):
    """RUN-28: one day takes the weeks that read it, and the report over them; each once."""
    verbs = await open_verbs(_days())
    await verbs.run("report")
    await verbs.run("alone", partition=DAYS[1])
    assert await verbs.invalidate("daily", partition=DAYS[1], cascade=True) == 5
    kept = [await verbs.exists("week", partition=day) for day in DAYS]
    assert kept == [True, False, False, False, True]
    assert not await verbs.exists("report")
    assert await verbs.exists("alone", partition=DAYS[1])
    assert await verbs.exists("daily", partition=DAYS[0])


async def test_cascade_from_all(open_verbs: OpenVerbs):
    """RUN-28: five days, five weeks, one report."""
    verbs = await open_verbs(_days())
    await verbs.run("report")
    assert await verbs.invalidate("daily", partition=ALL, cascade=True) == 11
    assert not await verbs.exists("report")


async def test_a_wrong_key_is_refused(open_verbs: OpenVerbs):
    """PART-08."""
    verbs = await open_verbs(_days())
    for key in ("2025-01-01", None, date(2024, 1, 1)):
        with pytest.raises(PartitionError):
            await verbs.invalidate("daily", partition=key)


async def test_the_value_itself_is_deleted(open_verbs: OpenVerbs, tmp_path: Path):
    """RUN-28, STORE-10: `invalidate` frees the space, of what the cascade takes too."""
    pipe = Pipeline("files")
    files = io.Files(str(tmp_path))

    @pipe.asset(io=files)
    async def raw() -> str:
        return "marked"

    @pipe.asset(io=files)
    async def after(raw: str) -> str:
        return raw

    verbs = await open_verbs(pipe)
    await verbs.run(after)
    assert _holding(tmp_path, b"marked")
    assert await verbs.invalidate(raw, cascade=True) == 2
    assert not _holding(tmp_path, b"marked")


def _holding(folder: Path, text: bytes) -> list[Path]:
    return [each for each in folder.rglob("*") if each.is_file() and text in each.read_bytes()]


async def test_a_replaced_value_is_deleted_in_memory():
    """STORE-10: memory keeps the current value, not what was before."""
    pipe, lake = Pipeline("memory"), io.Memory()

    @pipe.asset(io=lake)
    async def raw() -> list[int]:
        return [1]

    for _ in range(5):
        await pipe.run(raw, force=True)
    assert len(lake._values) == 1
    assert not lake._let_go
    await pipe.invalidate(raw)
    assert not lake._values


async def test_what_is_being_computed_is_stored_all_the_same(open_verbs: OpenVerbs):
    """RUN-28: it takes away what is stored, and cancels nothing."""
    pipe, gate = Pipeline("slow"), Gate()
    gate.open()

    @pipe.asset
    async def slow() -> int:
        await gate()
        return gate.calls

    verbs = await open_verbs(pipe)
    await verbs.run(slow)
    gate.close()
    running = asyncio.create_task(verbs.run(slow, force=True))
    await gate.reached(2)
    assert await verbs.invalidate(slow) == 1
    gate.open()
    assert await soon(running) == 2
    assert await verbs.get(slow) == 2


async def test_a_value_that_is_in_use_can_still_be_read():
    """STORE-05: a run that judged it fresh reads it, although it is taken away meanwhile."""
    pipe, gate = Pipeline("in_use"), Gate()

    @pipe.asset
    async def raw() -> list[int]:
        return [1, 2]

    @pipe.asset
    async def slow() -> int:
        await gate()
        return 1

    @pipe.asset
    async def both(raw: list[int], slow: int) -> int:
        return len(raw) + slow

    await pipe.run(raw)
    running = asyncio.create_task(pipe.run(both))
    await gate.reached()
    await pipe.invalidate(raw)
    gate.open()
    assert await soon(running) == 3


async def test_another_engine_sees_it_gone(open_engine: OpenEngine):
    """RUN-28."""
    pipe = _diamond()
    first, second = await open_engine(pipe), await open_engine(pipe)
    await first.run("bottom")
    assert await second.invalidate("top", cascade=True) == 4
    assert not await first.exists("bottom")
    assert await first.run("bottom") == 6


async def test_what_was_computed_through_io_cascades_there(open_verbs: OpenVerbs):
    """RUN-28, RUN-10: the values of the dependants are deleted from that manager."""
    lake = io.Memory()
    verbs = await open_verbs(_diamond())
    await verbs.run("bottom")
    await verbs.run("bottom", io=lake)
    assert await verbs.invalidate("top", io=lake, cascade=True, partition=ALL) == 4
    assert not lake._values
    assert await verbs.exists("bottom")
