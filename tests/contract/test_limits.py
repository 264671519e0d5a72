"""Limits: what is granted and who holds, over all engines on one set of records (RATE-01, RATE-02, RATE-04, RATE-06 to RATE-10)."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Sequence
from datetime import datetime
from typing import Any

import pytest

from flowstone_async.errors import ConfigError, StoreUnavailable
from flowstone_async.limits.book import (
    HeldSlot,
    LimitBook,
    LimitChange,
    LimitHolder,
    LimitState,
    PermitAsk,
    Permits,
    SlotAsk,
    Waiting,
)
from flowstone_async.limits.rate import Pace
from tests.contract.builders import identifier
from tests.contract.clock import SetClock
from tests.contract.stores import Engine, Stores
from tests.unit.limits.windows import excess_over_stretch, most_in_any_window, most_possible

NEVER = 3600.0
SOON = 60.0
TEN = Pace(10, 1.0, 10)


class Line(Waiting):
    """Some who wait, as a desk shows them."""

    def __init__(self, key: str, *waiters: LimitHolder) -> None:
        self.key, self.waiters = key, waiters

    def shown(self) -> tuple[int, Sequence[LimitHolder]]:
        return len(self.waiters), self.waiters

    def waited(self) -> float:
        return 0.0


async def take(book: LimitBook, key: str, pace: Pace | None, want: int = 1, span: float = 0.0) -> Permits:
    [permits] = await book.take([PermitAsk(key, pace, want, span)])
    return permits


async def hold(book: LimitBook, key: str, n: int | None, holder: str = "", **options: Any) -> str | None:
    """Ask for a slot and return the id under which it is held, or None."""
    ask = SlotAsk(key, n, holder or identifier(), **options)
    [answer] = await book.hold([ask])
    return None if answer.since is None else ask.holder


async def state_of(book: LimitBook, key: str) -> LimitState:
    found = await book.states([key])
    return found[0] if found else LimitState(key=key)


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def woken(book: LimitBook, key: str, change: Awaitable[object]) -> None:
    """Fail unless a change wakes who waits at a key, long before its time is up."""
    waiting = asyncio.create_task(book.changed(key, within=NEVER))
    await settle()
    await change
    async with asyncio.timeout(SOON):
        await waiting


# -- permits ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
async def test_no_window_sees_more_than_n_over_all_engines(stores: Stores, clock: SetClock, seed: int) -> None:
    """RATE-01, RATE-06: in blocks that are used within their span by any engine; and neither more than a burst."""
    chance = random.Random(seed)
    books = [(await stores.engine()).store.limits for _ in range(2)]
    n = chance.choice([1, 3, 20, 300])
    pace = Pace(n, 2.0, chance.choice([n, max(1, n // 3)]))
    times: list[float] = []
    decided: list[float] = []
    for _ in range(60):
        clock.advance(round(chance.choice([0.0, chance.random() * 0.05, chance.random()]), 6))
        span = round(chance.choice([0.0, pace.per / 128]), 6)
        permits = await take(chance.choice(books), "k", pace, chance.choice([1, 2, n]), span)
        now = clock.monotonic()
        times += [now + span * chance.random() for _ in range(permits.granted)]
        decided += [now] * permits.granted
    assert most_in_any_window(times, pace.per) <= n
    assert excess_over_stretch(decided, *pace) < 1e-3


@pytest.mark.parametrize("pace", [Pace(1, 10.0, 1), TEN, Pace(500, 3.0, 500), Pace(20, 2.0, 4)], ids=str)
async def test_at_most_two_percent_fewer_are_granted(stores: Stores, clock: SetClock, pace: Pace) -> None:
    """RATE-01: also if each block counts as long as it may be used."""
    book = (await stores.engine()).store.limits
    span, total, begun = min(pace.per, pace.burst * pace.per / pace.n) / 128, 0, clock.monotonic()
    for _ in range(160):
        permits = await take(book, "k", pace, pace.n, span)
        total += permits.granted
        assert permits.outlook is not None or permits.granted == pace.n
        permits = await take(book, "k", pace, 0)
        assert permits.outlook is not None
        clock.advance(permits.outlook.after(1) + 1e-6)
    passed = clock.monotonic() - begun
    assert total >= 0.98 * pace.n * passed / pace.per


async def test_at_most_two_percent_fewer_are_granted_if_they_come_one_by_one(engine: Engine, clock: SetClock) -> None:
    """RATE-01: where many grants share an entry, each of which counts until the last of them is old enough."""
    book, pace, total = engine.store.limits, Pace(600, 10.0, 600), 0
    for _ in range(1000):
        clock.advance(0.03)
        total += (await take(book, "k", pace, 2, 10 / 128)).granted
    possible = most_possible(600, 10.0, ((0.03 * number, 2) for number in range(1, 1001)))
    assert 0.98 * possible <= total <= possible


async def test_waiting_as_long_as_was_said_is_enough(engine: Engine, clock: SetClock) -> None:
    """RATE-02: to the microsecond."""
    book, pace = engine.store.limits, Pace(3, 7.7, 3)
    for number in range(12):
        permits = await take(book, "k", pace, span=0.01)
        if not permits.granted:
            assert permits.outlook is not None
            wait = permits.outlook.after(1)
            clock.advance(wait - 0.0001)
            assert not (await take(book, "k", pace)).granted
            clock.advance(0.000101)
            assert (await take(book, "k", pace)).granted
        clock.advance(0.3 * (number % 3))


async def test_what_one_engine_takes_another_does_not_get(stores: Stores) -> None:
    """RATE-06."""
    engine, other = await stores.engine(), await stores.engine()
    assert (await take(engine.store.limits, "k", TEN, 7)).granted == 7
    permits = await take(other.store.limits, "k", TEN, 7)
    assert permits.granted == 3
    assert permits.outlook is not None
    assert permits.outlook.after(1) == pytest.approx(1.0)


async def test_one_call_serves_many_keys_each_in_order(engine: Engine) -> None:
    """RATE-02: keys are independent, and what comes first in the call comes first."""
    book = engine.store.limits
    asks = [PermitAsk(key, TEN, want) for key, want in (("b", 6), ("a", 3), ("b", 6), ("a", 20), ("c", 0))]
    answers = await book.take(asks)
    assert [each.granted for each in answers] == [6, 3, 4, 7, 0]
    assert [each.pace for each in answers] == [TEN] * 5


async def test_calls_at_once_never_get_more_together(stores: Stores) -> None:
    """RATE-06."""
    books = [(await stores.engine()).store.limits for _ in range(3)]
    answers = await asyncio.gather(*(take(book, "k", Pace(25, 3600.0, 25)) for book in books for _ in range(20)))
    assert sum(each.granted for each in answers) == 25


async def test_each_ask_is_judged_by_its_own_rate_against_all_grants(engine: Engine, clock: SetClock) -> None:
    """RATE-02."""
    book = engine.store.limits
    assert (await take(book, "k", Pace(2, 1.0, 2), 5)).granted == 2
    assert (await take(book, "k", Pace(3, 1.0, 3), 5)).granted == 1
    assert (await take(book, "k", Pace(2, 1.0, 2))).granted == 0
    assert (await take(book, "k", Pace(4, 60.0, 4), 5)).granted == 1
    clock.advance(2.0)
    assert (await take(book, "k", Pace(4, 60.0, 4))).granted == 0
    assert (await take(book, "k", Pace(2, 1.0, 2), 5)).granted == 2


async def test_at_most_a_burst_comes_at_once(engine: Engine, clock: SetClock) -> None:
    """RATE-01."""
    book, pace = engine.store.limits, Pace(60, 60.0, 5)
    assert (await take(book, "k", pace, 9)).granted == 5
    for _ in range(3):
        clock.advance(1.0)
        assert (await take(book, "k", pace, 9)).granted == 1
    clock.advance(100.0)
    assert (await take(book, "k", pace, 9)).granted == 5


async def test_what_is_given_back_may_be_taken_again_once(stores: Stores, clock: SetClock) -> None:
    """RATE-05: a cancelled waiter takes nothing."""
    engine, other = await stores.engine(), await stores.engine()
    book = engine.store.limits
    clock.advance(0.5)
    permits = await take(book, "k", TEN, 10, 0.01)
    book.give_back("k", permits.at, 4)
    assert (await take(book, "k", TEN, 10)).granted == 4
    assert (await take(other.store.limits, "k", TEN)).granted == 0
    clock.advance(30)
    book.give_back("k", permits.at, 4)
    assert (await take(book, "k", TEN, 20)).granted == 10


async def test_many_different_keys_and_any_text(engine: Engine) -> None:
    book = engine.store.limits
    keys = ["'; DROP TABLE x; --", "Ünïcödé ☃", "a b\n\t", "x" * 500, "{1,2}", "NULL", ""]
    answers = await book.take([PermitAsk(key, TEN, 1) for key in keys])
    assert [each.granted for each in answers] == [1] * len(keys)
    assert [each.key for each in await book.states(keys[:3])] != []


# -- slots --------------------------------------------------------------------------------------------------------------------


async def test_at_most_n_are_held_over_all_engines(stores: Stores) -> None:
    """RATE-04, RATE-06: also if all ask at once."""
    books = [(await stores.engine()).store.limits for _ in range(3)]
    held = await asyncio.gather(*(hold(book, "gpu", 4) for book in books for _ in range(5)))
    assert sum(each is not None for each in held) == 4


async def test_different_numbers_look_at_the_same_holders(stores: Stores) -> None:
    """RATE-04."""
    engine, other = await stores.engine(), await stores.engine()
    assert await hold(engine.store.limits, "gpu", 2)
    assert await hold(other.store.limits, "gpu", 2)
    assert await hold(engine.store.limits, "gpu", 2) is None
    assert await hold(engine.store.limits, "gpu", 3)
    assert await hold(engine.store.limits, "other", 1)


async def test_a_slot_is_one_however_often_it_is_asked_for_and_freed(stores: Stores) -> None:
    """RATE-04: as after a reply that was lost; who holds an old id frees nobody else's."""
    engine, other = await stores.engine(), await stores.engine()
    book, mine = engine.store.limits, identifier()
    assert [await hold(book, "gpu", 2, mine) for _ in range(3)] == [mine] * 3
    theirs = await hold(other.store.limits, "gpu", 2)
    assert theirs is not None
    await book.release([HeldSlot("gpu", mine), HeldSlot("gpu", mine)])
    await book.release([HeldSlot("gpu", mine)])
    await book.release([HeldSlot("gpu", identifier()), HeldSlot("unknown", identifier())])
    assert len((await state_of(book, "gpu")).holders) == 1
    assert await hold(book, "gpu", 1) is None


