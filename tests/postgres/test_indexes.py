"""Indexes that are missing or damaged are told, with what mends them (CLI-03)."""

from __future__ import annotations

import asyncpg
import pytest

from flowstone_async.store.postgres.indexes import Index, expected
from flowstone_async.store.postgres.migrate import schema_texts
from flowstone_async.store.postgres.queries import QUERIES
from tests.postgres.conftest import Opened


async def mend(sql: asyncpg.Connection, opened: Opened) -> None:
    """Run the remedies one by one, as people do."""
    for fault in await opened.store.faults():
        for statement in fault.remedy.splitlines():
            await sql.execute(statement)


async def test_what_is_expected_is_what_the_migrations_make(sql: asyncpg.Connection) -> None:
    made = {
        name: (table, tuple(columns), partial)
        for name, table, columns, partial, _ in await sql.fetch(QUERIES["indexes"])
    }

    assert {name: index.shape for name, index in expected(schema_texts()).items()} == made
    assert {"run_active", "run_pkey", "migration_pkey", "asset_key_pkey"} <= made.keys()


async def test_a_store_as_it_was_made_has_no_faults(opened: Opened) -> None:
    assert await opened.store.faults() == ()


async def test_an_index_that_is_gone_is_told_and_comes_back(sql: asyncpg.Connection, opened: Opened) -> None:
    await sql.execute("DROP INDEX flowstone.run_active, flowstone.event_cursor")

    faults = await opened.store.faults()

    assert [each.problem for each in faults] == [
        "index event_cursor of event is missing",
        "index run_active of run is missing",
    ]
    assert faults[1].remedy == (
        "CREATE INDEX CONCURRENTLY run_active ON flowstone.run (pipeline, state, worker, created_at, id)"
        " WHERE finished_at IS NULL;"
    )
    await mend(sql, opened)
    assert await opened.store.faults() == ()


async def test_a_primary_key_is_an_index_too(sql: asyncpg.Connection, opened: Opened) -> None:
    await sql.execute("ALTER TABLE flowstone.lineage DROP CONSTRAINT lineage_pkey")

    [fault] = await opened.store.faults()

    assert fault.problem == "index lineage_pkey of lineage is missing"
    await mend(sql, opened)
    assert await opened.store.faults() == ()


async def test_an_index_that_was_half_made_is_told(sql: asyncpg.Connection, opened: Opened) -> None:
    await sql.execute("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'flowstone.run_newest'::regclass")

    [fault] = await opened.store.faults()

    assert "run_newest of run is not valid" in fault.problem
    await mend(sql, opened)
    assert await opened.store.faults() == ()


@pytest.mark.parametrize(
    "other",
    [
        "run_newest ON flowstone.run (pipeline)",
        "run_newest ON flowstone.run (pipeline, created_at, id) WHERE lost > 0",
        "run_newest ON flowstone.worker (id)",
    ],
)
async def test_another_index_of_the_same_name_is_told(sql: asyncpg.Connection, opened: Opened, other: str) -> None:
    await sql.execute(f"DROP INDEX flowstone.run_newest; CREATE INDEX {other}")

    [fault] = await opened.store.faults()

    assert "not as it should be" in fault.problem
    await mend(sql, opened)
    assert await opened.store.faults() == ()


async def test_indexes_of_others_are_none_of_our_business(sql: asyncpg.Connection, opened: Opened) -> None:
    await sql.execute("CREATE INDEX theirs ON flowstone.run (partition); CREATE TABLE x (y integer PRIMARY KEY)")

    assert await opened.store.faults() == ()


def test_what_a_later_migration_drops_is_expected_no_more() -> None:
    first = (
        "CREATE TABLE flowstone.a (\n    x integer PRIMARY KEY,\n    y text\n);\nCREATE INDEX a_y ON flowstone.a (y);"
    )

    assert expected([first]) == {
        "a_pkey": Index("a_pkey", "a", ("x",), primary=True),
        "a_y": Index("a_y", "a", ("y",)),
    }
    assert expected([first, "DROP INDEX flowstone.a_y;"]).keys() == {"a_pkey"}
    assert expected([first, "DROP TABLE flowstone.a;"]) == {}
