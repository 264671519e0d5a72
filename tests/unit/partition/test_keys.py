"""Keys and their encoded form (PART-02 to PART-05)."""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from enum import IntEnum, StrEnum
from typing import Any, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowstone_async.definition.keys import (
    MAX_DEPTH,
    MAX_ENCODED_BYTES,
    PartitionKey,
    canonical_key,
    decode_key,
    encode_key,
)
from flowstone_async.errors import PartitionError

SOME_UUID = UUID("8f14e45f-ceea-4c2d-9b1a-0c6f2b7a5d10")
PARIS = ZoneInfo("Europe/Paris")

# Text that looks like something else, beside any text at all.
texts = st.one_of(
    st.text(max_size=40),
    st.text(st.characters(categories=["Cs", "Lu", "Nd"]), max_size=5),
    st.sampled_from(["2025-01-15", "2025-13-45", "2025-01-15T09:00", "2025-01-15 09:00:00+00:00", "20250115", "i:1"]),
    st.sampled_from(["1", "true", "True", "None", "", "|", ":", "a|b", "d:2025-01-15", "s:", "t:W10", "x\x00", "[]"]),
    st.dates().map(str),
    st.datetimes().map(str),
    st.uuids().map(str),
)
atoms = st.one_of(
    texts,
    st.integers(),
    st.booleans(),
    st.dates(),
    st.datetimes(),
    st.datetimes(timezones=st.just(UTC)),
    st.uuids(),
)
keys = st.recursive(atoms, lambda inner: st.lists(inner, max_size=3).map(tuple), max_leaves=5)


def shape(key: object) -> object:
    """A key with the types of everything in it: what has to be equal for keys to be the same."""
    return tuple(shape(each) for each in key) if isinstance(key, tuple) else (type(key), key)


@given(keys)
def test_every_key_comes_back_equal_and_of_the_same_type(key: PartitionKey) -> None:
    """PART-04."""
    assert shape(decode_key(encode_key(key))) == shape(key)


@given(st.lists(keys, max_size=8))
def test_distinct_keys_never_share_an_encoding(some: list[PartitionKey]) -> None:
    """PART-04."""
    assert len({encode_key(key) for key in some}) == len({repr(shape(key)) for key in some})


@given(keys)
def test_encoded_keys_can_be_stored_and_are_never_taken_for_a_missing_one(key: PartitionKey) -> None:
    """PART-03: the empty text is None and nothing else; Postgres takes neither NUL nor surrogates."""
    text = encode_key(key)
    assert text
    assert "\x00" not in text
    assert "|" not in text
    text.encode()


@given(st.datetimes(timezones=st.timezones()))
def test_an_aware_datetime_is_its_instant(moment: datetime) -> None:
    """PART-05: the same instant in two zones is one partition, given back in UTC."""
    instant = moment.astimezone(UTC)
    assert encode_key(moment) == encode_key(instant)
    assert decode_key(encode_key(moment)) == instant
    assert canonical_key(moment) == instant
    assert decode_key(moment) == instant


@given(st.text() | st.binary().map(lambda b: "t:" + urlsafe_b64encode(b).decode().rstrip("=")))
def test_decoding_any_text_gives_a_key_or_a_partition_error(text: str) -> None:
    """PART-05: text comes from URLs, too."""
    try:
        key = decode_key(text)
    except PartitionError:
        return
    assert shape(decode_key(encode_key(key))) == shape(key)


@pytest.mark.parametrize(
    ("key", "text"),
    [
        (None, ""),
        (date(2025, 1, 15), "d:2025-01-15"),
        (date(1, 2, 3), "d:0001-02-03"),
        (datetime(2025, 1, 15, 9, tzinfo=UTC), "dt:2025-01-15T09:00:00+00:00"),
        (datetime(2025, 1, 15, 9, 0, 0, 5, tzinfo=PARIS), "dt:2025-01-15T08:00:00.000005+00:00"),
        (datetime(2025, 1, 15, 9), "ndt:2025-01-15T09:00:00"),  # noqa: DTZ001
        (7, "i:7"),
        (-12, "i:-12"),
        (True, "b:true"),
        (False, "b:false"),
        (SOME_UUID, "u:8f14e45f-ceea-4c2d-9b1a-0c6f2b7a5d10"),
        ("us", "us"),
        ("20250115", "20250115"),
        ("2025-01-15-report", "2025-01-15-report"),
        ("日本", "日本"),
        ("", "s:"),
        ("a:b", "s:YTpi"),
        ("a|b", "s:YXxi"),
        ("2025-01-15", "s:MjAyNS0wMS0xNQ"),
        ((), "t:W10"),
    ],
)
def test_encoded_form(key: PartitionKey | None, text: str) -> None:
    """PART-03, PART-04."""
    assert encode_key(key) == text
    assert shape(decode_key(text)) == shape(canonical_key(key))


