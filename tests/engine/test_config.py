"""What an engine is given: CFG-01, CFG-02, CFG-06."""

from __future__ import annotations

import asyncio
import inspect
from datetime import timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from flowstone_async import (
    ConfigError,
    Context,
    Engine,
    Event,
    Pipeline,
    Retention,
    RunNotFound,
    StorageError,
    TimedOut,
    io,
)
from flowstone_async._engine import upkeep
from flowstone_async._engine.upkeep import Upkeep
from flowstone_async.clock import ManualClock
from tests.support.engines import OpenEngine, SharedEngines
from tests.support.gate import Gate, soon

DEFAULTS = {
    "store": "embedded",
    "concurrency": 32,
    "default_timeout": "5m",
    "threads": 40,
    "processes": None,
    "lease": "30s",
    "poll": "1s",
    "grace": "30s",
    "cancel_grace": "10s",
    "hook_timeout": "10s",
    "block_warning": "500ms",
    "max_lost": 3,
    "retention": None,
    "strict_metadata": False,
    "migrate": True,
    "notify": True,
    "direct": None,
}


def _pipeline(name: str = "config") -> Pipeline:
    pipe = Pipeline(name)
    pipe.constant("one", 1)
    return pipe


def test_options_and_their_defaults():
    """CFG-01: exactly these, keyword-only; `store` is the embedded one unless something else is said."""
    parameters = inspect.signature(Engine.__init__).parameters
    found = {name: each.default for name, each in parameters.items() if name in DEFAULTS}
    assert found == DEFAULTS
    assert all(each.kind is each.KEYWORD_ONLY for name, each in parameters.items() if name not in ("self", "pipelines"))


@pytest.mark.parametrize("name", ["dask", "workers", "timeout", "retry"])
def test_an_unknown_option_is_a_type_error(name: str):
    """CFG-01, G-05: also those that later issues add: nothing is accepted that does nothing."""
    options: Any = {name: 1}
    with pytest.raises(TypeError, match=name):
        Engine(_pipeline(), store="memory", **options)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("concurrency", [0, -1, 1.5, True, "3"]),
        ("threads", [0, True, "3"]),
        ("processes", [0, -2, True]),
        ("max_lost", [0, -1, True]),
        ("default_timeout", [0, -1, "soon", True, timedelta(0)]),
        ("hook_timeout", [0, "never", True]),
        ("block_warning", [0, "never", True]),
        ("lease", [0, False, "soon"]),
        ("poll", [0, False, "soon"]),
        ("grace", [-1, False, "soon"]),
        ("cancel_grace", [-1, False, "soon"]),
        ("migrate", [None, 1, "no"]),
        ("notify", [None, 1, "no"]),
        ("strict_metadata", [None, 1, "no"]),
        ("retention", [True, "30d", 30, {"runs": "30d"}]),
        ("secret", [b"short", "a" * 40, [b"short"], [b"a" * 40, b"short"], []]),
        ("redact", ["card", [1]]),
        ("io", [io.Memory(), {1: io.Memory()}]),
        ("resources", [[1], "db"]),
        ("store", [None, 3, "", "sqlite:///x", "Memory", object()]),
    ],
)
def test_an_impossible_value_is_refused_on_construction(name: str, values: list[Any]):
    """CFG-01: `ConfigError` that names the option; nothing was opened."""
    for value in values:
        options: Any = {"store": "memory", name: value}
        with pytest.raises(ConfigError, match=name) as caught:
            Engine(_pipeline(), **options)
        assert caught.value.hint


def test_wrong_durations_of_a_retention_are_refused_on_construction():
    """CFG-06: like every duration."""
    for given in (Retention(runs=0), Retention(values="soon")):
        with pytest.raises(ConfigError, match="retention"):
            Engine(_pipeline(), store="memory", retention=given)


def test_pipelines_are_told_apart_by_name():
    """CFG-01: two of one name, none at all, something that is none."""
    with pytest.raises(ConfigError, match="two pipelines are called 'config'"):
        Engine(_pipeline(), _pipeline(), store="memory")
    with pytest.raises(ConfigError, match="at least one pipeline"):
        Engine(store="memory")
    wrong: Any = "config"
    with pytest.raises(ConfigError, match="'config' is not a pipeline"):
        Engine(wrong, store="memory")


