"""Limits in bodies and on engines, over all runs of a store (RATE-03 to RATE-07, RATE-09, RATE-10)."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from flowstone_async import (
    ConfigError,
    Context,
    Engine,
    Event,
    ExecutionError,
    LeaseLost,
    Limits,
    Pipeline,
    Rate,
    RateChecked,
    RateEvent,
    RateLimited,
    RateSlotAcquired,
    RateSlotReleased,
    RateWaited,
    Retry,
    SlotTimeout,
    StoreUnavailable,
)
from flowstone_async.events import EVENT_TYPES, OBSERVATIONS
from tests.support.crash import kill
from tests.support.engines import OpenEngine, OpenVerbs, SharedEngines
from tests.support.gate import Gate, soon
from tests.unit.definition.reading import untyped

HOURLY = Rate(1, per="1h")


class Held:
    """`held` waits at a gate in a slot of `gpu`; it has a partition for each run of its own."""

    def __init__(self, n: int | None = 1) -> None:
        self.pipe, self.gate = Pipeline("limited"), Gate()

        @self.pipe.asset
        async def held(ctx: Context) -> int:
            async with ctx.slots("gpu", n):
                await self.gate()
            return 1

        self.held = held


async def until(condition: Callable[[], Awaitable[object]]) -> None:
    """Return when a condition holds."""
    async with asyncio.timeout(20):
        while not await condition():
            await asyncio.sleep(0)


async def holders(limits: Limits, key: str, count: int) -> None:
    """Wait until so many hold a slot."""
    await until(lambda: _counts(limits, key, lambda status: len(status.holders) == count))


async def waiters(limits: Limits, key: str, count: int) -> None:
    """Wait until so many wait."""
    await until(lambda: _counts(limits, key, lambda status: status.waiting == count))


async def _counts(limits: Limits, key: str, condition: Callable[[Any], bool]) -> bool:
    return condition(await limits.status(key))


async def expire(engine: Engine) -> None:
    """Let the lease of an engine run out, as far as the store knows."""
    expired = untyped(engine._store).expire(engine._live().services.worker)
    if inspect.isawaitable(expired):
        await expired


# -- in bodies ---------------------------------------------------------------------------------------------------------


async def test_a_rate_holds_over_all_runs(open_verbs: OpenVerbs):
    """RATE-05, RATE-06: in memory over those of the pipeline, on a store over those of the store."""
    pipe = Pipeline("limited")

    @pipe.asset
    async def called(ctx: Context, partition: str) -> float:
        async with ctx.limit("api", Rate(3, per="1h"), max_wait="1ms"):
            return await ctx.limits.check("api", Rate(3, per="1h"))

    verbs = await open_verbs(pipe)
    assert await verbs.run(called, partition="a") == 0.0
    assert 3590 < await verbs.run(called, partition="b") < 3601
    with pytest.raises(RateLimited) as caught:
        await verbs.run(called, partition="c")
    assert (caught.value.asset, caught.value.partition) == ("called", "c")
    assert "limit 'api' can give no permit" in str(caught.value)


async def test_at_most_n_bodies_hold_a_slot(open_verbs: OpenVerbs):
    """RATE-05: of runs that go on side by side; freed when each leaves."""
    held = Held(2)
    verbs = await open_verbs(held.pipe)
    runs = [asyncio.create_task(verbs.run(held.held, partition=str(number))) for number in range(6)]
    await held.gate.reached(2)
    held.gate.open()
    assert await soon(asyncio.gather(*runs)) == [1] * 6
    assert (held.gate.calls, held.gate.most) == (6, 2)


async def test_a_slot_is_freed_when_its_body_is_cancelled(open_engine: OpenEngine):
    """RATE-04, RATE-05: and one that waits takes none."""
    held = Held(1)
    engine, other = await open_engine(held.pipe), await open_engine(held.pipe)
    first = await engine.submit(held.held, partition="1")
    await held.gate.reached()
    second = await engine.submit(held.held, partition="2")
    await waiters(other.limits, "gpu", 1)
    await second.cancel()
    await waiters(other.limits, "gpu", 0)
    third = await other.submit(held.held, partition="3")
    await waiters(engine.limits, "gpu", 1)
    await first.cancel()
    await held.gate.reached(2)
    held.gate.open()
    assert await soon(third.result()) == 1
    await holders(engine.limits, "gpu", 0)


async def test_status_tells_run_and_asset_of_holders_and_waiters(open_engine: OpenEngine):
    """RATE-10: wherever they are."""
    held = Held(1)
    engine, other = await open_engine(held.pipe), await open_engine(held.pipe, slots=0)
    first = await engine.submit(held.held, partition="1")
    await held.gate.reached()
    second = await engine.submit(held.held, partition="2")
    await waiters(other.limits, "gpu", 1)
    status = await other.limits.status("gpu")
    [holder], [waiter] = status.holders, status.waiters
    assert (holder.run_id, holder.asset) == (first.id, "held")
    assert (waiter.run_id, waiter.asset) == (second.id, "held")
    assert holder.since < waiter.since
    assert (status.kind, status.count, status.limit, status.remaining, status.utilisation) == ("slots", 1, 1, 0, 1.0)
    held.gate.open()
    await soon(second.result())


async def test_a_slot_is_kept_while_its_body_waits_for_another_limit(open_engine: OpenEngine):
    """RATE-05: slots and permits are taken one inside the other."""
    pipe = Pipeline("limited")

    @pipe.asset
    async def nested(ctx: Context) -> int:
        async with ctx.slots("gpu", 1), ctx.limit("api", Rate(5)), ctx.slots("cpu", 1):
            status = await ctx.limits.status("gpu")
            return len(status.holders)

    engine = await open_engine(pipe)
    assert await engine.run(nested) == 1
    assert (await engine.limits.status("gpu")).count == (await engine.limits.status("cpu")).count == 0


async def test_a_refusal_is_tried_again_by_the_assets_policy(open_engine: OpenEngine):
    """ERR-03: both are retryable."""
    pipe, attempts = Pipeline("limited"), list[int]()

    @pipe.asset(retry=Retry(2, initial="1ms"))
    async def called(ctx: Context) -> int:
        attempts.append(ctx.attempt)
        if ctx.attempt == 2:
            await ctx.limits.reset("api")
        async with ctx.limit("api", HOURLY, max_wait="1ms"):
            return ctx.attempt

    engine = await open_engine(pipe)
    assert await engine.limits.check("api", HOURLY) == 0.0
    assert await engine.run(called) == 2
    assert attempts == [1, 2]


async def test_a_slot_that_does_not_come_free_fails_the_body(open_engine: OpenEngine):
    """RATE-04: with the library's own error, also read in another process."""
    pipe = Pipeline("limited")

    @pipe.asset
    async def called(ctx: Context) -> int:
        async with ctx.slots("gpu", 1, max_wait="10ms"):
            return 1

    engine, other = await open_engine(pipe), await open_engine(pipe)
    assert await engine.limits.acquire("gpu", 1) is not None
    run = await engine.submit(called)
    with pytest.raises(SlotTimeout):
        await soon(run.result())
    told = (await (await other.find(run.id)).report()).error
    assert isinstance(told, SlotTimeout)
    assert told.details["slots"] == 1


