"""Partition sets that meet in an edge or a parameter (PART-07, 08, 09; ASSET-07 with `over=`)."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import Any

import pytest

from flowstone_async import (
    Asset,
    BlockingAsset,
    Daily,
    Failed,
    Hourly,
    KeyMapping,
    Keys,
    PartitionSet,
    Pipeline,
    Single,
    dep,
    mapping,
)
from tests.unit.definition.reading import codes, problems

days = Daily("2025-01-01")
other_days = Daily("2024-01-01")
regions = Keys("us", "eu")
grid = days * regions

MATCHES: list[tuple[PartitionSet[Any] | None, PartitionSet[Any] | None, KeyMapping | None, bool]] = [
    # upstream, dependant, over, fits
    (None, None, None, True),
    (None, days, None, True),
    (Single(), days, None, True),
    (Single(), None, None, True),
    (days, Daily("2025-01-01"), None, True),
    (days, None, None, False),
    (days, Single(), None, False),
    (days, other_days, None, False),
    (days, regions, None, False),
    (days, grid, None, False),
    (grid, days, None, False),
    (days, Hourly("2025-01-01"), None, False),
    (days, days, days.last(7), True),
    (days, other_days, days.last(7), True),
    (days, None, days.all(), True),
    (days, Single(), days.all(), True),
    (days, regions, mapping(lambda key: []), True),
    (grid, days, grid.dimension(days), True),
    (days, grid, grid.dimension(days), True),
    (days, regions, days.last(7), False),
    (regions, days, days.all(), False),
    (None, days, days.last(7), False),
    (Single(), days, days.all(), False),
]


@pytest.mark.parametrize(("above", "below", "over", "fits"), MATCHES, ids=map(str, range(len(MATCHES))))
def test_sets_match_or_need_a_mapping(
    above: PartitionSet[Any] | None, below: PartitionSet[Any] | None, over: KeyMapping | None, fits: bool
) -> None:
    """PART-09: `FS130`; an upstream that is undeclared or single needs nothing."""
    pipe = Pipeline("p")

    @pipe.asset(partitions=above)
    async def up() -> int:
        return 1

    @pipe.asset(partitions=below)
    async def down(x: Any = dep("up", over=over)) -> int:
        return 1

    assert codes(pipe) == ([] if fits else ["FS130"])


def test_a_mismatch_says_what_to_do() -> None:
    """PART-09."""
    pipe = Pipeline("p")

    @pipe.asset(partitions=days)
    async def up() -> int:
        return 1

    @pipe.asset(partitions=regions, when=lambda up: True)
    async def down(up: int) -> int:
        return up

    found = problems(pipe)
    assert found[0].startswith("FS130 down(up) — the dependant has")
    assert "over=" in found[0]
    assert found[1].startswith("FS130 down: condition <lambda>(up) — the dependant has")


def test_a_mapped_edge_gives_a_mapping() -> None:
    """PART-09, ASSET-15: `FS104` compares keys and values."""
    pipe = Pipeline("p")

    @pipe.asset(partitions=days)
    async def up() -> int:
        return 1

    @pipe.asset(partitions=days)
    async def fits(
        a: Mapping[date, int] = dep(up, over=days.last(7)),
        b: dict[date, int] = dep("up", over=days.last(7)),
        c: Mapping[date, float] = dep(up, over=days.last(7)),
        d: object = dep(up, over=days.last(7)),
        e: Mapping[date, int | None] = dep(up, over=days.last(7), optional=True),
        f: Mapping[date, int | Failed] = dep(up, over=days.last(7)),
        g: Mapping[Any, Any] = dep(up, over=days.last(7)),
    ) -> int:
        return 1

    @pipe.asset(partitions=days)
    async def wrong(
        a: Mapping[date, str] = dep(up, over=days.last(7)),  # pyright: ignore[reportArgumentType]
        b: Mapping[str, int] = dep(up, over=days.last(7)),  # pyright: ignore[reportArgumentType]
        c: list[int] = dep(up, over=days.last(7)),  # pyright: ignore[reportArgumentType]
        d: int = dep(up, over=days.last(7)),  # pyright: ignore[reportArgumentType]
        e: Mapping[date, int] = dep(up, over=days.last(7), optional=True),  # pyright: ignore[reportArgumentType]
    ) -> int:
        return 1

    gives = "but over= gives Mapping[date, int]."
    assert problems(pipe) == [
        f"FS104 wrong(a: Mapping[date, str]) {gives}",
        f"FS104 wrong(b: Mapping[str, int]) {gives}",
        f"FS104 wrong(c: list[int]) {gives}",
        f"FS104 wrong(d: int) {gives}",
        "FS111 wrong(e: Mapping[date, int]) — it is optional, so it may be None. | Annotate its values as int | None.",
    ]
    edges = {each.parameter: each for each in pipe_nodes(pipe, "fits")}
    assert edges["f"].admits_failed
    assert not edges["a"].admits_failed


def pipe_nodes(pipe: Pipeline, name: str) -> Any:
    """Return an asset's edges, the others' problems aside."""
    kept = {each: definition for each, definition in pipe._assets.items() if each != "wrong"}
    pipe._assets.clear()
    pipe._assets.update(kept)
    return pipe.compiled().nodes[name].dependencies


def test_the_key_is_of_the_sets_type() -> None:
    """PART-08, ASSET-04: `partition` by name and by marker, whole and in part."""
    pipe = Pipeline("p")

    @pipe.asset(partitions=grid)
    async def fits(
        partition: tuple[date, str],
        day: date = grid.key(days),
        region: str = regions.key(),
        whole: tuple[date, str] = grid.key(),
        either: object = days.key(),
        unannotated=days.key(),
    ) -> int:
        return 1

    @pipe.asset(partitions=Single())
    async def single(partition: None) -> int:
        return 1

    @pipe.asset
    async def follows(partition: int, day: date = days.key()) -> int:
        return partition

    assert problems(pipe) == []


async def test_a_single_value_needs_no_key() -> None:
    """PART-07: its handle is that of an asset without keys."""
    pipe = Pipeline("p")
    seen: list[object] = []

    @pipe.asset(partitions=Single())
    async def single(partition: None) -> int:
        seen.append(partition)
        return 1

    @pipe.asset(partitions=Single(), run_in="thread")
    def blocking(single: int) -> int:
        return single

    assert isinstance(single, Asset)
    assert isinstance(blocking, BlockingAsset)
    assert await pipe.run(blocking) == await pipe.run(single, partition="us") == 1
    assert seen == [None]


def test_keys_that_are_not_of_the_sets_type() -> None:
    """PART-08: `FS104` and `FS130`."""
    pipe = Pipeline("p")

    @pipe.asset(partitions=days)
    async def by_name(partition: str) -> int:
        return 1

    @pipe.asset(partitions=days)
    async def by_marker(day: str = days.key()) -> int:  # pyright: ignore[reportArgumentType]
        return 1

    @pipe.asset(partitions=days)
    async def of_another_set(region: str = regions.key()) -> int:
        return 1

    assert problems(pipe) == [
        "FS104 by_name(partition: str) but the partition keys are date.",
        "FS104 by_marker(day: str) but the partition keys are date.",
        (
            "FS130 of_another_set(region) — the default is a key of keys 'us', 'eu', "
            f"but the asset's partitions are {days.describe()}."
        ),
    ]


def test_whatever_is_no_partition_set() -> None:
    """ASSET-17: `FS109`, and nothing else goes wrong because of it."""
    pipe = Pipeline("p")

    @pipe.asset(partitions=["us", "eu"])  # pyright: ignore[reportArgumentType, reportCallIssue, reportUntypedFunctionDecorator]
    async def listed(partition: str) -> int:
        return 1

    @pipe.asset(partitions=days)
    async def below(listed: int) -> int:
        return listed

    assert problems(pipe) == [
        "FS109 listed: partitions=['us', 'eu']: give a partition set such as Daily(...) or Keys(...)."
    ]
