"""Constants: assets with a fixed value (ASSET-10, CACHE-06)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import Any

import pytest

from flowstone_async import AssetFinished, Pipeline, io
from flowstone_async.definition.kind import ConstantKind, type_of
from tests.unit.definition.reading import line_here, only


@dataclass(frozen=True)
class Row:
    """A value."""

    n: int


async def test_a_constant_is_an_asset_like_any_other() -> None:
    """ASSET-10: run, read, called, depended on."""
    pipe = Pipeline("p")
    rate = pipe.constant("rate", 0.5, description="Per year.", tags=["money"])
    nothing = pipe.constant("nothing", None)

    @pipe.asset
    async def down(rate: float, nothing: None) -> float:
        return rate * 2

    assert await pipe.run(rate, nothing, down) == (0.5, None, 1.0)
    assert await rate() == 0.5
    assert await pipe.get(rate) == 0.5
    assert pipe.asset_info(rate).kind == "constant"
    assert pipe.asset_info(rate).description == "Per year."
    assert pipe.compiled().nodes["rate"].definition.kind == ConstantKind(0.5)
    assert pipe.compiled().nodes["nothing"].value_type is type(None)


def test_a_constant_has_the_place_where_it_was_defined() -> None:
    """ASSET-10, ASSET-12."""
    pipe = Pipeline("p")
    line = line_here(1)
    pipe.constant("Not-Legal", 1)
    assert (only(pipe).code, only(pipe).file, only(pipe).line) == (
        "FS108",
        "tests/unit/definition/test_constant.py",
        line,
    )


def _defined(value: object, computed: list[str]) -> Pipeline:
    pipe = Pipeline("p")
    pipe.constant("rate", value)

    @pipe.asset
    async def down(rate: object) -> str:
        return str(rate)

    @pipe.on(AssetFinished)
    async def count(event: AssetFinished) -> None:
        computed.append(event.asset)

    return pipe


async def test_another_value_makes_what_was_computed_from_it_stale() -> None:
    """ASSET-10: an equal one does not, also in another process that defines it anew."""
    store = _SharedMemory()
    computed: list[str] = []
    for value, expected in ((1, ["rate", "down"]), (1, []), (2, ["rate", "down"]), (2, []), ([1, 2], ["rate", "down"])):
        computed.clear()
        pipe = _defined(value, computed)
        store.lend(pipe)
        assert await pipe.run("down") == str(value)
        assert sorted(computed) == sorted(expected), value


class _SharedMemory:
    """The memory of one pipeline, lent to others of the same name, as a store is shared by processes."""

    def __init__(self) -> None:
        self._owner = Pipeline("p")

    def lend(self, pipe: Pipeline) -> None:
        pipe._wiring = self._owner._wired()


TYPES: list[tuple[Any, Any]] = [
    (1, int),
    (None, type(None)),
    ([1, 2], list[int]),
    ([1, True], list),  # of several types: only what JSON can say
    ([1, None], list),
    ([], list),
    ({}, dict),
    ({"a": [1]}, dict[str, list[int]]),
    ({"a": 1, "b": "x"}, dict),
    ({1, 2}, set[int]),
    (frozenset({date(2025, 1, 1)}), frozenset[date]),
    ((1, "a", [Row(1)]), tuple[int, str, list[Row]]),
    ((), tuple[()]),
    ([[1], ["a"]], list),
    ([Row(1)], list[Row]),
]


@pytest.mark.parametrize(("value", "type_"), TYPES, ids=map(str, range(len(TYPES))))
async def test_a_constant_is_of_its_values_type(value: Any, type_: Any) -> None:
    """ASSET-10, ASSET-15, STORE-03: so that edges are checked, and dataclasses in a list come back as such."""
    pipe = Pipeline("p")
    pipe.constant("constant", value)
    assert pipe.asset_info("constant").value_type == type_
    assert await pipe.run("constant") == value


def test_a_value_within_itself_has_a_type() -> None:
    """ASSET-10."""
    endless: list[object] = []
    endless.append(endless)
    Pipeline("p").constant("endless", endless)
    assert type_of(endless) is not None


async def test_a_constant_of_any_type_is_held_in_memory() -> None:
    """ASSET-10, STORE-05: what cannot be hashed counts as another value where it is defined anew, and only there."""

    class Anything:
        pass

    pipe = Pipeline("p", io=io.Memory(copy=False))
    computed: list[str] = []
    anything = Anything()
    pipe.constant("anything", anything)

    @pipe.on(AssetFinished)
    async def count(event: AssetFinished) -> None:
        computed.append(event.asset)

    assert await pipe.run("anything") is anything
    assert await pipe.run("anything") is anything
    assert computed == ["anything"]


async def test_the_same_value_is_reused_within_a_pipeline() -> None:
    """ASSET-10, CACHE-01."""
    computed: list[str] = []
    pipe = _defined({"a": [1]}, computed)
    await pipe.run("down")
    await pipe.run("down")
    assert sorted(computed) == ["down", "rate"]
