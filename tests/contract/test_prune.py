"""Retention: old runs, superseded values and unreferenced chunks go; what is in use or current stays (CFG-06)."""

from __future__ import annotations

import asyncio

from flowstone_async.store.protocol import Store
from flowstone_async.store.records import Pruned
from flowstone_async.types import Materialization
from tests.contract.builders import Drive, act, completed, current_of, identifier, key, materialization
from tests.contract.clock import SetClock
from tests.contract.stores import Engine, Stores

HOUR, DAY = 3600.0, 86400.0
NUMBERS = key("numbers")
NOTHING = Pruned(0, ())


async def ids(store: Store) -> set[str]:
    return {run.id for run in await store.runs(pipelines=["sales"], limit=1000)}


async def ended(engine: Engine) -> Drive:
    drive = await engine.start()
    await drive.finish()
    return drive


async def test_finished_runs_go_with_their_events_when_they_are_old(engine: Engine, clock: SetClock) -> None:
    active, old = await engine.start(), await ended(engine)
    failed = await engine.start()
    await failed.finish("failed")
    clock.advance(2 * HOUR)
    young = await ended(engine)
    clock.advance(HOUR)

    await engine.store.prune(runs=2 * HOUR, values=None)

    assert await ids(engine.store) == {active.id, young.id}
    assert await engine.store.run(old.id) is None
    assert await engine.store.events(old.id) == ()
    left = await engine.store.all_events(pipelines=["sales"])
    assert [(stored.run_id, stored.event.no) for stored in left] == [(active.id, 1), (young.id, 1), (young.id, 2)]


async def test_the_age_of_a_run_counts_from_its_end(engine: Engine, clock: SetClock) -> None:
    drive = await engine.start()
    clock.advance(10 * HOUR)
    await drive.finish()
    clock.advance(HOUR)

    await engine.store.prune(runs=2 * HOUR, values=None)

    assert await ids(engine.store) == {drive.id}


async def test_at_most_limit_runs_go_at_once(engine: Engine, clock: SetClock) -> None:
    for _ in range(5):
        await ended(engine)
    clock.advance(DAY)

    left: list[tuple[int, int]] = []
    for _ in range(4):
        pruned = await engine.store.prune(runs=HOUR, values=HOUR, limit=2)
        left.append((pruned.runs, len(await ids(engine.store))))

    assert left == [(2, 3), (2, 1), (1, 0), (0, 0)]


async def test_from_two_days_on_runs_may_go_a_day_at_a_time(engine: Engine, clock: SetClock) -> None:
    active, old = await engine.start(), await ended(engine)
    clock.advance(2 * DAY - HOUR)
    young = await ended(engine)
    assert await engine.store.prune(runs=2 * DAY, values=None) == NOTHING
    clock.advance(2 * DAY - HOUR)

    assert await engine.store.prune(runs=2 * DAY, values=None) == Pruned(1, ())
    assert await ids(engine.store) == {active.id, young.id}
    clock.advance(2 * DAY)
    await engine.store.prune(runs=2 * DAY, values=None)

    assert await ids(engine.store) == {active.id}
    assert await engine.store.events(old.id) == await engine.store.events(young.id) == ()
    assert [told.no for told in await engine.store.events(active.id)] == [1]
    left = await engine.store.all_events(pipelines=["sales"])
    assert [(stored.run_id, stored.event.no) for stored in left] == [(active.id, 1)]


async def test_engines_share_what_is_to_be_pruned(stores: Stores, clock: SetClock) -> None:
    engines = [await stores.engine() for _ in range(3)]
    for _ in range(30):
        await ended(engines[0])
    clock.advance(DAY)

    async def work(engine: Engine) -> int:
        count = 0
        while gone := (await engine.store.prune(runs=HOUR, values=None, limit=4)).runs:
            count += gone
        return count

    assert sum(await asyncio.gather(*map(work, engines))) == 30
    assert await ids(engines[0].store) == set()


async def test_maintaining_changes_nothing_that_can_be_seen(stores: Stores, clock: SetClock) -> None:
    engines = [await stores.engine() for _ in range(3)]
    clock.advance(100 * DAY)
    drive = await ended(engines[0])
    before = await engines[0].store.events(drive.id)

    for _ in range(2):
        await asyncio.gather(*(each.store.maintain() for each in engines))

    assert await engines[1].store.events(drive.id) == before
    assert len(await engines[1].store.all_events(pipelines=["sales"])) == len(before)
    assert await engines[1].store.faults() == ()


async def test_statistics_are_those_of_tables(engine: Engine) -> None:
    await engine.start()
    await ended(engine)

    found = await engine.store.statistics()

    if not engine.store.durable:
        assert found is None
        return
    assert found is not None
    assert found.runs == {"running": 1, "succeeded": 1}
    assert found.oldest_active == engine.store.now()
    assert {"run", "event"} <= {each.name for each in found.tables}


