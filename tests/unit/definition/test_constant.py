"""Constants: assets with a fixed value (ASSET-10, CACHE-06)."""

from __future__ import annotations

from flowstone_async import AssetFinished, Pipeline
from flowstone_async.definition.kind import ConstantKind
from tests.unit.definition.reading import line_here, only


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


async def test_the_same_value_is_reused_within_a_pipeline() -> None:
    """ASSET-10, CACHE-01."""
    computed: list[str] = []
    pipe = _defined({"a": [1]}, computed)
    await pipe.run("down")
    await pipe.run("down")
    assert sorted(computed) == ["down", "rate"]
