"""The calls of `ctx.map` are steps (SCAT-27, STEP-01, STEP-02, STEP-09, STEP-10): on record, and never made twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextvars import ContextVar
from typing import Any

import pytest

from flowstone_async import (
    Context,
    ExecutionError,
    LeaseLost,
    Pipeline,
    Retry,
)
from flowstone_async._engine.replay import script as scripts
from tests.support.crash import kill, look_for_orphans
from tests.support.engines import OpenEngine
from tests.support.gate import Gate, soon
from tests.support.mapping import OFTEN, RARELY, Page, Site, fanned, taken_over

TWICE: Any = {"retry": Retry(attempts=2, backoff="none")}


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let results on record wait for ever: a test that leans on their being passed over after a while fails."""
    monkeypatch.setattr(scripts, "_PATIENCE", 1000.0)


async def test_a_retry_makes_only_the_calls_that_failed(open_engine: OpenEngine):
    """STEP-03: and gets values of the declared type."""
    site, seen = Site(), list[Any]()

    async def fetch(number: int) -> Page:
        found = await site.fetch(number)
        if number == 3 and site.calls[number] == 1:
            raise ConnectionError("gone")
        return found

    async def body(ctx: Context) -> list[int]:
        async for page in ctx.map(fetch, range(6), max_concurrent=1):
            seen.append(page)
        return [page.number for page in seen]

    assert await (await open_engine(fanned(body, **TWICE))).run("fanned") == [0, 1, 2, *range(6)]
    assert site.made == {0: 1, 1: 1, 2: 1, 3: 2, 4: 1, 5: 1}
    assert set(map(type, seen)) == {Page}


async def test_who_goes_on_after_a_crash_makes_only_the_calls_that_had_no_result(open_engine: OpenEngine):
    """SCAT-27: in the same attempt; what is on record comes first, in the order in which it came."""
    site, attempts = Site(), list[tuple[int, bool]]()
    gates = [asyncio.Event() for _ in range(4)]

    async def fetch(number: int) -> int:
        site.calls[number] += 1
        if number == 1:
            await site.gate()
        elif site.calls[number] == 1:
            await gates[number].wait()
        return number

    async def body(ctx: Context) -> list[int]:
        attempts.append((ctx.attempt, ctx.replaying))
        gates[3].set()
        found = list[int]()
        async for number in ctx.map(fetch, range(4)):
            found.append(number)
            gates[{3: 0, 0: 2}.get(number, 1)].set()
            if len(found) == 3 and len(attempts) == 1:
                await site.end()
        return found

    dying, living = await open_engine(fanned(body), **OFTEN), await open_engine(fanned(body), **RARELY)
    running = asyncio.create_task(dying.run("fanned"))
    await site.end.reached()
    await kill(dying)
    with pytest.raises(LeaseLost):
        await soon(running)
    site.gate.open()
    await look_for_orphans(living)
    assert await soon(living.wait("fanned")) == [3, 0, 2, 1]
    assert site.made == {0: 1, 1: 2, 2: 1, 3: 1}
    assert attempts == [(1, False), (1, True)]


@pytest.mark.parametrize("keyed", [False, True])
@pytest.mark.parametrize("fails", [False, True])
async def test_a_body_that_took_the_first_result_takes_the_same_one_again(
    open_engine: OpenEngine, keyed: bool, fails: bool
):
    """STEP-09: whatever would be the first now, a failure too, also of what was cancelled the first time."""
    site, taken, late = Site(), list[str](), Gate()

    async def fetch(name: str) -> str:
        site.calls[name] += 1
        if name == "a":
            await late()
            if fails:
                raise ValueError("late")
        elif name == "b" and site.calls[name] == 1:
            await asyncio.Event().wait()
        return name

    async def body(ctx: Context) -> str:
        found = ""
        async for name in ctx.map(fetch, "abcd", key=str if keyed else None):
            found = name
            taken.append(name)
            break
        await ctx.step(site.ended)
        return found

    pipe = fanned(body)
    dying, living = await open_engine(pipe, **OFTEN), await open_engine(pipe, **RARELY)
    running = asyncio.create_task(dying.run("fanned"))
    await site.end.reached()
    await kill(dying)
    with pytest.raises(LeaseLost):
        await soon(running)
    late.open()
    site.end.open()
    await look_for_orphans(living)
    assert await soon(living.wait("fanned")) == "c"
    assert taken == ["c", "c"]
    assert site.calls["c"] == 1


