"""Compressed payloads, and the estimate of how large a value is."""

from __future__ import annotations

import os
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic_core import to_json

from flowstone_async.io.bulk import LARGE, bulk
from flowstone_async.io.payload import COMPRESS_FROM, is_packed, pack, unpack


@given(st.binary(max_size=100))
def test_small_values_stay_as_they_are(data: bytes) -> None:
    assert pack(data) == data


def test_large_values_are_compressed() -> None:
    data = b" [" + b"1," * COMPRESS_FROM + b"1]"

    packed = pack(data)

    assert is_packed(packed)
    assert len(packed) < len(data) / 50
    assert unpack(packed) == data


def test_what_compression_does_not_shrink_stays_as_it_is() -> None:
    data = b"P" + os.urandom(2 * COMPRESS_FROM)

    assert pack(data) is data
    assert unpack(data) == data


@pytest.mark.parametrize("payload", [b"Z", b"Zrubbish", pack(b" " * 2 * COMPRESS_FROM)[:-3]])
def test_a_damaged_payload_is_a_value_error(payload: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        unpack(payload)


@dataclass
class Row:
    no: int
    text: str


@dataclass(slots=True)
class Slotted:
    text: str


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**31), 2**31) | st.text(st.characters(codec="ascii"), max_size=20),
    lambda children: st.lists(children) | st.dictionaries(st.text(max_size=10), children),
    max_leaves=50,
)


@given(JSON)
def test_the_estimate_of_a_small_value_is_not_far_off(value: object) -> None:
    assert bulk(value) <= 20 * len(to_json(value)) + 100


LARGE_VALUES: dict[str, object] = {
    "text": "x" * LARGE,
    "bytes": b"x" * LARGE,
    "texts": ["x" * 1000] * 200,
    "one long text": ["x" * LARGE],
    "numbers": list(range(50_000)),
    "mapping": {f"key {no}": no for no in range(20_000)},
    "mappings": [{"id": no, "tags": ["a", "b"]} for no in range(20_000)],
    "objects": [Row(no, "x" * 20) for no in range(5_000)],
    "objects with slots": [Slotted("x" * 100) for _ in range(2_000)],
    "one object": Slotted("x" * LARGE),
    "nested": {"rows": {"deep": [list(range(50_000))]}},
    "set": set(range(50_000)),
    "pairs": tuple((no, no) for no in range(20_000)),
}


@pytest.mark.parametrize("value", LARGE_VALUES.values(), ids=LARGE_VALUES)
def test_large_values_are_known_as_such(value: object) -> None:
    assert bulk(value) >= LARGE
