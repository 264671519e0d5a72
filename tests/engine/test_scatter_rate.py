"""How often items of a scatter begin: memory and Postgres (SCAT-08, RATE-01, RATE-06, RATE-08, READ-02)."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest

from flowstone_async import Context, Gathered, Pipeline, Rate, Retry, TimedOut
from flowstone_async._engine.scatter.bodies import Bodies
from flowstone_async._engine.scatter.scattering import Scattering
from flowstone_async.clock import ManualClock
from flowstone_async.errors import ScatterThreshold
from tests.support.crash import kill, look_for_orphans
from tests.support.engines import OpenEngine
from tests.support.gate import Gate, soon
from tests.support.rates import Begun, at_rest, cancel, gone_on_with, passing
from tests.support.scatters import RARELY, kept
from tests.unit.limits.windows import most_in_any_window

HOURLY = Rate(1, per="1h")


@pytest.mark.parametrize("rate", [Rate(5), Rate(6, per="2s", burst=2), Rate(1, per="100ms")])
async def test_no_window_sees_more_than_n_items_begin(open_engine: OpenEngine, rate: Rate):
    """SCAT-08, RATE-01: and hardly fewer."""
    pipe, clock = Pipeline("paced"), ManualClock()
    begun = Begun(clock)

    @pipe.scatter(range(1000), rate=rate, max_concurrent=3, page_size=100)
    async def items(no: int) -> int:
        begun()
        await asyncio.sleep(0)
        return no

    engine = await open_engine(pipe, clock=clock, **RARELY)
    run = await engine.submit(items)
    n, per, _ = rate.pace
    await kept(engine, 1)
    await passing(clock, engine, 10 * per)
    times = begun.at[None]
    assert most_in_any_window(times, per) <= n
    assert len(times) >= 9 * n
    await cancel(run)


async def test_retries_count(open_engine: OpenEngine):
    """SCAT-08: every attempt needs a permit of its own."""
    pipe, clock = Pipeline("paced"), ManualClock()
    begun = Begun(clock)

    @pipe.scatter(range(6), rate=Rate(2, per="10s"), retry=Retry(3, backoff="none"))
    async def items(no: int, ctx: Context) -> int:
        begun()
        if ctx.item.attempt < 3:
            raise ConnectionError("gone")
        return no

    engine = await open_engine(pipe, clock=clock)
    running = asyncio.create_task(engine.run(items, timeout=False))
    while not running.done():
        await passing(clock, engine, 0.5)
    assert (await running).succeeded == 6
    assert len(begun.at[None]) == 18
    assert most_in_any_window(begun.at[None], 10) == 2


async def test_keys_are_limited_each_by_itself(open_engine: OpenEngine):
    """RATE-08: items of a saturated key take no place of max_concurrent, and hold back no item of another key."""
    pipe, clock = Pipeline("keyed"), ManualClock()
    begun = Begun(clock)
    given = [("a", no) for no in range(30)] + [("b", no) for no in range(3)] + [("c", 0), ("b", 9), ("a", 99)]

    @pipe.scatter(given, rate=Rate(2, per="1m", key=lambda item: item[0]), max_concurrent=1, page_size=7)
    async def items(item: tuple[str, int]) -> str:
        begun(item[0])
        await asyncio.sleep(0)
        return item[0]

    engine = await open_engine(pipe, clock=clock, **RARELY)
    run = await engine.submit(items)
    await kept(engine, 2)
    await at_rest(engine)
    assert begun.counts == {"a": 2}, "the other keys are not read yet: 28 of a are 4 pages ahead"
    await passing(clock, engine, 60 * 6)
    assert begun.counts["c"] == 1
    assert begun.counts["a"] >= 12
    while begun.counts.total() < len(given):
        await passing(clock, engine, 20)
    assert (await soon(run)).succeeded == len(given)
    assert {most_in_any_window(times, 60) for times in begun.at.values()} == {1, 2}
    assert max(begun.at["b"]) < max(begun.at["a"])


async def test_within_what_is_read_ahead_no_key_waits_for_another(open_engine: OpenEngine):
    """RATE-08: however many items of a saturated key come first, and although they are read in pages."""
    pipe, clock = Pipeline("keyed"), ManualClock()
    begun = Begun(clock)

    @pipe.scatter(range(400), rate=Rate(1, per="1h", key=lambda no: "slow" if no < 300 else no), page_size=100)
    async def items(no: int) -> int:
        begun("slow" if no < 300 else "other")
        return no

    engine = await open_engine(pipe, clock=clock, **RARELY)
    run = await engine.submit(items)
    await kept(engine, 101)
    await at_rest(engine)
    assert begun.counts == {"slow": 1, "other": 100}
    await cancel(run)


async def test_items_that_wait_are_ahead_of_execution(open_engine: OpenEngine):
    """READ-02: an endless source of one key is read 4 pages ahead and no further, at any time."""
    pipe, clock, pulled = Pipeline("endless"), ManualClock(), 0
    begun = Begun(clock)

    async def source() -> AsyncIterator[int]:
        nonlocal pulled
        while True:
            pulled += 1
            yield pulled

    @pipe.scatter(source, rate=Rate(1, per="1s", key=lambda no: no % 2), page_size=10, max_concurrent=5)
    async def items(no: int) -> int:
        begun(no % 2)
        return no

    engine = await open_engine(pipe, clock=clock, **RARELY)
    run = await engine.submit(items)
    await kept(engine, 2)
    for _ in range(30):
        await passing(clock, engine, 1.1)
        ended = begun.counts.total()
        assert pulled <= ended + 40 + 1
    assert begun.counts[0] >= 28
    assert abs(begun.counts[0] - begun.counts[1]) <= 1
    await cancel(run)


async def test_items_to_be_tried_again_are_taken_as_there_is_room(open_engine: OpenEngine):
    """READ-02: they wait in the store, however many have come due."""
    pipe, clock = Pipeline("many"), ManualClock()
    calls = Counter[int]()

    @pipe.scatter(range(300), rate=Rate(300, per="1m"), page_size=5, max_concurrent=5, retry=Retry(2, initial="1s"))
    async def items(no: int) -> int:
        calls[no] += 1
        if calls[no] == 1:
            raise ConnectionError("gone")
        return no

    engine = await open_engine(pipe, clock=clock, **RARELY)
    run = await engine.submit(items)
    await kept(engine, 300, "waiting")
    [flight] = engine._live().flights.values()
    [still] = flight.driver.still.values()
    scattering = still.__closure__[0].cell_contents  # type: ignore[index]
    assert isinstance(scattering, Scattering)
    await passing(clock, engine, 5)
    assert calls.total() == 300
    assert scattering._outstanding == 20
    assert len(scattering._held) == 20
    while not flight.driver.done.is_set():
        await passing(clock, engine, 1)
    assert (await soon(run)).succeeded == 300
    assert set(calls.values()) == {2}


def _divides(no: int) -> object:
    return 1 / no


def _unsayable(no: int) -> object:
    return no or object()


def _too_long(no: int) -> object:
    return "x" * (2000 if not no else 1000)


async def _awaits(no: int) -> object:
    return no


@pytest.mark.parametrize(
    ("key", "says"),
    [
        (_divides, "ZeroDivisionError: division by zero"),
        (_unsayable, "the key is object"),
        (_too_long, "the key is 2,002 bytes long"),
        (lambda no: _awaits(no) if not no else "", "the key is coroutine"),
    ],
)
async def test_an_item_whose_key_cannot_be_told_fails_alone(open_engine: OpenEngine, key: Any, says: str):
    """RATE-08: it is not tried again, and counts as any failed item."""
    pipe, calls = Pipeline("keyed"), list[int]()

    @pipe.scatter(range(5), rate=Rate(100, per="1m", key=key), tolerate=0.2)
    async def items(no: int) -> int:
        calls.append(no)
        return no

    engine = await open_engine(pipe)
    found = await soon(engine.run(items))
    [failure] = [each async for each in found.failures()]
    assert (failure.item, failure.attempts) == (0, 1)
    assert says in failure.message
    assert sorted(calls) == [1, 2, 3, 4]


async def test_a_page_of_which_no_key_can_be_told_ends(open_engine: OpenEngine):
    """RATE-08, SCAT-11: without any body being called."""
    pipe = Pipeline("keyed")

    @pipe.scatter([0, 0, 0], key=False, rate=Rate(1, key=_divides), page_size=1)
    async def items(no: int) -> int:
        raise AssertionError("called")

    engine = await open_engine(pipe)
    with pytest.raises(ScatterThreshold, match="division by zero"):
        await soon(engine.run(items))


async def test_keys_of_other_types_and_dependencies_of_the_function(open_engine: OpenEngine):
    """RATE-08: equal keys share a limit; text and number differ; the function takes dependencies as select does."""
    pipe, clock = Pipeline("keyed"), ManualClock()
    begun = Begun(clock)

    @pipe.asset
    async def tenants() -> dict[str, int]:
        return {"x": 1, "y": 1, "z": 2}

    def tenant(name: str, tenants: dict[str, int]) -> Any:
        return {"x": 1, "y": 1, "z": "1", "t": ("1", 1), "n": None}[name] if tenants else 0

    @pipe.scatter(["x", "y", "z", "t", "n"], rate=Rate(1, per="1h", key=tenant), max_concurrent=1)
    async def items(name: str) -> str:
        begun(name)
        return name

    engine = await open_engine(pipe, clock=clock, **RARELY)
    run = await engine.submit(items)
    await kept(engine, 4)
    await at_rest(engine)
    assert begun.counts == {"x": 1, "z": 1, "t": 1, "n": 1}
    await cancel(run)


async def test_keys_and_items_of_those_that_wait(open_engine: OpenEngine):
    """SCAT-06: `ctx.item` is what it is without a rate."""
    pipe, seen = Pipeline("keyed"), dict[int, tuple[Any, ...]]()

    @pipe.scatter(range(20), key=lambda no: (no // 2, "x"), rate=Rate(100, key=lambda no: no % 3), page_size=6)
    async def items(no: int, ctx: Context) -> int:
        seen[no] = ctx.item.key, ctx.item.index, ctx.item.attempt, ctx.item.identity
        return no

    @pipe.scatter(range(20), key=lambda no: (no // 2, "x"), page_size=6)
    async def plain(no: int, ctx: Context) -> int:
        assert (ctx.item.key, ctx.item.index, ctx.item.attempt, ctx.item.identity) == seen[no]
        return no

    engine = await open_engine(pipe)
    assert (await soon(engine.run(items))).succeeded == 10
    assert seen[6][:3] == ((3, "x"), 3, 1)
    assert (await soon(engine.run(plain))).succeeded == 10


async def test_waiting_is_not_part_of_the_timeout(open_engine: OpenEngine):
    """SCAT-15: which bounds the attempt, from the moment at which the body is called."""
    pipe, clock = Pipeline("paced"), ManualClock()

    @pipe.scatter(range(4), rate=Rate(1, per="10s"), timeout="1s", retry=False, tolerate=0.25)
    async def items(no: int) -> int:
        if no == 2:
            await asyncio.Event().wait()
        return no

    engine = await open_engine(pipe, clock=clock)
    running = asyncio.create_task(engine.run(items, timeout=False))
    await kept(engine, 1)
    while not running.done():
        await clock.advance(0.5)
        await asyncio.sleep(0)
    found = await running
    [failure] = [each async for each in found.failures()]
    assert (failure.item, type(failure.error)) == (2, TimedOut)
    assert found.succeeded == 3


@pytest.mark.parametrize("key", [None, lambda no: no % 2])
async def test_cancelling_while_items_wait(open_engine: OpenEngine, key: Any):
    """SCAT-24: at once, and no item begins afterwards."""
    pipe, clock = Pipeline("paced"), ManualClock()
    begun = Begun(clock)

    @pipe.scatter(range(50), rate=Rate(1, per="10s", key=key))
    async def items(no: int) -> int:
        begun()
        return no

    engine = await open_engine(pipe, clock=clock, **RARELY)
    run = await engine.submit(items)
    await kept(engine, 1 if key is None else 2)
    await at_rest(engine)
    before = len(begun.at[None])
    await cancel(run)
    await clock.advance(100)
    assert len(begun.at[None]) == before
    counts = (await run.status()).scatter
    assert counts is not None
    assert (counts.done, counts.cancelled) == (before, 50 - before)


async def test_tolerance_exceeded_while_items_wait(open_engine: OpenEngine):
    """SCAT-11: the asset fails at once; what waits does not begin."""
    pipe, clock = Pipeline("paced"), ManualClock()
    begun = Begun(clock)

    @pipe.scatter(range(50), rate=Rate(2, per="10s"), retry=False)
    async def items(no: int) -> int:
        begun()
        if no == 3:
            raise ValueError("bad")
        return no

    engine = await open_engine(pipe, clock=clock, **RARELY)
    running = asyncio.create_task(engine.run(items, timeout=False))
    await kept(engine, 2)
    while not running.done():
        await passing(clock, engine, 1)
    with pytest.raises(ScatterThreshold, match="1 of 50 items"):
        await running
    await clock.advance(100)
    assert len(begun.at[None]) == 4


async def test_a_rate_holds_across_a_crash_while_items_wait(open_engine: OpenEngine):
    """SCAT-08, RATE-06: whoever goes on with the scatter goes on with its rate."""
    pipe, clock = Pipeline("paced"), ManualClock()
    begun = Begun(clock)

    @pipe.scatter(range(9), rate=Rate(2, per="10s", key=lambda no: no % 2), page_size=4)
    async def items(no: int) -> int:
        begun(no % 2)
        return no

    @items.gather
    async def total(results: Gathered[int]) -> int:
        return sum([value async for value in results])

    assert await gone_on_with(open_engine, pipe, clock, total, lambda: begun.counts == {0: 2, 1: 2}) == sum(range(9))
    assert begun.counts == {0: 5, 1: 4}, "no item was called twice"
    assert {most_in_any_window(times, 10) for times in begun.at.values()} == {2}


async def test_a_suspect_needs_a_permit_too(open_engine: OpenEngine, monkeypatch: pytest.MonkeyPatch):
    """SCAT-14, SCAT-08: an item under which workers died waits for its turn, and still runs with nothing beside it."""

    async def die(self: Scattering, bodies: Bodies) -> None:
        bodies.cancel()

    monkeypatch.setattr(Scattering, "_end", die)  # without handing anything back
    pipe, clock, gate, calls = Pipeline("poison"), ManualClock(), Gate(), Counter[int]()
    begun = Begun(clock)

    @pipe.scatter(range(8), tolerate=0.125, rate=Rate(8, per="1h"))
    async def items(no: int) -> int:
        calls[no] += 1
        begun()
        if no == 2:
            await gate()
        return no

    options: Any = {"clock": clock, **RARELY}
    living = await open_engine(pipe, **options, slots=0)
    first = await open_engine(pipe, **options)
    run = await first.submit("items")
    await gate.reached()
    await kept(living, 7)
    await kill(first)
    for died in range(2, 4):
        dying = await open_engine(pipe, **options)
        await look_for_orphans(dying)
        while gate.calls < died:
            await clock.advance(600)
            await asyncio.sleep(0)
        await kill(dying)
    await look_for_orphans(living)
    result = asyncio.create_task((await living.find(run.id)).result())
    while not result.done():
        await clock.advance(600)
        await asyncio.sleep(0)
    found = await result
    [failure] = [each async for each in found.failures()]
    assert (failure.item, failure.error_type, calls[2]) == (2, "WorkerLost", 3)
    assert most_in_any_window(begun.at[None], 3600) == 8
    assert set(calls.values()) == {1, 3}


async def test_two_engines_share_the_rate_of_a_scatter(open_engine: OpenEngine):
    """SCAT-08, RATE-06: it belongs to the scatter, not to the process; what a person sets for it holds."""
    pipe, clock = Pipeline("paced"), ManualClock()
    begun = Begun(clock)

    @pipe.scatter(range(50), rate=Rate(3, per="1m"))
    async def items(no: int) -> int:
        begun()
        return no

    engine, other = await open_engine(pipe, clock=clock, **RARELY), await open_engine(pipe, clock=clock, slots=0)
    run = await engine.submit(items)
    await kept(other, 3)
    await at_rest(engine)
    store: Any = other._live().store
    [scatter] = await store.scatters.of_run(run.id)
    status = await other.limits.status(f"scatter:{scatter.id}")
    assert (status.count, status.limit) == (3, 3)
    await other.limits.set(f"scatter:{scatter.id}", Rate(10, per="1m"))
    await passing(clock, engine, 31)
    assert len(begun.at[None]) == 10
    await cancel(run)


async def test_time_passes_for_items_that_wait_in_a_test():
    """TEST-03, SCAT-12: for a permit, for their next attempt, and behind a full read-ahead."""
    pipe = Pipeline("tested")
    tries = Counter[int]()

    @pipe.scatter(range(30), rate=Rate(2, per="1h", key=lambda no: no % 2), page_size=2, max_concurrent=2)
    async def items(no: int) -> int:
        tries[no] += 1
        if no % 10 == 0 and tries[no] == 1:
            raise ConnectionError("gone")
        return no

    async with pipe.test() as t:
        assert (await soon(t.run(items))).succeeded == 30
        assert tries.total() == 33
        assert t.clock.monotonic() > 6 * 3600
