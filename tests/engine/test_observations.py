"""Events that are told to hooks and stored nowhere: EVT-04; see `test_life` for those of engines and leases."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Literal

import pytest

from flowstone_async import (
    AssetEvent,
    AssetSucceeded,
    Cancelled,
    ConfigError,
    Context,
    Engine,
    EngineEvent,
    EngineStarted,
    EngineStopped,
    Event,
    ExecutionError,
    FlowstoneError,
    LeaseAcquired,
    LeaseEvent,
    LeaseExpired,
    LeaseReleased,
    LoopBlocked,
    Pipeline,
    ResourceClosed,
    ResourceEvent,
    ResourceFailed,
    ResourceOpened,
    RunEvent,
    RunFinished,
    StorageError,
    StorageEvent,
    StorageLoadFailed,
    StorageLoadFinished,
    StorageLoadStarted,
    StorageStoreFailed,
    StorageStoreFinished,
    StorageStoreStarted,
    Stream,
    TimedOut,
    dep,
)
from flowstone_async.events import EVENT_TYPES, OBSERVATIONS
from flowstone_async.io import IOManager, Memory, Stored, ValueRef
from tests.support.engines import OpenEngine, OpenVerbs, SharedEngines
from tests.support.gate import Gate, soon

Scope = Literal["engine", "run", "asset"]
SECRET = "open-sesame"


class _Chain:
    """`raw`, and `target`, which loads it; and all that a hook of the pipeline hears."""

    def __init__(self, **options: Any) -> None:
        self.pipe = pipe = Pipeline("chain")
        self.heard: list[Event] = []

        async def hear(event: Event) -> None:
            self.heard.append(event)

        pipe.on(Event)(hear)

        async def raw() -> str:
            return "raw"

        async def target(raw: str) -> str:
            return f"{raw} and more"

        pipe.add(raw, **options)
        pipe.add(target, **options)

    def of(self, *kinds: type[Event]) -> list[Any]:
        """Return what was heard of some types and those below them."""
        return [event for event in self.heard if isinstance(event, kinds)]

    def told(self, *kinds: type[Event]) -> list[str]:
        """Return what was heard as `type subject`."""
        return [_told(event) for event in self.of(*(kinds or (Event,)))]


def _told(event: Event) -> str:
    return f"{event.type} {getattr(event, 'asset', None) or getattr(event, 'resource', '')}".strip()


# -- storage ------------------------------------------------------------------------------------------------------


async def test_values_are_told_of_while_they_are_stored_and_loaded(open_verbs: OpenVerbs):
    """EVT-04: each starts, then finishes; within what is told of the asset. What `run` returns is loaded after it."""
    chain = _Chain()
    verbs = await open_verbs(chain.pipe)
    await verbs.run("target")
    assert chain.told(RunEvent, AssetEvent, StorageEvent) == [
        "run.started",
        *("asset.started raw", "storage.store.started raw", "storage.store.finished raw"),
        *("asset.succeeded raw", "asset.finished raw"),
        *("asset.started target", "storage.load.started raw", "storage.load.finished raw"),
        *("storage.store.started target", "storage.store.finished target"),
        *("asset.succeeded target", "asset.finished target", "run.succeeded", "run.finished"),
        *("storage.load.started target", "storage.load.finished target"),
    ]
    instants = [each.at for each in chain.of(StorageEvent)]
    assert instants == sorted(instants)


async def test_what_storage_events_say(open_engine: OpenEngine):
    """EVT-04: whose value, where, of which run; ends carry size and seconds, and no event has a number."""
    chain = _Chain()
    engine = await open_engine(chain.pipe)
    report = await engine.report("target", partition="eu")
    made = {each.asset: each for each in chain.of(AssetSucceeded)}
    status = await engine.status("raw", partition="eu")
    in_the_run = [each for each in chain.of(StorageEvent) if each.run_id]
    assert len(in_the_run) == 6
    for each in in_the_run:
        assert (each.pipeline, each.run_id, each.partition, each.no) == ("chain", report.run_id, "eu", 0)
        assert (each.io, each.materialization) == (status.io, made[each.asset].materialization)
    ends = [each for each in in_the_run if isinstance(each, StorageStoreFinished | StorageLoadFinished)]
    assert [each.size for each in ends] == [made["raw"].size, made["raw"].size, made["target"].size]
    assert made["target"].size > made["raw"].size > 0
    assert all(each.seconds > 0 for each in ends)


async def test_what_is_read_outside_a_run_belongs_to_none(open_engine: OpenEngine):
    """EVT-04: by `get`, by `report`, and by a handle elsewhere."""
    chain = _Chain()
    engine, other = await open_engine(chain.pipe), await open_engine(chain.pipe)
    run = await engine.submit("target")
    await soon(run.result())
    chain.heard.clear()
    assert await engine.get("target") == "raw and more"
    assert chain.told() == ["storage.load.started target", "storage.load.finished target"]
    assert {each.run_id for each in chain.heard} == {""}
    assert chain.of(StorageLoadFinished)[0].size > 0
    chain.heard.clear()
    await (await other.find(run.id)).result()
    assert chain.told() == ["storage.load.started target", "storage.load.finished target"]
    chain.heard.clear()
    await engine.report("target")
    assert chain.told(StorageEvent) == ["storage.load.started target", "storage.load.finished target"]
    assert {each.run_id for each in chain.of(StorageEvent)} == {""}


async def test_values_of_conditions_streams_and_other_pipelines(open_engine: OpenEngine):
    """EVT-04: they are loaded and stored like others; another pipeline's asset goes by its full name."""
    lake, pipe, heard = Pipeline("lake"), Pipeline("shop"), list[Event]()

    @lake.asset
    async def prices() -> int:
        return 1

    @pipe.asset
    async def items() -> AsyncIterator[int]:
        for number in range(3):
            yield number

    @pipe.asset
    async def wanted() -> bool:
        return True

    @pipe.asset(when=lambda wanted: wanted)
    async def total(items: Stream[int], price: int = dep(prices, external=True)) -> int:
        return sum([each async for each in items]) * price

    pipe.on(StorageEvent)(lambda event: heard.append(event))
    engine = await open_engine(lake, pipe)
    await engine.run(prices)
    assert heard == []
    assert await engine.run(total, concurrency=1) == 3
    assert [_told(each) for each in heard if not each.type.endswith("started")] == [
        "storage.store.finished wanted",
        "storage.load.finished wanted",
        "storage.store.finished items",
        "storage.load.finished items",
        "storage.load.finished lake.prices",
        "storage.store.finished total",
        "storage.load.finished total",
    ]
    assert {each.pipeline for each in heard} == {"shop"}


