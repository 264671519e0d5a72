"""A step whose reply was lost is given again: it changes nothing more and is answered the same."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest

from flowstone_async.errors import KeyConflict
from flowstone_async.store.protocol import Store
from flowstone_async.store.records import Advance, RunDone
from tests.contract.builders import (
    act,
    completed,
    done,
    event,
    failure,
    key,
    materialization,
    replace,
    run_record,
    state_of,
)
from tests.contract.stores import Engine

NUMBERS, TOTAL = key("numbers"), key("total")


async def contents(store: Store, run_id: str) -> object:
    return (
        await store.run(run_id),
        await store.states([NUMBERS, TOTAL]),
        await store.events(run_id),
        await store.all_events(pipelines=["sales"]),
        await store.audit(),
        await store.durations("sales", ["numbers", "total"]),
    )


async def test_creating_a_run_again_with_the_same_contents(engine: Engine) -> None:
    record = run_record(engine.worker.id)
    step = Advance(
        run_id=record.id, fence=1, create=record, claims=(NUMBERS,), events=(event(1),), audit=(act("run.submitted"),)
    )
    first = await engine.store.advance(step)
    before = await contents(engine.store, record.id)

    assert await engine.store.advance(step) == first
    assert await contents(engine.store, record.id) == before


async def test_an_outcome_again(engine: Engine) -> None:
    drive = await engine.start()
    await drive.compute(NUMBERS)
    await drive.advance(claims=(NUMBERS,))
    step = drive.step(
        "asset.finished",
        "asset.started",
        done=(completed(materialization(NUMBERS, drive.id), payload=b"value"),),
        claims=(TOTAL,),
        audit=(act(),),
    )
    first = await engine.store.advance(step)
    before = await contents(engine.store, drive.id)

    again = await engine.store.advance(step)

    assert len(first.superseded) == 1
    assert again == first
    assert await contents(engine.store, drive.id) == before


@pytest.mark.parametrize("outcome", ["failed", "skipped", "cancelled"])
async def test_an_outcome_without_a_value_again(engine: Engine, outcome: str) -> None:
    drive = await engine.start(NUMBERS)
    ended = replace(done(NUMBERS, "failed", error=failure()), outcome=outcome)
    step = drive.step("asset.failed", done=(ended,), audit=(act("asset.failed"),))
    first = await engine.store.advance(step)
    before = await contents(engine.store, drive.id)

    assert await engine.store.advance(step) == first
    assert await contents(engine.store, drive.id) == before


async def test_a_step_without_events_again(engine: Engine) -> None:
    drive = await engine.start(NUMBERS)
    made = materialization(NUMBERS, drive.id)
    step = drive.step(done=(completed(made, payload=b"value"),), claims=(TOTAL,))
    first = await engine.store.advance(step)
    before = await contents(engine.store, drive.id)

    assert await engine.store.advance(step) == first
    assert await contents(engine.store, drive.id) == before
    assert await engine.store.values.payload(made.id) == b"value"


async def test_a_step_again_after_a_later_one(engine: Engine) -> None:
    drive = await engine.start(NUMBERS, TOTAL)
    early = drive.step("asset.finished", done=(completed(materialization(NUMBERS, drive.id)),), audit=(act(),))
    first = await engine.store.advance(early)
    await drive.advance("asset.finished", done=(completed(materialization(TOTAL, drive.id)),))
    before = await contents(engine.store, drive.id)

    assert (await engine.store.advance(early)).accepted == first.accepted
    assert await contents(engine.store, drive.id) == before


async def test_an_outcome_again_after_another_run_computed_the_key(engine: Engine) -> None:
    drive, other = await engine.start(NUMBERS), await engine.start()
    step = drive.step("asset.finished", done=(completed(materialization(NUMBERS, drive.id)),))
    await engine.store.advance(step)
    newer = await other.compute(NUMBERS)

    assert (await engine.store.advance(step)).accepted
    assert (await state_of(engine.store, NUMBERS)).current == newer


async def test_the_end_of_a_run_again(engine: Engine) -> None:
    drive = await engine.start(NUMBERS)
    step = drive.step(
        "run.finished",
        done=(completed(materialization(NUMBERS, drive.id)),),
        audit=(act("run.succeeded"),),
        finish=RunDone(state="failed", error=failure()),
    )
    first = await engine.store.advance(step)
    before = await contents(engine.store, drive.id)

    assert await engine.store.advance(step) == first
    assert first.accepted
    assert await contents(engine.store, drive.id) == before


async def test_the_only_step_of_a_run_again(engine: Engine) -> None:
    record = run_record(engine.worker.id)
    step = Advance(run_id=record.id, fence=1, create=record, events=(event(1),), finish=RunDone(state="succeeded"))
    first = await engine.store.advance(step)

    assert await engine.store.advance(step) == first
    assert first.accepted
    assert len(await engine.store.events(record.id)) == 1


async def test_a_step_given_twice_at_once_is_committed_once(engine: Engine) -> None:
    drive = await engine.start(NUMBERS)
    step = drive.step(
        "asset.finished", done=(completed(materialization(NUMBERS, drive.id)),), claims=(TOTAL,), audit=(act(),)
    )

    answers = await asyncio.gather(*(engine.store.advance(step) for _ in range(4)))

    assert all(answer.accepted and answer.claims[TOTAL].granted for answer in answers)
    assert len(await engine.store.events(drive.id)) == 2
    assert len(await engine.store.audit()) == 1


async def test_a_step_whose_caller_was_cancelled_happened_as_a_whole_or_not_at_all(engine: Engine) -> None:
    for ticks in range(12):
        drive = await engine.start(NUMBERS)
        made = materialization(NUMBERS, drive.id)
        step = drive.step(
            "asset.finished", done=(completed(made, payload=b"value"),), finish=RunDone(state="succeeded")
        )
        writing = asyncio.create_task(engine.store.advance(step))
        for _ in range(ticks):
            await asyncio.sleep(0)
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)

        answer = await engine.store.advance(step)

        run, state = await engine.store.run(drive.id), await state_of(engine.store, NUMBERS)
        assert answer.accepted
        assert run is not None
        assert (run.state, state.current) == ("succeeded", replace(made, committed_at=answer.at))
        assert len(await engine.store.events(drive.id)) == 2
        assert await engine.store.values.payload(made.id) == b"value"


@pytest.mark.parametrize(
    "other",
    [
        {"targets": ("total",)},
        {"targets": ("numbers", "total")},
        {"pipeline": "other"},
        {"partition": "i:1"},
        {"params": '{"limit": 4}'},
        {"options": {"force": False}},
    ],
)
async def test_an_id_given_again_with_other_contents_is_a_conflict(engine: Engine, other: Mapping[str, object]) -> None:
    record = run_record(engine.worker.id, params='{"limit": 3}', options={"force": True})
    await engine.store.advance(Advance(run_id=record.id, fence=1, create=record, events=(event(1),)))
    before = await contents(engine.store, record.id)
    changed = replace(record, **other)

    with pytest.raises(KeyConflict):
        await engine.store.advance(
            Advance(run_id=record.id, fence=1, create=changed, claims=(NUMBERS,), events=(event(1),), audit=(act(),))
        )

    assert await contents(engine.store, record.id) == before


async def test_a_conflict_leaves_steps_at_the_same_time_alone(engine: Engine) -> None:
    drives = [await engine.start(key("numbers", f"i:{no}")) for no in range(6)]
    conflicting = Advance(run_id=drives[0].id, fence=1, create=replace(drives[0].run, targets=("total",)))

    answers = await asyncio.gather(
        *(drive.advance("asset.started") for drive in drives[:3]),
        engine.store.advance(conflicting),
        *(drive.advance("asset.started") for drive in drives[3:]),
        return_exceptions=True,
    )

    assert isinstance(answers.pop(3), KeyConflict)
    assert [getattr(answer, "accepted", answer) for answer in answers] == [True] * 6