async def test_slots_are_given_and_freed_in_one_call_for_many(engine: Engine) -> None:
    book = engine.store.limits
    asks = [SlotAsk(key, 2, identifier()) for key in "baabab"]
    answers = await book.hold(asks)
    assert [each.since is not None for each in answers] == [True, True, True, True, False, False]
    await book.release([HeldSlot(ask.key, ask.holder) for ask in asks])
    assert [len((await state_of(book, key)).holders) for key in "ab"] == [0, 0]


async def test_slots_of_the_dead_are_free_and_those_of_the_living_are_not(stores: Stores, clock: SetClock) -> None:
    """RATE-07: however long they are held; what the dead still tries to do changes nothing."""
    dying, engine = await stores.engine(), await stores.engine()
    old = await hold(dying.store.limits, "gpu", 2)
    assert old is not None
    assert await hold(engine.store.limits, "gpu", 2)
    clock.advance(1_000_000)
    assert await hold(engine.store.limits, "gpu", 2) is None

    await stores.kill(dying)

    new = await hold(engine.store.limits, "gpu", 2)
    assert new is not None
    await dying.store.limits.release([HeldSlot("gpu", old)])
    assert await hold(engine.store.limits, "gpu", 2) is None
    with pytest.raises(StoreUnavailable, match="lost its lease"):
        await hold(dying.store.limits, "elsewhere", 2)


