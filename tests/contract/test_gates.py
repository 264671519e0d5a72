"""Gates: what ends one, exactly once, and runs that are suspended until then (SIG-01, SIG-08..11, APPR-07, APPR-08)."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import pytest

from flowstone_async.errors import ConfigError, TokenInUse
from flowstone_async.store.gates import Delivery, Gate, Signal, StoredGate
from flowstone_async.store.protocol import Store
from tests.contract.builders import Drive, identifier, key
from tests.contract.clock import SetClock
from tests.contract.stores import Engine, Stores

NUMBERS, TOTAL = key("numbers"), key("total")
HOUR = timedelta(hours=1)
TOKEN = b"t" * 32


def gate(drive: Drive, name: str = "sent", **changes: Any) -> Gate:
    """Return a gate of a run, with the id that its name has in it."""
    made = Gate(
        id=str(uuid5(NAMESPACE_URL, f"{drive.id}/{name}")),
        run_id=drive.id,
        body=identifier(),
        key=f"/{name}#0",
        kind="signal",
        asset=NUMBERS,
        name=name,
    )
    return made._replace(**changes)


async def opened(drive: Drive, *gates: Gate) -> tuple[StoredGate, ...]:
    """Record gates and return them as they are."""
    found = await drive.store.gates.open(drive.id, drive.run.fence, gates)
    assert found is not None
    return tuple(found[each.id] for each in gates)


async def deliver(store: Store, to: Gate | bytes, payload: bytes = b"yes", **changes: Any) -> str:
    """Deliver a signal and return what became of it."""
    address: dict[str, Any] = {"token": to} if isinstance(to, bytes) else {"gate": to.id}
    return (await store.gates.deliver(Signal(payload, **address, **changes))).state


async def how(store: Store, of: Gate) -> str | None:
    """Return what has ended a gate, on record."""
    stored = (await store.gates.read([of.id])).get(of.id)
    return None if stored is None or stored.outcome is None else stored.outcome.how


async def holder(store: Store) -> str | None:
    found = await store.gates.holder(TOKEN)
    return None if found is None else found.gate.id


async def wakes(drive: Drive) -> int:
    return (await drive.store.gates.wakes([drive.id]))[drive.id].number


async def suspended(drive: Drive) -> None:
    """Suspend a run that has waited for something."""
    assert await drive.store.gates.suspend(drive.id, drive.run.fence, await wakes(drive)) == "suspended"


async def run_state(drive: Drive) -> str:
    run = await drive.store.run(drive.id)
    assert run is not None
    return run.state


async def test_a_gate_is_recorded_as_it_was_given(engine: Engine, clock: SetClock) -> None:
    drive = await engine.start()
    made = gate(drive, due=clock.now() + HOUR, facts='{"a": 1}', kind="approval", asset=key("numbers", "d:2025"))

    [stored] = await opened(drive, made)

    assert stored == StoredGate(made, clock.now(), None, "open", made.due)
    assert await engine.store.gates.read([made.id, identifier(), "none"]) == {made.id: stored}
    assert await engine.store.gates.of_run(drive.id) == (stored,)


async def test_opened_again_it_keeps_its_deadline_and_its_outcome(engine: Engine, clock: SetClock) -> None:
    """STEP-05, SIG-02: fixed at the first call, on the store's clock."""
    drive = await engine.start()
    due = clock.now() + HOUR
    await opened(drive, gate(drive, due=HOUR))
    clock.advance(60)

    [stored] = await opened(drive, gate(drive, due=HOUR)._replace(name="other text"))
    assert (stored.due, stored.gate.name) == (due, "sent")

    await deliver(engine.store, stored.gate)
    [stored] = await opened(drive, gate(drive, due=HOUR))
    assert stored.state == "signalled"


async def test_only_the_owner_of_a_run_opens_gates(stores: Stores) -> None:
    first, second = await stores.engine(), await stores.engine()
    drive = await first.start()
    made = gate(drive)
    await stores.kill(first)
    [taken] = await second.store.take_orphans(second.worker.id, ["sales"], limit=1)

    assert await second.store.gates.open(drive.id, drive.run.fence, [made]) is None
    assert await second.store.gates.open(identifier(), 1, [made]) is None
    assert await second.store.gates.open("none", 1, [made]) is None
    assert await second.store.gates.read([made.id]) == {}
    assert await second.store.gates.open(drive.id, taken.fence, [made]) is not None


