"""Scatters on Postgres: one statement for a page, one for a flush. See docs/adr/0008-scatter.md."""

from __future__ import annotations

import asyncio
import sys
import time
from array import array
from collections.abc import Awaitable, Callable, Collection, Sequence
from functools import partial
from typing import Any, Literal, TypeVar

from asyncpg import Record
from typing_extensions import override

from flowstone_async.errors import Failure, StoreUnavailable
from flowstone_async.store.postgres.connections import Connections
from flowstone_async.store.postgres.encoding import failure, failure_text
from flowstone_async.store.postgres.identifiers import ids, is_id
from flowstone_async.store.postgres.instants import Instants
from flowstone_async.store.scatters import (
    Block,
    Chunk,
    Flush,
    NewPage,
    Page,
    PageAdded,
    ScatterRecord,
    Scatters,
    ScatterTotals,
    StoredFailure,
)
from flowstone_async.types import AssetKey

T = TypeVar("T")
PLACE = "I"
_PAUSE = 0.1


class PostgresScatters(Scatters):
    """Keeps scatters.

    Args:
        connections: To the server.
        instants: The store's clock.
        owns: Whether this process may still commit anything: False once its lease is lost.
        patience: Seconds for which pages and results are sent again while the server cannot be reached.
    """

    def __init__(
        self, connections: Connections, instants: Instants, *, owns: Callable[[], bool], patience: float
    ) -> None:
        self._connections = connections
        self._instants = instants
        self._owns = owns
        self._patience = patience

    async def _fetch(self, name: str, *arguments: object) -> list[Record]:
        """Run a statement that may be repeated, for as long as commits are tried."""
        return await self._patiently(partial(self._connections.fetch, name, *arguments))

    async def _patiently(self, do: Callable[[], Awaitable[T]]) -> T:
        give_up = time.monotonic() + self._patience
        while True:
            try:
                return await do()
            except StoreUnavailable:
                if not self._owns() or time.monotonic() > give_up:
                    raise
            await asyncio.sleep(_PAUSE)

    @override
    async def begin(self, scatter: ScatterRecord, fence: int, worker: str) -> ScatterRecord | None:
        return await self._patiently(partial(self._begin, scatter, fence, worker))

    async def _begin(self, scatter: ScatterRecord, fence: int, worker: str) -> ScatterRecord | None:
        key = scatter.key
        named = (key.pipeline, key.asset, key.io, key.partition)
        async with self._connections.transaction() as session:
            if not self._owns() or not await session.fetch("scatter_run", scatter.run_id, fence):
                return None
            given = (scatter.id, scatter.run_id, fence, *named, scatter.facts, self._instants.given())
            [row] = await session.fetch("begin_scatter", *given)
            await session.fetch("release_chunks", row["id"], worker)
        return record_of(row)

    @override
    async def add_page(self, page: NewPage, worker: str) -> PageAdded | None:
        if not self._owns():
            return None
        which = (page.scatter, page.fence, page.no)
        firsts, counts, failed = _cut(page)
        given = (
            *which,
            page.size,
            page.hashes,
            page.items,
            page.keys,
            page.cursor,
            page.last,
            worker,
            firsts,
            counts,
            failed,
            [each.position for each in page.failed],
            [each.error.code for each in page.failed],
            [failure_text(each.error) for each in page.failed],
            self._instants.given(),
            len(page.chunks) if page.owned is None else page.owned,
        )
        rows = await self._fetch("add_page", *given)
        for row in rows or await self._fetch("page_added", *which):
            return PageAdded(row["first"], row["before"], frozenset(row["duplicates"]))
        return None

    @override
    async def flush(self, flushes: Sequence[Flush], worker: str) -> frozenset[int]:
        if not flushes or not self._owns():
            return frozenset()
        columns = _columns(flushes)
        now = self._instants.given()
        rows = await self._fetch("flush", worker, *columns, now)
        kept = {row[0] - 1 for row in rows}
        if len(kept) < len(flushes):
            scatters, firsts, alone, fences, numbers, *_ = columns
            known = await self._fetch("flushed", scatters, firsts, alone, fences, numbers)
            kept.update(row[0] - 1 for row in known)
        return frozenset(kept)

    @override
    async def take(
        self,
        scatter: str,
        worker: str,
        *,
        limit: int,
        fresh: int | None = None,
        known: Collection[tuple[int, bool]] | None = None,
    ) -> tuple[Chunk, ...]:
        firsts, alone = (None, None) if known is None else ([k[0] for k in known], [k[1] for k in known])
        async with self._connections.translated(), self._connections.session() as session:
            limits = limit, self._instants.given(), firsts, alone, limit if fresh is None else fresh
            rows = await session.fetch("take_chunks", worker, scatter, *limits)
        return tuple(map(_chunk, rows))

    @override
    async def release(self, scatter: str, worker: str) -> None:
        await self._connections.fetch("release_chunks", scatter, worker)

    @override
    async def close(self, scatter: str, fence: int) -> bool:
        return bool(await self._fetch("close_scatter", scatter, fence)) or await self._is(scatter, fence, "closed")

    @override
    async def end(self, scatter: str, fence: int, state: Literal["failed", "cancelled"]) -> bool:
        return await self._patiently(partial(self._end, scatter, fence, state))

    async def _end(self, scatter: str, fence: int, state: str) -> bool:
        async with self._connections.transaction() as session:
            ended = await session.fetch("end_scatter", scatter, fence, state)
            if ended:
                await session.fetch("cancel_chunks", [scatter])
        return bool(ended) or await self._is(scatter, fence, state)

    async def _is(self, scatter: str, fence: int, state: str) -> bool:
        """Tell whether the call before was done already, its reply being lost."""
        rows = await self._connections.fetch("scatter", scatter)
        return bool(rows) and rows[0]["state"] == state and rows[0]["fence"] == fence

    @override
    async def scatter(self, scatter: str) -> ScatterRecord | None:
        rows = await self._connections.fetch("scatter", scatter) if is_id(scatter) else []
        return record_of(rows[0]) if rows else None

    @override
    async def of_run(self, run_id: str) -> tuple[ScatterRecord, ...]:
        rows = await self._connections.fetch("scatters_of_run", run_id) if is_id(run_id) else []
        return tuple(map(record_of, rows))

    @override
    async def totals(self, scatter: str) -> ScatterTotals | None:
        rows = await self._connections.fetch("scatter_counts", scatter) if is_id(scatter) else []
        return ScatterTotals(*rows[0]) if rows else None

    @override
    async def pages(self, scatter: str, numbers: Collection[int]) -> tuple[Page, ...]:
        rows = await self._connections.fetch("scatter_pages", scatter, list(numbers))
        return tuple(
            Page(
                row["no"],
                row["first"],
                row["before"],
                row["count"],
                frozenset(row["duplicates"]),
                row["items"],
                row["keys"],
            )
            for row in rows
        )

    @override
    async def blocks(self, scatter: str, page: int) -> tuple[Block, ...]:
        rows = await self._connections.fetch("scatter_blocks", scatter, page)
        if rows:
            return tuple(Block(_positions(row["first"], row["places"]), row["body"]) for row in rows)
        rows = await self._connections.fetch("scatter_results", scatter, page)
        if not rows:
            return ()
        return (Block([row[0] for row in rows], b"", [row[1] for row in rows]),)

    @override
    async def committed(self, scatter: str, *, after: int = -1, limit: int = 50) -> tuple[tuple[int, int, Block], ...]:
        rows = await self._connections.fetch("committed_blocks", scatter, after, limit)
        if rows:
            return tuple(
                (row["no"], row["page"], Block(_positions(row["first"], row["places"]), row["body"])) for row in rows
            )
        rows = await self._connections.fetch("committed_results", scatter, after, limit)
        return tuple((row["no"], row["page"], Block((row["item_no"],), b"", (row["value"],))) for row in rows)

    @override
    async def page_at(self, scatter: str, position: int) -> int | None:
        rows = await self._connections.fetch("scatter_page_at", scatter, position)
        return rows[0][0] if rows else None

    @override
    async def failures(self, scatter: str, *, after: int = -1, limit: int = 1000) -> tuple[StoredFailure, ...]:
        rows = await self._connections.fetch("scatter_failures", scatter, after, limit)
        return tuple(
            StoredFailure(
                row["item_no"], row["page"], row["at"], row["attempts"], row["worker"], _certain(row["error"])
            )
            for row in rows
        )

    @override
    async def errors(self, scatter: str, *, limit: int = 10) -> tuple[tuple[int, Failure], ...]:
        rows = await self._connections.fetch("scatter_errors", scatter, limit)
        return tuple((row["count"], _certain(row["example"])) for row in rows)

    @override
    async def find(self, scatter: str, hash: str) -> int | None:
        rows = await self._connections.fetch("scatter_find", scatter, hash)
        return rows[0][0] if rows else None

    @override
    def pin(self, scatter: str) -> object | None:
        return None

    @override
    async def delete(self, scatters: Collection[str]) -> None:
        known = ids(scatters)
        if known:
            await self._connections.fetch("delete_scatters", known)


