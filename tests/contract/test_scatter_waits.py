"""Items of scatters that wait at gates and are in nobody's memory (SIG-07, SIG-09, STEP-06)."""

from __future__ import annotations

from datetime import timedelta

import pytest

from flowstone_async.store.gates import Gate
from flowstone_async.store.scatters import NEVER, Flush, ItemLater
from tests.contract.builders import failure
from tests.contract.clock import SetClock
from tests.contract.stores import Engine, Stores
from tests.contract.test_gates import HOUR, deliver, gate, opened, suspended, wakes
from tests.contract.test_scatters import Reader, flushed, taken_over


def parked(reader: Reader, first: int, size: int, *waits: tuple[int, Gate], number: int = 0) -> Flush:
    """Return a flush of a chunk whose items wait from now on, each at its gates."""
    items: dict[int, list[str]] = {}
    for position, each in waits:
        items.setdefault(position, []).append(each.id)
    later = [ItemLater(position, 0, NEVER, gates=tuple(gates)) for position, gates in items.items()]
    done = sum(1 << (position - first) for position in items).to_bytes(-(-size // 8), "little")
    return flushed(reader.chunk(first, size), state="running", number=number, done=done, later=later)


async def waiting(engine: Engine, *gates: str, due: timedelta | None = None) -> tuple[Reader, list[Gate]]:
    """Return a scatter of one item for each gate, all of which wait."""
    reader = await Reader.begin(engine)
    await reader.add(*gates, last=True)
    made = [gate(reader.drive, name, due=due) for name in gates]
    await opened(reader.drive, *made)
    flush = parked(reader, 0, len(gates), *enumerate(made))
    assert await reader.flush(flush._replace(state="done")) == [0]
    return reader, made


async def test_an_item_that_waits_is_due_once_its_gate_has_ended_and_not_before(engine: Engine) -> None:
    reader, (first, second) = await waiting(engine, "first", "second")
    assert await reader.take() == ()
    assert await reader.store.dues(reader.id, limit=10) == ()
    totals = await reader.store.totals(reader.id)
    assert totals is not None
    assert (totals.waiting, totals.parked, totals.open, totals.due) == (2, 2, 2, None)
    assert await reader.store.left(reader.id) == "waits"
    assert not await reader.close()

    assert await deliver(engine.store, second) == "accepted"

    assert await reader.store.left(reader.id) == "work"
    [found] = await reader.take()
    assert await reader.store.left(reader.id) == "work"
    assert (found.first, found.alone, found.attempts, found.lost, found.size) == (1, True, 0, 0, 1)
    assert await reader.take() == ()
    assert await reader.flush(flushed(found, 1, state="done")) == [0]
    assert await deliver(engine.store, first) == "accepted"
    [found] = await reader.take()
    assert await reader.flush(flushed(found, 0, state="done")) == [0]
    assert await reader.store.left(reader.id) == "nothing"
    assert await reader.close()


async def test_a_gate_that_ended_before_the_item_was_let_go_of_makes_it_due_at_once(engine: Engine) -> None:
    """SIG-09: whoever was told then has found nothing that waits."""
    reader = await Reader.begin(engine)
    await reader.add("a", "b", last=True)
    made = gate(reader.drive, "a"), gate(reader.drive, "b")
    await opened(reader.drive, *made)
    assert await deliver(engine.store, made[0]) == "accepted"

    flush = parked(reader, 0, 2, (0, made[0]), (1, made[1]))._replace(state="done")
    for _ in range(2):  # its reply was lost
        assert await reader.flush(flush) == [0]

    assert [each.first for each in await reader.take()] == [0]
    assert await deliver(engine.store, made[1]) == "accepted"
    assert [each.first for each in await reader.take()] == [1]


async def test_any_of_several_gates_makes_an_item_due_and_the_others_change_nothing_then(engine: Engine) -> None:
    reader = await Reader.begin(engine)
    await reader.add("a", last=True)
    one, two, three = made = [gate(reader.drive, name) for name in ("one", "two", "three")]
    await opened(reader.drive, *made)
    assert await reader.flush(parked(reader, 0, 1, (0, one), (0, two))._replace(state="done")) == [0]
    assert await deliver(engine.store, two) == "accepted"
    [found] = await reader.take()
    assert await deliver(engine.store, one) == "accepted"
    assert await reader.take() == ()  # somebody has it

    again = Flush(found, 0, "ready", b"", 0, 0, attempts=found.attempts, due=NEVER, gates=(three.id,))
    for _ in range(2):
        assert await reader.flush(again) == [0]
    assert await reader.take() == ()  # what ended before does not count: it waits for another gate

    assert await deliver(engine.store, three) == "accepted"
    [found] = await reader.take()
    assert (found.attempts, found.lost, found.fence) == (0, 0, 3)


async def test_deadlines_end_the_wait_too_all_at_once(engine: Engine, clock: SetClock) -> None:
    reader, _ = await waiting(engine, *"abcde", due=HOUR)
    clock.advance(HOUR.total_seconds())
    assert await reader.take() == ()  # nobody has swept
    assert await engine.store.gates.sweep() == 5
    assert [each.first for each in await reader.take()] == [0, 1, 2, 3, 4]


async def test_what_failed_before_it_waited_is_kept_with_it(engine: Engine) -> None:
    """STEP-04: waiting uses up no attempt."""
    reader = await Reader.begin(engine)
    await reader.add("a", last=True)
    made = gate(reader.drive)
    await opened(reader.drive, made)
    later = ItemLater(0, 2, NEVER, lost=1, error=failure("once"), gates=(made.id,))
    assert await reader.flush(flushed(reader.chunk(0, 1), state="done", later=[later])) == [0]
    assert await deliver(engine.store, made) == "accepted"
    [found] = await reader.take()
    assert (found.attempts, found.lost, found.error) == (2, 1, failure("once"))


async def test_a_run_that_is_suspended_meanwhile_is_woken_and_its_item_due(engine: Engine, stores: Stores) -> None:
    reader, (first, _) = await waiting(engine, "first", "second")
    await suspended(reader.drive)
    assert await deliver(engine.store, first) == "accepted"
    other = await stores.engine()
    [run] = await other.store.take_orphans(other.worker.id, ["sales"], limit=1)
    assert run.id == reader.drive.id
    again = await Reader.begin(other, type(reader.drive)(other.store, run))
    assert again.id == reader.id
    assert [each.first for each in await again.take()] == [0]


async def test_whoever_takes_a_run_over_finds_those_that_wait_waiting(engine: Engine, stores: Stores) -> None:
    """SIG-07: the death of who let them go is not put down to them."""
    reader, (first, second) = await waiting(engine, "first", "second")
    other = await stores.engine()
    again = await taken_over(reader, other, stores)
    assert await again.take() == ()
    for made in (first, second):
        assert await deliver(other.store, made) == "accepted"
    found = await again.take()
    assert [(each.first, each.lost) for each in found] == [(0, 0), (1, 0)]


async def test_a_flush_that_is_refused_lets_nothing_wait(engine: Engine, stores: Stores) -> None:
    """SCAT-13: fenced as any other."""
    reader = await Reader.begin(engine)
    await reader.add("a", last=True)
    made = gate(reader.drive)
    await opened(reader.drive, made)
    other = await stores.engine()
    again = await taken_over(reader, other, stores)
    [mine] = await again.take()
    assert await reader.flush(parked(reader, 0, 1, (0, made))._replace(state="done")) == []
    assert await deliver(other.store, made) == "accepted"
    assert await again.take() == ()
    assert await again.flush(flushed(mine, 0, state="done")) == [0]
    assert await again.close()


@pytest.mark.parametrize("how", ["run", "scatter"])
async def test_the_end_of_the_run_or_of_the_scatter_ends_the_waits(engine: Engine, how: str) -> None:
    reader, (first, _) = await waiting(engine, "first", "second")
    before = await wakes(reader.drive)
    if how == "run":
        assert await engine.store.cancel(reader.drive.id, (), ())
    else:
        assert await reader.store.end(reader.id, reader.drive.run.fence, "failed")
    assert await deliver(engine.store, first) == ("closed" if how == "run" else "accepted")
    assert await reader.take() == ()
    totals = await reader.store.totals(reader.id)
    assert totals is not None
    assert (totals.open, totals.parked) == (0, 0)
    if how == "scatter":
        assert await wakes(reader.drive) == before + 1
        assert await engine.store.verify() == ()


async def test_what_waited_is_forgotten_with_its_scatter(engine: Engine) -> None:
    reader, _ = await waiting(engine, "first", "second")
    await reader.store.delete([reader.id])
    assert await engine.store.verify() == ()


async def test_what_a_worker_runs_may_be_left_out_of_what_is_left(engine: Engine) -> None:
    """STEP-06: its bodies may all wait in memory."""
    reader = await Reader.begin(engine)
    await reader.add("a", "b", last=True)
    worker = engine.worker.id
    assert await reader.store.left(reader.id, besides=worker) == "nothing"
    assert await reader.store.left(reader.id, besides="another") == "work"
    made = gate(reader.drive, "a")
    await opened(reader.drive, made)
    assert await reader.flush(parked(reader, 0, 2, (0, made))) == [0]
    assert await reader.store.left(reader.id, besides=worker) == "waits"
    assert await deliver(engine.store, made) == "accepted"
    assert await reader.store.left(reader.id, besides=worker) == "work"
