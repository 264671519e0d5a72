"""Bodies of scatters that end in odd ways: each item by itself, and nothing of it reaches the others (SCAT-12, SCAT-15)."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from flowstone_async import Context, Pipeline, Retry, StorageError, Tolerance
from flowstone_async.clock import ManualClock
from flowstone_async.errors import ExecutionError, ScatterThreshold
from tests.support.engines import OpenEngine
from tests.support.gate import Gate, soon

MANY = 40


class Panic(BaseException):
    """What an extension module raises that gives up."""


def itself() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None
    return task


def never() -> Awaitable[object]:
    return asyncio.Event().wait()


async def raises_cancelled() -> None:
    raise asyncio.CancelledError


async def raises_cancelled_later() -> None:
    await asyncio.sleep(0)
    raise asyncio.CancelledError("mine")


async def cancels_itself() -> None:
    itself().cancel()
    await asyncio.sleep(0)


async def cancels_itself_later() -> None:
    await asyncio.sleep(0)
    itself().cancel("mine")
    await never()


async def awaits_what_was_cancelled() -> None:
    future = asyncio.get_running_loop().create_future()
    future.cancel()
    await future


async def panics() -> None:
    raise Panic("given up")


async def panics_later() -> None:
    await asyncio.sleep(0)
    raise Panic("given up")


async def stops() -> None:
    await asyncio.sleep(0)
    raise StopAsyncIteration


async def several_fail() -> None:
    async with asyncio.TaskGroup() as group:
        for _ in range(3):
            group.create_task(panicking())


async def panicking() -> None:
    raise ValueError("of a task")


@pytest.mark.parametrize(
    ("body", "kind", "text"),
    [
        (raises_cancelled, "CancelledError", "although nobody cancelled it"),
        (raises_cancelled_later, "CancelledError", "although nobody cancelled it"),
        (cancels_itself, "CancelledError", "although nobody cancelled it"),
        (cancels_itself_later, "CancelledError", "although nobody cancelled it"),
        (awaits_what_was_cancelled, "CancelledError", "although nobody cancelled it"),
        (panics, "Panic", "given up"),
        (panics_later, "Panic", "given up"),
        (stops, "StopAsyncIteration", "StopAsyncIteration"),
        (several_fail, "ExceptionGroup", "unhandled errors"),
    ],
)
@pytest.mark.parametrize("most", [1, 7])
async def test_it_fails_its_item_and_nothing_else(
    open_engine: OpenEngine, body: Callable[[], Awaitable[None]], kind: str, text: str, most: int
):
    """ERR-04, SCAT-13: the items that the same task calls next do not notice."""
    pipe, calls = Pipeline("odd"), Counter[int]()

    @pipe.scatter(range(MANY), tolerate=0.5, retry=False, max_concurrent=most, page_size=10)
    async def items(no: int) -> int:
        calls[no] += 1
        if not no % 4:
            await body()
        await asyncio.sleep(0)
        return no

    engine = await open_engine(pipe)
    found = await soon(engine.run(items))
    assert await found.to_list(limit=MANY) == [no for no in range(MANY) if no % 4]
    failures = [each async for each in found.failures()]
    assert [each.key for each in failures] == list(range(0, MANY, 4))
    assert {each.error_type for each in failures} == {kind}
    assert all(text in each.message for each in failures)
    assert set(calls.values()) == {1}


async def leaves_a_cancellation() -> None:
    itself().cancel()


async def leaves_a_cancellation_later() -> None:
    await asyncio.sleep(0)
    itself().cancel()


async def is_late_by_asyncio() -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await never()


async def is_late_by_anyio() -> None:
    with anyio.move_on_after(0) as scope:
        await anyio.sleep_forever()
    assert scope.cancelled_caught


async def cancels_a_scope() -> None:
    with anyio.CancelScope() as scope:
        scope.cancel()
        await anyio.lowlevel.checkpoint()
    assert scope.cancelled_caught


async def waits_for() -> None:
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(never(), 0.001)


async def has_tasks() -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(anyio.sleep_forever)
        await anyio.lowlevel.checkpoint()
        group.cancel_scope.cancel()


@pytest.mark.parametrize(
    "body",
    [
        leaves_a_cancellation,
        leaves_a_cancellation_later,
        is_late_by_asyncio,
        is_late_by_anyio,
        cancels_a_scope,
        waits_for,
        has_tasks,
    ],
)
async def test_what_a_body_does_to_its_own_task_hits_nothing_else(
    open_engine: OpenEngine, body: Callable[[], Awaitable[None]]
):
    """G-02: a cancellation that is left behind, or a scope, is over with its item."""
    pipe = Pipeline("odd")

    @pipe.scatter(range(MANY), max_concurrent=3)
    async def items(no: int) -> int:
        await body()
        return no

    engine = await open_engine(pipe)
    found = await soon(engine.run(items))
    assert await found.to_list(limit=MANY) == list(range(MANY))


@pytest.mark.parametrize(
    ("retry", "attempts"),
    [
        (Retry(5, backoff="none", on=ConnectionError), {"connection": 5, "value": 1, "final": 1, "coming": 1}),
        (
            Retry(5, backoff="none", when=lambda e: "con" in str(e)),
            {"connection": 5, "value": 1, "final": 1, "coming": 1},
        ),
        (Retry(5, backoff="none"), {"connection": 5, "value": 5, "final": 1, "coming": 5}),
        (False, {"connection": 1, "value": 1, "final": 1, "coming": 1}),
        (None, {"connection": 3, "value": 3, "final": 1, "coming": 3}),
    ],
    ids=["on", "when", "any", "never", "default"],
)
async def test_what_is_tried_again(open_engine: OpenEngine, retry: Any, attempts: dict[str, int]):
    """SCAT-12: `on=`, `when=` and errors that say so end the attempts early; three attempts by default."""
    errors = {
        "connection": ConnectionError("con"),
        "value": ValueError("bad"),
        "final": StorageError("says so", retryable=False),
        "coming": StorageError("later", retryable=True),
    }
    pipe, calls, clock = Pipeline("retried"), Counter[str](), ManualClock()

    @pipe.scatter(list(errors), retry=retry, tolerate=1.0)
    async def items(what: str) -> int:
        calls[what] += 1
        raise errors[what]

    engine = await open_engine(pipe, clock=clock)
    running = asyncio.create_task(engine.run(items, timeout=False))
    async with asyncio.timeout(20):
        while not running.done():
            await clock.advance(2)
    found = await running
    assert dict(calls) == attempts
    assert {each.key: each.attempts async for each in found.failures()} == attempts


async def test_a_body_that_swallows_its_timeout_is_late_all_the_same(open_engine: OpenEngine):
    """SCAT-15: what it returns after its deadline is dropped; the attempt is tried again."""
    pipe, attempts = Pipeline("late"), Counter[int]()

    @pipe.scatter(range(4), timeout=0.05, retry=Retry(2, backoff="none"), tolerate=0.5, max_concurrent=2)
    async def items(no: int, ctx: Context) -> str:
        attempts[no] += 1
        if no == 1 or (no == 2 and ctx.item.attempt == 1):
            try:
                await never()
            except asyncio.CancelledError:
                return "swallowed"
        return "in time"

    engine = await open_engine(pipe)
    found = await soon(engine.run(items))
    assert [pair async for pair in found.items()] == [(0, "in time"), (2, "in time"), (3, "in time")]
    [failure] = [each async for each in found.failures()]
    assert (failure.key, failure.error_type, failure.attempts) == (1, "TimedOut", 2)
    assert attempts == {0: 1, 1: 2, 2: 2, 3: 1}


async def test_a_body_that_holds_out_is_cancelled_again(open_engine: OpenEngine):
    """SCAT-15: after each grace, until it gives in; what it raises then is no cancellation of the scatter."""
    pipe, cancelled = Pipeline("late"), list[int]()

    @pipe.scatter([1, 2], timeout=0.05, retry=False, tolerate=0.5, max_concurrent=1)
    async def items(no: int) -> int:
        while no == 1 and len(cancelled) < 3:
            try:
                await never()
            except asyncio.CancelledError:
                cancelled.append(no)
        return no

    engine = await open_engine(pipe, cancel_grace=0.05)
    found = await soon(engine.run(items))
    assert await found.to_list(limit=2) == [2]
    assert cancelled == [1, 1, 1]


async def test_an_error_while_a_body_cleans_up_after_its_timeout_is_not_what_it_failed_with(open_engine: OpenEngine):
    """SCAT-15: it timed out; what its `finally` raised is the cause."""
    pipe = Pipeline("late")

    @pipe.scatter([1, 2], timeout=0.05, retry=False, tolerate=0.5)
    async def items(no: int) -> int:
        try:
            if no == 1:
                await never()
        finally:
            await asyncio.sleep(0)
            if no == 1:
                raise OSError("while cleaning up")
        return no

    engine = await open_engine(pipe)
    found = await soon(engine.run(items))
    [failure] = [each async for each in found.failures()]
    assert (failure.key, failure.error_type) == (1, "TimedOut")


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize("where", ["body", "source", "select", "key"])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # a task that was not begun is closed
def test_what_ends_a_program_is_never_wrapped(kind: type[BaseException], where: str, waits: bool):
    """ERR-04: it reaches whoever runs the loop, with every `finally` run, and is no failed item."""
    pipe, cleaned, entered = Pipeline("ending"), list[str](), asyncio.Event()

    def ends(here: str, item: int) -> Any:
        if here == where and item == 3:
            raise kind("over")
        return item

    async def source() -> AsyncIterator[int]:
        try:
            for no in range(10):
                if waits and no == 3:
                    await entered.wait()
                yield ends("source", no)
        finally:
            cleaned.append("source")

    @pipe.scatter(
        source,
        tolerate=1.0,
        page_size=2,
        select=lambda no: ends("select", no),
        key=lambda no: ends("key", no),
    )
    async def items(no: int) -> int:
        if no == 0:
            entered.set()
            try:
                await never()
            finally:
                cleaned.append("body")
        if waits:
            await asyncio.sleep(0)
        return ends("body", no)

    with asyncio.Runner(loop_factory=_quiet) as runner, pytest.raises(kind, match="over"):
        runner.run(pipe.run(items))
    gc.collect()  # of what was not begun here, and nowhere else
    assert sorted(cleaned) == (["body", "source"] if entered.is_set() else ["source"])
    assert entered.is_set() or (where, waits) == ("source", False)  # which is read before its items are on record


def _quiet() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda *_: None)  # tasks that end with the program are told of once more
    return loop


async def test_cancelling_the_caller_ends_the_bodies_in_good_order(open_engine: OpenEngine):
    """RUN-24, SCAT-24: each is cancelled once, and its `finally` may await."""
    pipe, gate, ended = Pipeline("left"), Gate(), list[int]()

    @pipe.scatter(range(10), max_concurrent=4)
    async def items(no: int) -> int:
        try:
            await gate()
        finally:
            await asyncio.sleep(0)
            ended.append(no)
        return no

    engine = await open_engine(pipe)
    running = asyncio.create_task(engine.run(items))
    await gate.reached(4)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await soon(running)
    assert sorted(ended) == [0, 1, 2, 3]
    assert gate.left == 4


async def test_a_page_that_is_refused_meanwhile_does_not_hide_why_the_scatter_failed(
    open_engine: OpenEngine, monkeypatch: pytest.MonkeyPatch
):
    """SCAT-11: the error is the threshold, also where the reader hears of the end before whoever ended it."""
    pipe, may_end, ended = Pipeline("failing"), asyncio.Event(), list[int]()

    async def source() -> AsyncIterator[int]:
        for no in range(3):
            yield no
        await may_end.wait()
        yield 3

    @pipe.scatter(source, retry=False, tolerate=Tolerance(count=0), page_size=1)
    async def items(no: int) -> int:
        raise ExecutionError("no", asset="items")

    engine = await open_engine(pipe)
    store: Any = engine._live().store.scatters
    end, add_page, refused = store.end, store.add_page, asyncio.Event()

    async def end_slowly(*given: Any) -> bool:
        ended.append(1)
        done = await end(*given)
        may_end.set()
        await refused.wait()
        return done

    async def add(*given: Any) -> Any:
        added = await add_page(*given)
        if added is None:
            asyncio.get_running_loop().call_soon(refused.set)
        return added

    monkeypatch.setattr(store, "end", end_slowly)
    monkeypatch.setattr(store, "add_page", add)
    report = await soon(engine.report(items))
    assert report[items].state == "failed"
    assert isinstance(report[items].error, ScatterThreshold)
    assert ended == [1]
