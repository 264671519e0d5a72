"""Runs that are suspended: owned by nobody, holding nothing, active all the same (ADR 10; APPR-02, SIG-03, SIG-09)."""

from __future__ import annotations

import asyncio

import pytest

from flowstone_async.store.gates import Signal
from flowstone_async.types import AssetKey
from tests.contract.builders import Drive, event, identifier, key, state_of
from tests.contract.clock import SetClock
from tests.contract.stores import Engine, Stores
from tests.contract.test_gates import HOUR, deliver, gate, opened, run_state, suspended, wakes
from tests.contract.test_queue import submit

NUMBERS, TOTAL = key("numbers"), key("total")


async def test_it_waits_and_nobody_owns_it(stores: Stores, clock: SetClock) -> None:
    first, second = await stores.engine(), await stores.engine()
    drive = await first.start()
    await opened(drive, gate(drive, due=HOUR), gate(drive, "later", due=2 * HOUR), gate(drive, "never"))
    await suspended(drive)
    store = second.store

    run = await store.run(drive.id)
    assert run is not None
    assert (run.state, run.worker, run.finished_at) == ("waiting", None, None)
    assert run.fence > drive.run.fence
    assert (await store.gates.wakes([drive.id]))[drive.id] == (0, clock.now() + HOUR, 0.0, run.fence)
    assert await first.store.owned(first.worker.id, ["sales"]) == {}
    assert await store.moved_on({drive.id: drive.run.fence}) == {drive.id}
    assert await store.take_orphans(second.worker.id, ["sales"], limit=1) == ()
    assert [one.id for one in await store.runs(pipelines=["sales"], state="waiting")] == [drive.id]
    assert await store.verify() == ()


async def test_nothing_of_its_last_owner_commits_any_more(engine: Engine) -> None:
    drive = await engine.start()
    made = gate(drive)
    await opened(drive, made)
    await suspended(drive)

    assert not (await drive.advance("asset.started", claims=(TOTAL,))).accepted
    assert await engine.store.gates.open(drive.id, drive.run.fence, [gate(drive, "late")]) is None
    await engine.store.hand_back(drive.id, drive.run.fence)
    assert await run_state(drive) == "waiting"
    await deliver(engine.store, made)
    assert not (await drive.advance("asset.started", claims=(TOTAL,))).accepted
    assert not (await drive.finish()).accepted
    assert await engine.store.gates.open(drive.id, drive.run.fence, [gate(drive, "late")]) is None


async def changed(engine: Engine, topic: str) -> None:
    """Return when the store tells of a change; nobody who had to look again by itself passes."""
    async with asyncio.timeout(20):
        await engine.store.changed(topic, within=30)


async def test_its_claims_are_for_others_to_take(stores: Stores) -> None:
    """What it had computed stays; who waits for a key of it is told."""
    first, second = await stores.engine(), await stores.engine()
    drive = await first.start(TOTAL)
    made = await drive.compute(NUMBERS)
    other = await second.start()
    assert not (await other.advance(claims=(TOTAL,))).claims[TOTAL].granted
    told = asyncio.create_task(changed(second, f"key:{TOTAL}"))
    await asyncio.sleep(0)  # it listens
    await suspended(drive)
    await told

    assert (await other.advance(claims=(TOTAL,))).claims[TOTAL].granted
    total, numbers = await state_of(second.store, TOTAL), await state_of(second.store, NUMBERS)
    assert (total.claimed_by, total.current) == (other.id, None)
    assert (numbers.state, numbers.current) == ("completed", made)


async def test_woken_it_is_for_anybody_to_take_and_no_owner_was_lost(stores: Stores) -> None:
    """APPR-04, SIG-09: a signal wakes it; its next owner claims again."""
    first, second = await stores.engine(), await stores.engine()
    drive = await first.start(NUMBERS)
    made = gate(drive)
    await opened(drive, made)
    await suspended(drive)
    await stores.kill(first)

    assert await deliver(second.store, made) == "accepted"

    [run] = await second.store.take_orphans(second.worker.id, ["sales"], limit=5)
    assert (run.id, run.state, run.lost) == (drive.id, "running", 0)
    heir = Drive(second.store, run, told=1)
    claimed = await heir.advance("asset.started", claims=(NUMBERS,))
    assert claimed.claims[NUMBERS].granted
    assert claimed.claims[NUMBERS].lost == 0
    assert (await heir.finish()).accepted


async def test_a_deadline_wakes_it(stores: Stores, clock: SetClock) -> None:
    engine = await stores.engine()
    drive = await engine.start()
    await opened(drive, gate(drive, due=HOUR, kind="sleep"))
    await suspended(drive)
    clock.advance(3600)

    assert await engine.store.gates.sweep() == 1

    assert await run_state(drive) == "running"
    found = (await engine.store.gates.wakes([drive.id]))[drive.id]
    assert (found.number, found.until) == (1, None)
    [run] = await engine.store.take_orphans(engine.worker.id, ["sales"], limit=5)
    assert run.id == drive.id
    assert run.fence == (found.quiet or 0) + 1, "nothing of it was going on but waiting"