def record_of(row: Record) -> ScatterRecord:
    """Return a scatter as it is stored."""
    key = AssetKey(row["pipeline"], row["asset"], row["partition"], row["io"])
    return ScatterRecord(
        id=str(row["id"]),
        run_id=str(row["run_id"]),
        key=key,
        state=row["state"],
        sealed=row["sealed"],
        pages=row["pages"],
        read=row["read"],
        total=row["total"],
        cursor=row["cursor"],
        facts=row["facts"],
    )


def _chunk(row: Record) -> Chunk:
    return Chunk(
        scatter=str(row["scatter"]),
        first=row["first"],
        alone=row["alone"],
        page=row["page"],
        size=row["count"],
        fence=row["fence"],
        done=row["done"] or b"",
        succeeded=row["succeeded"],
        failed=row["failed"],
        attempts=row["attempts"],
        lost=row["lost"],
        error=failure(row["error"]),
    )


def _certain(text: str) -> Failure:
    found = failure(text)
    assert found is not None  # noqa: S101 - for the type checker: the column is never NULL
    return found


def _cut(page: NewPage) -> tuple[list[int], list[int], list[int]]:
    """Return the chunks of a page: the place of each one's first item, their counts, and how many of them failed."""
    firsts: list[int] = []
    failed: list[int] = []
    first = 0
    for count in page.chunks:
        firsts.append(first)
        failed.append(sum(first <= each.position < first + count for each in page.failed))
        first += count
    return firsts, list(page.chunks), failed


