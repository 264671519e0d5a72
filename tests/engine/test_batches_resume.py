"""Scatters in batches that outlive their engine: memory and Postgres (BATCH-04, BATCH-06 to BATCH-08, READ-07)."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from typing import Any

import pytest

from flowstone_async import Batch, Batching, Context, Engine, FlowstoneError, LeaseLost, Pipeline, Retry, sources
from tests.engine.test_scatter_resume import kept
from tests.support.crash import kill, look_for_orphans
from tests.support.engines import OpenEngine
from tests.support.gate import Gate, soon

RARELY: Any = {"poll": "60s"}
ITEMS = 30


class Feed(sources.Source[int]):
    """Numbers, five to a page, that waits at the gate before a number."""

    def __init__(self, gate: Gate, wait: int) -> None:
        self._gate, self._wait, self.read_from = gate, wait, list[int | None]()

    async def read(self, cursor: int | None) -> AsyncIterator[sources.Page[int]]:
        self.read_from.append(cursor)
        for first in range(cursor or 0, ITEMS, 5):
            if first >= self._wait:
                await self._gate()
            yield sources.Page(range(first, first + 5), first + 5)


class Seen:
    """What bodies were called with, by the number of the batch."""

    def __init__(self) -> None:
        self.calls: Counter[int] = Counter()
        self.batches: dict[int, set[tuple[int, ...]]] = defaultdict(set)

    def note(self, batch: Batch[int]) -> None:
        self.calls[batch.number] += 1
        self.batches[batch.number].add(tuple(batch))

    def composed(self) -> list[tuple[int, ...]]:
        """Return the batches in their order; each number stands for one, whenever it was called."""
        assert sorted(self.batches) == list(range(len(self.batches)))
        assert {len(each) for each in self.batches.values()} == {1}
        return [next(iter(self.batches[number])) for number in sorted(self.batches)]


def _listed(gate: Gate, wait: int) -> Any:
    del gate, wait
    return [*range(ITEMS)]


def _generated(gate: Gate, wait: int) -> Any:
    async def numbers() -> AsyncIterator[int]:
        for no in range(ITEMS):
            if no == wait:
                await gate()
            yield no

    return numbers


def _by_fours() -> list[tuple[int, ...]]:
    return [tuple(range(first, min(first + 4, ITEMS))) for first in range(0, ITEMS, 4)]


@pytest.mark.parametrize("source", [_listed, _generated, Feed])
@pytest.mark.parametrize("page_size", [3, 5, 1000])
async def test_batches_go_on_as_they_were(open_engine: OpenEngine, source: Any, page_size: int):
    """BATCH-07, READ-07: what was open is closed with the same items, whoever reads them; none is lost or renumbered."""
    pipe, gate, held, seen = Pipeline("resumed"), Gate(), Gate(), Seen()

    @pipe.scatter(source(gate, 15), batch=Batching(max_items=4), page_size=page_size, max_concurrent=20)
    async def items(batch: Batch[int]) -> list[int]:
        seen.note(batch)
        if batch.number >= 3:
            await held()
        return list(batch)

    dying, living = await open_engine(pipe, **RARELY), await open_engine(pipe, **RARELY, slots=0)
    running = asyncio.create_task(dying.run(items))
    await kept(living, 3)
    if source is not _listed:
        await gate.reached()
    await kill(dying)
    with pytest.raises(LeaseLost):
        await soon(running)
    gate.open()
    held.open()
    await look_for_orphans(living)
    found = await soon(living.wait(items))
    assert await found.to_list(limit=10) == [list(batch) for batch in _by_fours()]
    assert seen.composed() == _by_fours()
    assert {seen.calls[number] for number in range(3)} == {1}
    counts = await _counts(living)
    assert (counts.total, counts.items) == (8, ITEMS)


async def _counts(engine: Engine) -> Any:
    [run] = await engine.runs()
    counts = (await (await engine.find(run.id)).status()).scatter
    assert counts is not None
    return counts


async def test_groups_go_on_as_they_were(open_engine: OpenEngine):
    """BATCH-05, BATCH-07: each with what was open of it."""
    pipe, gate, seen = Pipeline("resumed"), Gate(), Seen()

    @pipe.scatter(
        _generated(gate, 20),
        batch=Batching(max_items=3, group_by=lambda no: no % 4),
        page_size=5,
        key=lambda no: f"k{no}",
    )
    async def items(batch: Batch[int]) -> list[int]:
        seen.note(batch)
        assert batch.keys == tuple(f"k{no}" for no in batch)
        return list(batch)

    dying, living = await open_engine(pipe, **RARELY), await open_engine(pipe, **RARELY, slots=0)
    running = asyncio.create_task(dying.run(items))
    await gate.reached()
    await kept(living, 4)
    await kill(dying)
    with pytest.raises(LeaseLost):
        await soon(running)
    gate.open()
    await look_for_orphans(living)
    assert (await soon(living.wait(items))).total == 12
    groups = [tuple(range(group, ITEMS, 4)) for group in range(4)]
    assert sorted(no for batch in seen.composed() for no in batch) == list(range(ITEMS))
    for group in groups:
        of_group = [batch for batch in seen.composed() if batch[0] in group]
        assert of_group == [group[:3], group[3:6], group[6:]][: len(of_group)]


async def test_a_short_batch_goes_on_waiting_elsewhere(open_engine: OpenEngine):
    """BATCH-04: for what is left of its time; a source that gives nothing meanwhile does not hold it back."""
    pipe, gate, seen = Pipeline("resumed"), Gate(), Seen()

    @pipe.scatter(_generated(gate, 6), batch=Batching(max_items=4, max_wait="2s"), page_size=2)
    async def items(batch: Batch[int]) -> list[int]:
        seen.note(batch)
        if batch == [4, 5]:
            gate.open()
        return list(batch)

    dying, living = await open_engine(pipe, **RARELY), await open_engine(pipe, **RARELY, slots=0)
    running = asyncio.create_task(dying.run(items))
    await gate.reached()
    await kept(living, 1)
    await kill(dying)
    with pytest.raises(LeaseLost):
        await soon(running)
    await look_for_orphans(living)
    found = await soon(living.wait(items))
    assert seen.composed()[:2] == [(0, 1, 2, 3), (4, 5)]
    assert [no async for no in found.flat()] == list(range(ITEMS))


async def test_what_batches_share_is_the_same_elsewhere(open_engine: OpenEngine):
    """BATCH-06: whoever takes over does not ask again."""
    pipe, gate, asked, seen = Pipeline("resumed"), Gate(), list[int](), list[Any]()

    def shared() -> tuple[int, str]:
        asked.append(len(asked))
        return asked[-1], "token"

    @pipe.scatter(range(6), batch=Batching(max_items=2, shared=shared))
    async def items(batch: Batch[int]) -> int:
        seen.append(batch.shared)
        await gate()
        return len(batch)

    dying, living = await open_engine(pipe, **RARELY), await open_engine(pipe, **RARELY, slots=0)
    running = asyncio.create_task(dying.run(items))
    await gate.reached(3)
    await kill(dying)
    with pytest.raises(LeaseLost):
        await soon(running)
    gate.open()
    await look_for_orphans(living)
    assert (await soon(living.wait(items))).succeeded == 3
    assert asked == [0]
    assert seen == [(0, "token")] * 6


async def test_what_left_its_batch_goes_on_elsewhere(open_engine: OpenEngine):
    """BATCH-08: with its number, its due time and the attempts that are left; the others keep their result."""
    pipe, calls = Pipeline("resumed"), list[Any]()

    @pipe.scatter(range(4), batch=Batching(max_items=4), retry=Retry(3, initial="300ms", jitter=False))
    async def items(batch: Batch[int], ctx: Context) -> list[int]:
        calls.append((list(batch), batch.number, ctx.item.attempt))
        assert batch.of in ((None, 1) if len(batch) > 1 else (2,))
        if len(batch) > 1:
            raise batch.failed({2: ConnectionError("gone")}, value=[0, 1, 3])
        if ctx.item.attempt == 2:
            raise ConnectionError("gone again")
        return list(batch)

    dying, living = await open_engine(pipe, **RARELY), await open_engine(pipe, **RARELY, slots=0)
    running = asyncio.create_task(dying.run(items))
    await kept(living, 1, "waiting")
    await kill(dying)
    with pytest.raises(LeaseLost):
        await soon(running)
    await look_for_orphans(living)
    found = await soon(living.wait(items))
    assert await found.to_list(limit=2) == [[0, 1, 3], [2]]
    assert calls == [([0, 1, 2, 3], 0, 1), ([2], 1, 2), ([2], 1, 3)]


class Death:
    """Lets an engine's worker die before or after the nth call of one of its store's functions."""

    def __init__(self, engine: Engine, monkeypatch: pytest.MonkeyPatch, name: str, nth: int, *, after: bool) -> None:
        self._session: Any = engine._live()
        self._scatters = self._session.store.scatters
        self._call = getattr(self._scatters, name)
        self._left, self._after, self._monkeypatch, self._name = nth, after, monkeypatch, name
        monkeypatch.setattr(self._scatters, name, self)

    async def __call__(self, *asked: Any) -> Any:
        self._left -= 1
        if self._left:
            return await self._call(*asked)
        self._monkeypatch.setattr(self._scatters, self._name, self._call)
        if self._after:
            await self._call(*asked)
        self._session.closing = True
        expired = self._session.store.expire(self._session.services.worker)
        if expired is not None:
            await expired
        raise LeaseLost("the worker died")


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize(("name", "nth"), [*(("add_page", nth) for nth in range(1, 8)), ("decide", 1), ("close", 1)])
async def test_wherever_a_worker_dies_each_item_is_in_one_batch(
    open_engine: OpenEngine, monkeypatch: pytest.MonkeyPatch, name: str, nth: int, after: bool
):
    """READ-07, BATCH-07: right before a page is on record, and right after; so for what is decided, and for the end."""
    pipe, gate, seen = Pipeline("dying"), Gate(), Seen()
    gate.open()

    def shared() -> int:
        return 7

    @pipe.scatter(Feed(gate, 0), batch=Batching(max_items=4, shared=shared), page_size=5)
    async def items(batch: Batch[int]) -> list[int]:
        assert batch.shared == 7
        seen.note(batch)
        return list(batch)

    dying, living = await open_engine(pipe, **RARELY), await open_engine(pipe, **RARELY, slots=0)
    Death(dying, monkeypatch, name, nth, after=after)
    with pytest.raises(FlowstoneError):
        await soon(dying.run(items))
    await look_for_orphans(living)
    found = await soon(living.wait(items))
    assert await found.to_list(limit=10) == [list(batch) for batch in _by_fours()]
    assert seen.composed() == _by_fours()
    assert await living._live().store.verify() == ()


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("nth", [1, 2, 3])
async def test_wherever_a_worker_dies_items_leave_their_batch_once(
    open_engine: OpenEngine, monkeypatch: pytest.MonkeyPatch, nth: int, after: bool
):
    """BATCH-08, SCAT-16: the result of the others and the batches of one are on record together, or neither is."""
    pipe, seen = Pipeline("dying"), Seen()

    @pipe.scatter(range(12), batch=Batching(max_items=4), page_size=4, retry=Retry(3, backoff="none"), max_concurrent=1)
    async def items(batch: Batch[int]) -> list[int]:
        seen.note(batch)
        await asyncio.sleep(0)
        if len(batch) > 1:
            raise batch.failed({1: ConnectionError("gone")}, value=[no for no in batch if no % 4 != 1])
        return list(batch)

    dying, living = await open_engine(pipe, **RARELY), await open_engine(pipe, **RARELY, slots=0)
    Death(dying, monkeypatch, "flush", nth, after=after)
    with pytest.raises(FlowstoneError):
        await soon(dying.run(items))
    await look_for_orphans(living)
    found = await soon(living.wait(items))
    assert sorted([no async for no in found.flat()]) == list(range(12))
    assert (found.total, found.succeeded) == (6, 6)
    assert sorted(map(len, seen.composed())) == [1, 1, 1, 4, 4, 4]
    assert await living._live().store.verify() == ()
