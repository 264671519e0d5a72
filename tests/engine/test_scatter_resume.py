"""Scatters that outlive their engine: memory and Postgres (SCAT-12, SCAT-14, SCAT-16, READ-07, READ-08)."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest

from flowstone_async import Batching, Context, Gathered, LeaseLost, Pipeline, Retry
from flowstone_async._engine.scatter.bodies import Bodies
from flowstone_async._engine.scatter.scattering import Scattering
from tests.support.crash import kill, look_for_orphans
from tests.support.engines import OpenEngine
from tests.support.gate import Gate, soon
from tests.support.scatters import RARELY, kept


class _Case:
    """`items` waits at the gate from number 10 on."""

    def __init__(self, source: Any, **options: Any) -> None:
        self.pipe = pipe = Pipeline("case")
        self.calls: Counter[int] = Counter()
        self.gate = Gate()

        @pipe.scatter(source(pipe), **options)
        async def items(no: int) -> int:
            self.calls[no] += 1
            if no >= 10:
                await self.gate()
            return no * no

        @items.gather
        async def total(results: Gathered[int]) -> int:
            return sum([value async for value in results])


def _listed(pipe: Pipeline) -> Any:
    return pipe.constant("numbers", list(range(30)))


def _streamed(pipe: Pipeline) -> Any:
    @pipe.asset
    async def numbers() -> AsyncIterator[int]:
        for no in range(30):
            yield no

    return numbers


def _generated(pipe: Pipeline) -> Any:
    async def numbers() -> AsyncIterator[int]:
        for no in range(30):
            yield no

    return numbers


@pytest.mark.parametrize("source", [_listed, _streamed, _generated])
@pytest.mark.parametrize("page_size", [4, 1000])
async def test_finished_items_are_not_repeated(open_engine: OpenEngine, source: Any, page_size: int):
    """SCAT-16, READ-07: no item is lost, repeated or renumbered."""
    case = _Case(source, page_size=page_size)
    dying, living = await open_engine(case.pipe, **RARELY), await open_engine(case.pipe, **RARELY, slots=0)
    running = asyncio.create_task(dying.run("total"))
    await kept(living, 10)
    await case.gate.reached()
    await kill(dying)
    with pytest.raises(LeaseLost):
        await soon(running)
    case.gate.open()
    await look_for_orphans(living)
    assert await soon(living.wait("total")) == sum(no * no for no in range(30))
    assert {case.calls[no] for no in range(10)} == {1}
    found = await living.get("items")
    assert [pair async for pair in found.items()] == [(no, no * no) for no in range(30)]
    assert found.total == 30


async def test_an_engine_that_leaves_hands_its_items_over(open_engine: OpenEngine):
    """SCAT-14: nobody died of them."""
    case = _Case(_listed)
    leaving, staying = await open_engine(case.pipe, **RARELY, grace="1ms"), await open_engine(case.pipe, poll="10ms")
    run = await leaving.submit("total")
    del staying
    await case.gate.reached()
    case.gate.open()
    assert await soon(run) == sum(no * no for no in range(30))


async def test_attempts_and_due_times_survive(open_engine: OpenEngine):
    """SCAT-12: an item that waits for its next attempt goes on counting elsewhere."""
    pipe, attempts = Pipeline("retrying"), list[int]()

    @pipe.scatter([1], retry=Retry(3, initial="50ms", jitter=False))
    async def flaky(no: int, ctx: Context) -> int:
        attempts.append(ctx.item.attempt)
        if len(attempts) < 3:
            raise ConnectionError("gone")
        return no

    dying, living = await open_engine(pipe, **RARELY), await open_engine(pipe, **RARELY, slots=0)
    running = asyncio.create_task(dying.run(flaky))
    await kept(living, 1, "waiting")
    await kill(dying)
    with pytest.raises(LeaseLost):
        await soon(running)
    await look_for_orphans(living)
    assert await (await soon(living.wait(flaky))).to_list(limit=1) == [1]
    assert attempts == [1, 2, 3]


@pytest.mark.parametrize("batch", [None, Batching(max_items=1)])
async def test_only_the_item_that_kills_its_workers_fails(
    open_engine: OpenEngine, monkeypatch: pytest.MonkeyPatch, batch: Any
):
    """SCAT-14: after `max_lost` of them, alone; the others finish. A batch likewise, and it is called one."""

    async def die(self: Scattering, bodies: Bodies) -> None:
        bodies.cancel()

    monkeypatch.setattr(Scattering, "_end", die)  # without handing anything back
    pipe, gate, calls = Pipeline("poison"), Gate(), Counter[int]()

    @pipe.scatter(range(20), tolerate=0.05, batch=batch)
    async def items(given: Any) -> int:
        no = given if batch is None else given[0]
        calls[no] += 1
        if no == 7:
            await gate()
        return no

    living = await open_engine(pipe, **RARELY, slots=0)
    first = await open_engine(pipe, **RARELY)
    run = await first.submit("items")
    for died in range(1, 4):
        dying = first if died == 1 else await open_engine(pipe, **RARELY)
        if died > 1:
            await look_for_orphans(dying)
        await gate.reached(died)
        await kept(living, 19)
        await kill(dying)
    await look_for_orphans(living)
    found = await soon((await living.find(run.id)).result())
    assert await found.to_list(limit=20) == [no for no in range(20) if no != 7]
    [failure] = [each async for each in found.failures()]
    assert (failure.index, failure.error_type) == (7, "WorkerLost")
    thing = "item" if batch is None else "batch"
    assert failure.message == f"3 workers died while they ran {thing} 7 of scatter poison.items"
    assert calls[7] == 3


async def test_items_that_were_in_hand_when_another_killed_the_worker_do_not_fail(
    open_engine: OpenEngine, monkeypatch: pytest.MonkeyPatch
):
    """SCAT-14: it takes a death while nothing else ran; those that had not begun then, or ran beside others, go on."""

    async def die(self: Scattering, bodies: Bodies) -> None:
        bodies.cancel()

    monkeypatch.setattr(Scattering, "_end", die)  # without handing anything back
    pipe, gate, calls = Pipeline("poison"), Gate(), Counter[int]()

    @pipe.scatter(range(5), tolerate=0.2)
    async def items(no: int) -> int:
        calls[no] += 1
        await gate()
        return no

    living = await open_engine(pipe, **RARELY, slots=0)
    dying = await open_engine(pipe, **RARELY)
    run = await dying.submit("items")
    for begun in (5, 10, 11):  # all, all again, and one of them alone
        if begun > 5:
            dying = await open_engine(pipe, **RARELY)
            await look_for_orphans(dying)
        await gate.reached(begun)
        await kill(dying)
    gate.open()
    await look_for_orphans(living)
    found = await soon((await living.find(run.id)).result())
    assert await found.to_list(limit=5) == [1, 2, 3, 4]
    [failure] = [each async for each in found.failures()]
    assert (failure.item, failure.error_type) == (0, "WorkerLost")
    assert calls == Counter(dict.fromkeys(range(5), 3))


async def test_what_is_closed_and_not_committed_is_not_computed_again(
    open_engine: OpenEngine, monkeypatch: pytest.MonkeyPatch
):
    """SCAT-16: whoever continues the run finds all results; the one before deletes nothing of them."""
    pipe, calls = Pipeline("closed"), Counter[int]()

    @pipe.scatter(range(20))
    async def items(no: int) -> int:
        calls[no] += 1
        return no

    dying, living = await open_engine(pipe, **RARELY), await open_engine(pipe, **RARELY, slots=0)
    session: Any = dying._live()
    scatters = session.store.scatters
    close = scatters.close

    async def die(*asked: Any) -> bool:
        monkeypatch.setattr(scatters, "close", close)
        assert await close(*asked)
        session.closing = True
        expired = session.store.expire(session.services.worker)
        if expired is not None:
            await expired
        return True

    monkeypatch.setattr(scatters, "close", die)
    with pytest.raises(LeaseLost):
        await soon(dying.run(items))
    await look_for_orphans(living)
    assert await (await soon(living.wait(items))).to_list(limit=20) == list(range(20))
    assert calls == Counter(range(20))


async def test_what_cannot_be_run_is_counted_once_though_it_is_read_again(open_engine: OpenEngine):
    """SCAT-04, SCAT-13, READ-07: a generator begins at its start; what it gives again is known by its key, or its place."""
    pipe, gate = Pipeline("case"), Gate()

    async def numbers() -> AsyncIterator[int]:
        for no in range(30):
            yield no

    def even(no: int) -> int:
        if no in {1, 3, 25}:
            raise ValueError("odd")
        return no

    @pipe.scatter(numbers, select=even, page_size=4, max_concurrent=1, tolerate=0.1)
    async def items(no: int) -> int:
        if no >= 10:
            await gate()
        return no

    first, second = await open_engine(pipe, poll="20ms"), await open_engine(pipe, **RARELY)
    running = asyncio.create_task(first.run(items))
    await gate.reached()
    await kill(first)
    with pytest.raises(LeaseLost):
        await soon(running)
    gate.open()
    await look_for_orphans(second)
    found = await soon(second.wait(items))
    assert (found.total, found.succeeded, found.failed) == (30, 27, 3)
    assert [each.index async for each in found.failures()] == [1, 3, 25]
    assert await found.to_list(limit=30) == [no for no in range(30) if no not in {1, 3, 25}]
