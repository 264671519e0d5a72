"""Retries: FLOW-06, FLOW-07, FLOW-08."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from flowstone_async import (
    AssetFailed,
    AssetFinished,
    AssetRetrying,
    AssetStarted,
    Cancelled,
    ConfigError,
    Context,
    DefinitionError,
    ExecutionError,
    Pipeline,
    Retry,
    StorageError,
    TimedOut,
)
from flowstone_async._engine.verbs import Verbs
from tests.support.engines import OpenEngine, OpenVerbs
from tests.support.gate import soon

AT_ONCE: Any = {"backoff": "none"}
START = datetime(2025, 1, 1, tzinfo=UTC)


def _failing(retry: Any, errors: Iterator[BaseException | None]) -> Pipeline:
    """One asset, `flaky`, whose calls raise `errors` in turn; None is a success."""
    pipe = Pipeline("retries")

    @pipe.asset(retry=retry)
    async def flaky(ctx: Context) -> int:
        error = next(errors)
        if error is not None:
            raise error
        return ctx.attempt

    return pipe


def _each(*errors: BaseException | None) -> Iterator[BaseException | None]:
    yield from errors


async def test_retry_counts_attempts_in_all(open_verbs: OpenVerbs):
    """FLOW-06: `Retry(3)` is three calls, and `ctx.attempt` counts them from 1."""
    errors = _each(ValueError(1), ValueError(2), None)
    verbs = await open_verbs(_failing(Retry(3, **AT_ONCE), errors))
    assert await verbs.run("flaky") == 3


async def test_the_last_attempt_s_error_is_raised_and_earlier_ones_are_reported(open_verbs: OpenVerbs):
    """FLOW-06, FLOW-08: no fourth attempt."""
    errors = _each(ValueError("first"), KeyError("second"), LookupError("third"), None)
    verbs = await open_verbs(_failing(Retry(3, **AT_ONCE), errors))
    report = await verbs.report("flaky")
    entry = report["flaky"]
    assert entry.attempts == 3
    assert isinstance(entry.error, ExecutionError)
    assert (type(entry.error.__cause__), entry.error.attempt) == (LookupError, 3)
    assert [type(each.__cause__) for each in entry.earlier] == [ValueError, KeyError]
    assert next(errors) is None


async def test_an_asset_has_one_attempt_by_default(open_verbs: OpenVerbs):
    """FLOW-06: and `retry=False` takes the pipeline's default away."""
    verbs = await open_verbs(_failing(None, _each(ValueError("once"), None)))
    with pytest.raises(ExecutionError, match="once"):
        await verbs.run("flaky")


async def test_the_pipeline_s_policy_holds_where_an_asset_has_none():
    """FLOW-06, CFG-02: asset before pipeline; False switches off."""
    pipe = Pipeline("retries", retry=Retry(2, **AT_ONCE))
    calls: list[str] = []

    async def broken(ctx: Context) -> int:
        calls.append(ctx.asset)
        raise ValueError(ctx.asset)

    pipe.add(broken, name="inherits")
    pipe.add(broken, name="has_none", retry=False)
    pipe.add(broken, name="has_its_own", retry=Retry(3, **AT_ONCE))
    assert not (await pipe.report()).ok
    assert sorted(calls) == ["has_its_own"] * 3 + ["has_none"] + ["inherits"] * 2


def test_retry_0_is_a_definition_error():
    """FLOW-06: `FS109`, which says that 1 is no second attempt."""
    pipe = _failing(Retry(0), _each())
    with pytest.raises(DefinitionError, match="FS109.*\n.*1 is: no second attempt"):
        pipe.validate()


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"initial": "2m"}, "initial='2m', maximum='1m'"),
        ({"initial": 3, "maximum": timedelta(seconds=2)}, "initial=3, maximum=datetime.timedelta(seconds=2)"),
    ],
)
def test_a_first_wait_that_is_longer_than_the_longest_is_a_definition_error(given: Any, told: str):
    """FLOW-07, G-05: `FS109` tells both; the wait would silently be shorter. Equal ones are well."""
    with pytest.raises(DefinitionError) as caught:
        _failing(Retry(3, **given), _each()).validate()
    (problem,) = caught.value.problems
    assert problem.code == "FS109"
    assert f"Retry({told})" in problem.message
    _failing(Retry(3, initial="1m"), _each()).validate()
    _failing(Retry(3, backoff="none", initial="1h", maximum="1h"), _each()).validate()


