"""What errors are, say and keep: ERR-01..06."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import json
import logging
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

import pytest

import flowstone_async
from flowstone_async import (
    AssetFailed,
    ConfigError,
    Daily,
    DependencyFailed,
    ExecutionError,
    FlowstoneError,
    Pipeline,
    StorageError,
    TimedOut,
    errors,
)
from flowstone_async._engine.board import Board
from flowstone_async.failures import describe, rebuild
from tests.support.crash import ended
from tests.support.engines import OpenEngine, OpenVerbs
from tests.support.gate import soon

DAYS = Daily("2025-01-01")
FIRST = date(2025, 1, 1)
ALL_ERRORS = [
    each
    for _, each in inspect.getmembers(errors, inspect.isclass)
    if issubclass(each, FlowstoneError) and each.__module__ == errors.__name__
]
RETRYABLE = {
    *("TimedOut", "DependencyNotReady", "StoreUnavailable", "ResourceUnavailable", "SourceError"),
    *("RateLimited", "SlotTimeout"),
}
BASES = {
    "ConfigError": ValueError,
    "ParamsError": ConfigError,
    "PartitionError": ConfigError,
    "KeyConflict": ConfigError,
    "NotFound": LookupError,
    "AssetNotFound": LookupError,
    "NotMaterialized": LookupError,
    "RunNotFound": LookupError,
    "GateNotFound": LookupError,
    "MalformedToken": ConfigError,
    "PayloadInvalid": ConfigError,
    "ForgedToken": ConfigError,
    "TokenInUse": ConfigError,
    "TimedOut": TimeoutError,
    "RateLimited": TimedOut,
    "SlotTimeout": TimedOut,
}


def test_the_error_tree():
    """ERR-02, ERR-03: types, the built-in ones they also are, one code for each, and which are retryable."""
    assert len({each.code for each in ALL_ERRORS}) == len(ALL_ERRORS)
    for name, base in BASES.items():
        assert issubclass(getattr(flowstone_async, name), base)
    assert {each.__name__ for each in ALL_ERRORS if each.default_retryable} == RETRYABLE
    assert not issubclass(flowstone_async.Cancelled, asyncio.CancelledError)
    assert {each.__name__ for each in ALL_ERRORS} <= {*flowstone_async.__all__}


@pytest.mark.parametrize("kind", [each for each in ALL_ERRORS if each is not errors.DefinitionError])
def test_every_error_has_its_fields_and_comes_back_from_its_record(kind: type[FlowstoneError]):
    """ERR-01, ERR-06: code, message, asset, partition, run, details, hint, retryable, cause; as JSON and back."""
    error = kind(
        "it went wrong",
        asset="total",
        partition=FIRST,
        run_id="0190",
        details={"n": [1, None]},
        hint="Mend it.",
        retryable=True,
    )
    error.__cause__ = LookupError("deep down")
    assert str(error) == "it went wrong\n  Mend it."
    failure = describe(error, partition="d:2025-01-01")
    assert json.loads(json.dumps(failure.details)) == {"n": [1, None]}
    back = rebuild(failure, partition=FIRST)
    assert type(back) is kind
    for name in ("code", "message", "asset", "partition", "run_id", "details", "hint", "retryable"):
        assert getattr(back, name) == getattr(error, name), name
    assert str(back.__cause__) == "LookupError: deep down"
    assert describe(back, partition="d:2025-01-01") == failure


def test_a_definition_error_comes_back_with_its_problems():
    """ERR-06: code, place and message of each."""
    pipe = Pipeline("wrong")

    @pipe.asset
    async def total(nombers: list[int]) -> int:
        return sum(nombers)

    with pytest.raises(errors.DefinitionError) as caught:
        pipe.validate()
    back = rebuild(describe(caught.value))
    assert isinstance(back, errors.DefinitionError)
    assert (back.pipeline, str(back)) == ("wrong", str(caught.value))
    assert [(each.code, each.message, each.location) for each in back.problems] == [
        (each.code, each.message, each.location) for each in caught.value.problems
    ]


class _Busy(StorageError):
    """A user's own kind of a library error."""

    def __init__(self, where: str) -> None:
        super().__init__(f"{where} is busy", retryable=True)


