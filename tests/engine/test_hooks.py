"""Hooks: EVT-01..04 and EVT-06; see `test_events` for readers of a run's events."""

from __future__ import annotations

import asyncio
import logging
import threading
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
)
from tests.support.engines import OpenEngine, OpenVerbs
from tests.support.gate import Gate, soon

RUN_ENDS = {"succeeded": RunSucceeded, "failed": RunFailed, "cancelled": RunCancelled}


class _Pipe:
    """A chain of three, of which the last may fail or wait, and all events it made."""

    def __init__(self) -> None:
        self.pipe = pipe = Pipeline("hooked")
        self.events: list[Event] = []
        self.order: list[str] = []
        self.gate, self.way = Gate(), "succeeded"
        self.gate.open()

        @pipe.asset
        async def raw() -> int:
            self.order.append("raw")
            return 1

        @pipe.asset(when=lambda ctx: self.way != "skipped")
        async def extra(raw: int) -> int:
            return raw

        @pipe.asset(retry=Retry(2, backoff="none"))
        async def target(raw: int) -> int:
            self.order.append("target")
            await self.gate()
            if self.way == "failed":
                raise ValueError("no")
            return raw

        @pipe.on(Event)
        async def hear(event: Event) -> None:
            self.events.append(event)

    def heard(self, kind: type[Event]) -> list[str]:
        """Return the types of events of a type or below it, and their assets."""
        return [f"{each.type} {getattr(each, 'asset', '')}".strip() for each in self.events if isinstance(each, kind)]


async def test_the_events_of_a_run(open_verbs: OpenVerbs):
    """EVT-01, EVT-02: in order; a base type receives all below it."""
    hooked = _Pipe()
    verbs = await open_verbs(hooked.pipe)
    await verbs.run("target")
    assert hooked.heard(Event) == [
        "run.started",
        *("asset.started raw", "asset.succeeded raw", "asset.finished raw"),
        *("asset.started target", "asset.succeeded target", "asset.finished target"),
        *("run.succeeded", "run.finished"),
    ]
    assert [each.no for each in hooked.events] == list(range(1, 10))
    assert {each.pipeline for each in hooked.events} == {"hooked"}
    assert len({each.run_id for each in hooked.events}) == 1


async def test_a_hook_hears_of_its_type_only(open_verbs: OpenVerbs):
    """EVT-01: a type, and a base type of runs or of assets."""
    hooked, found = _Pipe(), dict[type[Event], list[Event]]()
    for kind in (RunEvent, AssetEvent, AssetSucceeded, RunFailed):
        found[kind] = []
        hooked.pipe.on(kind)(found[kind].append)
    verbs = await open_verbs(hooked.pipe)
    await verbs.run("target")
    assert {kind.__name__: len(each) for kind, each in found.items()} == {
        "RunEvent": 3,
        "AssetEvent": 6,
        "AssetSucceeded": 2,
        "RunFailed": 0,
    }


async def test_hooks_of_an_engine_hear_of_all_its_pipelines(open_engine: OpenEngine):
    """EVT-01: `engine.on`, beside the pipelines' own."""
    hooked, other, heard = _Pipe(), Pipeline("other"), list[str]()

    @other.asset
    async def lone() -> int:
        return 1

    engine = await open_engine(hooked.pipe, other)

    @engine.on(RunStarted)
    async def hear(event: RunStarted) -> None:
        heard.append(event.pipeline)

    await engine.run("target")
    await engine.run(lone)
    assert heard == ["hooked", "other"]
    assert hooked.heard(RunStarted) == ["run.started"]


def test_only_event_types_are_listened_to():
    """EVT-01."""
    with pytest.raises(ConfigError, match="event type"):
        Pipeline("wrong").on(int)  # pyright: ignore[reportArgumentType] - that is the point
    with pytest.raises(ConfigError, match="event type"):
        Pipeline("wrong").on("run.failed")  # pyright: ignore[reportArgumentType] - that is the point


