"""The database dies under a run: the run outlives it, or ends with an error that the next command makes good."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import asyncpg
import pytest

from tests.e2e.commands import run, work
from tests.e2e.database import Blocked, connection
from tests.e2e.gates import Gates
from tests.e2e.invariants import assert_whole, counts
from tests.e2e.servers import Server

_BROKEN = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError)
ONCE = {"first": 1, "second": 1, "third": 1}


@pytest.fixture
def server(folder: Path, made: Path) -> Iterator[Server]:
    """A server of the test's own, which runs."""
    subprocess.run(["cp", "-a", made, folder / "server"], check=True)
    with Server(folder / "server") as server:
        yield server


async def assert_result(server: Server, folder: Path, expected: dict[str, int]) -> None:
    assert counts(folder) == expected
    async with connection(server.dsn) as connected:
        await assert_whole(connected)


async def test_a_run_outlives_a_server_that_is_killed_during_a_body(folder: Path, server: Server, gates: Gates) -> None:
    gates.hold("second")
    with run(folder, "third", server.dsn) as running:
        held = gates.reached()
        server.kill()
        server.start_again()
        held.go()
        ended = running.end()
    assert ended.code == 0, ended
    await assert_result(server, folder, ONCE)


async def test_a_commit_that_dies_with_the_server_is_sent_again(folder: Path, server: Server, gates: Gates) -> None:
    gates.hold("second")
    with run(folder, "third", server.dsn) as running:
        held = gates.reached()
        async with connection(server.dsn) as connected:
            with suppress(*_BROKEN):
                async with Blocked(connected, "second") as blocked:
                    held.go()
                    await blocked.arrived()
                    server.kill()
        server.start_again()
        ended = running.end()
    assert ended.code == 0, ended
    await assert_result(server, folder, ONCE)


async def test_a_run_outlives_the_loss_of_all_its_connections(folder: Path, server: Server, gates: Gates) -> None:
    gates.hold("second")
    with run(folder, "third", server.dsn) as running:
        held = gates.reached()
        async with connection(server.dsn) as connected:
            await connected.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = current_user AND pid <> pg_backend_pid()"
            )
        held.go()
        ended = running.end()
    assert ended.code == 0, ended
    await assert_result(server, folder, ONCE)


@pytest.mark.faults  # the store is waited for for half a minute
async def test_a_server_that_stays_away_ends_the_run_and_the_next_command_continues_it(
    folder: Path, server: Server, gates: Gates
) -> None:
    gates.hold("second")
    with work(folder, server.dsn, ("third", None), lease="2s") as running:
        held = gates.reached()
        server.kill()
        held.go()
        ended = running.end()
    assert (ended.code, json.loads(ended.out)["error"]) == (8, "StoreUnavailable"), ended
    assert "nobody listens there" in ended.out
    assert "run the same again" in ended.out
    gates.hold()
    server.start_again()

    again = work(folder, server.dsn, ("third", None), lease="2s", poll="100ms").end()

    assert (again.code, json.loads(again.out)) == (0, {"value": 9900}), again
    await assert_result(server, folder, ONCE | {"second": 2})


async def test_a_server_that_is_away_when_an_input_is_loaded_fails_no_asset(
    folder: Path, server: Server, gates: Gates
) -> None:
    assert run(folder, "first", server.dsn).end().code == 0
    gates.hold("planned")
    with work(folder, server.dsn, ("third", None), planned=True) as running:
        held = gates.reached()
        server.kill()
        held.go()
        server.start_again()
        ended = running.end()
    assert ended.code == 0, ended
    await assert_result(server, folder, ONCE)
