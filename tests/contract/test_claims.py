"""Claims: within one store, no two runs compute the same asset key at once (RUN-16)."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

import pytest

from flowstone_async.store.records import AssetDone, Claimed
from flowstone_async.types import AssetKey
from tests.contract.builders import Drive, completed, current_of, done, failure, key, materialization, state_of
from tests.contract.stores import Engine, Stores

NUMBERS = key("numbers")


async def claim(drive: Drive, of: AssetKey = NUMBERS) -> Claimed:
    answer = await drive.advance(claims=(of,))
    assert answer.accepted
    return answer.claims[of]


async def test_a_key_that_another_run_holds_is_refused_with_its_holder(stores: Stores) -> None:
    first, second = await stores.engine(), await stores.engine()
    holder = await first.start(NUMBERS)
    other = await second.start()

    assert await claim(other) == Claimed(granted=False, holder=holder.id, current=None, lost=0)
    assert (await state_of(second.store, NUMBERS)).claimed_by == holder.id


async def test_a_step_is_committed_although_a_claim_of_it_is_refused(engine: Engine) -> None:
    holder = await engine.start(NUMBERS)
    other = await engine.start()
    free = key("free")

    answer = await other.advance("asset.started", claims=(NUMBERS, free))

    assert answer.accepted
    assert {name: claimed.granted for name, claimed in answer.claims.items()} == {NUMBERS: False, free: True}
    assert answer.claims[NUMBERS].holder == holder.id
    assert len(await engine.store.events(other.id)) == 2


async def test_a_run_that_claims_what_it_holds_is_granted_it(engine: Engine) -> None:
    drive = await engine.start(NUMBERS)

    assert await claim(drive) == Claimed(granted=True, holder=drive.id, current=None, lost=0)


@pytest.mark.parametrize(
    "other", [key("numbers", "i:1"), key("numbers", io="lake"), key("numbers", pipeline="other"), key("Numbers")]
)
async def test_keys_that_differ_in_any_part_are_claimed_apart(engine: Engine, other: AssetKey) -> None:
    await engine.start(NUMBERS)

    assert (await claim(await engine.start(), other)).granted


@pytest.mark.parametrize(
    "way", ["completed", "failed", "cancelled", "skipped", "released", "finished", "run cancelled"]
)
async def test_a_key_that_was_let_go_is_granted_to_the_next(engine: Engine, way: str) -> None:
    holder, other = await engine.start(NUMBERS), await engine.start()
    assert not (await claim(other)).granted

    match way:
        case "completed":
            await holder.advance(done=(completed(materialization(NUMBERS, holder.id)),))
        case "released":
            await holder.advance(releases=(NUMBERS,))
        case "finished":
            await holder.finish()
        case "run cancelled":
            await engine.store.cancel(holder.id, (), ())
        case "failed":
            await holder.advance(done=(done(NUMBERS, "failed", error=failure()),))
        case _:
            await holder.advance(done=(AssetDone(key=NUMBERS, outcome=way),))  # type: ignore[arg-type]

    claimed = await claim(other)
    assert (claimed.granted, claimed.holder) == (True, other.id)
    assert (await state_of(engine.store, NUMBERS)).claimed_by == other.id


async def test_a_claim_tells_what_is_current_at_that_instant(engine: Engine) -> None:
    planned = await (await engine.start()).compute(NUMBERS)
    drive, other = await engine.start(), await engine.start()
    assert planned.id == await current_of(engine.store, NUMBERS)

    meanwhile = await other.compute(NUMBERS)

    assert await claim(drive) == Claimed(granted=True, holder=drive.id, current=meanwhile.id, lost=0)
    assert await claim(other) == Claimed(granted=False, holder=drive.id, current=meanwhile.id, lost=0)


async def test_a_claim_in_the_step_that_completes_another_key_sees_that_step(engine: Engine) -> None:
    drive = await engine.start(NUMBERS)
    made = materialization(NUMBERS, drive.id)

    answer = await drive.advance(done=(completed(made),), claims=(NUMBERS,))

    assert answer.claims[NUMBERS] == Claimed(granted=True, holder=drive.id, current=made.id, lost=0)
    assert (await state_of(engine.store, NUMBERS)).claimed_by == drive.id


async def test_many_claimants_hold_a_key_one_at_a_time(stores: Stores) -> None:
    engines = [await stores.engine() for _ in range(3)]
    waiting = [await engines[no % 3].start() for no in range(24)]
    held: list[str] = []

    while waiting:
        answers = await asyncio.gather(*(claim(drive) for drive in waiting))
        granted = [drive for drive, claimed in zip(waiting, answers, strict=True) if claimed.granted]
        assert len(granted) == 1
        assert {claimed.holder for claimed in answers} == {granted[0].id}
        held.append(granted[0].id)
        waiting.remove(granted[0])
        await granted[0].finish()

    assert len(set(held)) == 24


async def test_claims_of_many_keys_in_any_order_give_each_key_one_holder(stores: Stores) -> None:
    engines = [await stores.engine() for _ in range(3)]
    drives = [await engines[no % 3].start() for no in range(12)]
    names = [key("numbers", f"i:{no}") for no in range(40)]
    shuffle = random.Random(7)  # the same order in every run of the test
    orders = [tuple(shuffle.sample(names, len(names))) for _ in drives]

    answers = await asyncio.gather(*(drive.advance(claims=order) for drive, order in zip(drives, orders, strict=True)))

    granted = Counter(name for answer in answers for name, claimed in answer.claims.items() if claimed.granted)
    assert granted == Counter(names)
    for name in names:
        assert len({answer.claims[name].holder for answer in answers if not answer.claims[name].granted}) <= 1


async def test_a_hand_over_while_others_claim_loses_nobody(stores: Stores) -> None:
    engines = [await stores.engine(), await stores.engine()]
    holder = await engines[0].start(NUMBERS)
    others = [await engines[no % 2].start() for no in range(10)]

    answers = (await asyncio.gather(holder.finish(), *(other.advance(claims=(NUMBERS,)) for other in others)))[1:]

    holders = [answer.claims[NUMBERS].holder for answer in answers if answer.claims[NUMBERS].granted]
    now = (await state_of(engines[1].store, NUMBERS)).claimed_by
    assert holders == ([] if now is None else [now])
    assert all(answer.claims[NUMBERS].holder in {holder.id, now} for answer in answers)
