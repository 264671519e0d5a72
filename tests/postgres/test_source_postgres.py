"""Rows of Postgres as items, on a real server."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import asyncpg
import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flowstone_async.errors import ConfigError, SourceError
from flowstone_async.retry import Retry
from flowstone_async.sources import BadRow, Postgres
from flowstone_async.sources.keyset import Keyset
from flowstone_async.sources.reading import read_pages
from tests.postgres.wire import Pooler
from tests.support.fault_proxy import FaultProxy
from tests.unit.sources.feeds import items_of, read_all


@dataclass(frozen=True)
class Doc:
    id: int
    title: str


ALL = "SELECT id, title FROM documents"


@pytest_asyncio.fixture
async def pool(dsn: str) -> AsyncIterator[asyncpg.Pool]:
    """A pool of the application's own, with a table of ten documents."""
    async with asyncpg.create_pool(dsn, min_size=1, max_size=3) as pool:
        await pool.execute("CREATE TABLE documents (id bigint PRIMARY KEY, title text, state text, at timestamptz)")
        await pool.execute(
            "INSERT INTO documents SELECT i, 'title ' || i, CASE WHEN i % 2 = 0 THEN 'new' ELSE 'done' END,"
            " timestamptz '2025-01-01 00:00Z' + i / 4 * interval '1 day' FROM generate_series(1, 10) AS i"
        )
        yield pool


def _docs(*numbers: int) -> list[Doc]:
    return [Doc(number, f"title {number}") for number in numbers]


async def _read_with_restarts(source: Postgres[Any], **options: Any) -> list[Any]:
    """Read each page in a reading of its own, as if the process had been killed in between."""
    token: object = None
    found: list[Any] = []
    while True:
        (page,) = await read_all(source, token, pages=1, **options)
        assert page.position == len(found)
        found += page.items
        if page.last:
            return found
        token = json.loads(json.dumps(page.token))


@pytest.mark.parametrize("cursor", [None, "id"])
async def test_rows_become_items(pool: asyncpg.Pool, cursor: str | None) -> None:
    """READ-13, READ-14."""
    source = Postgres(Doc, f"{ALL} WHERE state = $1 ORDER BY id", "new", cursor=cursor, pool=pool)
    assert source.item_type is Doc
    assert source.resumable == (cursor is not None)
    pages = await read_all(source, page_size=2)
    assert items_of(pages) == _docs(2, 4, 6, 8, 10)
    assert [len(page.items) for page in pages] == [2, 2, 1]
    assert [page.last for page in pages] == [False, False, True]


@pytest.mark.parametrize("cursor", [None, "id"])
async def test_no_rows(pool: asyncpg.Pool, cursor: str | None) -> None:
    """READ-05."""
    (page,) = await read_all(Postgres(Doc, f"{ALL} WHERE false", cursor=cursor, pool=pool))
    assert (page.items, page.last) == ((), True)


@pytest.mark.parametrize("cursor", [None, "id"])
async def test_the_query_may_be_written_as_one_likes(pool: asyncpg.Pool, cursor: str | None) -> None:
    """READ-13."""
    for query in (f"{ALL};", f"{ALL} -- all of them", f"WITH a AS ({ALL}) SELECT * FROM a", f"({ALL} LIMIT 100)"):
        assert len(items_of(await read_all(Postgres(Doc, query, cursor=cursor, pool=pool)))) == 10
    table = Postgres(dict, "TABLE documents", cursor=cursor, pool=pool)
    assert {row["state"] for row in items_of(await read_all(table))} == {"new", "done"}


async def test_without_a_cursor_a_restart_reads_from_the_start(pool: asyncpg.Pool) -> None:
    """READ-13: keys decide what is new."""
    source = Postgres(Doc, f"{ALL} ORDER BY id", pool=pool)
    (first,) = await read_all(source, pages=1, page_size=4)
    again = await read_all(source, first.token, page_size=4)
    assert items_of(again) == _docs(*range(1, 11))
    assert again[0].position == 0


async def test_without_a_cursor_it_reads_one_snapshot_and_gives_its_connection_back(pool: asyncpg.Pool) -> None:
    """READ-13."""
    async with aclosing(read_pages(Postgres(Doc, ALL, pool=pool), page_size=4)) as reading:
        await anext(reading)
        await pool.execute("DELETE FROM documents")
        assert sum([len(page.items) async for page in reading]) == 6
    assert pool.get_idle_size() == pool.get_size()


