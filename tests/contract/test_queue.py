"""The queue: submitted runs, their keys, what they join, and who claims them in which order (JOB-01 to JOB-05, JOB-11)."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import timedelta
from typing import Any

import pytest

from flowstone_async.errors import ConfigError, KeyConflict
from flowstone_async.store.records import Advance, AuditEntry, RunRecord, Submission, Submitted
from tests.contract.builders import Drive, act, event, identifier, key, run_record
from tests.contract.clock import SetClock
from tests.contract.stores import Engine, Stores

NUMBERS = key("numbers")


def queued(**changes: Any) -> RunRecord:
    return run_record(None, state="queued", submitted=True, **changes)


async def submit(engine: Engine, of: str | None = None, subject: str = "subject", **changes: Any) -> Submitted:
    """Submit a run, under a key if one is given."""
    run = queued(**changes)
    entry = AuditEntry("run.submitted", run.id, actor="process", actor_kind="process", run_id=run.id)
    return await engine.store.submit(Submission(run=run, subject=subject, key=of, audit=entry))


async def claim(engine: Engine, *pipelines: str, limit: int = 100) -> list[str]:
    return [run.id for run in await engine.store.claim(engine.worker.id, pipelines or ("sales",), limit=limit)]


async def abandon(engine: Engine, run_id: str) -> str | None:
    """Cancel a run unless a submission stands for it, and return its state; None if there is no such run."""
    left = await engine.store.cancel(run_id, (), (), unless_joined=True)
    return None if left is None else left.state


async def finish(engine: Engine, run_id: str) -> None:
    record = await engine.store.run(run_id)
    assert record is not None
    assert (await Drive(engine.store, record).finish()).accepted


async def test_a_submitted_run_waits_in_the_queue(engine: Engine) -> None:
    """JOB-01: nobody owns it, nothing of it has happened, and its submission is on record."""
    stored, created = await submit(engine, options={"force": True}, params='{"limit": 3}', partition="i:7", priority=2)
    assert created
    found = await engine.store.run(stored.id)
    assert found is not None
    assert (found.state, found.worker, found.submitted, found.priority, found.at) == ("queued", None, True, 2, None)
    assert (found.options, found.params, found.partition) == ({"force": True}, '{"limit": 3}', "i:7")
    assert await engine.store.events(stored.id) == ()
    [(_, _, entry)] = await engine.store.audit()
    assert (entry.action, entry.subject, entry.run_id, entry.actor) == (
        "run.submitted",
        stored.id,
        stored.id,
        "process",
    )
    assert not (await engine.store.advance(Advance(run_id=stored.id, fence=1, claims=(NUMBERS,)))).accepted


async def test_a_claimed_run_is_the_claimer_s(engine: Engine) -> None:
    """JOB-07: under a new fence, with which it moves forward."""
    stored = (await submit(engine)).run
    [run] = await engine.store.claim(engine.worker.id, ["sales"], limit=1)
    assert (run.id, run.state, run.worker, run.fence, run.lost) == (stored.id, "running", engine.worker.id, 2, 0)
    assert await claim(engine) == []
    drive = Drive(engine.store, run)
    assert (await drive.advance("run.started", claims=(NUMBERS,))).claims[NUMBERS].granted
    assert (await drive.finish()).accepted
    assert [one.no for one in await engine.store.events(run.id)] == [1, 2]


async def test_lower_priorities_come_first_and_then_those_that_were_submitted_first(engine: Engine) -> None:
    """JOB-04."""
    ids = {
        (priority, no): (await submit(engine, priority=priority)).run.id for no in range(3) for priority in (3, 0, 2, 1)
    }
    first = await claim(engine, limit=5)
    assert first == [ids[0, 0], ids[0, 1], ids[0, 2], ids[1, 0], ids[1, 1]]
    assert await claim(engine) == [ids[1, 2], *(ids[2, no] for no in range(3)), *(ids[3, no] for no in range(3))]


async def test_several_pipelines_share_one_order(engine: Engine, clock: SetClock) -> None:
    """JOB-04: of all that the claimer has."""
    ids: list[str] = []
    for no in range(6):
        ids.append((await submit(engine, pipeline=("sales", "stock")[no % 2])).run.id)
        clock.advance(1)
    assert await claim(engine, "stock", "sales", "unknown") == ids


async def test_a_run_is_not_claimed_before_its_time(engine: Engine, clock: SetClock) -> None:
    """JOB-04: on the store's clock; from then on it counts as submitted then."""
    start = clock.now()
    later = (await submit(engine, at=start + timedelta(seconds=60))).run
    past = (await submit(engine, at=start - timedelta(days=1))).run
    assert (await engine.store.run(later.id)).at == start + timedelta(seconds=60)  # pyright: ignore[reportOptionalMemberAccess]
    assert await claim(engine) == [past.id]
    clock.advance(59.9)
    assert await claim(engine) == []
    before = (await submit(engine)).run
    clock.advance(0.1)
    after = (await submit(engine)).run
    assert await claim(engine) == [before.id, later.id, after.id]


