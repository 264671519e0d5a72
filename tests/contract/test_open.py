"""Opening and closing: a worker is registered under its lease, and leaves nothing behind."""

from __future__ import annotations

import asyncio

from flowstone_async.store.protocol import Store
from flowstone_async.store.records import Advance
from tests.contract.builders import act, key, run_record
from tests.contract.clock import SetClock
from tests.contract.stores import Stores


async def test_the_stores_clock_is_the_one_that_was_given(store: Store, clock: SetClock) -> None:
    assert store.now() == clock.now()
    clock.advance(90)
    assert store.now() == clock.now()


async def test_a_store_says_that_it_answers(store: Store) -> None:
    facts = await store.health()

    latency = facts["latency"]
    assert isinstance(latency, float)
    assert latency >= 0


async def test_engines_on_one_store_see_the_same_records(stores: Stores) -> None:
    first, second = await stores.engine(), await stores.engine()
    drive = await first.start()

    made = await drive.compute(key("numbers"))

    assert [state.current for state in (await second.store.states([key("numbers")])).values()] == [made]
    assert await second.store.run(drive.id) == await first.store.run(drive.id)


async def test_records_outlive_the_engine_that_wrote_them(stores: Stores) -> None:
    first = await stores.engine()
    drive = await first.start()
    made = await drive.compute(key("numbers"))
    await drive.finish(audit=(act(),))
    await first.store.close()

    second = await stores.engine()

    assert [state.current for state in (await second.store.states([key("numbers")])).values()] == [made]
    assert len(await second.store.audit()) == 1


async def test_closing_twice_is_harmless(stores: Stores) -> None:
    engine = await stores.engine()

    await engine.store.close()
    await engine.store.close()

    assert not engine.lost.is_set()


async def test_without_a_lease_records_are_read_and_runs_are_queued(stores: Stores) -> None:
    writer, reader = await stores.engine(), await stores.engine(lease=None)
    made = await (await writer.start()).compute(key("numbers"))
    queued = run_record(None, state="queued")

    answer = await reader.store.advance(Advance(run_id=queued.id, fence=1, create=queued))

    assert answer.accepted
    assert [state.current for state in (await reader.store.states([key("numbers")])).values()] == [made]


async def test_a_lease_that_is_kept_is_not_lost(stores: Stores) -> None:
    first, second = await stores.engine(), await stores.engine()
    drive = await first.start()
    await stores.kill(second)

    assert (await drive.advance("asset.started")).accepted
    assert not first.lost.is_set()


async def test_a_worker_hears_that_its_lease_is_lost(stores: Stores) -> None:
    engine, other = await stores.engine(lease=4), await stores.engine(lease=4)

    await stores.kill(engine)

    async with asyncio.timeout(60):
        await engine.lost.wait()
    assert not other.lost.is_set()


async def test_an_engine_opens_under_a_fresh_worker_after_another_died(stores: Stores) -> None:
    first = await stores.engine()
    drive = await first.start()
    await stores.kill(first)

    second = await stores.engine()

    [taken] = await second.store.take_orphans(second.worker.id, ["sales"], limit=1)
    assert taken.id == drive.id