class TimedOutElsewhere(FlowstoneError):
    code = "MINE"


def test_a_user_s_subclass_comes_back_as_the_library_s_class():
    """ERR-06, SEC-06: nothing is imported or constructed by name; what is known of it stays."""
    back = rebuild(describe(_Busy("the disk")))
    assert type(back) is StorageError
    assert (back.message, back.retryable) == ("the disk is busy", True)
    mine = rebuild(describe(TimedOutElsewhere("mine")))
    assert type(mine) in (FlowstoneError, ExecutionError)
    assert mine.message == "mine"


def _raising(error: BaseException) -> Pipeline:
    pipe = Pipeline("raising")

    @pipe.asset(partitions=DAYS)
    async def broken(partition: date) -> int:
        raise error

    @pipe.asset(partitions=DAYS)
    async def below(broken: int) -> int:
        return broken

    return pipe


async def test_an_exception_becomes_an_execution_error(open_verbs: OpenVerbs):
    """ERR-04: with asset, partition, attempt and traceback text; the original is its cause."""
    cause = LookupError("nothing here")
    verbs = await open_verbs(_raising(cause))
    with pytest.raises(ExecutionError) as caught:
        await verbs.run("broken", partition=FIRST)
    error = caught.value
    assert error.__cause__ is cause
    assert (error.asset, error.partition, error.attempt, error.retryable) == ("broken", FIRST, 1, False)
    assert error.message == "asset 'broken' failed: LookupError: nothing here"
    assert error.details == {"error_type": "LookupError"}
    assert error.traceback_text.endswith("LookupError: nothing here\n")
    assert "in broken" in error.traceback_text
    assert (await verbs.status("broken", partition=FIRST)).run_id == error.run_id


async def test_a_library_error_passes_through_with_its_place_filled_in(open_verbs: OpenVerbs):
    """ERR-04: type and `retryable` kept; what it says already is left alone."""
    verbs = await open_verbs(_raising(StorageError("no room", retryable=True, hint="Free some.", details={"free": 0})))
    with pytest.raises(StorageError) as caught:
        await verbs.run("broken", partition=FIRST)
    error = caught.value
    assert (error.asset, error.partition, error.retryable) == ("broken", FIRST, True)
    assert (error.message, error.hint, error.details) == ("no room", "Free some.", {"free": 0})
    assert error.run_id is not None
    elsewhere = _raising(TimedOut("slow", asset="another", partition=date(2025, 1, 5)))
    verbs = await open_verbs(_renamed(elsewhere))
    with pytest.raises(TimedOut) as again:
        await verbs.run("broken", partition=FIRST)
    assert (again.value.asset, again.value.partition) == ("another", date(2025, 1, 5))


def _renamed(pipe: Pipeline) -> Pipeline:
    return Pipeline("elsewhere").include(pipe)


async def test_a_library_error_that_travels_through_a_body_keeps_its_cause(open_verbs: OpenVerbs):
    """ERR-04: `raise StorageError(...) from error`."""
    pipe = Pipeline("chained")

    @pipe.asset
    async def broken() -> int:
        try:
            raise OSError(28, "No space left on device")
        except OSError as error:
            raise StorageError("the export failed") from error

    verbs = await open_verbs(pipe)
    with pytest.raises(StorageError) as caught:
        await verbs.run(broken)
    assert isinstance(caught.value.__cause__, OSError)
    status = await verbs.status(broken)
    assert status.error is not None
    assert "No space left" in str(status.error.__cause__)


async def test_an_exception_group_stays_a_group(open_verbs: OpenVerbs):
    """ERR-04: as the cause, with all its members in the traceback text."""
    pipe = Pipeline("groups")

    async def fail(error: Exception) -> None:
        raise error

    @pipe.asset
    async def broken() -> int:
        async with asyncio.TaskGroup() as group:
            group.create_task(fail(ValueError("one")), name="one")
            group.create_task(fail(KeyError("two")), name="two")
        return 1

    verbs = await open_verbs(pipe)
    with pytest.raises(ExecutionError) as caught:
        await verbs.run(broken)
    assert isinstance(caught.value.__cause__, ExceptionGroup)
    assert {str(each) for each in caught.value.__cause__.exceptions} == {"one", "'two'"}
    assert "ValueError: one" in caught.value.traceback_text
    assert "KeyError: 'two'" in caught.value.traceback_text