@pytest.mark.parametrize("cursor", [None, "id"])
async def test_left_early_it_gives_its_connection_back(pool: asyncpg.Pool, cursor: str | None) -> None:
    """READ-01: and the transaction is over."""
    await read_all(Postgres(Doc, ALL, pool=pool, cursor=cursor), page_size=2, pages=1)
    assert pool.get_idle_size() == pool.get_size()
    busy = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in%'"
    assert await pool.fetchval(busy) == 0


async def test_with_a_cursor_no_connection_is_held_between_pages(dsn: str, pool: asyncpg.Pool) -> None:
    """READ-14: a page may be worked on for long."""
    async with asyncpg.create_pool(dsn, min_size=1, max_size=1) as single:
        async with aclosing(read_pages(Postgres(Doc, ALL, cursor="id", pool=single), page_size=4)) as reading:
            async for _ in reading:
                assert single.get_idle_size() == 1
                assert await single.fetchval("SELECT 1") == 1


async def test_killed_after_every_page_it_continues_behind_it(pool: asyncpg.Pool) -> None:
    """READ-07, READ-14: no completed page is read again, though rows were inserted and deleted meanwhile."""
    source = Postgres(Doc, ALL, cursor="id", pool=pool)
    (first,) = await read_all(source, pages=1, page_size=3)
    await pool.execute("DELETE FROM documents WHERE id IN (2, 3, 5)")
    await pool.execute("INSERT INTO documents VALUES (0, 'late'), (11, 'title 11')")
    assert items_of([first]) == _docs(1, 2, 3)
    assert items_of(await read_all(source, first.token, page_size=3)) == _docs(4, 6, 7, 8, 9, 10, 11)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"descending": True}, range(10, 0, -1)),
        ({"start_after": 7}, range(8, 11)),
        ({"start_after": (7,)}, range(8, 11)),
        ({"start_after": 4, "descending": True}, range(3, 0, -1)),
        ({"max_items": 5}, range(1, 6)),
        ({"max_items": 5, "descending": True, "start_after": 9}, range(8, 3, -1)),
    ],
)
async def test_where_to_begin_and_which_way(pool: asyncpg.Pool, options: Any, expected: Sequence[int]) -> None:
    """READ-06, READ-14."""
    source = Postgres(Doc, ALL, cursor="id", pool=pool, **options)
    assert items_of(await read_all(source, page_size=2)) == _docs(*expected)
    assert await _read_with_restarts(source, page_size=2) == _docs(*expected)


async def test_several_columns_make_a_key(pool: asyncpg.Pool) -> None:
    """READ-14."""
    source = Postgres(dict, "TABLE documents", cursor=("at", "id"), pool=pool)
    for size in (1, 3, 4, 100):
        assert [row["id"] for row in await _read_with_restarts(source, page_size=size)] == list(range(1, 11))
    at = await pool.fetchval("SELECT at FROM documents WHERE id = 5")
    source = Postgres(dict, "TABLE documents", cursor=["at", "id"], start_after=(at, 5), pool=pool)
    assert [row["id"] for row in items_of(await read_all(source))] == [6, 7, 8, 9, 10]


_KEYS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 1), st.integers(0, 1)), max_size=40)


