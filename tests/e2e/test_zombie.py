"""A process that slept beyond its lease, and wakes up when another has done its work, writes nothing (G-02, JOB-08)."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest
import pytest_asyncio

from tests.e2e.commands import work
from tests.e2e.database import connection
from tests.e2e.gates import Gates
from tests.e2e.invariants import assert_whole, calls, counts
from tests.support.engines import TEMPLATE, migrate
from tests.support.postgres import TestServer

_TABLES = ("run", "asset_key", "event", "materialization", "superseded", "lineage", "value_chunk", "audit")


@pytest_asyncio.fixture
async def dsn(server: TestServer) -> AsyncIterator[str]:
    """A database of the test's own."""
    await server.create_template(TEMPLATE, migrate(server))
    dsn = await server.clone(TEMPLATE)
    yield dsn
    await server.drop(dsn)


async def written(connection: asyncpg.Connection) -> dict[str, list[str]]:
    """Return every row there is, but for the workers' leases."""
    return {
        table: [row[0] for row in await connection.fetch(f"SELECT t::text FROM flowstone.{table} AS t ORDER BY 1")]
        for table in _TABLES
    }


@pytest.mark.not_in("evict", reason="an equal call joins a run that was suspended: who wakes finds its result")
async def test_a_process_that_was_stopped_beyond_its_lease_writes_nothing_when_it_wakes(
    folder: Path, dsn: str, gates: Gates
) -> None:
    gates.hold("letter:a", "letter:b")
    with (
        work(folder, dsn, ("letter", "a"), lease="2s") as knowing,
        work(folder, dsn, ("letter", "b"), lease="2s", blind=True) as blind,
    ):
        held = [gates.reached(), gates.reached()]
        knowing.stop()
        blind.stop()
        gates.hold()
        with work(folder, dsn, ("letter", "a"), ("letter", "b"), lease="3s", poll="100ms") as heir:
            ended = heir.end()
        assert ended.code == 0, ended
        async with connection(dsn) as connected:
            before = await written(connected)
            for each in held:
                each.go()
            for zombie in (knowing, blind):
                zombie.go_on()
                ended = zombie.end()
                assert (ended.code, json.loads(ended.out).get("error")) == (1, "LeaseLost"), ended
            assert await written(connected) == before
            await assert_whole(connected)
    assert counts(folder) == {"letter:a": 2, "letter:b": 2}
    assert len({call.run_id for call in calls(folder)}) == 2