def test_a_tuple_is_base64_of_a_json_array_of_encoded_elements() -> None:
    """PART-03: nested, too."""
    text = encode_key((date(2025, 1, 15), "us", (1, "é:")))
    assert text.startswith("t:")
    assert "=" not in text
    elements = json.loads(urlsafe_b64decode(text[2:] + "=="))
    assert elements == ["d:2025-01-15", "us", encode_key((1, "é:"))]


def test_look_alikes_are_different_partitions() -> None:
    """PART-04, PART-05."""
    alike = [1, "1", True, "True", "true", "i:1", "b:true"]
    alike += [date(2025, 1, 15), "2025-01-15", datetime(2025, 1, 15), datetime(2025, 1, 15, tzinfo=UTC)]  # noqa: DTZ001
    alike += ["", None, (), ("",), "()", ("a", "b"), "a|b", (("a",), "b"), ("a", ("b",))]
    assert len({encode_key(each) for each in alike}) == len(alike)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("2025-01-15", date(2025, 1, 15)),
        ("2025-01-15T09:00:00", datetime(2025, 1, 15, 9)),  # noqa: DTZ001
        ("2025-01-15 09:00", datetime(2025, 1, 15, 9)),  # noqa: DTZ001
        ("2025-01-15T09:00:00+01:00", datetime(2025, 1, 15, 8, tzinfo=UTC)),
        ("2025-01-15T09:00:00Z", datetime(2025, 1, 15, 9, tzinfo=UTC)),
        ("2025-01-15|us", (date(2025, 1, 15), "us")),
        ("a||i:3", ("a", "", 3)),
        ("dt:2025-01-15T09:00:00+01:00", datetime(2025, 1, 15, 8, tzinfo=UTC)),
    ],
)
def test_reads_what_older_stores_hold(text: str, key: PartitionKey) -> None:
    """PART-05: untagged ISO dates, ISO datetimes and |-separated tuples are read and never written."""
    assert shape(decode_key(text)) == shape(key)
    assert encode_key(decode_key(text)) != text


@pytest.mark.parametrize("key", [None, date(2025, 1, 15), 7, True, SOME_UUID, ("a", 1)])
def test_a_key_that_is_decoded_already_passes_through(key: PartitionKey | None) -> None:
    """PART-05."""
    assert decode_key(key) == key


@pytest.mark.parametrize(
    "text",
    [
        "d:2025-1-15",
        "d:2025-02-30",
        "d:",
        "dt:2025-01-15T09:00:00",
        "dt:2025-01-15",
        "ndt:2025-01-15T09:00:00+00:00",
        "dt:0001-01-01T00:00:00+14:00",
        "i:",
        "i:1.0",
        "i:01",
        "i:-0",
        "i:1_000",
        "i:１",  # noqa: RUF001
        "b:1",
        "b:True",
        "u:8f14e45fceea4c2d9b1a0c6f2b7a5d10",
        "t:%%%",
        "t:W",
        "t:eyJhIjoxfQ",  # {"a":1}
        "t:WzFd",  # [1]
        "t:WyIiXQ",  # [""]
        "s:/w8",
        "s:_w",  # not UTF-8
        "x:1",
        "2025-01-15T25:00:00",
        "12:30",
        "a|x:1",
        "t:" + urlsafe_b64encode(b"[" * 1500).decode().rstrip("="),
        "a" * (MAX_ENCODED_BYTES + 1),
        "|" * (MAX_ENCODED_BYTES + 1),
    ],
)
def test_text_that_was_never_written_is_refused(text: str) -> None:
    """PART-05."""
    with pytest.raises(PartitionError, match="is not an encoded partition key"):
        decode_key(text)


