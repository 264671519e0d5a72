"""STORE-07: maintenance deletes values that no record names after a day, in every store, and nothing else."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from flowstone_async import Engine, Pipeline, io
from flowstone_async._engine.sweeping import sweepers
from flowstone_async._engine.upkeep import Retention, Upkeep
from flowstone_async.clock import SystemClock, settle
from flowstone_async.errors import StorageError
from flowstone_async.io.base import IOManager
from flowstone_async.store.memory import MemoryStore
from tests.support.engines import SharedEngines
from tests.unit.io.refs import ref_of

DAYS = 2 * 86_400


def _pipeline(root: Path) -> Pipeline:
    pipe = Pipeline("kept", io=io.Files(root))
    count = iter(range(100))

    @pipe.asset
    async def number() -> int:
        return next(count)

    return pipe


def _values(root: Path) -> set[Path]:
    return {path for path in root.glob(".values/.*/**/*") if path.is_file() and len(path.name) == 36}


def _age(root: Path) -> None:
    for path in root.rglob("*"):
        if path.is_file():
            os.utime(path, (path.stat().st_atime, path.stat().st_mtime - DAYS))


async def _crash(engine: Engine) -> None:
    """Leave what is left of a process that dies between writing a value and committing it."""
    [manager] = sweepers(engine._live()).values()
    assert isinstance(manager, IOManager)
    await manager.store(ref_of(int), 1)


async def _upkeep(engine: Engine) -> None:
    await Upkeep(engine._live(), Retention.off()).sweep()


async def _idle(engine: Engine) -> None:
    """Let the sweep of an engine that was just opened end."""
    await settle()
    [manager] = sweepers(engine._live()).values()
    assert not await manager.is_due(0), "a folder without values is not swept"


async def test_unreferenced_values_go_and_current_and_superseded_ones_stay(engines: SharedEngines, tmp_path: Path):
    """STORE-07, STORE-08: the copy that people see stays too."""
    engine = await engines.open(_pipeline(tmp_path))
    await _idle(engine)
    await engine.run("number")
    await engine.run("number", force=True)
    referenced = _values(tmp_path)
    assert len(referenced) == (2 if engines.durable else 1), "a memory store lets go of what is superseded"
    await _crash(engine)
    _age(tmp_path)
    await _crash(engine)
    young = _values(tmp_path)
    assert len(young) == len(referenced) + 2

    await _upkeep(engine)

    assert len(_values(tmp_path)) == len(referenced) + 1
    assert referenced < _values(tmp_path)
    assert await engine.get("number") == 1
    assert (tmp_path / "kept" / "number.json").read_bytes() == b" 1"


async def test_it_happens_by_itself_once_a_day(engines: SharedEngines, tmp_path: Path):
    """STORE-07: unasked, when an engine is entered, and not again by each engine that is."""
    first = await engines.open(_pipeline(tmp_path))
    await _idle(first)
    await _crash(first)
    _age(tmp_path)
    second = await engines.open(_pipeline(tmp_path), retention=False)
    [manager] = sweepers(second._live()).values()
    while await manager.is_due(3600):
        await asyncio.sleep(0)
    assert not _values(tmp_path)

    await _crash(first)
    for path in _values(tmp_path):
        os.utime(path, (0, 0))
    await _upkeep(second)
    assert len(_values(tmp_path)) == 1


async def test_stores_that_share_a_folder_leave_each_other_alone(engines: SharedEngines, tmp_path: Path):
    """STORE-07: a value that another store has on record is not unreferenced."""
    pipe = _pipeline(tmp_path)
    engine = await engines.open(pipe)
    async with Engine(pipe, store=MemoryStore(SystemClock())) as other:
        await _idle(engine)
        await _idle(other)
        await engine.run("number")
        await other.run("number")
        _age(tmp_path)
        await _upkeep(engine)
        await _upkeep(other)

        assert len(_values(tmp_path)) == 2
        assert (await engine.get("number"), await other.get("number")) == (0, 1)


async def test_a_folder_that_cannot_be_swept_is_told_once_and_ends_nothing(
    engines: SharedEngines, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """STORE-07, G-05: a warning; runs go on."""

    async def broken(*_: object, **__: object) -> None:
        raise StorageError("values that no record names cannot be read")

    monkeypatch.setattr(io.Files, "is_due", broken)
    engine = await engines.open(_pipeline(tmp_path))
    while "cannot be read" not in caplog.text:
        await asyncio.sleep(0)
    assert await engine.run("number") == 0
