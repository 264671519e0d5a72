"""Fanning out inside a body (SCAT-27, FLOW-09, STEP-07)."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing
from contextvars import ContextVar
from typing import Any

import pytest

from flowstone_async import Cancelled, ConfigError, Context, Pipeline, Retry, TimedOut
from flowstone_async.clock import ManualClock
from flowstone_async.errors import ExecutionError
from tests.support.engines import OpenEngine
from tests.support.gate import Gate, soon


def left_behind() -> list[str]:
    """Return the tasks of calls that still run."""
    return [task.get_name() for task in asyncio.all_tasks() if "map" in task.get_name()]


async def run(body: Callable[[Context], Any], **options: Any) -> Any:
    """Run a body that takes the context, in memory; nothing of it goes on afterwards."""
    pipe = Pipeline("mapping")

    @pipe.asset(**options)
    async def fanned(ctx: Context) -> Any:
        return await body(ctx)

    try:
        return await soon(pipe.run(fanned))
    finally:
        assert left_behind() == []


class Lasting:
    """A call without end; it takes a while to let go."""

    def __init__(self) -> None:
        self.begun = self.ended = 0

    async def __call__(self, no: int) -> int:
        self.begun += 1
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            self.ended += 1
        return no

    async def reached(self, count: int) -> None:
        while self.begun < count:
            await asyncio.sleep(0)


async def doubled(no: int) -> int:
    await asyncio.sleep(0)
    return 2 * no


async def test_results_come_as_the_calls_end():
    """SCAT-27: in completion order, whatever the order of the items."""
    events = [asyncio.Event() for _ in range(4)]

    async def wait(no: int) -> int:
        await events[no].wait()
        return no

    async def body(ctx: Context) -> list[int]:
        found, order = list[int](), [2, 0, 3, 1]
        events[order[0]].set()
        async for no in ctx.map(wait, range(4)):
            found.append(no)
            if len(found) < 4:
                events[order[len(found)]].set()
        return found

    assert await run(body) == [2, 0, 3, 1]


@pytest.mark.parametrize(("options", "most"), [({}, 20), ({"max_concurrent": 3}, 3), ({"max_concurrent": 100}, 50)])
async def test_so_many_calls_at_once(options: Any, most: int):
    """SCAT-27: 20 without the option."""
    gate = Gate()

    async def call(no: int) -> int:
        await gate()
        return no

    async def body(ctx: Context) -> int:
        return sum([no async for no in ctx.map(call, range(50), **options)])

    running = asyncio.create_task(run(body))
    await gate.reached(most)
    await asyncio.sleep(0)
    assert gate.calls == most
    gate.open()
    assert await running == sum(range(50))
    assert gate.most == most


def _generated() -> Iterator[int]:
    yield from range(5)


async def _streamed() -> AsyncIterator[int]:
    for no in range(5):
        await asyncio.sleep(0)
        yield no


@pytest.mark.parametrize("items", [range(5), [0, 1, 2, 3, 4], _generated, _streamed, dict.fromkeys(range(5)), ()])
async def test_anything_that_can_be_iterated(items: Any):
    """SCAT-27."""

    async def body(ctx: Context) -> list[int]:
        given = items() if callable(items) else items
        return sorted([no async for no in ctx.map(doubled, given)])

    assert await run(body) == ([] if items == () else [0, 2, 4, 6, 8])


async def test_a_function_that_returns_what_is_awaited():
    """SCAT-27: also one that never waits, and None as a result."""

    async def at_once(no: int) -> None:
        return None

    async def body(ctx: Context) -> list[Any]:
        found = [no async for no in ctx.map(lambda no: doubled(no + 1), [1])]
        return [*found, *[no async for no in ctx.map(at_once, range(3), max_concurrent=1)]]

    assert await run(body) == [4, None, None, None]


async def test_leaving_the_loop_cancels_what_runs_and_the_body_awaits_it():
    """SCAT-27: no further call begins; each has the time to end in good order."""
    ended, pulled = list[int](), list[int]()
    gate = Gate()

    async def source() -> AsyncIterator[int]:
        try:
            for no in range(100):
                pulled.append(no)
                yield no
        finally:
            await asyncio.sleep(0)
            ended.append(-1)

    async def call(no: int) -> int:
        if no == 3:
            return no
        try:
            await gate()
        finally:
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            ended.append(no)
        return no

    async def body(ctx: Context) -> int:
        async for no in ctx.map(call, source(), max_concurrent=5):
            await gate.reached(5)
            return no
        raise AssertionError

    assert await run(body) == 3
    assert sorted(ended) == [-1, 0, 1, 2, 4, 5]
    assert (len(pulled), gate.calls) == (6, 5)


@pytest.mark.parametrize("how", ["with", "aclosing", "aclose"])
async def test_what_runs_has_ended_where_the_block_does(how: str):
    """SCAT-27: for bodies that go on with something else."""
    gate, seen = Gate(), list[int]()

    async def call(no: int) -> int:
        if no:
            await gate()
        return no

    async def body(ctx: Context) -> None:
        results = ctx.map(call, range(10), max_concurrent=4)
        if how == "with":
            async with results as given:
                async for no in given:
                    seen.append(no)
                    break
        elif how == "aclosing":
            async with aclosing(results):
                seen.append(await anext(results))
        else:
            seen.append(await anext(results))
            await results.aclose()
            await results.aclose()
        seen.append(gate.left)
        assert [no async for no in results] == []

    await run(body)
    assert seen == [0, 3]


async def test_an_error_is_raised_when_the_others_have_ended():
    """SCAT-27: results that came before it are given first."""
    lasting, seen = Lasting(), list[Any]()

    async def call(no: int) -> int:
        if no == 2:
            await lasting.reached(2)
            raise ValueError("two")
        return await lasting(no) if no else no

    async def body(ctx: Context) -> None:
        try:
            async for no in ctx.map(call, range(10), max_concurrent=4):
                seen.append(no)
        except ExecutionError as error:
            seen.append((error.message, repr(error.__cause__), lasting.begun - lasting.ended))

    await run(body)
    told = "step 'map#0/call#2' of asset 'fanned' failed: ValueError: two"
    assert seen == [0, (told, "ValueError('two')", 0)]
    assert lasting.begun >= 2


async def test_an_error_that_nobody_catches_is_that_of_the_body():
    """ERR-03: with its type, and tried again as the asset says."""
    calls = list[int]()

    async def call(no: int) -> int:
        calls.append(no)
        if len(calls) < 3:
            raise ConnectionError("gone")
        return no

    async def body(ctx: Context) -> int:
        return sum([no async for no in ctx.map(call, [1], max_concurrent=1)])

    with pytest.raises(ExecutionError, match="ConnectionError: gone"):
        await run(body)
    assert await run(body, retry=Retry(2, backoff="none")) == 1
    assert len(calls) == 3


async def test_an_error_of_the_source_ends_the_calls():
    """SCAT-27."""
    lasting = Lasting()

    async def source() -> AsyncIterator[int]:
        yield 1
        await lasting.reached(1)
        raise OSError("no route")

    async def body(ctx: Context) -> list[int]:
        return [no async for no in ctx.map(lasting, source())]

    with pytest.raises(ExecutionError, match="OSError: no route"):
        await run(body)
    assert (lasting.begun, lasting.ended) == (1, 1)


async def test_a_call_that_cancels_itself_is_no_cancellation_of_the_run():
    """SCAT-27, ERR-04."""

    async def call(no: int) -> int:
        raise asyncio.CancelledError

    async def body(ctx: Context) -> list[int]:
        return [no async for no in ctx.map(call, [1])]

    with pytest.raises(ExecutionError, match="although nobody cancelled it"):
        await run(body)


async def test_items_are_taken_as_there_is_room():
    """SCAT-27: an endless source is never far ahead of the loop, however quick the calls are."""
    pulled = 0

    def source() -> Iterator[int]:
        nonlocal pulled
        while True:
            pulled += 1
            yield pulled

    async def body(ctx: Context) -> None:
        taken = 0
        async for _ in ctx.map(doubled, source(), max_concurrent=4):
            taken += 1
            for _ in range(20):
                await asyncio.sleep(0)
            assert pulled <= taken + 9
            if taken == 50:
                break

    await run(body)


async def test_calls_may_map_themselves():
    """SCAT-27: and an error inside ends all of it."""
    gate = Gate()

    async def body(ctx: Context) -> list[list[int]]:
        async def row(no: int) -> list[int]:
            return sorted([each async for each in ctx.map(doubled, range(no))])

        return sorted([each async for each in ctx.map(row, range(4), max_concurrent=2)])

    assert await run(body) == [[], [0], [0, 2], [0, 2, 4]]

    async def failing(ctx: Context) -> list[Any]:
        async def cell(no: int) -> int:
            if no == 2:
                await gate.reached(4)
                raise ValueError("cell")
            await gate()
            return no

        async def row(no: int) -> list[int]:
            return [each async for each in ctx.map(cell, range(2 + no))]

        return [each async for each in ctx.map(row, range(2))]

    with pytest.raises(ExecutionError, match="ValueError: cell"):
        await run(failing)
    assert gate.left == 4


async def test_keys_are_different():
    """SCAT-27: the same one twice is an error, before the call is made."""
    calls = list[int]()

    async def call(no: int) -> int:
        calls.append(no)
        return no

    async def body(ctx: Context) -> list[int]:
        return [no async for no in ctx.map(call, [1, 2, 11], max_concurrent=1, key=lambda no: no % 10)]

    with pytest.raises(ConfigError, match="two calls have the key 1"):
        await run(body)
    assert calls == [1, 2]


async def _generator(no: int) -> AsyncIterator[int]:
    yield no


@pytest.mark.parametrize(
    ("arguments", "options", "says"),
    [
        ((_generator, [1]), {}, "_generator gives nothing to await"),
        ((_generated, [1]), {}, "_generated gives nothing to await"),
        ((int, [1]), {}, "int gives nothing to await"),
        ((5, [1]), {}, "5 gives nothing to await"),
        ((doubled, 5), {}, "int has no items"),
        ((doubled, [1]), {"max_concurrent": 0}, "max_concurrent=0"),
        ((doubled, [1]), {"max_concurrent": False}, "max_concurrent=False"),
        ((doubled, [1]), {"key": "no"}, "key='no'"),
    ],
)
async def test_what_cannot_be_mapped_is_refused(arguments: Any, options: Any, says: str):
    """SCAT-27, G-05."""

    async def body(ctx: Context) -> list[Any]:
        return [no async for no in ctx.map(*arguments, **options)]

    with pytest.raises(ConfigError, match=says):
        await run(body)


@pytest.mark.parametrize("where", ["thread", "process"])
async def test_bodies_elsewhere_cannot_map(where: Any):
    """SCAT-27: their calls would run on another event loop, or on none."""
    pipe = Pipeline("mapping")
    pipe.add(_maps, name="fanned", run_in=where)
    with pytest.raises(ConfigError, match="on the event loop of the engine"):
        await soon(pipe.run("fanned"))


def _maps(ctx: Context) -> str:
    ctx.map(doubled, [1])
    return "mapped"


async def test_conditions_cannot_map():
    """SCAT-27: they make no durable calls: nothing would be on record of them."""
    pipe = Pipeline("mapping")

    async def ready(ctx: Context) -> bool:
        return all([no async for no in ctx.map(doubled, [1])])

    @pipe.asset(when=ready)
    async def fanned() -> int:
        return 1

    with pytest.raises(ConfigError, match="durable calls of `ctx` work only in bodies"):
        await soon(pipe.run(fanned))


async def test_the_context_is_of_its_body():
    """FLOW-03: calls see the context variables of the body; afterwards there is nothing to map with."""
    kept, variable = list[Context](), ContextVar("variable", default=0)

    async def call(no: int) -> int:
        return no + variable.get()

    async def body(ctx: Context) -> list[int]:
        kept.append(ctx)
        variable.set(7)
        return [no async for no in ctx.map(call, [1])]

    assert await run(body) == [8]
    with pytest.raises(ConfigError, match="after its body had ended"):
        kept[0].map(doubled, [1])


async def test_a_timeout_inside_the_body_ends_the_calls():
    """SCAT-27: they have ended when it is raised."""
    gate = Gate()

    async def call(no: int) -> int:
        await gate()
        return no

    async def body(ctx: Context) -> str:
        try:
            async with asyncio.timeout(0.05):
                async for _ in ctx.map(call, range(5)):
                    pass
        except TimeoutError:
            return f"{gate.left} of {gate.calls}"
        return "no"

    assert await run(body) == "5 of 5"


@pytest.mark.parametrize("how", ["timeout", "cancelled"])
async def test_calls_end_with_their_body(open_engine: OpenEngine, how: str):
    """FLOW-09, G-04: those that do not end in good order are cut off after the grace."""
    pipe, gate, clock, held = Pipeline("mapping"), Gate(), ManualClock(), list[str]()

    async def call(no: int) -> int:
        try:
            await gate()
        finally:
            if no == 1:
                try:
                    await asyncio.Event().wait()
                finally:
                    held.append("cut off")
        return no

    @pipe.asset(timeout="1m")
    async def fanned(ctx: Context) -> int:
        return sum([no async for no in ctx.map(call, range(5), max_concurrent=3)])

    engine = await open_engine(pipe, clock=clock, poll="60s", cancel_grace="2s")
    handle = await engine.submit(fanned)
    await gate.reached(3)
    if how == "cancelled":
        await handle.cancel()
    ended = asyncio.create_task(soon(handle))
    while not ended.done():
        await clock.advance(1)
        await asyncio.sleep(0)
    with pytest.raises(TimedOut if how == "timeout" else Cancelled):
        await ended
    assert (gate.left, gate.calls, held) == (3, 3, ["cut off"])
    while left_behind():
        await clock.advance(1)


async def test_items_of_a_scatter_map_each_by_itself(open_engine: OpenEngine):
    """SCAT-27: and what one leaves going ends before that item does."""
    pipe, gate, seen = Pipeline("mapping"), Gate(), list[int]()

    async def call(no: int) -> int:
        if no > 100:
            await gate()
        return no

    @pipe.scatter(range(10), max_concurrent=3)
    async def items(no: int, ctx: Context) -> int:
        async for each in ctx.map(call, [no, 101, 102], max_concurrent=3):
            seen.append(each)
            break
        return no

    engine = await open_engine(pipe)
    assert (await soon(engine.run(items))).succeeded == 10
    assert sorted(seen) == list(range(10))
    assert left_behind() == []
    assert gate.left == gate.calls


async def test_a_loop_that_the_collector_finds_ends():
    """SCAT-27: although it does so in another thread."""
    gate = Gate()

    async def call(no: int) -> int:
        await gate()
        return no

    async def body(ctx: Context) -> int:
        class Held:
            pass

        held: Any = Held()
        held.itself, held.results = held, ctx.map(call, range(3))
        waiting = asyncio.ensure_future(anext(held.results))
        await gate.reached(3)
        waiting.cancel()
        await asyncio.wait([waiting])
        other = ctx.map(call, range(3))
        held.results = other
        first = asyncio.ensure_future(anext(other))
        await gate.reached(6)
        del held, other
        first.cancel()
        await asyncio.wait([first])
        collecting = threading.Thread(target=gc.collect)
        collecting.start()
        collecting.join()
        return gate.left

    assert await run(body) == 6