async def test_the_first_signal_stands(engine: Engine, clock: SetClock) -> None:
    """SIG-08: a repetition is told, anything else changes nothing."""
    drive = await engine.start()
    made = gate(drive)
    await opened(drive, made)
    first = await engine.store.gates.deliver(Signal(b"1", made.id, signal_id="a"))
    at = clock.now()
    clock.advance(1)

    assert (first.state, first.gate) == ("accepted", made.id)
    assert await deliver(engine.store, made, b"1") == "duplicate"
    assert await deliver(engine.store, made, b"2", signal_id="a") == "duplicate"
    assert await deliver(engine.store, made, b"2") == "already"
    assert await deliver(engine.store, made, b"2", signal_id="b") == "already"
    last = await engine.store.gates.deliver(Signal(b"3", made.id))
    assert last.outcome == first.outcome
    assert last.outcome is not None
    assert (last.outcome.payload, last.outcome.signal_id, last.outcome.at) == (b"1", "a", at)


async def test_a_signal_after_the_deadline_finds_it_passed_before_anybody_swept(
    engine: Engine, clock: SetClock
) -> None:
    """APPR-08, SIG-09: from its deadline on, and never before."""
    drive = await engine.start()
    made, other = gate(drive, due=HOUR), gate(drive, "other", due=HOUR)
    await opened(drive, made, other)
    clock.advance(3599)
    assert await deliver(engine.store, other) == "accepted"
    clock.advance(1)

    stored = (await engine.store.gates.read([made.id]))[made.id]
    assert (stored.state, stored.outcome) == ("expired", None)
    assert await deliver(engine.store, made) == "expired"
    assert await how(engine.store, made) == "expired"
    assert await deliver(engine.store, made) == "expired"
    assert await wakes(drive) == 2


async def test_deadlines_pass_on_the_store_s_clock_oldest_first(engine: Engine, clock: SetClock) -> None:
    """SIG-09: of every kind; some at a time."""
    drive = await engine.start()
    gates = [
        gate(drive, f"g{no}", due=timedelta(minutes=10 - no), kind=kind)
        for no, kind in enumerate(("signal", "sleep", "approval", "sleep", "signal"))
    ]
    await opened(drive, *gates, gate(drive, "never"), gate(drive, "later", due=HOUR))
    assert await engine.store.gates.next_due() == clock.now() + timedelta(minutes=6)
    assert await engine.store.gates.sweep() == 0
    clock.advance(600)

    assert await engine.store.gates.sweep(limit=2) == 2
    assert [await how(engine.store, each) for each in gates] == [None, None, None, "expired", "expired"]
    while await engine.store.gates.sweep(limit=2):
        pass

    assert {await how(engine.store, each) for each in gates} == {"expired"}
    assert await engine.store.gates.next_due() == clock.now() + timedelta(minutes=50)
    assert await wakes(drive) >= 3


async def test_a_signal_that_comes_first_is_delivered_once_there_is_a_gate(engine: Engine, clock: SetClock) -> None:
    """SIG-01, SIG-11: by the gate's own token, or by one that the other side chose."""
    drive = await engine.start()
    made, chosen = gate(drive), gate(drive, "chosen", token=TOKEN)
    assert await deliver(engine.store, made, b"1", keep=60.0, signal_id="a") == "early"
    assert await deliver(engine.store, made, b"1", keep=60.0) == "duplicate"
    assert await deliver(engine.store, made, b"2", keep=60.0) == "already"
    assert await deliver(engine.store, TOKEN, b"3", keep=60.0) == "early"
    at = clock.now()
    clock.advance(59)

    first, second = await opened(drive, made, chosen)

    assert first.outcome is not None
    assert second.outcome is not None
    assert (first.outcome.payload, first.outcome.at, first.outcome.signal_id) == (b"1", at, "a")
    assert second.outcome.payload == b"3"
    assert await deliver(engine.store, made, b"1") == "duplicate"
    assert await deliver(engine.store, TOKEN, b"4") == "already"


async def test_a_signal_that_comes_too_early_is_forgotten(engine: Engine, clock: SetClock) -> None:
    drive = await engine.start()
    made = gate(drive)
    assert await deliver(engine.store, made, b"1", keep=60.0) == "early"
    clock.advance(60)

    [stored] = await opened(drive, made)

    assert stored.state == "open"
    assert await deliver(engine.store, made, b"2") == "accepted"
    assert await deliver(engine.store, TOKEN, b"1", keep=60.0) == "early"
    clock.advance(60)
    assert await deliver(engine.store, TOKEN, b"2", keep=60.0) == "early"
    await engine.store.prune(runs=None, values=None)
    clock.advance(59)
    [stored] = await opened(drive, gate(drive, "chosen", token=TOKEN))
    assert stored.outcome is not None
    assert stored.outcome.payload == b"2"


