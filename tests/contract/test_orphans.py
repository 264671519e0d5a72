"""Runs whose owner died or gave them up go on under another worker (G-01, JOB-09, JOB-14)."""

from __future__ import annotations

import asyncio

from flowstone_async.errors import WorkerLost
from flowstone_async.failures import describe
from flowstone_async.store.records import Advance, Claimed, RunRecord
from tests.contract.builders import (
    Drive,
    act,
    completed,
    event,
    identifier,
    key,
    materialization,
    replace,
    run_record,
    state_of,
)
from tests.contract.clock import SetClock
from tests.contract.stores import Engine, Stores

NUMBERS, TOTAL = key("numbers"), key("total")


async def take(engine: Engine, *pipelines: str, limit: int = 100) -> tuple[RunRecord, ...]:
    return await engine.store.take_orphans(engine.worker.id, pipelines or ("sales",), limit=limit)


async def test_a_run_of_a_dead_worker_is_given_to_another_under_a_new_fence(stores: Stores) -> None:
    first, second = await stores.engine(), await stores.engine()
    drive = await first.start(NUMBERS, options={"force": True}, params='{"limit": 3}', partition="i:7")
    created = await first.store.run(drive.id)
    assert created is not None
    await stores.kill(first)

    [taken] = await take(second)

    assert taken.fence > created.fence
    assert taken == replace(created, worker=second.worker.id, fence=taken.fence, lost=1)
    assert await second.store.run(drive.id) == taken
    assert await take(second) == ()


async def test_its_new_owner_goes_on_where_it_stopped(stores: Stores) -> None:
    first, second = await stores.engine(), await stores.engine()
    drive = await first.start()
    made = await drive.compute(NUMBERS)
    await drive.advance("asset.started", claims=(TOTAL,))
    await stores.kill(first)
    [taken] = await take(second)
    told = len(await second.store.events(drive.id))
    heir = Drive(second.store, taken, told)

    assert (await state_of(second.store, NUMBERS)).current == made
    assert (await heir.advance("asset.finished", done=(completed(materialization(TOTAL, heir.id)),))).accepted
    assert (await heir.finish()).accepted
    assert [one.no for one in await second.store.events(drive.id)] == list(range(1, told + 3))
    assert (await state_of(second.store, TOTAL)).state == "completed"


async def test_claims_stay_with_the_run_and_count_the_owners_that_died(stores: Stores) -> None:
    first, second, third, other = [await stores.engine() for _ in range(4)]
    drive = await first.start(NUMBERS)
    waiting = await other.start()
    await stores.kill(first)
    [taken] = await take(second)
    heir = Drive(second.store, taken, drive.told)

    answer = await heir.advance(claims=(NUMBERS, TOTAL))
    refused = await waiting.advance(claims=(NUMBERS,))

    assert answer.claims[NUMBERS] == Claimed(granted=True, holder=drive.id, current=None, lost=1)
    assert answer.claims[TOTAL] == Claimed(granted=True, holder=drive.id, current=None, lost=0)
    assert (refused.claims[NUMBERS].granted, refused.claims[NUMBERS].holder) == (False, drive.id)

    await stores.kill(second)
    [taken] = await take(third)
    answer = await Drive(third.store, taken, drive.told).advance(claims=(NUMBERS, TOTAL))
    assert (taken.lost, answer.claims[NUMBERS].lost, answer.claims[TOTAL].lost) == (2, 2, 1)


async def test_a_claim_that_ended_takes_its_count_with_it(stores: Stores) -> None:
    first, second = await stores.engine(), await stores.engine()
    drive = await first.start(NUMBERS)
    await stores.kill(first)
    [taken] = await take(second)
    heir = Drive(second.store, taken, drive.told)
    await heir.advance(claims=(NUMBERS,))
    await heir.advance(releases=(NUMBERS,))

    answer = await heir.advance(claims=(NUMBERS,))

    assert answer.claims[NUMBERS].lost == 0