async def test_only_runs_of_its_pipelines_are_given_to_a_worker(engine: Engine) -> None:
    """JOB-11: others stay for a worker that has them."""
    other = (await submit(engine, pipeline="stock")).run
    assert await claim(engine, "sales") == []
    assert await claim(engine, "stock") == [other.id]


async def test_without_a_live_lease_nothing_is_claimed(stores: Stores) -> None:
    """JOB-07: neither by a worker that was declared dead, nor by one that nobody knows."""
    engine, dead = await stores.engine(), await stores.engine()
    await submit(engine)
    await stores.kill(dead)
    assert await claim(dead) == []
    assert await engine.store.claim(identifier(), ["sales"], limit=10) == ()
    assert len(await claim(engine)) == 1


async def test_no_run_is_claimed_twice(stores: Stores) -> None:
    """JOB-13: however many ask at once."""
    engines = [await stores.engine() for _ in range(4)]
    ids = {(await submit(engines[0])).run.id for _ in range(40)}
    found: list[str] = []

    async def work(engine: Engine) -> None:
        while claimed := await claim(engine, limit=3):
            found.extend(claimed)

    await asyncio.gather(*map(work, engines))
    found += await claim(engines[0])
    assert Counter(found) == Counter(ids)


async def test_a_claimed_run_whose_worker_dies_goes_to_another(stores: Stores) -> None:
    """JOB-09: also one of which nothing was committed yet."""
    dying, living = await stores.engine(), await stores.engine()
    stored = (await submit(dying)).run
    assert await claim(dying) == [stored.id]
    await stores.kill(dying)
    assert await claim(living) == []
    [taken] = await living.store.take_orphans(living.worker.id, ["sales"], limit=10)
    assert (taken.id, taken.fence, taken.lost) == (stored.id, 3, 1)


async def test_one_orphan_can_be_asked_for(stores: Stores) -> None:
    """JOB-10: by whoever waits for it; a run with a live owner is not given."""
    dying, living = await stores.engine(), await stores.engine()
    wanted, other = await dying.start(), await dying.start()
    own = await living.start()
    await stores.kill(dying)
    store, worker = living.store, living.worker.id
    assert await store.take_orphans(worker, ["sales"], limit=1, run_id=own.id) == ()
    [taken] = await store.take_orphans(worker, ["sales"], limit=1, run_id=wanted.id)
    assert taken.id == wanted.id
    [rest] = await store.take_orphans(worker, ["sales"], limit=5)
    assert rest.id == other.id


# -- keys ---------------------------------------------------------------------------------------------------------------


async def test_a_key_gives_the_same_run_in_whatever_state(engine: Engine) -> None:
    """JOB-03."""
    first = (await submit(engine, "order:1")).run
    for _ in range(2):
        again = await submit(engine, "order:1")
        assert (again.run.id, again.created) == (first.id, False)
        await claim(engine)
    await finish(engine, first.id)
    again = await submit(engine, "order:1")
    assert (again.run.id, again.run.state) == (first.id, "succeeded")
    assert len(await engine.store.runs(pipelines=["sales"])) == 1


async def test_a_key_that_stands_for_something_else_is_refused(engine: Engine) -> None:
    """JOB-03: and nothing is stored; another pipeline has keys of its own."""
    first = (await submit(engine, "order:1", "one")).run
    with pytest.raises(KeyConflict, match="order:1") as caught:
        await submit(engine, "order:1", "another")
    assert caught.value.run_id == first.id
    assert (await submit(engine, "order:1", "another", pipeline="stock")).created
    assert len(await engine.store.runs(pipelines=["sales"])) == 1


async def test_concurrent_submits_of_one_key_make_one_run(stores: Stores) -> None:
    """JOB-03: from several processes."""
    engines = [await stores.engine() for _ in range(4)]
    answers = await asyncio.gather(*(submit(engine, "order:1") for engine in engines for _ in range(5)))
    assert len({answer.run.id for answer in answers}) == 1
    assert sum(answer.created for answer in answers) == 1
    assert len(await engines[0].store.runs(pipelines=["sales"])) == 1