@pytest.mark.parametrize("most", [2, 20])
async def test_keys_tell_calls_apart_in_any_order(open_engine: OpenEngine, most: int):
    """SCAT-27: the order of the results is as it was."""
    site, runs, seen = Site(), list[int](), list[list[int]]()

    async def body(ctx: Context) -> int:
        order = [5, 3, 9, 0, 7, 1, 8, 2] if not runs else [2, 8, 1, 7, 0, 9, 3, 5]
        runs.append(1)
        seen.append([])
        async for page in ctx.map(site.fetch, order, max_concurrent=most, key=lambda number: number):
            seen[-1].append(page.number)
        await ctx.step(site.ended)
        return len(seen[-1])

    assert await taken_over(open_engine, fanned(body), site.end) == 8
    assert seen[0] == seen[1] == [5, 3, 9, 0, 7, 1, 8, 2]
    assert set(site.calls.values()) == {1}


async def test_fewer_calls_at_once_than_before(open_engine: OpenEngine):
    """STEP-09: a result on record comes first, though its call is not among the next ones."""
    site, runs, seen = Site(), list[int](), list[list[int]]()
    variable = ContextVar("variable", default="of the body")

    async def fetch(number: int) -> int:
        assert variable.get() == "of the body", "whoever made room for it"
        variable.set("of a call")
        site.calls[number] += 1
        if number < 5 and len(runs) == 1:
            await asyncio.Event().wait()
        return number

    async def body(ctx: Context) -> list[int]:
        runs.append(1)
        seen.append([])
        async for number in ctx.map(fetch, range(7), max_concurrent=20 if len(runs) == 1 else 2):
            seen[-1].append(number)
            if len(runs) == 1 and len(seen[-1]) == 2:
                await site.end()
        return seen[-1]

    assert await taken_over(open_engine, fanned(body), site.end) == [5, 6, 0, 1, 2, 3, 4]
    assert seen[0] == [5, 6]
    assert site.made == {**dict.fromkeys(range(5), 2), 5: 1, 6: 1}


async def test_fewer_calls_at_once_than_before_that_have_steps_of_their_own(open_engine: OpenEngine):
    """STEP-09: a call that is further on goes ahead of others if what is on record inside of it is waited for."""
    site, runs = Site(), list[int]()

    async def body(ctx: Context) -> list[int]:
        runs.append(1)

        async def fetch(number: int) -> int:
            if number == 5:
                await ctx.step(site.fetch, number)
                await site.end()
            elif len(runs) == 1:
                await asyncio.Event().wait()
            return number

        return [number async for number in ctx.map(fetch, range(7), max_concurrent=20 if len(runs) == 1 else 1)]

    assert sorted(await taken_over(open_engine, fanned(body), site.end)) == list(range(7))
    assert site.made == {5: 1}


async def test_what_is_on_record_and_not_among_the_items_holds_up_nobody(open_engine: OpenEngine):
    """SCAT-27: nor is an endless source read to its end for it."""
    site, runs, pulled = Site(), list[int](), list[int]()

    def source() -> Iterator[int]:
        runs.append(1)
        for number in iter(int, 1) if len(runs) == 1 else iter(lambda: len(pulled), -1):
            pulled.append(number)
            yield len(pulled) + 1000 * len(runs)

    async def body(ctx: Context) -> int:
        found = list[int]()
        async for page in ctx.map(site.fetch, source(), max_concurrent=2, key=lambda number: number):
            found.append(page.number)
            if len(found) == 3:
                break
        await ctx.step(site.ended)
        return len([number for number in found if number > 2000])

    assert await taken_over(open_engine, fanned(body), site.end) == 3
    assert len(pulled) < 200
    assert set(site.calls.values()) == {1}