def _reporting(reports: list[object]) -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda _, context: reports.append(context))
    return loop


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("where", ["coroutine", "thread", "condition"])
def test_what_ends_a_program_is_never_wrapped(kind: type[BaseException], where: str):
    """ERR-04: it reaches whoever runs the loop, at once, with every `finally` run."""
    pipe = Pipeline("ending")
    cleaned: list[str] = []
    entered = asyncio.Event()

    @pipe.asset
    async def waiting() -> int:
        entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            cleaned.append("finally")
        return 1

    async def end() -> bool:
        await entered.wait()
        raise kind("over")

    if where == "thread":

        @pipe.asset(run_in="thread")
        def ends() -> int:
            raise kind("over")

    elif where == "condition":

        @pipe.asset(name="ends", when=end)
        async def asked() -> int:
            return 1

    else:

        @pipe.asset(name="ends")
        async def coroutine() -> int:
            await entered.wait()
            raise kind("over")

    reports: list[object] = []
    runner = asyncio.Runner(loop_factory=lambda: _reporting(reports))
    with runner, pytest.raises(kind):
        runner.run(pipe.run("waiting", "ends", concurrency=8))
    assert cleaned == ["finally"]
    assert reports == []
    status = asyncio.run(pipe.status("ends"))
    if where != "condition":  # which is asked before the asset is claimed
        assert status.state == "failed"
        assert f"ended the program: {kind.__name__}: over" in str(status.error)
    assert [run.state for run in asyncio.run(pipe._wiring.store.runs(pipelines=["ending"]))] == ["failed"]


async def test_a_body_that_raises_cancelled_error_fails_its_asset(open_verbs: OpenVerbs):
    """ERR-04, RUN-27: nobody cancelled it, so it is no cancellation of the run."""
    verbs = await open_verbs(_raising(asyncio.CancelledError("made up")))
    with pytest.raises(ExecutionError, match="although nobody cancelled it"):
        await verbs.run("broken", partition=FIRST)


async def test_a_failure_is_logged_once(open_verbs: OpenVerbs, caplog: pytest.LogCaptureFixture):
    """ERR-06: at ERROR, for the asset that failed; not again for those it blocks, nor for the run."""
    caplog.set_level(logging.DEBUG, "flowstone")
    verbs = await open_verbs(_raising(ValueError("only once")))
    with pytest.raises(DependencyFailed):
        await verbs.run("below", partition=FIRST)
    assert [each.levelname for each in caplog.records if "only once" in each.getMessage()] == ["ERROR"]
    assert caplog.records[-1].levelno <= logging.ERROR
    assert len([each for each in caplog.records if each.levelno >= logging.ERROR]) == 1


class _Whatever(Exception):
    def __init__(self, code: int, *, reason: str) -> None:
        super().__init__(f"{reason} ({code})")


