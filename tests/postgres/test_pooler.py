"""Behind a transaction pooler: nothing is left on a connection, nothing is expected on one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest
import pytest_asyncio

from tests.contract.builders import Drive, completed, event, key, materialization
from tests.postgres.conftest import Opened, OpenStore
from tests.postgres.wire import Pooler

NUMBERS = key("numbers")


@pytest_asyncio.fixture
async def pooled(dsn: str, open_store: OpenStore) -> AsyncIterator[Opened]:
    async with Pooler(dsn) as pooler:
        opened = await open_store(pooler.dsn, direct=dsn)
        yield opened
        await opened.store.close()


async def test_runs_go_through_it(pooled: Opened) -> None:
    names = [key("numbers", f"i:{no}") for no in range(12)]

    async def work(drive: Drive, no: int) -> None:
        assert (await drive.advance("asset.started", claims=(names[no],))).claims[names[no]].granted
        made = materialization(names[no], drive.id)
        await drive.advance("asset.finished", done=(completed(made, payload=b"value"),))
        assert (await drive.finish()).accepted
        assert (await pooled.store.states([names[no]]))[names[no]].current is not None
        assert await pooled.store.values.payload(made.id) == b"value"

    drives = [await pooled.start() for _ in names]
    async with asyncio.timeout(60):
        await asyncio.gather(*(work(drive, no) for no, drive in enumerate(drives)))
    assert len(await pooled.store.all_events(pipelines=["sales"])) == 48


async def test_everything_else_goes_through_it_at_once(pooled: Opened) -> None:
    drives = [await pooled.start(key("numbers", f"i:{no}")) for no in range(8)]
    store = pooled.store

    async def look(drive: Drive) -> None:
        assert await store.run(drive.id) is not None
        assert len(await store.events(drive.id)) == 1
        assert await store.runs(pipelines=["sales"])
        await store.cancel(drive.id, (event(1, "run.cancelled"),), ())
        await store.invalidate([NUMBERS], cascade=True)
        await store.values.append_chunk(drive.id, 0, b"chunk")
        assert [chunk async for chunk in store.values.chunks(drive.id)] == [b"chunk"]
        await store.prune(runs=1000.0, values=1000.0)

    async with asyncio.timeout(60):
        await asyncio.gather(*map(look, drives))


async def test_no_setting_is_left_on_its_connections(dsn: str, open_store: OpenStore) -> None:
    async with Pooler(dsn, size=1) as pooler:
        opened = await open_store(pooler.dsn, direct=dsn)
        await (await opened.start()).finish()
        other = await asyncpg.connect(pooler.dsn, statement_cache_size=0)
        async with other.transaction():
            assert await other.fetchval("SELECT current_setting('plan_cache_mode')") == "auto"
            assert await other.fetchval("SELECT current_setting('enable_seqscan')") == "on"
            assert await other.fetchval("SELECT count(*) FROM pg_prepared_statements WHERE name <> ''") == 0
            assert await other.fetchval("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == 0
        other.terminate()
        await opened.store.close()


async def test_the_pooler_of_these_tests_keeps_no_session(dsn: str) -> None:
    async with Pooler(dsn, size=2) as pooler:
        one, other = [await asyncpg.connect(pooler.dsn, statement_cache_size=0) for _ in range(2)]
        await one.execute("SET application_name = 'left'")
        assert [await one.fetchval("SHOW application_name") for _ in range(2)] == ["", "left"]
        assert await other.fetchval("SHOW application_name") == ""
        assert await other.fetchval("SHOW application_name") == "left"
        heard: list[object] = []
        await one.add_listener("somewhere", lambda *given: heard.append(given))
        for _ in range(4):
            await one.execute("NOTIFY somewhere")
        await one.fetchval("SELECT 1")
        assert heard == []
        one.terminate()
        other.terminate()


async def test_the_pooler_of_these_tests_gives_nobody_half_a_transaction(dsn: str, sql: asyncpg.Connection) -> None:
    await sql.execute("CREATE TABLE half (a int)")
    async with Pooler(dsn, size=1) as pooler:
        leaving, other = [await asyncpg.connect(pooler.dsn, statement_cache_size=0) for _ in range(2)]
        await leaving.execute("BEGIN")
        await leaving.execute("INSERT INTO half VALUES (1)")
        leaving.terminate()
        async with asyncio.timeout(20):
            assert await other.fetchval("SELECT count(*) FROM half") == 0
        other.terminate()


async def test_the_pooler_of_these_tests_cancels_what_its_client_does(dsn: str, sql: asyncpg.Connection) -> None:
    async with Pooler(dsn, size=2) as pooler:
        hanging, other = [await asyncpg.connect(pooler.dsn, statement_cache_size=0) for _ in range(2)]
        async with other.transaction():
            with pytest.raises(TimeoutError):
                await hanging.execute("SELECT pg_sleep(3600)", timeout=0.2)
            async with asyncio.timeout(20):
                assert await hanging.fetchval("SELECT 1") == 1
            assert await other.fetchval("SELECT 2") == 2
        hanging.terminate()
        other.terminate()
