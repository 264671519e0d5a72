"""Items and results that no store takes well (fault 19): only they fail, and the others are kept (SCAT-06, SCAT-13)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from flowstone_async import Pipeline, StorageError
from flowstone_async._engine.scatter import chunks, intake, packing
from tests.support.engines import OpenEngine
from tests.support.gate import soon

NUL, LONE = "a\x00b", "a\ud800b"
ODD: dict[str, Any] = {
    "nul": NUL,
    "nul as key": {NUL: [NUL]},
    "unit separator": "\x1e\x1f\\N",
    "empty": "",
    "none": None,
    "nan": float("nan"),
    "large number": 10**40,
    "deep": "deep",
    "lone surrogate": LONE,
    "object": object(),
    "function": print,
    "set": {1, 2},
    "generator": (no for no in range(3)),
}
"""What may come from anybody's data. Some of it can be kept and comes back, some cannot; nothing else may happen."""


def _odd(name: str) -> Any:
    if name != "deep":
        return ODD[name]
    made: Any = None
    for _ in range(100_000):
        made = [made]
    return made


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize("results", ["packed", "rows"])
async def test_an_odd_result_fails_its_item_or_comes_back(open_engine: OpenEngine, results: Any):
    pipe, names = Pipeline("odd"), ["first", *ODD, "last"]

    @pipe.scatter(names, tolerate=1.0, retry=False, results=results, page_size=5)
    async def items(name: str) -> Any:
        return _odd(name) if name in ODD else name

    engine = await open_engine(pipe)
    found = await soon(engine.run(items))
    kept = {key: value async for key, value in found.items()}
    failures = {each.key: each async for each in found.failures()}
    assert kept.keys() | failures.keys() == set(names)
    assert (kept["first"], kept["last"]) == ("first", "last")
    assert {"object", "function", "generator", "deep"} <= failures.keys()
    assert {name: kept[name] for name in ("nul", "nul as key", "unit separator", "empty", "none")} == {
        name: ODD[name] for name in ("nul", "nul as key", "unit separator", "empty", "none")
    }
    assert all(each.message and each.item == each.key for each in failures.values())


async def test_an_odd_item_fails_or_arrives(open_engine: OpenEngine):
    pipe, seen = Pipeline("odd"), list[Any]()

    async def source() -> AsyncIterator[Any]:
        yield "first"
        for name in ODD:
            yield _odd(name)
        yield "last"

    @pipe.scatter(source, key=False, tolerate=1.0, retry=False, page_size=5)
    async def items(item: Any) -> bool:
        seen.append(item)
        return True

    engine = await open_engine(pipe)
    found = await soon(engine.run(items))
    failures = [each async for each in found.failures()]
    assert (found.total, len(seen) + len(failures)) == (len(ODD) + 2, len(ODD) + 2)
    assert (seen[0], seen[-1], NUL in seen) == ("first", "last", True)
    names = list(ODD)
    assert {"object", "function", "generator", "deep"} <= {names[each.index - 1] for each in failures}


@pytest.mark.parametrize(
    "error", [ValueError(NUL), ValueError(LONE), KeyError(), Unprintable(), ValueError("x" * 10**6)]
)
async def test_an_odd_error_is_recorded(open_engine: OpenEngine, error: Exception):
    pipe = Pipeline("odd")

    @pipe.scatter(range(5), tolerate=0.5, retry=False)
    async def items(no: int) -> int:
        if no == 2:
            raise error
        return no

    engine = await open_engine(pipe)
    found = await soon(engine.run(items))
    assert await found.to_list(limit=5) == [0, 1, 3, 4]
    [failure] = [each async for each in found.failures()]
    assert (failure.key, failure.error_type) == (2, type(error).__name__)


@pytest.mark.parametrize("results", ["packed", "rows"])
async def test_a_result_that_is_too_large_fails_its_item(
    open_engine: OpenEngine, monkeypatch: pytest.MonkeyPatch, results: Any
):
    """A statement that the server cannot take would be sent for ever."""
    monkeypatch.setattr(packing, "LARGEST", 1000)
    pipe = Pipeline("large")

    @pipe.scatter(range(5), tolerate=0.5, retry=False, results=results)
    async def items(no: int) -> str:
        return "x" * (990 if no == 2 else 1001 if no == 3 else 1)

    engine = await open_engine(pipe)
    found = await soon(engine.run(items))
    assert [len(value) async for value in found] == [1, 1, 990, 1]
    [failure] = [each async for each in found.failures()]
    assert (failure.key, failure.error_type) == (3, "StorageError")
    assert "at most" in failure.message


async def test_an_item_that_is_too_large_fails(open_engine: OpenEngine, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(packing, "LARGEST", 1000)
    pipe = Pipeline("large")

    @pipe.scatter(["a", "x" * 1001, "b"], tolerate=0.5, retry=False)
    async def items(text: str) -> str:
        return text

    engine = await open_engine(pipe)
    found = await soon(engine.run(items))
    assert await found.to_list(limit=3) == ["a", "b"]
    assert [(each.index, each.item) async for each in found.failures()] == [(1, None)]


async def test_items_that_are_too_large_together_say_what_to_do(
    open_engine: OpenEngine, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(intake, "LARGEST_PAGE", 1000)
    pipe = Pipeline("large")

    @pipe.scatter([f"{no}" * 200 for no in range(9)])
    async def items(text: str) -> str:
        return text

    engine = await open_engine(pipe)
    with pytest.raises(StorageError, match="Lower page_size"):
        await soon(engine.run(items))


@pytest.mark.parametrize("results", ["packed", "rows"])
@pytest.mark.parametrize("page_size", [1, 7, 100])
async def test_results_that_are_large_together_go_in_several_flushes(
    open_engine: OpenEngine, monkeypatch: pytest.MonkeyPatch, results: Any, page_size: int
):
    """Also those of many chunks at once, and of an item whose result cannot be kept among them."""
    monkeypatch.setattr(chunks, "MOST_AT_ONCE", 300)
    monkeypatch.setattr("flowstone_async._engine.scatter.flushing.MOST_AT_ONCE", 300)
    flushed = list[int]()
    pipe = Pipeline("large")

    @pipe.scatter(range(100), tolerate=0.5, retry=False, results=results, page_size=page_size)
    async def items(no: int) -> str:
        return f"{no:100}" if no != 50 else object()  # pyright: ignore[reportReturnType]

    engine = await open_engine(pipe)
    store: Any = engine._live().store.scatters
    flush = store.flush

    async def noted(flushes: Any, worker: str) -> Any:
        flushed.append(sum(map(chunks.weight, (each.block for each in flushes))))
        return await flush(flushes, worker)

    monkeypatch.setattr(store, "flush", noted)
    found = await soon(engine.run(items))
    assert await found.to_list(limit=100) == [f"{no:100}" for no in range(100) if no != 50]
    assert max(flushed) < 1000
