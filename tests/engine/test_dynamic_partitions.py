"""Partition keys that are added and removed at run time: PART-01, PART-09, RUN-29."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import Any

import pytest

from flowstone_async import ConfigError, Daily, Dynamic, Keys, NotMaterialized, PartitionError, Pipeline, Single, dep
from tests.support.engines import OpenEngine, OpenVerbs

SHAPES = Keys("round", "square")


class _Tenants:
    """Sales of each tenant, and what is made of all of them."""

    def __init__(self) -> None:
        self.pipe = pipe = Pipeline("tenants")
        self.tenants = tenants = Dynamic[str]("tenants")
        self.calls: list[str] = []
        self.started: list[str] = []

        @pipe.asset(partitions=Single())
        async def base() -> int:
            self.calls.append("base")
            return 1

        @pipe.asset(partitions=tenants)
        async def sales(partition: str, base: int) -> str:
            self.calls.append(partition)
            return partition.upper()

        @pipe.asset
        async def everyone(sales: Mapping[str, str] = dep(sales, over=tenants.all())) -> list[str]:
            self.calls.append("everyone")
            return [f"{key}={value}" for key, value in sales.items()]

        self.sales, self.everyone = sales, everyone

    def taken(self) -> list[str]:
        """Return what was called since this was last asked."""
        calls, self.calls[:] = list(self.calls), []
        return calls


async def test_keys_are_added_listed_and_removed(open_verbs: OpenVerbs):
    """PART-01: in the order in which they were added; the counts are of what changed."""
    tenants = _Tenants()
    verbs = await open_verbs(tenants.pipe)
    keys = verbs.partitions(tenants.tenants)
    assert await keys.list() == ()
    assert await keys.add("globex", "acme", "globex") == 2
    assert await keys.add("acme", "initech") == 1
    assert await keys.list() == ("globex", "acme", "initech")
    assert await keys.remove("acme", "nobody") == 1
    assert await keys.list() == ("globex", "initech")
    assert await keys.add("acme") == 1
    assert await verbs.partitions(tenants.tenants).list() == ("globex", "initech", "acme")


async def test_an_unknown_key_is_refused_before_anything_runs(open_verbs: OpenVerbs):
    """PART-01, PART-08: by every verb that computes; the error says how to add it."""
    tenants = _Tenants()
    verbs = await open_verbs(tenants.pipe)
    await verbs.partitions(tenants.tenants).add("acme")
    for call in (
        verbs.run(tenants.sales, partition="globex"),
        verbs.plan(tenants.sales, partition="globex"),
        verbs.backfill(tenants.sales, partitions=["acme", "globex"]),
    ):
        with pytest.raises(PartitionError, match="globex") as caught:
            await call
        assert "add" in (caught.value.hint or "")
    assert tenants.taken() == []
    assert not await verbs.exists(tenants.sales, partition="acme")


async def test_a_key_is_valid_once_it_is_added(open_verbs: OpenVerbs):
    """PART-01: and not any more once it is removed; what is stored for it stays until it is invalidated."""
    tenants = _Tenants()
    verbs = await open_verbs(tenants.pipe)
    keys = verbs.partitions(tenants.tenants)
    await keys.add("acme")
    assert await verbs.run(tenants.sales, partition="acme") == "ACME"
    await keys.remove("acme")
    with pytest.raises(PartitionError, match="acme"):
        await verbs.run(tenants.sales, partition="acme")
    await keys.add("acme")
    tenants.taken()
    assert await verbs.run(tenants.sales, partition="acme") == "ACME"
    assert tenants.taken() == []


async def test_keys_are_seen_by_every_engine(open_engine: OpenEngine):
    """PART-01: in every process that shares the store; another pipeline's set of that name is another."""
    tenants = _Tenants()
    here, there = await open_engine(tenants.pipe), await open_engine(tenants.pipe)
    await here.partitions(tenants.tenants).add("acme")
    assert await there.partitions(tenants.tenants).list() == ("acme",)
    assert await there.run(tenants.sales, partition="acme") == "ACME"
    await there.partitions(tenants.tenants).remove("acme")
    assert await here.partitions(tenants.tenants).list() == ()


