"""The mode of the tests holds in every program that they start, whoever starts it: tests/support/modes.py."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.cli.process import Shell
from tests.e2e.commands import flowstone
from tests.e2e.database import connection
from tests.support.modes import BEFORE, mode

pytestmark = pytest.mark.not_in("notify", reason="there is nothing to enforce")
RUN = ("run", "flow.py", "modes", "--store")
FLOW = """
from pathlib import Path

from flowstone_async import Context, Engine, Pipeline
from flowstone_async.store.postgres import PostgresStore

pipe = Pipeline("modes")


@pipe.asset
async def modes(ctx: Context) -> None:
    enforced = [each.__name__ for each in (Engine, PostgresStore) if hasattr(each.__init__, "__wrapped__")]
    Path("enforced").write_text(" ".join(enforced))
"""
ENFORCED = {"poll": "PostgresStore", "pooler": "PostgresStore", "evict": "Engine"}


@pytest.fixture
def shell(tmp_path: Path, dsn: str) -> Shell:
    shell = Shell(tmp_path, dsn)
    (tmp_path / "flow.py").write_text(FLOW)
    return shell


def _forked(shell: Shell, dsn: str) -> None:
    assert shell.run(*RUN, dsn).code == 0


def _started(shell: Shell, dsn: str) -> None:
    with shell.start(*RUN, dsn) as started:
        assert started.end().code == 0


def _program(shell: Shell, dsn: str) -> None:
    with flowstone(shell.folder, *RUN, dsn) as program:
        assert program.end().code == 0


def _program_of_a_program(shell: Shell, dsn: str) -> None:
    words = [sys.executable, "-m", "flowstone_async.cli", *RUN, dsn]
    source = f"import subprocess; subprocess.run({words!r}, check=True)"
    subprocess.run([sys.executable, "-c", source], cwd=shell.folder, check=True, timeout=60, capture_output=True)


@pytest.mark.parametrize("started", [_forked, _started, _program, _program_of_a_program])
async def test_a_program_that_a_test_starts_is_of_the_mode(
    started: Callable[[Shell, str], None], shell: Shell, dsn: str
) -> None:
    started(shell, dsn)
    assert (shell.folder / "enforced").read_text() == ENFORCED[mode()]
    async with connection(dsn) as sql:
        waits = await sql.fetchval("SELECT count(*) FROM flowstone.gate WHERE key LIKE $1", f"{BEFORE}%")
    assert waits == (mode() == "evict")