async def test_a_signal_for_nothing_is_unknown_if_it_is_not_to_be_kept(engine: Engine) -> None:
    drive = await engine.start()
    made, sleep = gate(drive), gate(drive, "sleep", kind="sleep", due=HOUR)
    await opened(drive, sleep)

    assert await deliver(engine.store, made) == "unknown"
    assert await deliver(engine.store, TOKEN) == "unknown"
    assert await deliver(engine.store, sleep, keep=60.0) == "unknown"
    [stored] = await opened(drive, made)
    assert stored.state == "open"
    assert await how(engine.store, sleep) is None


async def test_a_chosen_token_is_held_by_one_open_gate(engine: Engine) -> None:
    """SIG-11: what is refused opens nothing; once the gate has ended, its token is free."""
    drive, other = await engine.start(), await engine.start()
    held = gate(drive, token=TOKEN)
    await opened(drive, held)
    await opened(drive, held)
    twice = [gate(other, name, token=b"u" * 32) for name in ("one", "two")]

    with pytest.raises(TokenInUse):
        await opened(other, gate(other, "free"), gate(other, token=TOKEN))
    with pytest.raises(TokenInUse):
        await opened(other, *twice)
    assert await engine.store.gates.of_run(other.id) == ()

    assert await engine.store.gates.holder(b"u" * 32) is None
    assert await deliver(engine.store, TOKEN, b"1") == "accepted"
    assert await deliver(engine.store, TOKEN, b"1") == "duplicate"
    assert await holder(engine.store) == held.id  # until another gate has it
    await opened(other, gate(other, token=TOKEN))
    assert await holder(engine.store) == gate(other).id
    [stored] = await opened(drive, held)  # as a body that is called again does
    assert stored.state == "signalled"
    assert await deliver(engine.store, TOKEN, b"2") == "accepted"
    await opened(drive, gate(drive, "again", token=TOKEN))
    await engine.store.cancel(drive.id, (), ())
    await opened(other, gate(other, "last", token=TOKEN))


@pytest.mark.parametrize("ends", ["cancelled", "succeeded"])
async def test_the_end_of_a_run_closes_its_gates(engine: Engine, clock: SetClock, ends: str) -> None:
    """APPR-14, SIG-10: those that have an outcome keep it."""
    drive = await engine.start()
    made, signalled = gate(drive, due=HOUR), gate(drive, "signalled")
    await opened(drive, made, signalled)
    await deliver(engine.store, signalled)

    if ends == "cancelled":
        await engine.store.cancel(drive.id, (), ())
    else:
        assert (await drive.finish()).accepted

    assert await how(engine.store, made) == "cancelled"
    assert await how(engine.store, signalled) == "signalled"
    assert await deliver(engine.store, made) == "closed"
    assert await deliver(engine.store, signalled) == "duplicate"
    clock.advance(7200)
    assert await engine.store.gates.sweep() == 0
    assert await engine.store.gates.waiting(["sales"]) == ()
    assert await engine.store.gates.wakes([drive.id]) == {}


async def test_a_run_that_was_taken_over_closes_gates_that_others_opened(stores: Stores) -> None:
    first, second = await stores.engine(), await stores.engine()
    drive = await first.start()
    made = gate(drive)
    await opened(drive, made)
    await stores.kill(first)
    [run] = await second.store.take_orphans(second.worker.id, ["sales"], limit=1)

    assert (await Drive(second.store, run, told=1).finish()).accepted

    assert await how(second.store, made) == "cancelled"


async def test_whoever_opened_gates_for_another_worker_can_take_the_run_over(stores: Stores) -> None:
    """SCAT-16, SIG-07: it has helped with items, and goes on with the run itself once it was woken."""
    first, second = await stores.engine(), await stores.engine()
    drive = await first.start()
    made = gate(drive)
    assert await second.store.gates.open(drive.id, drive.run.fence, [made]) is not None
    await suspended(drive)
    assert await deliver(second.store, made) == "accepted"
    [run] = await second.store.take_orphans(second.worker.id, ["sales"], limit=1)

    assert (await Drive(second.store, run, told=1).finish()).accepted


