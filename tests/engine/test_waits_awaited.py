"""Who awaits a run that was suspended meanwhile: its callers count as they do for any other (RUN-17)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from flowstone_async import Cancelled, Context, Engine, LeaseLost, Pipeline, StoreUnavailable
from tests.support.crash import kill
from tests.support.engines import OpenEngine
from tests.support.gate import Gate, soon
from tests.support.waits import Desk, in_state, opened, runs_of, send

EVICTED: Any = {"secret": b"s" * 32, "park_after": 0, "poll": "50ms"}


class _Job:
    """A body that waits for a signal, then at `gate`, and takes its time to clean up if it is cancelled there."""

    def __init__(self) -> None:
        self.pipe, self.desk, self.gate = Pipeline("awaited"), Desk(), Gate()
        self.cleaned = 0

        @self.pipe.asset
        async def job(ctx: Context) -> str:
            told = await (await self.desk.made(ctx.signal(str)))
            try:
                await self.gate()
            except asyncio.CancelledError:
                for _ in range(100):
                    await asyncio.sleep(0)
                self.cleaned += 1
                raise
            return told

    async def suspended(self, engine: Engine) -> asyncio.Task[Any]:
        """Await a run of it; returns once that is suspended."""
        awaiting = self.await_it(engine)
        gate = await opened(engine, (await self.desk.gate()).id)
        await in_state(engine, gate.gate.run_id, "waiting")
        return awaiting

    def await_it(self, engine: Engine) -> asyncio.Task[Any]:
        return asyncio.create_task(engine.run("job", on_wait="wait"))

    async def go_on(self, engine: Engine) -> None:
        await send(engine, self.desk.gates[0].id, str, "told")
        await self.gate.reached()


async def _cancelled(task: asyncio.Task[Any]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await soon(task)


async def _joined(engine: Engine, run_id: str, callers: int) -> None:
    """Return once so many await a run."""
    async with asyncio.timeout(20):
        while engine._live().awaited.get(run_id) != callers:
            await asyncio.sleep(0)


async def test_whoever_is_cancelled_returns_once_the_body_that_went_on_has_ended(open_engine: OpenEngine) -> None:
    """RUN-17, G-04: it is driven anew after its suspension."""
    job = _Job()
    engine = await open_engine(job.pipe, **EVICTED)
    awaiting = await job.suspended(engine)
    await job.go_on(engine)
    await _cancelled(awaiting)
    assert job.cleaned == 1
    assert (await engine.status("job")).state == "cancelled"


@pytest.mark.parametrize("goes_on", [False, True], ids=["suspended", "woken"])
async def test_a_run_that_others_joined_while_it_waited_goes_on_for_them(
    open_engine: OpenEngine, goes_on: bool
) -> None:
    """RUN-17: until the last of them is gone."""
    job = _Job()
    engine = await open_engine(job.pipe, **EVICTED)
    callers = [await job.suspended(engine)]
    [run] = await engine.runs()
    if goes_on:
        await job.go_on(engine)
    callers += [job.await_it(engine), job.await_it(engine)]
    await _joined(engine, run.id, 3)
    await _cancelled(callers[0])
    await _cancelled(callers[1])
    if not goes_on:
        await job.go_on(engine)
    assert job.cleaned == 0
    job.gate.open()
    assert await soon(callers[2]) == "told"


async def test_the_last_who_awaits_a_run_that_waited_cancels_it(open_engine: OpenEngine) -> None:
    """RUN-17."""
    job = _Job()
    engine = await open_engine(job.pipe, **EVICTED)
    callers = [await job.suspended(engine)]
    [run] = await engine.runs()
    callers.append(job.await_it(engine))
    await _joined(engine, run.id, 2)
    for each in callers:
        assert (await (await engine.find(run.id)).status()).state == "waiting"
        await _cancelled(each)
    assert (await (await engine.find(run.id)).status()).state == "cancelled"


async def _elsewhere(open_engine: OpenEngine, job: _Job) -> tuple[list[Engine], list[asyncio.Task[Any]]]:
    """Await a run that is suspended from two engines, the first of which began it; return them and their callers."""
    engines = [await open_engine(job.pipe, **EVICTED), await open_engine(job.pipe, slots=0, **EVICTED)]
    callers = [await job.suspended(engines[0]), job.await_it(engines[1])]
    async with asyncio.timeout(20):
        while not engines[1]._live()._looking:
            await asyncio.sleep(0)
    return engines, callers


async def test_a_caller_elsewhere_goes_on_for_one_that_died(open_engine: OpenEngine) -> None:
    """JOB-10: whoever of the two had gone on with it."""
    job = _Job()
    engines, callers = await _elsewhere(open_engine, job)
    await job.go_on(engines[0])
    [died] = [number for number, engine in enumerate(engines) if runs_of(engine)]
    await kill(engines[died])
    await job.gate.reached(2)
    job.gate.open()
    assert await soon(callers[1 - died]) == "told"
    with pytest.raises((Cancelled, LeaseLost)):
        await soon(callers[died])


async def test_a_caller_elsewhere_leaves_it_alone(open_engine: OpenEngine) -> None:
    """RUN-17."""
    job = _Job()
    engines, (one, other) = await _elsewhere(open_engine, job)
    await _cancelled(other)
    await job.go_on(engines[0])
    job.gate.open()
    assert await soon(one) == "told"


async def test_a_run_that_a_caller_elsewhere_joined_goes_on_for_it(open_engine: OpenEngine) -> None:
    """RUN-17."""
    job = _Job()
    engines, (one, other) = await _elsewhere(open_engine, job)
    await _cancelled(one)
    await job.go_on(engines[0])
    job.gate.open()
    assert await soon(other) == "told"


async def test_a_store_that_has_no_connection_for_a_moment_is_asked_again(
    open_engine: OpenEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """STORE-11: whoever awaits a run that was woken, and cannot take it on just now, does so later."""
    job = _Job()
    engine = await open_engine(job.pipe, slots=0, **EVICTED)
    store, asked = engine._live().store, list[str | None]()
    plain = store.take_orphans

    async def take_orphans(worker: str, pipelines: Sequence[str], *, limit: int, run_id: str | None = None) -> Any:
        asked.append(run_id)
        if len(asked) <= 3:
            raise StoreUnavailable("it has no connection left to give")
        return await plain(worker, pipelines, limit=limit, run_id=run_id)

    monkeypatch.setattr(store, "take_orphans", take_orphans)
    caller = await job.suspended(engine)
    asked.clear()
    await job.go_on(engine)
    job.gate.open()
    assert await soon(caller) == "told"
    assert len(asked) > 3


async def test_a_caller_that_is_cancelled_while_the_store_is_away_is_cancelled(
    open_engine: OpenEngine, monkeypatch: pytest.MonkeyPatch
):
    """RUN-17: `asyncio.timeout` and task groups must see it; another error in its place would end them otherwise."""
    pipe, gate = Pipeline("cancelled"), Gate()

    @pipe.asset
    async def job() -> int:
        await gate()
        return 1

    async def away(*given: object, **options: object) -> None:
        raise StoreUnavailable("nobody answers")

    engine = await open_engine(pipe)
    run = asyncio.create_task(engine.run(job))
    await gate.reached()
    with monkeypatch.context() as patch:
        patch.setattr(engine._live().store, "cancel", away)
        await _cancelled(run)
    gate.open()
    assert await soon(engine.run(job)) == 1


async def test_whoever_awaits_a_run_does_not_read_all_of_its_gates_at_each_look(
    open_engine: OpenEngine, monkeypatch: pytest.MonkeyPatch
):
    """There may be one for each item of a scatter, and those that have ended are among them."""
    job = _Job()
    engine = await open_engine(job.pipe, **EVICTED)
    awaiting = await job.suspended(engine)
    store, looked = engine._live().store, Gate()
    read, run = list[str](), store.run

    async def of_run(run_id: str) -> Sequence[Any]:
        read.append(run_id)
        return ()

    async def look(run_id: str) -> Any:
        looked.open()
        await looked()
        return await run(run_id)

    with monkeypatch.context() as patch:
        patch.setattr(store.gates, "of_run", of_run)
        patch.setattr(store, "run", look)
        await looked.reached(3)
    assert not read
    await _cancelled(awaiting)