async def test_an_engine_that_is_left_frees_its_slots(stores: Stores) -> None:
    """RATE-07."""
    leaving, engine = await stores.engine(), await stores.engine()
    assert await hold(leaving.store.limits, "gpu", 1)
    assert (
        await hold(engine.store.limits, "gpu", 1, line=Line("gpu", LimitHolder(run_id=None, asset=None, since=NOW)))
        is None
    )

    await woken(engine.store.limits, "gpu", leaving.store.close())

    assert await hold(engine.store.limits, "gpu", 1)


async def test_an_engine_without_a_lease_takes_permits_and_no_slots(stores: Stores) -> None:
    """RATE-07: nobody could tell that it has died."""
    looking = await stores.engine(lease=None)
    assert (await take(looking.store.limits, "k", TEN)).granted == 1
    with pytest.raises(ConfigError, match="holds no lease") as caught:
        await hold(looking.store.limits, "gpu", 1)
    assert caught.value.hint is not None


async def test_slots_are_held_since_an_instant_of_the_store(engine: Engine, clock: SetClock) -> None:
    """RATE-10."""
    book = engine.store.limits
    await hold(book, "gpu", 3, run_id="the run", asset="trained")
    since = clock.now()
    clock.advance(5)
    await hold(book, "gpu", 3)
    holders = (await state_of(book, "gpu")).holders
    assert [(each.run_id, each.asset, (each.since - since).total_seconds()) for each in holders] == [
        ("the run", "trained", 0),
        (None, None, 5),
    ]


