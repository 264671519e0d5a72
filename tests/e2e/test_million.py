"""A million items, durably, by two workers that share them and are killed three times (SCAT-16, SCAT-22)."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

import pytest

from tests.e2e.database import connection, until
from tests.e2e.servers import Server

PROGRAM = Path(__file__).parent / "programs" / "million.py"
ITEMS = 1_000_000
KILLS, WORKERS = 3, 2
MOST_MB = 120
_DONE = "SELECT coalesce(sum(succeeded), 0) >= $1 FROM flowstone.scatter_chunk"
_WHOLE = "SELECT sum(length(places)) / 4 FROM flowstone.scatter_block"


@pytest.mark.faults
async def test_a_million_items_survive_three_kills_in_flat_memory(folder: Path, made: Path) -> None:
    subprocess.run(["cp", "-a", made, folder / "store"], check=True)
    with Server(folder / "store") as server:
        command = [sys.executable, str(PROGRAM), server.dsn, str(ITEMS)]
        async with connection(server.dsn) as sql:
            workers = [await asyncio.create_subprocess_exec(*command, stdout=PIPE) for _ in range(WORKERS)]
            for kill in range(1, KILLS + 1):
                await until(sql, "SELECT to_regclass('flowstone.scatter_chunk') IS NOT NULL")
                await until(sql, _DONE, kill * ITEMS // (KILLS + 2))
                place = kill % WORKERS
                workers[place].kill()
                await workers[place].communicate()
                workers[place] = await asyncio.create_subprocess_exec(*command, stdout=PIPE)
            found = [json.loads((await worker.communicate())[0]) for worker in workers]

            assert [each["seen"] for each in found] == [ITEMS] * WORKERS
            assert max(each["peak_mb"] for each in found) < MOST_MB
            assert await sql.fetchval(_WHOLE) == ITEMS
