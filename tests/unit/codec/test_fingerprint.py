"""Equal values have equal fingerprints, in any process (CACHE-05)."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from flowstone_async.io.codec import codec_for
from flowstone_async.io.fingerprint import StreamFingerprint
from tests.unit.codec.models import Box, Color


def _of(declared: object, value: object) -> str | None:
    return codec_for(declared).prepare(value).fingerprint


class Wide(BaseModel):
    names: set[str]
    more: dict[str, Any] = {}


@dataclass(frozen=True)
class Deep:
    by_set: dict[frozenset[str], set[int]]


def _turned(value: Any) -> Any:
    """Return an equal value whose mappings list their keys the other way round."""
    if isinstance(value, dict):
        return {key: _turned(value[key]) for key in reversed(value)}
    return [_turned(item) for item in value] if isinstance(value, list) else value


KEYED = st.recursive(
    st.integers() | st.text("ab", max_size=2),
    lambda inner: st.dictionaries(st.text("abcdef", max_size=2), inner, max_size=5) | st.lists(inner, max_size=3),
    max_leaves=15,
)


@given(KEYED)
def test_the_order_of_insertion_says_nothing(value: Any) -> None:
    """CACHE-05"""
    assert _of(None, value) == _of(None, _turned(value))


@given(st.dictionaries(st.tuples(st.integers(), st.text("ab")), KEYED, max_size=5))
def test_the_order_of_keys_that_are_no_text_says_nothing(value: Any) -> None:
    """CACHE-05"""
    declared = dict[tuple[int, str], Any]
    assert _of(declared, value) == _of(declared, _turned(value))


def test_an_ordered_dict_is_its_order() -> None:
    declared = OrderedDict[str, int]
    assert _of(declared, OrderedDict(a=1, b=2)) != _of(declared, OrderedDict(b=2, a=1))


@pytest.mark.parametrize(
    ("declared", "one", "other"),
    [
        (list[int], [1, 2], [2, 1]),
        (float | int, 1, 1.0),
        (float, 0.0, -0.0),
        (int | bool, 1, True),
        (str, "a", "a\0"),
        (dict[str, int], {"a": 1}, {"a": 2}),
        (set[int] | list[int], {1}, [1]),
        (tuple[str, ...], ("a,b",), ("a", "b")),
        (Box[int] | None, Box(1), None),
    ],
)
def test_different_values_have_different_fingerprints(declared: object, one: object, other: object) -> None:
    """CACHE-02"""
    assert _of(declared, one) != _of(declared, other)


def test_fields_count_by_name_and_not_by_place() -> None:
    first, second = type("Report", (), {}), type("Report", (), {})
    first.__annotations__, second.__annotations__ = {"a": int, "b": str}, {"b": str, "a": int}
    one: Callable[..., object] = dataclass(first)
    other: Callable[..., object] = dataclass(second)
    assert _of(one, one(a=1, b="x")) == _of(other, other(a=1, b="x"))


_SCRIPT = """
from tests.unit.codec.test_fingerprint import SAMPLES, _of
print(*(_of(declared, value) for declared, value in SAMPLES))
"""

WORDS = [f"word{number}" for number in range(40)]
SAMPLES: list[tuple[object, object]] = [
    (set[str], set(WORDS)),
    (frozenset[tuple[str, int]], frozenset((word, 1) for word in WORDS)),
    (set[Color], set(Color)),
    (dict[frozenset[str], int], {frozenset(WORDS): 1, frozenset(WORDS[:3]): 2}),
    (Mapping[str, set[str]], {"a": set(WORDS)}),
    (Wide, Wide(names=set(WORDS), more={word: {"x": 1} for word in set(WORDS)})),
    (Deep, Deep({frozenset(WORDS): {1, 2, 3}})),
    (None, dict.fromkeys(set(WORDS), 1)),
]


def test_fingerprints_are_the_same_in_every_process() -> None:
    """CACHE-05"""
    found = set[str]()
    for seed in ("0", "1", "4242"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)}
        run = subprocess.run(
            [sys.executable, "-c", _SCRIPT], env=environment, capture_output=True, text=True, check=True
        )
        found.add(run.stdout.strip())
    assert found == {" ".join(str(_of(declared, value)) for declared, value in SAMPLES)}


def _streamed(declared: object, chunks: list[list[Any]]) -> str:
    codec = codec_for(declared)
    fingerprint = StreamFingerprint()
    loaded: list[Any] = []
    for chunk in chunks:
        data = codec.encode_chunk(chunk)
        loaded += codec.decode_chunk(data)
        items = codec.canonical_items(data)
        assert items is not None
        fingerprint.update(items)
    assert loaded == [item for chunk in chunks for item in chunk]
    return fingerprint.hexdigest()


@pytest.mark.parametrize("declared", [None, dict[str, int] | str], ids=["untyped", "typed"])
@given(items=st.lists(st.dictionaries(st.text("ab,"), st.integers()) | st.text('ab,"'), max_size=12), data=st.data())
def test_a_stream_is_its_items_however_it_was_cut(declared: object, items: list[Any], data: st.DataObject) -> None:
    """CACHE-05"""
    cuts = sorted(data.draw(st.lists(st.integers(0, len(items)), max_size=4)))
    bounds = [0, *cuts, len(items)]
    chunks = [items[start:end] for start, end in pairwise(bounds)]
    assert _streamed(declared, chunks) == _streamed(declared, [_turned(items)])


def test_streams_of_other_items_differ() -> None:
    assert len({_streamed(None, [chunk]) for chunk in ([], [1], [1, 2], [[1, 2]], ["1,2"], [12], [2, 1])}) == 7


def test_items_of_a_declared_type_are_checked_and_come_back() -> None:
    """ASSET-09, STORE-03"""
    codec = codec_for(Box[int])
    data = codec.encode_chunk([Box(1), Box(2, [3])])
    assert codec.decode_chunk(data) == [Box(1), Box(2, [3])]
    assert codec.decode_chunk(codec.encode_chunk([])) == []