async def test_the_time_that_it_was_suspended_adds_up(stores: Stores, clock: SetClock) -> None:
    """RUN-11: its timeout does not count it."""
    engine = await stores.engine()
    drive = await engine.start()
    first, second = gate(drive), gate(drive, "second")
    await opened(drive, first, second)
    await suspended(drive)
    clock.advance(100)
    await deliver(engine.store, first)
    clock.advance(1000)
    [run] = await engine.store.take_orphans(engine.worker.id, ["sales"], limit=5)
    heir = Drive(engine.store, run, told=1)
    assert (await engine.store.gates.wakes([drive.id]))[drive.id].paused == 100
    await suspended(heir)
    clock.advance(11)
    await deliver(engine.store, second)
    assert (await engine.store.gates.wakes([drive.id]))[drive.id].paused == 111


async def test_a_suspended_run_is_found_by_its_request(stores: Stores) -> None:
    """APPR-03: the same call joins it, until it has ended, whoever goes on with it."""
    engine = await stores.engine()
    gates = engine.store.gates
    driven, drive = await engine.start(request="r"), await engine.start(request="r")
    await opened(drive, made := gate(drive))
    assert await gates.suspended_run("sales", "r") is None
    await suspended(drive)
    assert await gates.suspended_run("sales", "r") == drive.id
    assert await gates.suspended_run("sales", "other") is None
    assert await gates.suspended_run("other", "r") is None
    await deliver(engine.store, made)
    assert await gates.suspended_run("sales", "r") == drive.id
    assert driven.id != drive.id
    await engine.store.take_orphans(engine.worker.id, ["sales"], limit=5)
    assert await gates.suspended_run("sales", "r") == drive.id
    await engine.store.cancel(drive.id, [], [])
    assert await gates.suspended_run("sales", "r") is None


async def test_a_run_that_a_call_joined_is_not_given_up(stores: Stores) -> None:
    """RUN-17: as one that a submission joined; what has ended is joined by nobody."""
    one, other = await stores.engine(), await stores.engine()
    first, second = await one.start(), await one.start()
    for _ in range(2):
        assert await other.store.join(first.id)
    for drive, state in ((first, "running"), (second, "cancelled")):
        left = await one.store.cancel(drive.id, [], [], unless_joined=True)
        assert left is not None
        assert left.state == state
    assert not await other.store.join(second.id)
    assert not await other.store.join("nonsense")
    assert (await one.store.cancel(first.id, [], [])) is not None
    assert not await other.store.join(first.id)


async def test_whoever_waits_for_runs_is_told(stores: Stores) -> None:
    first, second = await stores.engine(), await stores.engine()
    drive = await first.start()
    made = gate(drive)
    await opened(drive, made)
    await suspended(drive)
    waiting = [asyncio.create_task(changed(second, topic)) for topic in ("woken", f"run:{drive.id}")]
    await asyncio.sleep(0)  # they listen

    await deliver(first.store, made)

    await asyncio.gather(*waiting)
    assert await run_state(drive) == "running"


async def test_woken_before_it_is_suspended_it_looks_again(engine: Engine) -> None:
    """ADR 10: the count was read before the gates."""
    drive = await engine.start(NUMBERS)
    made = gate(drive)
    await opened(drive, made)
    seen = await wakes(drive)
    await deliver(engine.store, made)

    assert await engine.store.gates.suspend(drive.id, drive.run.fence, seen) == "woken"

    assert (await drive.advance("still.mine")).accepted
    assert (await state_of(engine.store, NUMBERS)).claimed_by == drive.id
    await suspended(drive)


async def test_woken_twice_it_goes_on_once(stores: Stores) -> None:
    engine = await stores.engine()
    drive = await engine.start()
    gates = [gate(drive, name) for name in ("one", "two", "three")]
    await opened(drive, *gates)
    await suspended(drive)
    for each in gates:
        assert await deliver(engine.store, each) == "accepted"

    assert await wakes(drive) == 3
    assert len(await engine.store.take_orphans(engine.worker.id, ["sales"], limit=5)) == 1
    assert await engine.store.take_orphans(engine.worker.id, ["sales"], limit=5) == ()


