"""Who wins when a signal meets another signal, the deadline, a cancellation or the suspension of its run (SIG-08, SIG-09).

Whatever the order, a gate has one outcome, the callers are told the truth, and no run waits for what has happened.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from flowstone_async.errors import StoreUnavailable
from flowstone_async.store.gates import Delivered, Gate, Signal
from flowstone_async.store.postgres.queries import QUERIES
from tests.contract.builders import Drive, key
from tests.contract.test_gates import HOUR, deliver, gate, how, opened, run_state, suspended, wakes
from tests.postgres.conftest import Opened, OpenStore
from tests.postgres.test_races import undecided
from tests.postgres.waiting import blocked

TRIALS = [
    pytest.param(60, id="some"),
    pytest.param(2_000, id="many", marks=pytest.mark.faults),
]
AT_ONCE = 4
Trial = Callable[[Drive, Gate, Opened, Opened], Awaitable[None]]


@pytest_asyncio.fixture
async def two(open_apart: OpenStore) -> AsyncIterator[tuple[Opened, Opened]]:
    """Two processes: the first one drives the runs."""
    yield await open_apart(), await open_apart()


async def overlapping(
    two: tuple[Opened, Opened], trials: int, trial: Trial, *, at_once: int = AT_ONCE, **changes: Any
) -> None:
    """Try something on runs of their own with one open gate each, some at a time."""
    first, second = two

    async def one_after_another(count: int) -> None:
        for _ in range(count):
            drive = await first.start()
            made = gate(drive, **changes)
            await opened(drive, made)
            await trial(drive, made, first, second)
            await second.store.cancel(drive.id, (), ())

    async with asyncio.TaskGroup() as group:
        for _ in range(at_once):
            group.create_task(one_after_another(trials // at_once))


async def jitter() -> None:
    """Let others go first, or not."""
    for _ in range(random.randrange(12)):
        await asyncio.sleep(0)


async def late(of: Awaitable[Any]) -> Any:
    await jitter()
    return await of


async def is_free(drive: Drive) -> bool:
    """Tell whether a run is for anybody to take."""
    run = await drive.store.run(drive.id)
    assert run is not None
    return run.state == "running" and run.worker is None


@pytest.mark.parametrize("trials", TRIALS)
async def test_a_signal_and_a_suspension_lose_no_wake(two: tuple[Opened, Opened], trials: int) -> None:
    """The run is never left waiting: either it is woken, or its driver was told to look again."""
    seen: set[str] = set()

    async def trial(drive: Drive, made: Gate, first: Opened, second: Opened) -> None:
        known = await wakes(drive)
        suspending = late(first.store.gates.suspend(drive.id, drive.run.fence, known))
        delivering = late(second.store.gates.deliver(Signal(b"1", made.id)))
        said, delivered = await asyncio.gather(suspending, delivering)
        seen.add(said)
        assert delivered.state == "accepted"
        assert await wakes(drive) == 1
        if said == "suspended":
            assert await is_free(drive)
        else:
            assert said == "woken"
            assert (await drive.advance("still.mine")).accepted

    await overlapping(two, trials, trial)
    assert seen <= {"suspended", "woken"}


@pytest.mark.parametrize("trials", TRIALS)
async def test_a_signal_and_the_deadline_have_one_winner(two: tuple[Opened, Opened], trials: int) -> None:
    async def trial(drive: Drive, made: Gate, first: Opened, second: Opened) -> None:
        await suspended(drive)
        connection = await asyncpg_of(first)
        try:
            # The deadline is now, for the sweeper, and has not passed yet for who signals.
            expiring = late(connection.fetch(QUERIES["expire_gates"], 50, made_due(made) + timedelta(seconds=1)))
            delivered, _ = await asyncio.gather(late(second.store.gates.deliver(Signal(b"1", made.id))), expiring)
        finally:
            connection.terminate()
        await second.store.gates.sweep()
        assert (delivered.state, await how(second.store, made)) in {
            ("accepted", "signalled"),
            ("expired", "expired"),
        }
        assert await is_free(drive)

    # One at a time: what expires the gates would expire those of other trials too.
    await overlapping(two, trials, trial, at_once=1, due=datetime(2100, 1, 1, tzinfo=UTC))


def made_due(made: Gate) -> datetime:
    assert isinstance(made.due, datetime)
    return made.due


async def asyncpg_of(opened_one: Opened) -> asyncpg.Connection:
    address = opened_one.store._connections.direct_address
    assert address is not None
    return await asyncpg.connect(address)


@pytest.mark.parametrize("trials", TRIALS)
async def test_of_different_signals_one_is_accepted(two: tuple[Opened, Opened], trials: int) -> None:
    async def trial(drive: Drive, made: Gate, first: Opened, second: Opened) -> None:
        signals = [Signal(payload, made.id) for payload in (b"1", b"2", b"2")]
        stores = (first.store, second.store, first.store)
        said: list[Delivered] = await asyncio.gather(
            *(late(store.gates.deliver(each)) for store, each in zip(stores, signals, strict=True))
        )
        [winner] = [each for each, one in zip(signals, said, strict=True) if one.state == "accepted"]
        assert {one.outcome.payload for one in said if one.outcome is not None} == {winner.payload}
        for each, one in zip(signals, said, strict=True):
            if each is not winner:
                assert one.state == ("duplicate" if each.payload == winner.payload else "already")
        assert await wakes(drive) == 1

    await overlapping(two, trials, trial)


@pytest.mark.parametrize("trials", TRIALS)
async def test_a_cancellation_and_a_signal_have_one_winner(two: tuple[Opened, Opened], trials: int) -> None:
    async def trial(drive: Drive, made: Gate, first: Opened, second: Opened) -> None:
        if random.random() < 0.5:
            await suspended(drive)
        cancelling = late(first.store.cancel(drive.id, (), ()))
        delivered, run = await asyncio.gather(late(second.store.gates.deliver(Signal(b"1", made.id))), cancelling)
        assert run is not None
        assert run.state == "cancelled"
        assert (delivered.state, await how(second.store, made)) in {
            ("accepted", "signalled"),
            ("closed", "cancelled"),
        }

    await overlapping(two, trials, trial)


@pytest.mark.parametrize("trials", TRIALS)
async def test_a_signal_and_the_record_of_its_gate_meet(two: tuple[Opened, Opened], trials: int) -> None:
    """SIG-01: whichever is first, the gate has its signal, or its run is woken."""
    first, second = two

    async def trials_of(count: int) -> None:
        for _ in range(count):
            drive = await first.start()
            made = gate(drive, token=drive.id.encode())
            to: dict[str, Any] = {"gate": made.id} if random.random() < 0.5 else {"token": made.token}
            opening = late(first.store.gates.open(drive.id, drive.run.fence, [made]))
            delivering = late(second.store.gates.deliver(Signal(b"1", **to, keep=60.0)))
            found, delivered = await asyncio.gather(opening, delivering)
            assert delivered.state in {"early", "accepted"}
            assert await how(second.store, made) == "signalled"
            assert found is not None
            assert found[made.id].outcome is not None or await wakes(drive) == 1

    async with asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(trials_of(trials // AT_ONCE))


async def signal_by_hand(connection: asyncpg.Connection, made: Gate, payload: bytes = b"1") -> str:
    """Deliver in a transaction of the test's own, and let nobody be woken."""
    given = (made.id, None, payload, None, "{}", 60.0, None)
    return (await connection.fetchrow(QUERIES["signal"], *given))["state"]


