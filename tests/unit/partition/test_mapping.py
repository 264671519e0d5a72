"""Which keys of an upstream a key needs, and which pairs of sets are legal (PART-09)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowstone_async.definition.calendar_windows import Daily, Monthly, Weekly
from flowstone_async.definition.dynamic import Dynamic
from flowstone_async.definition.enumerated import Keys
from flowstone_async.definition.instant_windows import Hourly
from flowstone_async.definition.key_set import KeySet
from flowstone_async.definition.listed_keys import KnownKeys
from flowstone_async.definition.mapping import Dependant, KeyMapping, mapping, match
from flowstone_async.definition.single import Single
from flowstone_async.errors import ConfigError, PartitionError

NOW = datetime(2025, 1, 31, 12, tzinfo=UTC)
days = Daily("2025-01-01")
regions = Keys("us", "eu", "asia")
grid = days * regions
hours = Hourly("2025-01-01")
tenants = Dynamic[str]("tenants")


def needed(
    downstream: KeySet[object] | None,
    upstream: KeySet[object] | None,
    over: KeyMapping,
    key: object,
    known: KnownKeys | None = None,
) -> list[object]:
    assert match(downstream, upstream, over) is None
    dependant = Dependant(key_set=downstream, key=key, now=NOW, known=known)
    return list(over.upstream_keys(dependant, upstream))


def january(first: int, last: int) -> list[date]:
    return [date(2025, 1, day) for day in range(first, last + 1)]


def test_the_same_set_is_matched_key_by_key() -> None:
    """PART-09: a set is the same by its rule."""
    assert match(days, Daily(date(2025, 1, 1))) is None
    assert match(grid, Daily("2025-01-01") * Keys("us", "eu", "asia")) is None


@pytest.mark.parametrize("downstream", [None, days, grid, Single()])
def test_an_undeclared_or_single_upstream_needs_nothing(downstream: KeySet[object] | None) -> None:
    """PART-09, PART-07: one follows the run, the other has one value."""
    assert match(downstream, None) is None
    assert match(downstream, Single()) is None


@pytest.mark.parametrize(
    ("downstream", "upstream", "words"),
    [
        (
            days,
            Monthly("2025-01-01"),
            r"has daily .* upstream has monthly .*Use over=Monthly\('2025-01-01'\).all\(\) or",
        ),
        (None, days, r"follows the run's key, but the upstream has daily.*Use over=Daily\('2025-01-01'\).all\(\)"),
        (Single(), days, "has a single value, but the upstream has daily"),
        (grid, days, r"Use over=\(Daily.* \* Keys.*\).dimension\(Daily\('2025-01-01'\)\)"),
        (days, grid, r"Use over=\(Daily.* \* Keys.*\).dimension\(Daily\('2025-01-01'\)\)"),
        (days, Daily("2025-02-01"), r"Give both the same set, or use over=mapping\(lambda key: \[key\]\)"),
        (days, Daily("2025-01-01", tz="Europe/Paris"), r"has daily from 2025-01-01 \(Europe/Paris\)"),
        (grid, regions * days, "no over= says how they go together"),
    ],
)
def test_other_pairs_need_over(downstream: KeySet[object] | None, upstream: KeySet[object], words: str) -> None:
    """PART-09: FS130 says what to write."""
    reason = match(downstream, upstream)
    assert reason is not None
    assert re.search(words, reason), reason


def test_last_includes_the_key_itself_and_nothing_before_the_start() -> None:
    """PART-09."""
    assert needed(days, days, days.last(7), date(2025, 1, 15)) == january(9, 15)
    assert needed(days, days, days.last(7), date(2025, 1, 3)) == january(1, 3)
    assert needed(days, days, days.last(1), date(2025, 1, 1)) == january(1, 1)
    assert needed(regions, regions, regions.last(2), "eu") == ["us", "eu"]


@given(st.integers(-40, 80), st.integers(1, 50))
def test_last_across_sets_in_step(offset: int, n: int) -> None:
    """PART-09: the dependant may begin and end elsewhere."""
    wide = Daily("2020-01-01")
    narrow = Daily("2025-01-01", end="2025-02-15")
    key = date(2025, 1, 1) + timedelta(days=offset)
    expected = [key - timedelta(days=back) for back in range(n - 1, -1, -1)]
    assert needed(wide, narrow, narrow.last(n), key) == [day for day in expected if narrow.contains(day)]


def test_last_counts_windows_and_not_hours() -> None:
    """PART-09, PART-10."""
    paris = Hourly("2025-01-01", tz="Europe/Paris")
    key = datetime(2025, 10, 26, 2, tzinfo=UTC)
    found = needed(paris, paris, paris.last(3), key)
    assert found == [key - timedelta(hours=back) for back in (2, 1, 0)]
    weeks = Weekly("2025-01-01")
    assert needed(weeks, weeks, weeks.last(2), date(2025, 1, 13)) == [date(2025, 1, 6), date(2025, 1, 13)]


def test_all_ends_at_the_last_closed_window() -> None:
    """PART-09, STORE.md."""
    assert needed(None, days, days.all(), "whatever") == january(1, 30)
    assert needed(Single(), days, days.all(), None) == january(1, 30)
    assert needed(regions, days, days.all(), "us") == january(1, 30)
    assert needed(days, regions, regions.all(), date(2025, 1, 1)) == ["us", "eu", "asia"]
    assert len(needed(None, grid, grid.all(), None)) == 30 * 3
    known = KnownKeys({tenants: ["b", "a"]})
    assert needed(days, tenants, tenants.all(), date(2025, 1, 1), known) == ["b", "a"]


def test_a_mapping_along_one_dimension_keeps_the_others() -> None:
    """PART-09: `days.last(7)` between two grids is the same region's."""
    key = (date(2025, 1, 3), "eu")
    assert needed(grid, grid, days.last(2), key) == [(date(2025, 1, 2), "eu"), (date(2025, 1, 3), "eu")]
    assert needed(grid, days, days.last(2), key) == january(2, 3)
    assert needed(regions, grid, days.all(), "us") == [(day, "us") for day in january(1, 30)]
    assert needed(days, grid, regions.all(), date(2025, 1, 3)) == [
        (date(2025, 1, 3), each) for each in ("us", "eu", "asia")
    ]
    longer = Daily("2020-01-01")
    turned = regions * longer
    assert needed(grid, turned, longer.last(2), key) == [
        ("eu", date(2025, 1, 2)),
        ("eu", date(2025, 1, 3)),
    ]