async def test_a_shorter_list_holds_up_nobody(open_engine: OpenEngine):
    site, runs = Site(), list[int]()

    async def body(ctx: Context) -> list[int]:
        runs.append(1)
        pages = [
            page.number async for page in ctx.map(site.fetch, range(4 if len(runs) == 1 else 2), key=lambda no: no)
        ]
        if len(runs) > 1:
            pages += [page.number async for page in ctx.map(site.fetch, [7])]
        else:
            await site.end()
        return pages

    assert await taken_over(open_engine, fanned(body), site.end) == [0, 1, 7]
    assert site.made == {0: 1, 1: 1, 2: 1, 3: 1, 7: 1}


@pytest.mark.not_in("evict", reason="what evicts puts a wait on record first")
async def test_what_a_call_calls_itself_is_below_it(open_engine: OpenEngine):
    """STEP-02, STEP-14: steps, and calls of another `ctx.map`; none is made again, nor waited for once its call ended."""
    site, keys = Site(), set[str]()

    async def body(ctx: Context) -> list[int]:
        async def cell(number: int) -> int:
            keys.add(ctx.idempotency_key)
            return (await ctx.step(site.fetch, number)).number

        async def row(number: int) -> list[int]:
            first = await ctx.step(site.fetch, number)
            if number == 30:
                await ctx.step(site.ended)
            return [first.number, *sorted([each async for each in ctx.map(cell, [number + 1, number + 2])])]

        return sorted([each async for found in ctx.map(row, [10, 20, 30]) for each in found])

    pipe = fanned(body)
    dying, living = await open_engine(pipe, **OFTEN), await open_engine(pipe, **RARELY)
    running = asyncio.create_task(dying.run("fanned"))
    await site.end.reached()
    store: Any = living._live().services.store
    record = store.steps.record
    while site.calls.total() < 7:
        await asyncio.sleep(0)
    await kill(dying)
    with pytest.raises(LeaseLost):
        await soon(running)
    kept, bodies = list[str](), set[tuple[str, str]]()

    async def watched(run_id: str, fence: int, of: str, steps: Any) -> bool:
        bodies.add((run_id, of))
        return await record(run_id, fence, of, steps)

    store.steps.record = watched
    site.end.open()
    await look_for_orphans(living)
    assert await soon(living.wait("fanned")) == [10, 11, 12, 20, 21, 22, 30, 31, 32]
    assert max(site.calls.values()) <= 2
    assert site.calls[10] == site.calls[20] == site.calls[30] == 1
    ((run_id, of),) = bodies
    kept = [each.key for each in await store.steps.recorded(run_id, of)]
    assert sorted(kept) == sorted(
        [
            *(f"map#0/row#{row}{each}" for row in range(3) for each in ("", "/fetch#0")),
            *(
                f"map#0/row#{row}/map#0/cell#{cell}{each}"
                for row in range(3)
                for cell in (0, 1)
                for each in ("", "/fetch#0")
            ),
            "map#0/row#2/ended#0",
        ]
    )
    assert len(keys) == 6


async def test_what_gives_the_items_may_make_steps_beside_the_loop(open_engine: OpenEngine):
    """STEP-02: it has a scope of its own, whichever of the two is quicker."""
    site, runs = Site(), list[int]()

    async def body(ctx: Context) -> list[int]:
        runs.append(1)
        begun, listed, ended = (asyncio.Event() for _ in range(3))

        async def items() -> AsyncIterator[int]:
            yield (await ctx.step(site.fetch, 10)).number
            await (begun if len(runs) == 1 else ended).wait()
            page = await ctx.step(site.fetch, 20)
            listed.set()
            yield page.number

        found = list[int]()
        async for page in ctx.map(site.fetch, items()):
            if not found:
                begun.set()
                if len(runs) == 1:
                    await listed.wait()
                ended.set()
                await ctx.step(site.ended)
            found.append(page.number)
        return found

    assert await taken_over(open_engine, fanned(body), site.end) == [10, 20]
    assert site.made[20] in (2, 3)  # listed once; its call may have had no result
    assert site.made[10] == 2


