"""The fencing token: a worker that no longer owns a run commits nothing of it, ever (G-02, JOB-08)."""

from __future__ import annotations

import asyncio

from flowstone_async.store.protocol import Store
from flowstone_async.store.records import Advance, RunDone
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
    replace,
    run_record,
    state_of,
)
from tests.contract.stores import Engine, Stores

NUMBERS, TOTAL, OTHER = key("numbers"), key("total"), key("other")


def everything(drive: Drive, payload: bytes = b"late") -> tuple[Advance, str]:
    """Return a step that would write something everywhere, and the id of its materialization."""
    made = materialization(NUMBERS, drive.id)
    step = drive.step(
        "asset.finished",
        done=(completed(made, payload=payload), done(OTHER, "skipped", claimed=False)),
        claims=(TOTAL,),
        audit=(act(),),
        finish=RunDone(state="succeeded"),
    )
    return step, made.id


async def contents(store: Store, run_id: str) -> object:
    """Return what a step of a run could have changed."""
    return (
        await store.run(run_id),
        await store.states([NUMBERS, TOTAL, OTHER]),
        await store.events(run_id),
        await store.all_events(pipelines=["sales"]),
        await store.audit(),
    )


async def taken_over(stores: Stores) -> tuple[Drive, Drive]:
    """Return a run twice: as its first owner drives it, who is dead, and as its second."""
    first, second = await stores.engine(), await stores.engine()
    stale = await first.start(NUMBERS)
    await stores.kill(first)
    [record] = await second.store.take_orphans(second.worker.id, ["sales"], limit=10)
    return stale, Drive(second.store, record, stale.told)


async def test_a_stale_step_writes_nothing(stores: Stores) -> None:
    stale, owner = await taken_over(stores)
    before = await contents(owner.store, owner.id)
    step, made = everything(stale)

    answer = await owner.store.advance(step)

    assert not answer.accepted
    assert (dict(answer.claims), answer.superseded) == ({}, ())
    assert await contents(owner.store, owner.id) == before
    assert await owner.store.values.payload(made) is None


async def test_the_new_owner_commits_what_the_old_one_may_not(stores: Stores) -> None:
    stale, owner = await taken_over(stores)
    await owner.store.advance(everything(stale)[0])
    step, made = everything(owner, b"value")

    answer = await owner.store.advance(step)

    assert answer.accepted
    assert await current_of(owner.store, NUMBERS) == made
    assert await owner.store.values.payload(made) == b"value"


async def test_the_steps_of_a_dead_worker_are_refused_before_anybody_takes_its_runs(stores: Stores) -> None:
    first, second = await stores.engine(), await stores.engine()
    stale = await first.start(NUMBERS)
    await stores.kill(first)
    before = await contents(second.store, stale.id)

    assert not (await second.store.advance(everything(stale)[0])).accepted
    assert await contents(second.store, stale.id) == before


async def test_a_dead_worker_starts_no_run(stores: Stores) -> None:
    first, second = await stores.engine(), await stores.engine()
    await stores.kill(first)
    record = run_record(first.worker.id)

    answer = await second.store.advance(
        Advance(run_id=record.id, fence=1, create=record, claims=(NUMBERS,), events=(event(1),))
    )

    assert not answer.accepted
    assert await second.store.run(record.id) is None
    assert await second.store.states([NUMBERS]) == {}


async def test_a_worker_that_never_opened_the_store_starts_no_run(engine: Engine) -> None:
    record = run_record(identifier())

    answer = await engine.store.advance(Advance(run_id=record.id, fence=1, create=record, events=(event(1),)))

    assert not answer.accepted
    assert await engine.store.run(record.id) is None


async def test_a_worker_without_a_lease_starts_no_run(stores: Stores) -> None:
    engine = await stores.engine(lease=None)
    record = run_record(engine.worker.id)

    assert not (await engine.store.advance(Advance(run_id=record.id, fence=1, create=record))).accepted


async def test_a_run_that_nobody_owns_goes_no_further(engine: Engine) -> None:
    record = run_record(None, state="queued")
    create = Advance(run_id=record.id, fence=1, create=record, events=(event(1, "run.submitted"),))
    first = await engine.store.advance(create)

    late = await engine.store.advance(Advance(run_id=record.id, fence=1, events=(event(2),), claims=(NUMBERS,)))

    assert (first.accepted, late.accepted) == (True, False)
    assert await engine.store.advance(create) == first
    assert await engine.store.events(record.id) == create.events
    assert await engine.store.states([NUMBERS]) == {}


async def test_a_fence_that_was_never_given_is_refused(engine: Engine) -> None:
    drive = await engine.start(NUMBERS)
    before = await contents(engine.store, drive.id)

    for fence in (0, 2, 99):
        step = replace(Drive(engine.store, drive.run, drive.told).step("asset.failed", audit=(act(),)), fence=fence)
        assert not (await engine.store.advance(step)).accepted

    assert await contents(engine.store, drive.id) == before


async def test_a_stale_step_leaves_steps_of_other_runs_at_the_same_time_alone(stores: Stores) -> None:
    stale, owner = await taken_over(stores)
    engine = await stores.engine()
    slices = [key("numbers", f"i:{no}") for no in range(20)]
    drives = [await engine.start(name) for name in slices]
    records = [materialization(name, drive.id) for name, drive in zip(slices, drives, strict=True)]
    steps = [drive.step("asset.finished", done=(completed(made),)) for drive, made in zip(drives, records, strict=True)]

    # All through one store, so that one that groups commits has them in one transaction.
    answers = await asyncio.gather(
        *(engine.store.advance(step) for step in [*steps[:10], everything(stale)[0], *steps[10:]])
    )

    assert [answer.accepted for answer in answers] == [True] * 10 + [False] + [True] * 10
    states = await engine.store.states(slices)
    assert [states[name].current for name in slices] == [
        replace(made, committed_at=answer.at) for made, answer in zip(records, answers[:10] + answers[11:], strict=True)
    ]
    assert (await state_of(engine.store, NUMBERS)).claimed_by == owner.id


async def test_a_fence_that_moved_stays_moved(stores: Stores) -> None:
    stale, second = await taken_over(stores)
    third = await stores.engine()
    await second.store.hand_back(second.id, second.run.fence)
    [record] = await third.store.take_orphans(third.worker.id, ["sales"], limit=10)

    fences = [stale.run.fence, second.run.fence, record.fence]
    assert fences == sorted(set(fences))
    assert not (await third.store.advance(everything(stale)[0])).accepted
    assert not (await third.store.advance(everything(second)[0])).accepted