async def test_a_key_is_kept_as_long_as_its_run(engine: Engine, clock: SetClock) -> None:
    """JOB-03: then it makes a new one."""
    first = (await submit(engine, "order:1")).run
    await claim(engine)
    await finish(engine, first.id)
    clock.advance(10 * 86_400)
    await engine.store.prune(runs=86_400, values=None)
    assert await engine.store.run(first.id) is None
    again = await submit(engine, "order:1", "another subject")
    assert again.created


async def test_a_submission_that_is_repeated_makes_one_run(engine: Engine) -> None:
    """G-03: its reply was lost."""
    run = queued(request="same")
    for of in (None, "order:1"):
        sent = Submission(run=queued(request="same") if of else run, subject="s", key=of)
        answers = [await engine.store.submit(sent) for _ in range(3)]
        assert len({answer.run.id for answer in answers}) == 1
    assert len(await engine.store.runs(pipelines=["sales"])) == 1


async def test_an_id_that_is_taken_is_refused(engine: Engine) -> None:
    """RUN-06: with the key that came with it."""
    taken = await engine.start()
    with pytest.raises(KeyConflict, match="was used already"):
        await submit(engine, "order:1", id=taken.id)
    assert (await submit(engine, "order:1")).created


# -- joining ------------------------------------------------------------------------------------------------------------


async def test_an_equal_run_that_is_queued_or_running_is_joined(engine: Engine) -> None:
    """JOB-02: until it has ended; nothing is joined that asks for no joining."""
    first = (await submit(engine, request="same")).run
    assert (await submit(engine, request="same")).run.id == first.id
    assert (await submit(engine, request="other")).created
    assert (await submit(engine)).created
    await claim(engine)
    again = await submit(engine, request="same")
    assert (again.run.id, again.run.state, again.created) == (first.id, "running", False)
    await finish(engine, first.id)
    assert (await submit(engine, request="same")).created


async def test_a_run_that_is_awaited_is_joined_too(engine: Engine) -> None:
    """JOB-02, RUN-17: one that never was in the queue; from then on it is not its caller's alone."""
    drive = await engine.start(request="same")
    assert (await submit(engine, request="same")).run.id == drive.id
    assert await abandon(engine, drive.id) == "running"
    assert (await drive.finish()).accepted


async def test_a_run_that_a_submission_stands_for_is_not_abandoned(engine: Engine) -> None:
    """RUN-17: it is cancelled only by who means it."""
    alone, joined, own = await engine.start(request="x"), await engine.start(request="same"), (await submit(engine)).run
    await submit(engine, request="same")
    assert await abandon(engine, alone.id) == "cancelled"
    assert await abandon(engine, joined.id) == "running"
    assert await abandon(engine, own.id) == "queued"
    left = await engine.store.cancel(joined.id, (), ())
    assert left is not None
    assert left.state == "cancelled"


async def test_a_run_that_was_submitted_is_not_abandoned_once_it_is_claimed(engine: Engine) -> None:
    """RUN-17: nor is one abandoned that there is not."""
    own = (await submit(engine)).run
    assert await claim(engine) == [own.id]
    assert await abandon(engine, own.id) == "running"
    assert await abandon(engine, identifier()) is None


async def test_a_key_of_a_joined_run_stands_for_it(engine: Engine) -> None:
    """JOB-02, JOB-03: also once it has ended."""
    first = (await submit(engine, request="same")).run
    assert (await submit(engine, "order:1", request="same")).run.id == first.id
    await claim(engine)
    await finish(engine, first.id)
    assert (await submit(engine, "order:1", request="same")).run.id == first.id
    assert (await submit(engine, "order:2", request="same")).created


async def test_a_run_that_waits_is_joined_by_the_same_instant_only(engine: Engine, clock: SetClock) -> None:
    """JOB-02: and from then on by any."""
    at = clock.now() + timedelta(seconds=60)
    waiting = (await submit(engine, request="same", at=at)).run
    now = (await submit(engine, request="same")).run
    assert now.id != waiting.id
    assert (await submit(engine, request="same", at=at)).run.id == waiting.id
    assert (await submit(engine, request="same", at=at + timedelta(seconds=1))).created
    assert await claim(engine) == [now.id]
    await finish(engine, now.id)
    clock.advance(60)
    assert (await submit(engine, request="same")).run.id == waiting.id


async def test_concurrent_equal_submits_make_one_run(stores: Stores) -> None:
    """JOB-02: from several processes, with and without keys."""
    engines = [await stores.engine() for _ in range(4)]
    answers = await asyncio.gather(
        *(submit(engine, f"order:{no}" if no % 2 else None, request="same") for engine in engines for no in range(6))
    )
    assert len({answer.run.id for answer in answers}) == 1
    assert sum(answer.created for answer in answers) == 1


