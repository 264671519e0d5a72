"""Kills at times that nobody chose: what was written stays, and the next start works."""

import contextlib
import os
import random
import signal
from pathlib import Path

import asyncpg
import pytest

from flowstone_async.store.embedded.locks import is_held
from flowstone_async.store.embedded.server import EmbeddedServer
from tests.postgres.embedded.process import Process, postmaster_pid

# A killed process loses nothing without fsync; a power cut would.
SETTINGS = {"fsync": "off"}


@pytest.mark.faults
@pytest.mark.parametrize("seed", range(4))
async def test_kills_at_random_times_lose_nothing(fresh: Path, seed: int) -> None:
    chance = random.Random(seed)
    written: set[int] = set()
    for _ in range(25):
        with Process(fresh, settings=SETTINGS) as process, Process(fresh, settings=SETTINGS) as other:
            if chance.random() < 0.5:
                written.add(process.tell("write")["written"] if "role" in process.first else -1)
            if chance.random() < 0.5 and other.first:
                with contextlib.suppress(FileNotFoundError):
                    os.kill(postmaster_pid(fresh), signal.SIGKILL)
            process.kill(after=chance.uniform(0, 0.5))
            if chance.random() < 0.5:
                other.kill(after=chance.uniform(0, 0.5))
    server = EmbeddedServer(fresh, settings=SETTINGS)
    connection = await asyncpg.connect(**(await server.open()).arguments())
    assert {row["x"] for row in await connection.fetch("SELECT x FROM t")} >= written > {1}
    await connection.close()
    await server.close()
    assert not is_held(fresh / "server.lock")