@pytest.mark.parametrize("wrong", [1, None, date(2025, 1, 1), ("acme",)])
async def test_a_key_of_another_type_is_refused(open_verbs: OpenVerbs, wrong: Any):
    """PART-01: all of them, if one is wrong."""
    tenants = _Tenants()
    verbs = await open_verbs(tenants.pipe)
    keys = verbs.partitions(tenants.tenants)
    with pytest.raises(PartitionError):
        await keys.add("acme", wrong)
    assert await keys.list() == ()
    with pytest.raises(PartitionError):
        await keys.remove(wrong)


async def test_keys_of_other_types_come_back_as_they_are(open_verbs: OpenVerbs):
    """PART-01."""
    pipe, days = Pipeline("holidays"), Dynamic[date]()

    @pipe.asset(partitions=days)
    async def closed(partition: date) -> int:
        return partition.day

    verbs = await open_verbs(pipe)
    await verbs.partitions(days).add(date(2025, 12, 25), date(2025, 1, 1))
    assert await verbs.partitions(days).list() == (date(2025, 12, 25), date(2025, 1, 1))
    assert await verbs.run(closed, partition=date(2025, 12, 25)) == 25


async def test_a_set_that_no_asset_declares_has_no_keys(open_verbs: OpenVerbs):
    """PART-01, G-05: nor has one that is fixed in code."""
    tenants = _Tenants()
    verbs = await open_verbs(tenants.pipe)
    with pytest.raises(ConfigError, match="no asset declares"):
        await verbs.partitions(Dynamic[str]("others")).add("acme")
    fixed: Any = SHAPES
    with pytest.raises(ConfigError, match="Dynamic"):
        await verbs.partitions(fixed).add("acme")


async def test_a_set_of_one_name_is_one_set(open_verbs: OpenVerbs):
    """PART-01: however often it is written."""
    tenants = _Tenants()
    verbs = await open_verbs(tenants.pipe)
    await verbs.partitions(Dynamic[str]("tenants")).add("acme")
    assert await verbs.run(tenants.sales, partition="acme") == "ACME"


async def test_a_set_without_a_name_in_two_pipelines(open_engine: OpenEngine):
    """PART-01: keys are added for all that declare it."""
    first, second, tenants = Pipeline("first"), Pipeline("second"), Dynamic[str]()

    async def body(partition: str) -> str:
        return partition

    one = first.add(body, name="one", partitions=tenants)
    two = second.add(body, name="two", partitions=tenants)
    engine = await open_engine(first, second)
    assert await engine.partitions(tenants).add("acme") == 1
    assert await engine.partitions(tenants).list() == ("acme",)
    assert await engine.run(one, partition="acme") == await engine.run(two, partition="acme") == "acme"
    assert await engine.partitions(tenants).remove("acme") == 1
    with pytest.raises(PartitionError):
        await engine.run(two, partition="acme")


async def test_a_backfill_of_all(open_verbs: OpenVerbs):
    """RUN-29: without `partitions=` it runs the keys there are, and what is shared once."""
    tenants = _Tenants()
    verbs = await open_verbs(tenants.pipe)
    report = await verbs.backfill(tenants.sales)
    assert (report.succeeded, report.failed, report.skipped) == (0, 0, 0)
    await verbs.partitions(tenants.tenants).add("globex", "acme")
    report = await verbs.backfill(tenants.sales)
    assert (report.succeeded, report.failed, report.skipped) == (2, 0, 0)
    assert tenants.taken() == ["base", "globex", "acme"]
    await verbs.partitions(tenants.tenants).add("initech")
    report = await verbs.backfill(tenants.sales)
    assert (report.succeeded, report.skipped) == (1, 2)
    assert tenants.taken() == ["initech"]