async def test_limits_of_a_context_end_with_its_body(open_engine: OpenEngine):
    """FLOW-03: as all of a context does."""
    pipe, kept = Pipeline("limited"), list[Context]()

    @pipe.asset
    async def called(ctx: Context) -> int:
        kept.append(ctx)
        return 1

    engine = await open_engine(pipe)
    await engine.run(called)
    with pytest.raises(ConfigError, match="after its body had ended"):
        kept[0].limit("api", HOURLY)


async def test_conditions_may_ask_too(open_engine: OpenEngine):
    pipe = Pipeline("limited")

    async def allowed(ctx: Context) -> bool:
        return not await ctx.limits.check("api", HOURLY)

    @pipe.asset(when=allowed)
    async def called() -> int:
        return 1

    engine = await open_engine(pipe)
    assert (await engine.report(called))[called].state == "ok"
    assert (await engine.report(called, force=True))[called].state == "skipped"


def _in_a_process(ctx: Context) -> str:
    try:
        _ = ctx.limits
    except ConfigError as error:
        return error.message
    return "no error"


async def test_a_body_in_another_process_has_none(open_engine: OpenEngine):
    """RATE-05, G-05: it says so."""
    pipe = Pipeline("limited")
    pipe.add(_in_a_process, name="called", run_in="process")
    engine = await open_engine(pipe)
    assert "on the event loop of their engine" in await engine.run("called")


