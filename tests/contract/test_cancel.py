"""Cancelling a run from outside: recorded at once, and nothing of the run commits from then on (RUN-26)."""

from __future__ import annotations

import asyncio

import pytest

from flowstone_async.store.protocol import Store
from flowstone_async.store.records import Advance
from tests.contract.builders import (
    act,
    completed,
    event,
    identifier,
    key,
    materialization,
    run_record,
    state_of,
)
from tests.contract.clock import SetClock
from tests.contract.stores import Engine, Stores

NUMBERS, TOTAL = key("numbers"), key("total")


async def test_a_cancelled_run_is_final_and_its_fence_has_moved(engine: Engine, clock: SetClock) -> None:
    drive = await engine.start()
    clock.advance(5)

    cancelled = await engine.store.cancel(drive.id, (), ())

    assert cancelled is not None
    assert (cancelled.state, cancelled.finished_at, cancelled.error) == ("cancelled", clock.now(), None)
    assert cancelled.fence > drive.run.fence
    assert await engine.store.run(drive.id) == cancelled


async def test_what_it_was_computing_is_cancelled_and_free(stores: Stores) -> None:
    first, second = await stores.engine(), await stores.engine()
    earlier = await (await first.start()).compute(NUMBERS)
    drive = await first.start(NUMBERS, TOTAL)

    await second.store.cancel(drive.id, (), ())

    numbers, total = await state_of(first.store, NUMBERS), await state_of(first.store, TOTAL)
    assert (numbers.state, numbers.run_id, numbers.claimed_by) == ("cancelled", drive.id, None)
    assert (total.state, total.run_id, total.claimed_by) == ("cancelled", drive.id, None)
    assert (numbers.current, total.current) == (earlier, None)


async def test_what_it_had_computed_stays(engine: Engine) -> None:
    drive = await engine.start()
    made = await drive.compute(NUMBERS)

    await engine.store.cancel(drive.id, (), ())

    state = await state_of(engine.store, NUMBERS)
    assert (state.state, state.current) == ("completed", made)


async def test_nothing_of_it_commits_any_more(engine: Engine) -> None:
    drive = await engine.start(NUMBERS)
    await engine.store.cancel(drive.id, (), ())

    late = await drive.advance(
        "asset.finished", done=(completed(materialization(NUMBERS, drive.id)),), claims=(TOTAL,), audit=(act(),)
    )
    end = await drive.finish()

    assert not late.accepted
    assert not end.accepted
    assert (await state_of(engine.store, NUMBERS)).current is None
    assert (await state_of(engine.store, TOTAL)).claimed_by is None
    assert [told.no for told in await engine.store.events(drive.id)] == [1]
    assert await engine.store.audit() == ()


async def test_its_events_follow_the_last_and_its_acts_are_kept(engine: Engine) -> None:
    drive = await engine.start()
    await drive.advance("asset.started", "asset.finished")
    given = (event(1, "run.cancelled", why="asked"), event(1, "run.finished"))

    await engine.store.cancel(drive.id, given, (act("run.cancelled", drive.id, actor="ann", actor_kind="person"),))

    told = await engine.store.events(drive.id)
    assert [one.no for one in told] == [1, 2, 3, 4, 5]
    assert [one._replace(no=1) for one in told[3:]] == list(given)
    assert [stored.event for stored in await engine.store.all_events(pipelines=["sales"])] == list(told)
    assert [entry.actor for _, _, entry in await engine.store.audit()] == ["ann"]


async def test_an_unknown_run_is_not_cancelled(store: Store) -> None:
    assert await store.cancel(identifier(), (event(1),), (act(),)) is None
    assert await store.audit() == ()


@pytest.mark.parametrize("state", ["succeeded", "failed", "cancelled"])
async def test_a_run_that_has_ended_is_unchanged(engine: Engine, clock: SetClock, state: str) -> None:
    drive = await engine.start()
    await drive.finish(state)
    before = await engine.store.run(drive.id)
    clock.advance(1)

    assert await engine.store.cancel(drive.id, (event(1),), (act(),)) == before

    assert await engine.store.run(drive.id) == before
    assert len(await engine.store.events(drive.id)) == 2
    assert await engine.store.audit() == ()


async def test_cancelling_twice_cancels_once(stores: Stores) -> None:
    engines = [await stores.engine(), await stores.engine()]
    drive = await engines[0].start()

    records = await asyncio.gather(
        *(engines[no % 2].store.cancel(drive.id, (event(1, "run.cancelled"),), (act(),)) for no in range(6))
    )

    assert all(record == records[0] for record in records)
    assert [told.type for told in await engines[0].store.events(drive.id)] == ["run.started", "run.cancelled"]
    assert len(await engines[0].store.audit()) == 1


async def test_a_queued_run_is_cancelled_before_it_starts(engine: Engine) -> None:
    record = run_record(None, state="queued")
    await engine.store.advance(Advance(run_id=record.id, fence=1, create=record))

    cancelled = await engine.store.cancel(record.id, (event(7, "run.cancelled"),), ())

    assert cancelled is not None
    assert cancelled.state == "cancelled"
    assert [told.no for told in await engine.store.events(record.id)] == [1]


async def test_of_cancel_and_finish_at_once_one_wins(stores: Stores) -> None:
    owner, other = await stores.engine(), await stores.engine()
    for no in range(20):
        drive = await owner.start(NUMBERS)
        finish = drive.finish(done=(completed(materialization(NUMBERS, drive.id)),))
        cancel = other.store.cancel(drive.id, (event(1, "run.cancelled"),), ())
        if no % 2:
            answer, cancelled = await asyncio.gather(finish, cancel)
        else:
            cancelled, answer = await asyncio.gather(cancel, finish)

        run = await owner.store.run(drive.id)
        state = await state_of(owner.store, NUMBERS)
        last = (await owner.store.events(drive.id))[-1].type
        assert run is not None
        assert cancelled == run
        assert (run.state, last, state.state) == (
            ("succeeded", "run.finished", "completed")
            if answer.accepted
            else ("cancelled", "run.cancelled", "cancelled")
        )
        assert state.claimed_by is None
