"""Scatters on Postgres: one statement for a page, one for a flush. See docs/adr/0008-scatter.md."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from datetime import datetime
from functools import partial
from typing import Any, Literal

from asyncpg import Record
from typing_extensions import override

from flowstone_async.errors import Failure
from flowstone_async.store.batches import split_from
from flowstone_async.store.blocks import MOST_AT_ONCE, Block, Committed
from flowstone_async.store.postgres.chains import Chains, delete_scatters
from flowstone_async.store.postgres.connections import Connections
from flowstone_async.store.postgres.encoding import failure, failure_text
from flowstone_async.store.postgres.identifiers import ids, is_id
from flowstone_async.store.postgres.instants import Instants
from flowstone_async.store.postgres.remains import REMAINS, TRIMS, Remains
from flowstone_async.store.postgres.repeating import Repeating
from flowstone_async.store.postgres.scatter_columns import columns_of, cut, positions, turned, waits_of
from flowstone_async.store.scatters import (
    Chunk,
    Flush,
    Left,
    NewPage,
    Page,
    PageAdded,
    ScatterRecord,
    Scatters,
    ScatterTotals,
    StoredFailure,
    kind_of,
)
from flowstone_async.types import AssetKey


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
        self._patiently = Repeating(owns, patience)
        self._chains = Chains(connections)
        self._remains = Remains(connections, instants)

    async def _fetch(self, name: str, *arguments: object) -> list[Record]:
        """Run a statement that may be repeated, for as long as commits are tried."""
        return await self._patiently(partial(self._connections.fetch, name, *arguments))

    @override
    async def begin(
        self, scatter: ScatterRecord, fence: int, worker: str, *, instead_of: str | None = None
    ) -> ScatterRecord | None:
        return await self._patiently(partial(self._begin, scatter, fence, worker, instead_of))

    async def _begin(
        self, scatter: ScatterRecord, fence: int, worker: str, instead_of: str | None
    ) -> ScatterRecord | None:
        key = scatter.key
        named = (key.pipeline, key.asset, key.io, key.partition)
        async with self._connections.transaction() as session:
            if not self._owns() or not await session.fetch("scatter_run", scatter.run_id, fence):
                return None
            if instead_of is not None:
                await delete_scatters(session, self._remains, [instead_of])  # what is left goes when somebody prunes
            given = (scatter.id, scatter.run_id, fence, *named, scatter.facts, self._instants.given())
            [row] = await session.fetch("begin_scatter", *given)
            await session.fetch("release_chunks", row["id"], worker)
        return self._record(row)

    def _record(self, row: Record) -> ScatterRecord:
        record = record_of(row)
        self._chains.learn(record.id, row["root"], row["kept"])
        return record

    @override
    async def decide(self, scatter: str, fence: int, known: str, facts: str) -> str | None:
        rows = await self._fetch("decide_scatter", scatter, fence, known, facts) if self._owns() else []
        return rows[0]["facts"] if rows else None

    @override
    async def note(self, scatter: str, noted: str) -> None:
        if self._owns():
            await self._fetch("note_scatter", scatter, noted)

    @override
    async def noted(self, scatter: str) -> tuple[str, ...]:
        _, parts = await self._chains.of(scatter)
        return tuple(row["noted"] for row in await self._fetch("scatter_notes", parts))

    @override
    async def known(self, scatter: str, hashes: Collection[str]) -> frozenset[str]:
        root, _ = await self._chains.of(scatter)
        rows = await self._fetch("known_keys", root, list(hashes)) if hashes else []
        return frozenset(row["hash"].hex for row in rows)

    @override
    async def add_page(self, page: NewPage, worker: str) -> PageAdded | None:
        if not self._owns():
            return None
        which = (page.scatter, page.fence, page.no)
        firsts, counts, failed = cut(page)
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
            [kind_of(each.error) for each in page.failed],
            [failure_text(each.error) for each in page.failed],
            self._instants.given(),
            len(page.chunks) if page.owned is None else page.owned,
            page.places,
            page.carry,
            page.distinct,
        )
        rows = await self._fetch("add_page", *given)
        if not rows:
            root, _ = await self._chains.of(page.scatter)
            rows = await self._fetch("page_added", root, page.fence, page.no)
        for row in rows:
            return PageAdded(row["first"], row["before"], frozenset(row["duplicates"]))
        return None

    @override
    async def flush(self, flushes: Sequence[Flush], worker: str) -> frozenset[int]:
        if not flushes or not self._owns():
            return frozenset()
        columns = columns_of(flushes)
        given = (worker, *columns, self._instants.given())
        if any(flush.splits or waits_of(flush) for flush in flushes):
            kept = await self._patiently(partial(self._flush_and_more, flushes, given))
        else:
            kept = {row[0] - 1 for row in await self._fetch("flush", *given)}
        if len(kept) < len(flushes):
            known = await self._fetch("flushed", *columns[:6], columns[9])
            kept.update(row[0] - 1 for row in known)
        return frozenset(kept)

    async def _flush_and_more(self, flushes: Sequence[Flush], given: tuple[Any, ...]) -> set[int]:
        """Flush, and let items that leave their batches be batches, and items that wait at gates wait."""
        scatters = sorted({flush.chunk.scatter for flush in flushes})
        gates = [gate for flush in flushes for _, gate in waits_of(flush)]
        async with self._connections.transaction() as session:
            await session.fetch("lock_scatters", scatters)
            held = {str(row["id"]) for row in await session.fetch("hold_gates", gates)} if gates else set[str]()
            kept: set[int] = {row[0] - 1 for row in await session.fetch("flush", *given)}
            for place in sorted(kept):
                flush = flushes[place]
                rows: list[tuple[object, ...]] = [(first, gate, gate in held) for first, gate in waits_of(flush)]
                if rows:
                    now = self._instants.given()
                    await session.fetch("wait_items", flush.chunk.scatter, *turned(rows, 3), now)
            for scatter in scatters:
                splits: list[tuple[object, ...]] = [
                    (each.position, flush.chunk.page, each.attempts, each.due, failure_text(each.error), each.failed)
                    for place, flush in enumerate(flushes)
                    if place in kept and flush.chunk.scatter == scatter
                    for each in flush.splits
                ]
                if splits:
                    await session.fetch("split_chunks", scatter, *turned(splits, 6))
        return kept

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
    async def left(self, scatter: str, *, besides: str | None = None) -> Left:
        [row] = await self._connections.fetch("scatter_left", scatter, besides)
        return "work" if row["works"] else "waits" if row["waits"] else "nothing"

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
        return self._record(rows[0]) if rows else None

    @override
    async def of_run(self, run_id: str) -> tuple[ScatterRecord, ...]:
        rows = await self._connections.fetch("scatters_of_run", run_id) if is_id(run_id) else []
        return tuple(map(self._record, rows))

    @override
    async def dues(self, scatter: str, *, limit: int) -> tuple[datetime, ...]:
        rows = await self._connections.fetch("scatter_dues", scatter, self._instants.given(), limit)
        return tuple(row["due_at"] for row in rows)

    @override
    async def totals(self, scatter: str) -> ScatterTotals | None:
        rows = await self._connections.fetch("scatter_counts", scatter) if is_id(scatter) else []
        return ScatterTotals(*rows[0]) if rows else None

    @override
    async def pages(self, scatter: str, numbers: Collection[int]) -> tuple[Page, ...]:
        root, _ = await self._chains.of(scatter)
        rows = await self._connections.fetch("scatter_pages", root, list(numbers))
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
    async def blocks(self, scatter: str, page: int, *, most: int = MOST_AT_ONCE) -> tuple[Committed, ...]:
        root, parts = await self._chains.of(scatter)
        rows = await self._connections.fetch("scatter_blocks", parts, page, most)
        if rows:
            return tuple(map(_packed, rows))
        rows = await self._connections.fetch("scatter_results", parts, page, root, most)
        if not rows or rows[-1]["value"] is None:
            return tuple(map(_row, rows))
        block = Block([row["item_no"] for row in rows], b"", [row["value"] for row in rows])
        return (Committed(rows[-1]["no"], page, block),)

    @override
    async def committed(
        self, scatter: str, *, after: int = -1, limit: int = 50, most: int = MOST_AT_ONCE
    ) -> tuple[Committed, ...]:
        root, parts = await self._chains.of(scatter)
        rows = await self._connections.fetch("committed_blocks", parts, after, limit, most, scatter)
        if rows:
            return tuple(map(_packed, rows))
        given = parts, after, limit, root, most, scatter
        return tuple(map(_row, await self._connections.fetch("committed_results", *given)))

    @override
    async def page_at(self, scatter: str, position: int) -> int | None:
        root, _ = await self._chains.of(scatter)
        rows = await self._connections.fetch("scatter_page_at", root, split_from(position)[0])
        return rows[0][0] if rows else None

    @override
    async def failures(self, scatter: str, *, after: int = -1, limit: int = 1000) -> tuple[StoredFailure, ...]:
        root, _ = await self._chains.of(scatter)
        rows = await self._connections.fetch("scatter_failures", scatter, after, limit, root)
        return tuple(
            StoredFailure(
                *(row["item_no"], row["page"], row["at"], row["attempts"], row["worker"], _certain(row["error"])),
                number=row["number"],
            )
            for row in rows
        )

    @override
    async def splits(self, scatter: str, *, after: int = -1, limit: int = 1000) -> tuple[Chunk, ...]:
        return tuple(map(_chunk, await self._connections.fetch("scatter_splits", scatter, after, limit)))

    @override
    async def errors(self, scatter: str, *, limit: int = 10) -> tuple[tuple[int, Failure], ...]:
        rows = await self._connections.fetch("scatter_errors", scatter, limit)
        return tuple((row["count"], _certain(row["example"])) for row in rows)

    @override
    async def find(self, scatter: str, hash: str) -> int | None:
        root, _ = await self._chains.of(scatter)
        rows = await self._connections.fetch("scatter_find", root, hash)
        return rows[0][0] if rows else None

    @override
    def pin(self, scatter: str) -> object | None:
        return None

    @override
    async def delete(self, scatters: Collection[str]) -> None:
        known = ids(scatters)
        if known:
            async with self._connections.transaction() as session:
                deleted = await delete_scatters(session, self._remains, known)
            if deleted.trimmed:
                await self._remains.finish(TRIMS, deleted.trimmed)
            if deleted.left:
                await self._remains.finish(REMAINS, deleted.left)


def _packed(row: Record) -> Committed:
    """Return results that were packed together."""
    at = positions(row["first"], row["places"])
    found = Committed(row["no"], row["page"], Block(at, row["body"] or b"", number=row["number"]))
    return found if row["body"] is not None else found.without_contents()


def _row(row: Record) -> Committed:
    """Return a result in a row."""
    at, value = (row["item_no"],), row["value"]
    if value is None:
        return Committed(row["no"], row["page"], Block(at, b"", number=row["number"]), whole=False)
    return Committed(row["no"], row["page"], Block(at, b"", (value,), row["number"]))


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
        carry=row.get("carry"),
        origin=None if row["origin"] is None else str(row["origin"]),
        before=row["before"],
        fence=row["fence"],
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
        number=row["number"],
    )


def _certain(text: str) -> Failure:
    found = failure(text)
    assert found is not None  # noqa: S101 - for the type checker: the column is never NULL
    return found
