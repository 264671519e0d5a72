"""Durable steps (STEP): called once, and from then on returned from the record. Memory and Postgres."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

import pytest

from flowstone_async import (
    Cancelled,
    ConfigError,
    Context,
    Engine,
    ExecutionError,
    LeaseLost,
    Pipeline,
    ReplayMismatch,
    Retry,
    StepLimit,
    StorageError,
    TimedOut,
)
from flowstone_async._engine.replay import recording as durable_body
from tests.support.crash import kill, look_for_orphans
from tests.support.engines import OpenEngine
from tests.support.gate import Gate, soon
from tests.support.waits import mismatch_of

OFTEN: Any = {"poll": "10ms"}
RARELY: Any = {"poll": "60s", "slots": 0}
TWICE: Any = {"retry": Retry(attempts=2, backoff="none")}


@dataclass
class Receipt:
    number: int
    lines: tuple[str, ...] = ()


class Shop:
    """Functions that count their calls, by name and first argument."""

    def __init__(self) -> None:
        self.calls: Counter[Any] = Counter()
        self.gate = Gate()

    async def one(self) -> int:
        self.calls["one"] += 1
        return 1

    async def add(self, first: int, second: int = 0) -> int:
        self.calls["add", first] += 1
        return first + second

    async def charge(self, number: int) -> Receipt:
        self.calls["charge", number] += 1
        return Receipt(number, ("a", "b"))

    async def held(self, what: Any = None) -> Any:
        self.calls["held", what] += 1
        await self.gate()
        return what

    async def fails(self, text: str = "no") -> int:
        self.calls["fails"] += 1
        raise ValueError(text)


async def _taken_over(open_engine: OpenEngine, pipe: Pipeline, target: Any, shop: Shop, reached: int = 1) -> Any:
    """Run until a body waits at the gate, let its engine die, open the gate, and return what the next engine gets."""
    dying, living = await open_engine(pipe, **OFTEN), await open_engine(pipe, **RARELY)
    running = asyncio.create_task(dying.run(target))
    await shop.gate.reached(reached)
    await kill(dying)
    with pytest.raises(LeaseLost):
        await soon(running)
    shop.gate.open()
    await look_for_orphans(living)
    return await soon(living.wait(target))


async def test_a_retry_calls_no_step_again(open_engine: OpenEngine):
    """STEP-01: and gets a value of the declared type, as the first attempt did."""
    pipe, shop, seen = Pipeline("steps"), Shop(), list[Any]()

    @pipe.asset(**TWICE)
    async def bill(ctx: Context) -> int:
        receipt = await ctx.step(shop.charge, 7)
        total = await ctx.step(shop.add, receipt.number, second=1)
        seen.append((receipt, total))
        if len(seen) == 1:
            raise ValueError("again")
        return total

    assert await (await open_engine(pipe)).run(bill) == 8
    assert seen == [(Receipt(7, ("a", "b")), 8)] * 2
    assert shop.calls == {("charge", 7): 1, ("add", 7): 1}


async def test_who_goes_on_after_a_crash_calls_no_step_again(open_engine: OpenEngine):
    """STEP-01, STEP-04: what had no result is called again; the attempt is the same."""
    pipe, shop, attempts = Pipeline("steps"), Shop(), list[tuple[int, bool]]()

    @pipe.asset
    async def bill(ctx: Context) -> list[Any]:
        attempts.append((ctx.attempt, ctx.replaying))
        receipt = await ctx.step(shop.charge, 7)
        held = await ctx.step(shop.held, "x")
        return [receipt.number, held, ctx.replaying]

    assert await _taken_over(open_engine, pipe, bill, shop) == [7, "x", False]
    assert shop.calls == {("charge", 7): 1, ("held", "x"): 2}
    assert attempts == [(1, False), (1, True)]


async def test_the_same_function_several_times(open_engine: OpenEngine):
    """STEP-02: counted, or told apart by key."""
    pipe, shop, runs = Pipeline("steps"), Shop(), list[Any]()

    @pipe.asset(**TWICE)
    async def sums(ctx: Context) -> list[int]:
        counted = [await ctx.step(shop.add, no) for no in range(3)]
        order = [5, 6, 7] if not runs else [7, 5, 6]
        keyed = {no: await ctx.step.using(key=no)(shop.add, no) for no in order}
        named = await ctx.step.using(name="renamed")(shop.one)
        runs.append(counted)
        if len(runs) == 1:
            raise ValueError("again")
        return [*counted, *(keyed[no] for no in (5, 6, 7)), named]

    assert await (await open_engine(pipe)).run(sums) == [0, 1, 2, 5, 6, 7, 1]
    assert set(shop.calls.values()) == {1}


async def test_a_key_is_used_once(open_engine: OpenEngine):
    pipe, shop = Pipeline("steps"), Shop()

    @pipe.asset
    async def sums(ctx: Context) -> int:
        await ctx.step.using(key="a")(shop.add, 1)
        return await ctx.step.using(key="a")(shop.add, 2)

    with pytest.raises(ConfigError, match="two steps 'add' have the key 'a'"):
        await (await open_engine(pipe)).run(sums)


@pytest.mark.parametrize("swapped", [False, True])
async def test_steps_beside_each_other_keep_their_results(open_engine: OpenEngine, swapped: bool):
    """STEP-02: whatever order they end in; a call takes its place when it is made."""
    pipe, gates, runs = Pipeline("steps"), {"a": Gate(), "b": Gate()}, list[int]()
    calls = Counter[str]()

    async def slow(name: str) -> str:
        calls[name] += 1
        await gates[name]()
        return name

    @pipe.asset(**TWICE)
    async def both(ctx: Context) -> list[str]:
        found = await asyncio.gather(ctx.step(slow, "a"), ctx.step(slow, "b"))
        runs.append(1)
        if len(runs) == 1:
            raise ValueError("again")
        return list(found)

    engine = await open_engine(pipe)
    running = asyncio.create_task(engine.run(both))
    for name in ("b", "a") if swapped else ("a", "b"):
        await gates[name].reached()
        gates[name].open()
    assert await soon(running) == ["a", "b"]
    assert calls == {"a": 1, "b": 1}


async def test_a_failure_is_that_of_its_attempt(open_engine: OpenEngine):
    """STEP-03: raised again when the attempt goes on after a crash; called again in the next one."""
    pipe, shop, caught = Pipeline("steps"), Shop(), list[str]()

    @pipe.asset(**TWICE)
    async def tries(ctx: Context) -> int:
        one = await ctx.step(shop.one)
        try:
            await ctx.step(shop.fails)
        except ExecutionError as error:
            caught.append(error.message)
        await ctx.step(shop.held)
        if ctx.attempt == 1:
            raise ValueError("again")
        return one

    assert await _taken_over(open_engine, pipe, tries, shop) == 1
    told = "step 'fails#0' of asset 'tries' failed: ValueError: no"
    assert caught == [told] * 3
    # once in each attempt, though the first attempt was made by two engines
    assert shop.calls == {"one": 1, "fails": 2, ("held", None): 2}


async def test_a_step_has_a_retry_and_a_timeout_of_its_own(open_engine: OpenEngine):
    """STEP-03."""
    pipe, shop = Pipeline("steps"), Shop()

    @pipe.asset
    async def tries(ctx: Context) -> list[str]:
        errors: list[str] = []
        for options in ({"retry": Retry(attempts=3, backoff="none")}, {"timeout": "10ms"}):
            try:
                await ctx.step.using(**options)(shop.fails if "retry" in options else shop.held)  # type: ignore[call-overload]
            except (ExecutionError, TimedOut) as error:
                errors.append(f"{type(error).__name__}: {error.message}")
        return errors

    assert await (await open_engine(pipe)).run(tries) == [
        "ExecutionError: step 'fails#0' of asset 'tries' failed: ValueError: no",
        "TimedOut: step 'held#0' took longer than its timeout of 0.01 s",
    ]
    assert shop.calls == {"fails": 3, ("held", None): 1}


async def test_other_code_in_the_place_of_a_step_is_refused(open_engine: OpenEngine):
    """STEP-10: another function, and other arguments; new steps behind those on record are none of it."""
    shops = Shop()

    def version(steps: Any) -> Pipeline:
        pipe = Pipeline("steps")

        @pipe.asset
        async def bill(ctx: Context) -> int:
            return await steps(ctx)

        return pipe

    async def written(ctx: Context) -> int:
        await ctx.step(shops.add, 1)
        return await ctx.step(shops.held, 2)

    async def renamed(ctx: Context) -> int:
        await ctx.step(shops.one)
        return 0

    async def otherwise(ctx: Context) -> int:
        await ctx.step(shops.add, 2)
        return 0

    async def longer(ctx: Context) -> int:
        return await ctx.step(shops.add, 1) + await ctx.step(shops.held, 2) + await ctx.step(shops.add, 10)

    for other, told in (
        (
            renamed,
            r"ctx.step\(.*add\) is on record as 'add#0', and the code makes another call there: ctx.step\(.*one\)",
        ),
        (otherwise, "other arguments"),
        (longer, None),
    ):
        shops.gate.close()
        before = shops.gate.calls
        dying, living = await open_engine(version(written), **OFTEN), await open_engine(version(other), **RARELY)
        running = asyncio.create_task(dying.run("bill", force=True))
        await shops.gate.reached(before + 1)
        await kill(dying)
        with pytest.raises(LeaseLost):
            await soon(running)
        shops.gate.open()
        await look_for_orphans(living)
        if told is None:
            assert await soon(living.wait("bill")) == 13
        else:
            found = await mismatch_of(living, "bill")
            assert isinstance(found, ReplayMismatch)
            assert re.search(told, found.message)
            await living.cancel("bill")


async def test_times_and_numbers_stay_the_same(open_engine: OpenEngine):
    """STEP-12."""
    pipe, shop, told = Pipeline("steps"), Shop(), list[Any]()

    @pipe.asset
    async def draws(ctx: Context) -> bool:
        first = [ctx.now(), ctx.uuid(), ctx.random(), ctx.uuid(), ctx.random()]
        await ctx.step(shop.one)
        told.append([*first, ctx.now()])
        await ctx.step(shop.held)
        return len(set(map(str, told[-1][1:5]))) == 4

    assert await _taken_over(open_engine, pipe, draws, shop)
    assert told[0][:5] == told[1][:5]
    assert told[0][0].tzinfo is not None
    assert 0 <= told[0][2] < 1


async def test_what_is_refused(open_engine: OpenEngine):
    """STEP-01, STEP-13."""
    pipe, shop = Pipeline("steps"), Shop()

    def plain(first: int) -> int:
        return first + 1

    async def handle() -> object:
        return object()

    @pipe.asset
    async def tries(ctx: Context) -> dict[str, str]:
        told: dict[str, str] = {}
        for name, call in {
            "plain": lambda: ctx.step(plain, 1),  # type: ignore[arg-type]
            "thread of async": lambda: ctx.step.using(run_in="thread")(shop.one),
            "name": lambda: ctx.step.using(name="")(shop.one),
            "retry": lambda: ctx.step.using(retry=3)(shop.one),  # type: ignore[call-overload]
            "timeout": lambda: ctx.step.using(timeout="soon")(shop.one),
            "key": lambda: ctx.step.using(key=1.5)(shop.one),  # type: ignore[call-overload]
            "place": lambda: ctx.step.using(run_in="process")(plain, 1),  # type: ignore[call-overload]
            "result": lambda: ctx.step(handle),
        }.items():
            try:
                await call()
            except (ConfigError, StorageError) as error:
                told[name] = f"{type(error).__name__}: {error.message}"
        told["thread"] = str(await ctx.step.using(run_in="thread")(plain, 1))
        return told

    told = await (await open_engine(pipe)).run(tries)
    assert {name: text.partition(":")[0] for name, text in told.items()} == {
        **dict.fromkeys(("plain", "thread of async", "name", "retry", "timeout", "key", "place"), "ConfigError"),
        "result": "StorageError",
        "thread": "2",
    }
    assert "'plain' is a plain function" in told["plain"]
    assert "the result of step 'handle#0' cannot be stored" in told["result"]


@pytest.mark.not_in("evict", reason="what evicts puts a wait on record first")
async def test_a_body_makes_so_many_calls_and_no_more(open_engine: OpenEngine, monkeypatch: Any, caplog: Any):
    """STEP-13."""
    monkeypatch.setattr(durable_body, "_MOST", 5)
    monkeypatch.setattr(durable_body, "_MANY", 3)
    pipe, shop = Pipeline("steps"), Shop()

    @pipe.asset
    async def many(ctx: Context) -> int:
        return sum([await ctx.step(shop.add, no) for no in range(6)])

    with pytest.raises(StepLimit, match="more than 5 durable calls"):
        await (await open_engine(pipe)).run(many)
    assert len(shop.calls) == 5
    assert [each.getMessage() for each in caplog.records if "a scatter would be" in each.getMessage()] == [
        "asset 'many' makes more than 3 durable calls in one body: a scatter would be faster to go on with"
    ]


async def test_a_group_runs_steps_beside_each_other(open_engine: OpenEngine):
    """PAR-09: the results of those that ended are not computed again."""
    pipe, shop, runs = Pipeline("steps"), Shop(), list[int]()

    async def inner(ctx: Context, no: int) -> int:
        return await ctx.step(shop.add, no) + await ctx.step(shop.one)

    @pipe.asset(**TWICE)
    async def sums(ctx: Context) -> list[int]:
        async with ctx.group() as group:
            nested = [group.start(inner, ctx, no) for no in (10, 20)]
            plain = group.start(shop.add, 3)
            awaited = await plain
        async with ctx.group() as second:
            last = second.start(shop.add, 4)
        runs.append(1)
        if len(runs) == 1:
            raise ValueError("again")
        return [*(each.result() for each in nested), awaited, last.result()]

    assert await (await open_engine(pipe)).run(sums) == [11, 21, 3, 4]
    assert shop.calls == {("add", 10): 1, ("add", 20): 1, "one": 2, ("add", 3): 1, ("add", 4): 1}


async def test_the_first_failure_of_a_group_cancels_the_rest(open_engine: OpenEngine):
    """PAR-09."""
    pipe, shop = Pipeline("steps"), Shop()

    @pipe.asset
    async def sums(ctx: Context) -> str:
        try:
            async with ctx.group() as group:
                held = group.start(shop.held)
                group.start(shop.fails)
        except ExecutionError as error:
            try:
                held.result()
            except asyncio.CancelledError:
                return error.message
        return "?"

    assert await (await open_engine(pipe)).run(sums) == "step 'group#0/fails#0' of asset 'sums' failed: ValueError: no"
    assert shop.gate.left == 1


async def test_what_a_group_s_own_block_raises_goes_on_as_it_is(open_engine: OpenEngine):
    """PAR-09: and cancels its steps, also those that have not begun."""
    pipe, shop = Pipeline("steps"), Shop()

    @pipe.asset
    async def sums(ctx: Context) -> str:
        try:
            async with ctx.group() as group:
                held = group.start(shop.held)
                raise ValueError("at once")
        except ValueError as error:
            try:
                return str(await held)
            except asyncio.CancelledError:
                return str(error)

    assert await (await open_engine(pipe)).run(sums) == "at once"


async def test_a_change_inside_a_step_is_no_failure_of_it(open_engine: OpenEngine):
    """STEP-10: the step may go on once the code is back."""
    shop = Shop()

    def version(inner: Any) -> Pipeline:
        pipe = Pipeline("steps")

        @pipe.asset
        async def bill(ctx: Context) -> int:
            async def outer() -> int:
                return await inner(ctx)

            return await ctx.step(outer)

        return pipe

    async def written(ctx: Context) -> int:
        return await ctx.step(shop.add, 1) + await ctx.step(shop.held, 2)

    async def changed(ctx: Context) -> int:
        return await ctx.step(shop.one)

    dying, living = await open_engine(version(written), **OFTEN), await open_engine(version(changed), **RARELY)
    running = asyncio.create_task(dying.run("bill"))
    await shop.gate.reached()
    await kill(dying)
    with pytest.raises(LeaseLost):
        await soon(running)
    store: Any = living._live().services.store
    kept, recorded = list[Any](), store.steps.record

    async def watched(*args: Any) -> bool:
        kept.extend(args[3])
        return await recorded(*args)

    store.steps.record = watched
    await look_for_orphans(living)
    assert isinstance(await mismatch_of(living, "bill"), ReplayMismatch)
    assert [each.kind for each in kept] == ["mismatch"]


async def test_a_step_has_a_key_of_its_own_for_services(open_engine: OpenEngine):
    """STEP-14: the same on every call of the step."""
    pipe, keys = Pipeline("steps"), list[str]()

    @pipe.asset
    async def charges(ctx: Context) -> bool:
        async def charge() -> int:
            keys.append(ctx.idempotency_key)
            if len(keys) == 1:
                raise ValueError("again")
            return 1

        twice = ctx.step.using(retry=Retry(attempts=2, backoff="none"))
        await twice(charge)
        await twice(charge)
        keys.append(ctx.idempotency_key)
        return True

    await (await open_engine(pipe)).run(charges)
    assert keys[0] == keys[1]
    assert len(set(keys)) == 3


@pytest.mark.not_in("evict", reason="what evicts puts a wait on record first")
async def test_who_lost_the_run_puts_nothing_on_record(open_engine: OpenEngine):
    """STEP-14: and its body is cancelled."""
    pipe, shop, ended = Pipeline("steps"), Shop(), list[str]()

    @pipe.asset
    async def bill(ctx: Context) -> Any:
        try:
            return await ctx.step(shop.add, 5)
        except BaseException as error:
            ended.append(type(error).__name__)
            raise

    first, second = await open_engine(pipe, **RARELY), await open_engine(pipe, **RARELY)
    store: Any = first._live().services.store
    recorded, asked = store.steps.record, list[Any]()

    async def too_late(run_id: str, *args: Any) -> bool:
        asked.append((run_id, args[1]))
        await (await second.find(run_id)).cancel()
        return await recorded(run_id, *args)

    store.steps.record = too_late
    with pytest.raises(Cancelled):
        await soon(first.run(bill))
    assert len(ended) == len(asked) == 1
    assert await store.steps.recorded(*asked[0]) == ()


async def test_items_of_a_scatter_have_steps_of_their_own(open_engine: OpenEngine):
    """STEP-02: and after a crash none of them is called again."""
    pipe, shop = Pipeline("steps"), Shop()

    @pipe.scatter(range(6), page_size=3, max_concurrent=6)
    async def items(no: int, ctx: Context) -> int:
        found = await ctx.step(shop.add, no)
        await ctx.step(shop.held, no)
        return found * found

    found = await _taken_over(open_engine, pipe, items, shop, reached=6)
    assert sorted([value async for value in found]) == [no * no for no in range(6)]
    assert {shop.calls["add", no] for no in range(6)} == {1}


@pytest.mark.not_in("evict", reason="what evicts puts a wait on record first")
async def test_a_body_without_steps_asks_the_store_nothing(open_engine: OpenEngine):
    pipe, asked = Pipeline("steps"), list[str]()

    @pipe.asset
    async def bare(ctx: Context) -> str:
        return ctx.asset

    @pipe.scatter(range(10))
    async def items(no: int, ctx: Context) -> int:
        return no

    engine: Engine = await open_engine(pipe)
    store: Any = engine._live().services.store

    class Deaf:
        def __getattr__(self, name: str) -> Any:
            asked.append(name)
            return getattr(steps, name)

    steps, store.steps = store.steps, Deaf()
    assert await engine.run(bare, items)
    assert asked == []