class _Faulty(IOManager):
    """A manager that does as it is told instead of storing, or loading."""

    @property
    def name(self) -> str:
        return "faulty"

    def __init__(self) -> None:
        self.memory = Memory(name="faulty")
        self.stores: Callable[[], Awaitable[None]] = _well
        self.loads: Callable[[], Awaitable[None]] = _well

    def supports(self, type_: object) -> bool:
        return True

    async def store(self, ref: ValueRef, value: Any) -> Stored:
        await self.stores()
        return await self.memory.store(ref, value)

    async def load(self, ref: ValueRef, want: object) -> Any:
        await self.loads()
        return await self.memory.load(ref, want)

    async def delete(self, ref: ValueRef) -> None:
        await self.memory.delete(ref)


async def _well() -> None:
    pass


def _raising(error: Exception) -> Callable[[], Awaitable[None]]:
    async def fail() -> None:
        raise error

    return fail


FULL = f"disk is full, token={SECRET}"
FAULTS: Any = pytest.mark.parametrize(("raised", "kind"), [(StorageError, StorageError), (ValueError, StorageError)])


@FAULTS
async def test_a_store_that_fails(open_engine: OpenEngine, raised: type[Exception], kind: type[FlowstoneError]):
    """EVT-04: `storage.store.failed` carries the error, and nothing has finished."""
    faulty = _Faulty()
    chain = _Chain(io="faulty")
    engine = await open_engine(chain.pipe, io={"faulty": faulty})
    faulty.stores = _raising(raised(FULL))
    await engine.report("raw")
    assert chain.told(StorageEvent) == ["storage.store.started raw", "storage.store.failed raw"]
    (failed,) = chain.of(StorageStoreFailed)
    assert type(failed.error) is kind
    assert "disk is full" in failed.error.message
    assert failed.io == "faulty"
    assert failed.seconds >= 0


@FAULTS
async def test_a_load_that_fails(open_engine: OpenEngine, raised: type[Exception], kind: type[FlowstoneError]):
    """EVT-04: of an input in a run, and of `get`; whoever asks for the value gets the error itself."""
    faulty = _Faulty()
    chain = _Chain(io="faulty")
    engine = await open_engine(chain.pipe, io={"faulty": faulty})
    await engine.run("raw")
    chain.heard.clear()
    fault = raised(FULL)
    faulty.loads = _raising(fault)
    with pytest.raises(kind) as caught:
        await engine.get("raw")
    assert fault in (caught.value, caught.value.__cause__)
    assert SECRET in str(fault)
    with pytest.raises(kind):
        await engine.run("target")
    (run,) = {each.run_id for each in chain.of(RunFinished)}
    told = ["storage.load.started raw", "storage.load.failed raw"]
    for run_id in ("", run):
        assert [_told(each) for each in chain.of(StorageEvent) if each.run_id == run_id] == told
    for each in chain.of(StorageLoadFailed):
        assert isinstance(each.error, kind)
        assert "disk is full" in each.error.message
        assert SECRET not in each.error.message


