"""Bodies in threads and processes: FLOW-10."""

from __future__ import annotations

import asyncio
import contextvars
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from flowstone_async import (
    AssetSucceeded,
    Cancelled,
    ConfigError,
    Context,
    Engine,
    ExecutionError,
    Pipeline,
    Retry,
    StorageError,
    Stream,
    TimedOut,
)
from flowstone_async.clock import ManualClock
from tests.support import blocking
from tests.support.blocking import Latch, Point
from tests.support.engines import OpenEngine, OpenVerbs
from tests.support.gate import soon

TONE: contextvars.ContextVar[str] = contextvars.ContextVar("tone", default="none")


async def test_a_thread_body_never_blocks_the_loop(open_verbs: OpenVerbs):
    """FLOW-10: another asset runs to its end on the loop while it is blocked."""
    pipe = Pipeline("threads")
    latch = Latch()
    seen: list[threading.Thread] = []

    @pipe.asset(run_in="thread")
    def blocked() -> int:
        seen.append(threading.current_thread())
        latch()
        return 1

    @pipe.asset
    async def free() -> int:
        await asyncio.to_thread(latch.reached)
        latch.open()
        return 2

    verbs = await open_verbs(pipe)
    assert await soon(verbs.run(blocked, free)) == (1, 2)
    assert seen[0] is not threading.main_thread()


@pytest.mark.not_in("evict", reason="context variables are on no record")
async def test_values_context_and_context_variables_reach_a_thread(open_verbs: OpenVerbs):
    """FLOW-10: injection is that of every body; context variables are those of whoever called `run`."""
    pipe = Pipeline("threads")

    @pipe.asset
    async def raw() -> list[int]:
        return [1, 2]

    @pipe.asset(run_in="thread")
    def total(raw: list[int], ctx: Context) -> list[object]:
        ctx.metadata(rows=len(raw))
        return [sum(raw), ctx.attempt, TONE.get()]

    verbs = await open_verbs(pipe)
    TONE.set("warm")
    assert await verbs.run(total) == [3, 1, "warm"]


async def test_at_most_threads_bodies_at_once(open_engine: OpenEngine):
    """FLOW-10, CFG-01: `threads=` bounds them; the others wait their turn."""
    pipe = Pipeline("threads")
    latch = Latch()

    def body() -> int:
        latch()
        return 1

    for number in range(6):
        pipe.add(body, name=f"body_{number}", run_in="thread")
    engine = await open_engine(pipe, threads=2)
    running = asyncio.create_task(engine.run(*(f"body_{number}" for number in range(6))))
    await asyncio.to_thread(latch.reached, 2)
    latch.open()
    assert await soon(running) == (1,) * 6
    assert latch.most == 2


@pytest.mark.parametrize("how", ["asset", "run", "cancel"])
async def test_a_thread_that_is_given_up_keeps_its_place(open_engine: OpenEngine, how: str):
    """FLOW-10: the run goes on at once, the result is dropped, the place is taken until the thread returns."""
    pipe = Pipeline("threads")
    latch = Latch()
    begun: list[str] = []

    @pipe.asset(run_in="thread", timeout="50ms" if how == "asset" else None)
    def stuck() -> int:
        latch()
        return 1

    @pipe.asset(run_in="thread")
    def following() -> int:
        begun.append("following")
        return 2

    engine = await open_engine(pipe, threads=1, cancel_grace="10s")
    run = await engine.submit(stuck, timeout="100ms" if how == "run" else None)
    await asyncio.to_thread(latch.reached)
    if how == "cancel":
        await run.cancel()
    with pytest.raises(Cancelled if how == "cancel" else TimedOut):
        await soon(run.result())
    assert latch.inside == 1
    next_run = await engine.submit(following)
    while not await _has_begun(engine, "following"):
        await asyncio.sleep(0)
    assert not begun
    latch.open()
    assert await soon(next_run.result()) == 2
    assert not await engine.exists(stuck)


async def _has_begun(engine: Engine, asset: str) -> bool:
    return (await engine.status(asset)).state == "running"


async def test_what_a_thread_raises():
    """FLOW-10, ERR-04: as on the loop; `StopIteration`, which no future can carry, too."""
    pipe = Pipeline("threads")

    @pipe.asset(run_in="thread")
    def failing() -> int:
        raise LookupError("in a thread")

    @pipe.asset(run_in="thread")
    def exhausted() -> int:
        return next(iter([]))

    with pytest.raises(ExecutionError, match="LookupError: in a thread") as caught:
        await pipe.run(failing)
    assert "def failing" in caught.value.traceback_text or "in failing" in caught.value.traceback_text
    with pytest.raises(ExecutionError, match="StopIteration"):
        await soon(pipe.run(exhausted))


