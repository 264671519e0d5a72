"""What a type checker sees: pyright reads this file, the tests only run it (API.md, "How the typing works")."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import assert_type
from uuid import UUID

from flowstone_async.definition.calendar_windows import Daily, Monthly, Weekly
from flowstone_async.definition.custom import Custom
from flowstone_async.definition.dynamic import Dynamic
from flowstone_async.definition.enumerated import Keys
from flowstone_async.definition.instant_windows import Every, Hourly
from flowstone_async.definition.key_range import KeyRange
from flowstone_async.definition.partition import PartitionSet
from flowstone_async.definition.product import Product
from flowstone_async.definition.single import Single

days = Daily("2025-01-01", tz="Europe/Paris")
regions = Keys("us", "eu")
grid = days * regions


def brands() -> list[str]:
    return ["acme"]


def accepts_days(partition_set: PartitionSet[date]) -> None:
    """Take what `partitions=` takes."""
    del partition_set


def test_keys_have_the_declared_type() -> None:
    """PART-01."""
    assert_type(days.validate(date(2025, 1, 15)), date)
    assert_type(regions.validate("us"), str)
    assert_type(Keys(1, 2).validate(1), int)
    assert_type(Hourly("2025-01-01").start, datetime)
    assert_type(Every("15m", "2025-01-01").start, datetime)
    assert_type(Weekly("2025-01-01").end, date | None)
    assert_type(Monthly("2025-01-01").parse("2025-01-01"), date)
    assert_type(Dynamic[UUID]("ids"), Dynamic[UUID])
    assert_type(Custom(brands), Custom[str])
    accepts_days(days)
    single: PartitionSet[None] = Single()
    del single


def test_products_have_flat_tuples() -> None:
    """PART-01."""
    assert_type(grid, Product[tuple[date, str]])
    assert_type(grid * Keys(1, 2), Product[tuple[date, str, int]])
    assert_type(days * (regions * Keys(1, 2)), Product[tuple[date, str, int]])
    assert_type(grid * (Keys(1) * regions), Product[tuple[date, str, int, str]])
    assert_type(grid.validate((date(2025, 1, 15), "us")), tuple[date, str])
    partitions: PartitionSet[tuple[date, str]] = grid
    del partitions


def test_markers_are_typed_as_what_they_stand_for() -> None:
    """ASSET-04."""

    async def metrics(
        day: date = days.key(),
        region: str = regions.key(),
        key: tuple[date, str] = grid.key(),
        element: date = grid.key(days),
    ) -> tuple[date, str, tuple[date, str], date]:
        return day, region, key, element

    del metrics
    assert_type(days.key(), date)
    assert_type(grid.key(regions), str)


def test_ranges_know_their_keys() -> None:
    """RUN-29."""
    assert_type(days.range("2025-01-01", "2025-01-31"), KeyRange[date])
    assert_type(days.range(date(2025, 1, 1), date(2025, 1, 31))[0], date)
    assert_type(regions.range("us", "eu"), KeyRange[str])
    assert_type(grid.range(("2025-01-01", "us"), ("2025-01-31", "eu")), KeyRange[tuple[date, str]])
    assert_type(grid.keys(datetime(2025, 1, 1, tzinfo=UTC))[:2], KeyRange[tuple[date, str]])
    assert_type(next(iter(grid.range(("2025-01-01", "us"), ("2025-01-31", "eu")))), tuple[date, str])
