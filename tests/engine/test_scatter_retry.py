"""Retrying runs whose scatter did not come to its end: memory and Postgres (READ-09, SCAT-11, SCAT-24, FLOW-13)."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest

from flowstone_async import (
    Cancelled,
    DependencyFailed,
    ExecutionError,
    Gathered,
    Pipeline,
    ScatterThreshold,
    SourceError,
)
from flowstone_async.sources import Page, Source
from tests.support.crash import flight_of, kill, look_for_orphans
from tests.support.engines import OpenEngine
from tests.support.gate import Gate, soon

RARELY: Any = {"poll": "60s"}


class _Feed(Source[int]):
    """Pages of three numbers up to twelve; what is behind the sixth cannot be read as long as it is down."""

    read_retry = False

    def __init__(self) -> None:
        self.down, self.cursors = True, list[Any]()

    async def read(self, cursor: Any) -> AsyncIterator[Page[int]]:
        self.cursors.append(cursor)
        for first in range(cursor or 0, 12, 3):
            if first == 6 and self.down:
                raise ConnectionError("down")
            yield Page(range(first, first + 3), cursor=first + 3, last=first == 9)


class _Case:
    """A scatter over a feed: 1 fails as long as it is broken."""

    def __init__(self, source: Any = None, **options: Any) -> None:
        self.pipe = pipe = Pipeline("feed")
        self.feed, self.calls, self.broken, self.gate = _Feed(), Counter[int](), {1}, Gate()
        self.gate.open()

        @pipe.scatter(source or self.feed, **{"tolerate": 0.5, "retry": False, "page_size": 3, **options})
        async def items(no: int) -> int:
            self.calls[no] += 1
            await self.gate()
            if no in self.broken:
                raise ValueError("broken")
            return no

        @items.gather
        async def total(results: Gathered[int]) -> list[int]:
            return [value async for value in results]


async def test_reading_goes_on_at_the_recorded_cursor(open_engine: OpenEngine):
    """READ-09: recorded items keep their results, and failures theirs."""
    case = _Case()
    engine = await open_engine(case.pipe)
    run = await engine.submit("total")
    with pytest.raises(DependencyFailed) as raised:
        await soon(run)
    assert isinstance(raised.value.__cause__, SourceError) or "down" in str(raised.value)
    done = {each.key for each in await run.items("items", state="done")}
    failed = {each.key for each in await run.items("items")}
    case.feed.down = False
    case.calls.clear()
    case.broken.clear()
    again = await engine.retry(run.id)
    assert await soon(again) == [no for no in range(12) if no not in failed]
    assert case.feed.cursors == [None, 6]
    assert set(case.calls) == set(range(12)) - done - failed
    assert [each.key for each in await again.items("items")] == sorted(failed)
    acts = [entry for _, _, entry in await engine._live().store.audit() if entry.action == "scatter.resumed"]
    assert [(act.run_id, act.details["of_run"]) for act in acts] == [(again.id, run.id)]


async def test_a_source_that_fails_again_goes_on_where_it_was(open_engine: OpenEngine):
    """READ-09: retried as often as anybody likes."""
    case = _Case()
    engine = await open_engine(case.pipe)
    run = await engine.submit("total")
    for _ in range(3):
        with pytest.raises(DependencyFailed):
            await soon(run)
        run = await engine.retry(run.id)
    with pytest.raises(DependencyFailed):
        await soon(run)
    case.feed.down = False
    assert len(await soon(await engine.retry(run.id))) == 11
    assert case.feed.cursors == [None, 6, 6, 6, 6]
    assert set(case.calls.values()) == {1}
    assert await engine._live().store.verify() == ()


async def test_a_generator_is_read_again_and_its_items_are_not_run_again(open_engine: OpenEngine):
    """READ-09, READ-13: keys decide what is new."""
    down = [True]

    async def numbers() -> AsyncIterator[int]:
        for no in range(8):
            if no == 6 and down:
                raise ConnectionError("down")
            yield no

    case = _Case(numbers)
    engine = await open_engine(case.pipe)
    run = await engine.submit("total")
    with pytest.raises(DependencyFailed):
        await soon(run)
    down.clear()
    assert await soon(await engine.retry(run.id)) == [0, 2, 3, 4, 5, 6, 7]
    assert set(case.calls.values()) == {1}


async def test_a_cancelled_scatter_goes_on_when_its_run_is_retried(open_engine: OpenEngine):
    """SCAT-24, FLOW-13."""
    case = _Case(range(12), max_concurrent=4)
    case.broken.clear()
    engine = await open_engine(case.pipe)
    case.gate.close()
    run = await engine.submit("total")
    await case.gate.reached(4)
    await run.cancel()
    with pytest.raises(Cancelled):
        await soon(run)
    done = {each.key for each in await run.items("items", state="done")}
    case.gate.open()
    case.calls.clear()
    assert await soon(await engine.retry(run.id)) == list(range(12))
    assert set(case.calls) == set(range(12)) - done


async def test_failed_items_are_run_again_where_too_many_failed(open_engine: OpenEngine):
    """SCAT-11: else the retried run would fail at once."""
    case = _Case(range(12), tolerate=0)
    engine = await open_engine(case.pipe)
    run = await engine.submit("items")
    with pytest.raises(ScatterThreshold):
        await soon(run)
    done = {each.key for each in await run.items("items", state="done")}
    case.broken.clear()
    case.calls.clear()
    again = await soon(await engine.retry(run.id))
    assert await again.to_list(limit=12) == list(range(12))
    assert set(case.calls) == set(range(12)) - done


async def test_what_closed_is_not_run_again(open_engine: OpenEngine):
    """FLOW-13: the gathering failed, not the scatter."""
    pipe, calls, broken = Pipeline("closed"), Counter[int](), [True]

    @pipe.scatter(range(5))
    async def items(no: int) -> int:
        calls[no] += 1
        return no

    @items.gather
    async def total(results: Gathered[int]) -> int:
        if broken:
            raise ValueError("broken")
        return results.succeeded

    engine = await open_engine(pipe)
    run = await engine.submit(total)
    with pytest.raises(ExecutionError):
        await soon(run)
    broken.clear()
    again = await engine.retry(run.id)
    assert await soon(again) == 5
    assert calls == Counter(range(5))
    assert (await again.status()).scatter is None


async def test_what_came_from_another_source_is_begun_anew(open_engine: OpenEngine):
    """CACHE-01: results of items that are no more would be wrong."""
    pipe, listed, calls, broken = Pipeline("anew"), [1, 2, 3], Counter[int](), {3}

    @pipe.asset(cache=False)
    async def numbers() -> list[int]:
        return list(listed)

    @pipe.scatter(numbers, retry=False)
    async def items(no: int) -> int:
        calls[no] += 1
        if no in broken:
            raise ValueError("broken")
        return no

    engine = await open_engine(pipe)
    run = await engine.submit(items)
    with pytest.raises(ScatterThreshold):
        await soon(run)
    listed.append(4)
    await engine.run(numbers)
    broken.clear()
    calls.clear()
    again = await soon(await engine.retry(run.id))
    assert await again.to_list(limit=9) == [1, 2, 3, 4]
    assert calls == Counter([1, 2, 3, 4])


async def test_a_run_that_was_retried_before_begins_anew(open_engine: OpenEngine):
    """The one that goes on from it has its results."""
    case = _Case(range(6), tolerate=0)
    engine = await open_engine(case.pipe)
    run = await engine.submit("items")
    with pytest.raises(ScatterThreshold):
        await soon(run)
    second = await engine.retry(run.id)
    with pytest.raises(ScatterThreshold):
        await soon(second)
    case.broken.clear()
    case.calls.clear()
    third = await soon(await engine.retry(run.id))
    assert third.succeeded == 6
    assert case.calls == Counter(range(6))


async def test_a_retried_redrive_is_a_redrive(open_engine: OpenEngine):
    """FLOW-13: the value that is there is fresh, and is not what was asked for."""
    case = _Case(range(6), tolerate=0.5)
    case.broken = {1, 2}
    engine = await open_engine(case.pipe)
    run = await engine.submit("total")
    assert await soon(run) == [0, 3, 4, 5]
    case.gate.close()
    redriven = await run.redrive("items")
    await case.gate.reached(8)
    await redriven.cancel()
    case.gate.open()
    case.broken.clear()
    case.calls.clear()
    assert await soon(await engine.retry(redriven.id)) == list(range(6))
    assert case.calls == Counter([1, 2])


async def test_a_retried_run_survives_its_engine(open_engine: OpenEngine):
    """JOB-09, READ-07."""
    case = _Case()
    case.broken.clear()
    living = await open_engine(case.pipe, **RARELY, slots=0)
    first = await open_engine(case.pipe, **RARELY)
    run = await first.submit("total")
    with pytest.raises(DependencyFailed):
        await soon(run)
    await kill(first)
    case.feed.down = False
    case.gate.close()
    before = case.gate.calls
    again = await living.retry(run.id)
    second = await open_engine(case.pipe, **RARELY)
    await flight_of(second, again.id)
    await case.gate.reached(before + 1)
    await kill(second)
    case.gate.open()
    await look_for_orphans(living)
    assert await soon(again) == list(range(12))
    assert await living._live().store.verify() == ()


async def test_what_closed_and_became_no_value_is_taken_as_it_is(
    open_engine: OpenEngine, monkeypatch: pytest.MonkeyPatch
):
    """FLOW-13: the run was cancelled between the two."""
    case = _Case(range(6))
    case.broken.clear()
    engine = await open_engine(case.pipe, slots=1)
    session: Any = engine._live()
    scatters = session.store.scatters
    close, closed = scatters.close, Gate()

    async def hold(*asked: Any) -> bool:
        done = await close(*asked)
        if done:
            await closed()
        return done

    monkeypatch.setattr(scatters, "close", hold)
    run = await engine.submit("total")
    await closed.reached()
    await run.cancel()
    monkeypatch.undo()
    with pytest.raises(Cancelled):
        await soon(run)
    assert await soon(await engine.retry(run.id)) == list(range(6))
    assert case.calls == Counter(range(6))
