"""What was computed from what, and taking it away again (LIN-01, RUN-28)."""

from __future__ import annotations

import asyncio

from flowstone_async.store.protocol import Store
from flowstone_async.store.records import Removed
from flowstone_async.types import Input
from tests.contract.builders import (
    act,
    completed,
    current_of,
    done,
    failure,
    identifier,
    key,
    materialization,
    state_of,
)
from tests.contract.stores import Engine

NUMBERS, TOTAL = key("numbers"), key("total")


async def test_the_upstream_of_a_materialization_is_what_it_consumed(engine: Engine) -> None:
    drive = await engine.start()
    numbers = await drive.compute(key("numbers", "i:1"))
    lake = await drive.compute(key("lake", io="lake"))
    total = await drive.compute(TOTAL, numbers, lake)
    report = await drive.compute(key("report"), total)

    assert set(await engine.store.upstream(total.id)) == {(numbers.key, numbers.id), (lake.key, lake.id)}
    assert await engine.store.upstream(report.id) == ((TOTAL, total.id),)
    assert await engine.store.upstream(numbers.id) == ()


async def test_what_was_not_consumed_is_no_edge(engine: Engine) -> None:
    drive = await engine.start()
    inputs = (
        Input("asset", "skipped", "absent:skipped", key("skipped")),
        Input("param", "limit", "abc"),
        Input("key", "*", "def"),
    )

    made = await drive.compute(TOTAL, inputs=inputs)

    assert await engine.store.upstream(made.id) == ()


async def test_an_upstream_taken_twice_is_one_edge(engine: Engine) -> None:
    drive = await engine.start()
    numbers = await drive.compute(NUMBERS)

    total = await drive.compute(TOTAL, numbers, numbers)

    assert await engine.store.upstream(total.id) == ((NUMBERS, numbers.id),)


async def test_each_key_consumed_is_an_edge(engine: Engine) -> None:
    drive = await engine.start()
    slices = [await drive.compute(key("numbers", f"i:{no}")) for no in range(30)]

    total = await drive.compute(TOTAL, *slices)

    assert set(await engine.store.upstream(total.id)) == {(made.key, made.id) for made in slices}


async def test_an_unknown_materialization_has_no_upstream(store: Store) -> None:
    assert await store.upstream(identifier()) == ()


async def test_a_failed_computation_has_no_lineage(engine: Engine) -> None:
    drive = await engine.start()
    numbers = await drive.compute(NUMBERS)
    total = await drive.compute(TOTAL, numbers)
    await drive.advance(claims=(TOTAL,))

    await drive.advance(done=(done(TOTAL, "failed", error=failure()),))

    assert await current_of(engine.store, TOTAL) == total.id
    assert await engine.store.upstream(total.id) == ((NUMBERS, numbers.id),)


async def test_an_invalidated_value_is_no_longer_current(engine: Engine) -> None:
    drive = await engine.start()
    made = await drive.compute(NUMBERS)
    before = await state_of(engine.store, NUMBERS)

    removed = await engine.store.invalidate([NUMBERS], cascade=False)

    state = await state_of(engine.store, NUMBERS)
    assert removed == (Removed(NUMBERS, made),)
    assert (state.current, state.state, state.run_id) == (None, "completed", drive.id)
    assert state.completed_at == before.completed_at


async def test_what_is_not_stored_is_not_removed(engine: Engine) -> None:
    drive = await engine.start()
    await drive.compute(NUMBERS)
    await engine.store.invalidate([NUMBERS], cascade=True)

    assert await engine.store.invalidate([NUMBERS], cascade=True) == ()
    assert await engine.store.invalidate([key("unknown")], cascade=True) == ()
    assert await engine.store.invalidate([], cascade=True) == ()


async def test_a_key_given_twice_is_removed_once(engine: Engine) -> None:
    made = await (await engine.start()).compute(NUMBERS)

    assert await engine.store.invalidate([NUMBERS, NUMBERS], cascade=True) == (Removed(NUMBERS, made),)


async def test_a_claim_after_it_finds_nothing_current(engine: Engine) -> None:
    drive = await engine.start()
    await drive.compute(NUMBERS)
    await engine.store.invalidate([NUMBERS], cascade=False)

    assert (await drive.advance(claims=(NUMBERS,))).claims[NUMBERS].current is None
    made = materialization(NUMBERS, drive.id)
    answer = await drive.advance(done=(completed(made),))
    assert answer.superseded == ()
    assert await current_of(engine.store, NUMBERS) == made.id


async def test_without_cascade_dependants_stay(engine: Engine) -> None:
    drive = await engine.start()
    numbers = await drive.compute(NUMBERS)
    total = await drive.compute(TOTAL, numbers)

    removed = await engine.store.invalidate([NUMBERS], cascade=False)

    assert [one.key for one in removed] == [NUMBERS]
    assert await current_of(engine.store, TOTAL) == total.id


