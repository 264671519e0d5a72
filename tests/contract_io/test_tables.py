"""Values in a table of the users' own: one row for each key, the current one (STORE-09)."""

from __future__ import annotations

import asyncpg
import pytest
from pydantic_core import from_json

from flowstone_async.errors import ConfigError, StorageError
from flowstone_async.io import Postgres
from tests.contract_io.places import Place


async def rows(place: Place) -> list[tuple[str, str, str, bytes]]:
    connection = await asyncpg.connect(place.dsn)
    try:
        text = "SELECT pipeline, asset, partition, value FROM lake.numbers ORDER BY 1, 2, 3"
        return [tuple(row) for row in await connection.fetch(text)]
    finally:
        await connection.close()


async def test_a_key_has_one_row_that_the_next_commit_replaces(table: Place) -> None:
    await table.keep([1], list[int], partition="us")
    await table.keep([2], list[int], partition="eu")
    await table.keep([3], list[int], partition="us")

    found = await rows(table)

    assert [row[:3] for row in found] == [("sales", "numbers", "eu"), ("sales", "numbers", "us")]
    assert [from_json(row[3]) for row in found] == [[2], [3]]


async def test_a_superseded_value_is_gone_and_says_so(table: Place) -> None:
    earlier = await table.keep(1, int)
    later = await table.keep(2, int)

    with pytest.raises(StorageError, match="keeps only the current value") as caught:
        await table.load(earlier)

    assert "lake.numbers" in caught.value.message
    assert "force=True" in str(caught.value)
    assert await table.load(later) == 2


async def test_deleting_a_superseded_value_leaves_the_row(table: Place) -> None:
    earlier = await table.keep(1, int)
    later = await table.keep(2, int)

    await table.manager.delete(earlier)
    assert await table.load(later) == 2
    await table.manager.delete(later)

    assert await rows(table) == []


async def test_nothing_is_written_before_the_commit(table: Place) -> None:
    await table.manager.store(table.ref(int), 1)

    assert await rows(table) == []


async def test_a_table_of_another_shape_is_refused(table: Place) -> None:
    other = Postgres("pg_catalog.pg_class").bound(table.engine.store.values, durable=True)

    with pytest.raises(ConfigError, match="shape"):
        await other.store(table.ref(int), 1)
