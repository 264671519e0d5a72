"""Every reader gets its own copy (STORE-05)."""

from __future__ import annotations

import datetime as dt
import threading
from typing import Any

import pytest

from flowstone_async.errors import StorageError
from flowstone_async.io.codec import codec_for
from flowstone_async.io.copying import copy_value, same
from tests.unit.codec.models import Color, Model, Plain, Private


class Anything:
    def __init__(self) -> None:
        self.items = [1]


class Odd:
    def __eq__(self, other: object) -> bool:
        raise RuntimeError

    __hash__ = None  # pyright: ignore[reportAssignmentType]


@pytest.mark.parametrize("value", [None, True, 1, 0.5, "a", b"a", dt.date.min, Color.RED], ids=repr)
def test_what_cannot_change_is_returned_as_it_is(value: object) -> None:
    """STORE-05"""
    assert copy_value(value, codec_for(None)) is value


def test_a_copy_by_codec_shares_nothing() -> None:
    """STORE-05"""
    value = {"a": [Plain(1, "x")]}
    copied: Any = copy_value(value, codec_for(dict[str, list[Plain]]))
    copied["a"][0].number = 2
    copied["a"].append(None)
    assert value == {"a": [Plain(1, "x")]}


@pytest.mark.parametrize("codec", [None, codec_for(None), codec_for(Anything)], ids=["none", "untyped", "unsupported"])
def test_what_no_codec_takes_is_copied_deeply(codec: Any) -> None:
    """STORE-05: the memory store holds any object."""
    value = Anything()
    copied: Any = copy_value(value, codec)
    copied.items.append(2)
    assert value.items == [1]


def test_what_cannot_be_copied_names_the_way_out() -> None:
    """STORE-05"""
    with pytest.raises(StorageError) as caught:
        copy_value([threading.Lock()])
    assert "copy=False" in (caught.value.hint or "")
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        (float("nan"), float("nan"), True),
        (0.0, -0.0, False),
        (1, 1.0, False),
        (1, True, False),
        ([1, {"a": (float("nan"),)}], [1, {"a": (float("nan"),)}], True),
        ([1], (1,), False),
        ({"a": 1}, {"a": 1, "b": 2}, False),
        ({"a": 1}, {"b": 1}, False),
        (Plain(1, "a"), Plain(1, "a"), True),
        (Plain(1, "a"), Plain(1, "b"), False),
        (Model(), Model(), True),
        (Model(aliasName=2), Model(), False),
        (Private(name="a"), Private(name="b"), False),
        (Odd(), Odd(), False),
    ],
)
def test_two_values_are_the_same_by_type_and_value(one: object, other: object, equal: bool) -> None:
    assert same(one, other) is equal
