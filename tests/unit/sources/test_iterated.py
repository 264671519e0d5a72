"""Iterables and generators as sources."""

from __future__ import annotations

import asyncio
import itertools
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from typing import Any

import pytest

from flowstone_async.clock import settle
from flowstone_async.errors import ConfigError, SourceError
from flowstone_async.sources import handover
from flowstone_async.sources.iterated import Generated, Iterated, iterated
from flowstone_async.sources.reading import read_pages
from tests.unit.sources.feeds import AT_ONCE, items_of, read_all


class Countdown:
    """An async iterable that can be iterated again."""

    def __init__(self, start: int) -> None:
        self.start = start

    async def __aiter__(self) -> AsyncIterator[int]:
        for number in range(self.start, 0, -1):
            yield number


@pytest.mark.parametrize(
    ("value", "items"),
    [
        ([1, 2, 3], [1, 2, 3]),
        ((), []),
        ({"a": 1, "b": 2}, ["a", "b"]),
        (range(3), [0, 1, 2]),
        (iter([1, 2]), [1, 2]),
        (Countdown(3), [3, 2, 1]),
    ],
)
async def test_anything_that_can_be_iterated_is_a_source(value: Any, items: list[Any]) -> None:
    """READ-01, SCAT-02."""
    source = iterated(value, label="numbers")
    assert items_of(await read_all(source)) == items
    assert not source.resumable


@pytest.mark.parametrize("value", [3, None, object(), lambda: [1]])
def test_what_cannot_be_iterated_is_refused_by_the_name_of_its_type(value: Any) -> None:
    """SCAT-02."""
    with pytest.raises(ConfigError, match=f"numbers gave a {type(value).__name__}, which cannot be iterated"):
        iterated(value, label="numbers")
    (problem,) = Iterated(value).problems()
    assert "cannot be iterated" in problem


async def test_pages_have_the_size_asked_for() -> None:
    """READ-03."""
    for value in (range(7), Countdown(7)):
        pages = await read_all(Iterated(value), page_size=3)
        assert [len(page.items) for page in pages] in ([3, 3, 1, 0], [3, 3, 1])


async def test_the_number_of_items_is_known_where_the_iterable_knows_it() -> None:
    """READ-01: for the estimate."""
    assert await Iterated([1, 2]).count() == 2
    assert await Iterated(iter([1])).count() is None


async def test_a_restart_delivers_again_or_by_position() -> None:
    """READ-07: as the engine wants it, which knows whether items have keys."""
    source = Iterated(range(5))
    (first,) = await read_all(source, pages=1, page_size=2)
    again = await read_all(source, first.token, page_size=2)
    assert (items_of(again), again[0].position) == ([0, 1, 2, 3, 4], 0)
    behind = await read_all(source, first.token, page_size=2, by_position=True)
    assert (items_of(behind), behind[0].position) == ([2, 3, 4], 2)


async def test_max_items_counts_over_restarts() -> None:
    """READ-06."""
    source = Iterated(range(10))
    source.max_items = 5
    pages = await read_all(source, page_size=2, pages=2)
    behind = await read_all(source, pages[-1].token, by_position=True)
    assert items_of(pages) + items_of(behind) == [0, 1, 2, 3, 4]
    assert items_of(await read_all(source, pages[-1].token)) == [0, 1, 2, 3, 4]


async def test_an_iterator_is_read_once() -> None:
    """READ-09: neither a second reading nor a retry may take it to be empty."""
    source = Iterated(iter([1, 2, 3]), label="numbers")
    assert items_of(await read_all(source)) == [1, 2, 3]
    with pytest.raises(SourceError, match=r"numbers was read before, and can be read only once") as raised:
        await read_all(source)
    assert not raised.value.retryable


async def test_an_iterator_that_fails_is_not_taken_to_have_ended() -> None:
    """READ-09."""

    def numbers() -> Iterator[int]:
        yield 1
        raise OSError("away")

    with pytest.raises(SourceError, match="away"):
        await read_all(Iterated(numbers()))


async def test_a_generator_function_is_called_anew_for_each_reading_and_retry() -> None:
    """READ-01, READ-09."""
    calls: list[int] = []

    async def numbers() -> AsyncIterator[int]:
        calls.append(1)
        yield 1
        yield 2
        if len(calls) == 1:
            raise OSError("away")
        yield 3

    source = Generated(numbers)
    source.read_retry = AT_ONCE
    assert source.label == "numbers"
    assert items_of(await read_all(source, by_position=True)) == [1, 2, 3]
    assert items_of(await read_all(source)) == [1, 2, 3]
    assert len(calls) == 3
    calls.clear()
    assert items_of(await read_all(source)) == [1, 2, 1, 2, 3], "keys decide what is new"