@given(
    rows=_KEYS,
    size=st.integers(1, 6),
    columns=st.sampled_from([("a",), ("a", "b"), ("b",), ("a", "b", "c")]),
    descending=st.booleans(),
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_rows_with_equal_keys_are_neither_lost_nor_repeated(
    pool: asyncpg.Pool, rows: list[tuple[int, int, int]], size: int, columns: tuple[str, ...], descending: bool
) -> None:
    """READ-14: whatever ties there are at page borders, wherever it is killed; rows that are the same all through too."""
    await pool.execute("CREATE TABLE IF NOT EXISTS ties (a int, b int, c int)")
    await pool.execute("TRUNCATE ties")
    await pool.copy_records_to_table("ties", records=rows)
    source = Postgres(dict, "TABLE ties", cursor=columns, descending=descending, pool=pool)
    found = await _read_with_restarts(source, page_size=size)
    assert sorted((row["a"], row["b"], row["c"]) for row in found) == sorted(rows)
    keys = [tuple(row[column] for column in columns) for row in found]
    assert keys == sorted(keys, reverse=descending)
    assert items_of(await read_all(source, page_size=size)) == found


async def test_more_equal_rows_than_several_pages_have_room_for(pool: asyncpg.Pool) -> None:
    """READ-14: in one reading, and killed within the group."""
    await pool.execute("CREATE TABLE ties AS SELECT 1 AS at, i % 50 AS id FROM generate_series(0, 149) AS i")
    await pool.execute("INSERT INTO ties SELECT i, 0 FROM generate_series(-3, 5) AS i")
    source = Postgres(dict, "TABLE ties", cursor="at", pool=pool)
    expected = await pool.fetch("TABLE ties")
    for found in (items_of(await read_all(source, page_size=4)), await _read_with_restarts(source, page_size=4)):
        assert sorted((row["at"], row["id"]) for row in found) == sorted((row["at"], row["id"]) for row in expected)


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("float8", [1.5, math.nan, math.nan, math.inf, -math.inf, 0.0, -0.0]),
        ("text", ["b", "a", "a", "", "ä", "A"]),
        ("char(3)", ["b", "a", "a"]),
        ("date", ["2025-01-01", "2024-01-01", "2025-01-01"]),
        ("timestamp", ["2025-01-01 10:00:00.123456", "2024-01-01"]),
        ("uuid", ["00000000-0000-0000-0000-000000000002", "00000000-0000-0000-0000-000000000001"]),
        ("numeric", ["1.10", "1.1", "1e30", "NaN"]),
        ("bytea", ["a", "b", "a"]),
        ("interval", ["1 mon", "30 days", "1 second"]),
        ("mood", ["sad", "happy", "sad"]),
        ("inet", ["10.0.0.1", "10.0.0.0/8", "::1"]),
        ("boolean", ["true", "false", "true"]),
    ],
)
async def test_keys_of_many_types(pool: asyncpg.Pool, kind: str, values: list[Any]) -> None:
    """READ-14: what is equal is what the server says, and a key survives being stored."""
    await pool.execute("CREATE TYPE mood AS ENUM ('sad', 'happy')")
    await pool.execute(f"CREATE TABLE keyed (k {kind}, n int)")
    for number, value in enumerate(values):
        await pool.execute(f"INSERT INTO keyed VALUES (CAST($1::text AS {kind}), $2)", str(value), number)
    for size in (1, 2, 100):
        source = Postgres(dict, "TABLE keyed", cursor="k", pool=pool)
        found = [row["n"] for row in await _read_with_restarts(source, page_size=size)]
        assert sorted(found) == list(range(len(values)))


async def test_a_key_that_cannot_be_stored_is_refused(pool: asyncpg.Pool) -> None:
    """READ-14."""
    query = "SELECT int4range(1, id::int) AS span FROM documents"
    with pytest.raises(ConfigError, match="the cursor column span holds a Range, which cannot be stored"):
        await read_all(Postgres(dict, query, cursor="span", pool=pool))


async def test_a_cursor_column_that_the_result_lacks_is_named(pool: asyncpg.Pool) -> None:
    """READ-14: before any item."""
    source = Postgres(Doc, ALL, cursor=("id", "at"), pool=pool)
    with pytest.raises(
        ConfigError, match=r"does not give a column 'at', which cursor= names\n  It gives id, title"
    ) as e:
        await read_all(source)
    assert e.value.details == {"column": "at", "columns": ["id", "title"]}
    twice = Postgres(Doc, "SELECT id, id, title FROM documents", cursor="id", pool=pool)
    with pytest.raises(ConfigError, match="gives more than one column 'id'"):
        await read_all(twice)


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("column", ["at", "title"])
async def test_a_cursor_column_that_is_null_is_named(pool: asyncpg.Pool, column: str, descending: bool) -> None:
    """READ-14: before any item, wherever in the order NULLs would come, and even if no page would show them."""
    await pool.execute(f"UPDATE documents SET {column} = NULL WHERE id = 10")
    source = Postgres(Doc, "TABLE documents", cursor=("at", "title"), descending=descending, pool=pool)
    with pytest.raises(SourceError, match=f"gives rows whose '{column}' is NULL") as raised:
        await anext(read_pages(source, page_size=2))
    assert raised.value.details["column"] == column
    assert not raised.value.retryable


