"""An engine whose role may write to the schema, and does not own it: what docs/operations.md says to grant is enough."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest_asyncio

from flowstone_async import Engine, Pipeline

OPERATIONS = Path(__file__).parents[2] / "docs/operations.md"


@pytest_asyncio.fixture
async def role(sql: asyncpg.Connection) -> AsyncIterator[str]:
    """A role with the rights that the document names."""
    name = f"app_{await sql.fetchval('SELECT current_database()')}"
    granted = re.findall(r"^```sql\n(.*?)^```$", OPERATIONS.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    (statements,) = granted
    await sql.execute(f"CREATE ROLE {name}")
    await sql.execute(statements.replace("TO app;", f"TO {name};"))
    yield name
    await sql.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")


async def test_an_engine_needs_to_own_nothing(dsn: str, role: str) -> None:
    pipe = Pipeline("shop")

    @pipe.asset
    async def first() -> int:
        return 1

    @pipe.asset
    async def second(first: int) -> int:
        return first + 1

    async with asyncio.timeout(60), Engine(pipe, store=f"{dsn}&role={role}", poll="100ms") as engine:
        conn = await asyncpg.connect(engine.dsn)
        assert await conn.fetchval("SELECT current_user") == role
        await conn.close()
        store = engine._live().services.store
        assert await (await engine.submit(second)).result() == 2
        assert await engine.run(second, force=True) == 2
        assert await engine.invalidate(second) == 1
        await store.maintain()
        await store.prune(runs=0.0, values=0.0)
        assert (await engine.health()).ok
        async with asyncio.timeout(10):
            assert [event.type async for event in (await engine.submit(second)).events()][-1] == "run.finished"
