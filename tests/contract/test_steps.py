"""Durable steps: what a body has on record comes back as it was, under the fence of its run (STEP-01, STEP-03, STEP-14)."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

import pytest

from flowstone_async.store.protocol import Store
from flowstone_async.store.records import RunDone
from flowstone_async.store.steps import StepRecord
from tests.contract.builders import Drive, act, event, failure, identifier, replace
from tests.contract.clock import SetClock
from tests.contract.stores import Engine, Stores

DAY = 86_400.0
STEP = StepRecord("fetch#0", "", 0, 0, 1, "step", "shop.orders.fetch", "0f", b"result")
BROKEN = STEP._replace(value=None, error=failure("it broke"))


def body() -> str:
    return str(uuid4())


def step(no: int, **changes: Any) -> StepRecord:
    """Return the step that a body observed as number `no`."""
    return replace(STEP, key=f"fetch#{no}", place=no, seen=no, value=f"result {no}".encode(), **changes)


async def record(store: Store, drive: Drive, of: str, *steps: StepRecord) -> bool:
    return await store.steps.record(drive.id, drive.run.fence, of, steps)


# -- what is on record ------------------------------------------------------------------------------------------------


async def test_a_body_that_has_recorded_nothing_has_nothing(engine: Engine) -> None:
    drive = await engine.start()
    assert await engine.store.steps.recorded(drive.id, body()) == ()
    assert await engine.store.steps.recorded(identifier(), body()) == ()


async def test_what_was_recorded_comes_back_in_the_order_in_which_it_was_seen(engine: Engine) -> None:
    drive, of = await engine.start(), body()
    for no in (3, 0, 2):
        assert await record(engine.store, drive, of, step(no))
    assert await record(engine.store, drive, of, step(4), step(1))

    assert await engine.store.steps.recorded(drive.id, of) == tuple(step(no) for no in range(5))


@pytest.mark.parametrize(
    "one",
    [
        STEP._replace(value=b""),
        STEP._replace(path="group#1/item", key="group#1/item/fetch#7", place=7, seen=19_999, attempt=3),
        STEP._replace(kind="now", function="", arguments=""),
        STEP._replace(key='a\0b \ud800 \\ "quoted" \n é 🐟#0', path="\0", function="<locals>.\0"),
        STEP._replace(key="long " * 2000),
        BROKEN,
        STEP._replace(
            value=None,
            error=failure(
                "a \0 and \ud800", details={"a": [1, {"b": "\0"}]}, traceback_text="\0", hint="\0", attempt=2
            ),
        ),
    ],
    ids=["empty", "inside", "now", "any text", "a long key", "failed", "any error"],
)
async def test_a_step_comes_back_as_it_was(engine: Engine, one: StepRecord) -> None:
    drive, of = await engine.start(), body()
    assert await record(engine.store, drive, of, one)
    assert await engine.store.steps.recorded(drive.id, of) == (one,)


async def test_large_results_come_back(engine: Engine) -> None:
    drive, of = await engine.start(), body()
    large = [step(no)._replace(value=bytes([no]) * (10 << 20)) for no in range(3)]
    assert await record(engine.store, drive, of, large[0])
    assert await record(engine.store, drive, of, *large[1:])
    assert await engine.store.steps.recorded(drive.id, of) == tuple(large)


async def test_many_results_come_back(engine: Engine) -> None:
    drive, of = await engine.start(), body()
    steps = [step(no) for no in range(2500)]
    assert await record(engine.store, drive, of, *steps)
    assert await engine.store.steps.recorded(drive.id, of) == tuple(steps)


async def test_bodies_are_apart(engine: Engine) -> None:
    drive, other, one, two = await engine.start(), await engine.start(), body(), body()
    await record(engine.store, drive, one, STEP)
    await record(engine.store, drive, two, STEP._replace(value=b"of two"))
    await record(engine.store, other, one, STEP._replace(value=b"of another run"))

    found = [await engine.store.steps.recorded(*of) for of in ((drive.id, one), (drive.id, two), (other.id, one))]

    assert [each.value for (each,) in found] == [b"result", b"of two", b"of another run"]


async def test_calls_at_the_same_time_are_each_recorded(engine: Engine) -> None:
    drives = [await engine.start() for _ in range(3)]
    bodies = [body() for _ in range(40)]

    answers = await asyncio.gather(
        *(record(engine.store, drives[no % 3], of, step(each)) for no, of in enumerate(bodies) for each in range(5))
    )

    assert set(answers) == {True}
    for no, of in enumerate(bodies):
        assert await engine.store.steps.recorded(drives[no % 3].id, of) == tuple(map(step, range(5)))


async def test_nothing_to_record_tells_whether_the_run_is_the_caller_s(engine: Engine) -> None:
    drive = await engine.start()
    assert await engine.store.steps.record(drive.id, 1, body(), ())
    assert not await engine.store.steps.record(drive.id, 2, body(), ())


# -- once -------------------------------------------------------------------------------------------------------------


async def test_repeating_is_harmless(engine: Engine) -> None:
    drive, of = await engine.start(), body()
    for _ in range(2):
        assert await record(engine.store, drive, of, STEP, step(1))
    assert await engine.store.steps.recorded(drive.id, of) == (STEP, step(1))


async def test_what_succeeded_stays(engine: Engine) -> None:
    drive, of = await engine.start(), body()
    await record(engine.store, drive, of, STEP)
    for later in (STEP._replace(value=b"other", seen=5), STEP._replace(value=b"other", attempt=2), BROKEN):
        assert await record(engine.store, drive, of, later)
    assert await engine.store.steps.recorded(drive.id, of) == (STEP,)


async def test_a_failure_stays_in_its_attempt_and_is_replaced_in_the_next(engine: Engine) -> None:
    drive, of = await engine.start(), body()
    later = BROKEN._replace(attempt=2, error=failure("it broke again"))
    now = STEP._replace(attempt=3, seen=2, place=1, function="shop.orders.other", arguments="ff")
    for recorded, expected in [
        (BROKEN, BROKEN),
        (STEP, BROKEN),  # of the same attempt
        (later, later),
        (BROKEN, later),
        (now, now),
        (later._replace(attempt=4), now),
    ]:
        assert await record(engine.store, drive, of, recorded)
        assert await engine.store.steps.recorded(drive.id, of) == (expected,)


async def test_one_key_twice_in_a_call_is_as_two_calls(engine: Engine) -> None:
    drive, of = await engine.start(), body()
    assert await record(engine.store, drive, of, BROKEN, STEP, STEP._replace(attempt=2), BROKEN._replace(attempt=3))
    assert await engine.store.steps.recorded(drive.id, of) == (STEP._replace(attempt=2),)


async def test_one_key_in_calls_at_the_same_time_counts_once(engine: Engine) -> None:
    drive, of = await engine.start(), body()
    calls = [record(engine.store, drive, of, STEP._replace(value=bytes([no])), step(no + 1)) for no in range(9)]
    assert set(await asyncio.gather(*calls)) == {True}
    found = await engine.store.steps.recorded(drive.id, of)
    assert found == (STEP._replace(value=b"\0"), *(step(no + 1) for no in range(9)))


# -- under the fence --------------------------------------------------------------------------------------------------


async def refused(store: Store, drive: Drive, of: str, reader: Store | None = None) -> bool:
    """Tell whether a step is refused, and writes nothing."""
    before = await (reader or store).steps.recorded(drive.id, of)
    answer = await record(store, drive, of, step(9))
    return not answer and await (reader or store).steps.recorded(drive.id, of) == before


async def test_another_fence_is_refused(engine: Engine) -> None:
    drive, of = await engine.start(), body()
    await record(engine.store, drive, of, STEP)
    for fence in (0, 2):
        assert not await engine.store.steps.record(drive.id, fence, of, [step(1)])
    assert await engine.store.steps.recorded(drive.id, of) == (STEP,)


async def test_a_run_that_is_not_there_is_refused(engine: Engine) -> None:
    for run_id in (identifier(), "no id"):
        assert not await engine.store.steps.record(run_id, 1, body(), [STEP])


async def test_a_run_that_was_cancelled_is_refused(engine: Engine) -> None:
    drive, of = await engine.start(), body()
    await record(engine.store, drive, of, STEP)
    await engine.store.cancel(drive.id, (event(1, "run.cancelled"),), (act(),))
    assert await refused(engine.store, drive, of)
    assert await engine.store.steps.recorded(drive.id, of) == (STEP,)


@pytest.mark.parametrize("state", ["succeeded", "failed"])
async def test_a_run_that_has_ended_is_refused(engine: Engine, state: Any) -> None:
    drive, of = await engine.start(), body()
    await drive.advance("run.finished", finish=RunDone(state=state))
    assert await refused(engine.store, drive, of)


async def test_a_run_that_was_handed_back_is_refused(engine: Engine) -> None:
    drive, of = await engine.start(), body()
    await engine.store.hand_back(drive.id, drive.run.fence)
    assert await refused(engine.store, drive, of)


async def test_a_dead_worker_is_refused_before_anybody_takes_its_runs(stores: Stores) -> None:
    first, second = await stores.engine(), await stores.engine()
    drive, of = await first.start(), body()
    await stores.kill(first)
    assert await refused(second.store, drive, of)
    assert await refused(first.store, drive, of, second.store)


async def test_after_a_takeover_the_new_owner_goes_on_and_the_old_one_is_refused(stores: Stores) -> None:
    first, second = await stores.engine(), await stores.engine()
    stale, of = await first.start(), body()
    await record(first.store, stale, of, STEP)
    await stores.kill(first)
    [taken] = await second.store.take_orphans(second.worker.id, ["sales"], limit=10)
    drive = Drive(second.store, taken)

    assert await refused(second.store, stale, of)
    assert await second.store.steps.recorded(drive.id, of) == (STEP,)
    assert await record(second.store, drive, of, step(1))
    assert await refused(first.store, stale, of, second.store)
    assert await second.store.steps.recorded(drive.id, of) == (STEP, step(1))


async def test_a_run_that_is_refused_does_not_keep_others(engine: Engine) -> None:
    good, bad, of = await engine.start(), await engine.start(), body()
    await bad.finish()
    calls = [record(engine.store, drive, of, step(no)) for no in range(5) for drive in (good, bad)]
    calls.append(engine.store.steps.record(good.id, 7, of, [step(8)]))
    assert await asyncio.gather(*calls) == [True, False] * 5 + [False]
    assert await engine.store.steps.recorded(good.id, of) == tuple(map(step, range(5)))
    assert await engine.store.steps.recorded(bad.id, of) == ()


async def test_what_is_dropped_is_off_the_record(engine: Engine) -> None:
    """STEP-10: of that body alone, for whoever owns its run; it may be recorded anew."""
    drive, of, other = await engine.start(), body(), body()
    steps, fence = engine.store.steps, drive.run.fence
    long = STEP._replace(key="long " * 2000, seen=7)
    for one in (of, other):
        await record(engine.store, drive, one, *(step(no) for no in range(4)), long)
    assert not await steps.drop(drive.id, fence + 1, of, ["fetch#0"])
    assert not await steps.drop(identifier(), fence, of, ["fetch#0"])
    for _ in range(2):
        assert await steps.drop(drive.id, fence, of, ["fetch#1", "fetch#3", long.key, "unknown"])
    assert await steps.drop(drive.id, fence, of, [])
    assert await steps.recorded(drive.id, of) == (step(0), step(2))
    assert len(await steps.recorded(drive.id, other)) == 5
    assert await record(engine.store, drive, of, step(1)._replace(value=b"anew"))
    assert [each.value for each in await steps.recorded(drive.id, of)] == [b"result 0", b"anew", b"result 2"]
    await drive.finish()
    assert not await steps.drop(drive.id, fence, of, ["fetch#0"])


# -- forgetting -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("days", [1, 3])
async def test_steps_go_with_their_run(stores: Stores, clock: SetClock, days: int) -> None:
    """By row, and as a day."""
    engine, of = await stores.engine(), body()
    old, going = await engine.start(), await engine.start()
    for drive in (old, going):
        await record(engine.store, drive, of, STEP, step(1))
    await old.finish()
    clock.advance(10 * DAY)
    young = await engine.start()
    await record(engine.store, young, of, STEP)
    await young.finish()

    while (await engine.store.prune(runs=days * DAY, values=None)).runs:
        pass

    found = [await engine.store.steps.recorded(drive.id, of) for drive in (old, going, young)]
    assert found == [(), (STEP, step(1)), (STEP,)]
    assert await record(engine.store, going, of, step(2))
    assert not [fault for fault in await engine.store.verify() if "on record" in fault.problem]
