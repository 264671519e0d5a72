"""What a body is called with: items together (BATCH-06)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from flowstone_async import Batch, Gathered
from flowstone_async.errors import ConfigError
from tests.unit.definition.reading import untyped


def test_a_batch_is_a_sequence() -> None:
    batch = Batch(["a", "b", "c"])
    assert isinstance(batch, Sequence)
    assert (len(batch), batch[0], batch[-1], list(batch), list(reversed(batch))) == (3, "a", "c", [*"abc"], [*"cba"])
    assert (tuple(batch[1:]), batch.index("c"), batch.count("b"), "b" in batch, "z" in batch) == (
        ("b", "c"),
        2,
        1,
        True,
        False,
    )
    assert not Batch(())
    with pytest.raises(IndexError):
        batch[3]
    with pytest.raises(TypeError):
        untyped(batch)[0] = "z"
    with pytest.raises(AttributeError):
        untyped(batch).other = 1


def test_what_a_batch_tells_where_nothing_is_said() -> None:
    """ASSET-02: as a test makes it."""
    batch = Batch(["a", "b"])
    assert (batch.number, batch.of, batch.shared, batch.keys) == (0, None, None, ("a", "b"))
    named = Batch([1], number=3, of=4, shared={"rate": 2}, keys=["k"])
    assert (named.number, named.of, named.shared, named.keys) == (3, 4, {"rate": 2}, ("k",))
    assert repr(named) == "<Batch 3: 1 items>"


def test_batches_are_equal_by_their_items() -> None:
    batch = Batch([1, 2], number=3)
    assert batch == Batch([1, 2])
    assert batch == [1, 2]
    assert batch == (1, 2)
    assert batch != [2, 1]
    assert batch != "12"
    assert hash(batch) == hash(Batch((1, 2)))


async def test_elements_of_results_that_are_lists() -> None:
    """BATCH-09: of what a test gives, too."""
    given: Gathered[Any] = Gathered.of([[1, 2], (3,), {4}, []])
    assert [each async for each in given.flat()] == [1, 2, 3, 4]
    for odd in ("ab", {"a": 1}, b"ab", 1, None):
        with pytest.raises(ConfigError, match=rf"found one that is a {type(odd).__name__}"):
            [each async for each in Gathered.of([odd]).flat()]