async def test_streams_may_hold_a_slot_while_they_are_read(open_engine: OpenEngine):
    pipe = Pipeline("limited")

    @pipe.asset
    async def numbers(ctx: Context) -> AsyncIterator[int]:
        async with ctx.slots("gpu", 1):
            for number in range(3):
                yield number

    engine = await open_engine(pipe)
    assert [each async for each in await engine.run(numbers)] == [0, 1, 2]
    assert (await engine.limits.status("gpu")).count == 0


async def test_virtual_time_passes_for_those_who_wait(tmp_path: object):
    """TEST-03: a test that runs into a limit does not hang, nor does it take an hour."""
    pipe = Pipeline("limited")

    @pipe.asset
    async def called(ctx: Context) -> float:
        for _ in range(2):
            async with ctx.limit("api", HOURLY, max_wait="2h"):
                pass
        async with ctx.slots("gpu", 1):
            return (ctx.started_at).timestamp()

    begun = time.monotonic()
    async with pipe.test() as t:
        start = t.clock.now()
        await soon(t.run(called))
        assert (t.clock.now() - start).total_seconds() == pytest.approx(3600)
        assert [type(each) for each in t.events(RateEvent)] == [
            *(RateChecked, RateWaited, RateSlotAcquired, RateSlotReleased)
        ]
    assert time.monotonic() - begun < 20


# -- names ---------------------------------------------------------------------------------------------------------------

NAMED: dict[str, Rate | int] = {"openai": Rate(2, per="1h"), "gpu": 2}


async def test_declared_limits_need_no_second_argument(open_engine: OpenEngine):
    """RATE-09: nor do they mind one that says the same."""
    pipe = Pipeline("limited")

    @pipe.asset
    async def called(ctx: Context) -> list[bool]:
        async with ctx.limit("openai"), ctx.slots("gpu"), ctx.slots("gpu", 2):
            assert await ctx.limits.acquire("gpu") is None
        async with ctx.limit("openai", Rate(2, per="60m")):
            return [await ctx.limits.check("openai") > 0]

    engine = await open_engine(pipe, limits=NAMED)
    assert await engine.run(called) == [True]
    status = await engine.limits.status("openai")
    assert (status.kind, status.count, status.limit, status.rate) == ("rate", 2, 2, Rate(2, per="1h"))
    assert (await engine.limits.status("gpu")).limit == 2


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda limits: limits.check("openai", Rate(3, per="1h")), "'openai' is declared as Rate(n=2, per='1h'"),
        (lambda limits: limits.check("openai", Rate(2, per="2h")), "and the call says Rate(n=2, per='2h'"),
        (lambda limits: limits.acquire("gpu", 3), "'gpu' is declared as 2, and the call says 3"),
        (lambda limits: limits.acquire("openai", 3), "is a rate, 2 in 3600 s, and has no slots"),
        (lambda limits: limits.check("gpu", Rate(3)), "is a number of slots, 2, and no rate"),
        (lambda limits: limits.check("opneai"), "Declared here are: 'openai', 'gpu'"),
        (lambda limits: limits.acquire("opneai"), "no limit is called 'opneai', and no number of slots was given"),
    ],
    ids=range(7),
)
async def test_what_contradicts_a_declaration_is_refused(
    open_engine: OpenEngine, call: Callable[[Any], Awaitable[object]], message: str
):
    """RATE-09."""
    engine = await open_engine(Pipeline("limited"), limits=NAMED)
    with pytest.raises(ConfigError) as caught:
        await call(engine.limits)
    assert message in str(caught.value)
    assert caught.value.hint


async def test_what_is_set_holds_everywhere_and_after_the_engines_are_gone(engines: SharedEngines):
    """RATE-09: over what they declare, and what calls say; with None the declaration holds again."""
    pipe = Pipeline("limited")
    engine, other = await engines.open(pipe, limits=NAMED), await engines.open(pipe, limits=NAMED)
    await engine.limits.set("openai", Rate(3, per="1h"))
    await engine.limits.set("gpu", 1)
    limits = other.limits
    assert [await limits.check("openai") > 0 for _ in range(4)] == [False, False, False, True]
    assert await limits.check("openai", Rate(2, per="1h")) > 0
    assert [await limits.acquire("gpu") is None for _ in range(2)] == [False, True]
    status = await limits.status("openai")
    assert (status.limit, status.setting) == (3, Rate(3, per="1h"))
    await engine.__aexit__(None, None, None)
    third = await engines.open(pipe, limits=NAMED)
    assert (await third.limits.status("gpu")).limit == 1
    await third.limits.set("gpu", None)
    assert await limits.acquire("gpu") is not None