class Color(StrEnum):
    RED = "red"


class Size(IntEnum):
    BIG = 1


class Name(str):
    __slots__ = ()


class Nowhere(tzinfo):
    def utcoffset(self, _: datetime | None, /) -> timedelta | None:
        return None


class Point(NamedTuple):
    x: int
    y: int


@pytest.mark.parametrize(
    ("key", "words"),
    [
        (1.5, "float: 1.5\n  Use an int or a str"),
        ([1], r"list: \[1\]\n  Use a tuple"),
        ({"a": 1}, "dict: .*\n  Use a tuple of its values"),
        ({1}, "set: .*\n  Use a sorted tuple"),
        (b"x", "bytes: .*\n  Use a str, such as key.hex"),
        (timedelta(1), "timedelta: .*\n  Use a str"),
        (object, "type: .*\n  Use a str"),
        (Color.RED, "Color: .*\n  Use its value"),
        (Size.BIG, "Size: .*\n  Use its value"),
        (Name("a"), "Name: .*\n  Use a plain str"),
        (Point(1, 2), "Point: .*\n  Use a plain tuple"),
        (("a", 1.5), "float: 1.5"),
        (("a", None), "NoneType: None\n  None means no partition"),
        (datetime(2025, 1, 1, tzinfo=Nowhere()), "tzinfo that gives no offset"),
        (datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=14))), "no counterpart in UTC"),
    ],
)
def test_any_other_type_is_refused_with_what_to_use(key: object, words: str) -> None:
    """PART-02."""
    accepting: list[Callable[[Any], object]] = [canonical_key, encode_key, decode_key]
    for accept in accepting:
        with pytest.raises(PartitionError, match=words):
            accept(key)


class LibraryDate(date):
    __slots__ = ()


class LibraryDatetime(datetime):
    __slots__ = ()


class LibraryUUID(UUID):
    pass


class Nanoseconds(datetime):
    """Holds more than a datetime, as pandas' Timestamp does."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return type(other) is Nanoseconds

    __hash__ = datetime.__hash__


def test_subclasses_of_drivers_and_test_libraries_are_taken_as_what_they_equal() -> None:
    """PART-02: asyncpg gives a UUID of its own, freezegun a date."""
    assert shape(decode_key(LibraryDate(2025, 1, 15))) == shape(date(2025, 1, 15))
    assert encode_key(LibraryDate(2025, 1, 15)) == "d:2025-01-15"
    aware = LibraryDatetime(2025, 1, 15, 9, tzinfo=PARIS)
    assert shape(decode_key(aware)) == shape(datetime(2025, 1, 15, 8, tzinfo=UTC))
    assert shape(decode_key((LibraryUUID(int=1),))) == shape((UUID(int=1),))
    with pytest.raises(PartitionError, match="Nanoseconds"):
        encode_key(Nanoseconds(2025, 1, 15))


def test_the_repeated_hour_is_two_instants() -> None:
    """PART-05, PART-10."""
    twice = [datetime(2025, 10, 26, 2, 30, tzinfo=PARIS, fold=fold) for fold in (0, 1)]
    assert [encode_key(each) for each in twice] == ["dt:2025-10-26T00:30:00+00:00", "dt:2025-10-26T01:30:00+00:00"]


def test_encoded_keys_are_bounded() -> None:
    """PART-03: an index of the store holds them."""
    longest = "é" * (MAX_ENCODED_BYTES // 2)
    assert decode_key(encode_key(longest)) == longest
    nested: PartitionKey = "x"
    for _ in range(MAX_DEPTH):
        nested = (nested,)
    assert decode_key(encode_key(nested)) == nested
    for key in (longest + "é", 10**2100, 10**5000, (nested,), ("x" * 1600,), (("x" * 1000, "y" * 1000),)):
        with pytest.raises(PartitionError, match=r"longer than 2048 bytes|nested deeper"):
            encode_key(key)
    bottomless: PartitionKey = "x"
    for _ in range(100_000):
        bottomless = (bottomless,)
    with pytest.raises(PartitionError, match="nested deeper"):
        encode_key(bottomless)