# -- the rest -----------------------------------------------------------------------------------------------------------


async def test_a_queued_run_that_is_cancelled_is_never_claimed(engine: Engine) -> None:
    """RUN-26."""
    stored = (await submit(engine, request="same")).run
    ended = await engine.store.cancel(stored.id, (event(0, "run.cancelled"),), (act("run.cancelled", stored.id),))
    assert ended is not None
    assert ended.state == "cancelled"
    assert await claim(engine) == []
    assert (await submit(engine, request="same")).created


async def test_runs_that_moved_on_are_told(stores: Stores) -> None:
    """JOB-08: ended, or owned under another fence; not those that go on."""
    one, other = await stores.engine(), await stores.engine()
    goes, ends, changes = await one.start(), await one.start(), await one.start()
    owned = {drive.id: 1 for drive in (goes, ends, changes)}
    assert await one.store.moved_on(owned) == frozenset()
    await other.store.cancel(ends.id, (), ())
    await one.store.hand_back(changes.id, 1)
    await other.store.take_orphans(other.worker.id, ["sales"], limit=1, run_id=changes.id)
    assert await one.store.moved_on(owned) == {ends.id, changes.id}
    gone = identifier()
    assert await one.store.moved_on({gone: 1}) == {gone}
    assert await one.store.moved_on({}) == frozenset()


async def test_what_a_worker_owns_is_told(stores: Stores) -> None:
    """JOB-07: running, of the pipelines asked for, with its fence; not what has ended, waits or is another's."""
    one, other = await stores.engine("sales", "other"), await stores.engine()
    goes, ends, changes = await one.start(), await one.start(), await one.start()
    elsewhere, theirs = await one.start(pipeline="other"), await other.start()
    await submit(one, request="waits")
    await ends.finish()
    await one.store.hand_back(changes.id, 1)
    [taken] = await other.store.take_orphans(other.worker.id, ["sales"], limit=1, run_id=changes.id)

    assert await one.store.owned(one.worker.id, ["sales"]) == {goes.id: 1}
    assert await one.store.owned(one.worker.id, ["sales", "other"]) == {goes.id: 1, elsewhere.id: 1}
    assert await one.store.owned(other.worker.id, ["sales"]) == {theirs.id: 1, changes.id: taken.fence}
    assert await one.store.owned("nobody", ["sales"]) == {}


async def test_whoever_waits_for_the_queue_is_woken(stores: Stores) -> None:
    """JOB-13: by a submit elsewhere, and by a run that is handed back."""
    one, other = await stores.engine(), await stores.engine()
    async with asyncio.timeout(30):
        await one.store.changed("queue", within=0.01)
        waiting = asyncio.create_task(_claimed(one))
        await submit(other)
        run = await waiting
        waiting = asyncio.create_task(_orphan(other))
        await one.store.hand_back(run.id, run.fence)
        assert (await waiting).id == run.id


async def _claimed(engine: Engine) -> RunRecord:
    while not (found := await engine.store.claim(engine.worker.id, ["sales"], limit=1)):
        await engine.store.changed("queue", within=5)
    return found[0]


async def _orphan(engine: Engine) -> RunRecord:
    while not (found := await engine.store.take_orphans(engine.worker.id, ["sales"], limit=1)):
        await engine.store.changed("queue", within=5)
    return found[0]


async def test_a_worker_that_lost_its_lease_comes_back_under_another_id(stores: Stores) -> None:
    """JOB-08: what it owned before is not its own any more."""
    engine = await stores.engine()
    drive = await engine.start()
    await stores.kill(engine)
    again = Engine(
        worker=engine.worker.__class__(id=identifier(), host="h", pid=1, pipelines=("sales",)), store=engine.store
    )
    async with asyncio.timeout(30):
        await engine.lost.wait()
    await engine.store.rejoin(again.worker, lease=30, lost=again.lost.set)
    assert not (await drive.advance("asset.started")).accepted
    stored = (await submit(again)).run
    assert await claim(again) == [stored.id]
    await finish(again, stored.id)
    [taken] = await again.store.take_orphans(again.worker.id, ["sales"], limit=5)
    assert (taken.id, taken.lost) == (drive.id, 1)
    assert not again.lost.is_set()


async def test_a_connection_that_is_none_is_refused(engine: Engine) -> None:
    """JOB-05."""
    with pytest.raises(ConfigError, match="conn="):
        await engine.store.submit(Submission(run=queued(), subject=""), connection=object())
    assert await engine.store.runs(pipelines=["sales"]) == ()