async def test_a_null_that_comes_up_later_is_named_too(pool: asyncpg.Pool) -> None:
    """READ-14."""
    source = Postgres(Doc, "TABLE documents", cursor=("at", "title"), pool=pool)
    (first,) = await read_all(source, pages=1, page_size=2)
    await pool.execute("UPDATE documents SET title = NULL WHERE id = 9")
    with pytest.raises(SourceError, match="'title' is NULL"):
        await read_all(source, first.token)


async def test_a_place_in_another_order_is_refused(pool: asyncpg.Pool) -> None:
    """READ-07: the definition may have changed since."""
    (first,) = await read_all(Postgres(Doc, ALL, cursor="id", pool=pool), pages=1, page_size=2)
    others: list[dict[str, Any]] = [{"cursor": "title"}, {"cursor": "id", "descending": True}]
    for options in others:
        with pytest.raises(ConfigError, match="reading began in order of id, and cannot continue by"):
            await read_all(Postgres(Doc, ALL, pool=pool, **options), first.token)


@pytest.mark.parametrize("cursor", [None, "id"])
@pytest.mark.parametrize(
    ("query", "args", "message"),
    [
        ("UPDATE documents SET title = '' RETURNING *", (), "the query begins with UPDATE"),
        ("SELECT 1 AS id; SELECT 2 AS id", (), "more than one statement"),
        (f"{ALL} WHERE id = $1", (), r"takes arguments up to \$1, and 0 were given"),
        (ALL, (1,), "takes no arguments, and 1 was given"),
        ("WITH a AS (DELETE FROM documents RETURNING *) SELECT * FROM a", (), "data-modifying statement"),
        ("SELECT * FROM nowhere", (), 'relation "nowhere" does not exist'),
        ("SELECT id FORM documents", (), "syntax error"),
        (f"{ALL} WHERE id = $1", ("seven",), r"invalid input for query argument \$1: 'seven'"),
        (f"{ALL} WHERE id = $2", (1, 2), r"could not determine data type of parameter \$1"),
    ],
)
async def test_a_query_that_cannot_be_run_is_refused_before_any_item(
    pool: asyncpg.Pool, query: str, args: tuple[Any, ...], message: str, cursor: str | None
) -> None:
    """READ-13: and is not tried again."""
    with pytest.raises(ConfigError, match=message):
        await read_all(Postgres(dict, query, *args, cursor=cursor, pool=pool))
    assert await pool.fetchval("SELECT count(*) FROM documents WHERE title <> ''") == 10


async def test_a_row_that_does_not_fit_is_an_item_that_failed(pool: asyncpg.Pool) -> None:
    """READ-10: with its position; the others are read."""
    await pool.execute("UPDATE documents SET title = NULL WHERE id IN (2, 5)")
    for cursor in (None, "id"):
        found = items_of(await read_all(Postgres(Doc, f"{ALL} ORDER BY id", cursor=cursor, pool=pool), page_size=3))
        bad = [item for item in found if isinstance(item, BadRow)]
        assert [item.position for item in bad] == [1, 4]
        assert {item.message for item in bad} == {"title: Input should be a valid string"}
        assert len({item.key for item in bad}) == 2
        assert len(found) == 10


async def test_json_is_decoded_once(pool: asyncpg.Pool, dsn: str) -> None:
    """READ-13: also where the pool has a codec of its own."""

    async def decode(connection: asyncpg.Connection) -> None:
        for kind in ("json", "jsonb"):
            await connection.set_type_codec(kind, encoder=json.dumps, decoder=json.loads, schema="pg_catalog")

    query = """SELECT 1 AS id, '{"a": [1]}'::jsonb AS b, '"5"'::json AS t, 'null'::jsonb AS n, NULL::json AS m"""
    expected = [{"id": 1, "b": {"a": [1]}, "t": "5", "n": None, "m": None}]
    async with asyncpg.create_pool(dsn, max_size=1, min_size=0, init=decode) as decoding:
        for source in (pool, decoding):
            assert items_of(await read_all(Postgres(dict, query, pool=source))) == expected
            assert items_of(await read_all(Postgres(dict, query, cursor="id", pool=source))) == expected