def test_a_shared_dimension() -> None:
    """PART-09: from a grid to its days, from days to a grid, and between grids."""
    over = grid.dimension(days)
    assert needed(grid, days, over, (date(2025, 1, 3), "eu")) == [date(2025, 1, 3)]
    assert needed(days, grid, over, date(2025, 1, 3)) == [(date(2025, 1, 3), each) for each in ("us", "eu", "asia")]
    other = Keys("a", "b") * days
    assert needed(grid, other, over, (date(2025, 1, 3), "eu")) == [("a", date(2025, 1, 3)), ("b", date(2025, 1, 3))]
    cube = grid * Keys(1, 2)
    assert needed(cube, grid, cube.dimension(days, regions), (date(2025, 1, 3), "eu", 1)) == [(date(2025, 1, 3), "eu")]
    regional = grid.dimension(regions)
    assert needed(regions, grid, regional, "us") == [(day, "us") for day in january(1, 30)]
    with pytest.raises(ConfigError, match="is no dimension of"):
        grid.dimension(hours)


def week(day: date) -> Iterable[date]:
    return (day - timedelta(days=back) for back in range(7))


def test_a_function_maps_in_its_own_order() -> None:
    """PART-09: keys before the start are left out, repeated ones count once."""
    over = mapping(week)
    assert needed(days, days, over, date(2025, 1, 3)) == [date(2025, 1, 3), date(2025, 1, 2), date(2025, 1, 1)]
    assert needed(None, regions, mapping(lambda _: ["eu", "us", "eu"]), None) == ["eu", "us"]
    assert needed(regions, None, mapping(lambda region: [region, 1]), "us") == ["us", 1]
    assert needed(days, grid, mapping(lambda day: [(day - timedelta(9), "us"), (day, "us")]), date(2025, 1, 3)) == [
        (date(2025, 1, 3), "us")
    ]
    assert needed(
        hours, hours, mapping(lambda h: [h - timedelta(hours=2), h]), datetime(2025, 1, 1, 1, tzinfo=UTC)
    ) == [datetime(2025, 1, 1, 1, tzinfo=UTC)]


