"""Ten thousand suspended runs that are signalled while nobody is there: each goes on once, in bounded memory (STEP-15)."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from asyncio.subprocess import PIPE
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.database import connection
from tests.e2e.servers import Server

PROGRAM = Path(__file__).parent / "programs" / "suspended.py"
MOST_MB = 200


async def _phase(phase: str, dsn: str, runs: int) -> dict[str, Any]:
    program = await asyncio.create_subprocess_exec(sys.executable, str(PROGRAM), phase, dsn, str(runs), stdout=PIPE)
    said, _ = await program.communicate()
    assert program.returncode == 0, phase
    print(said.decode().strip())
    return json.loads(said)


async def _through(dsn: str, runs: int) -> dict[str, Any]:
    """Suspend, signal and wake runs, in a process each; return what the last one tells."""
    async with connection(dsn) as sql:
        await sql.execute("CREATE TABLE called (partition text); CREATE TABLE went_on (partition text)")
        await _phase("begin", dsn, runs)
        await _phase("send", dsn, runs)
        assert await sql.fetchval("SELECT count(*) FROM went_on") == 0
        told = await _phase("go_on", dsn, runs)
        each = "SELECT count(*) AS rows, count(DISTINCT partition) AS runs FROM "
        assert tuple(await sql.fetchrow(f"{each} went_on")) == (runs, runs)
        assert tuple(await sql.fetchrow(f"{each} called")) == (2 * runs, runs)
        tried = "SELECT sum(lost) AS lost, count(*) FILTER (WHERE state <> 'succeeded') AS others FROM flowstone.run"
        assert tuple(await sql.fetchrow(tried)) == (0, 0)
    return told


@pytest.mark.faults
async def test_ten_thousand_suspended_runs_go_on_once_each(folder: Path, made: Path) -> None:
    subprocess.run(["cp", "-a", made, folder / "store"], check=True)
    with Server(folder / "store") as server:
        told = await _through(server.dsn, 10_000)
    assert told["peak_mb"] < MOST_MB
