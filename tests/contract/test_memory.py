"""What is particular to the memory store: threads and loops, its capped history, mistakes that it tells of at once."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import pytest

from flowstone_async.errors import ConfigError
from flowstone_async.store.memory import MemoryStore
from flowstone_async.store.records import Advance, AssetDone
from flowstone_async.types import AssetKey
from tests.contract.builders import (
    Drive,
    act,
    completed,
    current_of,
    done,
    event,
    identifier,
    key,
    materialization,
    state_of,
    worker,
)
from tests.contract.clock import SetClock

T = TypeVar("T")
NUMBERS, TOTAL = key("numbers"), key("total")


@pytest.fixture
def memory() -> MemoryStore:
    return MemoryStore(SetClock())


async def start(store: MemoryStore, *claims: AssetKey) -> Drive:
    """Start a run of a worker of its own."""
    owner = worker()
    await store.open(owner, lease=30, lost=lambda: None)
    return await Drive.start(store, owner, *claims)


def in_threads(*works: Coroutine[object, object, T]) -> list[T]:
    """Run each in a loop and thread of its own, at the same time."""
    with ThreadPoolExecutor(len(works)) as pool:
        running = [pool.submit(asyncio.run, work) for work in works]
        return [work.result() for work in running]


def test_it_is_tied_to_no_loop(memory: MemoryStore) -> None:
    drive = asyncio.run(start(memory, NUMBERS))
    made = materialization(NUMBERS, drive.id)
    asyncio.run(drive.advance("asset.finished", done=(completed(made),)))

    assert asyncio.run(current_of(memory, NUMBERS)) == made.id


def test_threads_hold_a_key_one_at_a_time(memory: MemoryStore) -> None:
    holders: list[str] = []
    names = [key("numbers", f"i:{no}") for no in range(5)]

    async def work() -> int:
        granted = 0
        for no in range(150):
            name = names[no % len(names)]
            drive = await start(memory)
            while not (await drive.advance("asset.started", claims=(name,))).claims[name].granted:
                await memory.changed(f"key:{name}", within=0.01)
            holders.append(name.partition)
            assert holders.count(name.partition) == 1
            holders.remove(name.partition)
            made = materialization(name, drive.id)
            answer = await drive.advance(done=(completed(made, payload=b"value"),))
            granted += answer.accepted
            await drive.finish()
        return granted

    assert in_threads(work(), work(), work(), work()) == [150] * 4
    states = asyncio.run(memory.states(names))
    payloads = [asyncio.run(memory.values.payload(state.current.id)) for state in states.values() if state.current]
    assert payloads == [b"value"] * 5
    assert asyncio.run(memory.durations("sales", ["numbers"])) == {"numbers": 1.5}


def test_a_change_in_one_thread_wakes_who_waits_in_another(memory: MemoryStore) -> None:
    drive = asyncio.run(start(memory))
    waits = threading.Event()

    async def wait() -> str:
        waiting = asyncio.create_task(memory.changed(f"run:{drive.id}", within=3600))
        await asyncio.sleep(0)
        waits.set()
        async with asyncio.timeout(60):
            await waiting
        return "woken"

    async def change() -> str:
        await asyncio.to_thread(waits.wait, 60)
        await drive.finish()
        return "changed"

    assert in_threads(wait(), change()) == ["woken", "changed"]


async def test_who_no_longer_waits_is_forgotten(memory: MemoryStore) -> None:
    drive = await start(memory)
    topics = ["run:a", "run:a", "key:b", f"run:{drive.id}"]
    waiting = [asyncio.create_task(memory.changed(topic, within=3600)) for topic in topics]
    brief = asyncio.create_task(memory.changed("key:c", within=0.001))
    await asyncio.sleep(0)
    assert sum(map(len, memory._memory.waiters.topics.values())) == 5

    for task in waiting[:3]:
        task.cancel()
    await drive.finish()
    await asyncio.gather(*waiting, brief, return_exceptions=True)

    assert memory._memory.waiters.topics == {}


def test_a_change_does_not_mind_a_waiter_whose_loop_is_gone(memory: MemoryStore) -> None:
    drive = asyncio.run(start(memory))
    loop = asyncio.new_event_loop()
    task = loop.create_task(memory.changed(f"run:{drive.id}", within=3600))
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()

    answer = asyncio.run(drive.finish())

    assert answer.accepted
    assert not task.done()
    task._log_destroy_pending = False  # type: ignore[attr-defined]


async def test_a_step_starts_no_task(memory: MemoryStore) -> None:
    before = asyncio.all_tasks()
    drive = await start(memory)
    await drive.compute(NUMBERS)
    await drive.finish()

    assert asyncio.all_tasks() == before


async def test_the_history_keeps_the_runs_that_ended_last() -> None:
    store = MemoryStore(SetClock(), history=3)
    active = await start(store)
    ended = [await start(store) for _ in range(5)]
    for drive in reversed(ended):
        await drive.compute(key("numbers", drive.id))
        await drive.finish()

    kept = {run.id for run in await store.runs(pipelines=["sales"])}
    assert kept == {active.id, *(drive.id for drive in ended[:3])}
    assert await store.events(ended[4].id) == ()
    assert {stored.run_id for stored in await store.all_events(pipelines=["sales"])} == kept
    assert (await state_of(store, key("numbers", ended[4].id))).state == "completed"


async def test_the_log_does_not_grow_with_runs_that_are_forgotten() -> None:
    store = MemoryStore(SetClock(), history=2)
    active = await start(store)
    for _ in range(2000):
        drive = await start(store)
        await drive.finish(audit=(act(run_id=drive.id),))

    assert len(store._memory.log._entries) < 1100
    assert len(await store.audit(limit=10_000)) == 20
    read = await store.all_events(pipelines=["sales"])
    assert [stored.cursor for stored in read] == [1, 3998, 3999, 4000, 4001]
    assert read[0].run_id == active.id


async def test_what_is_superseded_is_dropped_at_once(memory: MemoryStore) -> None:
    drive = await start(memory, NUMBERS)
    first, second = materialization(NUMBERS, drive.id), materialization(NUMBERS, drive.id)
    await memory.values.append_chunk(first.id, 0, b"chunk")
    await drive.advance(done=(completed(first, payload=b"first"),), claims=(NUMBERS,))

    await drive.advance(done=(completed(second, payload=b"second"),))

    assert await memory.values.payload(first.id) is None
    assert [chunk async for chunk in memory.values.chunks(first.id)] == []
    assert await memory.upstream(first.id) == ()
    assert await memory.values.payload(second.id) == b"second"


async def test_what_is_invalidated_is_dropped_at_once(memory: MemoryStore) -> None:
    drive = await start(memory, NUMBERS)
    made = materialization(NUMBERS, drive.id)
    await drive.advance(done=(completed(made, payload=b"value"),))

    await memory.invalidate([NUMBERS], cascade=False)

    assert await memory.values.payload(made.id) is None


async def test_handles_are_closed_apart(memory: MemoryStore) -> None:
    first, second = memory.share(), memory.share()
    ours, theirs = worker(), worker()
    await first.open(ours, lease=30, lost=lambda: None)
    await second.open(theirs, lease=30, lost=lambda: None)
    drives = [await Drive.start(first, ours), await Drive.start(second, theirs)]

    await first.close()
    await memory.close()

    assert not (await drives[0].advance("asset.started")).accepted
    assert (await drives[1].advance("asset.started")).accepted


async def test_a_worker_that_expires_hears_it_once_in_its_loop(memory: MemoryStore) -> None:
    heard: list[object] = []
    owner = worker()
    await memory.open(owner, lease=30, lost=lambda: heard.append(asyncio.get_running_loop()))

    await asyncio.to_thread(memory.expire, owner.id)
    memory.expire(owner.id)
    memory.expire(identifier())
    await memory.close()
    await asyncio.sleep(0)

    assert heard == [asyncio.get_running_loop()]


async def test_a_lease_does_not_expire_of_its_own_accord() -> None:
    clock = SetClock()
    store = MemoryStore(clock)
    owner = worker()
    await store.open(owner, lease=30, lost=lambda: None)
    drive = await Drive.start(store, owner)
    clock.advance(10_000)

    assert await store.take_orphans(identifier(), ["sales"], limit=1) == ()
    assert (await drive.advance("asset.started")).accepted


async def test_an_outcome_without_its_claim_is_a_mistake_and_writes_nothing(memory: MemoryStore) -> None:
    drive = await start(memory)
    made = materialization(NUMBERS, drive.id)

    with pytest.raises(RuntimeError, match="without holding its claim"):
        await drive.advance("asset.finished", done=(completed(made, payload=b"x"),), claims=(TOTAL,), audit=(act(),))

    assert await memory.states([NUMBERS, TOTAL]) == {}
    assert await memory.events(drive.id) == (event(1, "run.started"),)
    assert await memory.audit() == ()


async def test_a_gap_in_the_events_of_a_run_is_a_mistake_and_writes_nothing(memory: MemoryStore) -> None:
    drive = await start(memory)

    with pytest.raises(RuntimeError, match="does not follow"):
        await memory.advance(Advance(run_id=drive.id, fence=1, events=(event(3),), claims=(NUMBERS,), audit=(act(),)))

    assert await memory.states([NUMBERS]) == {}
    assert await memory.events(drive.id) == (event(1, "run.started"),)
    assert await memory.audit() == ()


async def test_outcomes_of_one_run_are_told_apart_from_those_of_another(memory: MemoryStore) -> None:
    first, second = await start(memory, NUMBERS), await start(memory)

    with pytest.raises(RuntimeError):
        await second.advance(done=(AssetDone(key=NUMBERS, outcome="failed"),))

    assert (await first.advance(done=(done(NUMBERS, "cancelled"),))).accepted


async def test_threads_claim_each_key_once(memory: MemoryStore) -> None:
    names = [key("numbers", f"i:{no}") for no in range(500)]

    async def claim() -> list[str]:
        drive = await start(memory)
        answers = [await drive.advance(claims=(name,)) for name in names]
        granted = [answer.claims for answer in answers]
        return [name.partition for claims in granted for name, claimed in claims.items() if claimed.granted]

    granted = await asyncio.to_thread(in_threads, claim(), claim(), claim())

    assert Counter(partition for one in granted for partition in one) == Counter(name.partition for name in names)


async def test_it_takes_part_in_no_transaction(memory: MemoryStore) -> None:
    with pytest.raises(ConfigError, match="takes part in no transaction"):
        async with memory.steps.transaction(identifier(), 1, identifier()):
            raise AssertionError