@pytest.mark.parametrize("commits", [True, False], ids=["commits", "rolls back"])
async def test_a_signal_in_a_transaction_that_stays_open_holds_up_nothing(
    dsn: str, opened: Opened, commits: bool
) -> None:
    """SIG-08: sweeps, cancellations and ends of runs pass over the gate; it takes effect if and only if it commits."""
    drives = [await opened.start(key(f"k{no}")) for no in range(3)]
    gates = [gate(drive, due=HOUR) for drive in drives]
    for drive, made in zip(drives, gates, strict=True):
        assert await opened.store.gates.open(drive.id, drive.run.fence, [made, gate(drive, "other", due=HOUR)])
    waits, ends, cancelled = drives
    store = opened.store
    async with undecided(dsn) as other:
        lent = [await store.gates.deliver(Signal(b"1", made.id), connection=other) for made in gates]
        assert [one.state for one in lent] == ["accepted"] * 3
        assert await store.gates.suspend(waits.id, waits.run.fence, 0) == "suspended"
        assert (await ends.finish()).accepted
        await store.cancel(cancelled.id, (), ())
        expired = await other_connection(dsn, QUERIES["expire_gates"], 50, datetime(2100, 1, 1, tzinfo=UTC))
        assert [str(row["run_id"]) for row in expired] == [waits.id]  # of its other gate
        assert await store.gates.sweep() >= 1
        assert [await how(store, made) for made in gates] == [None] * 3
        assert (await store.prune(runs=0, values=None)).runs == 0
        again = await store.gates.open(waits.id, waits.run.fence, gates[:1])
        assert again is None  # it is suspended, and that is known at once
        await other.execute("COMMIT" if commits else "ROLLBACK")

    await store.gates.sweep()
    if commits:
        assert [await how(store, made) for made in gates] == ["signalled"] * 3
        assert await run_state(waits) == "running"
    else:
        assert await how(store, gates[0]) is None
        assert [await deliver(store, made, b"2") for made in gates] == ["accepted", "closed", "closed"]
    assert (await store.prune(runs=0, values=None)).runs == 2