async def test_a_plain_function_is_a_hook(open_verbs: OpenVerbs):
    """EVT-01: it does not hold the event loop."""
    hooked, threads = _Pipe(), list[int]()

    @hooked.pipe.on(RunStarted)
    def hear(event: RunStarted) -> None:
        threads.append(threading.get_ident())

    verbs = await open_verbs(hooked.pipe)
    await verbs.run("target")
    assert len(threads) == 1
    assert threads[0] != threading.get_ident()


async def test_hooks_of_the_start_end_before_the_first_body_starts(open_verbs: OpenVerbs):
    """EVT-02."""
    hooked, hold = _Pipe(), Gate()

    @hooked.pipe.on(RunStarted)
    async def hear(event: RunStarted) -> None:
        await hold()
        hooked.order.append("hook")

    verbs = await open_verbs(hooked.pipe)
    task = asyncio.create_task(verbs.run("target"))
    await hold.reached()
    for _ in range(100):
        await asyncio.sleep(0)
    assert hooked.order == []
    hold.open()
    await soon(task)
    assert hooked.order == ["hook", "raw", "target"]


@pytest.mark.parametrize("state", ["succeeded", "failed", "cancelled"])
async def test_a_run_ends_once(open_verbs: OpenVerbs, state: str):
    """EVT-02: exactly one `RunFinished`, just one of the three, and their hooks end before `run` returns."""
    hooked, ended = _Pipe(), list[str]()
    hooked.way = state
    if state == "cancelled":
        hooked.gate.close()

    @hooked.pipe.on(RunFinished)
    async def hear(event: RunFinished) -> None:
        for _ in range(50):
            await asyncio.sleep(0)
        ended.append(event.state)

    verbs = await open_verbs(hooked.pipe)
    task = asyncio.create_task(verbs.run("target"))
    if state == "cancelled":
        await hooked.gate.reached()
        await verbs.cancel("target")
    if state == "succeeded":
        assert await soon(task) == 1
    else:
        with pytest.raises(ExecutionError if state == "failed" else Cancelled):
            await soon(task)
    assert ended == [state]
    ends = [type(each) for each in hooked.events if isinstance(each, tuple(RUN_ENDS.values()))]
    assert ends == [RUN_ENDS[state]]


async def test_what_is_reused_or_skipped_neither_starts_nor_finishes(open_verbs: OpenVerbs):
    """EVT-02."""
    hooked = _Pipe()
    verbs = await open_verbs(hooked.pipe)
    await verbs.run("raw")
    hooked.events.clear()
    hooked.way = "skipped"
    await verbs.report("raw", "extra")
    assert hooked.heard(AssetEvent) == ["asset.reused raw", "asset.skipped extra"]
    reused, skipped = (each for each in hooked.events if isinstance(each, AssetReused | AssetSkipped))
    assert isinstance(reused, AssetReused)
    assert reused.materialization
    assert isinstance(skipped, AssetSkipped)
    assert skipped.reason.startswith("when=")


async def test_a_failure_and_its_attempts(open_verbs: OpenVerbs):
    """EVT-01, EVT-04: failures carry `error`, ends carry `seconds`."""
    hooked = _Pipe()
    hooked.way = "failed"
    verbs = await open_verbs(hooked.pipe)
    await verbs.report("target")
    assert hooked.heard(AssetEvent)[3:] == [
        "asset.started target",
        "asset.retrying target",
        "asset.failed target",
        "asset.finished target",
    ]
    for kind in (AssetRetrying, AssetFailed, AssetFinished, RunFailed, RunFinished):
        event: Any = next(each for each in reversed(hooked.events) if isinstance(each, kind))
        assert isinstance(event.error, ExecutionError)
        assert "no" in event.error.message
        assert kind is AssetRetrying or event.seconds >= 0
    finished = [each for each in hooked.events if isinstance(each, AssetFinished)]
    assert [(each.outcome, each.attempts) for each in finished] == [("succeeded", 1), ("failed", 2)]
    started = [each for each in hooked.events if isinstance(each, AssetStarted)]
    assert len(started) == 2


