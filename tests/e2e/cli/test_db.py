"""`flowstone db`: what looks after the Postgres of a store (CLI-04)."""

from __future__ import annotations

import asyncio
import json
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from flowstone_async.cli import exit_code
from flowstone_async.store.postgres.migrate import migrations
from tests.e2e.cli.process import Shell

OLD = (
    "UPDATE flowstone.run SET created_at = created_at - interval '40 days', finished_at = finished_at - interval '40 days'",
    "UPDATE flowstone.event SET born = born - 40",
    "UPDATE flowstone.superseded SET at = at - interval '40 days'",
)


def execute(dsn: str, *statements: str) -> list[asyncpg.Record]:
    """Run statements and return the rows of the last."""

    async def run() -> list[asyncpg.Record]:
        connection = await asyncpg.connect(dsn)
        try:
            return [await connection.fetch(statement) for statement in statements][-1]
        finally:
            await connection.close()

    return asyncio.run(run())


@pytest.fixture
def empty(dsn: str) -> str:
    """A database without the schema."""
    execute(dsn, "DROP SCHEMA flowstone CASCADE")
    return dsn


def test_migrate_makes_the_schema_and_says_so(postgres: Shell, empty: str) -> None:
    done = postgres.run("db", "migrate", "--json")

    assert (done.code, done.messages) == (exit_code.OK, "")
    applied = [each.full_name for each in migrations()]
    assert json.loads(done.data) == {"applied": applied, "schema": migrations()[-1].number}
    assert execute(empty, "SELECT count(*) FROM flowstone.event")[0][0] == 0
    again = postgres.run("db", "migrate")
    assert (again.code, again.data) == (exit_code.OK, "")
    assert "nothing to do" in again.messages


def test_prune_says_how_much_it_deletes(postgres: Shell, dsn: str) -> None:
    for _ in range(2):
        assert postgres.run("run", "flow.py", "base", "--force").code == exit_code.OK
    execute(dsn, *OLD)

    kept = postgres.run("db", "prune", "--runs", "none", "--values", "60d")
    done = postgres.run("db", "prune", "flow.py", "--json")

    assert "pruned 0 runs and 0 values" in kept.messages
    assert (done.code, json.loads(done.data)) == (exit_code.OK, {"runs": 2, "values": 1})
    assert execute(dsn, "SELECT count(*) FROM flowstone.event")[0][0] == 0


def test_stats_tells_what_there_is(postgres: Shell) -> None:
    assert postgres.run("run", "flow.py", "base").code == exit_code.OK

    found = json.loads(postgres.run("db", "stats", "--json").data)
    shown = postgres.run("db", "stats")

    assert found["runs"] == {"succeeded": 1}
    assert {"run", "event", "asset_key", "audit"} <= {each["name"] for each in found["tables"]}
    event, step = (next(each for each in found["tables"] if each["name"] == name) for name in ("event", "step"))
    assert (event["size"] > 0, event["partitions"] == step["partitions"]) == (True, True)
    assert event["partitions"] + step["partitions"] == len(found["partitions"])
    assert "event_default" in {each["name"] for each in found["partitions"]}
    assert (found["oldest_active"], found["astray"], found["notifications"]) == (None, 0, 0.0)
    assert found["transactions"] >= 0
    assert (shown.code, shown.messages) == (exit_code.OK, "")
    for words in ("event_default", "succeeded", "oldest active run   none", "notification queue  0.0% full"):
        assert words in shown.data


@pytest.mark.parametrize("verb", ["migrate", "prune", "stats"])
def test_a_store_that_cannot_be_reached_ends_it_with_8(postgres: Shell, dsn: str, verb: str) -> None:
    nowhere = urlunsplit(urlsplit(dsn)._replace(netloc="nobody@localhost:1", query=""))

    done = postgres.run("db", verb, "--store", nowhere)

    assert (done.code, done.data) == (exit_code.STORE_UNREACHABLE, "")
