"""`kill -9` at any point, followed by the same command again: nothing is lost, nothing committed is done again.

On the embedded store: nobody waits for a lease to run out there, or these tests would take half a minute each.
"""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from tests.e2e.commands import run, work
from tests.e2e.database import Blocked, connected, gone, until
from tests.e2e.gates import Gates
from tests.e2e.invariants import assert_whole, calls, counts
from tests.support.modes import mode

ONCE = {"first": 1, "second": 1, "third": 1}
VALUE = "SELECT payload FROM flowstone.materialization AS m JOIN flowstone.asset_key AS k ON k.current = m.id WHERE k.asset = $1"
SERVER = "store/cluster/data/postmaster.pid"


async def assert_result(folder: Path, *, expected: dict[str, int]) -> None:
    """See that what is stored is what an undisturbed run stores."""
    assert counts(folder) == expected
    async with connected(folder) as connection:
        assert (await connection.fetchval(VALUE, "third")).strip() == b"9900"
        # Dropped bodies: a dead process's run is suspended when its heir has what it wanted, and waits for the next one.
        await assert_whole(connection, ended=mode() != "evict")


async def assert_continued(folder: Path, store: str, expected: dict[str, int]) -> None:
    """Give the command again, and see that it ends well."""
    again = run(folder, "third", store).end()
    assert again.code == 0, again
    told = [json.loads(line) for line in again.out.splitlines()]
    begun = [event["run_id"] for event in told if event.get("type") == "run.started"]
    assert [event.get("run_id", begun[0]) for event in told] == begun * len(told), "the dead one's run is not its own"
    await assert_result(folder, expected=expected)


LONG = pytest.mark.faults


@pytest.mark.parametrize(
    ("point", "expected"),
    [
        pytest.param("while the schema is made", ONCE, marks=LONG),
        pytest.param("after the worker was registered", ONCE, marks=LONG),
        ("before the run is begun", ONCE),
        pytest.param("after the run was begun", ONCE, marks=LONG),
        ("before second is committed", ONCE | {"second": 2}),
        ("after second was committed", ONCE),
        pytest.param("before the run is ended", ONCE | {"third": 2}, marks=LONG),
        pytest.param("after the run was ended", ONCE, marks=LONG),
        pytest.param("before the lease is given up", ONCE, marks=LONG),
    ],
)
async def test_a_command_that_was_killed_is_gone_on_with_by_the_same_command(
    folder: Path, store: str, point: str, expected: dict[str, int]
) -> None:
    killed = run(folder, "third", store, point=point).end()
    assert killed.code == -signal.SIGKILL, killed

    await assert_continued(folder, store, expected)


@pytest.mark.parametrize("with_server", [pytest.param(False, marks=LONG), True])
async def test_a_process_that_is_killed_in_a_body_repeats_that_body_only(
    folder: Path, store: str, gates: Gates, with_server: bool
) -> None:
    gates.hold("second")
    with run(folder, "third", store) as killed:
        gates.reached()
        killed.kill()
    if with_server:
        os.kill(int((folder / SERVER).read_text().split("\n", 1)[0]), signal.SIGKILL)
    gates.hold()

    await assert_continued(folder, store, ONCE | {"second": 2})


JOINS = pytest.mark.not_in("evict", reason="an equal call joins a run that was suspended")
AT_ONCE = pytest.mark.not_in("pooler", reason="a transaction there is several messages, the last of which never came")


@pytest.mark.parametrize("lands", [pytest.param(True, marks=AT_ONCE), False])
async def test_a_commit_in_flight_when_its_process_is_killed_counts_if_it_lands(
    folder: Path, store: str, gates: Gates, lands: bool
) -> None:
    gates.hold("second")
    with run(folder, "third", store) as killed:
        held = gates.reached()
        async with connected(folder) as connection, connected(folder) as other:
            async with Blocked(connection, "second") as blocked:
                held.go()
                backend = await blocked.arrived()
                killed.kill()
                if not lands:
                    await other.execute("SELECT pg_terminate_backend($1)", backend)
            await gone(other, backend)
    gates.hold()

    await assert_continued(folder, store, ONCE if lands else ONCE | {"second": 2})


@LONG
async def test_whoever_continues_may_be_killed_too(folder: Path, store: str) -> None:
    for point in ("after the run was begun", "after a dead run was taken over", "after second was committed"):
        killed = run(folder, "third", store, point=point).end()
        assert killed.code == -signal.SIGKILL, killed

    ended = work(folder, store, ("third", None)).end()

    assert ended.code == 0, ended
    await assert_result(folder, expected=ONCE)


@JOINS
async def test_a_body_that_kills_its_process_is_not_called_for_ever(folder: Path, store: str, gates: Gates) -> None:
    gates.hold("second")
    for _ in range(4):
        with run(folder, "third", store) as killed:
            gates.reached()
            killed.kill()
    runs = {call.run_id for call in calls(folder) if call.asset == "second"}
    assert len(runs) == 1
    gates.hold()

    again = work(folder, store, ("third", None)).end()

    assert again.code == 0, again
    async with connected(folder) as connection:
        await assert_whole(connection)
        state, error = await connection.fetchrow("SELECT state, error FROM flowstone.run WHERE id = $1", *runs) or ()
    assert state == "failed"
    assert "WorkerLost" in error
    assert [call.run_id in runs for call in calls(folder) if call.asset == "second"] == [True, True, True, True, False]


async def test_two_commands_that_start_the_server_at_once_compute_each_asset_once(folder: Path) -> None:
    store = "embedded:store"
    with run(folder, "third", store) as one, run(folder, "third", store) as other:
        assert (one.end().code, other.end().code) == (0, 0)
    await assert_result(folder, expected=ONCE)


@JOINS
async def test_two_commands_at_once_run_a_body_once(folder: Path, store: str, gates: Gates) -> None:
    gates.hold("second")
    with run(folder, "third", store) as one:
        held = gates.reached()
        with run(folder, "third", store) as other:
            async with connected(folder) as connection:
                await until(connection, "SELECT contended FROM flowstone.asset_key WHERE asset = 'second'")
            held.go()
            assert (one.end().code, other.end().code) == (0, 0)
    await assert_result(folder, expected=ONCE)


@JOINS
async def test_whoever_waits_for_a_process_that_is_killed_goes_on_in_its_place(
    folder: Path, store: str, gates: Gates
) -> None:
    gates.hold("second")
    with run(folder, "third", store) as killed:
        gates.reached()
        with run(folder, "third", store) as waiting:
            async with connected(folder) as connection:
                await until(connection, "SELECT contended FROM flowstone.asset_key WHERE asset = 'second'")
            gates.hold()
            killed.kill()
            ended = waiting.end()
    assert ended.code == 0, ended
    await assert_result(folder, expected=ONCE | {"second": 2})


async def test_a_server_that_is_killed_under_a_run_is_started_again_by_the_next_command(
    folder: Path, store: str, gates: Gates
) -> None:
    gates.hold("second")
    with run(folder, "third", store) as one:
        held = gates.reached()
        os.kill(int((folder / SERVER).read_text().split("\n", 1)[0]), signal.SIGKILL)
        other = run(folder, "letter", store, "-p", "a").end()
        held.go()
        ended = one.end()
    assert (other.code, ended.code) == (0, 0), (other, ended)
    await assert_result(folder, expected=ONCE | {"letter:a": 1})
