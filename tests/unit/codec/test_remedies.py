"""The way out that a refused value is told: STORE-06, ERR-05. What was done already is no remedy."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from flowstone_async import DefinitionError, Engine, Pipeline, StorageError, Stream
from flowstone_async.io.codec import codec_for
from tests.support.engines import OpenVerbs
from tests.unit.codec.cases import numbered


@dataclass
class Keyed:
    by: dict


async def _items() -> AsyncIterator[int]:
    yield 1


def _hint(declared: object, value: object) -> str:
    with pytest.raises(StorageError) as caught:
        codec_for(declared).encode(value)
    return caught.value.hint or ""


@pytest.mark.parametrize(
    ("declared", "value", "remedy"),
    numbered(
        [
            (dict, {1: 2}, "declare dict[int, int]."),
            (dict, {(1, "a"): [1.5]}, "declare dict[tuple[int, str], list[float]]."),
            (dict, {1: 2, "a": 3}, "declare dict[int, str], for example."),
            (list[dict], [{1: "a"}], "declare list[dict[int, str]]."),
            (Keyed, Keyed({1: 2}), "Return exactly Keyed"),
            (dict[str, int], {1: 2}, "Return exactly dict[str, int]"),
            (str, "caf\udce9", 'as text.encode("utf-8", "replace").decode() does'),
            (dict[str, str], {"caf\udce9": "x"}, 'as text.encode("utf-8", "replace").decode() does'),
            (int, 10**5000, "Return it as text"),
            (int, _items(), "Let the body yield the items"),
            (list[int], iter([1]), "Let the body yield the items"),
            (int, "x", "Return exactly int"),
        ]
    ),
)
def test_the_remedy_is_about_what_is_wrong(declared: object, value: object, remedy: str) -> None:
    """STORE-06"""
    hint = _hint(declared, value)
    assert remedy in hint
    if not remedy.startswith("Return exactly"):
        assert "exactly" not in hint


def test_what_the_remedies_say_works() -> None:
    """STORE-06: the declared type, and text without its surrogate."""
    assert codec_for(dict[int, int]).copy({1: 2}) == {1: 2}
    assert codec_for(list[dict[int, str]]).copy([{1: "a"}]) == [{1: "a"}]
    assert codec_for(str).copy("caf\udce9".encode("utf-8", "replace").decode()) == "caf?"
    assert codec_for(str, format="pickle", key=b"k" * 32).copy("caf\udce9") == "caf\udce9"


def test_an_item_of_a_stream_has_a_remedy_too() -> None:
    """STORE-06"""
    with pytest.raises(StorageError, match="for example") as caught:
        codec_for(dict).encode_chunk([{1: 2}])
    assert "list[" not in str(caught.value.hint)


async def test_an_asset_tells_the_remedy(open_verbs: OpenVerbs) -> None:
    """STORE-06: on both stores, with the asset's name."""
    pipe = Pipeline("told")

    @pipe.asset
    async def squares() -> dict:
        return {1: 1}

    verbs = await open_verbs(pipe)
    with pytest.raises(StorageError, match=r"told\.squares(.|\n)*declare dict\[int, int\]"):
        await verbs.run(squares)


async def test_an_iterator_that_is_returned_in_memory() -> None:
    """ASSET-09, STORE-05: no option of the manager makes it readable twice."""
    pipe = Pipeline("told")

    @pipe.asset
    async def returned() -> AsyncIterator[int]:
        return _items()

    @pipe.asset
    async def generated() -> Iterator[int]:
        return (n for n in range(3))

    for each in (returned, generated):
        with pytest.raises(StorageError, match="an async generator is a stream") as caught:
            await pipe.run(each)
        assert "copy=False" not in str(caught.value)


@pytest.mark.parametrize(
    "declared", [AsyncIterator[int], AsyncGenerator[int, None], AsyncIterator, Stream[int]], ids=range(4)
)
async def test_an_iterator_that_is_returned_on_a_durable_store(declared: Any) -> None:
    """ASSET-09, STORE-06: `FS140` before anything is opened."""
    pipe = Pipeline("told")

    async def returned() -> object:
        return _items()

    returned.__annotations__["return"] = declared
    pipe.add(returned)
    with pytest.raises(DefinitionError, match="FS140(.|\n)*an async generator is a stream"):
        async with Engine(pipe, store="postgresql://nowhere/x"):
            pytest.fail("it was opened")
