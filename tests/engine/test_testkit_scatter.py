"""The test kit where a scatter's results are given (TEST-01, TEST-02)."""

from __future__ import annotations

from typing import Any

import pytest

from flowstone_async import Batch, Batching, ConfigError, Gathered, ItemFailure, Pipeline
from flowstone_async.errors import ExecutionError


class _Case:
    """`lengths`, a scatter, `total`, which gathers it, `doubled`, a scatter on it, and `most`, which takes both."""

    def __init__(self) -> None:
        self.pipe = pipe = Pipeline("given")

        @pipe.scatter(["a", "bb"])
        async def lengths(name: str) -> list[int]:
            raise AssertionError(name)

        @lengths.gather
        async def total(results: Gathered[list[int]]) -> int:
            found = [each async for each in results]
            for each in found:
                each.append(1000)  # its own copy
            return sum(each[0] for each in found) + 100 * results.failed

        @pipe.scatter(lengths)
        async def doubled(length: list[int]) -> int:
            return 2 * length[0]

        self.lengths, self.total, self.doubled = lengths, total, doubled


def _failure() -> ItemFailure:
    return ItemFailure(key="b", index=1, item="b", error=ExecutionError("no"), attempts=3)


@pytest.mark.parametrize("given", [[[1], [2]], ([1], [2]), Gathered.of([[1], [2]])])
async def test_results_in_place_of_a_scatter(given: Any):
    """TEST-01: a list, or what calls a gathering body by hand; each reader has its own copy."""
    case = _Case()
    async with case.pipe.test(values={case.lengths: given}) as t:
        assert [await t.run(case.total) for _ in range(2)] == [3, 3]
        assert await (await t.run(case.doubled)).to_list(limit=2) == [2, 4]
        assert t.calls(case.lengths) == 0


async def test_results_of_one_call():
    """TEST-02: those of the call come first, and other results are another value."""
    case = _Case()
    async with case.pipe.test(values={"lengths": []}) as t:
        assert await t.run(case.total) == 0
        assert await t.run(case.total, values={case.lengths: [[4]]}) == 4
        failed = Gathered.of([[4]], failures=[_failure()])
        assert await t.run(case.total, values={case.lengths: failed}) == 104
        await t.assert_not_stored(case.lengths)


async def test_results_of_batches():
    """TEST-01: each is what the body returns for one batch."""
    pipe = Pipeline("batches")

    @pipe.scatter(range(4), batch=Batching(max_items=2))
    async def pairs(numbers: Batch[int]) -> list[int]:
        return list(numbers)

    @pairs.gather
    async def total(results: Gathered[list[int]]) -> int:
        return sum([each async for each in results.flat()])

    async with pipe.test(values={pairs: [[1, 2], [3]]}) as t:
        assert await t.run(total) == 6
    with pytest.raises(ConfigError, match=r"result 1 of scatter 'pairs' is to be list\[int\]"):
        async with pipe.test(values={pairs: [[1, 2], 3]}):
            pass


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ([[1], "two"], r"result 1 of scatter 'lengths' is to be list\[int\]"),
        (Gathered.of([[1], [None]]), r"result 1 of scatter 'lengths' is to be list\[int\]"),
        (1, r"'lengths' is a scatter of which each result is list\[int\], and this is a int(.|\n)*Gathered\.of"),
        ({"a": [1]}, "this is a dict"),
        (None, "this is a NoneType"),
    ],
)
async def test_what_are_no_results_is_refused(given: Any, text: str):
    """TEST-01: one result alone is none either."""
    case = _Case()
    with pytest.raises(ConfigError, match=text):
        async with case.pipe.test(values={case.lengths: given}):
            pass
    async with case.pipe.test() as t:
        with pytest.raises(ConfigError, match=text):
            await t.run(case.total, values={case.lengths: given})


async def test_results_that_are_stored_are_refused():
    """They are read with the store they are in, which the test does not have."""
    pipe = Pipeline("stored")

    @pipe.scatter([1, 2])
    async def items(no: int) -> int:
        return no

    stored = await pipe.run(items)
    with pytest.raises(ConfigError, match="results that are stored"):
        async with pipe.test(values={items: stored}):
            pass