async def test_the_first_that_is_given_wins():
    """CFG-02: call, engine, built-in default; None is never "given", False switches off."""
    for engine_says, call_says, expected in [
        ("5m", None, 300.0),
        ("2m", None, 120.0),
        (False, None, None),
        ("2m", "3s", 3.0),
        ("2m", False, None),
        (False, 7, 7.0),
        (timedelta(minutes=1), None, 60.0),
    ]:
        async with Engine(_pipeline(), store="memory", default_timeout=engine_says) as engine:  # type: ignore[arg-type]
            request = engine._live().request(["one"], timeout=call_says)
            assert request.timeout == expected


@pytest.mark.not_in("evict", reason="whichever engine is there goes on with what was suspended")
async def test_two_engines_in_one_process_are_independent(open_engine: OpenEngine):
    """CFG-02, G-07: options, hooks and resources of one say nothing to the other."""
    pipe = Pipeline("config")

    class Db:
        def __init__(self, name: str) -> None:
            self.name = name

    @pipe.resource
    async def db() -> Db:
        return Db("its own")

    @pipe.asset(cache=False)
    async def used(db: Db) -> str:
        return db.name

    @pipe.asset
    async def slow() -> int:
        await asyncio.Event().wait()
        return 1

    one = await open_engine(pipe, resources={"db": Db("given")}, default_timeout="1s", concurrency=1)
    other = await open_engine(pipe)
    assert [await one.run(used), await other.run(used)] == ["given", "its own"]
    with pytest.raises(TimedOut):
        await one.run(slow)
    assert other._live().services.settings.default_timeout == 300.0
    assert other._live().services.settings.concurrency == 32


async def test_an_engine_leaves_no_trace_in_its_pipeline(open_engine: OpenEngine):
    """CFG-02: which runs in memory as before, with its own values."""
    pipe = _pipeline()
    engine = await open_engine(pipe, default_timeout="1s")
    heard: list[object] = []
    engine.on(Event)(heard.append)
    assert await engine.run("one") == 1
    told = len(heard)
    assert not await pipe.exists("one")
    assert await pipe.run("one") == 1
    assert len(heard) == told


async def test_managers_by_name(open_engine: OpenEngine, tmp_path: Any):
    """STORE-01, CFG-01: `io=` lists them; an unknown one is refused on entering, with those that are known."""
    pipe = Pipeline("config")

    @pipe.asset(io="lake")
    async def kept() -> int:
        return 1

    engine = await open_engine(pipe, io={"lake": io.Files(tmp_path)})
    assert await engine.run(kept) == 1
    assert [path for path in tmp_path.rglob("*") if path.is_file()]
    with pytest.raises(ConfigError, match="'lake'"):
        await open_engine(pipe)
    with pytest.raises(ConfigError, match=r"'pond'.*'lake'"):
        await engine.run(kept, io="pond")


@pytest.mark.not_in("evict", reason="whichever engine is there goes on with what was suspended")
async def test_metadata_that_cannot_be_stored(open_engine: OpenEngine, caplog: pytest.LogCaptureFixture):
    """STORE-12: the value is kept with a warning; `strict_metadata=True` fails the asset."""
    pipe = Pipeline("config")

    @pipe.asset(cache=False)
    async def noted(ctx: Context) -> int:
        ctx.metadata(rows=object())
        return 1

    assert await (await open_engine(pipe)).run(noted) == 1
    assert "metadata of asset 'noted' cannot be stored" in caplog.text
    strict = await open_engine(pipe, strict_metadata=True)
    with pytest.raises(StorageError, match="metadata"):
        await strict.run(noted)


async def test_retention_forgets_old_runs_and_superseded_values(engines: SharedEngines):
    """CFG-06: after as long as it says, and never what is current or active."""
    clock = ManualClock()
    pipe = Pipeline("config")
    gate = Gate()

    @pipe.asset(cache=False)
    async def counted(ctx: Context) -> str:
        return ctx.run_id

    @pipe.asset
    async def held() -> int:
        await gate()
        return 1

    engine = await engines.open(pipe, clock=clock, retention=Retention(runs="2d", values="1d"), poll="24h", lease="30d")
    duties = Upkeep(engine._live(), Retention(runs="2d", values="1d"))
    active = await engine.submit(held)
    await gate.reached()
    first, second = await engine.run(counted), await engine.run(counted)
    await clock.advance(36 * 3600)
    await duties.prune()
    assert len(await engine.runs()) == 3
    await clock.advance((12 + 48) * 3600)  # from two days on, a store may keep whole days
    await duties.prune()
    assert [run.id for run in await engine.runs()] == [active.id]
    for old in (first, second):
        with pytest.raises(RunNotFound):
            await engine.find(old)
    assert await engine.get(counted) == second
    gate.open()
    assert await soon(active.result()) == 1