async def test_nothing_goes_unasked(engine: Engine, clock: SetClock) -> None:
    drive = await ended(engine)
    clock.advance(1000 * DAY)

    assert await engine.store.prune(runs=None, values=None) == NOTHING

    assert await ids(engine.store) == {drive.id}


async def test_a_cursor_goes_on_behind_runs_that_are_gone(engine: Engine, clock: SetClock) -> None:
    await ended(engine)
    [first, *_] = await engine.store.all_events(pipelines=["sales"])
    clock.advance(DAY)
    drive = await engine.start()
    await engine.store.prune(runs=HOUR, values=None)

    read = await engine.store.all_events(pipelines=["sales"], after=first.cursor)

    assert [stored.run_id for stored in read] == [drive.id]


async def test_values_and_acts_of_runs_that_are_gone_stay(engine: Engine, clock: SetClock) -> None:
    drive = await engine.start()
    numbers = await drive.compute(NUMBERS)
    total = await drive.compute(key("total"), numbers)
    await drive.finish(audit=(act(run_id=drive.id),))
    clock.advance(100 * DAY)

    assert await engine.store.prune(runs=HOUR, values=HOUR) == Pruned(1, ())

    assert await ids(engine.store) == set()
    assert await current_of(engine.store, NUMBERS) == numbers.id
    assert await engine.store.upstream(total.id) == ((NUMBERS, numbers.id),)
    assert [entry.run_id for _, _, entry in await engine.store.audit()] == [drive.id]


async def supersede(engine: Engine, clock: SetClock, count: int) -> list[Materialization]:
    """Compute a key again and again, an hour apart, with payloads; returns all but the last."""
    drive = await engine.start(NUMBERS)
    made: list[Materialization] = []
    for _ in range(count + 1):
        made.append(materialization(NUMBERS, drive.id))
        await drive.advance(done=(completed(made[-1], payload=b"value"),), claims=(NUMBERS,))
        clock.advance(HOUR)
    await drive.advance(releases=(NUMBERS,))
    return made[:-1]


async def test_superseded_materializations_are_forgotten_when_they_are_old(engine: Engine, clock: SetClock) -> None:
    superseded = await supersede(engine, clock, 3)
    current = await current_of(engine.store, NUMBERS)
    clock.advance(DAY)

    assert await engine.store.prune(runs=None, values=7 * DAY) == NOTHING
    forgotten = (await engine.store.prune(runs=None, values=HOUR)).values

    # A memory store forgets them in the step that supersedes them.
    expected = {made.id for made in superseded} if engine.store.durable else set[str]()
    assert {made.id for made in forgotten} == expected
    assert await engine.store.prune(runs=None, values=HOUR) == NOTHING
    assert [await engine.store.values.payload(made.id) for made in superseded] == [None] * 3
    assert await current_of(engine.store, NUMBERS) == current
    assert current is not None
    assert await engine.store.values.payload(current) == b"value"


async def test_at_most_limit_materializations_are_forgotten_at_once(engine: Engine, clock: SetClock) -> None:
    await supersede(engine, clock, 5)
    clock.advance(DAY)

    counts = [len((await engine.store.prune(runs=None, values=HOUR, limit=2)).values) for _ in range(4)]

    assert counts == ([2, 2, 1, 0] if engine.store.durable else [0, 0, 0, 0])


async def test_chunks_whose_record_never_came_go_after_a_day(engine: Engine, clock: SetClock) -> None:
    drive = await engine.start(NUMBERS)
    made, orphan = materialization(NUMBERS, drive.id), identifier()
    for stream in (made.id, orphan):
        for no in range(3):
            await engine.store.values.append_chunk(stream, no, b"chunk")
    await drive.advance(done=(completed(made),))
    young = identifier()

    async def left() -> list[int]:
        values = engine.store.values
        return [len([chunk async for chunk in values.chunks(stream)]) for stream in (made.id, orphan, young)]

    clock.advance(DAY - HOUR)
    await engine.store.values.append_chunk(young, 0, b"chunk")
    await engine.store.prune(runs=None, values=None)
    assert await left() == [3, 3, 1]

    clock.advance(2 * HOUR)
    await engine.store.prune(runs=HOUR, values=HOUR)
    assert await left() == [3, 0, 1]


async def test_the_chunks_of_a_stream_that_takes_days_stay(engine: Engine, clock: SetClock) -> None:
    drive = await engine.start(NUMBERS)
    made = materialization(NUMBERS, drive.id)
    for no in range(4):
        await engine.store.values.append_chunk(made.id, no, b"chunk")
        clock.advance(DAY - HOUR)
        await engine.store.prune(runs=HOUR, values=HOUR)
    await drive.advance(done=(completed(made),))

    assert len([chunk async for chunk in engine.store.values.chunks(made.id)]) == 4
