"""Following the results of a scatter (SCAT-26, READ-02, READ-07): complete and exact, whatever is visible when."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any, cast

from flowstone_async._engine.scatter.gathered import Labels
from flowstone_async._engine.scatter.key_forms import PLAIN
from flowstone_async._engine.scatter.packing import Items
from flowstone_async._engine.scatter.results import Results
from flowstone_async._engine.scatter.seen import Seen
from flowstone_async._engine.scatter.upstream import Arrived, UpstreamResults
from flowstone_async.clock import SystemClock
from flowstone_async.errors import StoreUnavailable
from flowstone_async.sources import Page
from flowstone_async.store.blocks import Block, Committed
from flowstone_async.store.scatters import Flush, ItemFailed, Scatters
from tests.contract.builders import failure, identifier
from tests.contract.stores import Engine
from tests.contract.test_scatters import Reader, flushed
from tests.support.gate import soon


class Hiding:
    """A store in which some results, by position, are not visible yet, and which fails when told to."""

    def __init__(self, store: Scatters, *hidden: int) -> None:
        self._store, self.hidden, self.failing = store, set(hidden), 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def committed(self, scatter: str, **options: Any) -> tuple[Committed, ...]:
        if self.failing:
            self.failing -= 1
            raise StoreUnavailable("away")
        found = await self._store.committed(scatter, **options)
        return tuple(each for each in found if not self.hidden & set(each.block.positions))


def results(*positions: int) -> Block:
    return Block(positions, b" [" + b",".join(str(10 * each).encode() for each in positions) + b"]")


def _source(store: Any, scatter: str, limit: float = 0.0) -> UpstreamResults:
    return UpstreamResults(
        cast("Scatters", store),
        scatter,
        results=Results(int, None, "packed"),
        labels=Labels(cast("Scatters", store), scatter, Items(int, None), None, PLAIN),
        clock=SystemClock(),
        poll=limit,
        upstream="first",
    )


async def _add(reader: Reader, *items: int, last: bool = False) -> None:
    """Add a page of whole numbers as the engine does."""
    kept = Items(int, None)
    await reader.add(*items, last=last, items=kept.page(kept.pack(items), len(items)))


def _flush(reader: Reader, *positions: int, number: int, state: Any = "running", **changes: Any) -> Flush:
    return flushed(reader.chunk(0, 6), *positions, state=state, number=number, block=results(*positions), **changes)


async def _next(pages: AsyncIterator[Page[Arrived]]) -> tuple[list[tuple[int, int]], Any]:
    page = await soon(anext(pages))
    return [(key, value) for key, value in page.items], page.cursor


async def _rest(source: UpstreamResults, cursor: Any, size: int = 100) -> tuple[list[tuple[int, int]], Any]:
    found: list[tuple[int, int]] = []
    async for page in source.read_sized(cursor, size):
        assert len(page.items) <= size
        found += [(key, value) for key, value in page.items]
        cursor = page.cursor
    return found, cursor


async def test_results_that_become_visible_late_are_given_once(engine: Engine) -> None:
    """Numbers are drawn before a commit: a smaller one may appear after a larger one."""
    reader = await Reader.begin(engine)
    await _add(reader, 7, 8, 7, 9, 10, 11, last=True)  # the third is a duplicate
    store = Hiding(reader.store, 0, 4)
    async with aclosing(cast("Any", _source(store, reader.id).read_sized(None, 100))) as pages:
        await reader.flush(_flush(reader, 0, number=0))
        await reader.flush(_flush(reader, 1, number=1, succeeded=2))
        assert (await _next(pages))[0] == [(8, 10)]
        await reader.flush(_flush(reader, 3, number=2, succeeded=3))
        assert (await _next(pages))[0] == [(9, 30)]
        store.hidden = {4}
        assert (await _next(pages))[0] == [(7, 0)]
        await reader.flush(_flush(reader, 4, number=3, succeeded=4))
        failed = [ItemFailed(5, 1, failure())]
        await reader.flush(
            _flush(reader, number=4, state="done", succeeded=4, failed=1)._replace(block=None, failures=failed)
        )
        assert await reader.close()
        found, cursor = await _next(pages)
        assert found == [(10, 40)]
        found, cursor = await _next(pages)
        assert (found, cursor["skipped"]) == ([], 1)


async def test_it_knows_whether_all_that_is_on_record_was_given(engine: Engine) -> None:
    """SIG-07, SCAT-26: else a run would be suspended with a result that nobody has seen; it looks for it then."""
    reader = await Reader.begin(engine)
    await _add(reader, 1, 2, 3, 4, 5, 6, last=True)
    store, dry = Hiding(reader.store, 0), asyncio.Event()
    source = _source(store, reader.id, 60.0)
    source.drained = dry.set
    found: list[tuple[int, int]] = []

    async def read() -> None:
        async for page in source.read_sized(None, 100):
            found.extend((key, value) for key, value in page.items)
            source.took(len(page.items))

    reading = asyncio.create_task(read())
    try:
        await reader.flush(_flush(reader, 0, number=0))
        await reader.flush(_flush(reader, 1, number=1, succeeded=2))
        source.look()
        await soon(_holds(lambda: source.is_drained and bool(found)))
        dry.clear()
        assert not await source.caught_up()
        assert not source.is_drained
        await soon(dry.wait())
        assert await source.caught_up()  # it is not to be found: nothing is to wait for it
        store.hidden = set()
        await reader.flush(_flush(reader, 3, number=2, succeeded=3))
        assert not await source.caught_up()
        await soon(_holds(lambda: source.is_drained and len(found) == 3))
        assert sorted(found) == [(1, 0), (2, 10), (4, 30)]
        assert await source.caught_up()
    finally:
        reading.cancel()
        await asyncio.wait({reading})


async def _holds(told: Callable[[], bool]) -> None:
    while not told():
        await asyncio.sleep(0)


async def test_it_goes_on_behind_a_cursor(engine: Engine) -> None:
    """READ-07: from every page of a reading, what is left is the same."""
    reader = await Reader.begin(engine)
    await _add(reader, 1, 2, 3, 4, 5, 6, last=True)
    await reader.flush(_flush(reader, 1, 4, 5, number=0))
    await reader.flush(_flush(reader, 3, number=1, succeeded=4))
    failed = [ItemFailed(2, 1, failure())]
    await reader.flush(_flush(reader, 0, number=2, state="done", succeeded=5, failed=1, failures=failed))
    assert await reader.close()
    source = _source(reader.store, reader.id)
    everything, end = await _rest(source, None, 2)
    assert sorted(everything) == [(1, 0), (2, 10), (4, 30), (5, 40), (6, 50)]
    taken = 0
    async for page in source.read_sized(None, 2):
        taken += len(page.items)
        left, same_end = await _rest(source, page.cursor, 3)
        assert sorted([*everything[:taken], *left]) == sorted(everything)
        assert same_end["skipped"] == end["skipped"] == 1
    other = await _rest(source, {**end, "follows": identifier()}, 2)
    assert sorted(other[0]) == sorted(everything)


async def test_a_store_that_is_away_for_a_while(engine: Engine) -> None:
    reader = await Reader.begin(engine)
    await _add(reader, 1, 2, 3, 4, 5, 6, last=True)
    await reader.flush(_flush(reader, 0, 1, 2, number=0))
    store = Hiding(reader.store)
    async with aclosing(cast("Any", _source(store, reader.id).read_sized(None, 2))) as pages:
        assert (await _next(pages))[0] == [(1, 0), (2, 10)]
        store.failing = 20
        assert (await _next(pages))[0] == [(3, 20)]
        await reader.flush(_flush(reader, 3, 4, 5, number=1, state="done", succeeded=6))
        assert await reader.close()
        assert (await _next(pages))[0] == [(4, 30), (5, 40)]
        assert (await _next(pages))[0] == [(6, 50)]
        assert (await _next(pages))[0] == []
    assert store.failing == 0


def test_positions_that_were_given() -> None:
    seen = Seen()
    seen.update(range(1000))
    seen.update((1001, 1017, 100_000))
    assert [each in seen for each in (0, 999, 1000, 1001, 1016, 1017, 99_999, 100_000, 10**9)] == [
        *(True, True, False, True, False, True, False, True, False)
    ]
    assert seen.first_missing() == 1000
    stored = seen.stored()
    assert len(str(stored)) < 200
    again = Seen.restored(stored)
    assert again.first_missing() == 1000
    again.add(1000)
    again.add(3)
    assert again.first_missing() == 1002
    assert Seen().first_missing() == 0