async def test_a_wider_limit_lets_those_go_on_who_wait(open_engine: OpenEngine):
    """RATE-09: at once, everywhere."""
    engine, other = await open_engine(Pipeline("limited"), limits=NAMED), await open_engine(Pipeline("limited"))
    for _ in range(2):
        await engine.limits.check("openai")
    slots = [await engine.limits.acquire("gpu") for _ in range(2)]
    waiting = [
        asyncio.create_task(engine.limits.with_limit("openai", None, lambda: "permit", max_wait="2h")),
        asyncio.create_task(engine.limits.with_slot("gpu", None, lambda: "slot")),
    ]
    await waiters(other.limits, "openai", 1)
    await waiters(other.limits, "gpu", 1)
    await other.limits.set("openai", Rate(5, per="1h"))
    await other.limits.set("gpu", 3)
    assert await soon(asyncio.gather(*waiting)) == ["permit", "slot"]
    assert all(slots)


@pytest.mark.parametrize(
    "limits", [5, ["openai"], {"openai": "60/1m"}, {"gpu": 0}, {"gpu": True}, {"": 1}, {1: 1}, {"a": Rate(1, key=str)}]
)
def test_limits_that_are_none_are_refused(limits: object):
    """RATE-09: before anything is opened."""
    with pytest.raises(ConfigError):
        Engine(Pipeline("limited"), store="memory", limits=untyped(limits))


# -- events -----------------------------------------------------------------------------------------------------------------


async def test_events_of_limits_are_told_to_hooks(open_engine: OpenEngine):
    """RATE-10, EVT-04: with run, asset and key; and stored nowhere."""
    pipe, heard = Pipeline("limited"), list[Any]()
    pipe.on(RateEvent)(heard.append)

    @pipe.asset
    async def called(ctx: Context) -> float:
        await ctx.limits.check("api", HOURLY)
        wait = await ctx.limits.check("api", HOURLY)
        async with ctx.limit("often", Rate(1, per="20ms")), ctx.limit("often", Rate(1, per="20ms")):
            pass
        with contextlib.suppress(RateLimited):
            await ctx.limits.with_limit("api", HOURLY, lambda: None)
        async with ctx.slots("gpu", 1):
            pass
        return wait

    engine = await open_engine(pipe)
    run = await engine.submit(called)
    wait = await soon(run.result())
    told = [each.type for each in heard]
    assert told == [
        *("rate.checked", "rate.checked", "rate.checked", "rate.waited", "rate.checked"),
        *("rate.slot_acquired", "rate.slot_released"),
    ]
    assert [(each.granted, each.wait > 0) for each in heard if isinstance(each, RateChecked)] == [
        *((True, False), (False, True), (True, False), (False, True)),
    ]
    assert heard[1].wait == wait
    assert heard[3].granted
    assert heard[3].seconds > 0.015
    assert {(each.pipeline, each.run_id, each.asset, each.no) for each in heard} == {("limited", run.id, "called", 0)}
    assert [each.key for each in heard] == ["api", "api", "often", "often", "api", "gpu", "gpu"]
    assert heard[-1].seconds >= 0
    assert not [each async for each in run.events() if each.type.startswith("rate.")]


async def test_hooks_hear_of_limits_outside_of_bodies_too(open_engine: OpenEngine):
    """RATE-10."""
    engine, heard = await open_engine(Pipeline("limited")), list[Event]()
    engine.on(RateEvent)(heard.append)
    await engine.limits.check("api", HOURLY)
    await engine._live().observer.heard()
    assert [(each.type, each.run_id) for each in heard] == [("rate.checked", "")]


def test_the_types_of_events_are_known():
    """EVT-04: observations, all four of them."""
    names = {"rate.checked", "rate.waited", "rate.slot_acquired", "rate.slot_released"}
    assert names == {name for name, kind in EVENT_TYPES.items() if issubclass(kind, RateEvent)}
    assert {each.type for each in OBSERVATIONS if issubclass(each, RateEvent)} == names


# -- engines that end, and leases that are lost ------------------------------------------------------------------------------------