async def test_the_engine_database_is_read_unless_a_pool_is_given(pool: asyncpg.Pool, dsn: str) -> None:
    """READ-13."""
    source = Postgres(Doc, f"{ALL} ORDER BY id", cursor="id")
    with pytest.raises(ConfigError, match=r"has no database to read from\n  Give pool= an asyncpg pool"):
        await read_all(source)
    for database in (dsn, pool):
        for cursor in (None, "id"):
            bound = Postgres(Doc, f"{ALL} ORDER BY id", cursor=cursor).bound_to(database)
            assert items_of(await read_all(bound, page_size=3)) == _docs(*range(1, 11))
    mine = Postgres(Doc, ALL, pool=pool).bound_to("postgresql://nowhere.invalid/x")
    assert len(items_of(await read_all(mine))) == 10
    left = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    while await pool.fetchval(left) > pool.get_size() - 1:  # a closed one may take a moment to go
        await asyncio.sleep(0)


async def test_options_may_be_functions_of_dependencies(pool: asyncpg.Pool) -> None:
    """READ-04: the pool too, which is asked for again after a restart; the values are those of the first start."""
    source = Postgres(
        Doc,
        lambda table: f"SELECT id, title FROM {table} WHERE state = ANY($1) AND id > $2",
        [lambda state: state, "other"],
        lambda least=0: least,
        cursor=lambda order: order,
        pool=lambda db: db,
        start_after=lambda begin: begin,
    )
    assert source.parameters() == ("table", "state", "least", "order", "begin", "db")
    assert list(source.problems()) == []
    given = {"table": "documents", "state": "new", "order": "id", "begin": 2, "db": pool}
    made, recorded = await source.resolved(given)
    assert items_of(await read_all(made)) == _docs(4, 6, 8, 10)
    again, _ = await source.resolved({**given, "state": "done"}, json.loads(json.dumps(recorded)))
    assert items_of(await read_all(again)) == _docs(4, 6, 8, 10)
    assert again.resumable


async def test_a_connection_that_is_lost_is_an_error_that_is_retried(pool: asyncpg.Pool) -> None:
    """READ-09: from the last page with a cursor, from the start without one."""
    kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    for cursor, positions in (("id", [0, 4, 8]), (None, [0, 0, 4, 8])):
        source = Postgres(Doc, f"{ALL} ORDER BY id", cursor=cursor, pool=pool)
        pages: list[Any] = []
        async with aclosing(read_pages(source, page_size=4)) as reading:
            async for page in reading:
                pages.append(page)
                if len(pages) == 1:
                    await pool.execute(kill)
        assert [page.position for page in pages] == positions


async def test_a_page_that_is_waited_for_in_vain_gives_its_connection_back(pool: asyncpg.Pool) -> None:
    """READ-01, READ-09: cancelled in the middle of a query."""
    source = Postgres(dict, "SELECT 1 AS id, pg_advisory_lock(7)", cursor="id", pool=pool)
    async with pool.acquire() as holder:
        await holder.execute("SELECT pg_advisory_lock(7)")
        async with asyncio.TaskGroup() as group:
            task = group.create_task(read_all(source))
            waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
            while not await holder.fetchval(waiting):
                await asyncio.sleep(0)
            task.cancel()
        assert task.cancelled()
    assert pool.get_idle_size() == pool.get_size()


@pytest.mark.parametrize("cursor", [None, "id"])
async def test_a_connection_that_hangs_is_broken_off_and_another_taken(
    pool: asyncpg.Pool, dsn: str, cursor: str | None
) -> None:
    """READ-09: it would not answer to being cancelled or given back, either."""
    async with FaultProxy(dsn) as proxy, asyncpg.create_pool(proxy.dsn, min_size=1, max_size=1) as hanging:
        retry = Retry(2, backoff="none")
        source = Postgres(Doc, f"{ALL} ORDER BY id", cursor=cursor, pool=hanging, read_timeout=0.3, read_retry=retry)
        found: list[Any] = []
        async with asyncio.timeout(4), aclosing(read_pages(source, page_size=4)) as reading:
            async for page in reading:
                if not found:
                    proxy.hinder()
                    heal = asyncio.get_running_loop().call_later(0.1, proxy.heal)
                found += page.items
        heal.cancel()
        again = _docs(1, 2, 3, 4) if cursor is None else []
        assert found == [*again, *_docs(*range(1, 11))]