@pytest.mark.parametrize(
    "error",
    [
        ValueError("plain"),
        _Whatever(7, reason="awkward"),
        StorageError("no room", hint="Free some.", details={"free": 0}, retryable=True),
        TimedOut("slow"),
        ExceptionGroup("several", [ValueError("one"), KeyError("two")]),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_a_failure_read_elsewhere_is_the_same(open_engine: OpenEngine, error: Exception):
    """ERR-06: from another engine on the store: type, code, message, details and traceback text."""
    engine, other = await open_engine(_raising(error)), await open_engine(_raising(ValueError()))
    run = await engine.submit("broken", partition=FIRST)
    with pytest.raises(FlowstoneError) as caught:
        await run
    here = caught.value
    with pytest.raises(FlowstoneError) as found:
        await (await other.find(run.id)).result()
    with pytest.raises(FlowstoneError) as waited:
        await other.wait("broken", partition=FIRST)
    status = await other.status("broken", partition=FIRST)
    events = [event async for event in (await other.find(run.id)).events()]
    told = next(event.error for event in events if isinstance(event, AssetFailed))
    for there in (found.value, waited.value, status.error, told):
        assert there is not None
        assert type(there) is type(here)
        for name in ("code", "message", "asset", "partition", "run_id", "details", "hint", "retryable"):
            assert getattr(there, name) == getattr(here, name), name
        assert getattr(there, "traceback_text", None) == getattr(here, "traceback_text", None)


@pytest.mark.parametrize("durable", [True])
def test_a_failure_read_in_another_process_is_the_same(tmp_path: Path, server: Any, durable: bool):
    """ERR-06: the class of the exception need not exist there."""
    program = tmp_path / "broken.py"
    program.write_text(_PROGRAM)
    dsn = asyncio.run(_clone(server))
    try:
        first = _run(program, dsn, "run")
        second = _run(program, dsn, "read")
    finally:
        asyncio.run(server.drop(dsn))
    assert first["error_type"] == second["error_type"] == "Odd"
    assert first == second
    assert "raise Odd" in first["traceback_text"]


async def _clone(server: Any) -> str:
    from tests.support.engines import TEMPLATE, migrate

    await server.create_template(TEMPLATE, migrate(server))
    return await server.clone(TEMPLATE)


def _run(program: Path, dsn: str, what: str) -> dict[str, Any]:
    ran = subprocess.run([sys.executable, program, dsn, what], capture_output=True, text=True, timeout=60, check=True)
    return json.loads(ran.stdout)


_PROGRAM = """
import asyncio, json, sys
from flowstone_async import Engine, ExecutionError, Pipeline

pipe = Pipeline("odd")

if sys.argv[2] == "run":
    class Odd(Exception):
        def __init__(self, a, b):
            super().__init__(f"{a} and {b}")


@pipe.asset
async def broken() -> int:
    raise Odd(1, 2)


async def main():
    async with Engine(pipe, store=sys.argv[1]) as engine:
        try:
            await (engine.run(broken) if sys.argv[2] == "run" else engine.wait(broken))
        except ExecutionError as error:
            names = ("code", "message", "asset", "run_id", "traceback_text", "attempt", "retryable")
            print(json.dumps({name: getattr(error, name) for name in names} | error.details))


asyncio.run(main())
"""


async def test_a_mistake_of_the_library_s_own_ends_the_run(open_engine: OpenEngine, monkeypatch: pytest.MonkeyPatch):
    """ERR-06, RUN-13: whoever awaits it hears of it, its record is final, and other runs go on."""
    engine = await open_engine(_raising(ValueError("no")))
    pipe_of_one = Pipeline("one")
    pipe_of_one.constant("one", 1)
    with monkeypatch.context() as patched:
        patched.setattr(Board, "settle", _broken)
        run = await engine.submit("broken", partition=FIRST)
        with pytest.raises(FlowstoneError, match="a mistake in flowstone_async"):
            await soon(run.result())
    record = await soon(ended(engine, run.id))
    assert record.state == "failed"
    with pytest.raises(ExecutionError):
        await soon(engine.run("broken", partition=FIRST))


def _broken(*_: object, **__: object) -> None:
    raise AssertionError("unexpected")


async def test_messages_name_what_was_found_and_the_way_forward(open_verbs: OpenVerbs):
    """ERR-05: for a misspelt asset; every error has a message of its own."""
    verbs = await open_verbs(_raising(ValueError()))
    with pytest.raises(errors.AssetNotFound, match=r"broken") as caught:
        await verbs.run("brokn", partition=FIRST)
    assert "Did you mean 'broken'?" in str(caught.value)


async def test_an_exception_without_a_text_is_named():
    """ERR-05: by its class."""
    with pytest.raises(ExecutionError, match="asset 'broken' failed: ValueError$"):
        await _raising(ValueError()).run("broken", partition=FIRST)


class _Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


async def test_an_exception_whose_text_cannot_be_had_fails_its_asset_all_the_same():
    """ERR-04: `__str__` is anybody's code."""
    with pytest.raises(ExecutionError, match="_Unprintable"):
        await _raising(_Unprintable()).run("broken", partition=FIRST)


def test_public_errors_have_docstrings():
    """ERR-02: each says when it is raised."""
    assert all(each.__doc__ for each in ALL_ERRORS)
    assert importlib.import_module("flowstone_async.errors") is errors