@pytest.mark.parametrize(
    ("given_keys", "words"),
    [
        ("us", r"returned 'us', which is no list of keys\n  Return a list"),
        (("us", "eu"), "no list of keys"),
        (None, "no list of keys"),
        ({"us", "eu"}, r"no list of keys\n  Return a list: in the order wanted"),
        (["uk"], r"gave a wrong key: 'uk' is not one of"),
        ([1], "gave a wrong key: 1 is of type int"),
        ([1.5], "gave a wrong key: .*float"),
    ],
)
def test_a_function_that_maps_wrongly(given_keys: object, words: str) -> None:
    """PART-09."""
    over = mapping(lambda _: given_keys)  # type: ignore[arg-type]
    with pytest.raises(PartitionError, match=words):
        needed(None, regions, over, None)


def test_a_function_that_leaves_the_end_of_a_set() -> None:
    """PART-09: only keys before the start are left out."""
    ended = Daily("2025-01-01", end="2025-01-31")
    with pytest.raises(PartitionError, match=r"mapping\(.*lambda.*\) gave a wrong key: 2025-02-01 is behind the last"):
        needed(ended, ended, mapping(lambda day: [day + timedelta(1)]), date(2025, 1, 31))


@pytest.mark.parametrize(
    ("downstream", "upstream", "over", "words"),
    [
        (days, Single(), days.all(), "one value and no keys"),
        (days, Single(), mapping(week), "one value and no keys"),
        (days, None, days.all(), "the upstream follows the run's key"),
        (days, hours, days.last(7), "gives keys of daily .* but the upstream has hourly"),
        (regions, days, days.last(7), "counts back from the dependant's own key, but the dependant has keys 'us'"),
        (None, days, days.last(7), "but the dependant follows the run's key"),
        (Single(), days, days.last(7), "but the dependant has a single value"),
        (days, grid, days.last(7), "leaves keys 'us', 'eu', 'asia' open"),
        (None, grid, days.all(), "leaves keys 'us', 'eu', 'asia' open"),
        (days, days, grid.all(), "but the upstream has daily"),
        (regions, days, grid.dimension(days), "but the dependant has keys 'us'"),
        (days, regions, grid.dimension(days), "but the upstream has keys 'us'"),
        (None, grid, grid.dimension(days), "the dependant follows the run's key"),
    ],
)
def test_a_mapping_that_does_not_fit(
    downstream: KeySet[object] | None, upstream: KeySet[object] | None, over: KeyMapping, words: str
) -> None:
    """PART-09, G-05: no option is silent."""
    reason = match(downstream, upstream, over)
    assert reason is not None
    assert re.search(words, reason), reason


@pytest.mark.parametrize("n", [0, -1, True, 2.0, "7", None])
def test_last_takes_a_whole_number(n: object) -> None:
    """G-05."""
    with pytest.raises(ConfigError, match="takes a whole number from 1"):
        days.last(n)  # type: ignore[arg-type]


def test_last_of_a_product_names_a_dimension() -> None:
    """PART-09."""
    with pytest.raises(ConfigError, match=r"no single order .*\n  Say along which dimension: over=days.last\(7\)"):
        grid.last(7)


def test_what_is_no_mapping() -> None:
    """G-05."""

    async def later(day: date) -> list[date]:
        return [day]

    for fn in ([1], later):
        with pytest.raises(ConfigError, match="takes a plain function"):
            mapping(fn)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="names no dimension"):
        grid.dimension()
    reason = match(days, days, days)  # type: ignore[arg-type]
    assert reason is not None
    assert reason.startswith("over=Daily('2025-01-01') is no mapping of keys. Use .last(n)")


def test_mappings_are_values_that_read_like_their_making() -> None:
    """PART-09."""
    assert days.last(7) == Daily("2025-01-01").last(7) != days.last(8)
    assert days.all() == Daily("2025-01-01").all()
    assert grid.dimension(days) == grid.dimension(days)
    assert mapping(week) == mapping(week)
    assert repr(days.last(7)) == "Daily('2025-01-01').last(7)"
    assert repr(grid.all()) == "(Daily('2025-01-01') * Keys('us', 'eu', 'asia')).all()"
    assert repr(mapping(week)) == "mapping(week)"
    many = Keys(*(f"name-{number}" for number in range(5000)))
    assert len(repr(many.all())) < 300


def test_all_of_a_long_time_lists_no_keys() -> None:
    """PART-10, G-03."""
    hours = Hourly("1000-01-01")
    keys = hours.all().upstream_keys(Dependant(key_set=None, key=None, now=NOW), hours)
    assert len(keys) == (NOW - hours.start) // timedelta(hours=1) == 8_985_708