async def test_with_cascade_a_diamond_is_removed_once_and_nothing_beside_it(engine: Engine) -> None:
    drive = await engine.start()
    above = await drive.compute(key("above"))
    top = await drive.compute(key("top"), above)
    left, right = await drive.compute(key("left"), top), await drive.compute(key("right"), top, above)
    bottom = await drive.compute(key("bottom"), left, right, top)
    beside = await drive.compute(key("beside"), above)

    removed = await engine.store.invalidate([key("top")], cascade=True)

    assert sorted(removed) == sorted(Removed(made.key, made) for made in (top, left, right, bottom))
    assert await current_of(engine.store, key("above")) == above.id
    assert await current_of(engine.store, key("beside")) == beside.id
    for name in ("top", "left", "right", "bottom"):
        assert await current_of(engine.store, key(name)) is None


async def test_cascade_of_several_keys_counts_what_they_share_once(engine: Engine) -> None:
    drive = await engine.start()
    first, second = await drive.compute(key("first")), await drive.compute(key("second"))
    total = await drive.compute(TOTAL, first, second)

    removed = await engine.store.invalidate([first.key, second.key, TOTAL], cascade=True)

    assert sorted(one.materialization.id for one in removed) == sorted([first.id, second.id, total.id])


async def test_cascade_crosses_partitions_and_leaves_other_slices(engine: Engine) -> None:
    drive = await engine.start()
    days = [await drive.compute(key("numbers", f"d:2025-01-0{day}")) for day in range(1, 5)]
    weeks = [await drive.compute(key("week", "1"), *days[:2]), await drive.compute(key("week", "2"), *days[2:])]
    doubled = [await drive.compute(key("doubled", day.key.partition), day) for day in days]
    total = await drive.compute(TOTAL, *weeks)

    removed = await engine.store.invalidate([days[0].key], cascade=True)

    assert {one.key for one in removed} == {days[0].key, weeks[0].key, doubled[0].key, TOTAL}
    assert {one.materialization.id for one in removed} == {days[0].id, weeks[0].id, doubled[0].id, total.id}
    kept = await engine.store.states([made.key for made in [*days[1:], weeks[1], *doubled[1:]]])
    assert all(state.current for state in kept.values())


async def test_cascade_goes_through_long_chains(engine: Engine) -> None:
    drive = await engine.start()
    chain = [await drive.compute(key("link", "i:0"))]
    for no in range(1, 40):
        chain.append(await drive.compute(key("link", f"i:{no}"), chain[-1], chain[max(0, no - 2)]))

    removed = await engine.store.invalidate([key("link", "i:10")], cascade=True)

    assert {one.key.partition for one in removed} == {f"i:{no}" for no in range(10, 40)}


async def test_cascade_takes_what_was_computed_from_an_earlier_value(engine: Engine) -> None:
    drive = await engine.start()
    stale = await drive.compute(TOTAL, await drive.compute(NUMBERS))
    newer = await drive.compute(NUMBERS)

    removed = await engine.store.invalidate([NUMBERS], cascade=True)

    assert sorted(removed) == sorted([Removed(NUMBERS, newer), Removed(TOTAL, stale)])


async def test_cascade_takes_dependants_of_a_value_that_is_gone_already(engine: Engine) -> None:
    drive = await engine.start()
    total = await drive.compute(TOTAL, await drive.compute(NUMBERS))
    await engine.store.invalidate([NUMBERS], cascade=False)

    assert await engine.store.invalidate([NUMBERS], cascade=True) == (Removed(TOTAL, total),)


async def test_cascade_looks_at_current_values_only(engine: Engine) -> None:
    drive = await engine.start()
    numbers, other = await drive.compute(NUMBERS), await drive.compute(key("other"))
    await drive.compute(TOTAL, numbers)
    total = await drive.compute(TOTAL, other)

    removed = await engine.store.invalidate([NUMBERS], cascade=True)

    assert removed == (Removed(NUMBERS, numbers),)
    assert await current_of(engine.store, TOTAL) == total.id


async def test_a_computation_that_is_running_keeps_its_claim(engine: Engine) -> None:
    drive = await engine.start()
    total = await drive.compute(TOTAL, await drive.compute(NUMBERS))
    await drive.advance(claims=(TOTAL,))

    removed = await engine.store.invalidate([NUMBERS], cascade=True)

    state = await state_of(engine.store, TOTAL)
    assert {one.materialization.id for one in removed} >= {total.id}
    assert (state.state, state.claimed_by, state.current) == ("running", drive.id, None)
    made = materialization(TOTAL, drive.id)
    answer = await drive.advance(done=(completed(made),))
    assert (answer.accepted, answer.superseded) == (True, ())
    assert await current_of(engine.store, TOTAL) == made.id


async def test_acts_are_committed_with_what_they_describe(engine: Engine) -> None:
    await (await engine.start()).compute(NUMBERS)
    invalidated = act("asset.invalidated", str(NUMBERS), actor="ann", actor_kind="person")

    await engine.store.invalidate([NUMBERS], cascade=False, audit=(invalidated,))

    assert [entry for _, _, entry in await engine.store.audit()] == [invalidated]


async def test_of_invalidations_at_once_each_value_is_removed_by_one(engine: Engine) -> None:
    drive = await engine.start()
    top = await drive.compute(key("top"))
    made = [top, *[await drive.compute(key("below", f"i:{no}"), top) for no in range(10)]]

    answers = await asyncio.gather(
        *(engine.store.invalidate([top.key, one.key], cascade=True) for one in reversed(made))
    )

    removed = [one.materialization.id for answer in answers for one in answer]
    assert sorted(removed) == sorted(one.id for one in made)
