"""What is on record, and what tells one set of records from another (STORE-07)."""

from __future__ import annotations

from flowstone_async.store.protocol import Store
from tests.contract.builders import completed, identifier, key, materialization
from tests.contract.clock import SetClock
from tests.contract.stores import Engine, Stores

DAY = 86400.0
NUMBERS, TOTAL = key("numbers"), key("total")


async def test_what_is_current_is_on_record_and_what_was_never_committed_is_not(engine: Engine) -> None:
    drive = await engine.start()
    numbers, total = await drive.compute(NUMBERS), await drive.compute(TOTAL)
    never = identifier()

    found = await engine.store.recorded([numbers.id, never, total.id, numbers.id])

    assert found == {numbers.id, total.id}
    states = await engine.store.states([NUMBERS])
    known = await engine.store.materializations([numbers.id, never, "", "numbers"])
    assert known == {numbers.id: states[NUMBERS].current}
    assert await engine.store.materializations([]) == {}


async def test_what_is_no_id_is_on_record_nowhere(store: Store) -> None:
    assert await store.recorded(["", "numbers", "'", "\0", identifier().upper()]) == frozenset()
    assert await store.recorded([]) == frozenset()


async def test_a_value_is_on_record_as_soon_as_its_commit_is_acknowledged(stores: Stores, engine: Engine) -> None:
    other = await stores.engine()
    drive = await engine.start(NUMBERS)
    made = materialization(NUMBERS, drive.id)
    assert await other.store.recorded([made.id]) == frozenset()

    await drive.advance(done=(completed(made),))

    assert await other.store.recorded([made.id]) == {made.id}


async def test_superseded_ones_are_on_record_until_they_are_forgotten(engine: Engine, clock: SetClock) -> None:
    drive = await engine.start(NUMBERS)
    earlier, later = materialization(NUMBERS, drive.id), materialization(NUMBERS, drive.id)
    for made in (earlier, later):
        await drive.advance(done=(completed(made),), claims=(NUMBERS,))
    both = [earlier.id, later.id]

    # A memory store forgets them in the step that supersedes them.
    assert await engine.store.recorded(both) == (set(both) if engine.store.durable else {later.id})
    known = await engine.store.materializations(both)
    assert {made.id: made.fingerprint for made in known.values()} == {
        made.id: made.fingerprint for made in (earlier, later) if engine.store.durable or made is later
    }

    clock.advance(8 * DAY)
    await engine.store.prune(runs=None, values=7 * DAY)
    assert await engine.store.recorded(both) == {later.id}


async def test_engines_on_one_set_of_records_know_it_by_the_same_identity(stores: Stores, engine: Engine) -> None:
    other = await stores.engine()

    assert engine.store.identity
    assert engine.store.identity == other.store.identity
