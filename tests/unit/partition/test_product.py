"""Products: flat tuples, in any number of dimensions (PART-01, PART-08, PART-10)."""

from __future__ import annotations

from datetime import UTC, date, datetime
from itertools import product

import pytest

from flowstone_async.definition.calendar_windows import Daily, Monthly
from flowstone_async.definition.dynamic import Dynamic
from flowstone_async.definition.enumerated import Keys
from flowstone_async.definition.instant_windows import Hourly
from flowstone_async.definition.listed_keys import KnownKeys
from flowstone_async.definition.partition import KeyMarker
from flowstone_async.definition.product import Product
from flowstone_async.definition.single import Single
from flowstone_async.errors import ConfigError, PartitionError

days = Daily("2025-01-01", tz="Europe/Paris")
regions = Keys("us", "eu", "asia")
shards = Keys(1, 2)
grid = days * regions
NOW = datetime(2025, 1, 11, 12, tzinfo=UTC)


def test_products_are_flat_and_equal_by_their_dimensions() -> None:
    """PART-01."""
    assert (days * regions) * shards == days * (regions * shards)
    assert ((days * regions) * (shards * Keys("x"))).dimensions == (days, regions, shards, Keys("x"))
    assert grid == Daily("2025-01-01", tz="Europe/Paris") * Keys("us", "eu", "asia")
    assert grid != regions * days
    assert hash(grid) == hash(days * regions)
    assert isinstance(grid, Product)
    assert grid.key_type == tuple[date, str]
    assert (grid * shards).key_type == tuple[date, str, int]


def test_a_product_describes_itself() -> None:
    """PART-01."""
    assert repr(grid) == "Daily('2025-01-01', tz='Europe/Paris') * Keys('us', 'eu', 'asia')"
    assert grid.describe() == "daily from 2025-01-01 (Europe/Paris) x keys 'us', 'eu', 'asia'"
    assert grid.identity() == f"{days.identity()} * {regions.identity()}"


def test_a_tuple_in_a_dimension_stays_a_tuple() -> None:
    """PART-01: only products are taken apart."""
    pairs = Keys(("a", 1), ("b", 2))
    assert (days * pairs).validate((date(2025, 1, 5), ("b", 2))) == (date(2025, 1, 5), ("b", 2))


@pytest.mark.parametrize(
    ("key", "words"),
    [
        (None, r"no partition was given, but tuple\[date, str\] is needed: .*\n  Pass partition=\(<date>, <str>\)"),
        ("2025-01-15|us", r"of type str, but tuple\[date, str\] is needed"),
        ((date(2025, 1, 15),), r"of type tuple, but tuple\[date, str\] is needed"),
        ((date(2025, 1, 15), "us", 1), r"but tuple\[date, str\] is needed"),
        ([date(2025, 1, 15), "us"], "of type list"),
        (("2025-01-15", "us"), "element 1 of .*of type str, but date is needed"),
        ((date(2024, 1, 15), "us"), "element 1 of .* before the first partition .*\n  Valid keys"),
        ((date(2025, 1, 15), "use"), "element 2 of .*'use' is not one of 'us', .*\n  Did you mean 'us'"),
    ],
)
def test_a_wrong_key_says_which_element_is_wrong(key: object, words: str) -> None:
    """PART-08."""
    with pytest.raises(PartitionError, match=words) as caught:
        grid.validate(key)
    assert caught.value.partition == key
    assert not grid.contains(key)


def test_elements_come_back_as_the_store_gives_them() -> None:
    """PART-05."""
    hours = Hourly("2025-01-01") * regions
    key = hours.validate((datetime.fromisoformat("2025-01-15T10:00+01:00"), "eu"))
    assert key == (datetime(2025, 1, 15, 9, tzinfo=UTC), "eu")
    assert key[0].tzinfo is UTC


def test_a_range_is_a_box() -> None:
    """PART-10: both ends of every dimension are included; the last dimension varies fastest."""
    box = grid.range(("2025-01-10", "eu"), (date(2025, 1, 12), "asia"))
    assert list(box) == list(product([date(2025, 1, 10), date(2025, 1, 11), date(2025, 1, 12)], ["eu", "asia"]))
    assert box.count == 6
    assert grid.parse_range("2025-01-10|eu..2025-01-12|asia") == box
    with pytest.raises(PartitionError, match=r"from 'asia' to 'us' .* ends before it starts"):
        grid.range(("2025-01-10", "asia"), ("2025-01-12", "us"))
    with pytest.raises(PartitionError, match="but tuple"):
        grid.range(("2025-01-10",), ("2025-01-12", "us"))


def test_counting_multiplies() -> None:
    """PART-10."""
    assert grid.count(NOW) == 10 * 3
    assert (regions * days * shards).count(NOW) == 3 * 10 * 2
    assert list(grid.keys(NOW))[-1] == (date(2025, 1, 10), "asia")
    ended = Daily("2025-01-01", end="2025-12-31") * regions
    assert ended.whole().count == 365 * 3
    assert (ended.finite, grid.finite) == (True, False)
    with pytest.raises(ConfigError, match="has no end"):
        grid.whole()