async def test_gates_that_nobody_waits_for_are_withdrawn(engine: Engine) -> None:
    """STEP-10: by whoever owns their run; what has ended stays as it is, nobody is woken, and tokens are free again."""
    drive, other = await engine.start(), await engine.start()
    made, ended, asked = gate(drive, token=TOKEN), gate(drive, "ended"), gate(drive, "asked", kind="mismatch")
    foreign = gate(other)
    await opened(drive, made, ended, asked)
    await opened(other, foreign)
    await deliver(engine.store, ended)
    before, withdraw = await wakes(drive), engine.store.gates.withdraw
    fence = drive.run.fence

    assert not await withdraw(drive.id, fence + 1, [made.id])
    assert not await withdraw(identifier(), fence, [made.id])
    assert await how(engine.store, made) is None
    for _ in range(2):
        assert await withdraw(drive.id, fence, [made.id, ended.id, asked.id, foreign.id, identifier()])
    assert await withdraw(drive.id, fence, [])

    found = [await how(engine.store, each) for each in (made, ended, asked, foreign)]
    assert found == ["cancelled", "signalled", "cancelled", None]
    assert await wakes(drive) == before
    assert await deliver(engine.store, asked) == "closed"
    await opened(drive, gate(drive, "later", token=TOKEN))
    assert await deliver(engine.store, TOKEN) == "accepted"
    assert await engine.store.verify() == ()


async def test_an_expired_gate_is_armed_again(engine: Engine, clock: SetClock) -> None:
    """SIG-05: the same id and token, until the new deadline."""
    drive = await engine.start()
    made, signalled = gate(drive, due=HOUR, token=TOKEN), gate(drive, "signalled", due=HOUR)
    await opened(drive, made, signalled)
    await deliver(engine.store, signalled)
    later = clock.now() + 3 * HOUR
    rearm = engine.store.gates.rearm
    assert not await rearm(drive.id, drive.run.fence, made.id, later)
    clock.advance(3600)
    assert not await rearm(drive.id, drive.run.fence, made.id, later)
    await engine.store.gates.sweep()

    assert not await rearm(drive.id, drive.run.fence + 1, made.id, later)
    assert not await rearm(drive.id, drive.run.fence, signalled.id, later)
    assert not await rearm(drive.id, drive.run.fence, identifier(), later)
    for _ in range(2):
        assert await rearm(drive.id, drive.run.fence, made.id, later)

    stored = (await engine.store.gates.read([made.id]))[made.id]
    assert (stored.state, stored.due) == ("open", later)
    assert await engine.store.gates.next_due() == later
    assert await deliver(engine.store, TOKEN) == "accepted"
    assert not await rearm(drive.id, drive.run.fence, made.id, later + HOUR)


async def test_a_token_that_another_gate_has_by_now_arms_none(engine: Engine, clock: SetClock) -> None:
    drive = await engine.start()
    made = gate(drive, due=HOUR, token=TOKEN)
    await opened(drive, made)
    clock.advance(3600)
    await engine.store.gates.sweep()
    await opened(drive, gate(drive, "other", token=TOKEN))

    with pytest.raises(TokenInUse):
        await engine.store.gates.rearm(drive.id, drive.run.fence, made.id, clock.now() + HOUR)
    assert await how(engine.store, made) == "expired"


async def test_a_signal_that_came_first_and_does_not_fit_is_refused(engine: Engine, clock: SetClock) -> None:
    """SIG-12: the gate is open until its deadline, and the signal kept to be looked at."""
    drive = await engine.start()
    made, over = gate(drive, due=HOUR, token=TOKEN), gate(drive, "over", due=HOUR)
    for each in (made, over):
        await deliver(engine.store, each, b"?1", keep=60.0, signal_id="a")
    await opened(drive, made, over)
    refuse = engine.store.gates.refuse

    assert not await refuse(drive.id, drive.run.fence, made.id, b"?2")
    assert not await refuse(drive.id, drive.run.fence + 1, made.id, b"?1")
    assert not await refuse(drive.id, drive.run.fence, identifier(), b"?1")
    assert not await refuse(drive.id, drive.run.fence, "none", b"?1")
    for _ in range(2):
        assert await refuse(drive.id, drive.run.fence, made.id, b"?1")

    [stored] = await opened(drive, made)
    assert (stored.state, stored.outcome) == ("open", None)
    kept = [each for each in await engine.store.gates.deliveries(made.id) if each.state == "invalid"]
    assert [(each.payload, each.signal_id, each.at) for each in kept] == [(b"?1", "a", clock.now())]
    assert await deliver(engine.store, TOKEN, b"2") == "accepted"
    assert not await refuse(drive.id, drive.run.fence, made.id, b"?1")
    clock.advance(3600)
    assert await refuse(drive.id, drive.run.fence, over.id, b"?1")
    assert await deliver(engine.store, over, b"2") == "expired"
    assert not await refuse(drive.id, drive.run.fence, over.id, b"?1")