def test_a_predicate_that_would_always_be_true_is_a_definition_error():
    """FLOW-08, G-05: `when=` cannot be a coroutine function, whose coroutine would count as true."""

    async def sometimes(error: BaseException) -> bool:
        return False

    when: Any = sometimes
    with pytest.raises(DefinitionError, match="FS109.*\n.*plain function"):
        _failing(Retry(3, when=when), _each()).validate()


@pytest.mark.parametrize(
    ("backoff", "expected"),
    [
        ("none", [0.0, 0.0, 0.0, 0.0, 0.0]),
        ("fixed", [3.0, 3.0, 3.0, 3.0, 3.0]),
        ("linear", [3.0, 6.0, 9.0, 12.0, 15.0]),
        ("exponential", [3.0, 6.0, 12.0, 24.0, 40.0]),
    ],
)
async def test_how_long_each_wait_is(backoff: Any, expected: list[float]):
    """FLOW-07: on the clock of the run, and as `AssetRetrying` tells before each wait."""
    policy = Retry(6, backoff=backoff, initial="3s", maximum="40s", jitter=False)
    called: list[float] = []
    pipe = Pipeline("retries")

    @pipe.asset(retry=policy)
    async def flaky(ctx: Context) -> int:
        called.append((ctx.started_at - START).total_seconds())
        if ctx.attempt < 6:
            raise ValueError(ctx.attempt)
        return ctx.attempt

    async with pipe.test() as t:
        assert await t.run(flaky) == 6
        told = t.events(AssetRetrying)
    assert [later - earlier for earlier, later in zip(called, called[1:], strict=False)] == pytest.approx(expected)
    assert [each.wait for each in told] == expected
    assert [each.attempt for each in told] == [1, 2, 3, 4, 5]
    assert [each.due for each in told] == [START + timedelta(seconds=at) for at in called[1:]]
    assert all(isinstance(each.error, ExecutionError) for each in told)


def test_jitter_lies_between_half_and_all_of_the_wait():
    """FLOW-07: and reaches both ends."""
    policy = Retry(3, initial="10s")
    assert [policy.wait(2, spread=lambda: at) for at in (0.0, 0.5, 1.0)] == [10.0, 15.0, 20.0]
    assert all(10.0 <= policy.wait(2) <= 20.0 for _ in range(100))
    assert len({policy.wait(2) for _ in range(100)}) > 1


class Busy(Exception):
    pass


@pytest.mark.parametrize(
    ("policy", "error", "calls"),
    [
        ({}, ValueError(), 3),
        ({"on": (Busy,)}, Busy(), 3),
        ({"on": Busy}, Busy(), 3),
        ({"on": (Busy,)}, ValueError(), 1),
        ({"when": lambda error: "again" in str(error)}, ValueError("again"), 3),
        ({"when": lambda error: "again" in str(error)}, ValueError("never"), 1),
        ({"on": (Busy,), "when": lambda _: True}, ValueError(), 1),
        ({}, StorageError("full", retryable=False), 1),
        ({"on": (StorageError,)}, StorageError("full", retryable=False), 1),
        ({}, StorageError("busy", retryable=True), 3),
        ({}, TimedOut("slow"), 3),
        ({}, ConfigError("wrong"), 1),
        ({}, ExceptionGroup("several", [ValueError(), Busy()]), 3),
        ({"on": (Busy,)}, ExceptionGroup("several", [Busy()]), 1),
    ],
)
async def test_which_failures_are_tried_again(policy: dict[str, Any], error: Exception, calls: int):
    """FLOW-08, ERR-03: an instance of `on`, for which `when` is true, and no library error that says otherwise."""
    made = 0

    def errors() -> Iterator[Exception]:
        nonlocal made
        while True:
            made += 1
            yield error

    report = await _failing(Retry(3, **AT_ONCE, **policy), errors()).report("flaky")
    assert (report["flaky"].attempts, made) == (calls, calls)


