"""Migrations of a store that is in use: by several at once, broken off at any point, and under engines that work."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from flowstone_async import ConfigError, Engine, Keys, Pipeline, StoreUnavailable
from flowstone_async.store.postgres.connections import Connections
from flowstone_async.store.postgres.migrate import Migration, migrate, migrations
from tests.postgres.addresses import apart
from tests.postgres.waiting import blocked, busy
from tests.support.fault_proxy import FaultProxy
from tests.support.gate import Gate, soon
from tests.support.postgres import TestServer

LIBRARY = migrations()
BEFORE = tuple(one for one in LIBRARY if one.number < 3)
LEFT = len(LIBRARY) - len(BEFORE)

# What engines of that time left: 60 days of runs, with their events.
HISTORY = """
INSERT INTO flowstone.run (id, fence, created_at, finished_at, continuable, state, pipeline, partition, targets, options,
    params)
SELECT md5('r' || n)::uuid, 1, now() - n * interval '6 hours', now() - n * interval '6 hours', true, 'succeeded', 'shop',
    '', '["numbers"]', '{}', '{}'
FROM generate_series(1, 240) AS n;
INSERT INTO flowstone.event (run_id, first_no, cursor, at, count, pipeline, body)
SELECT md5('r' || n)::uuid, 1, n << 20, now() - n * interval '6 hours', 3, 'shop',
    '[[1,"run.started",0,{}],[2,"run.succeeded",0,{}],[3,"run.finished",0,{"state":"succeeded"}]]'
FROM generate_series(1, 240) AS n;
"""
EVENTS = (
    "SELECT run_id, first_no, cursor, at, count, pipeline, body, claims FROM flowstone.event ORDER BY run_id, first_no"
)
SCHEMA = (
    "SELECT c.relname, c.relkind, a.attname, a.atttypid::regtype::text FROM pg_class AS c "
    "LEFT JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 "
    "WHERE c.relnamespace = 'flowstone'::regnamespace ORDER BY 1, 3"
)
APPLIED = "SELECT number, name, sha256 FROM flowstone.migration ORDER BY number"
WAITING = """
SELECT count(*) FROM pg_locks AS l JOIN pg_database AS d ON d.oid = l.database
WHERE d.datname = current_database() AND l.locktype = 'advisory' AND NOT l.granted
"""
# What 0003 changes last: it has done everything else when it asks for this.
IN_THE_WAY = "BEGIN; LOCK TABLE flowstone.upload IN SHARE UPDATE EXCLUSIVE MODE"

# What a version after this one may do to engines of this one: it adds, and takes nothing away.
TABLES = ("run", "run_key", "asset_key", "materialization", "event", "lineage", "superseded", "worker")
ADDED = tuple(
    Migration(100 + no, f"later_{table}", f"ALTER TABLE flowstone.{table} ADD COLUMN later integer NOT NULL DEFAULT 1")
    for no, table in enumerate(TABLES)
)


@pytest_asyncio.fixture
async def earlier(server: TestServer) -> AsyncIterator[str]:
    """The address of a store as it was before its events were in partitions."""

    async def fill(connection: asyncpg.Connection) -> None:
        dsn = server.address.dsn(await connection.fetchval("SELECT current_database()"))
        await apply(dsn, *BEFORE)
        await connection.execute(HISTORY)

    await server.create_template("earlier", fill)
    made = await server.clone("earlier")
    yield made
    await server.drop(made)


@pytest_asyncio.fixture
async def look(earlier: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection to look at `earlier` with."""
    connection = await asyncpg.connect(earlier)
    yield connection
    connection.terminate()


@pytest_asyncio.fixture
async def holder(earlier: str) -> AsyncIterator[asyncpg.Connection]:
    """Somebody in the way of a migration of `earlier`, until the end of his transaction."""
    connection = await asyncpg.connect(earlier)
    await connection.execute(IN_THE_WAY)
    yield connection
    connection.terminate()


async def apply(dsn: str, *known: Migration) -> int:
    """Migrate as a process of its own, and return how many migrations it applied."""
    async with Connections(apart(dsn), direct=None).direct() as session:
        return len(await migrate(session, known or None))


def engine(dsn: str, pipe: Pipeline | None = None, **options: Any) -> Engine:
    """Return an engine, as a process of its own has it."""
    return Engine(pipe or _pipeline(), store=apart(dsn), retention=False, **options)


def _pipeline() -> Pipeline:
    pipe = Pipeline("shop")

    @pipe.asset
    async def numbers() -> list[int]:
        return [1, 2, 3]

    return pipe


def migrated(one: Engine) -> int:
    """Return how many migrations an engine applied when it opened."""
    store: Any = one._live().store
    return len(store._migrated)


async def applied(sql: asyncpg.Connection) -> tuple[tuple[int, str, str], ...]:
    return tuple(tuple(row) for row in await sql.fetch(APPLIED))


def as_applied(some: Sequence[Migration]) -> tuple[tuple[int, str, str], ...]:
    return tuple((one.number, one.name, one.sha256) for one in some)


async def assert_good(one: Engine) -> None:
    """Fail unless an engine can work, and the records hold together."""
    assert await one.run("numbers", force=True) == [1, 2, 3]
    assert await one._live().store.verify() == ()


