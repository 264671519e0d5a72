"""Hooks and what they are told of runs and assets: EVT-01..04; logs: EVT-06. See `test_observations` for the rest."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest

from flowstone_async import (
    AssetEvent,
    AssetFailed,
    AssetFinished,
    AssetRetrying,
    AssetReused,
    AssetSkipped,
    AssetStarted,
    AssetSucceeded,
    Cancelled,
    ConfigError,
    Context,
    Event,
    ExecutionError,
    Pipeline,
    Retry,
    RunCancelled,
    RunEvent,
    RunFailed,
    RunFinished,
    RunStarted,
    RunSucceeded,
    TimedOut,
)
from flowstone_async.events import EVENT_TYPES, JOURNALED, OBSERVATIONS
from tests.support.engines import OpenEngine, OpenVerbs
from tests.support.gate import Gate, soon


class _Case:
    """`first` and `second` succeed, `skipped` is skipped, `broken` fails twice and blocks `below`, `held` waits."""

    def __init__(self) -> None:
        self.heard: list[Event] = []
        self.gate = Gate()
        self.pipe = pipe = Pipeline("events")

        @pipe.asset
        async def first() -> int:
            return 1

        @pipe.asset
        async def second(first: int) -> int:
            return first + 1

        @pipe.asset(when=lambda ctx: False)
        async def skipped() -> int:
            return 1

        @pipe.asset(retry=Retry(2, backoff="none"))
        async def broken() -> int:
            raise ValueError("broken")

        @pipe.asset
        async def below(broken: int) -> int:
            return broken

        @pipe.asset
        async def held() -> int:
            await self.gate()
            return 1

        self.on(self.hear)

    def on(self, hook: Callable[[Any], Any]) -> None:
        """Register a hook for the events of runs and of assets."""
        for kind in (RunEvent, AssetEvent):
            self.pipe.on(kind)(hook)

    async def hear(self, event: Event) -> None:
        """Take note of an event."""
        self.heard.append(event)

    def types(self) -> list[str]:
        """Return what was heard as `type` or `type asset`, and forget it."""
        told = [f"{event.type} {event.asset}" if isinstance(event, AssetEvent) else event.type for event in self.heard]
        self.heard.clear()
        return told


async def test_the_events_of_a_run_in_order(open_verbs: OpenVerbs):
    """EVT-01, EVT-02: around the run, around each asset; numbered without gaps, on the store's clock."""
    case = _Case()
    verbs = await open_verbs(case.pipe)
    await verbs.run("second")
    assert [event.no for event in case.heard] == list(range(1, 10))
    assert len({event.run_id for event in case.heard}) == 1
    assert {event.pipeline for event in case.heard} == {"events"}
    instants = [event.at for event in case.heard]
    assert instants == sorted(instants)
    assert case.types() == [
        "run.started",
        "asset.started first",
        "asset.succeeded first",
        "asset.finished first",
        "asset.started second",
        "asset.succeeded second",
        "asset.finished second",
        "run.succeeded",
        "run.finished",
    ]


async def test_reused_and_skipped_assets_emit_neither_started_nor_finished(open_verbs: OpenVerbs):
    """EVT-02: just `AssetReused` or `AssetSkipped`, which name the materialization, or the reason."""
    case = _Case()
    verbs = await open_verbs(case.pipe)
    await verbs.run("second")
    case.types()
    await verbs.report("second", "skipped")
    (reused,) = [each for each in case.heard if isinstance(each, AssetReused)]
    (skipped,) = [each for each in case.heard if isinstance(each, AssetSkipped)]
    assert len(reused.materialization) == 36
    assert "lambda" in skipped.reason
    told = case.types()
    assert (told[0], told[-2:]) == ("run.started", ["run.succeeded", "run.finished"])
    assert sorted(told[1:-2]) == ["asset.reused second", "asset.skipped skipped"]