async def test_a_generator_function_takes_dependencies() -> None:
    """READ-01, SCAT-02."""

    async def numbers(start: int, step: int = 2) -> AsyncIterator[int]:
        for each in range(start, start + 3 * step, step):
            yield each

    source = Generated(numbers)
    assert source.functions() == (numbers,)
    assert source.parameters() == ("start", "step")
    resolved, recorded = await source.resolved({"start": 10, "other": 1})
    assert recorded is None
    assert items_of(await read_all(resolved)) == [10, 12, 14]
    resolved, _ = await source.resolved({"start": 0, "step": 1}, recorded)
    assert items_of(await read_all(resolved)) == [0, 1, 2]


async def test_a_function_may_return_any_iterable() -> None:
    """SCAT-02: and what it returns otherwise is named."""

    async def listed() -> list[int]:
        return [1, 2]

    assert items_of(await read_all(Generated(lambda: (each for each in "ab")))) == ["a", "b"]
    assert items_of(await read_all(Generated(listed))) == [1, 2]
    with pytest.raises(ConfigError, match="gave a int, which cannot be iterated"):
        await read_all(Generated(_three))


def _three() -> Any:
    return 3


async def test_an_endless_generator_gives_its_first_items_in_constant_memory() -> None:
    """READ-02."""
    for endless in (itertools.count(), _forever()):
        async with aclosing(read_pages(Iterated(endless))) as reading:
            assert (await anext(reading)).items == tuple(range(1000))
            tracemalloc.start()
            try:
                for _ in range(50):
                    await anext(reading)
                assert tracemalloc.get_traced_memory()[1] < 500_000
            finally:
                tracemalloc.stop()


async def _forever() -> AsyncIterator[int]:
    for number in itertools.count():
        yield number


async def test_a_slow_generator_does_not_hold_back_what_it_has_yielded(monkeypatch: pytest.MonkeyPatch) -> None:
    """READ-02: it may wait for what becomes of its first items."""
    monkeypatch.setattr(handover, "LINGER", 0.001)
    done = asyncio.Event()

    async def crawled() -> AsyncIterator[str]:
        yield "/"
        yield "/about"
        await done.wait()
        yield "/found"

    async with aclosing(read_pages(Generated(crawled))) as reading:
        first = await anext(reading)
        assert first.items == ("/", "/about")
        done.set()
        assert (await anext(reading)).items == ("/found",)


async def test_one_item_at_most_is_taken_before_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """READ-02."""
    monkeypatch.setattr(handover, "LINGER", 0.001)
    yielded: list[int] = []
    gate = asyncio.Event()

    async def numbers() -> AsyncIterator[int]:
        for number in itertools.count():
            if number == 2:
                await gate.wait()
            yielded.append(number)
            yield number

    async with aclosing(read_pages(Generated(numbers), page_size=4)) as reading:
        assert (await anext(reading)).items == (0, 1)
        gate.set()
        await settle()
        assert yielded == [0, 1, 2]
        assert (await anext(reading)).items == (2, 3, 4, 5)
        await settle()
        assert yielded == [0, 1, 2, 3, 4, 5]


async def test_a_long_iteration_lets_the_loop_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """READ-02: for iterables and for generators that never await."""
    monkeypatch.setattr("flowstone_async.sources.iterated.SLICE", 0.0001)
    for items in (range(300_000), _some(300_000)):
        turns = 0

        async def others() -> None:
            nonlocal turns
            while True:
                await asyncio.sleep(0)
                turns += 1

        async with asyncio.TaskGroup() as group:
            task = group.create_task(others())
            await read_all(Iterated(items), page_size=300_000)
            task.cancel()
        assert turns >= 50


async def _some(count: int) -> AsyncIterator[int]:
    for number in range(count):
        yield number


async def test_an_error_comes_behind_the_items_before_it() -> None:
    """READ-09."""

    async def numbers() -> AsyncIterator[int]:
        yield 1
        raise OSError("away")

    source = Generated(numbers)
    source.read_retry = False
    async with aclosing(read_pages(source)) as reading:
        assert (await anext(reading)).items == (1,)
        with pytest.raises(SourceError):
            await anext(reading)