async def test_through_a_transaction_pooler(pool: asyncpg.Pool, dsn: str) -> None:
    """READ-13, READ-14: nothing is left on a connection, nor relied on, between transactions."""
    async with Pooler(dsn, size=2) as pooler:
        for cursor in ("id", None):
            query = f"{ALL} WHERE id <> ALL($1) ORDER BY id"
            source = Postgres(Doc, query, [3, 4], cursor=cursor, read_retry=False).bound_to(pooler.dsn)
            readings = [read_all(source, page_size=1) for _ in range(3)]
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(reading) for reading in readings]
            assert [items_of(task.result()) for task in tasks] == [_docs(1, 2, *range(5, 11))] * 3


async def test_pages_come_from_an_index(pool: asyncpg.Pool) -> None:
    """READ-14: what a page costs does not grow with the table, also where keys have ties and the query its own terms."""
    await pool.execute(
        "CREATE TABLE big AS SELECT i AS id, i / 7 AS at, repeat('x', 50) AS filler FROM generate_series(1, 20000) AS i"
    )
    await pool.execute("CREATE UNIQUE INDEX ON big (id); CREATE INDEX ON big (at, id); ANALYZE big")
    for columns, after in ((("id",), (15000,)), (("at",), (2000,)), (("at", "id"), (2000, 14003))):
        for descending in (False, True):
            query = "SELECT at, id, filler FROM big WHERE filler <> $1"
            keyset = Keyset(query=query, arguments=("y",), columns=columns, descending=descending)
            for text, values in (keyset.page(after, 11), keyset.page(None, 11)):
                plan = await pool.fetchval(f"EXPLAIN (ANALYZE, TIMING off, FORMAT JSON) {text}", *values)
                assert _most_rows(json.loads(plan)[0]["Plan"]) < 40, plan
        assert await pool.fetchrow(keyset.nulls(), "y") is None


def _most_rows(plan: dict[str, Any]) -> int:
    """The most rows that any step of a plan looked at."""
    own = plan["Actual Rows"] + plan.get("Rows Removed by Filter", 0)
    return max([own, *map(_most_rows, plan.get("Plans", ()))])


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"cursor": ()}, "cursor=(): give the name of a column"),
        ({"cursor": ("id", "id")}, "cursor=('id', 'id'): give"),
        ({"cursor": 3}, "cursor=3: give"),
        ({"descending": 1, "cursor": "id"}, "descending=1: allowed are True, False"),
        ({"descending": True}, "descending= needs cursor="),
        ({"start_after": 5}, "start_after= needs cursor="),
        ({"start_after": (1, 2), "cursor": "id"}, "start_after=(1, 2): give a value for each of id"),
        ({"start_after": (1, None), "cursor": ("id", "at")}, "start_after=(1, None): give a value for each of id, at"),
        ({"pool": 5}, "pool=5: give an asyncpg pool"),
        ({"max_items": 0}, "max_items=0: give"),
        ({"read_timeout": "soon"}, "read_timeout='soon'"),
    ],
)
def test_a_wrong_option_is_a_problem(options: Any, problem: str) -> None:
    """READ-06, READ-13, READ-14: of the definition."""
    (found,) = Postgres(Doc, ALL, **options).problems()
    assert problem in found


def test_a_wrong_model_or_query_is_a_problem() -> None:
    """READ-13: of the definition; an unknown option is a TypeError."""
    assert next(Postgres(int, "SELECT 1").problems()).startswith("int is no type of rows")
    assert [*Postgres(Doc, 3).problems()] == ["query=3: give SQL"]  # pyright: ignore[reportArgumentType]
    assert [*Postgres(Doc, "DROP TABLE a").problems()] == [
        "the query begins with DROP: give one SELECT (or WITH, VALUES, TABLE)"
    ]
    with pytest.raises(TypeError):
        Postgres(Doc, ALL, limit=3)  # pyright: ignore[reportCallIssue]
