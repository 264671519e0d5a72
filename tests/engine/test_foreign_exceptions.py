"""Exceptions that are no `Exception`: a panic of an extension module, `pytest.fail()` in a fake (ERR-04, RUN-13)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from datetime import date
from typing import Any

import pytest

from flowstone_async import (
    AssetStarted,
    Daily,
    Event,
    ExecutionError,
    Pipeline,
    ResourceUnavailable,
    Retry,
    RunFinished,
    RunStarted,
)
from tests.support.engines import OpenEngine


class Panic(BaseException):
    """What an extension module raises that gives up."""


class Handle:
    """A resource."""


class Closes:
    """A resource that panics when it is closed."""


def _panic(*_: object) -> Any:
    raise Panic("given up")


def _pipe() -> Pipeline:
    pipe = Pipeline("panic")

    @pipe.asset(retry=Retry(3, backoff="none"))
    async def coroutine() -> int:
        return _panic()

    @pipe.asset(run_in="thread")
    def thread() -> int:
        return _panic()

    @pipe.asset
    async def stream() -> AsyncIterator[int]:
        yield 1
        _panic()

    @pipe.asset(when=lambda: _panic())
    async def condition() -> int:
        return 1

    @pipe.resource
    async def handle() -> Handle:
        return _panic()

    @pipe.resource
    async def closes() -> AsyncIterator[Closes]:
        yield Closes()
        _panic()

    @pipe.asset
    async def resource(handle: Handle) -> int:
        return 1

    @pipe.asset
    async def closing(closes: Closes) -> int:
        return 1

    @pipe.asset
    async def good() -> int:
        return 1

    return pipe


@pytest.mark.parametrize("asset", ["coroutine", "thread", "stream", "condition"])
async def test_it_fails_its_asset_and_nothing_else(open_engine: OpenEngine, asset: str) -> None:
    """ERR-04: like any other exception of a body or condition, and it is not tried again (FLOW-08: `on=Exception`)."""
    pipe = _pipe()
    engine = await open_engine(pipe)
    report = await engine.report(asset, "good")
    assert report["good"].state == "ok"
    error = report[asset].error
    assert isinstance(error, ExecutionError)
    assert isinstance(error.__cause__, Panic)
    assert report[asset].attempts <= 1
    assert (await engine.status(asset)).state == "failed"
    assert await engine.run("good", force=True) == 1


async def test_a_resource_that_panics_is_unavailable(open_engine: OpenEngine) -> None:
    """RES-03."""
    engine = await open_engine(_pipe())
    with pytest.raises(ResourceUnavailable, match="given up"):
        await engine.run("resource")
    assert await engine.run("good") == 1


async def test_a_resource_that_panics_when_it_closes_is_logged(
    open_engine: OpenEngine, caplog: pytest.LogCaptureFixture
) -> None:
    """RES-02: and the others close."""
    engine = await open_engine(_pipe())
    assert await engine.run("closing") == 1
    with caplog.at_level(logging.ERROR):
        await engine.__aexit__(None, None, None)
    assert "resource 'closes' failed to close" in caplog.text


async def test_a_hook_that_panics_is_logged(open_engine: OpenEngine, caplog: pytest.LogCaptureFixture) -> None:
    """EVT-03: it changes nothing, and the other hooks hear of the event."""
    pipe, heard = _pipe(), list[object]()
    pipe.on(AssetStarted)(_panic)
    pipe.on(AssetStarted)(heard.append)
    pipe.on(RunFinished)(_panic)
    engine = await open_engine(pipe)
    assert await engine.run("good") == 1
    assert len(heard) == 1
    assert caplog.text.count("given up") >= 2


async def test_a_retry_predicate_that_panics_ends_the_attempts(
    open_engine: OpenEngine, caplog: pytest.LogCaptureFixture
) -> None:
    """FLOW-08, SEC-04: the failure stays the body's own; what the predicate raised is logged, without secrets."""
    pipe = Pipeline("panic")

    def again(_: Exception) -> bool:
        raise Panic("password=open-sesame")

    @pipe.asset(retry=Retry(3, backoff="none", when=again))
    async def fails() -> int:
        raise ValueError("the body's own")

    engine = await open_engine(pipe)
    with pytest.raises(ExecutionError, match="the body's own"):
        await engine.run(fails)
    assert (await engine.status(fails)).state == "failed"
    assert "Panic: password=***" in caplog.text
    assert "open-sesame" not in caplog.text


async def test_what_a_backfill_calls_may_panic(open_engine: OpenEngine) -> None:
    """RUN-29: `on_progress` is only told; an iterable of the caller's that panics reaches the caller."""
    pipe, days = Pipeline("panic"), Daily("2025-01-01")

    @pipe.asset(partitions=days)
    async def daily() -> int:
        return 1

    async def keys() -> AsyncIterator[date]:
        yield date(2025, 1, 1)
        _panic()

    engine = await open_engine(pipe)
    one = days.range("2025-01-01", "2025-01-01")
    assert (await engine.backfill(daily, partitions=one, on_progress=_panic)).succeeded == 1
    with pytest.raises(Panic):
        await engine.backfill(daily, partitions=keys())
    assert await engine.get(daily, partition=date(2025, 1, 1)) == 1


@pytest.mark.parametrize("event", [RunStarted, AssetStarted, RunFinished])
@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
def test_a_hook_may_end_the_program(event: type[Event], kind: type[BaseException]) -> None:
    """ERR-04: whichever event it hears of; it is neither logged as a failing hook nor taken for an error of the run."""
    pipe = _pipe()

    @pipe.on(event)
    async def leave(_: Event) -> None:
        raise kind("over")

    with asyncio.Runner(loop_factory=_quiet) as runner, pytest.raises(kind, match="over"):
        runner.run(pipe.run("good"))


def _quiet() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda *_: None)  # tasks that end with the program are told of once more
    return loop