async def test_only_runs_of_dead_workers_are_orphans(stores: Stores) -> None:
    first, second, third = [await stores.engine() for _ in range(3)]
    orphan = await first.start()
    ended = await first.start()
    await ended.finish()
    cancelled = await first.start()
    await second.store.cancel(cancelled.id, (), ())
    await second.start()
    await third.start()
    queued = run_record(None, state="queued")
    await first.store.advance(Advance(run_id=queued.id, fence=1, create=queued))
    await stores.kill(first)

    assert [run.id for run in await take(third)] == [orphan.id]


async def test_a_live_workers_runs_are_its_own(engine: Engine) -> None:
    await engine.start()

    assert await take(engine) == ()


async def test_only_runs_of_the_pipelines_asked_for_are_taken(stores: Stores) -> None:
    first, second = await stores.engine("sales", "other"), await stores.engine("sales", "other")
    ours, theirs = await first.start(), await first.start(pipeline="other", continuable=False)
    await stores.kill(first)

    assert [run.id for run in await take(second, "sales", "nothing")] == [ours.id]
    left = await second.store.run(theirs.id)
    assert left is not None
    assert left.state == "running"


async def test_at_most_limit_runs_are_taken_at_once(stores: Stores) -> None:
    first, second = await stores.engine(), await stores.engine()
    drives = [await first.start() for _ in range(5)]
    await stores.kill(first)

    taken = [await take(second, limit=2) for _ in range(4)]

    assert [len(runs) for runs in taken] == [2, 2, 1, 0]
    assert {run.id for runs in taken for run in runs} == {drive.id for drive in drives}


async def test_several_workers_at_once_take_each_run_once(stores: Stores) -> None:
    first, *others = [await stores.engine() for _ in range(4)]
    drives = [await first.start(key("numbers", f"i:{no}")) for no in range(12)]
    await stores.kill(first)

    rounds = [await asyncio.gather(*(take(other, limit=3) for other in others)) for _ in range(4)]

    taken = [run for answers in rounds for runs in answers for run in runs]
    assert sorted(run.id for run in taken) == [drive.id for drive in drives]
    assert all(run.lost == 1 for run in taken)


async def test_a_dead_worker_takes_nothing(stores: Stores) -> None:
    first, second = await stores.engine(), await stores.engine()
    await first.start()
    await stores.kill(first)
    await stores.kill(second)

    assert await (await stores.engine()).store.take_orphans(second.worker.id, ["sales"], limit=10) == ()


LOST = describe(WorkerLost("its worker died"))


async def test_a_run_that_cannot_be_continued_is_given_too_to_be_ended(stores: Stores, clock: SetClock) -> None:
    first, second = await stores.engine(), await stores.engine()
    earlier = await (await second.start()).compute(NUMBERS)
    drive = await first.start(NUMBERS, continuable=False)
    told = len(await second.store.events(drive.id))
    await stores.kill(first)
    clock.advance(1)
    [taken] = await take(second)
    assert (taken.id, taken.continuable, taken.lost) == (drive.id, False, 1)

    entry = act("run.failed", drive.id)
    ended = await second.store.fail(taken.id, taken.fence, LOST, (event(0, "run.failed"), event(0)), (entry,))

    run, state = await second.store.run(drive.id), await state_of(second.store, NUMBERS)
    assert run is not None
    assert ended == run
    assert (run.state, run.finished_at, run.error) == ("failed", clock.now(), LOST)
    assert (state.state, state.run_id, state.claimed_by, state.error) == ("failed", drive.id, None, LOST)
    assert state.current == earlier
    assert [one.no for one in await second.store.events(drive.id)] == list(range(1, told + 3))
    for late in (drive, Drive(second.store, taken, told + 2)):
        assert not (await late.advance("asset.started")).accepted


async def test_failing_it_twice_changes_nothing_more(stores: Stores) -> None:
    """The reply to the first got lost."""
    first, second = await stores.engine(), await stores.engine()
    drive = await first.start(NUMBERS, continuable=False)
    await stores.kill(first)
    [taken] = await take(second)
    ended = await second.store.fail(taken.id, taken.fence, LOST, (event(0, "run.failed"),), (act("run.failed"),))
    events = await second.store.events(drive.id)

    again = await second.store.fail(taken.id, taken.fence, LOST, (event(0, "run.failed"),), (act("run.failed"),))

    assert again == ended
    assert await second.store.events(drive.id) == events


