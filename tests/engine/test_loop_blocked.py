"""Bodies that hold the event loop: EVT-04, CFG-01 `block_warning`."""

from __future__ import annotations

import inspect
import sys
import threading
from typing import Any

import pytest

from flowstone_async import ConfigError, Engine, LoopBlocked, Pipeline
from flowstone_async._engine import watchdog
from tests.support.engines import OpenEngine


def _busy() -> Pipeline:
    pipe = Pipeline("busy")

    @pipe.asset
    async def holds() -> int:
        _until_noticed()
        return 1

    return pipe


noticed = threading.Event()


def _until_noticed() -> None:
    noticed.wait(20)


@pytest.fixture
def warned(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let whoever holds the loop go on once it was noticed; what else holds it, as collecting garbage may, is passed over."""
    lines: list[str] = []

    def warning(text: str, *facts: Any) -> None:
        line = text % facts
        if "threading.py:" in line:
            noticed.set()
        if "threading.py:" in line or "has had no turn" in line:
            lines.append(line)

    monkeypatch.setattr(watchdog._logger, "warning", warning)
    noticed.clear()
    return lines


async def test_a_body_that_holds_the_loop_is_named_with_its_line(open_engine: OpenEngine, warned: list[str]):
    """EVT-04: in the log while it lasts, and as an event afterwards: asset, file and line of what holds it."""
    heard: list[LoopBlocked] = []
    pipe = _busy()
    pipe.on(LoopBlocked)(heard.append)
    engine = await open_engine(pipe, block_warning="50ms")
    assert await engine.run("holds") == 1
    await engine.run("holds", force=True)
    line = next(each for each in warned if "threading.py:" in each)
    assert "asset 'holds' (line " in line
    body = inspect.getsource(sys.modules[__name__]).splitlines().index("        _until_noticed()") + 1
    assert f"line {body} of its body" in line
    while not (found := [each for each in heard if each.asset is not None]):
        await engine.health()
    assert (found[0].asset, found[0].pipeline, found[0].type) == ("holds", "busy", "engine.loop_blocked")
    assert found[0].seconds >= 0.05
    assert found[0].place.partition(":")[0].endswith(".py")


async def test_what_is_no_body_is_named_by_its_place(open_engine: OpenEngine, warned: list[str]):
    """EVT-04: the host's own code too."""
    pipe = Pipeline("idle")
    pipe.constant("one", 1)
    await open_engine(pipe, block_warning="50ms")
    _until_noticed()
    line = next(each for each in warned if "threading.py:" in each)
    assert "asset" not in line
    assert " in wait" in line


async def test_a_loop_that_gets_no_turn_is_not_said_to_be_held(open_engine: OpenEngine, warned: list[str]):
    """EVT-04: where the loop itself waits, other threads or processes are the reason."""
    pipe = Pipeline("idle")
    pipe.constant("one", 1)
    await open_engine(pipe, block_warning="50ms")
    names: dict[str, Any] = {"__name__": "asyncio.selector_events", "warned": warned}
    exec("def starve():\n    while not warned:\n        pass", names)
    names["starve"]()
    assert "has had no turn for more than 0.05 s: other threads" in warned[0]


async def test_false_never_warns(open_engine: OpenEngine, warned: list[str]):
    """CFG-02: `block_warning=False` switches it off, and starts no thread."""
    await open_engine(_busy(), block_warning=False)
    assert not [thread for thread in threading.enumerate() if thread.name == "flowstone watchdog"]


async def test_a_loop_that_is_not_held_is_not_warned_of(open_engine: OpenEngine, warned: list[str]):
    """EVT-04: an idle engine, and one with many short bodies."""
    pipe = Pipeline("quick")
    for number in range(50):
        pipe.constant(f"one_{number}", number)
    engine = await open_engine(pipe, block_warning="10s")
    await engine.report()
    assert not warned


async def test_the_watchdog_ends_with_its_engine(open_engine: OpenEngine):
    """G-04: no thread is left behind."""
    async with Engine(_busy(), store="memory"):
        assert [thread for thread in threading.enumerate() if thread.name == "flowstone watchdog"]
    assert not [thread for thread in threading.enumerate() if thread.name == "flowstone watchdog"]


@pytest.mark.parametrize("value", [0, -1, "soon", True])
def test_a_limit_that_is_no_duration_is_refused(value: Any):
    """CFG-01: on construction."""
    with pytest.raises(ConfigError, match="block_warning"):
        Engine(_busy(), store="memory", block_warning=value)


async def test_every_pipeline_hears_of_what_is_no_body(open_engine: OpenEngine, warned: list[str]):
    """EVT-01: it concerns them all, and the hook of each hears of it once."""
    first, second, heard = Pipeline("first"), Pipeline("second"), list[LoopBlocked]()
    for pipe in (first, second):
        pipe.on(LoopBlocked)(lambda event: heard.append(event))
    engine = await open_engine(first, second, block_warning="50ms")
    _until_noticed()
    while len(heard) < 2:
        await engine.health()
    assert heard[0] is heard[1]
    assert (heard[0].pipeline, heard[0].asset) == ("", None)