# -- waking ---------------------------------------------------------------------------------------------------------------------

NOW = datetime.fromisoformat("2025-06-01T12:00:00+00:00")


@pytest.mark.parametrize("where", ["own engine", "other engine"])
async def test_a_freed_slot_wakes_who_was_refused_one(stores: Stores, where: str) -> None:
    """RATE-07: at once."""
    engine, other = await stores.engine(), await stores.engine()
    book = (engine if where == "own engine" else other).store.limits
    held = await hold(engine.store.limits, "gpu", 1)
    assert held is not None
    line = Line("gpu", LimitHolder(run_id=None, asset=None, since=NOW))
    assert await hold(book, "gpu", 1, line=line) is None
    book.enter(line)

    await woken(book, "gpu", engine.store.limits.release([HeldSlot("gpu", held)]))

    assert await hold(book, "gpu", 1)


@pytest.mark.parametrize("action", ["set", "reset", "back_off"])
async def test_a_change_wakes_who_waits_anywhere(stores: Stores, action: str) -> None:
    """RATE-09, RATE-10."""
    engine, other = await stores.engine(), await stores.engine()
    change = LimitChange(action=action, key="k", setting=TEN, seconds=3.0)
    await woken(other.store.limits, "k", engine.store.limits.change(change))


async def test_waiting_ends_when_the_time_is_up(engine: Engine) -> None:
    async with asyncio.timeout(SOON):
        await engine.store.limits.changed("k", within=0.001)
        await engine.store.limits.changed("k", within=0)


# -- looking and changing ---------------------------------------------------------------------------------------------------------


