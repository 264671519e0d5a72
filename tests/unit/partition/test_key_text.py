"""Keys as people write them: the command line and the web side parse text by the declared type (PART-08, CLI-02)."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any, Union
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowstone_async.definition.key_text import fits, format_key, parse_key, type_text
from flowstone_async.definition.keys import PartitionKey
from flowstone_async.errors import ConfigError, PartitionError

typed_keys = st.one_of(
    st.tuples(st.text(), st.just(str)),
    st.tuples(st.integers(-(2**200), 2**200), st.just(int)),
    st.tuples(st.booleans(), st.just(bool)),
    st.tuples(st.dates(), st.just(date)),
    st.tuples(st.datetimes(), st.just(datetime)),
    st.tuples(st.datetimes(timezones=st.just(UTC)), st.just(datetime)),
    st.tuples(st.uuids(), st.just(UUID)),
    st.tuples(st.tuples(st.dates(), st.text(max_size=20)), st.just(tuple[date, str])),
    st.tuples(st.tuples(st.text(max_size=20), st.integers(), st.booleans()), st.just(tuple[str, int, bool])),
    st.tuples(st.lists(st.integers(), max_size=5).map(tuple), st.just(tuple[int, ...])),
    st.tuples(st.tuples(st.tuples(st.integers(), st.text(max_size=20))), st.just(tuple[tuple[int, str]])),
)


@given(typed_keys)
def test_what_is_shown_can_be_typed(case: tuple[PartitionKey, object]) -> None:
    """CLI-02."""
    key, key_type = case
    assert fits(key, key_type)
    read = parse_key(format_key(key), key_type)
    assert read == key
    assert type(read) is type(key)


@pytest.mark.parametrize(
    ("text", "key_type", "key"),
    [
        ("2025-01-15", date, date(2025, 1, 15)),
        ("d:2025-01-15", date, date(2025, 1, 15)),
        ("2025-01-15T10:00+01:00", datetime, datetime(2025, 1, 15, 9, tzinfo=UTC)),
        ("2025-01-15 | us", tuple[date, str], (date(2025, 1, 15), " us")),
        ("2025-01-15,us", tuple[date, str], (date(2025, 1, 15), "us")),
        ("us, 3", tuple[str, int], ("us", 3)),
        ("7", int | str, 7),
        ("seven", int | str, "seven"),
        ("2025-01-15", Union[date, None], date(2025, 1, 15)),  # noqa: UP007
        ("", Union[date, None], None),  # noqa: UP007
        ("2025-01-15", Any, "2025-01-15"),
    ],
)
def test_text_is_read_by_the_declared_type(text: str, key_type: object, key: PartitionKey | None) -> None:
    """CLI-02."""
    assert parse_key(text, key_type) == key


@pytest.mark.parametrize(
    ("text", "key_type", "words"),
    [
        ("15/01/2025", date, "is not a date\n  Write it like 2025-01-15"),
        ("2025-01-15T10:00", date, "is not a date"),
        ("2025-01-15", datetime, "is not a datetime"),
        ("d:2025-01-15", int, "is not a int"),
        ("1.5", int, "is not a int"),
        ("9" * 5000, int, "is not a int"),
        ("yes", bool, "is not a bool\n  Write it like true"),
        ("x", UUID, "is not a UUID"),
        ("", date, "is not a date"),
        ("us", tuple[date, str], r"is not a tuple\[date, str\]\n  Write it like 2025-01-15\|us"),
        ("us|2025-01-15", tuple[date, str], "is not a tuple"),
        ("t:W10", tuple[date, str], "is not a tuple"),
    ],
)
def test_text_of_another_type_is_refused(text: str, key_type: object, words: str) -> None:
    """CLI-02: a bad key is a usage error."""
    with pytest.raises(PartitionError, match=words):
        parse_key(text, key_type)


@pytest.mark.parametrize(
    ("key", "key_type", "fitting"),
    [
        (datetime(2025, 1, 1, tzinfo=UTC), date, False),
        (True, int, False),
        (1, bool, False),
        (1, int | str, True),
        (None, date, False),
        (None, date | None, True),
        ((1, "a"), tuple[int, str], True),
        ((1, "a"), tuple[int, int], False),
        ((1,), tuple[int, str], False),
        ((1, 2, 3), tuple[int, ...], True),
        ((1, "a"), tuple[int, ...], False),
        ("a", tuple[int, ...], False),
        ("a", Any, True),
    ],
)
def test_types_are_exact(key: object, key_type: object, fitting: bool) -> None:
    """PART-05: a datetime is never taken for a date, nor a bool for an int."""
    assert fits(key, key_type) is fitting


def test_a_type_that_keys_cannot_have_is_a_config_error() -> None:
    """PART-02."""
    for key_type in (float, list[int], dict, object):
        with pytest.raises(ConfigError, match="is not a type of partition keys"):
            fits("x", key_type)
    assert type_text(tuple[date, tuple[int, ...]]) == "tuple[date, tuple[int, ...]]"
    assert type_text(date | None) == "date | None"
