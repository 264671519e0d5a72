"""One step of a run: everything it carries is committed together, and described as the newest attempt."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest

from flowstone_async.store.protocol import Store
from flowstone_async.store.records import Advance, AssetState, Claimed, RunDone
from flowstone_async.types import AssetKey, Input, Materialization
from tests.contract.builders import (
    Drive,
    act,
    completed,
    current_of,
    done,
    event,
    failure,
    identifier,
    key,
    materialization,
    replace,
    run_record,
    state_of,
)
from tests.contract.clock import SetClock
from tests.contract.stores import Engine, Stores

NUMBERS = key("numbers")
TOTAL = key("total")


async def test_the_first_step_creates_the_run_with_its_claims_events_and_acts(engine: Engine, clock: SetClock) -> None:
    record = run_record(engine.worker.id, partition="d:2025-01-15", options={"force": True}, params='{"limit": 3}')
    told = event(1, "run.started", target="numbers")
    submitted = act("run.submitted", record.id, run_id=record.id)

    answer = await engine.store.advance(
        Advance(run_id=record.id, fence=1, create=record, claims=(NUMBERS,), events=(told,), audit=(submitted,))
    )

    assert answer.accepted
    assert answer.at == clock.now()
    assert answer.claims == {NUMBERS: Claimed(granted=True, holder=record.id, current=None, lost=0)}
    assert answer.superseded == ()
    assert await engine.store.run(record.id) == replace(record, created_at=answer.at)
    assert await engine.store.events(record.id) == (told,)
    assert [entry for _, _, entry in await engine.store.audit()] == [submitted]


async def test_a_claimed_key_is_running(engine: Engine, clock: SetClock) -> None:
    drive = await engine.start(NUMBERS)

    assert await state_of(engine.store, NUMBERS) == AssetState(
        key=NUMBERS, state="running", run_id=drive.id, claimed_by=drive.id, started_at=clock.now()
    )


async def test_a_completed_outcome_is_current_and_frees_the_key(engine: Engine, clock: SetClock) -> None:
    drive = await engine.start(NUMBERS)
    clock.advance(7)
    made = materialization(NUMBERS, drive.id, attempts=2)

    answer = await drive.advance("asset.finished", done=(completed(made),))

    assert answer.at == clock.now()
    assert await state_of(engine.store, NUMBERS) == AssetState(
        key=NUMBERS,
        current=replace(made, committed_at=answer.at),
        state="completed",
        run_id=drive.id,
        started_at=made.started_at,
        completed_at=answer.at,
        seconds=1.5,
        attempts=2,
    )


async def test_a_materialization_comes_back_as_it_was_given(engine: Engine) -> None:
    drive = await engine.start()
    upstream = await drive.compute(key("upstream", "d:2025-01-15"))
    made = await drive.compute(
        TOTAL,
        upstream,
        version="2",
        checksum=None,
        metadata={"rows": 3, "mean": 0.5, "nested": {"none": None, "list": [1, "two", True]}},
        inputs=(
            Input("asset", "numbers", upstream.fingerprint, upstream.key, upstream.id),
            Input("asset", "missing", "absent:skipped", key("other", "i:7", io="lake")),
            Input("param", "limit", "abc"),
            Input("key", "*", "def"),
        ),
    )

    assert (await state_of(engine.store, TOTAL)).current == made


async def test_computing_again_answers_what_it_superseded(engine: Engine) -> None:
    drive = await engine.start()
    first = await drive.compute(NUMBERS)
    await drive.advance(claims=(NUMBERS,))
    second = materialization(NUMBERS, drive.id)

    answer = await drive.advance("asset.finished", done=(completed(second),))

    assert answer.superseded == (first,)
    assert await current_of(engine.store, NUMBERS) == second.id


async def test_a_failed_outcome_keeps_the_earlier_value_current(engine: Engine) -> None:
    earlier = await (await engine.start()).compute(NUMBERS)
    drive = await engine.start(NUMBERS)
    started = datetime(2025, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
    broke = done(NUMBERS, "failed", error=failure(), attempts=3, seconds=0.25, started_at=started)

    answer = await drive.advance("asset.failed", done=(broke,))

    assert answer.accepted
    assert answer.superseded == ()
    assert await state_of(engine.store, NUMBERS) == AssetState(
        key=NUMBERS,
        current=earlier,
        state="failed",
        run_id=drive.id,
        started_at=started,
        completed_at=answer.at,
        seconds=0.25,
        attempts=3,
        error=failure(),
    )


async def test_a_success_forgets_the_failure_before(engine: Engine) -> None:
    drive = await engine.start(NUMBERS)
    await drive.advance(done=(done(NUMBERS, "failed", error=failure()),))

    await drive.compute(NUMBERS)

    state = await state_of(engine.store, NUMBERS)
    assert (state.state, state.error) == ("completed", None)


async def test_a_cancelled_outcome_frees_the_key(engine: Engine) -> None:
    drive = await engine.start(NUMBERS)

    await drive.advance(done=(done(NUMBERS, "cancelled"),))

    state = await state_of(engine.store, NUMBERS)
    assert (state.state, state.run_id, state.claimed_by) == ("cancelled", drive.id, None)


@pytest.mark.parametrize("claimed", [True, False])
async def test_a_skipped_outcome_keeps_the_earlier_value_current(engine: Engine, claimed: bool) -> None:
    earlier = await (await engine.start()).compute(NUMBERS)
    drive = await engine.start(*([NUMBERS] if claimed else []))

    answer = await drive.advance(done=(done(NUMBERS, "skipped", claimed=claimed, reason="no new data", attempts=0),))

    state = await state_of(engine.store, NUMBERS)
    assert answer.accepted
    assert (state.state, state.reason, state.run_id, state.attempts) == ("skipped", "no new data", drive.id, 0)
    assert (state.claimed_by, state.current) == (None, earlier)


@pytest.mark.parametrize("outcome", ["skipped", "failed"])
async def test_an_outcome_without_claim_leaves_a_key_alone_that_another_run_computes(
    engine: Engine, outcome: str
) -> None:
    owner = await engine.start(NUMBERS)
    other = await engine.start()
    before = await state_of(engine.store, NUMBERS)

    blocked = replace(done(NUMBERS, "failed", claimed=False, error=failure()), outcome=outcome)
    answer = await other.advance("asset.failed", done=(blocked,))

    assert answer.accepted
    assert await state_of(engine.store, NUMBERS) == before
    assert (await owner.advance(done=(completed(materialization(NUMBERS, owner.id)),))).accepted
    assert (await state_of(engine.store, NUMBERS)).run_id == owner.id


async def test_a_release_shows_the_attempt_before_again(engine: Engine) -> None:
    await (await engine.start()).compute(NUMBERS)
    before = await state_of(engine.store, NUMBERS)
    drive = await engine.start(NUMBERS)

    answer = await drive.advance(releases=(NUMBERS,))

    assert answer.accepted
    assert await state_of(engine.store, NUMBERS) == before


async def test_releasing_a_key_of_another_run_changes_nothing(engine: Engine) -> None:
    owner = await engine.start(NUMBERS)
    other = await engine.start()

    assert (await other.advance(releases=(NUMBERS, TOTAL))).accepted

    assert (await state_of(engine.store, NUMBERS)).claimed_by == owner.id


async def test_one_step_may_carry_outcomes_releases_and_claims_of_many_keys(engine: Engine) -> None:
    slices = [key("numbers", f"i:{no}") for no in range(90)]
    drive = await engine.start(*slices[:60])
    made = [materialization(name, drive.id) for name in slices[:30]]

    answer = await drive.advance(
        "asset.finished",
        done=tuple(map(completed, made)),
        releases=tuple(slices[30:60]),
        claims=tuple(slices[60:]),
    )

    states = await engine.store.states(slices)
    assert all(claimed.granted for claimed in answer.claims.values())
    assert {name: state.claimed_by for name, state in states.items() if state.claimed_by} == dict.fromkeys(
        slices[60:], drive.id
    )
    assert {state.current.id for state in states.values() if state.current} == {record.id for record in made}


async def test_steps_of_one_run_may_be_under_way_at_once(engine: Engine) -> None:
    slices = [key("numbers", f"i:{no}") for no in range(12)]
    drive = await engine.start(*slices)
    steps = [drive.step("asset.finished", done=(completed(materialization(name, drive.id)),)) for name in slices]

    answers = await asyncio.gather(*(engine.store.advance(step) for step in steps))

    assert all(answer.accepted for answer in answers)
    assert [told.no for told in await engine.store.events(drive.id)] == list(range(1, 14))
    states = await engine.store.states(slices)
    assert {state.state for state in states.values()} == {"completed"}


async def test_many_runs_of_several_engines_go_on_at_once(stores: Stores) -> None:
    engines = [await stores.engine() for _ in range(3)]

    async def go(no: int) -> tuple[AssetKey, Materialization]:
        drive = await engines[no % 3].start()
        upstream = await drive.compute(key("numbers", f"i:{no}"))
        total = await drive.compute(key("total", f"i:{no}"), upstream)
        await drive.finish(audit=(act("run.succeeded", drive.id),))
        return total.key, total

    made = dict(await asyncio.gather(*map(go, range(100))))

    states = await engines[0].store.states(list(made))
    assert {name: state.current for name, state in states.items()} == made
    assert len(await engines[0].store.runs(pipelines=["sales"], state="succeeded", limit=1000)) == 100
    assert len(await engines[0].store.audit(limit=1000)) == 100


async def test_a_payload_is_committed_with_its_record(engine: Engine) -> None:
    drive = await engine.start(NUMBERS, TOTAL)
    made, other = materialization(NUMBERS, drive.id), materialization(TOTAL, drive.id)

    await drive.advance(done=(completed(made, payload=b"\x00[1, 2]\xff"), completed(other)))

    assert await engine.store.values.payload(made.id) == b"\x00[1, 2]\xff"
    assert await engine.store.values.payload(other.id) is None


async def test_an_empty_payload_is_not_an_absent_one(engine: Engine) -> None:
    drive = await engine.start(NUMBERS)
    made = materialization(NUMBERS, drive.id)

    await drive.advance(done=(completed(made, payload=b""),))

    assert await engine.store.values.payload(made.id) == b""


@pytest.mark.parametrize("state", ["succeeded", "failed", "cancelled"])
async def test_a_final_step_ends_the_run_and_releases_what_it_holds(
    engine: Engine, clock: SetClock, state: str
) -> None:
    drive = await engine.start(NUMBERS)
    before = await (await engine.start()).compute(TOTAL)
    await drive.advance(claims=(TOTAL,))
    clock.advance(3)
    error = failure() if state == "failed" else None

    answer = await drive.advance("run.finished", finish=RunDone(state=state, error=error))  # type: ignore[arg-type]

    run = await engine.store.run(drive.id)
    assert run is not None
    assert (run.state, run.error, run.finished_at) == (state, error, answer.at)
    assert (await state_of(engine.store, NUMBERS)).claimed_by is None
    total = await state_of(engine.store, TOTAL)
    assert (total.state, total.claimed_by, total.current) == ("completed", None, before)


async def test_a_final_step_may_carry_the_last_outcome(engine: Engine) -> None:
    drive = await engine.start(NUMBERS)
    made = materialization(NUMBERS, drive.id)

    answer = await drive.finish(done=(completed(made),))

    assert answer.accepted
    assert await current_of(engine.store, NUMBERS) == made.id


async def test_a_run_may_begin_and_end_in_one_step(engine: Engine) -> None:
    record = run_record(engine.worker.id)
    step = Advance(run_id=record.id, fence=1, create=record, events=(event(1),), finish=RunDone(state="succeeded"))

    answer = await engine.store.advance(step)

    run = await engine.store.run(record.id)
    assert run is not None
    assert (run.state, run.created_at, run.finished_at) == ("succeeded", answer.at, answer.at)


@pytest.mark.parametrize("state", ["succeeded", "failed", "cancelled"])
async def test_nothing_of_a_run_is_committed_after_its_end(engine: Engine, state: str) -> None:
    drive = await engine.start()
    await drive.finish(state)
    before = await engine.store.run(drive.id)

    late = await drive.advance(
        "asset.started", claims=(NUMBERS,), audit=(act(),), done=(done(TOTAL, "skipped", claimed=False),)
    )
    other_end = await drive.finish("failed" if state != "failed" else "succeeded")

    assert not late.accepted
    assert not other_end.accepted
    assert await engine.store.run(drive.id) == before
    assert [told.type for told in await engine.store.events(drive.id)] == ["run.started", "run.finished"]
    assert await engine.store.states([NUMBERS, TOTAL]) == {}
    assert await engine.store.audit() == ()


async def test_a_step_of_a_run_that_nobody_created_is_refused(store: Store) -> None:
    answer = await Drive(store, run_record()).advance("asset.started", claims=(NUMBERS,))

    assert not answer.accepted
    assert answer.claims == {}
    assert await store.states([NUMBERS]) == {}


async def test_an_empty_step_is_accepted(engine: Engine) -> None:
    drive = await engine.start()

    assert (await drive.advance()).accepted


async def test_an_unknown_run_is_none(store: Store) -> None:
    assert await store.run(identifier()) is None