async def test_a_signal_is_not_refused_once_another_gate_has_its_token(engine: Engine) -> None:
    drive = await engine.start()
    made = gate(drive, token=TOKEN)
    await deliver(engine.store, TOKEN, b"?1", keep=60.0)
    await opened(drive, made)
    await opened(drive, gate(drive, "other", token=TOKEN))

    with pytest.raises(TokenInUse):
        await engine.store.gates.refuse(drive.id, drive.run.fence, made.id, b"?1")
    assert await how(engine.store, made) == "signalled"


async def test_open_gates_are_listed_by_deadline(engine: Engine, clock: SetClock) -> None:
    """APPR-17, SIG-14: the nearest first, those without one last, page by page."""
    drive = await engine.start()
    signals = [gate(drive, f"s{no}", due=timedelta(minutes=10 - no)) for no in range(4)]
    never = [gate(drive, f"n{no}", asset=TOTAL._replace(partition=f"i:{no}")) for no in range(3)]
    approval = gate(drive, "approval", kind="approval", due=HOUR)
    over = gate(drive, "over", due=timedelta(seconds=1))
    await opened(drive, *signals, *never, approval, over)
    await deliver(engine.store, signals[3])
    clock.advance(1)
    gates = engine.store.gates
    expected = [signals[2], signals[1], signals[0], approval, *sorted(never, key=lambda one: one.id)]

    found: list[str] = []
    while page := await gates.waiting(["sales"], limit=2, after=found[-1] if found else None):
        found += [stored.gate.id for stored in page]
    assert found == [each.id for each in expected]
    assert [stored.gate.id for stored in await gates.waiting(["sales"], ["approval"])] == [approval.id]
    assert len(await gates.waiting(["sales"], asset="total")) == 3
    for each in never:
        assert [found.gate.id for found in await gates.waiting(["sales"], key=each.asset, limit=1)] == [each.id]
    assert await gates.waiting(["sales"], key=TOTAL) == ()
    assert await gates.waiting(["sales"], key=never[0].asset._replace(io="other")) == ()
    assert await gates.waiting(["other"]) == ()
    assert await gates.waiting(["sales"], after=identifier()) == ()


async def test_every_delivery_is_on_record(engine: Engine, clock: SetClock) -> None:
    """SIG-13: early, accepted, repeated, refused; with what was not kept elsewhere."""
    drive = await engine.start()
    made = gate(drive, token=TOKEN)
    gates = engine.store.gates
    await deliver(engine.store, TOKEN, b"1", keep=60.0, facts='{"from": "here"}')
    await opened(drive, made)
    await deliver(engine.store, made, b"1", signal_id="a")
    await deliver(engine.store, TOKEN, b"2")
    await gates.record_delivery(Delivery("invalid", made.id, payload=b"3"))
    await gates.record_delivery(Delivery("forged", "no id"))

    found = await gates.deliveries(made.id)

    assert [(one.state, one.payload, one.signal_id) for one in found] == [
        ("invalid", b"3", None),
        ("already", b"2", None),
        ("duplicate", None, "a"),
        ("early", None, None),
    ]
    assert (found[3].facts, found[3].at, found[3].token) == ('{"from": "here"}', clock.now(), TOKEN)
    assert await gates.deliveries(made.id, limit=1) == found[:1]
    assert await gates.deliveries(identifier()) == ()


async def test_a_caller_s_connection_must_be_one(engine: Engine) -> None:
    with pytest.raises(ConfigError, match="conn="):
        await engine.store.gates.deliver(Signal(b"1", identifier()), connection=object())


async def test_gates_go_with_their_run(engine: Engine, clock: SetClock) -> None:
    drive = await engine.start()
    made = gate(drive, token=TOKEN)
    await opened(drive, made)
    await drive.finish()
    clock.advance(100)

    assert (await engine.store.prune(runs=50, values=None)).runs == 1

    assert await engine.store.gates.read([made.id]) == {}
    assert await deliver(engine.store, TOKEN) == "unknown"
    assert await engine.store.verify() == ()


async def test_what_has_ended_of_many_gates(engine: Engine) -> None:
    """Only what has: signalled, expired and cancelled; unknown ones are left out."""
    drive, other = await engine.start(), await engine.start()
    signalled, waits, cancelled = gate(drive), gate(drive, "waits"), gate(other, "cancelled")
    await opened(drive, signalled, waits)
    await opened(other, cancelled)
    await deliver(engine.store, signalled)
    await other.finish()
    found = await engine.store.gates.outcomes([signalled.id, waits.id, cancelled.id, identifier(), "no id"])
    assert {one: outcome.how for one, outcome in found.items()} == {
        signalled.id: "signalled",
        cancelled.id: "cancelled",
    }
    assert found[signalled.id] == (await engine.store.gates.read([signalled.id]))[signalled.id].outcome
