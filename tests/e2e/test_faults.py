"""Processes and their database are killed, stopped and cut off for minutes; afterwards everything is right."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from tests.e2e.commands import Program, run
from tests.e2e.database import connected, connection
from tests.e2e.disks import as_root, fill, stored
from tests.e2e.gates import Gates
from tests.e2e.invariants import Call, assert_whole, calls, counts, without_lease
from tests.e2e.servers import Server, kill_server

pytestmark = pytest.mark.faults

SECONDS = 120.0
WORKERS = 4
LEASE = 2.0
_BROKEN = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError)
_UNHAPPY = "SELECT id::text, state, error FROM flowstone.run WHERE state NOT IN ('succeeded', 'cancelled')"
_DERIVED = """
SELECT m.asset, m.partition, m.payload, l.asset AS of, l.partition AS key, u.payload AS source
FROM flowstone.materialization AS m
JOIN flowstone.lineage AS l ON l.materialization = m.id
JOIN flowstone.materialization AS u ON u.id = l.upstream
"""


class Chaos:
    """Workers that compute, and what is done to them.

    Args:
        folder: Where they run.
        server: Their database.
        seed: What decides what is done, and when.
    """

    def __init__(self, folder: Path, server: Server, seed: int) -> None:
        self._folder, self._server = folder, server
        self._random = random.Random(seed)
        self._awake: list[Program] = []
        self._asleep: list[tuple[float, Program]] = []
        self.done = Counter[str]()

    async def go_on(self, seconds: float) -> None:
        """Let them work, and do one thing after another."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        faults: list[tuple[Callable[[], Coroutine[Any, Any, None]], int]] = [
            (self.kill, 5),
            (self.stop, 5),
            (self.cut, 4),
            (self.restart, 1),
            (self.outage, 1),
        ]
        while loop.time() < end:
            while len(self._awake) + len(self._asleep) < WORKERS:
                self._awake.append(self.start())
            await _pass(self._random.uniform(0.1, 1.5))
            self._wake(loop.time())
            [(fault, _)] = self._random.choices(faults, [weight for _, weight in faults])
            self.done[fault.__name__] += 1
            await fault()
        self._wake(float("inf"))

    def start(self, **options: Any) -> Program:
        """Start one more process."""
        given = {
            "store": self._server.dsn,
            "seed": self._random.randrange(1 << 30),
            "lease": f"{LEASE}s",
            "poll": "100ms",
            "grace": "100ms",
            "max_lost": 1000,
            **options,
        }
        return Program(self._folder, "tests.e2e.programs.chaos", json.dumps(given))

    async def kill(self) -> None:
        if self._awake:
            victim = self._awake.pop(self._random.randrange(len(self._awake)))
            victim.kill()

    async def stop(self) -> None:
        """Let a process sleep, often for longer than its lease."""
        if self._awake:
            sleeper = self._awake.pop(self._random.randrange(len(self._awake)))
            sleeper.stop()
            length = self._random.uniform(0.2, 2.5 * LEASE)
            self._asleep.append((asyncio.get_running_loop().time() + length, sleeper))

    def _wake(self, now: float) -> None:
        for each in [each for each in self._asleep if each[0] <= now]:
            self._asleep.remove(each)
            each[1].go_on()
            self._awake.append(each[1])

    async def cut(self) -> None:
        """Break some connections off."""
        with suppress(*_BROKEN):
            async with connection(self._server.dsn) as sql:
                await sql.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE datname = current_database() AND pid <> pg_backend_pid() AND random() < $1::float8",
                    self._random.choice([0.2, 1.0]),
                )

    async def restart(self) -> None:
        self._server.quit()
        await asyncio.to_thread(self._server.start_again)

    async def outage(self) -> None:
        """Kill the server, and start it again, sometimes only after all leases have run out."""
        await asyncio.to_thread(self._server.kill)
        await _pass(self._random.choice([0.0, 0.3, 1.5 * LEASE]))
        await asyncio.to_thread(self._server.start_again)

    async def end(self) -> None:
        """Let them end what they are at, and continue what the dead have left."""
        (self._folder / "stop").touch()
        for program in self._awake:
            ended = await asyncio.to_thread(program.end)
            assert ended.code == 0, ended
        swept = await asyncio.to_thread(self.start(sweep=True).end)
        assert swept.code == 0, swept

    def close(self) -> None:
        for program in [*self._awake, *(program for _, program in self._asleep)]:
            program.__exit__()