async def test_a_predicate_that_raises_ends_the_attempts(caplog: pytest.LogCaptureFixture):
    """FLOW-08: the failure stays the body's own; what the predicate raised is logged."""

    def undecided(error: BaseException) -> bool:
        raise RuntimeError("cannot tell")

    pipe = _failing(Retry(3, **AT_ONCE, when=undecided), _each(ValueError("mine"), None))
    with pytest.raises(ExecutionError, match="ValueError: mine"):
        await pipe.run("flaky")
    assert "cannot tell" in caplog.text


async def test_cancellation_is_never_retried(open_engine: OpenEngine):
    """FLOW-08: a cancelled body is not called again."""
    pipe = Pipeline("retries")
    calls: list[int] = []
    entered = asyncio.Event()

    @pipe.asset(retry=Retry(5, **AT_ONCE, on=(BaseException,)))
    async def endless(ctx: Context) -> int:
        calls.append(ctx.attempt)
        entered.set()
        await asyncio.Event().wait()
        return 1

    engine = await open_engine(pipe)
    run = await engine.submit(endless)
    await soon(entered.wait())
    await run.cancel()
    with pytest.raises(Cancelled):
        await run
    assert calls == [1]


async def test_cancelling_a_run_that_waits_for_its_next_attempt(open_engine: OpenEngine):
    """FLOW-08, RUN-26: the wait ends at once, and no further attempt begins."""
    errors = _each(ValueError("first"), None)
    pipe = _failing(Retry(2, initial="1h", maximum="1h"), errors)
    waits = asyncio.Event()
    pipe.on(AssetRetrying)(_sets(waits))
    engine = await open_engine(pipe)
    run = await engine.submit("flaky")
    await soon(waits.wait())
    await run.cancel()
    with pytest.raises(Cancelled):
        await soon(run.result())
    assert next(errors) is None


def _sets(event: asyncio.Event) -> Any:
    async def hook(_: AssetRetrying) -> None:
        event.set()

    return hook


async def test_events_of_a_retried_asset(open_verbs: OpenVerbs):
    """FLOW-08, EVT-01: one start, a retry before each wait, one end with the number of attempts."""
    pipe = _failing(Retry(2, **AT_ONCE), _each(ValueError("first"), ValueError("second")))
    heard: list[Any] = []
    for kind in (AssetStarted, AssetRetrying, AssetFailed, AssetFinished):
        pipe.on(kind)(_appends(heard))
    verbs = await open_verbs(pipe)
    with pytest.raises(ExecutionError):
        await verbs.run("flaky")
    assert [type(each) for each in heard] == [AssetStarted, AssetRetrying, AssetFailed, AssetFinished]
    assert heard[1].error.message.endswith("ValueError: first")
    assert (heard[2].attempts, heard[3].attempts, heard[3].outcome) == (2, 2, "failed")


def _appends(heard: list[Any]) -> Any:
    async def hook(event: Any) -> None:
        heard.append(event)

    return hook


async def test_a_time_limit_holds_for_each_attempt():
    """FLOW-08, FLOW-09: `TimedOut` is retryable; a run's own limit ends all attempts."""
    pipe = Pipeline("retries")

    @pipe.asset(timeout="2s", retry=Retry(3, backoff="fixed", initial="1s", jitter=False))
    async def slow(ctx: Context) -> int:
        if ctx.attempt < 3:
            await asyncio.Event().wait()
        return ctx.attempt

    async with pipe.test() as t:
        run = await t.submit(slow)
        await t.advance(seconds=6)
        assert await run == 3
        again = await t.submit(slow, force=True, timeout="2.5s")
        await t.advance(seconds=3)
        with pytest.raises(TimedOut, match="run of 'slow'"):
            await again


async def _two_attempts(verbs: Verbs) -> None:
    assert await verbs.run("flaky") == 2


async def test_many_assets_wait_for_their_next_attempt_at_once():
    """FLOW-07: a wait holds no place among `concurrency`."""
    pipe = Pipeline("retries")

    async def flaky(ctx: Context) -> int:
        if ctx.attempt == 1:
            raise ValueError(ctx.asset)
        return ctx.attempt

    for number in range(20):
        pipe.add(flaky, name=f"flaky_{number}", retry=Retry(2, backoff="fixed", initial="10s", jitter=False))
    async with pipe.test() as t:
        before = t.clock.monotonic()
        assert await t.run(*(f"flaky_{number}" for number in range(20)), concurrency=1) == (2,) * 20
        assert t.clock.monotonic() - before == pytest.approx(10.0)
