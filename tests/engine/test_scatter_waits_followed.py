"""Runs in which scatters follow others whose items wait (SCAT-26, SIG-07, STEP-06), and the slots of such runs."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from flowstone_async import Batch, Batching, Context, Engine, Gathered, Pipeline, WaitingSignal
from tests.engine.test_scatter_waits import EVICTED, IN_MEMORY, PARKED, RESIDENT, parked
from tests.support.crash import kill, look_for_orphans
from tests.support.engines import OpenEngine
from tests.support.gate import Gate, soon
from tests.support.waits import Desk, in_state, send

FAR: Any = {"poll": "30s"}
"""What is left to the poll is not done in time."""


class Chain:
    """A scatter whose items wait (but for `free`), two that follow it, the second of which may take batches."""

    def __init__(self, count: int, *, free: int = 1, batch: Batching | None = None) -> None:
        self.desk, self.calls, self.hold = Desk(), Counter[Any](), Gate()
        self.pipe, desk, calls = Pipeline("chain"), self.desk, self.calls
        self.hold.open()

        @self.pipe.scatter(range(count), max_concurrent=3, page_size=4)
        async def asked(number: int, ctx: Context) -> int:
            calls["asked", number] += 1
            if number < free:
                return number
            answer = await (await desk.made(ctx.signal(int, name=str(number))))
            await self.hold()
            return answer

        @self.pipe.scatter(asked)
        async def doubled(number: int) -> int:
            calls["doubled", number] += 1
            return 2 * number

        if batch is None:

            @self.pipe.scatter(doubled)
            async def told(number: int, ctx: Context) -> int:
                calls["told", number] += 1
                return number + await ctx.step(self._one)

            @told.gather
            async def total(results: Gathered[int]) -> list[int]:
                return sorted([each async for each in results])

        else:

            @self.pipe.scatter(doubled, batch=batch)
            async def told(numbers: Batch[int]) -> list[int]:
                calls["told", *sorted(numbers)] += 1
                return [number + 1 for number in numbers]

            @told.gather
            async def total(results: Gathered[list[int]]) -> list[int]:
                return sorted([each async for each in results.flat()])

        self.asked, self.total = asked, total

    async def _one(self) -> int:
        return 1

    async def signal(self, engine: Engine, *items: int) -> None:
        gates = {gate.name: gate.id for gate in self.desk.gates}
        for item in items:
            assert (await send(engine, gates[str(item)], int, item)).state == "accepted"


async def _without_tasks(*names: str) -> None:
    while any(name in task.get_name() for task in asyncio.all_tasks() for name in names):
        await asyncio.sleep(0)


async def test_a_run_whose_scatters_follow_one_that_waits_is_suspended(open_engine: OpenEngine):
    """SCAT-26, SIG-07: what is on record has gone down the chain; nothing is held, and each signal goes down in turn."""
    chain = Chain(5, free=2)
    engine = await open_engine(chain.pipe, **{**EVICTED, **FAR})
    with pytest.raises(WaitingSignal) as waits:
        await soon(engine.run(chain.total))
    assert sorted(gate["name"] for gate in waits.value.details["gates"]) == ["2", "3", "4"]
    await soon(_without_tasks("run ", "scatter ", "read "))
    assert {key for key in chain.calls if key[0] == "told"} == {("told", 0), ("told", 2)}
    run = await engine.find(waits.value.run_id)
    for left, item in ((2, 3), (1, 4)):
        await chain.signal(engine, item)
        await parked(engine, run, left)
        await in_state(engine, run.id, "waiting")
        assert chain.calls["told", 2 * item] == 1
    await chain.signal(engine, 2)
    assert await soon(run.result()) == [1, 3, 5, 7, 9]
    assert {count for key, count in chain.calls.items() if key[0] != "asked"} == {1}
    assert await engine._live().store.verify() == ()


async def test_whatever_happens_to_a_worker_another_goes_on_with_the_chain(open_engine: OpenEngine):
    """SIG-09: after it was suspended and after its worker has died beside the waits."""
    chain = Chain(4)
    engine = await open_engine(chain.pipe, **EVICTED)
    run = await engine.submit(chain.total)
    await parked(engine, run, 3)
    await in_state(engine, run.id, "waiting")
    await kill(engine)
    other = await open_engine(chain.pipe, **EVICTED)
    await chain.signal(other, 1)
    await parked(other, run, 2)
    await in_state(other, run.id, "waiting")
    await kill(other)
    third = await open_engine(chain.pipe, **EVICTED)
    await chain.signal(third, 3, 2)
    assert await soon((await third.find(run.id)).result()) == [1, 3, 5, 7]
    assert {count for key, count in chain.calls.items() if key[0] != "asked"} == {1}


async def test_leaving_an_engine_takes_no_grace_where_a_scatter_follows(open_engine: OpenEngine):
    """STEP-06: nothing is waited for that only waits."""
    chain = Chain(3)
    engine = await open_engine(chain.pipe, **PARKED, grace="60s")
    run = await engine.submit(chain.total)
    await chain.desk.gate(1)
    other = await open_engine(chain.pipe, **EVICTED, slots=0)
    await soon(engine.__aexit__(None, None, None))
    await parked(other, run, 2)
    await chain.signal(other, 1, 2)
    await look_for_orphans(other)
    assert await soon((await other.find(run.id)).result()) == [1, 3, 5]


@pytest.mark.parametrize("max_wait", [None, "20ms"])
async def test_a_short_batch_waits_for_what_it_follows_or_for_its_time(open_engine: OpenEngine, max_wait: str | None):
    """SCAT-26: a run with a batch that is not full is suspended; one that waits for its time is not before."""
    options: Any = {} if max_wait is None else {"max_wait": max_wait}
    chain = Chain(6, free=3, batch=Batching(max_items=2, **options))
    engine = await open_engine(chain.pipe, **EVICTED)
    run = await engine.submit(chain.total)
    await parked(engine, run, 3)
    await in_state(engine, run.id, "waiting")
    batches = sorted(len(key) - 1 for key in chain.calls if key[0] == "told")
    assert batches == ([2] if max_wait is None else [1, 2])
    await chain.signal(engine, 3, 4, 5)
    assert await soon(run.result()) == [1, 3, 5, 7, 9, 11]


async def test_items_of_both_wait(open_engine: OpenEngine):
    """SCAT-26: those of the scatter that follows as well."""
    pipe, desk = Pipeline("both"), Desk()

    @pipe.scatter(["a", "b"])
    async def first(item: str, ctx: Context) -> str:
        return await (await desk.made(ctx.signal(str, name=f"first {item}")))

    @pipe.scatter(first)
    async def second(item: str, ctx: Context) -> str:
        return item + await (await desk.made(ctx.signal(str, name=f"second {item}")))

    @second.gather
    async def both(results: Gathered[str]) -> list[str]:
        return sorted([each async for each in results])

    engine = await open_engine(pipe, **{**EVICTED, **FAR})
    run = await engine.submit(both)

    async def answer(name: str, text: str) -> None:
        while not (found := [gate for gate in desk.gates if gate.name == name]):
            await asyncio.sleep(0)
        await in_state(engine, run.id, "waiting")
        assert (await send(engine, found[0].id, str, text)).state == "accepted"

    await soon(answer("first a", "x"))
    await soon(answer("second x", "1"))
    await soon(answer("first b", "y"))
    await soon(answer("second y", "2"))
    assert await soon(run.result()) == ["x1", "y2"]


@IN_MEMORY
async def test_whoever_is_to_be_told_that_items_wait_does_not_wait_for_their_eviction(open_engine: OpenEngine):
    """APPR-03: once nothing goes on without somebody else, however long bodies may stay in memory."""
    chain = Chain(4)
    engine = await open_engine(chain.pipe, **{**PARKED, **FAR})
    with pytest.raises(WaitingSignal):
        await soon(engine.run(chain.total))
    await chain.signal(engine, 1, 2, 3)
    assert await soon(engine.run(chain.total)) == [1, 3, 5, 7]


async def test_workers_that_share_a_chain_leave_nothing_behind(open_engine: OpenEngine):
    """SCAT-16: what another worker has given is not overlooked by whoever suspends the run."""
    chain = Chain(24)
    engine = await open_engine(chain.pipe, **RESIDENT)
    other = await open_engine(chain.pipe, **RESIDENT)
    run = await engine.submit(chain.total)
    await parked(engine, run, 23)
    await chain.signal(other, *range(1, 24, 2))
    await parked(engine, run, 11)
    await in_state(engine, run.id, "waiting")
    assert {key for key in chain.calls if key[0] == "told"} == {("told", 2 * no) for no in [0, *range(1, 24, 2)]}
    await chain.signal(other, *range(2, 24, 2))
    assert await soon(run.result()) == [2 * number + 1 for number in range(24)]


# -- slots ----------------------------------------------------------------------------------------------------------


def _busy(engine: Engine) -> int:
    return engine._live().services.slots.busy


async def _is_busy(engine: Engine, number: int) -> None:
    while _busy(engine) != number:
        await asyncio.sleep(0)


@pytest.mark.parametrize("options", [PARKED, EVICTED], ids=["in memory", "in nobody's memory"])
@IN_MEMORY
async def test_a_run_whose_items_all_wait_leaves_its_slot_and_counts_again(open_engine: OpenEngine, options: Any):
    """STEP-06: at once, in memory or not, with scatters that follow; and before an item goes on."""
    chain = Chain(4)
    chain.hold.close()

    @chain.pipe.asset
    async def other() -> str:
        return "other"

    long = {**options, **FAR, "park_after": options["park_after"]}
    engine = await open_engine(chain.pipe, **long, slots=1)
    run = await engine.submit(chain.total)
    await chain.desk.gate(2)
    assert await soon((await engine.submit(other)).result()) == "other"
    await soon(_is_busy(engine, 0))

    await chain.signal(engine, 2)
    await soon(chain.hold.reached())
    for flight in engine._live().flights.values():
        flight.driver.consider()  # as with any event
    assert _busy(engine) == 1
    late = await engine.submit(other, force=True)
    assert (await late.status()).state == "queued"
    chain.hold.open()
    assert await soon(late.result()) == "other"
    await soon(_is_busy(engine, 0))
    await chain.signal(engine, 1, 3)
    assert await soon(run.result()) == [1, 3, 5, 7]
    await soon(_is_busy(engine, 0))