async def test_what_is_set_holds_at_once_everywhere_and_lasts(stores: Stores) -> None:
    """RATE-09: over what callers say, until it is taken back."""
    engine, other = await stores.engine(), await stores.engine()
    book, elsewhere = engine.store.limits, other.store.limits
    assert (await take(book, "k", None)).pace is None
    await elsewhere.change(LimitChange(action="set", key="k", setting=Pace(2, 60.0, 2)))
    permits = await take(book, "k", Pace(500, 1.0, 500), 9)
    assert (permits.granted, permits.pace) == (2, Pace(2, 60.0, 2))
    assert (await take(book, "k", None)).pace == Pace(2, 60.0, 2)
    await other.store.close()
    assert (await state_of(book, "k")).setting == Pace(2, 60.0, 2)
    await book.change(LimitChange(action="set", key="k", setting=None))
    assert (await take(book, "k", Pace(500, 1.0, 500), 9)).granted == 9


async def test_a_number_of_slots_can_be_set_too(engine: Engine) -> None:
    """RATE-09: and is no rate, nor the other way round."""
    book = engine.store.limits
    await book.change(LimitChange(action="set", key="gpu", setting=2))
    assert [await hold(book, "gpu", None) is not None for _ in range(3)] == [True, True, False]
    assert await hold(book, "gpu", 50) is None
    permits = await take(book, "gpu", TEN)
    assert (permits.pace, permits.slots, permits.granted) == (None, 2, 0)
    await book.change(LimitChange(action="set", key="gpu", setting=TEN))
    [answer] = await book.hold([SlotAsk("gpu", 5, identifier())])
    assert (answer.n, answer.pace, answer.since) == (None, TEN, None)


async def test_backing_off_stops_everybody_for_so_long(stores: Stores, clock: SetClock) -> None:
    """RATE-10: a shorter one does not shorten it."""
    engine, other = await stores.engine(), await stores.engine()
    await engine.store.limits.change(LimitChange(action="back_off", key="k", seconds=30.0))
    await engine.store.limits.change(LimitChange(action="back_off", key="k", seconds=5.0))
    permits = await take(other.store.limits, "k", TEN)
    assert permits.granted == 0
    assert permits.outlook is not None
    assert permits.outlook.after(1) == pytest.approx(30.0)
    [answer] = await other.store.limits.hold([SlotAsk("k", 5, identifier())])
    assert (answer.since, answer.blocked) == (None, pytest.approx(30.0))
    assert (await state_of(other.store.limits, "k")).blocked == pytest.approx(30.0)
    clock.advance(30.0)
    assert (await take(other.store.limits, "k", TEN)).granted == 1


async def test_reset_empties_a_limit(stores: Stores) -> None:
    """RATE-10: grants, holders and back-off; what was set stays."""
    engine, other = await stores.engine(), await stores.engine()
    book = engine.store.limits
    await book.change(LimitChange(action="set", key="k", setting=TEN))
    await take(book, "k", None, 10)
    await hold(book, "gpu", 1)
    await book.change(LimitChange(action="back_off", key="k", seconds=30.0))
    for key in ("k", "gpu", "unknown"):
        await other.store.limits.change(LimitChange(action="reset", key=key))
    assert (await take(book, "k", None, 10)).granted == 10
    assert await hold(book, "gpu", 1)


@pytest.mark.parametrize("action", ["set", "reset", "back_off"])
async def test_a_change_is_audited(engine: Engine, action: str) -> None:
    """AUD-01, AUD-02: a limit that is changed is an act."""
    change = LimitChange(action=action, key="k", setting=TEN, seconds=1.0, actor="ann", details={"limit": "10 in 1 s"})
    await engine.store.limits.change(change)
    [(_, _, entry)] = await engine.store.audit()
    assert (entry.action, entry.subject, entry.actor) == (f"limit.{action}", "k", "ann")
    assert dict(entry.details) == {"limit": "10 in 1 s"}