def _process(body: Callable[..., Any], **options: Any) -> Pipeline:
    pipe = Pipeline("processes")
    pipe.add(body, name="body", run_in="process", **options)
    return pipe


async def test_a_process_body_runs_in_another_process(open_engine: OpenEngine):
    """FLOW-10: one that is kept for the next call, and ended with the engine."""
    pipe = _process(blocking.own_pid, cache=False)
    engine = await open_engine(pipe, processes=1)
    first, second = await engine.run("body"), await engine.run("body")
    assert first == second != os.getpid()
    await engine.__aexit__(None, None, None)
    with pytest.raises(ProcessLookupError):
        os.kill(first, 0)


async def test_values_go_to_a_process_and_come_back(open_verbs: OpenVerbs):
    """FLOW-10: of the types they have here."""
    pipe = _process(blocking.moved, deps={"point": "origin", "by": "step"})
    pipe.constant("origin", Point(1, 2))
    pipe.constant("step", 3)
    verbs = await open_verbs(pipe)
    assert await verbs.run("body") == Point(4, 5)


async def test_what_a_process_body_notes_is_kept(open_engine: OpenEngine):
    """FLOW-10, G-05: `ctx` works there: metadata arrives with the record."""
    pipe = _process(blocking.noted)
    heard: list[AssetSucceeded] = []
    pipe.on(AssetSucceeded)(heard.append)
    engine = await open_engine(pipe)
    assert await engine.run("body") == 1
    assert heard[0].metadata == {"rows": 3, "limit": None}


@pytest.mark.parametrize("how", ["asset", "run", "cancel"])
async def test_a_process_that_is_given_up_is_ended(open_engine: OpenEngine, tmp_path: Path, how: str):
    """FLOW-10, G-04: by a time limit or cancellation, also in a body that never awaits."""
    told, clock = tmp_path / "pids", ManualClock()
    pipe = Pipeline("processes")
    pipe.constant("path", str(told))
    pipe.add(blocking.endless, name="body", run_in="process", timeout="5s" if how == "asset" else None)
    engine = await open_engine(pipe, clock=clock)
    run = await engine.submit("body", timeout="5s" if how == "run" else False)
    pid = await asyncio.to_thread(_first_line, told)
    if how == "cancel":
        await run.cancel()
    else:
        await clock.advance(5)
    with pytest.raises(Cancelled if how == "cancel" else TimedOut):
        await soon(run.result())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def _first_line(path: Path) -> int:
    while not path.exists() or not path.read_text().endswith("\n"):
        threading.Event().wait(0.01)
    return int(path.read_text().splitlines()[0])


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (blocking.raises_value_error, "asset 'body' failed: ValueError: in another process"),
        (blocking.raises_awkward, r"asset 'body' failed: Awkward: in another process \(7\)"),
        (blocking.exits, "asset 'body' failed: SystemExit: 3"),
        (blocking.dies, "the process that ran asset 'body' ended with code 9"),
    ],
)
async def test_what_a_process_raises(open_verbs: OpenVerbs, body: Callable[..., int], message: str):
    """FLOW-10, ERR-04: `ExecutionError` with the traceback from there; nothing ends this process."""
    verbs = await open_verbs(_process(body))
    with pytest.raises(ExecutionError, match=message) as caught:
        await verbs.run("body")
    assert caught.value.asset == "body"
    if body is not blocking.dies:
        assert f"in {body.__name__}" in caught.value.traceback_text
        assert "blocking.py" in caught.value.traceback_text
    if body is blocking.raises_value_error:
        assert type(caught.value.__cause__) is ValueError


async def test_a_library_error_keeps_its_type_across_processes():
    """FLOW-10, ERR-04: and whether it is retryable."""
    report = await _process(blocking.raises_storage_error, retry=Retry(2, backoff="none")).report("body")
    error = report["body"].error
    assert isinstance(error, StorageError)
    assert (error.retryable, error.asset, error.message) == (True, "body", "the disk is full")
    assert report["body"].attempts == 2


