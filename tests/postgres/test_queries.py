"""Every query can be prepared on a migrated database, and is used."""

from __future__ import annotations

import re
from itertools import chain, combinations
from pathlib import Path

import asyncpg
import pytest

import flowstone_async.store.postgres as package
from flowstone_async.store.postgres.queries import QUERIES
from flowstone_async.store.postgres.statement import KINDS, statement

SOURCES = [file.read_text() for file in Path(package.__file__).parent.glob("*.py")]
RUNS = ("goes", "ends", "begins")
ROWS = ("keys", "events", "made", "lineage", "audit")


def subsets(names: tuple[str, ...]) -> list[tuple[str, ...]]:
    return list(chain.from_iterable(combinations(names, count) for count in range(len(names) + 1)))


@pytest.mark.parametrize("name", sorted(QUERIES))
async def test_a_query_can_be_prepared(sql: asyncpg.Connection, name: str) -> None:
    if name == "lock_events":
        await sql.execute(f"BEGIN; {QUERIES[name]}; ROLLBACK")
        return
    if name == "upsert":
        await sql.execute(
            "CREATE TABLE user_table (pipeline text, asset text, partition text, materialization uuid, "
            "value bytea, stored_at timestamptz, PRIMARY KEY (pipeline, asset, partition))"
        )
    await sql.prepare(QUERIES[name])


GATED = (("ends", "gated"), (*RUNS, "gated"))


@pytest.mark.parametrize("runs", [*subsets(RUNS)[1:], *GATED], ids="-".join)
async def test_the_hot_statement_can_be_prepared_for_every_kind_of_batch(
    sql: asyncpg.Connection, runs: tuple[str, ...]
) -> None:
    for rows in subsets(ROWS):
        needed = set(rows)
        if needed & {"made", "lineage", "audit"}:
            needed |= {"keys", "events"}
        if "lineage" in needed:
            needed.add("made")
        found = statement(frozenset(runs) | needed)
        prepared = await sql.prepare(found.text)
        assert len(prepared.get_parameters()) == len(found.parameters)


def test_the_kinds_are_those_of_the_parts() -> None:
    assert set(KINDS) == {*RUNS, *ROWS, "gated"}


@pytest.mark.parametrize("name", sorted(QUERIES))
def test_a_query_is_used(name: str) -> None:
    assert any(re.search(rf'"{name}"', source) for source in SOURCES)


async def test_no_query_touches_another_schema(sql: asyncpg.Connection) -> None:
    for name, text in QUERIES.items():
        for table in re.findall(r"\b(?:FROM|JOIN|INTO|UPDATE|TABLE)\s+([a-z_]+\.[a-z_]+)", text):
            assert table.startswith("flowstone."), name
