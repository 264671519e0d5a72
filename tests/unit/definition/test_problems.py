"""Every problem at once, each with its place, its sentence and its way out (ASSET-12)."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from flowstone_async import DefinitionError, Engine, Pipeline, Retry, RunStarted, dep
from tests.unit.definition.reading import codes

ROOT = Path(__file__).resolve().parents[3]

BROKEN = """
from __future__ import annotations
from flowstone_async import Pipeline, DefinitionError, dep
pipe = Pipeline("daily")

@pipe.asset
async def events() -> list[str]: return []
@pipe.asset
async def metrics(event: list[str]) -> int: return 1
@pipe.asset
async def report(metrics: str, partition: str) -> str: return ""
try: pipe.validate()
except DefinitionError as e: print(e)
print("-----")
p2 = Pipeline("loop")
@p2.asset
async def a(c: int) -> int: return c
@p2.asset
async def b(a: int) -> int: return a
@p2.asset
async def c(b: int) -> int: return b
try: p2.validate()
except DefinitionError as e: print(e)
print("-----")
p3 = Pipeline("blocking")
@p3.asset
def blocking() -> int: return 1
try: p3.validate()
except DefinitionError as e: print(e)
"""

SAID = """
2 problems in pipeline 'daily'

FS101  errs.py:7
  metrics(event: list[str]) — 'event' is not an asset, param or resource of this pipeline. Did you mean 'events'?

FS104  errs.py:9
  report(metrics: str) but asset 'metrics' produces int.
-----
1 problem in pipeline 'loop'

FS110  errs.py:15
  cycle: a -> b -> c -> a. Take one of these edges away.
-----
1 problem in pipeline 'blocking'

FS103  errs.py:25
  blocking: the body is a plain def, which would block the event loop. Make it async def, or name where it runs: \
@pipe.asset(run_in="thread"), "process" or "dask".
"""


def test_three_broken_pipelines(tmp_path: Path) -> None:
    """ASSET-12: api/errs.py without its route, word for word; a line counts from the decorator."""
    (tmp_path / "errs.py").write_text(BROKEN.lstrip("\n"), encoding="utf-8")
    command = [sys.executable, "errs.py"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.stderr == ""
    assert done.stdout.strip() == SAID.strip()


def _broken() -> Pipeline:
    pipe = Pipeline("Bad Name", timeout="soon")

    @pipe.asset
    async def metrics(event: list[str]) -> int:
        return 1

    @pipe.asset(retry=Retry(0), name="Report")
    async def report(metrics: str) -> str:
        return ""

    return pipe


def test_all_problems_are_found_at_once() -> None:
    """ASSET-12: with code, place, sentence, asset and hint, also as values; decorators raise nothing."""
    pipe = _broken()
    with pytest.raises(DefinitionError) as caught:
        pipe.validate()
    error = caught.value
    first = _broken.__code__.co_firstlineno
    assert [(p.code, p.line, p.asset) for p in error.problems] == [
        ("FS108", first + 1, None),
        ("FS109", first + 1, None),
        ("FS101", first + 3, "metrics"),
        ("FS109", first + 7, "Report"),
        ("FS108", first + 7, "Report"),
        ("FS104", first + 7, "Report"),
    ]
    assert {p.file for p in error.problems} == {"tests/unit/definition/test_problems.py"}
    assert error.message.startswith(
        "6 problems in pipeline 'Bad Name'\n\nFS108  tests/unit/definition/test_problems.py:"
    )
    assert error.problems == pipe.problems()
    assert error.details["problems"] == [
        {"code": p.code, "location": p.location, "message": p.message} for p in error.problems
    ]
    assert not error.retryable


async def test_nothing_runs_before_validation(tmp_path: Path) -> None:
    """ASSET-12: no body, resource or hook has run, and no store was opened."""
    pipe = Pipeline("p")
    touched: list[str] = []

    @pipe.resource
    async def resource() -> AsyncIterator[Path]:
        touched.append("resource")
        yield tmp_path

    @pipe.on(RunStarted)
    async def hook(event: RunStarted) -> None:
        touched.append("hook")

    @pipe.asset
    async def fine(where: Path) -> int:
        touched.append("body")
        return 1

    @pipe.asset
    async def wrong(nothing: int) -> int:
        return 1

    store = tmp_path / "store"
    with pytest.raises(DefinitionError):
        await pipe.run(fine)
    with pytest.raises(DefinitionError):
        await pipe.plan(fine)
    with pytest.raises(DefinitionError):
        async with Engine(pipe, store=f"embedded:{store}"):
            touched.append("engine")
    for look in (pipe.order, pipe.graph, lambda: pipe.asset_info(fine)):
        with pytest.raises(DefinitionError):
            look()
    assert touched == []
    assert not store.exists()


def test_a_definition_may_be_mended() -> None:
    """ASSET-12: validation looks again after each change, and only then."""
    pipe = Pipeline("p")

    @pipe.asset
    async def down(up: int) -> int:
        return up

    assert codes(pipe) == ["FS101"]
    pipe.constant("up", 1)
    assert codes(pipe) == []
    assert pipe.compiled() is pipe.compiled()
    before = pipe.compiled()
    pipe.constant("more", 1)
    assert pipe.compiled() is not before


def test_a_dependency_is_not_looked_for_among_methods() -> None:
    """ASSET-12: a pipeline's own attributes are no assets."""
    pipe = Pipeline("p")

    @pipe.asset
    async def wrong(run: int, x: int = dep("validate")) -> int:
        return run

    assert codes(pipe) == ["FS101", "FS101"]


def test_every_code_is_documented() -> None:
    """ASSET-12: docs/problems.md lists the codes that there are, and no others."""
    package = ROOT / "flowstone_async"
    used = {
        code for file in package.rglob("*.py") for code in re.findall(r'"(FS\d+)"', file.read_text(encoding="utf-8"))
    }
    listed = re.findall(r"</a>(FS\d+) ", (ROOT / "docs" / "problems.md").read_text(encoding="utf-8"))
    assert sorted(used) == listed