def test_order() -> None:
    """PART-10: a product has an order unless a dimension behind the first is open."""
    key = (date(2025, 1, 2), "asia")
    assert grid.index_of(key) == 5
    assert grid.key_at(5) == key
    assert grid.next(key) == (date(2025, 1, 3), "us")
    assert grid.previous((date(2025, 1, 1), "us")) is None
    with pytest.raises(PartitionError, match="no key at index -1"):
        grid.key_at(-1)
    for question in (lambda: (regions * days).index_of(("us", date(2025, 1, 1))), lambda: (regions * days).key_at(3)):
        with pytest.raises(ConfigError, match=r"has no fixed order.*\n  Put the open dimension first"):
            question()
    assert (regions * days).keys(NOW).index_of(("eu", date(2025, 1, 1))) == 10


def test_typed_keys() -> None:
    """CLI-02."""
    key = (date(2025, 1, 15), "us")
    for text in ("2025-01-15|us", "2025-01-15,us", grid.format(key), "t:WyJkOjIwMjUtMDEtMTUiLCJ1cyJd"):
        assert grid.parse(text) == key
    hours = Hourly("2025-01-01", tz="Europe/Paris") * regions
    assert hours.parse("2025-01-15T10:00|us") == (datetime(2025, 1, 15, 9, tzinfo=UTC), "us")
    for text in ("2025-01-15", "us|2025-01-15", "", "2025-01-15|us|x"):
        with pytest.raises(PartitionError):
            grid.parse(text)


def test_dynamic_dimensions_say_what_to_ask_the_store() -> None:
    """PART-01: keys that are added at run time."""
    tenants = Dynamic[str]("tenants")
    cube = days * tenants * shards
    key = (date(2025, 1, 5), "acme", 2)
    (question,) = cube.memberships(key)
    assert (question.partition_set, question.key) == (tenants, "acme")
    assert cube.dynamic_sets == (tenants,)
    assert cube.validate(key, KnownKeys({tenants: ["acme"]})) == key
    with pytest.raises(PartitionError, match=r"element 2 .*'acme' is not one of no keys\n  Add it with"):
        cube.validate(key, KnownKeys({tenants: []}))
    known = KnownKeys({tenants: ["globex", "acme"]})
    assert cube.count(NOW, known) == 10 * 2 * 2
    assert cube.keys(NOW, known)[2] == (date(2025, 1, 1), "acme", 1)
    assert (tenants * days).range(("globex", "2025-01-01"), ("acme", "2025-01-02"), known).count == 4
    for question in (lambda: cube.validate(key), lambda: cube.count(NOW)):
        with pytest.raises(ConfigError, match=r"only an engine knows them\n  Ask engine.partitions"):
            question()
    assert grid.memberships((date(2025, 1, 5), "us")) == ()


def test_what_cannot_be_a_dimension() -> None:
    """PART-01."""
    for factor in (Single(), "us", 2):
        with pytest.raises(ConfigError, match="cannot be a dimension"):
            days * factor  # type: ignore[operator]
        with pytest.raises(ConfigError, match="cannot be a dimension"):
            grid * factor  # type: ignore[operator]
    with pytest.raises(TypeError):
        Single() * days  # type: ignore[operator]


def test_markers_pick_an_element() -> None:
    """ASSET-04: `day: date = grid.key(days)`."""
    key = (date(2025, 1, 15), "us")
    whole, day = grid.key(), grid.key(days)
    assert isinstance(whole, KeyMarker)
    assert isinstance(day, KeyMarker)
    assert whole.pick(grid, key) == key
    assert day.pick(grid, key) == date(2025, 1, 15)
    assert (day.key_type, whole.key_type) == (date, tuple[date, str])
    with pytest.raises(ConfigError, match=r"is no dimension of .*\n  Its dimensions are daily"):
        grid.key(shards)


def test_a_dimension_that_comes_twice_is_told_apart_by_the_object() -> None:
    """ASSET-04: or not at all, rather than by a guess."""
    made, loaded = Daily("2025-01-01"), Daily("2025-01-01")
    both = made * loaded
    key = (date(2025, 1, 1), date(2025, 1, 2))
    first, second = both.key(made), both.key(loaded)
    assert isinstance(first, KeyMarker)
    assert isinstance(second, KeyMarker)
    assert (first.pick(both, key), second.pick(both, key)) == key
    with pytest.raises(ConfigError, match="more than one dimension"):
        both.key(Daily("2025-01-01"))


def test_markers_of_a_whole_set() -> None:
    """ASSET-04."""
    marker = days.key()
    assert isinstance(marker, KeyMarker)
    assert marker.misfit(days) is None
    assert marker.misfit(grid) is None
    assert marker.pick(grid, (date(2025, 1, 15), "us")) == date(2025, 1, 15)
    assert marker.pick(days, date(2025, 1, 15)) == date(2025, 1, 15)
    reason = marker.misfit(Monthly("2025-01-01"))
    assert reason is not None
    assert "daily from 2025-01-01" in reason
    assert "monthly from" in reason
    assert marker.pick(None, date(2025, 1, 15)) == date(2025, 1, 15)
    with pytest.raises(PartitionError):
        marker.pick(None, "us")
    single = Single().key()
    assert isinstance(single, KeyMarker)
    assert single.pick(Single(), None) is None
