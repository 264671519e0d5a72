"""Ctrl-C, wherever it comes: the command ends soon and in order, and the same command goes on."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.e2e.commands import Ended, run
from tests.e2e.database import connected, until
from tests.e2e.gates import Gates
from tests.e2e.invariants import assert_whole, calls, counts

INTERRUPTED = 130
ONCE = {"first": 1, "second": 1, "third": 1}
STATES = "SELECT array_agg(state ORDER BY created_at) FROM flowstone.run"


def interrupted(ended: Ended) -> None:
    assert ended.code == INTERRUPTED, ended
    assert "to go on, run the same command again:\n  flowstone run" in ended.err
    assert "Traceback" not in ended.err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_body_is_cancelled_and_what_is_stored_is_kept(
    folder: Path, store: str, gates: Gates, number: signal.Signals
) -> None:
    gates.hold("second")
    with run(folder, "third", store) as running:
        gates.reached()
        running.process.send_signal(number)
        interrupted(running.end())
    assert [call.cancelled for call in calls(folder)] == [False, True]
    gates.hold()

    again = run(folder, "third", store).end()

    assert again.code == 0, again
    assert counts(folder) == ONCE | {"second": 2}
    async with connected(folder) as sql:
        assert await sql.fetchval(STATES) == ["cancelled", "succeeded"]
        await assert_whole(sql)


async def test_while_another_migrates(folder: Path, store: str) -> None:
    async with connected(folder) as sql:
        async with sql.transaction():
            await sql.execute("SELECT pg_advisory_xact_lock($1)", int.from_bytes(b"flowston"))
            with run(folder, "first", store) as running:
                await until(sql, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
                running.interrupt()
                interrupted(running.end())
        assert run(folder, "first", store).end().code == 0
        await assert_whole(sql)
    assert counts(folder) == {"first": 1}


@pytest.mark.not_in("evict", reason="an equal call joins a run that was suspended, and waits for no key")
async def test_whoever_waits_for_another_leaves_that_one_alone(folder: Path, store: str, gates: Gates) -> None:
    gates.hold("second")
    with run(folder, "third", store) as one:
        held = gates.reached()
        with run(folder, "third", store) as waiting:
            async with connected(folder) as sql:
                await until(sql, "SELECT contended FROM flowstone.asset_key WHERE asset = 'second'")
            waiting.interrupt()
            interrupted(waiting.end())
        held.go()
        assert one.end().code == 0
    async with connected(folder) as sql:
        assert await sql.fetchval(STATES) == ["succeeded", "cancelled"]
        await assert_whole(sql)
    assert counts(folder) == ONCE