async def _pass(seconds: float) -> None:
    with suppress(TimeoutError):
        await asyncio.wait_for(asyncio.Event().wait(), seconds)


def overlapping(calls: list[Call]) -> Iterator[tuple[Call, Call]]:
    """Yield calls for one key of which the second began before the first had ended."""
    latest: dict[str, list[Call]] = {}
    for call in calls:
        going = [one for one in latest.get(call.asset, []) if one.ended is None or one.ended > call.began]
        yield from ((one, call) for one in going)
        latest[call.asset] = [*going, call]


def value(payload: bytes) -> dict[str, str]:
    return json.loads(payload[1:])


async def assert_right(sql: asyncpg.Connection, folder: Path) -> None:
    assert [dict(row) for row in await sql.fetch(_UNHAPPY)] == []
    await assert_whole(sql)
    over = await without_lease(folder, sql)
    ended = {row[0] for row in await sql.fetch("SELECT id::text FROM flowstone.run WHERE state = 'cancelled'")}
    at_once = [
        (one, other) for one, other in overlapping(calls(folder)) if one.process not in over and one.run_id not in ended
    ]
    assert at_once == [], "two live workers computed one key at once"
    for asset, partition, payload, of, key, source in await sql.fetch(_DERIVED):
        if asset == "cooked":
            assert (of, key, value(payload)["cooked"]) == ("item", partition, value(source)["salt"])
        else:
            assert (asset, of, value(payload)[key]) == ("table", "cooked", value(source)["cooked"])


@pytest.fixture
def server(folder: Path, made: Path) -> Iterator[Server]:
    subprocess.run(["cp", "-a", made, folder / "server"], check=True)
    with Server(folder / "server") as server:
        yield server


async def test_nothing_goes_wrong_while_processes_and_server_are_killed_stopped_and_cut_off(
    folder: Path, server: Server
) -> None:
    chaos = Chaos(folder, server, seed=1)
    try:
        await chaos.go_on(SECONDS)
        await chaos.end()
    finally:
        chaos.close()
    async with connection(server.dsn) as sql:
        await assert_right(sql, folder)
        made = await sql.fetchval("SELECT count(*) FROM flowstone.materialization")
    assert min(chaos.done.values()) > 0
    assert made > SECONDS


async def test_a_server_that_stays_away_longer_than_the_lease_ends_the_command_and_the_next_continues(
    folder: Path, store: str, gates: Gates
) -> None:
    gates.hold("second")
    with run(folder, "third", store) as running:
        held = gates.reached()
        kill_server(folder / "store")
        held.go()
        ended = await asyncio.to_thread(running.end)
    assert ended.code == 8, ended
    assert "nobody listens there" in ended.err
    assert "run the same again" in ended.err, ended.err
    gates.hold()

    again = await asyncio.to_thread(run(folder, "third", store).end)

    assert again.code == 0, again
    assert counts(folder) == {"first": 1, "second": 2, "third": 1}
    async with connected(folder) as sql:
        await assert_whole(sql)


@as_root
async def test_a_disk_that_stays_full_ends_the_command_and_the_next_finds_everything(folder: Path, made: Path) -> None:
    with stored(folder, made) as (disk, store):
        assert run(folder, "first", store).end().code == 0
        await fill(disk)

        ended = await asyncio.to_thread(run(folder, "bulky", store).end)

        assert ended.code == 8, ended
        assert "its disk is full" in ended.err
        assert "Free space" in ended.err
        (disk / "ballast").unlink()
        again = await asyncio.to_thread(run(folder, "bulky", store).end)
        assert again.code == 0, again
        assert counts(folder) == {"first": 1, "bulky": 2}
        with Server(disk / "store") as server:
            async with connection(server.dsn) as sql:
                await assert_whole(sql)