def _columns(flushes: Sequence[Flush]) -> tuple[list[Any], ...]:
    """Return flushes as the statement takes them: a list for each column, numbered from 1 where rows belong to one."""
    chunks: list[tuple[object, ...]] = []
    later: list[tuple[object, ...]] = []
    rows: list[tuple[object, ...]] = []
    failures: list[tuple[object, ...]] = []
    for place, flush in enumerate(flushes, 1):
        chunk, block = flush.chunk, flush.block
        packed = block is not None and block.rows is None
        chunks.append(
            (
                *(chunk.scatter, chunk.first, chunk.alone, chunk.fence, flush.number, flush.state),
                *(flush.done, flush.succeeded, flush.failed, flush.attempts, flush.due, failure_text(flush.error)),
                None if block is None or not packed else _places(chunk.first, block.positions),
                None if block is None or not packed else block.body,
            )
        )
        later += (
            (place, each.position, each.attempts, each.lost, each.due, failure_text(each.error)) for each in flush.later
        )
        if block is not None and block.rows is not None:
            rows += ((place, *each) for each in zip(block.positions, block.rows, strict=True))
        failures += (
            (place, each.position, each.attempts, each.error.code, failure_text(each.error)) for each in flush.failures
        )
    return (*_turned(chunks, 14), *_turned(later, 6), *_turned(rows, 3), *_turned(failures, 5))


def _places(first: int, positions: Sequence[int]) -> bytes:
    places = array(PLACE, [position - first for position in positions])
    if sys.byteorder == "big":
        places.byteswap()
    return places.tobytes()


def _positions(first: int, data: bytes) -> Sequence[int]:
    places = array(PLACE, data)
    if sys.byteorder == "big":
        places.byteswap()
    return [first + place for place in places]


def _turned(rows: list[tuple[object, ...]], width: int) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)] if rows else [[] for _ in range(width)]
