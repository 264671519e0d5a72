"""Pages of rows from Postgres: by keyset, or through a server-side cursor. This loads the driver."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import asyncpg

from flowstone_async.errors import ConfigError, SourceError
from flowstone_async.sources.keyset import TIE_PAGES, Border, Keyset, Tie, border_at
from flowstone_async.sources.rows import Rows
from flowstone_async.sources.source import Page
from flowstone_async.sources.sql import parse

_WRONG_CLASSES = ("42", "0A")
"""SQLSTATE classes that blame the statement: syntax, names, types, rights; what cannot be done."""
_CUT_OFF = (asyncio.CancelledError, TimeoutError)
_RELEASE = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """What is read.

    Attributes:
        text: The query as it was written.
        columns: Columns to read by; none for a server-side cursor.
        start_after: Key to begin behind, or None.
        model: What rows become.
        label: What the source is called in messages.
    """

    text: str
    arguments: tuple[object, ...]
    columns: tuple[str, ...]
    descending: bool
    start_after: tuple[object, ...] | None
    model: type[Any]
    label: str


async def pages(database: Any, query: Query, cursor: Any, size: int) -> AsyncGenerator[Page[Any], None]:
    """Yield pages.

    Args:
        database: A pool, or a DSN.
        query: What to read.
        cursor: Where to continue, or None.
        size: Rows in a page.

    Raises:
        ConfigError: The query cannot be run, or does not go with its options.
        SourceError: A key is NULL.
    """
    async with _pool(database) as pool:
        reader = _Reader(pool, query, size)
        async with aclosing(reader.by_keyset(cursor) if query.columns else reader.streamed()) as given:
            async for page in given:
                yield page


@asynccontextmanager
async def _pool(database: Any) -> AsyncGenerator[Any]:
    if not isinstance(database, str):
        yield database
        return
    # One connection is enough. Nothing is prepared by name: there may be a transaction pooler in between.
    pool = await asyncpg.create_pool(database, min_size=0, max_size=1, statement_cache_size=0)
    try:
        yield pool
    finally:
        try:
            async with asyncio.timeout(_RELEASE):
                await pool.close()
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
            pool.terminate()


@asynccontextmanager
async def _connection(pool: Any, label: str) -> AsyncGenerator[Any]:
    """Borrow a connection; whatever was cut off in the middle of an answer is broken off with it."""
    connection = await pool.acquire()
    try:
        yield connection
    except _CUT_OFF:
        connection.terminate()
        raise
    except asyncpg.PostgresError as error:
        if _is_wrong(error):
            raise ConfigError(f"{label}: {error}", hint=getattr(error, "hint", None)) from error
        raise
    finally:
        with suppress(OSError, TimeoutError, asyncpg.InterfaceError):
            await pool.release(connection, timeout=_RELEASE)


@asynccontextmanager
async def _transaction(connection: Any) -> AsyncGenerator[None]:
    """Begin a transaction and end it; nothing is asked of a connection that is about to be broken off."""
    transaction = connection.transaction()
    await transaction.start()
    try:
        yield
    except _CUT_OFF:
        raise
    except BaseException:
        await transaction.rollback()
        raise
    else:
        await transaction.commit()


def _is_wrong(error: asyncpg.PostgresError) -> bool:
    """Tell whether the query or its arguments are to blame: then nothing gets better by trying again."""
    if error.severity is None:  # the driver's own: an argument of another type than the server wants
        return True
    return (error.sqlstate or "").startswith(_WRONG_CLASSES)


class _Reader:
    def __init__(self, pool: Any, query: Query, size: int) -> None:
        self._pool, self._query, self._size = pool, query, size
        self._rows: Rows[Any] = Rows(query.model)
        self._text = parse(query.text).text
        self._names: list[str] = []
        self._places: tuple[int, ...] = ()
        self._encoded: list[str] = []

    async def streamed(self) -> AsyncGenerator[Page[Any], None]:
        """Yield pages of a server-side cursor, which lives in a transaction of its own."""
        async with _connection(self._pool, self._query.label) as connection, _transaction(connection):
            await self._look(connection)
            cursor = await connection.cursor(f"SELECT * FROM ({self._text}\n) AS rows", *self._query.arguments)
            while True:
                records = await cursor.fetch(self._size)
                last = len(records) < self._size
                yield Page(await self._items(records), last=last)
                if last:
                    return

    async def by_keyset(self, cursor: Mapping[str, Any] | None) -> AsyncGenerator[Page[Any], None]:
        """Yield pages in order of the keys; no connection is held while a page is worked on."""
        query = self._query
        keyset = Keyset(query=self._text, arguments=query.arguments, columns=query.columns, descending=query.descending)
        border = Border(after=query.start_after)
        if cursor is not None:
            border = Border.restored(cursor, query.columns, descending=query.descending)
        async with _connection(self._pool, query.label) as connection:
            await self._look(connection)
            if cursor is None:
                await self._refuse_nulls(connection, keyset)
        while True:
            async with _connection(self._pool, query.label) as connection:
                if border.tie is None:
                    records, border, last = await self._next(connection, keyset, border.after)
                else:
                    records, border, last = *await self._next_tied(connection, keyset, border.tie), False
            if records or last:
                items = await self._items(records)
                yield Page(items, border.stored(query.columns, descending=query.descending), last=last)
            if last:
                return

    async def _next(
        self, connection: Any, keyset: Keyset, after: tuple[object, ...] | None
    ) -> tuple[Sequence[Any], Border, bool]:
        """Return rows behind a key, the place behind them, and whether they are the last ones."""
        text, values = keyset.page(after, self._size + 1)
        records = await connection.fetch(text, *values)
        keys = [self._key(record) for record in records]
        count = border_at([record[-1] for record in records], self._size)
        if not count and records:  # more rows than a page have this key
            return (), Border(tie=Tie(key=keys[0])), False
        return records[:count], Border(after=keys[count - 1] if count else after), count == len(records)

    async def _next_tied(self, connection: Any, keyset: Keyset, tie: Tie) -> tuple[Sequence[Any], Border]:
        """Return rows with a key, and the place behind them."""
        count = self._size * TIE_PAGES
        text, values = keyset.tied(tie, count)
        records = await connection.fetch(text, *values)
        if len(records) < count:
            return records, Border(after=tie.key)
        return records, Border(tie=tie.behind([record[-1] for record in records]))

    def _key(self, record: Any) -> tuple[object, ...]:
        key = tuple(record[place] for place in self._places)
        if None in key:
            raise self._null(self._query.columns[key.index(None)])
        return key

    async def _look(self, connection: Any) -> None:
        """Ask the server what the query gives, without running it.

        Raises:
            ConfigError: It gives no such columns, or takes other arguments.
        """
        query = self._query
        async with _transaction(connection):  # in which a pooler, too, stays with one server connection
            statement = await connection.prepare(f"SELECT * FROM ({self._text}\n) AS rows", name="")
        taken = len(statement.get_parameters())
        if taken != len(query.arguments):
            raise ConfigError(
                f"{query.label}: the query takes {taken} arguments, and {len(query.arguments)} were given"
            )
        attributes = statement.get_attributes()
        self._names = [attribute.name for attribute in attributes]
        for column in query.columns:
            if self._names.count(column) != 1:
                problem = "does not give a" if column not in self._names else "gives more than one"
                given = ", ".join(self._names)
                raise ConfigError(
                    f"{query.label} {problem} column {column!r}, which cursor= names",
                    details={"column": column, "columns": list(self._names)},
                    hint=f"It gives {given}; rename with AS.",
                )
        self._places = tuple(self._names.index(column) for column in query.columns)
        texts = [attribute.name for attribute in attributes if attribute.type.name in ("json", "jsonb")]
        # The caller's pool may have a codec of its own, which has decoded them already.
        decoded = not texts or await connection.fetchval("SELECT '{}'::jsonb") != "{}"
        self._encoded = [] if decoded else texts

    async def _refuse_nulls(self, connection: Any, keyset: Keyset) -> None:
        row = await connection.fetchrow(keyset.nulls(), *self._query.arguments)
        if row is not None:
            raise self._null(self._query.columns[list(row).index(True)])

    def _null(self, column: str) -> SourceError:
        return SourceError(
            f"{self._query.label} gives rows whose {column!r} is NULL, which cursor= names",
            details={"column": column},
            hint=f"Leave them out (WHERE {column} IS NOT NULL), or name another column.",
            retryable=False,
        )

    async def _items(self, records: Sequence[Any]) -> list[Any]:
        return await self._rows.items(self._row(record) for record in records)

    def _row(self, record: Any) -> dict[str, Any]:
        row = dict(zip(self._names, record.values(), strict=False))  # without what paging added
        for name in self._encoded:
            if isinstance(row[name], str):
                row[name] = json.loads(row[name])
        return row
