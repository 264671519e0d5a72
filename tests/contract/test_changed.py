"""Waiting for a change: woken by it, in whichever engine it happened, and at the latest when time is up."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

import pytest

from flowstone_async.store.protocol import Store
from tests.contract.builders import Drive, completed, done, event, failure, identifier, key, materialization, state_of
from tests.contract.stores import Engine, Stores

NUMBERS = key("numbers", "d:2025-01-15")
NEVER = 3600.0
SOON = 60.0


async def settle() -> None:
    """Let tasks that were just started reach their first wait."""
    for _ in range(10):
        await asyncio.sleep(0)


async def woken(store: Store, topic: str, change: Awaitable[object]) -> None:
    """Fail unless a change wakes who waits for a topic, long before its time is up."""
    waiting = asyncio.create_task(store.changed(topic, within=NEVER))
    await settle()
    await change
    async with asyncio.timeout(SOON):
        await waiting


@pytest.mark.parametrize("where", ["own engine", "other engine"])
async def test_an_event_wakes_who_waits_for_the_run(stores: Stores, where: str) -> None:
    engine, other = await stores.engine(), await stores.engine()
    drive = await engine.start()

    await woken((engine if where == "own engine" else other).store, f"run:{drive.id}", drive.advance("asset.started"))


async def test_the_end_of_a_run_wakes(stores: Stores) -> None:
    engine, other = await stores.engine(), await stores.engine()
    drive = await engine.start()

    await woken(other.store, f"run:{drive.id}", drive.finish())


async def test_a_cancellation_wakes_the_owner(stores: Stores) -> None:
    engine, other = await stores.engine(), await stores.engine()
    drive = await engine.start()

    await woken(engine.store, f"run:{drive.id}", other.store.cancel(drive.id, (event(1, "run.cancelled"),), ()))


@pytest.mark.parametrize("way", ["completed", "failed", "released", "finished", "cancelled"])
async def test_the_release_of_a_key_wakes_who_was_refused_it(stores: Stores, way: str) -> None:
    engine, other = await stores.engine(), await stores.engine()
    holder, waiting = await engine.start(NUMBERS), await other.start()
    refused = await waiting.advance(claims=(NUMBERS,))
    assert not refused.claims[NUMBERS].granted

    ways: dict[str, Awaitable[object]] = {
        "completed": holder.advance(done=(completed(materialization(NUMBERS, holder.id)),)),
        "failed": holder.advance(done=(done(NUMBERS, "failed", error=failure()),)),
        "released": holder.advance(releases=(NUMBERS,)),
        "finished": holder.finish(),
        "cancelled": engine.store.cancel(holder.id, (), ()),
    }
    chosen = ways.pop(way)
    for unused in ways.values():
        unused.close()  # type: ignore[attr-defined]

    await woken(other.store, f"key:{NUMBERS}", chosen)
    assert (await waiting.advance(claims=(NUMBERS,))).claims[NUMBERS].granted


async def test_a_key_that_loses_its_run_wakes_who_was_refused_it(stores: Stores) -> None:
    dying, engine = await stores.engine(), await stores.engine()
    await dying.start(NUMBERS, continuable=False)
    waiting = await engine.start()
    await waiting.advance(claims=(NUMBERS,))
    await stores.kill(dying)

    [taken] = await engine.store.take_orphans(engine.worker.id, ["sales"], limit=10)

    failing = engine.store.fail(taken.id, taken.fence, failure(), (), ())
    await woken(engine.store, f"key:{NUMBERS}", failing)


async def test_all_that_wait_are_woken(stores: Stores) -> None:
    engines = [await stores.engine() for _ in range(3)]
    drive = await engines[0].start()
    waiting = [
        asyncio.create_task(engine.store.changed(f"run:{drive.id}", within=NEVER)) for engine in engines for _ in "abc"
    ]
    await settle()

    await drive.finish()

    async with asyncio.timeout(SOON):
        await asyncio.gather(*waiting)


async def test_who_is_not_woken_returns_when_time_is_up(store: Store) -> None:
    async with asyncio.timeout(SOON):
        await store.changed(f"run:{identifier()}", within=0.01)
        await store.changed("key:sales.numbers", within=0.0)


async def test_who_gives_up_waiting_leaves_the_others_waiting(engine: Engine) -> None:
    drive = await engine.start()

    async def wait_for_ever() -> None:
        while True:  # a hint may come at any time
            await engine.store.changed(f"run:{drive.id}", within=NEVER)

    async def wait_for_the_end() -> None:
        while (run := await engine.store.run(drive.id)) is None or run.state == "running":
            await engine.store.changed(f"run:{drive.id}", within=NEVER)

    impatient, patient = asyncio.create_task(wait_for_ever()), asyncio.create_task(wait_for_the_end())
    await settle()

    impatient.cancel()
    with pytest.raises(asyncio.CancelledError):
        await impatient
    await drive.finish()

    async with asyncio.timeout(SOON):
        await patient


async def test_looking_and_waiting_in_turn_sees_every_hand_over(stores: Stores) -> None:
    """How the engine uses it: claim, and when refused wait for the release and claim again."""
    engines = [await stores.engine() for _ in range(3)]
    order: list[str] = []

    async def compute(drive: Drive) -> None:
        while not (await drive.advance(claims=(NUMBERS,))).claims[NUMBERS].granted:
            await drive.store.changed(f"key:{NUMBERS}", within=0.5)
        order.append(drive.id)
        await drive.advance(done=(completed(materialization(NUMBERS, drive.id)),))

    drives = [await engines[no % 3].start() for no in range(9)]
    async with asyncio.timeout(SOON):
        await asyncio.gather(*map(compute, drives))

    assert sorted(order) == [drive.id for drive in drives]
    assert (await state_of(engines[0].store, NUMBERS)).run_id == order[-1]