# -- several at once --------------------------------------------------------------------------------------------------


async def test_five_migrators_and_five_engines_at_once_apply_each_migration_once(
    earlier: str, look: asyncpg.Connection
) -> None:
    before = await look.fetch(EVENTS)
    async with AsyncExitStack() as stack:
        opening = [stack.enter_async_context(engine(earlier)) for _ in range(5)]
        numbers, engines = await asyncio.gather(
            asyncio.gather(*(apply(earlier) for _ in range(5))), asyncio.gather(*opening)
        )

        assert sum(numbers) + sum(map(migrated, engines)) == LEFT
        assert await applied(look) == as_applied(LIBRARY)
        assert await look.fetch(EVENTS) == before
        for one in engines:
            await assert_good(one)


async def test_an_engine_that_opens_while_another_migrates_waits_for_it_or_is_refused(
    earlier: str, look: asyncpg.Connection, holder: asyncpg.Connection
) -> None:
    """It waits as long as the migration takes; with `migrate=False` it is told what is missing."""
    migrating = asyncio.create_task(apply(earlier))
    await blocked(look)
    async with AsyncExitStack() as stack:
        opening = asyncio.create_task(stack.enter_async_context(engine(earlier)))
        await blocked(look, 2)
        assert await look.fetchval(WAITING) == 1
        with pytest.raises(ConfigError, match=rf"lacks {LEFT} of {len(LIBRARY)} migrations, and migrate=False"):
            async with engine(earlier, migrate=False):
                pass
        assert not opening.done()
        assert await applied(look) == as_applied(BEFORE)

        await holder.execute("COMMIT")

        opened = await opening
        assert await migrating + migrated(opened) == LEFT
        await assert_good(opened)


# -- broken off -------------------------------------------------------------------------------------------------------


async def terminate(proxy: FaultProxy, look: asyncpg.Connection) -> int:
    """End the server's process that migrates; return how many are left behind."""
    assert await look.fetchval("SELECT pg_terminate_backend($1, 20000)", await busy(look, "event_whole"))
    return 0


async def reset(proxy: FaultProxy, look: asyncpg.Connection) -> int:
    """Let the migrator's machine be gone; the server's process goes on until it has something to answer."""
    proxy.reset()
    return 1


@pytest.mark.parametrize("kill", [terminate, reset])
async def test_a_migrator_that_is_killed_in_the_middle_leaves_nothing_and_the_next_one_goes_on(
    earlier: str,
    look: asyncpg.Connection,
    holder: asyncpg.Connection,
    kill: Callable[[FaultProxy, asyncpg.Connection], Awaitable[int]],
) -> None:
    before, schema = await look.fetch(EVENTS), await look.fetch(SCHEMA)
    left = 0
    async with FaultProxy(earlier) as proxy:
        for _ in range(2):
            killed = asyncio.create_task(_opened(engine(proxy.dsn)))
            await blocked(look, left + 1)
            left += await kill(proxy, look)
            with pytest.raises(StoreUnavailable):
                await killed
    assert await look.fetch(SCHEMA) == schema

    following = [asyncio.create_task(apply(earlier)) for _ in range(2)]
    await blocked(look, left + 2)
    await holder.execute("COMMIT")

    assert sum(await asyncio.gather(*following)) == LEFT
    assert await applied(look) == as_applied(LIBRARY)
    assert await look.fetch(EVENTS) == before
    async with engine(earlier) as one:
        await assert_good(one)


async def _opened(one: Engine) -> None:
    async with one:
        pass


# -- under engines that work ------------------------------------------------------------------------------------------


async def test_engines_that_are_open_go_on_while_a_later_version_adds_to_each_table(
    dsn: str, sql: asyncpg.Connection
) -> None:
    """As docs/operations.md promises for a rollout; one of this version that opens afterwards is refused."""
    pipe, gate = Pipeline("shop"), Gate()

    @pipe.asset
    async def source() -> int:
        await gate()
        return 1

    @pipe.asset(partitions=Keys(*map(str, range(8))))
    async def derived(source: int, partition: str) -> int:
        return source + int(partition)

    later = [*LIBRARY, *ADDED]
    async with AsyncExitStack() as stack:
        engines = [await stack.enter_async_context(engine(dsn, pipe)) for _ in range(3)]
        first = [await engines[no % 3].submit(derived, partition=str(no)) for no in range(8)]
        await gate.reached()

        async def work(one: Engine) -> None:
            while not migrating.done():
                await one.backfill(derived, force=True, parallel=4)

        gate.open()
        migrating = asyncio.gather(*(apply(dsn, *later) for _ in range(5)))
        await asyncio.gather(*map(work, engines))

        assert sum(await migrating) == len(ADDED)
        assert await soon(asyncio.gather(*first)) == [1 + no for no in range(8)]
        assert [record.state for record in await engines[0].runs(limit=10_000) if record.state != "succeeded"] == []
        assert await engines[0]._live().store.verify() == ()
    assert await applied(sql) == as_applied(later)
    with pytest.raises(ConfigError, match=rf"newer than this library: it has migration {later[-1].number}"):
        await _opened(engine(dsn, pipe))