async def test_a_failing_run_tells_each_failure(open_verbs: OpenVerbs):
    """EVT-01, EVT-04: ends carry seconds, failures and attempts their error; a blocked asset never started."""
    case = _Case()
    verbs = await open_verbs(case.pipe)
    with pytest.raises(Exception, match="broken"):
        await verbs.run("below")
    failed = [event for event in case.heard if isinstance(event, AssetFailed)]
    assert [(event.asset, event.blocked) for event in failed] == [("broken", False), ("below", True)]
    assert isinstance(failed[0].error, ExecutionError)
    assert isinstance(failed[0].error.__cause__, ValueError)
    (finished,) = [event for event in case.heard if isinstance(event, AssetFinished)]
    assert (finished.asset, finished.outcome, finished.attempts) == ("broken", "failed", 2)
    (retrying,) = [event for event in case.heard if isinstance(event, AssetRetrying)]
    assert retrying.attempt == 1
    assert isinstance(retrying.error, ExecutionError)
    ends = [event for event in case.heard if isinstance(event, RunFailed | RunFinished)]
    assert all(event.error is not None and event.seconds >= 0 for event in ends)
    assert [event.state for event in ends if isinstance(event, RunFinished)] == ["failed"]
    assert case.types() == [
        "run.started",
        "asset.started broken",
        "asset.retrying broken",
        "asset.failed broken",
        "asset.finished broken",
        "asset.failed below",
        "run.failed",
        "run.finished",
    ]


def _ends(heard: list[Event]) -> list[str]:
    return [event.type for event in heard if isinstance(event, RunEvent) and not isinstance(event, RunStarted)]


async def test_every_run_has_exactly_one_end(open_engine: OpenEngine):
    """EVT-02: whatever its outcome, with just one of succeeded, failed and cancelled; their hooks end before `run`."""
    case = _Case()
    ended: list[str] = []

    @case.pipe.on(RunFinished)
    async def slowly(event: RunFinished) -> None:
        for _ in range(50):
            await asyncio.sleep(0)
        ended.append(event.state)

    engine = await open_engine(case.pipe)
    await engine.run("second")
    assert _ends(case.heard) == ["run.succeeded", "run.finished"]
    case.heard.clear()
    with pytest.raises(ExecutionError):
        await engine.run("broken")
    assert _ends(case.heard) == ["run.failed", "run.finished"]
    case.heard.clear()
    with pytest.raises(TimedOut):
        await engine.run("held", timeout=0.05)
    assert _ends(case.heard) == ["run.failed", "run.finished"]
    case.heard.clear()
    run = await engine.submit("held")
    await case.gate.reached(2)
    await run.cancel()
    with pytest.raises(Cancelled):
        await soon(run.result())
    assert _ends(case.heard) == ["run.cancelled", "run.finished"]
    case.heard.clear()
    awaiting = asyncio.create_task(engine.run("held"))
    await case.gate.reached(3)
    awaiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await soon(awaiting)
    assert _ends(case.heard) == ["run.cancelled", "run.finished"]
    assert ended == ["succeeded", "failed", "failed", "cancelled", "cancelled"]


async def test_a_run_without_work_is_told_of_too(open_verbs: OpenVerbs):
    """EVT-02: of one that reuses or skips everything."""
    case = _Case()
    verbs = await open_verbs(case.pipe)
    await verbs.report("skipped")
    assert case.types() == ["run.started", "asset.skipped skipped", "run.succeeded", "run.finished"]