async def test_over_all_follows_the_keys(open_verbs: OpenVerbs):
    """PART-09: in their order; a key that is added or removed makes the dependant stale."""
    tenants = _Tenants()
    verbs = await open_verbs(tenants.pipe)
    keys = verbs.partitions(tenants.tenants)
    assert await verbs.run(tenants.everyone) == []
    await keys.add("globex", "acme")
    tenants.taken()
    assert await verbs.run(tenants.everyone) == ["globex=GLOBEX", "acme=ACME"]
    assert sorted(tenants.taken()) == ["acme", "base", "everyone", "globex"]
    assert await verbs.run(tenants.everyone) == ["globex=GLOBEX", "acme=ACME"]
    assert tenants.taken() == []
    await keys.add("initech")
    assert await verbs.run(tenants.everyone) == ["globex=GLOBEX", "acme=ACME", "initech=INITECH"]
    assert sorted(tenants.taken()) == ["everyone", "initech"]
    await keys.remove("globex")
    assert await verbs.run(tenants.everyone) == ["acme=ACME", "initech=INITECH"]
    assert tenants.taken() == ["everyone"]


class _Grid:
    """A product of fixed and dynamic keys."""

    def __init__(self) -> None:
        self.pipe = pipe = Pipeline("grid")
        self.tenants = tenants = Dynamic[str]()
        self.grid = grid = SHAPES * tenants
        self.calls: list[tuple[str, str]] = []

        @pipe.asset(partitions=tenants)
        async def name(partition: str) -> str:
            return partition.upper()

        @pipe.asset(partitions=grid)
        async def cell(
            shape: str = grid.key(SHAPES),
            tenant: str = grid.key(tenants),
            names: Mapping[str, str] = dep(name, over=grid.dimension(tenants)),
        ) -> str:
            self.calls.append((shape, tenant))
            return f"{shape} {names[tenant]}"

        @pipe.asset(partitions=tenants)
        async def row(
            cells: Mapping[tuple[str, str], str] = dep(cell, over=grid.dimension(tenants)),
        ) -> list[str]:
            return list(cells.values())

        self.cell, self.row = cell, row


async def test_a_product_with_dynamic_keys(open_verbs: OpenVerbs):
    """PART-01, PART-09: its key is a tuple; along the shared dimension both ways."""
    grid = _Grid()
    verbs = await open_verbs(grid.pipe)
    with pytest.raises(PartitionError, match="acme"):
        await verbs.run(grid.cell, partition=("round", "acme"))
    assert grid.calls == []
    await verbs.partitions(grid.tenants).add("acme", "globex")
    assert await verbs.run(grid.cell, partition=("round", "acme")) == "round ACME"
    with pytest.raises(PartitionError, match="oval"):
        await verbs.run(grid.cell, partition=("oval", "acme"))
    assert await verbs.run(grid.row, partition="acme") == ["round ACME", "square ACME"]
    assert sorted(grid.calls) == [("round", "acme"), ("square", "acme")]


async def test_a_backfill_of_a_product(open_verbs: OpenVerbs):
    """PART-01, RUN-29: every combination of the keys there are."""
    grid = _Grid()
    verbs = await open_verbs(grid.pipe)
    await verbs.partitions(grid.tenants).add("acme", "globex")
    report = await verbs.backfill(grid.cell)
    assert report.succeeded == 4
    assert grid.calls == [(shape, tenant) for shape in ("round", "square") for tenant in ("acme", "globex")]


async def test_a_product_with_days(open_verbs: OpenVerbs):
    """PART-01: an upstream in step with one dimension only."""
    pipe, tenants, days = Pipeline("days"), Dynamic[str](), Daily("2025-01-01", end="2025-01-02")
    grid = days * tenants

    @pipe.asset(partitions=grid)
    async def sales(partition: tuple[date, str]) -> int:
        return partition[0].day

    @pipe.asset(partitions=days)
    async def daily(sales: Mapping[tuple[date, str], int] = dep(sales, over=grid.dimension(days))) -> list[str]:
        return [tenant for _, tenant in sales]

    verbs = await open_verbs(pipe)
    await verbs.partitions(tenants).add("globex", "acme")
    assert await verbs.run(daily, partition=date(2025, 1, 2)) == ["globex", "acme"]
    assert await verbs.exists(sales, partition=(date(2025, 1, 2), "acme"))
    with pytest.raises(NotMaterialized):
        await verbs.get(sales, partition=(date(2025, 1, 1), "acme"))
