"""Calls with a value that an option does not take: G-05, RUN-22, ERR-01: the same error on both stores."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from flowstone_async import AssetNotFound, ConfigError, Engine, ParamsError, Pipeline, RunFailed, RunNotFound, io
from flowstone_async.config import seconds
from tests.support.engines import OpenEngine, OpenVerbs

Call = Callable[[Any], Awaitable[object]]


def _pipeline() -> Pipeline:
    pipe = Pipeline("refused")
    pipe.constant("one", 1)
    pipe.constant("other", 2)
    return pipe


# -- runs and find --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [-1, 0, 1.5, True, "x", None])
async def test_a_limit_that_is_none(open_engine: OpenEngine, limit: Any):
    """JOB-06, G-05."""
    engine = await open_engine(_pipeline())
    with pytest.raises(ConfigError, match="limit=") as caught:
        await engine.runs(limit=limit)
    assert caught.value.hint == "Give a whole number of 1 or more."


@pytest.mark.parametrize("state", ["succeded", "", 5, ["failed"]])
async def test_a_state_that_there_is_not(open_engine: OpenEngine, state: Any):
    """JOB-06, G-05: nothing found would look like an answer; the states are listed."""
    engine = await open_engine(_pipeline())
    with pytest.raises(ConfigError, match="state=") as caught:
        await engine.runs(state=state)
    assert caught.value.hint == 'Allowed are "queued", "running", "waiting", "succeeded", "failed", "cancelled".'


async def test_runs_of_an_asset_that_there_is_not(open_engine: OpenEngine):
    """RUN-22: a did-you-mean, and a `ConfigError` for what is no asset."""
    engine = await open_engine(_pipeline())
    with pytest.raises(AssetNotFound, match="Did you mean 'other'"):
        await engine.runs(asset="othr")
    with pytest.raises(AssetNotFound, match="belongs to pipeline 'elsewhere'"):
        await engine.runs(asset=Pipeline("elsewhere").constant("one", 1))
    wrong: Any = 5
    with pytest.raises(ConfigError, match="5 is not an asset"):
        await engine.runs(asset=wrong)


async def test_a_page_behind_a_run_that_there_is_not(open_engine: OpenEngine):
    """JOB-06: an end of the listing would be a wrong answer."""
    engine = await open_engine(_pipeline())
    await engine.run("one")
    for after in ("zz", str(uuid4())):
        with pytest.raises(RunNotFound, match=after):
            await engine.runs(after=after)
    wrong: Any = 5
    with pytest.raises(ConfigError, match="after= 5 is no text"):
        await engine.runs(after=wrong)


async def test_what_runs_takes(open_engine: OpenEngine):
    """JOB-06, RUN-22: an asset by handle, by name, by its full name where two pipelines have one; any limit."""
    pipe, second = _pipeline(), Pipeline("second")
    handle = second.constant("one", 1)
    engine = await open_engine(pipe, second)
    await engine.run("refused.one")
    await engine.run("other")
    await engine.run(handle)
    newest = await engine.runs(limit=10**30)
    assert [(run.pipeline, *run.targets) for run in newest] == [
        ("second", "one"),
        ("refused", "other"),
        ("refused", "one"),
    ]
    assert await engine.runs(asset=handle) == await engine.runs(asset="second.one") == newest[:1]
    assert await engine.runs(asset="other") == newest[1:2]
    assert await engine.runs(after=newest[1].id) == newest[2:]
    with pytest.raises(ConfigError, match=r"refused\.one, second\.one"):
        await engine.runs(asset="one")


@pytest.mark.parametrize("run_id", [None, 5, b"x", ["x"]])
async def test_an_id_that_is_no_text(open_engine: OpenEngine, run_id: Any):
    """JOB-06, G-06."""
    engine = await open_engine(_pipeline())
    with pytest.raises(ConfigError, match="is no text"):
        await engine.find(run_id)
    for unknown in ("", "x", "\0", str(uuid4())):
        with pytest.raises(RunNotFound):
            await engine.find(unknown)


@pytest.mark.parametrize(
    "options",
    [{"after": -1}, {"after": "x"}, {"after": True}, {"pipeline": 5}, {"pipeline": ["refused"]}, {"pipeline": "x"}],
)
async def test_events_behind_what_is_no_cursor(open_engine: OpenEngine, options: dict[str, Any]):
    """EVT-05, G-05: at the call."""
    engine = await open_engine(_pipeline())
    with pytest.raises(ConfigError):
        engine.events(**options)


# -- the verbs ------------------------------------------------------------------------------------------------------

_REFUSED: Mapping[str, Call] = {
    "cascade='x'": lambda verbs: verbs.invalidate("one", cascade="x"),
    "cascade=1": lambda verbs: verbs.invalidate("one", cascade=1),
    "timeout='soon'": lambda verbs: verbs.wait("one", timeout="soon"),
    "timeout=0": lambda verbs: verbs.wait("one", timeout=0),
    "timeout=1000": lambda verbs: verbs.wait("one", timeout=10**400),
    "io='lake'": lambda verbs: verbs.get("one", io="lake"),
    "io=5": lambda verbs: verbs.exists("one", io=5),
    "is not an asset": lambda verbs: verbs.status(5),
    "parallel='x'": lambda verbs: verbs.backfill("one", partitions=["a"], parallel="x"),
    "only=5": lambda verbs: verbs.backfill("one", partitions=["a"], only=5),
    "on_error=None": lambda verbs: verbs.backfill("one", partitions=["a"], on_error=None),
    "on_progress=5": lambda verbs: verbs.backfill("one", partitions=["a"], on_progress=5),
    "on_progress=<function": lambda verbs: verbs.backfill("one", partitions=["a"], on_progress=_told),
    "partitions=5": lambda verbs: verbs.backfill("one", partitions=5),
    "force='x'": lambda verbs: verbs.backfill("one", partitions=["a"], force="x"),
}


async def _told(report: object) -> None:
    """Nobody would await it."""


@pytest.mark.parametrize("told", _REFUSED)
async def test_a_verb_refuses_what_it_cannot_do(open_verbs: OpenVerbs, told: str):
    """G-05: with `ConfigError`, before anything runs."""
    pipe = _pipeline()
    verbs = await open_verbs(pipe)
    await verbs.run("one")
    with pytest.raises(ConfigError) as caught:
        await _REFUSED[told](verbs)
    assert told in str(caught.value)
    assert await verbs.get("one") == 1
    assert not await verbs.exists("one", partition="a")


# -- pipelines, test kits, values -------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", ["failed", 5, {"late"}, {1, "failed"}, [["failed"]], None])
def test_what_a_pipeline_may_tolerate(given: Any):
    """ASSET-07."""
    with pytest.raises(ConfigError, match="optional_tolerates"):
        Pipeline("p", optional_tolerates=given)


def test_what_is_no_asset_has_no_info():
    """ASSET-19."""
    wrong: Any = 5
    with pytest.raises(ConfigError, match="5 is not an asset"):
        _pipeline().asset_info(wrong)


def test_what_cannot_be_called_is_no_hook():
    """EVT-01: not only once the event comes."""
    wrong: Any = 5
    with pytest.raises(ConfigError, match=r"on\(RunFailed\) takes a function, not 5"):
        _pipeline().on(RunFailed)(wrong)


@pytest.mark.parametrize("options", [{"values": [1]}, {"values": 5}, {"resources": [1]}, {"params": {"limit": 1}}])
async def test_a_trial_that_cannot_be(options: dict[str, Any]):
    """TEST-01, FLOW-01: refused on entering."""
    with pytest.raises(ParamsError if "params" in options else ConfigError, match=next(iter(options))):
        async with _pipeline().test(**options):
            pytest.fail("it was entered")


async def test_calls_of_a_trial_that_cannot_be():
    """TEST-02, TEST-03."""
    async with _pipeline().test() as trial:
        t: Any = trial
        with pytest.raises(ConfigError, match="values="):
            await t.run("one", values=[1])
        run = await t.submit("one")
        with pytest.raises(ConfigError, match="state='succeded'"):
            await t.until(run, state="succeded")
        with pytest.raises(ConfigError, match=r"until\('x'\) takes the handle"):
            await t.until("x")
        for wrong in ({"days": -1}, {"hours": "3"}, {"seconds": float("nan")}, {"minutes": float("inf")}):
            with pytest.raises(ConfigError, match=rf"advance\({next(iter(wrong))}="):
                await t.advance(**wrong)
        for kind in (5, int, "RunFailed"):
            with pytest.raises(ConfigError, match="takes an event type"):
                t.events(kind)


async def test_a_limit_of_a_list_that_is_none():
    """ASSET-09, G-03: a negative one would be no limit at all."""
    pipe = Pipeline("p")

    @pipe.asset
    async def items() -> Any:
        for n in range(3):
            yield n

    stream: Any = await pipe.run(items)
    for wrong in (-1, "x", None, True):
        with pytest.raises(ConfigError, match="limit="):
            await stream.to_list(limit=wrong)
    assert await stream.to_list(limit=3) == [0, 1, 2]


@pytest.mark.parametrize("direct", [5, "pgsql://me:hunter2@h/d"])
def test_an_address_that_is_none_is_refused_and_not_shown(direct: Any):
    """CFG-01, ERR-05: it may hold a password."""
    with pytest.raises(ConfigError, match="direct=") as caught:
        Engine(_pipeline(), store="postgresql://h/d", direct=direct)
    assert "hunter2" not in str(caught.value)


_MANAGERS: Mapping[str, Callable[[Any], object]] = {
    "table": lambda wrong: io.Postgres(table=wrong),
    "compress": lambda wrong: io.Postgres(compress=wrong),
    "max_bytes": lambda wrong: io.Postgres(max_bytes=wrong / 2),
    "root": lambda wrong: io.Files(wrong),
    "path": lambda wrong: io.Files(Path("x"), path=wrong),
    "suffix": lambda wrong: io.Files(Path("x"), suffix=wrong),
    "copy": lambda wrong: io.Memory(copy=wrong),
    "name": lambda wrong: io.Memory(name=wrong),
    "format": lambda wrong: io.Memory(format=wrong),
}


@pytest.mark.parametrize("option", _MANAGERS)
def test_a_manager_that_cannot_be(option: str):
    """STORE-08, STORE-09, G-05."""
    with pytest.raises(ConfigError, match=option):
        _MANAGERS[option](5)


def test_more_seconds_than_there_are():
    """A number that no float holds is no duration."""
    for wrong in (10**400, float("inf"), float("nan"), -(10**400)):
        with pytest.raises(ConfigError, match="is not a duration"):
            seconds(wrong)