async def test_run_started_hooks_end_before_the_first_body_starts(open_verbs: OpenVerbs):
    """EVT-02: bodies and conditions wait for them; `AssetStarted` hooks end before their asset's body."""
    pipe = Pipeline("order")
    order: list[str] = []
    gate = Gate()

    @pipe.on(RunStarted)
    async def before(event: RunStarted) -> None:
        order.append("run started")
        await gate()
        order.append("hook ended")

    @pipe.on(AssetStarted)
    def about_to(event: AssetStarted) -> None:
        order.append(f"{event.asset} starts")

    def asked(ctx: Context) -> bool:
        order.append("asked")
        return True

    @pipe.asset(when=asked)
    async def body() -> int:
        order.append("body")
        return 1

    @pipe.on(RunFinished)
    async def after(event: RunFinished) -> None:
        await asyncio.sleep(0)
        order.append("run finished")

    verbs = await open_verbs(pipe)
    running = asyncio.create_task(verbs.run(body))
    await gate.reached()
    for _ in range(20):
        await asyncio.sleep(0)
    assert order == ["run started"]
    gate.open()
    await soon(running)
    assert order == ["run started", "hook ended", "asked", "body starts", "body", "run finished"]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (RunStarted, {"run.started"}),
        (RunSucceeded, {"run.succeeded"}),
        (RunEvent, {"run.started", "run.succeeded", "run.finished"}),
        (AssetSucceeded, {"asset.succeeded first", "asset.succeeded second"}),
        (
            AssetEvent,
            {f"asset.{what} {asset}" for what in ("started", "succeeded", "finished") for asset in ("first", "second")},
        ),
        (RunCancelled, set[str]()),
    ],
)
async def test_a_base_type_receives_all_below_it(kind: type[Event], expected: set[str]):
    """EVT-01: and a type nothing but itself."""
    case = _Case()
    heard: list[Event] = []
    case.pipe.on(kind)(heard.append)
    await case.pipe.run("second")
    case.heard = heard
    assert set(case.types()) == expected


async def test_hooks_of_an_engine_hear_of_all_its_pipelines(open_engine: OpenEngine):
    """EVT-01, CFG-02: those of a pipeline only of its own, those of another engine of nothing."""
    one, two = Pipeline("one"), Pipeline("two")
    one.constant("first", 1)
    two.constant("second", 2)
    heard: list[tuple[str, str]] = []
    one.on(RunFinished)(lambda event: heard.append(("pipeline one", event.pipeline)))
    engine, other = await open_engine(one, two), await open_engine(one, two)
    engine.on(RunFinished)(lambda event: heard.append(("engine", event.pipeline)))
    other.on(RunFinished)(lambda event: heard.append(("other engine", event.pipeline)))
    await engine.run("first")
    await engine.run("second")
    assert heard == [("pipeline one", "one"), ("engine", "one"), ("engine", "two")] or heard == [
        ("engine", "one"),
        ("pipeline one", "one"),
        ("engine", "two"),
    ]


async def test_a_sync_hook_runs_in_a_thread_and_an_object_may_be_one(open_verbs: OpenVerbs):
    """EVT-01: it does not block the loop; what it returns is ignored, an awaitable is awaited."""
    pipe = Pipeline("hooks")
    pipe.constant("one", 1)
    threads: list[bool] = []
    awaited: list[str] = []

    class Listener:
        async def __call__(self, event: RunFinished) -> None:
            awaited.append("object")

    async def told(event: RunFinished) -> None:
        awaited.append("lambda")

    pipe.on(RunFinished)(lambda event: threads.append(threading.current_thread() is threading.main_thread()))
    pipe.on(RunFinished)(Listener())
    pipe.on(RunFinished)(lambda event: told(event))
    verbs = await open_verbs(pipe)
    await verbs.run("one")
    assert threads == [False]
    assert sorted(awaited) == ["lambda", "object"]


def _raises(event: Event) -> None:
    raise LookupError("the hook broke")


async def _raises_later(event: Event) -> None:
    raise LookupError("the hook broke")


async def _raises_group(event: Event) -> None:
    raise ExceptionGroup("several", [LookupError("the hook broke")])


async def _cancels_itself(event: Event) -> None:
    raise asyncio.CancelledError("the hook broke")


def _exhausted(event: Event) -> None:
    raise StopIteration("the hook broke")


