"""Rows of a Postgres query as items."""

from __future__ import annotations

import copy
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal, Self, TypeVar, cast

from typing_extensions import override

from flowstone_async.errors import ConfigError
from flowstone_async.retry import Duration, Retry
from flowstone_async.sources.keyset import as_key
from flowstone_async.sources.options import Check, Computed, Configured, is_function
from flowstone_async.sources.rows import model_problem
from flowstone_async.sources.source import READ_RETRY, READ_TIMEOUT, Page
from flowstone_async.sources.sql import query_problems

T_co = TypeVar("T_co", covariant=True)

_SHOWN = 60
_PAGE = 1000


class Postgres(Configured[T_co]):
    """Rows of a query, each as a `model`.

    With `cursor=` it reads by keyset: page by page, behind the key of the last row, holding no connection in between,
    and a restart continues behind the last page. A row whose key changes while it is read may come twice or not at
    all: order by what never changes. An index on the columns makes each page cheap.

    Without `cursor=` it reads one consistent snapshot through a server-side cursor, holding a connection and a
    transaction until the last row, and a restart reads from the start.

    Options but `model` may be functions of dependencies, by name, each argument by itself.

    Args:
        model: A pydantic model, dataclass or TypedDict, or `dict` for rows as they are; it takes columns by name.
            Columns of type json and jsonb are decoded. A row that does not fit is a failed item.
        query: One SELECT (or WITH, VALUES, TABLE) with placeholders `$1`, `$2` and so on.
        args: What stands for the placeholders.
        cursor: Column of the result, or columns, by which to read; none of them may be NULL. They need not be unique.
        descending: Whether to begin with the greatest key.
        start_after: Key to begin behind: a value, or one for each column.
        pool: An asyncpg pool; by default the engine's database is read.
        max_items: The most rows, or False for all.
        read_retry: How often reading is tried again after an error; False for never.
        read_timeout: How long a page may take; False for as long as it likes.

    Example:
        >>> sources.Postgres(Document, "SELECT id, title FROM documents WHERE state = $1", "new", cursor="id")
    """

    live: ClassVar[frozenset[str]] = frozenset({"pool"})
    checks: ClassVar[Mapping[str, Check]] = {
        "query": lambda value: None if isinstance(value, str) else "give SQL",
        "cursor": lambda value: None if _is_cursor(value) else "give the name of a column, or several, each once",
        "descending": lambda value: None if isinstance(value, bool) else "allowed are True, False",
        "pool": lambda value: None if value is None or hasattr(value, "acquire") else "give an asyncpg pool",
    }

    def __init__(
        self,
        model: type[T_co],
        query: Computed[str],
        *args: object,
        cursor: Computed[str | Sequence[Computed[str]] | None] = None,
        descending: Computed[bool] = False,
        start_after: object = None,
        pool: object = None,
        max_items: Computed[int | Literal[False]] = False,
        read_retry: Retry | Literal[False] = READ_RETRY,
        read_timeout: Duration | Literal[False] = READ_TIMEOUT,
    ) -> None:
        self._model = model
        self._database: object = None
        options: dict[str, object] = {
            "query": query,
            "args": args,
            "cursor": cursor,
            "descending": descending,
            "start_after": start_after,
            "pool": pool,
            "max_items": max_items,
        }
        super().__init__(options, read_retry=read_retry, read_timeout=read_timeout)

    @property
    @override
    def label(self) -> str:
        query = self._options["query"]
        text = " ".join(query.split()) if isinstance(query, str) else "..."
        return f"Postgres({text if len(text) <= _SHOWN else f'{text[:_SHOWN]}...'})"

    @property
    @override
    def item_type(self) -> Any:
        return self._model

    @override
    def _settle(self) -> None:
        super()._settle()
        self.resumable = self._options["cursor"] is not None

    @override
    def problems(self) -> Iterator[str]:
        wrong = model_problem(self._model)
        if wrong is not None:
            yield wrong
        query, args, cursor, start = (self._options[name] for name in ("query", "args", "cursor", "start_after"))
        if isinstance(query, str):
            yield from query_problems(query, len(cast("tuple[object, ...]", args)))
        if cursor is None:
            for name, unset in (("descending", False), ("start_after", None)):
                if self._options[name] is not unset:
                    yield f"{name}= needs cursor=, by which it counts"
        elif _is_cursor(cursor) and start is not None and not is_function(start):
            columns, given = _columns(cursor), as_key(start) or ()
            if len(columns) != len(given) or None in given:
                yield f"start_after={start!r}: give a value for each of {', '.join(columns)}"
        yield from super().problems()

    @override
    def bound_to(self, database: object) -> Self:
        bound = copy.copy(self)
        bound._database = database  # noqa: SLF001 - of its own kind
        return bound

    @override
    def read(self, cursor: Any) -> AsyncIterator[Page[T_co]]:
        return self.read_sized(cursor, _PAGE)

    @override
    def read_sized(self, cursor: Any, page_size: int) -> AsyncIterator[Page[T_co]]:
        from flowstone_async.sources.postgres_pages import Query, pages

        database = self.option("pool") or self._database
        if database is None:
            hint = "Give pool= an asyncpg pool; without it the database of an Engine on Postgres is read."
            raise ConfigError(f"{self.label} has no database to read from", hint=hint)
        columns = self.option("cursor")
        query = Query(
            text=self.option("query"),
            arguments=tuple(self.option("args")),
            columns=() if columns is None else _columns(columns),
            descending=self.option("descending"),
            start_after=as_key(self.option("start_after")),
            model=self._model,
            label=self.label,
        )
        return pages(database, query, cursor, page_size)


def _is_cursor(value: object) -> bool:
    if value is None or isinstance(value, str):
        return value != ""
    if not isinstance(value, list | tuple):
        return False
    names = cast("Sequence[object]", value)
    return bool(names) and all(isinstance(name, str) and name for name in names) and len(set(names)) == len(names)


def _columns(cursor: object) -> tuple[str, ...]:
    return (cursor,) if isinstance(cursor, str) else tuple(cast("Sequence[str]", cursor))
