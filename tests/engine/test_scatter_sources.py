"""Scatters over sources (READ-01, READ-05, READ-07, READ-10, READ-13, SCAT-02)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import asyncpg
import pytest

from flowstone_async import Context, Pipeline, sources
from flowstone_async.errors import ConfigError
from flowstone_async.sources import Page, Source
from tests.support.engines import OpenEngine, PostgresEngines, SharedEngines
from tests.support.gate import soon


@dataclass(frozen=True)
class Doc:
    id: int
    text: str


class Pages(Source[int]):
    """Pages of three numbers; some are empty."""

    def __init__(self, most: int) -> None:
        self.most, self.closed, self.cursors = most, 0, list[Any]()

    async def read(self, cursor: Any) -> AsyncIterator[Page[int]]:
        self.cursors.append(cursor)
        for first in range(cursor or 0, self.most, 3):
            yield Page((), cursor=first)
            yield Page(range(first, first + 3), cursor=first + 3, last=first + 3 >= self.most)

    async def close(self) -> None:
        self.closed += 1


async def test_a_source_of_one_s_own_is_read_to_its_last_page(open_engine: OpenEngine):
    """READ-01, READ-05."""
    pipe, source = Pipeline("sources"), Pages(9)

    @pipe.scatter(source, max_concurrent=1)
    async def doubled(no: int) -> int:
        return 2 * no

    engine = await open_engine(pipe)
    assert await (await soon(engine.run(doubled))).to_list(limit=9) == [2 * no for no in range(9)]
    assert source.cursors == [None]
    assert source.closed == 1


async def test_rows_of_the_engine_s_database_are_items(engines: SharedEngines, open_engine: OpenEngine):
    """READ-10, READ-13, READ-14: a row that does not fit is a failed item."""
    if not isinstance(engines, PostgresEngines):
        pytest.skip("is about Postgres")
    connection = await asyncpg.connect(engines.dsn)
    await connection.execute(
        "CREATE TABLE docs (id int, text text); INSERT INTO docs SELECT n, 't' || n "
        "FROM generate_series(1, 25) AS n; UPDATE docs SET text = NULL WHERE id = 7"
    )
    await connection.close()
    pipe = Pipeline("sources")

    def by_id(doc: Doc) -> int:
        return doc.id

    query = sources.Postgres(Doc, "SELECT id, text FROM docs WHERE id < $1", 21, cursor="id")

    @pipe.scatter(query, page_size=6, key=by_id, tolerate=0.05)
    async def texts(doc: Doc, ctx: Context) -> str:
        assert ctx.item.key == doc.id
        return doc.text.upper()

    engine = await open_engine(pipe)
    found = await soon(engine.run(texts))
    assert [pair async for pair in found.items()] == [(no, f"T{no}") for no in range(1, 21) if no != 7]
    [failure] = [each async for each in found.failures()]
    assert failure.index == 6
    assert "text" in failure.message


async def test_a_database_that_nobody_named_is_told():
    """READ-13: in memory a pool is required."""
    pipe = Pipeline("sources")

    @pipe.scatter(sources.Postgres(Doc, "SELECT id, text FROM docs"))
    async def texts(doc: Doc) -> str:
        return doc.text

    with pytest.raises(ConfigError, match="pool"):
        await soon(pipe.run(texts))
