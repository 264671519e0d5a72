"""Partition keys typed on the command line."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from uuid import UUID

import pytest

from flowstone_async import Custom, Daily, Keys, Pipeline, Single, dep
from flowstone_async.cli.keys import read_key, read_keys, read_range
from flowstone_async.cli.usage import UsageError
from flowstone_async.definition.graph import Graph
from flowstone_async.definition.key_range import KeyRange

days = Daily("2025-01-01", end="2025-01-31")
regions = Keys("us", "eu", "a..b")
grid = days * Keys("us", "eu")


def _graph() -> Graph:
    pipe = Pipeline("keys")

    @pipe.asset(partitions=days)
    async def daily(partition: date) -> int:
        return partition.day

    @pipe.asset
    async def below(marked: int) -> int:
        return marked

    @pipe.asset
    async def above() -> int:
        return 1

    @pipe.asset(partitions=grid)
    async def cell(above: int) -> int:
        return above

    @pipe.asset(partitions=regions)
    async def regional() -> int:
        return 1

    @pipe.asset(partitions=Custom(lambda: [1, 2]))
    async def custom() -> int:
        return 1

    @pipe.asset(partitions=Single())
    async def single() -> int:
        return 1

    @pipe.asset
    async def annotated(partition: UUID) -> str:
        return str(partition)

    @pipe.asset
    async def marked(day: date = days.key()) -> int:
        return day.day

    @pipe.asset
    async def total(all_days: Mapping[date, int] = dep(daily, over=days.all())) -> int:
        return sum(all_days.values())

    @pipe.asset
    async def alone() -> int:
        return 1

    return pipe.compiled()


GRAPH = _graph()


@pytest.mark.parametrize(
    ("asset", "text", "key"),
    [
        ("daily", "2025-01-15", date(2025, 1, 15)),
        ("daily", "d:2025-01-15", date(2025, 1, 15)),
        ("below", "2025-01-15", date(2025, 1, 15)),
        ("above", "2025-01-15|eu", (date(2025, 1, 15), "eu")),
        ("cell", "2025-01-15,eu", (date(2025, 1, 15), "eu")),
        ("regional", "eu", "eu"),
        ("regional", "a..b", "a..b"),
        ("custom", "2", 2),
        ("annotated", "8f14e45f-ceea-4c2d-9b1a-0c6f2b7a5d10", UUID("8f14e45f-ceea-4c2d-9b1a-0c6f2b7a5d10")),
        ("marked", "2025-01-15", date(2025, 1, 15)),
        ("alone", "anything", "anything"),
        ("alone", None, None),
        ("single", None, None),
        ("total", None, None),
    ],
)
def test_a_key_is_read_as_its_declared_type(asset: str, text: str | None, key: object) -> None:
    found = read_key(GRAPH, asset, text)
    assert (found, type(found)) == (key, type(key))


def test_a_range_is_read_in_the_order_of_the_set() -> None:
    found = read_keys(GRAPH, "daily", "2025-01-30..2025-01-31")
    assert isinstance(found, KeyRange)
    assert list(found) == [date(2025, 1, 30), date(2025, 1, 31)]
    assert list(read_range(GRAPH, "regional", "us..eu")) == ["us", "eu"]
    assert list(read_range(GRAPH, "below", "2025-01-02")) == [date(2025, 1, 2)]
    assert read_range(GRAPH, "cell", "2025-01-01|us..2025-01-10|eu").count == 20


@pytest.mark.parametrize(
    ("asset", "text", "message", "hint"),
    [
        ("daily", None, "has partitions (daily from 2025-01-01 to 2025-01-31", "-p 2025-01-01"),
        ("daily", "yesterday", "'yesterday' is not a date", "2025-01-31"),
        ("daily", "2025-02-01", "2025-02-01", "2025-01-01 to 2025-01-31"),
        ("daily", "2025-01-30..2025-02-03", "2025-02-03", "2025-01-31"),
        ("daily", "2025-01-30..2025-01-03", "ends before it starts", "Swap"),
        ("below", "2025-1-5", "not a date", "2025-01-15"),
        ("regional", "eux", "'eux' is not one of", "Did you mean 'eu'?"),
        ("cell", "2025-01-15", "2025-01-15", "|"),
        ("annotated", "x", "not a UUID", "8f14"),
        ("alone", "a..b", "declares no partitions", "one key"),
    ],
)
def test_what_is_no_key_is_refused_with_what_is_valid(asset: str, text: str | None, message: str, hint: str) -> None:
    with pytest.raises(UsageError) as refused:
        read_keys(GRAPH, asset, text)
    assert message in refused.value.message
    assert hint in f"{refused.value.message} {refused.value.hint}"


def test_a_command_for_one_key_refuses_a_range() -> None:
    with pytest.raises(UsageError, match="one key, not a range"):
        read_key(GRAPH, "daily", "2025-01-01..2025-01-02")


def test_an_asset_without_a_set_has_no_range() -> None:
    with pytest.raises(UsageError, match="declares no partitions"):
        read_range(GRAPH, "alone", "x")