@pytest.mark.parametrize("way", ["raises", "raises in a thread", "is cancelled", "hangs"])
async def test_a_hook_breaks_nothing(open_engine: OpenEngine, way: str, caplog: pytest.LogCaptureFixture):
    """EVT-03: it is logged, changes nothing, and delays no other hook of the event."""
    hooked, others = _Pipe(), list[str]()

    async def broken(event: Event) -> None:
        if way == "is cancelled":
            raise asyncio.CancelledError
        if way == "hangs":
            await asyncio.Event().wait()
        raise LookupError("a broken hook")

    def broken_in_a_thread(event: Event) -> None:
        raise LookupError("a broken hook")

    hooked.pipe.on(Event)(broken_in_a_thread if way.endswith("thread") else broken)
    hooked.pipe.on(Event)(lambda event: others.append(event.type))
    engine = await open_engine(hooked.pipe, hook_timeout="10ms")
    assert await soon(engine.run("target")) == 1
    assert others == [each.type for each in hooked.events]
    assert len(others) == 9
    logged = [each for each in caplog.records if "broken" in each.getMessage()]
    assert len(logged) == 9
    assert {each.levelno for each in logged} == {logging.ERROR}


@pytest.mark.parametrize("kind", [RunStarted, AssetStarted, AssetSucceeded, RunFinished])
async def test_a_lone_hook_that_raises_cancelled_error(open_verbs: OpenVerbs, kind: type[Event]):
    """EVT-03: nobody cancelled the run."""
    pipe = Pipeline("lone")

    @pipe.asset
    async def raw() -> int:
        return 1

    @pipe.asset
    async def target(raw: int) -> int:
        return raw

    @pipe.on(kind)
    async def broken(event: Event) -> None:
        raise asyncio.CancelledError

    verbs = await open_verbs(pipe)
    assert await soon(verbs.run(target)) == 1


async def test_hooks_of_one_event_run_side_by_side(open_verbs: OpenVerbs):
    """EVT-03: each waits for the other here."""
    hooked, first, second = _Pipe(), asyncio.Event(), asyncio.Event()

    @hooked.pipe.on(RunStarted)
    async def one(event: RunStarted) -> None:
        first.set()
        await second.wait()

    @hooked.pipe.on(RunStarted)
    async def two(event: RunStarted) -> None:
        second.set()
        await first.wait()

    verbs = await open_verbs(hooked.pipe)
    assert await soon(verbs.run("target")) == 1


async def test_hooks_run_where_the_event_was_made(open_engine: OpenEngine):
    """EVT-03: an engine that shares the store does not hear of it."""
    hooked = _Pipe()
    here, there = await open_engine(hooked.pipe), await open_engine(hooked.pipe)
    heard = list[str]()
    there.on(Event)(lambda event: heard.append(event.type))
    await here.run("target")
    assert heard == []


async def test_one_log_line_for_each_finished_asset(open_verbs: OpenVerbs, caplog: pytest.LogCaptureFixture):
    """EVT-06: at INFO with run, asset, partition, outcome, seconds and attempts; a failure once at ERROR."""
    hooked = _Pipe()
    hooked.way = "failed"
    verbs = await open_verbs(hooked.pipe)
    with caplog.at_level(logging.INFO, logger="flowstone"):
        report = await verbs.report("target", partition="eu")
    lines: list[Any] = [each for each in caplog.records if hasattr(each, "outcome")]
    assert [(each.asset, each.partition, each.outcome, each.levelname, each.attempts) for each in lines] == [
        ("raw", "eu", "succeeded", "INFO", 1),
        ("target", "eu", "failed", "ERROR", 2),
    ]
    assert {each.run_id for each in lines} == {report.run_id}
    assert {each.name for each in lines} == {"flowstone"}
    assert all(each.seconds >= 0 and each.run_id in each.getMessage() for each in lines)
    assert sum(each.levelno >= logging.ERROR for each in caplog.records) == 1


def test_the_library_configures_no_logging():
    """EVT-06: level and handlers are the host's."""
    logger = logging.getLogger("flowstone")
    assert logger.level == logging.NOTSET
    assert logger.handlers == []
    assert logger.propagate