async def test_only_its_owner_fails_a_run(stores: Stores) -> None:
    first, second = await stores.engine(), await stores.engine()
    drive = await first.start(NUMBERS)
    before = await second.store.run(drive.id)
    handed = await first.start(TOTAL)
    await first.store.hand_back(handed.id, handed.run.fence)

    for fence in (drive.run.fence - 1, drive.run.fence + 1):
        assert await second.store.fail(drive.id, fence, LOST, (event(0),), ()) == before
    left = await second.store.fail(handed.id, handed.run.fence, LOST, (event(0),), ())
    assert await second.store.fail(identifier(), 1, LOST, (event(0),), ()) is None

    assert left is not None
    assert left.state == "running"
    assert (await drive.advance("asset.started")).accepted


async def test_a_run_that_was_handed_back_lost_no_owner(stores: Stores) -> None:
    first, second = await stores.engine(), await stores.engine()
    drive = await first.start(NUMBERS)

    await first.store.hand_back(drive.id, drive.run.fence)

    [taken] = await take(second)
    assert (taken.id, taken.worker, taken.lost) == (drive.id, second.worker.id, 0)
    assert taken.fence > drive.run.fence
    answer = await Drive(second.store, taken, drive.told).advance(claims=(NUMBERS,))
    assert answer.claims[NUMBERS] == Claimed(granted=True, holder=drive.id, current=None, lost=0)
    assert not (await drive.advance("asset.started")).accepted


async def test_nothing_commits_between_handing_back_and_taking(engine: Engine) -> None:
    drive = await engine.start()

    await engine.store.hand_back(drive.id, drive.run.fence)

    assert not (await drive.advance("asset.started")).accepted
    assert await engine.store.events(drive.id) == (event(1, "run.started"),)


async def test_a_run_that_was_handed_back_may_return_to_its_worker(engine: Engine) -> None:
    drive = await engine.start()
    await engine.store.hand_back(drive.id, drive.run.fence)

    [taken] = await take(engine)

    assert (await Drive(engine.store, taken, drive.told).advance("asset.started")).accepted


async def test_only_the_owner_hands_back(stores: Stores) -> None:
    first, second = await stores.engine(), await stores.engine()
    drive = await first.start()
    ended = await first.start()
    await ended.finish()

    await second.store.hand_back(drive.id, drive.run.fence + 1)
    await second.store.hand_back(drive.id, drive.run.fence - 1)
    await second.store.hand_back(ended.id, ended.run.fence)
    await second.store.hand_back(identifier(), 1)

    assert await take(second) == ()
    assert (await drive.advance("asset.started")).accepted


async def test_closing_hands_back_what_the_worker_owns(stores: Stores) -> None:
    first, second = await stores.engine(), await stores.engine()
    drives = [await first.start(key("numbers", f"i:{no}")) for no in range(3)]
    kept = await second.start()

    await first.store.close()
    await first.store.close()

    taken = await take(second)
    assert {run.id for run in taken} == {drive.id for drive in drives}
    assert all(run.lost == 0 for run in taken)
    assert (await kept.advance("asset.started")).accepted


async def test_a_run_whose_owner_dies_while_it_is_cancelled_is_no_orphan(stores: Stores) -> None:
    first, second = await stores.engine(), await stores.engine()
    drives = [await first.start() for _ in range(6)]
    await stores.kill(first)

    taking = asyncio.create_task(take(second))
    cancelled = await asyncio.gather(*(second.store.cancel(drive.id, (), ()) for drive in drives))
    taken = await taking

    assert all(run is not None and run.state == "cancelled" for run in cancelled)
    for run in taken:
        assert not (await Drive(second.store, run, 1).advance("asset.started")).accepted
    assert await take(second) == ()