async def test_what_a_loop_has_left_holds_up_nobody(open_engine: OpenEngine):
    """STEP-09: results on record of calls that are not made again are not waited for."""
    site, runs = Site(), list[int]()

    async def noted() -> None:
        site.calls["noted"] += 1

    async def body(ctx: Context) -> int:
        runs.append(1)

        async def items() -> AsyncIterator[int]:
            for number in range(10):
                yield number
                if len(runs) > 1:
                    await asyncio.Event().wait()

        found = 0
        async for page in ctx.map(site.fetch, items(), max_concurrent=2):
            while len(runs) == 1 and site.calls.total() < 4:
                await asyncio.sleep(0)
            found = page.number
            break
        await ctx.step(noted)
        await ctx.step(site.ended)
        return found

    assert await taken_over(open_engine, fanned(body), site.end) == 0
    assert site.calls["noted"] == site.calls[1] == 1


async def test_a_failure_is_that_of_its_attempt(open_engine: OpenEngine):
    """STEP-03: raised in the loop again when the attempt goes on after a crash; called again in the next one."""
    site, caught = Site(), list[str]()

    async def fetch(number: int) -> Page:
        found = await site.fetch(number)
        if number == 1:
            raise ValueError("no")
        return found

    async def body(ctx: Context) -> int:
        found = list[int]()
        try:
            async for page in ctx.map(fetch, range(5), max_concurrent=1):
                found.append(page.number)
        except ExecutionError as error:
            caught.append(f"{error.message} after {found}")
        await ctx.step(site.ended)
        if ctx.attempt == 1:
            raise OSError("again")
        return len(found)

    assert await taken_over(open_engine, fanned(body, **TWICE), site.end) == 1
    assert caught == ["step 'map#0/fetch#1' of asset 'fanned' failed: ValueError: no after [0]"] * 3
    assert site.made == {0: 1, 1: 2}


async def test_items_of_a_scatter_have_calls_of_their_own(open_engine: OpenEngine):
    """STEP-02: and after a crash none of them is made again."""
    pipe, site = Pipeline("mapping"), Site()

    @pipe.scatter(range(4), page_size=2, max_concurrent=4)
    async def fanned(no: int, ctx: Context) -> int:
        found = sum([page.number async for page in ctx.map(site.fetch, [10 * no + 1, 10 * no + 2])])
        await ctx.step(site.ended)
        return found

    results = await taken_over(open_engine, pipe, site.end, reached=4)
    assert sorted([value async for value in results]) == [3, 23, 43, 63]
    assert site.made == {10 * no + each: 1 for no in range(4) for each in (1, 2)}


@pytest.mark.not_in("evict", reason="what evicts puts a wait on record first")
async def test_who_lost_the_run_puts_nothing_on_record(open_engine: OpenEngine):
    """STEP-14."""
    site, ended = Site(), list[str]()

    async def body(ctx: Context) -> int:
        try:
            async for _ in ctx.map(site.fetch, range(3), max_concurrent=1):
                pass
        except BaseException as error:
            ended.append(type(error).__name__)
            raise
        return 0

    pipe = fanned(body)
    dying, living = await open_engine(pipe, **RARELY), await open_engine(pipe, **RARELY)
    store: Any = dying._live().services.store
    recorded, asked = store.steps.record, list[Any]()

    async def too_late(run_id: str, *args: Any) -> bool:
        asked.append((run_id, args[1]))
        await (await living.find(run_id)).cancel()
        return await recorded(run_id, *args)

    store.steps.record = too_late
    with pytest.raises(Exception, match="cancel"):
        await soon(dying.run("fanned"))
    assert len(ended) == len(asked) == 1
    assert await store.steps.recorded(*asked[0]) == ()
    assert site.made == {0: 1}