async def test_a_signal_in_a_transaction_is_delivered_by_the_sweep_once_it_commits(dsn: str, opened: Opened) -> None:
    drive = await opened.start()
    made = gate(drive)
    await opened_gate(drive, made)
    await suspended(drive)
    async with undecided(dsn) as other:
        assert (await opened.store.gates.deliver(Signal(b"1", made.id), connection=other)).state == "accepted"
        assert await opened.store.gates.sweep() == 0
        await other.execute("COMMIT")
    assert await run_state(drive) == "waiting"

    assert await opened.store.gates.sweep() == 1

    assert await is_free(drive)
    assert await opened.store.gates.sweep() == 0


async def test_an_early_signal_in_a_transaction_is_delivered_once_it_commits(dsn: str, opened: Opened) -> None:
    """The gate is recorded, expires or ends meanwhile: none of that waits."""
    drive = await opened.start()
    made, expires, ends = gate(drive), gate(drive, "expires", due=timedelta(0)), gate(drive, "ends")
    async with undecided(dsn) as other:
        for each in (made, expires, ends):
            assert await signal_by_hand(other, each) == "early"
        await opened_gate(drive, made, expires)
        await suspended(drive)
        assert await opened.store.gates.sweep() == 1
        assert await how(opened.store, expires) == "expired"
        await other.execute("COMMIT")
    assert await how(opened.store, made) is None

    assert await opened.store.gates.sweep() >= 1

    assert [await how(opened.store, one) for one in (made, expires)] == ["signalled", "expired"]
    assert await is_free(drive)


async def test_a_gate_that_is_recorded_while_another_signal_comes(
    dsn: str, sql: asyncpg.Connection, opened: Opened
) -> None:
    """SIG-08: the signal that came before it counts, and whoever comes second is told so."""
    drive = await opened.start()
    made = gate(drive)
    assert await deliver(opened.store, made, keep=60.0) == "early"
    async with undecided(dsn) as other:
        await other.execute("LOCK TABLE flowstone.early_signal IN ACCESS EXCLUSIVE MODE")
        second = asyncio.create_task(deliver(opened.store, made, b"2", keep=60.0))
        await blocked(sql)
        # As whoever records it does, in transactions of its own.
        await other.execute(
            "INSERT INTO flowstone.gate (id, run_id, opened_at, kind, pipeline, asset, io, partition, name, body, key,"
            " facts) VALUES ($1, $2, now(), 'signal', 'sales', 'a', '', '', '', '', '', '')",
            made.id,
            drive.id,
        )
        await other.execute("SELECT flowstone.decide_gate($1, NULL, $2, now())", made.id, b"1")
        await other.execute("DELETE FROM flowstone.early_signal")
        await other.execute("COMMIT")

    assert await second == "already"


async def test_early_signals_without_a_gate_keep_the_sweep_from_none(opened: Opened) -> None:
    """It goes through them page by page."""
    drive = await opened.start()
    gates = [gate(drive, f"g{no}") for no in range(7)]
    connection = await asyncpg_of(opened)
    try:
        for each in gates:
            assert await deliver(opened.store, each, keep=60.0) == "early"
        # As after the death of who delivered, or of who recorded the gate, right after its commit.
        last = max(gates, key=lambda one: one.id)
        await connection.execute(
            "INSERT INTO flowstone.gate (id, run_id, opened_at, kind, pipeline, asset, io, partition, name, body, key,"
            " facts) VALUES ($1, $2, now(), 'signal', 'sales', 'a', '', '', '', '', '', '')",
            last.id,
            drive.id,
        )
    finally:
        connection.terminate()
    for _ in range(4):
        await opened.store.gates.sweep(limit=2)
    assert await how(opened.store, last) == "signalled"
    assert await wakes(drive) == 1