@pytest.mark.parametrize("hook", [_raises, _raises_later, _raises_group, _cancels_itself, _exhausted])
async def test_a_hook_that_raises_changes_nothing(
    open_verbs: OpenVerbs, hook: Callable[[Event], Any], caplog: pytest.LogCaptureFixture
):
    """EVT-03: it is logged, with its name; other hooks of the event are called, and the run succeeds."""
    case = _Case()
    case.on(hook)
    verbs = await open_verbs(case.pipe)
    assert await soon(verbs.run("second")) == 2
    assert len(case.types()) == 9
    told = [each.getMessage() for each in caplog.records if hook.__name__ in each.getMessage()]
    assert len(told) == 9
    assert any("run.finished" in each for each in told)
    assert "the hook broke" in caplog.text


async def test_a_slow_hook_is_cancelled_after_its_time(open_engine: OpenEngine, caplog: pytest.LogCaptureFixture):
    """EVT-03: `hook_timeout`; the others of the event are not delayed, the run is not failed."""
    pipe = Pipeline("hooks")
    pipe.constant("one", 1)
    seen: list[str] = []
    latch = threading.Event()

    @pipe.on(RunStarted)
    async def endless(event: RunStarted) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            seen.append("cancelled")

    @pipe.on(RunStarted)
    def stuck(event: RunStarted) -> None:
        latch.wait(20)

    @pipe.on(RunStarted)
    async def quick(event: RunStarted) -> None:
        seen.append("quick")

    engine = await open_engine(pipe, hook_timeout="50ms")
    assert await soon(engine.run("one")) == 1
    latch.set()
    assert seen == ["quick", "cancelled"]
    assert len([each for each in caplog.records if "took longer than 0.05 s" in each.getMessage()]) == 2


@pytest.mark.parametrize("kind", [RunStarted, AssetStarted, AssetSucceeded, RunFinished])
async def test_a_lone_hook_that_raises_cancelled_error(open_verbs: OpenVerbs, kind: type[Event]):
    """EVT-03: nobody cancelled the run; there is no group around a hook without company."""
    pipe = Pipeline("lone")
    pipe.constant("one", 1)
    pipe.on(kind)(_cancels_itself)
    verbs = await open_verbs(pipe)
    assert await soon(verbs.run("one")) == 1


async def test_hooks_of_one_event_run_side_by_side(open_verbs: OpenVerbs):
    """EVT-03: each waits for the other here."""
    pipe, first, second = Pipeline("beside"), asyncio.Event(), asyncio.Event()
    pipe.constant("one", 1)

    @pipe.on(RunStarted)
    async def one(event: RunStarted) -> None:
        first.set()
        await second.wait()

    @pipe.on(RunStarted)
    async def two(event: RunStarted) -> None:
        second.set()
        await first.wait()

    verbs = await open_verbs(pipe)
    assert await soon(verbs.run("one")) == 1


async def test_hook_timeout_false_is_no_limit(open_engine: OpenEngine):
    """CFG-02: `hook_timeout=False` switches it off."""
    case = _Case()
    engine = await open_engine(case.pipe, hook_timeout=False)
    assert engine._live().services.settings.hook_timeout is None
    assert await engine.run("second") == 2
    assert len(case.types()) == 9


async def test_a_hook_may_use_the_engine(open_engine: OpenEngine):
    """EVT-03: a run in a hook is a run like others, with hooks of its own."""
    case = _Case()
    engine = await open_engine(case.pipe)
    found: list[object] = []

    @engine.on(AssetSucceeded)
    async def again(event: AssetSucceeded) -> None:
        if event.asset == "second":
            found.append(await engine.get("second"))
            found.append(await engine.run("first"))

    await soon(engine.run("second"))
    assert found == [2, 1]


@pytest.mark.parametrize("wrong", ["run.started", object, RunStarted(pipeline="p", run_id="r", at=None)])  # type: ignore[arg-type]
async def test_a_hook_for_no_event_type_is_refused(open_engine: OpenEngine, wrong: Any):
    """EVT-01: `ConfigError`, of a pipeline and of an engine."""
    pipe = Pipeline("hooks")
    engine = await open_engine(pipe)
    for register in (pipe.on, engine.on):
        with pytest.raises(ConfigError, match="takes an event type"):
            register(wrong)