async def test_retention_false_keeps_everything(engines: SharedEngines, monkeypatch: pytest.MonkeyPatch):
    """CFG-06: nothing is pruned."""
    clock = ManualClock()
    for name in ("PRUNE_EVERY", "MAINTAIN_EVERY"):  # thousands of rounds would take minutes
        monkeypatch.setattr(upkeep, name, 86_400.0)
    engine = await engines.open(_pipeline(), clock=clock, retention=False, poll="1000d")
    await engine.run("one")
    await clock.advance(1000 * 86_400)
    await Upkeep(engine._live(), engine._options.retention).prune()
    assert len(await engine.runs()) == 1


async def test_pruning_happens_by_itself(engines: SharedEngines, monkeypatch: pytest.MonkeyPatch):
    """CFG-06: unasked; 30 days for runs, 7 for values."""
    clock = ManualClock()
    for name in ("PRUNE_EVERY", "MAINTAIN_EVERY"):
        monkeypatch.setattr(upkeep, name, 86_400.0)
    first = await engines.open(_pipeline(), clock=clock, poll="1d")
    assert first._options.retention.limits() == (30 * 86_400, 7 * 86_400)
    await first.run("one")
    await clock.advance(31 * 86_400)
    for _ in range(1_000):
        if not await first.runs():
            break
        await clock.advance(86_400)  # a statement takes real time, in which the clock stands still
    assert await first.runs() == ()
    assert await first.get("one") == 1


async def test_the_lease_is_as_long_as_it_says(engines: SharedEngines):
    """CFG-01 (durable): in the store's own record of the worker."""
    engine = await engines.open(_pipeline(), lease="2m")
    if not engines.durable:
        assert engine._options.lease == 120.0
        return
    connection = await asyncpg.connect(engines.dsn)  # type: ignore[attr-defined]
    try:
        seconds = await connection.fetchval(
            "SELECT extract(epoch FROM lease_until - clock_timestamp()) FROM flowstone.worker WHERE id = $1",
            engine._live().services.worker,
        )
    finally:
        await connection.close()
    assert 90 < seconds <= 120


async def test_a_secret_signs_pickles_and_an_older_one_still_verifies(engines: SharedEngines, tmp_path: Path):
    """SEC-01, SEC-06, CFG-01: of several the first signs and all verify; an unknown one is refused."""
    old, new = b"o" * 32, b"n" * 32
    pipe = Pipeline("config", io=io.Files(tmp_path, format="pickle"))

    @pipe.asset
    async def odd() -> object:
        return {1, "a"}

    first = await engines.open(pipe, secret=old)
    assert await first.run(odd) == {1, "a"}
    rotated = await engines.open(pipe, secret=[new, old])
    assert await rotated.get(odd) == {1, "a"}
    assert await rotated.run(odd, force=True) == {1, "a"}
    with pytest.raises(StorageError, match="has signed it"):
        await first.get(odd)
    stranger = await engines.open(pipe, secret=b"s" * 32)
    with pytest.raises(StorageError, match="has signed it"):
        await stranger.get(odd)


async def test_pickle_without_a_secret(engines: SharedEngines, tmp_path: Path):
    """SEC-01, SEC-06: on a Postgres of one's own there is none built in, in memory it is random; a pipeline has one."""
    pipe = Pipeline("config", io=io.Files(tmp_path, format="pickle"))

    @pipe.asset
    async def odd() -> object:
        return {1, "a"}

    if engines.durable:
        with pytest.raises(ConfigError, match="secret"):
            await engines.open(pipe)
    else:
        assert await (await engines.open(pipe)).run(odd) == {1, "a"}
    assert await pipe.run(odd) == {1, "a"}
    assert await pipe.get(odd) == {1, "a"}