async def test_a_store_that_is_tried_again_is_told_of_once(open_verbs: OpenVerbs):
    """STORE-11, EVT-04: two of its tries fail, and it has finished."""
    faulty, tries = _Faulty(), list[int]()

    async def twice() -> None:
        tries.append(1)
        if len(tries) < 3:
            raise StorageError("busy", retryable=True)

    faulty.stores = twice
    chain = _Chain(io=faulty)
    verbs = await open_verbs(chain.pipe)
    await verbs.report("raw")
    assert chain.told(StorageEvent)[:2] == ["storage.store.started raw", "storage.store.finished raw"]
    assert chain.of(StorageStoreFinished)[0].seconds >= 0.2


async def test_a_store_that_is_cut_off_has_failed(open_engine: OpenEngine):
    """EVT-04: what started ends, also if the run is cancelled, and before that is told."""
    faulty, gate = _Faulty(), Gate()
    faulty.stores = gate
    chain = _Chain(io="faulty")
    engine = await open_engine(chain.pipe, io={"faulty": faulty})
    run = await engine.submit("raw")
    await gate.reached()
    await run.cancel()
    with pytest.raises(Cancelled):
        await soon(run.result())
    assert chain.told(StorageEvent) == ["storage.store.started raw", "storage.store.failed raw"]
    (failed,) = chain.of(StorageStoreFailed)
    assert isinstance(failed.error, Cancelled)
    assert chain.heard.index(failed) < chain.heard.index(chain.of(RunFinished)[0])


# -- resources ----------------------------------------------------------------------------------------------------


class _Lines:
    """`call` takes a resource of some scope, whose closing goes some way."""

    def __init__(self, scope: Scope, way: str = "well") -> None:
        self.pipe = pipe = Pipeline("lines")
        self.heard: list[Any] = []
        pipe.on(ResourceEvent)(self.heard.append)

        @pipe.resource(scope=scope)
        async def line() -> AsyncIterator[str]:
            if way == "never opens":
                raise OSError(f"no dial tone, token={SECRET}")
            yield "line"
            if way == "raises":
                raise OSError(f"the line is dead, token={SECRET}")
            if way == "hangs":
                await asyncio.Event().wait()

        @pipe.asset
        async def call(line: str) -> str:
            return line


@pytest.mark.parametrize("scope", ["asset", "run", "engine"])
async def test_resources_open_and_close(engines: SharedEngines, scope: Scope):
    """EVT-04: with the run that they live in, which ends after its hooks; those of an engine live in none."""
    lines = _Lines(scope)
    async with Engine(lines.pipe, **engines._store({})) as engine:
        report = await engine.report("call")
        assert scope == "engine" or len(lines.heard) == 2
        await engine.run("call", force=True)
    times = 1 if scope == "engine" else 2
    assert [_told(each) for each in lines.heard] == ["resource.opened line", "resource.closed line"] * times
    opened, closed = lines.heard[:2]
    assert isinstance(opened, ResourceOpened)
    assert isinstance(closed, ResourceClosed)
    for each in (opened, closed):
        assert (each.pipeline, each.scope, each.no) == ("lines", scope, 0)
        assert each.run_id == ("" if scope == "engine" else report.run_id)
        assert each.seconds > 0
    assert closed.error is None