def test_event_types_have_canonical_names():
    """EVT-04: `family.what`, each once, in the families of this release; bases are never emitted."""
    assert len(EVENT_TYPES) == len(JOURNALED) + len(OBSERVATIONS)
    assert all(EVENT_TYPES[each.type] is each for each in (*JOURNALED, *OBSERVATIONS))
    families = {"run", "asset", "scatter", "resource", "storage.store", "storage.load", "lease", "engine", "rate"}
    families |= {"gate", "approval", "step"}
    assert {name.rpartition(".")[0] for name in EVENT_TYPES} == families
    assert {each for each in EVENT_TYPES.values() if each.__subclasses__()} == set()


async def test_one_log_line_for_each_finished_asset(open_verbs: OpenVerbs, caplog: pytest.LogCaptureFixture):
    """EVT-06: at INFO with run, asset, partition, outcome, seconds and attempts; a failure once at ERROR."""
    case = _Case()
    caplog.set_level(logging.DEBUG, "flowstone")
    verbs = await open_verbs(case.pipe)
    report = await verbs.report("second", "broken", partition="eu")
    lines = [each for each in caplog.records if getattr(each, "outcome", None)]
    facts = {(each.asset, each.outcome, each.levelname, each.attempts, each.partition) for each in lines}  # type: ignore[attr-defined]
    assert facts == {
        ("first", "succeeded", "INFO", 1, "eu"),
        ("second", "succeeded", "INFO", 1, "eu"),
        ("broken", "failed", "ERROR", 2, "eu"),
    }
    assert len(lines) == 3
    assert sum(each.levelno >= logging.ERROR for each in caplog.records) == 1
    assert all(each.run_id == report.run_id and each.seconds >= 0 for each in lines)  # type: ignore[attr-defined]
    assert all(report.run_id in each.getMessage() and each.name == "flowstone" for each in lines)


def test_the_library_configures_no_logging():
    """EVT-06: level and handlers are the host's."""
    logger = logging.getLogger("flowstone")
    assert logger.level == logging.NOTSET
    assert logger.handlers == []
    assert logger.propagate


async def test_a_log_line_is_one_line(caplog: pytest.LogCaptureFixture):
    """SEC-05, EVT-06: line ends and control characters in keys and texts are escaped."""
    pipe = Pipeline("logs")

    @pipe.asset
    async def broken(ctx: Context) -> int:
        raise ValueError("first\nERROR forged\x1b[31m")

    with pytest.raises(ExecutionError):
        await pipe.run(broken, partition="a\nb\x07")
    (line,) = [each.getMessage() for each in caplog.records if each.levelno == logging.ERROR]
    assert "\n" not in line
    assert "\x1b" not in line
    assert "\x07" not in line
    assert "first" in line


async def test_a_body_s_own_log_is_bound_to_its_run(caplog: pytest.LogCaptureFixture):
    """FLOW-03: `ctx.log` carries run, asset and partition; using the context afterwards is refused."""
    pipe = Pipeline("logs")
    kept: list[Context] = []
    caplog.set_level(logging.INFO, "flowstone")

    @pipe.asset
    async def told(ctx: Context) -> int:
        ctx.log.info("read %d rows", 3)
        kept.append(ctx)
        return 1

    await pipe.run(told, partition="eu")
    (line,) = [each for each in caplog.records if "3 rows" in each.getMessage()]
    assert (line.asset, line.partition) == ("told", "eu")  # type: ignore[attr-defined]
    for used in (lambda: kept[0].attempt, lambda: kept[0].metadata(a=1), lambda: kept[0].log):
        with pytest.raises(ConfigError, match="after its body had ended"):
            used()
