"""Commands in process: what they write is caught, and what they import is forgotten again."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from flowstone_async.cli.execute import execute
from flowstone_async.cli.output import Output


class Result(NamedTuple):
    """What came of a command."""

    code: int
    data: str
    messages: str


Invoke = Callable[..., Result]

SHOP = """
from datetime import date
from pydantic import BaseModel, SecretStr
from flowstone_async import Context, Daily, Failed, Keys, Pipeline

class Args(BaseModel):
    limit: int = 3
    key: SecretStr = SecretStr("")

pipe = Pipeline("shop", params=Args)
days = Daily("2025-01-01", end="2025-01-31")

@pipe.asset
async def rates() -> dict[str, float]:
    return {"eur": 1.1}

@pipe.asset(partitions=days)
async def events(partition: date, ctx: Context, params: Args) -> list[int]:
    ctx.metadata(rows=1234)
    if params.limit < 0:
        raise ValueError(f"limit is negative, key is {params.key.get_secret_value()}")
    return list(range(params.limit))

@pipe.asset(partitions=days)
async def report(events: list[int], rates: dict[str, float]) -> int:
    return len(events)

@pipe.asset(partitions=days)
async def lenient(report: int | Failed) -> str:
    return "done"

@pipe.asset(when=lambda: False)
async def never() -> int:
    return 1
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current directory, with shop.py; sys.path and sys.modules are put back afterwards."""
    (tmp_path / "shop.py").write_text(SHOP)
    monkeypatch.chdir(tmp_path)
    path, modules = list(sys.path), set(sys.modules)
    yield tmp_path
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.fixture
def invoke(project: Path) -> Invoke:
    """A function that does what a command line says in the project."""

    def invoke(*words: str, cwd: Path = project) -> Result:
        data, messages = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="backslashreplace"), io.StringIO()
        code = execute(words, Output(data, messages, terminal=False), cwd)
        data.seek(0)
        return Result(code, data.read(), messages.getvalue())

    return invoke