@pytest.mark.parametrize("scope", ["asset", "run", "engine"])
@pytest.mark.parametrize("way", ["raises", "hangs"])
async def test_a_closing_that_fails_is_told_of(
    engines: SharedEngines, scope: Scope, way: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """RES-02, EVT-04: once, with its error; secrets are hidden there and in the log."""
    if way == "hangs":
        monkeypatch.setattr("flowstone_async.resources.CLOSE_LIMIT", 0.01)
    lines = _Lines(scope, way)
    async with Engine(lines.pipe, **engines._store({})) as engine:
        assert await engine.run("call") == "line"
    assert [_told(each) for each in lines.heard] == ["resource.opened line", "resource.closed line"]
    error = lines.heard[1].error
    assert isinstance(error, ExecutionError if way == "raises" else TimedOut)
    assert "'line'" in error.message
    assert ("the line is dead" if way == "raises" else "0.01 s") in error.message
    logged = [each for each in caplog.records if "resource 'line'" in each.getMessage()]
    assert len(logged) == 1
    assert SECRET not in error.message + str(error.cause_text) + caplog.text


async def test_an_opening_that_fails_is_journaled_without_secrets(open_engine: OpenEngine):
    """RES-03, SEC-04: `resource.failed` alone is told, and stored; nothing was opened or closed."""
    lines = _Lines("run", "never opens")
    engine = await open_engine(lines.pipe)
    report = await engine.report("call")
    (failed,) = lines.heard
    assert isinstance(failed, ResourceFailed)
    stored = [each async for each in (await engine.find(report.run_id)).events() if isinstance(each, ResourceFailed)]
    assert [each.no for each in stored] == [failed.no]
    for each in (failed, *stored):
        assert each.error is not None
        assert "no dial tone" in each.error.message
        assert SECRET not in each.error.message


async def test_a_resource_that_two_pipelines_share_is_told_of_once(engines: SharedEngines):
    """EVT-01: a hook that came along with `include` hears of it once, an engine's too."""
    lines, outer, heard = _Lines("engine"), Pipeline("outer"), list[Event]()
    outer.include(lines.pipe)
    async with Engine(lines.pipe, outer, **engines._store({})) as engine:
        engine.on(ResourceEvent)(heard.append)
        await engine.run("lines.call")
    assert [_told(each) for each in lines.heard] == ["resource.opened line", "resource.closed line"]
    assert [_told(each) for each in heard] == ["resource.opened line", "resource.closed line"]


# -- who hears of them, and what it costs -------------------------------------------------------------------------


async def test_nothing_of_it_is_journaled(open_engine: OpenEngine):
    """EVT-04, EVT-05: a run's stored events are the same, whoever listens."""
    lines, stored = _Lines("run"), list[list[tuple[int, str]]]()
    engine = await open_engine(lines.pipe)
    lines.pipe.hooks.clear()
    for kind in (RunEvent, Event):
        lines.pipe.on(kind)(lines.heard.append)
        await engine.invalidate("call")
        run = await engine.submit("call")
        await soon(run.result())
        stored.append([(event.no, event.type) async for event in run.events()])
    assert stored[0] == stored[1]
    assert [number for number, _ in stored[0]] == [1, 2, 3, 4, 5, 6]
    assert {type(each) for each in lines.heard} >= {ResourceOpened, StorageStoreFinished, ResourceClosed}


@pytest.mark.parametrize("kind", [StorageEvent, ResourceOpened, LeaseExpired, EngineEvent])
async def test_they_cannot_be_read_from_the_store(open_engine: OpenEngine, kind: type[Event]):
    """G-05: asking for what will never come is refused, with the way to hear of it."""
    engine = await open_engine(Pipeline("read"))
    with pytest.raises(ConfigError, match="told to hooks only") as caught:
        engine.events(types=(RunEvent, kind))
    assert f"@engine.on({kind.__name__})" in str(caught.value.hint)


async def test_without_hooks_no_event_is_made(engines: SharedEngines, monkeypatch: pytest.MonkeyPatch):
    """EVT-04: nor where hooks want other events."""
    made = list[str]()
    for kind in OBSERVATIONS:
        monkeypatch.setattr(kind, "__init__", _counted(kind, made))
    for wanted in (None, RunEvent, StorageLoadFailed, ResourceEvent):
        made.clear()
        lines = _Lines("run")
        lines.pipe.hooks.clear()
        if wanted is not None:
            lines.pipe.on(wanted)(lines.heard.append)
        async with Engine(lines.pipe, **engines._store({})) as engine:
            await engine.run("call", force=True)
            await engine.get("call")
        assert made == (["resource.opened", "resource.closed"] if wanted is ResourceEvent else [])


def _counted(kind: type[Event], made: list[str]) -> Callable[..., None]:
    init: Any = kind.__init__

    def counted(self: Event, **fields: Any) -> None:
        made.append(kind.type)
        init(self, **fields)

    return counted


@pytest.mark.parametrize(
    ("base", "below"),
    [
        (
            StorageEvent,
            {
                *(StorageStoreStarted, StorageStoreFinished, StorageStoreFailed),
                *(StorageLoadStarted, StorageLoadFinished, StorageLoadFailed),
            },
        ),
        (ResourceEvent, {ResourceOpened, ResourceFailed, ResourceClosed}),
        (LeaseEvent, {LeaseAcquired, LeaseExpired, LeaseReleased}),
        (EngineEvent, {EngineStarted, EngineStopped, LoopBlocked}),
    ],
)
def test_the_families(base: type[Event], below: set[type[Event]]):
    """EVT-01: a base type for each, which receives all below it."""
    assert {each for each in EVENT_TYPES.values() if issubclass(each, base)} == below


@pytest.mark.not_in("evict", reason="the other engine may go on with the run, and hears of it then")
async def test_hooks_of_another_pipeline_or_engine_hear_nothing(open_engine: OpenEngine):
    """EVT-01, EVT-03: what concerns a pipeline reaches its hooks and the engine's, in the process that made it."""
    lines, other, heard = _Lines("engine"), Pipeline("other"), dict[str, list[Any]]()
    engine = await open_engine(lines.pipe, other)
    elsewhere = await open_engine(lines.pipe, other)
    for who, on in {"other": other.on, "engine": engine.on, "elsewhere": elsewhere.on}.items():
        heard[who] = []
        for kind in (StorageEvent, ResourceEvent):
            on(kind)(heard[who].append)
    await engine.run("call")
    await engine._live().observer.heard()  # a resource of the engine's is told of beside the run
    assert heard["other"] == heard["elsewhere"] == []
    assert sorted(_told(each) for each in heard["engine"]) == [
        "resource.opened line",
        *("storage.load.finished call", "storage.load.started call"),
        *("storage.store.finished call", "storage.store.started call"),
    ]


async def test_a_slow_hook_delays_no_commit(open_engine: OpenEngine):
    """EVT-03: the value is there for others before the hook of its storing has ended; `run` returns after it."""
    chain, hold = _Chain(timeout="10s"), Gate()

    @chain.pipe.on(StorageStoreStarted)
    async def slow(event: StorageStoreStarted) -> None:
        await hold()

    engine, other = await open_engine(chain.pipe), await open_engine(chain.pipe)
    running = asyncio.create_task(engine.run("raw"))
    await hold.reached()
    while not await other.exists("raw"):
        await asyncio.sleep(0)
    assert not running.done()
    assert chain.told(AssetSucceeded) == []
    hold.open()
    assert await soon(running) == "raw"
    assert chain.told(AssetSucceeded) == ["asset.succeeded raw"]


@pytest.mark.parametrize("way", ["raises", "hangs"])
async def test_a_hook_of_them_breaks_nothing(open_engine: OpenEngine, way: str, caplog: pytest.LogCaptureFixture):
    """EVT-03: it is logged, and the next event is told all the same."""
    chain = _Chain(timeout="10s")

    async def broken(event: Event) -> None:
        if way == "hangs":
            await asyncio.Event().wait()
        raise LookupError("the hook broke")

    chain.pipe.on(StorageEvent)(broken)
    engine = await open_engine(chain.pipe, hook_timeout="5ms")
    assert await soon(engine.run("raw")) == "raw"
    assert len(chain.of(StorageEvent)) == 4
    assert len([each for each in caplog.records if "broken" in each.getMessage()]) == 4


@pytest.mark.parametrize("how", ["by its name", "as a secret"])
async def test_secrets_are_hidden_in_errors(open_engine: OpenEngine, how: str):
    """SEC-04: of what a manager of the user's raises."""
    faulty = _Faulty()
    chain = _Chain(io="faulty")
    engine = await open_engine(chain.pipe, io={"faulty": faulty})
    if how == "as a secret":
        engine.redactor.learn(SECRET)
    text = f"refused: token={SECRET}" if how == "by its name" else f"refused {SECRET}"
    faulty.stores = _raising(StorageError(text, hint=text, details={"text": text}))
    await engine.report("raw")
    faulty.stores = _raising(ValueError(text))
    await engine.report("raw")
    own, foreign = (each.error for each in chain.of(StorageStoreFailed))
    assert "refused" in own.message
    assert "refused" in foreign.message
    assert SECRET not in f"{own} {own.details} {own.cause_text} {foreign} {foreign.cause_text}"


async def test_a_trial_hears_of_them():
    """TEST-03: `t.events`; given values are not loaded from anywhere."""
    chain = _Chain()

    @chain.pipe.resource(scope="run")
    async def line() -> AsyncIterator[float]:
        yield 1.0

    @chain.pipe.asset
    async def call(ctx: Context, target: str, line: float) -> str:
        return target

    async with chain.pipe.test(values={"target": "given"}) as t:
        assert await t.run("call") == "given"
        assert [_told(each) for each in t.events(StorageStoreFinished)] == ["storage.store.finished call"]
        assert [each.asset for each in t.events(StorageLoadFinished)] == ["call"]
        assert [_told(each) for each in t.events(ResourceEvent)] == ["resource.opened line", "resource.closed line"]