async def test_an_engine_that_is_left_frees_what_it_held_and_lets_nobody_wait(engines: SharedEngines):
    """RATE-07, G-04."""
    leaving, other = Engine(Pipeline("limited"), **engines._store({})), await engines.open(Pipeline("limited"))
    async with leaving:
        assert await leaving.limits.acquire("gpu", 1) is not None
        waiting = [
            asyncio.create_task(leaving.limits.with_slot("gpu", 1, lambda: 1)),
            asyncio.create_task(leaving.limits.with_limit("api", Rate(1, per="40s"), lambda: 1)),
            asyncio.create_task(leaving.limits.with_limit("api", Rate(1, per="40s"), lambda: 1)),
        ]
        await waiters(other.limits, "gpu", 1)
        await waiters(other.limits, "api", 1)
        limits = leaving.limits
    assert await other.limits.acquire("gpu", 1) is not None
    done = await soon(asyncio.gather(*waiting, return_exceptions=True))
    assert [type(each) for each in done] == [ConfigError, int, ConfigError]
    with pytest.raises(ConfigError, match="engine has been left"):
        await limits.check("api", HOURLY)
    with pytest.raises(ConfigError):
        _ = leaving.limits


async def test_slots_of_an_engine_that_lost_its_lease_are_free_and_what_ran_in_them_is_cancelled(
    engines: SharedEngines,
):
    """RATE-07: no more than n ever run: the body goes with its run, what the application runs is cancelled."""
    held, cut = Held(2), Gate()
    dying, other = await engines.open(held.pipe), await engines.open(held.pipe, slots=0)
    run = asyncio.create_task(dying.run(held.held))
    await held.gate.reached()
    mine = asyncio.create_task(dying.limits.with_slot("gpu", 2, cut))
    await cut.reached()
    assert await other.limits.acquire("gpu", 2) is None

    await kill(dying)

    with pytest.raises(LeaseLost, match="slot of 'gpu' was lost"):
        await soon(mine)
    with pytest.raises((LeaseLost, StoreUnavailable)):
        await soon(run)
    assert (cut.left, held.gate.left) == (1, 1)
    slots = [await other.limits.acquire("gpu", 2) for _ in range(2)]
    assert all(slots)


async def test_an_engine_that_came_back_may_hold_slots_again(engines: SharedEngines):
    """RATE-07: under its new lease."""
    engine = await engines.open(Pipeline("limited"), poll="50ms")
    await expire(engine)
    limits = engine.limits

    async def back() -> bool:
        try:
            return await limits.acquire("gpu", 1) is not None
        except StoreUnavailable:
            return False

    await until(back)
    assert await limits.acquire("gpu", 1) is None


async def test_waiters_of_an_engine_are_served_in_order_of_asking(open_engine: OpenEngine):
    """RATE-03: on both stores, also where one call serves many of them; nobody is served twice, or not at all."""
    engine, served = await open_engine(Pipeline("limited")), list[int]()

    async def call(number: int) -> None:
        await engine.limits.with_limit("api", Rate(20, per="100ms"), lambda: served.append(number))

    async with asyncio.TaskGroup() as group:
        for number in range(70):
            group.create_task(call(number))
            await asyncio.sleep(0)
    assert served == list(range(70))


async def test_waiting_at_a_limit_holds_up_nothing_else(open_engine: OpenEngine):
    """RATE-05: other assets of the run go on, other keys are free."""
    pipe = Pipeline("limited")

    @pipe.asset
    async def waits(ctx: Context) -> int:
        async with ctx.limit("api", HOURLY, max_wait="2h"):
            return 1

    @pipe.asset
    async def goes(ctx: Context) -> int:
        async with ctx.limit("another", HOURLY):
            return 2

    engine = await open_engine(pipe)
    await engine.limits.check("api", HOURLY)
    run = await engine.submit(waits, goes)
    await until(lambda: engine.exists(goes))
    await run.cancel()


async def test_a_body_may_fail_in_its_slot(open_engine: OpenEngine):
    """RATE-04."""
    pipe = Pipeline("limited")

    @pipe.asset
    async def called(ctx: Context) -> int:
        async with ctx.slots("gpu", 1):
            raise ValueError("no")

    engine = await open_engine(pipe)
    for _ in range(2):
        with pytest.raises(ExecutionError):
            await engine.run(called)
    assert await engine.limits.acquire("gpu", 1) is not None
