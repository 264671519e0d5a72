"""Ranges of keys: lazy, counted and cut by arithmetic (PART-10, RUN-29)."""

from __future__ import annotations

import tracemalloc
from datetime import UTC, date, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowstone_async.definition.calendar_windows import Daily, Monthly
from flowstone_async.definition.enumerated import Keys
from flowstone_async.definition.instant_windows import Every, Hourly
from flowstone_async.definition.key_range import KeyRange
from flowstone_async.definition.keys import encode_key
from flowstone_async.errors import ConfigError, PartitionError

days = Daily("2025-01-01")
regions = Keys("us", "eu", "asia")
grid = days * regions
january = days.range("2025-01-01", "2025-01-31")
some: list[KeyRange[object]] = [
    january,
    days.range("2025-01-05", "2025-01-05"),
    Monthly("2025-01-01").range("2025-01-01", "2026-12-01"),
    Hourly("2025-01-01", tz="Europe/Paris").range("2025-10-25", "2025-10-27"),
    Every("6h", "2025-01-01").range("2025-01-03", "2025-01-09"),
    regions.whole(),
    grid.range(("2025-01-03", "us"), ("2025-01-07", "eu")),
    (regions * days * Keys(1, 2)).range(("us", "2025-01-03", 1), ("asia", "2025-01-04", 2)),
    january[3:3],
]
ranges = st.sampled_from(some)
bounds = st.none() | st.integers(-40, 40)


@given(ranges, bounds, bounds, st.sampled_from([None, 1, 2, 3, -1, -2]))
def test_a_part_of_a_range_is_what_the_same_part_of_its_list_is(
    keys: KeyRange[object], start: int | None, stop: int | None, step: int | None
) -> None:
    """PART-10: by arithmetic."""
    listed = list(keys)
    part = keys[start:stop:step]
    expected = listed[start:stop:step]
    assert list(part) == expected
    assert len(part) == part.count == part.extent == len(expected)
    assert bool(part) is bool(expected)
    assert list(reversed(part)) == expected[::-1]
    assert list(part[1:][::2]) == expected[1:][::2]
    for place, key in enumerate(expected):
        assert part[place] == part.key_at(place) == key
        assert part.index_of(key) == place
        assert part[place - len(expected)] == key
    for key in listed:
        assert (key in part) is (key in expected)
    assert (part.first, part.last) == ((expected[0], expected[-1]) if expected else (None, None))


@given(ranges, st.sets(st.integers(0, 80)))
def test_gaps_are_what_is_missing(keys: KeyRange[object], places: set[int]) -> None:
    """PART-10: as ranges, in order, never two that touch."""
    listed = list(keys)
    present = [key for place, key in enumerate(listed) if place in places]
    gaps = list(keys.gaps(present))
    assert [key for gap in gaps for key in gap] == [key for key in listed if key not in present]
    assert all(gaps)
    assert all(present.count(key) for gap in gaps[:-1] for key in [keys[keys.index_of(gap[-1]) + 1]])


def test_gaps_pass_over_what_is_outside_and_refuse_disorder() -> None:
    """PART-10."""
    outside = [date(2024, 1, 1), "x", date(2025, 1, 2), date(2025, 1, 2), date(2025, 3, 1)]
    assert [gap.count for gap in january.gaps(outside)] == [1, 29]
    with pytest.raises(ConfigError, match=r"not in the order .*\n  Sort them"):
        list(january.gaps([date(2025, 1, 5), date(2025, 1, 2)]))


@given(st.sampled_from(some[:5]), st.integers(0, 40), st.integers(0, 40))
def test_a_query_by_byte_order_finds_exactly_the_range(keys: KeyRange[object], low: int, high: int) -> None:
    """PART-10: status over 10 million keys comes from one query between two encoded keys."""
    part = keys[low:high]
    found = part.encoded_bounds()
    if found is None:
        assert not part
        return
    inside = [key for key in keys if found[0] <= encode_key(key) <= found[1]]  # type: ignore[arg-type]
    assert inside == list(part)


def test_other_ranges_have_no_encoded_bounds() -> None:
    """PART-10."""
    assert january.encoded_bounds() == ("d:2025-01-01", "d:2025-01-31")
    assert january[::2].encoded_bounds() is None
    assert regions.whole().encoded_bounds() is None
    assert grid.range(("2025-01-03", "us"), ("2025-01-07", "eu")).encoded_bounds() is None


def test_ten_million_keys_are_never_listed() -> None:
    """PART-10, G-03: counts, gaps, parts and places are arithmetic."""
    seconds = Every("1s", "1900-01-01")
    big = (seconds * regions * Keys(*range(1000))).range(("1900-01-01", "us", 0), ("2100-01-01", "asia", 999))
    tracemalloc.start()
    try:
        assert big.count == 6_311_520_000 * 3 * 1000
        key = big[10**13]
        assert big.index_of(key) == 10**13
        assert key in big
        assert [gap.count for gap in big.gaps([key])] == [10**13, big.count - 10**13 - 1]
        assert big[:: 10**12].count == 19
        assert seconds.count(datetime(2025, 1, 1, tzinfo=UTC)) == 3_944_678_400
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1_000_000


def test_a_range_is_a_value() -> None:
    """RUN-29: the same range is recognised."""
    assert january == Daily("2025-01-01").range(date(2025, 1, 1), "2025-01-31")
    assert len({january, january[:], january[1:]}) == 2
    assert repr(january) == "<KeyRange 2025-01-01..2025-01-31 of daily from 2025-01-01 (UTC), 31 keys>"
    assert january[::7].describe() == "2025-01-01..2025-01-29 by 7 of daily from 2025-01-01 (UTC)"
    assert january[5:5].describe() == "no keys of daily from 2025-01-01 (UTC)"


def test_what_is_not_there_is_said_so() -> None:
    """PART-08."""
    with pytest.raises(IndexError):
        january[31]
    for place in (-1, 31):
        with pytest.raises(PartitionError, match=f"no key at index {place}"):
            january.key_at(place)
    with pytest.raises(PartitionError, match=r"is not in 2025-01-01..2025-01-31 of daily"):
        january.index_of(date(2025, 2, 1))
    assert "2025-01-05" not in january
    assert date(2025, 1, 2) not in january[::2]