async def test_suspended_twice_it_says_so_again(stores: Stores) -> None:
    """As after a lost reply: or that the run has gone on since."""
    first, second = await stores.engine(), await stores.engine()
    drive = await first.start()
    made = gate(drive)
    await opened(drive, made)
    for _ in range(2):
        assert await first.store.gates.suspend(drive.id, drive.run.fence, 0) == "suspended"
    await deliver(first.store, made)
    assert await first.store.gates.suspend(drive.id, drive.run.fence, 0) == "lost"
    await second.store.take_orphans(second.worker.id, ["sales"], limit=1)
    assert await first.store.gates.suspend(drive.id, drive.run.fence, 1) == "lost"
    assert await first.store.gates.suspend(identifier(), 1, 0) == "lost"


async def test_it_can_be_cancelled(stores: Stores) -> None:
    first, second = await stores.engine(), await stores.engine()
    drive = await first.start(NUMBERS)
    made = gate(drive)
    await opened(drive, made)
    await suspended(drive)

    cancelled = await second.store.cancel(drive.id, (event(1, "run.cancelled"),), ())

    assert cancelled is not None
    assert (cancelled.state, cancelled.worker) == ("cancelled", None)
    assert await deliver(second.store, made) == "closed"
    assert await second.store.take_orphans(second.worker.id, ["sales"], limit=1) == ()
    assert await second.store.gates.suspend(drive.id, drive.run.fence, 0) == "lost"
    assert [told.no for told in await second.store.events(drive.id)] == [1, 2]


async def test_it_is_active_all_the_same(stores: Stores, clock: SetClock) -> None:
    """It is neither pruned nor counted as running."""
    engine = await stores.engine()
    drive = await engine.start()
    await opened(drive, gate(drive))
    await suspended(drive)
    clock.advance(1_000_000)

    assert (await engine.store.prune(runs=10, values=10)).runs == 0
    assert await run_state(drive) == "waiting"
    assert await engine.store.queue(["sales"]) == (0, 0, None, 0, 1)
    assert await engine.store.gates.waiting(["sales"]) != ()
    await deliver(engine.store, gate(drive))
    assert await engine.store.queue(["sales"]) == (0, 0, None, 1, 0)


async def test_a_signal_and_a_suspension_at_once_lose_no_wake(stores: Stores) -> None:
    """SIG-09, in every order that the server finds."""
    first, second = await stores.engine(), await stores.engine()
    for _ in range(10):
        drive = await first.start()
        made = gate(drive)
        await opened(drive, made)
        suspending = first.store.gates.suspend(drive.id, drive.run.fence, 0)
        said, delivered = await asyncio.gather(suspending, second.store.gates.deliver(Signal(b"1", made.id)))
        assert delivered.state == "accepted"
        taken = await second.store.take_orphans(second.worker.id, ["sales"], limit=5)
        assert [run.id for run in taken] == ([drive.id] if said == "suspended" else [])
        assert said in {"suspended", "woken"}
        await second.store.cancel(drive.id, (), ())


@pytest.mark.parametrize("state", ["running", "waiting"])
async def test_an_equal_request_joins_it(engine: Engine, state: str) -> None:
    drive = await engine.start(request="same")
    await opened(drive, gate(drive))
    if state == "waiting":
        await suspended(drive)

    joined = await submit(engine, request="same")

    assert (joined.created, joined.run.id, joined.run.state) == (False, drive.id, state)


async def ended(engine: Engine, of: AssetKey = NUMBERS) -> str | None:
    """Return what has ended for an asset that is to go on."""
    found = await engine.store.gates.last_ended(of)
    return None if found is None else found.gate.name


async def test_what_has_ended_is_found_until_its_asset_goes_on(stores: Stores) -> None:
    """APPR-04: by the asset, also while nobody takes the run, and after somebody has."""
    engine = await stores.engine()
    drive = await engine.start()
    made = gate(drive)
    await opened(drive, made, gate(drive, "other", asset=TOTAL))
    await deliver(engine.store, made)
    assert await ended(engine) is None, "it was never suspended"
    await suspended(drive)
    assert await ended(engine) is None, "it has gone on before it was"
    await deliver(engine.store, gate(drive, "other"))

    assert (await ended(engine), await ended(engine, TOTAL)) == ("sent", "other")
    assert await ended(engine, key("numbers", "d:2025")) is None
    [run] = await engine.store.take_orphans(engine.worker.id, ["sales"], limit=5)
    assert await ended(engine, TOTAL) == "other"
    await Drive(engine.store, run, told=1).finish()
    assert await ended(engine, TOTAL) is None


async def test_a_deadline_that_nobody_has_looked_at_counts_as_ended(stores: Stores, clock: SetClock) -> None:
    engine = await stores.engine()
    drive = await engine.start()
    await opened(drive, gate(drive, due=HOUR))
    await suspended(drive)
    assert await ended(engine) is None
    clock.advance(3600)
    assert await ended(engine) == "sent"
    await engine.store.gates.sweep()
    assert await ended(engine) == "sent"
