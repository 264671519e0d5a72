"""Names, keys added at run time, keys from configuration, and a single value (PART-01, PART-07, PART-08)."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, date, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowstone_async.definition.custom import Custom
from flowstone_async.definition.dynamic import Dynamic
from flowstone_async.definition.enumerated import Keys
from flowstone_async.definition.keys import encode_key
from flowstone_async.definition.listed_keys import KnownKeys
from flowstone_async.definition.single import Single
from flowstone_async.errors import ConfigError, PartitionError

NOW = datetime(2025, 1, 11, 12, tzinfo=UTC)
regions = Keys("us", "eu", "asia")
tenants = Dynamic[str]("tenants")


@given(st.lists(st.text() | st.integers() | st.booleans() | st.dates(), min_size=1, unique_by=encode_key))
def test_names_keep_their_order(names: list[str | int | date]) -> None:
    """PART-01, PART-04."""
    keys = Keys(*names)
    assert list(keys.whole()) == names
    assert [keys.index_of(name) for name in names] == list(range(len(names)))
    assert keys.key_at(len(names) - 1) == names[-1]
    assert keys.count(NOW) == len(names)
    assert pickle.loads(pickle.dumps(keys)) == keys
    assert eval(repr(keys), {"Keys": Keys, "datetime": __import__("datetime")}) == keys
    assert all(type(keys.validate(name)) is type(name) for name in names)


def test_names_that_python_takes_for_equal_are_different_keys() -> None:
    """PART-04, PART-05."""
    mixed = Keys(1, True, "1", "true")
    assert mixed.count(NOW) == 4
    assert [mixed.index_of(key) for key in (1, True, "1", "true")] == [0, 1, 2, 3]
    assert mixed.key_type == int | bool | str
    assert mixed.parse("i:1") == 1
    with pytest.raises(PartitionError, match=r"'1' could be 1 or '1'\n  Write it in its encoded form: i:1 or 1"):
        mixed.parse("1")


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("ue", r"'ue' is not one of 'us', 'eu', 'asia'$"),
        ("asai", r"'asai' is not one of 'us', 'eu', 'asia'\n  Did you mean 'asia'\?"),
        (None, "no partition was given, but str is needed: keys 'us', 'eu', 'asia'"),
        (1, "1 is of type int, but str is needed: keys 'us', 'eu', 'asia'"),
        (1.5, "cannot be a float"),
    ],
)
def test_a_wrong_name_is_refused_with_the_right_ones(key: object, words: str) -> None:
    """PART-08."""
    with pytest.raises(PartitionError, match=words):
        regions.validate(key)
    assert not regions.contains(key)


def test_a_long_list_is_cut_in_messages() -> None:
    """PART-08."""
    many = Keys(*(f"name-{number}" for number in range(5000)))
    with pytest.raises(PartitionError, match=r"'name-9' and 4990 more\n  Did you mean 'name-1"):
        many.validate("nam-1")
    assert len(many.describe()) < 200


def test_ranges_of_names_follow_the_order_given() -> None:
    """PART-10."""
    assert list(regions.range("us", "eu")) == ["us", "eu"]
    assert list(regions.parse_range("eu..asia")) == ["eu", "asia"]
    assert list(regions.parse_range("eu")) == ["eu"]
    assert list(Keys(1, 2, 3).range("2", 3)) == [2, 3]
    assert list(Keys("a..b", "c").parse_range("a..b..c")) == ["a..b", "c"]
    assert list(Keys("a..b", "c").parse_range("a..b")) == ["a..b"]
    with pytest.raises(PartitionError, match="ends before it starts"):
        regions.range("asia", "us")
    with pytest.raises(PartitionError, match="'xx' is not one of"):
        regions.range("us", "xx")
    assert (regions.next("asia"), regions.previous("us"), regions.next("us")) == (None, None, "eu")


def test_sets_of_names_are_equal_by_their_names() -> None:
    """PART-09."""
    assert Keys("us", "eu") == Keys("us", "eu")
    assert Keys("us", "eu") != Keys("eu", "us")
    assert Keys(1) != Keys(True)
    assert Keys("us", "eu").identity() == Keys("us", "eu").identity() != Keys("eu", "us").identity()
    assert len({Keys("us"), Keys("us"), Keys("eu")}) == 2


@pytest.mark.parametrize(
    ("names", "error", "words"),
    [
        ([], ConfigError, r"has no keys\n  Name them"),
        (["us", "us"], ConfigError, "names 'us' twice"),
        ([["us", "eu"]], ConfigError, r"takes the keys themselves\n  Write Keys\(\*names\)"),
        ([None], ConfigError, "None is no key"),
        ([1.5], PartitionError, "cannot be a float"),
    ],
)
def test_names_that_cannot_be(names: list[Any], error: type[Exception], words: str) -> None:
    """PART-02."""
    with pytest.raises(error, match=words):
        Keys(*names)


def test_dynamic_keys_are_what_the_store_knows() -> None:
    """PART-01: in the order in which they were added."""
    known = KnownKeys({tenants: ["globex", "acme"]})
    assert tenants.validate("acme", known) == "acme"
    assert list(tenants.keys(NOW, known)) == ["globex", "acme"]
    assert tenants.count(NOW, known) == 2
    assert (tenants.next("globex", known), tenants.index_of("acme", known)) == ("acme", 1)
    assert list(tenants.range("globex", "acme", known)) == ["globex", "acme"]
    with pytest.raises(PartitionError, match=r"'acne' is not one of 'globex', 'acme'\n  Did you mean 'acme'"):
        tenants.validate("acne", known)
    with pytest.raises(PartitionError, match=r"\n  Add it with engine.partitions"):
        tenants.validate("x", KnownKeys({tenants: []}))
    assert tenants.finite


def test_a_dynamic_set_is_never_taken_for_empty() -> None:
    """G-05: a question that only the store can answer is refused without its answer."""
    for question in (
        lambda: tenants.count(NOW),
        lambda: tenants.contains("x"),
        lambda: tenants.validate("x", KnownKeys({})),
    ):
        with pytest.raises(ConfigError, match="only an engine knows them"):
            question()


def test_dynamic_keys_have_the_declared_type() -> None:
    """PART-08."""
    dates = Dynamic[date]("dates")
    assert dates.key_type is date
    assert dates.parse("2025-01-15") == date(2025, 1, 15)
    with pytest.raises(PartitionError, match="of type str, but date is needed: dynamic date keys 'dates'"):
        dates.memberships("2025-01-15")
    pairs = Dynamic[tuple[str, int]]("pairs")
    (question,) = pairs.memberships(("a", 1))
    assert question.key == ("a", 1)
    with pytest.raises(PartitionError, match=r"but tuple\[str, int\] is needed"):
        pairs.memberships(("a", True))
    with pytest.raises(ConfigError, match=r"does not say what its keys are\n  Write Dynamic\[str\]"):
        _ = Dynamic("x").key_type
    with pytest.raises(ConfigError, match="float is not a type of partition keys"):
        _ = Dynamic[float]("x").key_type  # type: ignore[type-var]
    with pytest.raises(ConfigError, match="a name is a text"):
        Dynamic[str]("")


def test_dynamic_sets_are_one_by_name() -> None:
    """PART-01: without a name, the first asset that declares the set names it."""
    assert Dynamic[str]("tenants") == tenants
    assert Dynamic[str]("others") != tenants
    assert Dynamic[int]("tenants") != tenants
    assert tenants.identity() == tenants.identity("orders") == "dynamic:str:tenants"
    nameless = Dynamic[str]()
    assert nameless == nameless  # noqa: PLR0124
    assert nameless != Dynamic[str]()
    assert nameless.identity("orders") == "dynamic:str:orders"
    with pytest.raises(ConfigError, match="has no name"):
        nameless.identity()
    assert (repr(nameless), repr(tenants)) == ("Dynamic[str]()", "Dynamic[str]('tenants')")
    assert KnownKeys({nameless: ["a"]}).listed(nameless).keys == ("a",)


def brands() -> list[str]:
    return ["acme", "globex"]


def test_custom_keys_are_asked_for_when_needed() -> None:
    """PART-01: lazily, from configuration."""
    asked: list[int] = []
    configuration = ["acme", "globex", "initech"]

    def enumerate_keys() -> Iterator[str]:
        for place, name in enumerate(configuration):
            asked.append(place)
            yield name

    custom = Custom(enumerate_keys)
    assert asked == []
    assert custom.contains("globex")
    assert asked == [0, 1]
    keys = custom.whole()
    configuration.append("umbrella")
    assert list(keys) == ["acme", "globex", "initech"]
    assert custom.count(NOW) == 4
    with pytest.raises(PartitionError, match=r"'acne' is not one of 'acme', .*\n  Did you mean 'acme'"):
        custom.validate("acne")
    assert custom.finite


def test_custom_sets_are_one_by_their_function() -> None:
    """PART-09."""
    assert Custom(brands) == Custom(brands)
    assert Custom(brands) != Custom(brands, "other")
    assert Custom(brands).identity() == f"custom:{__name__}.brands"
    assert Custom(brands, "brands").identity() == "custom:brands"
    assert repr(Custom(brands)) == "Custom(brands)"


def test_custom_keys_have_the_type_that_the_function_says() -> None:
    """PART-08."""

    def shards() -> Iterable[int]:
        return [1, 2, 2]

    custom = Custom(shards)
    assert custom.key_type is int
    assert custom.parse("2") == 2
    assert custom.count(NOW) == 2
    with pytest.raises(PartitionError, match="but int is needed"):
        custom.validate("2")
    unsaid = Custom(lambda: [1, "a"])
    assert unsaid.key_type is Any
    assert unsaid.parse("1") == 1
    assert unsaid.validate("a") == "a"


@pytest.mark.parametrize(
    ("fn", "error", "words"),
    [
        (lambda: [1.5], PartitionError, "gave a wrong key: .*float"),
        (lambda: [None], PartitionError, "gave None"),
        (lambda: "acme", ConfigError, "no list of keys"),
        (lambda: None, ConfigError, "no list of keys"),
    ],
    ids=["float", "none", "text", "nothing"],
)
def test_a_function_that_gives_no_keys(fn: Callable[[], Any], error: type[Exception], words: str) -> None:
    """PART-02."""
    with pytest.raises(error, match=words):
        Custom(fn).count(NOW)


def test_custom_takes_a_plain_function() -> None:
    """ASSET-17: nothing here waits."""

    async def later() -> list[str]:
        return []

    for fn in (later, ["a"]):
        with pytest.raises(ConfigError, match="takes a plain function"):
            Custom(fn)  # type: ignore[arg-type]


def test_single_is_one_value_whatever_the_key() -> None:
    """PART-07."""
    single = Single()
    for key in (None, date(2025, 1, 15), "us"):
        assert single.validate(key) is None
        assert single.contains(key)
    assert list(single.keys(NOW)) == [None]
    assert single.count(NOW) == 1
    assert single == Single()
    assert (single.describe(), single.identity(), repr(single)) == ("a single value", "single", "Single()")
    assert single.key_type is type(None)