async def test_an_argument_that_cannot_be_pickled_is_named():
    """FLOW-10: before the body is called anywhere."""
    pipe = Pipeline("processes")

    @pipe.asset
    async def lines() -> Any:
        for number in range(3):
            yield number

    pipe.add(blocking.moved, name="body", run_in="process", deps={"point": lines, "by": "step"})
    pipe.constant("step", 1)
    with pytest.raises(ConfigError, match="asset 'body' says run_in='process', but its 'point' cannot be sent"):
        await pipe.run("body")


async def test_a_value_that_cannot_be_pickled_is_an_error_naming_the_asset():
    """FLOW-10: with its type."""
    with pytest.raises(
        ConfigError, match="asset 'body'.*its value cannot be sent back: TypeError: cannot pickle.*lock"
    ):
        await _process(blocking.returns_a_lock).run("body")


def _local() -> Callable[[], int]:
    def local() -> int:
        return 1

    return local


async def test_a_body_that_another_process_cannot_import_is_refused():
    """FLOW-10: a local function, a lambda, one of the main program."""
    for body in (_local(), lambda: 1):
        with pytest.raises(ConfigError, match="another process cannot import .*not defined at the top level"):
            await _process(body).run("body")
    main = _local()
    main.__module__, main.__qualname__ = "__main__", "main"
    with pytest.raises(ConfigError, match="cannot import 'main': it is defined in the main program"):
        await _process(main).run("body")


def test_a_script_without_a_guard_does_not_run_again_in_its_processes(tmp_path: Path):
    """FLOW-10: the main program is not imported there."""
    (tmp_path / "bodies.py").write_text("def heavy() -> int:\n    return 42\n")
    script = tmp_path / "script.py"
    script.write_text(
        "from bodies import heavy\n"
        "from flowstone_async import Pipeline\n"
        "print('started')\n"
        "pipe = Pipeline('script')\n"
        "pipe.add(heavy, run_in='process')\n"
        "print(pipe.run_sync('heavy'))\n"
    )
    ended = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60, check=False)
    assert (ended.stdout, ended.stderr) == ("started\n42\n", "")


async def test_what_a_process_body_prints_goes_to_standard_error(capfd: pytest.CaptureFixture[str]):
    """FLOW-10: programs that it starts too; standard output stays the host's."""
    assert await _process(blocking.prints).run("body") == 1
    out, err = capfd.readouterr()
    assert out == ""
    assert sorted(err.split("\n")) == ["", "from a program", "from the body"]


async def test_a_partial_runs_in_a_process():
    """FLOW-10, ASSET-10: what can be pickled can be called there."""
    pipe = _process(partial(blocking.moved, by=2), deps={"point": "origin"})
    pipe.constant("origin", Point(0, 0))
    assert await pipe.run("body") == Point(2, 2)


def test_a_pipeline_s_threads_and_processes_belong_to_no_event_loop():
    """FLOW-10, RUN-01: one loop after the other, and two at once."""
    pipe = Pipeline("threads")
    pipe.add(blocking.own_pid, name="there", run_in="process", cache=False)
    pipe.add(threading.get_ident, name="here", run_in="thread", cache=False)
    found: list[object] = []

    def both() -> None:
        found.append(pipe.run_sync("there", "here"))

    both()
    others = [threading.Thread(target=both) for _ in range(2)]
    for each in others:
        each.start()
    for each in others:
        each.join(30)
    assert len(found) == 3


async def test_dask_is_refused_before_anything_runs(open_engine: OpenEngine):
    """FLOW-10: on entering an engine, and by every verb of the pipeline alone; it says what to do."""
    called: list[str] = []
    pipe = Pipeline("dask")

    @pipe.asset(run_in="dask")
    def heavy() -> int:
        called.append("heavy")
        return 1

    @pipe.asset
    async def light() -> int:
        called.append("light")
        return 1

    with pytest.raises(ConfigError, match="'heavy' says run_in='dask'"):
        await open_engine(pipe)
    with pytest.raises(ConfigError, match="'heavy' says run_in='dask'"):
        await pipe.run(light)
    assert not called


async def test_a_stream_cannot_be_taken_by_a_plain_function_by_mistake():
    """FLOW-10, ASSET-09: in a thread it is a `Stream`, which has to be iterated on a loop."""
    pipe = Pipeline("threads")

    @pipe.asset
    async def lines() -> Any:
        yield 1

    @pipe.asset(run_in="thread")
    def taken(lines: Any) -> bool:
        return isinstance(lines, Stream)

    assert await pipe.run(taken) is True