async def test_states_tell_what_counts(engine: Engine, clock: SetClock) -> None:
    """RATE-10."""
    book = engine.store.limits
    await take(book, "k", TEN, 4)
    await hold(book, "gpu", 3)
    state = await state_of(book, "k")
    assert (state.pace, state.used, state.slots, state.setting, state.waiting) == (TEN, 4, None, None, 0)
    [asked] = await book.states(["k"], pace=Pace(3, 100.0, 3))
    assert (asked.pace, asked.used) == (Pace(3, 100.0, 3), 4)
    gpu = await state_of(book, "gpu")
    assert (gpu.pace, gpu.slots, len(gpu.holders)) == (None, 3, 1)
    assert await book.states(["nobody knows"]) == []
    clock.advance(1.0)
    assert (await state_of(book, "k")).used == 0


async def test_states_come_in_pages(engine: Engine) -> None:
    book = engine.store.limits
    for key in ("b", "a", "d", "c"):
        await book.change(LimitChange(action="set", key=key, setting=1))
    assert [each.key for each in await book.states(limit=3)] == ["a", "b", "c"]
    assert [each.key for each in await book.states(limit=3, after="c")] == ["d"]


async def test_who_waits_is_seen_by_everybody(stores: Stores) -> None:
    """RATE-10: in whichever engine; and no more once they are gone."""
    engine, other, third = await stores.engine(), await stores.engine(), await stores.engine()
    first = LimitHolder(run_id="r", asset="a", since=NOW)
    waits = [(engine.store.limits, Line("gpu", first)), (other.store.limits, Line("gpu", *[first] * 3))]
    await hold(engine.store.limits, "gpu", 1)
    for book, line in waits:
        assert await hold(book, "gpu", 1, line=line) is None
        book.enter(line)
    for looking in (engine, other, third):
        state = await state_of(looking.store.limits, "gpu")
        assert (state.waiting, state.waiters) == (4, (first,) * 4)
    for book, line in waits:
        book.withdraw(line)
    await hold(engine.store.limits, "gpu", 1)  # whatever is told later has been told now
    await hold(other.store.limits, "gpu", 1)
    assert (await state_of(third.store.limits, "gpu")).waiting == 0


async def test_who_waits_for_permits_is_seen_too(stores: Stores) -> None:
    """RATE-10."""
    engine, other = await stores.engine(), await stores.engine()
    book, line = engine.store.limits, Line("k", LimitHolder(run_id="r", asset="a", since=NOW))
    await take(book, "k", Pace(1, 3600.0, 1))
    await book.take([PermitAsk("k", Pace(1, 3600.0, 1), 1, 0.0, line)])
    book.enter(line)
    state = await state_of(other.store.limits, "k")
    assert (state.waiting, state.waiters) == (1, line.waiters)


async def test_keys_that_matter_no_more_are_forgotten(stores: Stores, clock: SetClock) -> None:
    """RATE-02, G-03: by maintenance; others are not."""
    engine, dying = await stores.engine(), await stores.engine()
    book = engine.store.limits
    for number in range(30):
        await take(book, f"customer {number:02}", TEN)
    await take(book, "slow", Pace(1, 86400.0, 1))
    await hold(book, "held", 1)
    await hold(dying.store.limits, "of the dead", 1)
    await book.change(LimitChange(action="set", key="set", setting=TEN))
    await book.change(LimitChange(action="back_off", key="blocked", seconds=7200.0))
    await stores.kill(dying)
    clock.advance(3600.0)
    await engine.store.maintain()

    assert {each.key for each in await book.states()} == {"slow", "held", "set", "blocked"}
    assert not (await take(book, "slow", Pace(1, 86400.0, 1))).granted
    assert await hold(book, "held", 1) is None


async def test_a_store_that_is_closed_grants_nothing(stores: Stores) -> None:
    """RATE-06: neither a grant nor 'at capacity'."""
    engine = await stores.engine()
    await engine.store.close()
    if engine.store.durable:
        with pytest.raises(ConfigError, match="not open"):
            await take(engine.store.limits, "k", TEN)
    with pytest.raises((ConfigError, StoreUnavailable)):
        await hold(engine.store.limits, "gpu", 1)