async def test_a_second_signal_waits_for_the_first_one_s_transaction(
    dsn: str, sql: asyncpg.Connection, opened: Opened
) -> None:
    """And is told what became of it."""
    drive = await opened.start()
    gates = [gate(drive, name) for name in ("commits", "rolls back", "early")]
    await opened_gate(drive, *gates[:2])
    for made, ends, expected in zip(
        gates, ("COMMIT", "ROLLBACK", "COMMIT"), ("already", "accepted", "already"), strict=True
    ):
        async with undecided(dsn) as other:
            await signal_by_hand(other, made)
            second = asyncio.create_task(deliver(opened.store, made, b"2", keep=60.0))
            await blocked(sql)
            await other.execute(ends)
            assert await second == expected


async def test_who_lost_in_a_transaction_that_stays_open_locks_no_gate(dsn: str, opened: Opened) -> None:
    drive = await opened.start()
    made = gate(drive, due=timedelta(0))
    await opened_gate(drive, made)
    await opened.store.gates.sweep()
    async with undecided(dsn) as other:
        assert await signal_by_hand(other, made) == "expired"
        assert await opened.store.gates.rearm(drive.id, drive.run.fence, made.id, datetime(2100, 1, 1, tzinfo=UTC))


async def test_whoever_dies_before_the_wake_leaves_it_to_the_sweep(dsn: str, opened: Opened) -> None:
    drives = [await opened.start() for _ in range(3)]
    for drive in drives:
        made = gate(drive)
        await opened_gate(drive, made)
        await suspended(drive)
        await other_connection(dsn, QUERIES["signal"], made.id, None, b"1", None, "{}", None, None)
    assert {await run_state(drive) for drive in drives} == {"waiting"}

    assert await opened.store.gates.sweep() == 3

    assert all([await is_free(drive) for drive in drives])


async def test_a_wake_in_bulk_passes_over_runs_that_are_held(dsn: str, opened: Opened) -> None:
    """Nobody's transaction on a run holds up the others; it is woken the next time."""
    held, free = [await opened.start() for _ in range(2)]
    for drive in (held, free):
        made = gate(drive)
        await opened_gate(drive, made)
        await suspended(drive)
        await other_connection(dsn, QUERIES["signal"], made.id, None, b"1", None, "{}", None, None)
    async with undecided(dsn) as other:
        await other.execute(f"SELECT FROM flowstone.run WHERE id = '{held.id}' FOR UPDATE")
        await opened.store.gates.sweep()
        assert [await run_state(drive) for drive in (held, free)] == ["waiting", "running"]
    async with asyncio.timeout(20):  # the server lets go of it some time after the connection was closed
        while await run_state(held) == "waiting":
            await opened.store.gates.sweep()
    assert await run_state(held) == "running"


async def test_a_suspension_waits_for_a_wake_under_way_and_is_refused(
    dsn: str, sql: asyncpg.Connection, opened: Opened
) -> None:
    drive = await opened.start()
    made = gate(drive)
    await opened_gate(drive, made)
    await other_connection(dsn, QUERIES["signal"], made.id, None, b"1", None, "{}", None, None)
    async with undecided(dsn) as other:
        await other.fetch(QUERIES["wake"], [drive.id], None, False)
        suspending = asyncio.create_task(opened.store.gates.suspend(drive.id, drive.run.fence, 0))
        await blocked(sql)
        await other.execute("COMMIT")
    assert await suspending == "woken"


async def test_a_wake_waits_for_a_suspension_under_way_and_finds_it(
    dsn: str, sql: asyncpg.Connection, opened: Opened
) -> None:
    """Matching on the state would lose it: a row that does not match is not looked at again."""
    drive = await opened.start()
    made = gate(drive)
    await opened_gate(drive, made)
    async with undecided(dsn) as other:
        await other.fetch(QUERIES["suspend"], drive.id, drive.run.fence, 0, None)
        delivering = asyncio.create_task(deliver(opened.store, made))
        await blocked(sql)
        await other.execute("COMMIT")
    assert await delivering == "accepted"
    assert await is_free(drive)


async def test_a_signal_gives_up_on_a_transaction_that_stays_open(dsn: str, opened: Opened) -> None:
    drive = await opened.start()
    made = gate(drive)
    await opened_gate(drive, made)
    async with undecided(dsn) as other:
        await signal_by_hand(other, made)
        await other_connection(dsn, "ALTER FUNCTION flowstone.signal SET lock_timeout = '50ms'")
        with pytest.raises(StoreUnavailable, match="another transaction holds"):
            await deliver(opened.store, made, b"2")


async def opened_gate(drive: Drive, *gates: Gate) -> None:
    assert await drive.store.gates.open(drive.id, drive.run.fence, gates) is not None


async def other_connection(dsn: str, text: str, *arguments: object) -> list[asyncpg.Record]:
    """Run a statement as another process does, which then is gone."""
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetch(text, *arguments)
    finally:
        connection.terminate()
