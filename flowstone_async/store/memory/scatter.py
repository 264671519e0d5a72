"""One scatter in memory, with all that is its own."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from heapq import nsmallest
from itertools import accumulate
from typing import Literal

from flowstone_async.store.batches import SPLIT
from flowstone_async.store.blocks import Block, Committed, weight
from flowstone_async.store.scatters import (
    NEVER,
    Chunk,
    Flush,
    ItemFailed,
    NewPage,
    Page,
    ScatterRecord,
    ScatterTotals,
    StoredFailure,
)

OPEN = frozenset({"ready", "running"})
"""States of chunks that are not done."""


@dataclass(slots=True)
class StoredChunk:
    """A chunk with its owner; see `Chunk` and `Flush`."""

    kept: Chunk
    state: str = "running"
    worker: str | None = None
    flushes: int = 0
    due: datetime | None = None

    @property
    def is_split_off(self) -> bool:
        """Whether it is a batch that was split off."""
        return self.kept.first >= SPLIT

    @property
    def has_rejoined(self) -> bool:
        """Whether it was split off and is part of its batch again: it counts no more, and keeps its number."""
        return self.is_split_off and self.state == "done" and not self.kept.succeeded + self.kept.failed

    def is_due(self, now: datetime) -> bool:
        """Whether it waits for no time any more."""
        return self.due is None or self.due <= now


@dataclass(slots=True, weakref_slot=True, eq=False)
class StoredScatter:
    """One scatter with all that is its own.

    Attributes:
        record: With the number of numbers that were given as its total; see `shown`.
    """

    record: ScatterRecord
    fence: int
    since: datetime
    carried: int = 0
    pages: dict[int, Page] = field(default_factory=dict[int, Page])
    fences: dict[int, int] = field(default_factory=dict[int, int])
    keys: dict[str, int] = field(default_factory=dict[str, int])
    chunks: dict[tuple[int, bool], StoredChunk] = field(default_factory=dict[tuple[int, bool], StoredChunk])
    blocks: dict[int, list[Committed]] = field(default_factory=dict[int, list[Committed]])
    committed: list[Committed] = field(default_factory=list[Committed])
    failures: dict[int, StoredFailure] = field(default_factory=dict[int, StoredFailure])
    notes: list[str] = field(default_factory=list[str])
    carry: bytes | None = None
    distinct: int | None = None

    @property
    def shown(self) -> ScatterRecord:
        """The record, with what counts as its total."""
        return self.record._replace(total=self.record.total - sum(c.has_rejoined for c in self.chunks.values()))

    def totals(self) -> ScatterTotals:
        """Count its items."""
        ready = [each for each in self.chunks.values() if each.state == "ready"]
        return ScatterTotals(
            state=self.record.state,
            sealed=self.record.sealed,
            total=self.shown.total,
            succeeded=sum(each.kept.succeeded for each in self.chunks.values()),
            failed=sum(each.kept.failed for each in self.chunks.values()),
            waiting=sum(each.kept.alone for each in ready),
            open=sum(each.state in OPEN for each in self.chunks.values()),
            due=min((each.due for each in ready if each.due not in (None, NEVER)), default=None),
            taken=sum(each.state == "running" for each in self.chunks.values()),
            since=self.since,
            read=self.record.read if self.distinct is None else self.distinct,
            carried=self.carried,
            parked=sum(each.due == NEVER for each in ready),
        )

    def cancel(self, state: Literal["failed", "cancelled"]) -> None:
        """End it before its items are."""
        self.record = self.record._replace(state=state)
        for chunk in self.chunks.values():
            if chunk.state in OPEN:
                chunk.state, chunk.worker = "cancelled", None
                chunk.kept = chunk.kept._replace(fence=chunk.kept.fence + 1)

    def release(self, worker: str) -> None:
        """Let go of what a worker has of it."""
        for chunk in self.chunks.values():
            if chunk.worker == worker and chunk.state == "running":
                chunk.state, chunk.worker, chunk.flushes = "ready", None, 0
                chunk.kept = chunk.kept._replace(fence=chunk.kept.fence + 1)

    def split(self, flush: Flush, page: int) -> None:
        """Let items that leave their batches be batches of their own: with the next numbers, or those that they had."""
        for each in flush.splits:
            known = self.chunks.get((each.position, True))
            kept = Chunk(
                flush.chunk.scatter,
                each.position,
                alone=True,
                page=page,
                size=1,
                failed=int(each.failed),
                attempts=each.attempts,
                error=each.error,
                number=self.record.total if known is None else known.kept.number,
            )
            self.chunks[each.position, True] = StoredChunk(kept, state="done" if each.failed else "ready", due=each.due)
            if known is None:
                self.record = self.record._replace(total=self.record.total + 1)

    def cut(self, page: NewPage, first: int, worker: str) -> None:
        """Make the chunks of a page whose items begin at a position; some of them are a worker's own."""
        start = 0
        for place, count in enumerate(page.chunks):
            failed = sum(start <= each.position < start + count for each in page.failed)
            kept = Chunk(page.scatter, first + start, alone=False, page=page.no, size=count, failed=failed)
            ours = page.owned is None or place < page.owned
            self.chunks[first + start, False] = StoredChunk(
                kept, state="running" if ours else "ready", worker=worker if ours else None
            )
            start += count

    def dues(self, now: datetime, limit: int) -> tuple[datetime, ...]:
        """Return when the next items that wait may be tried, from now on."""
        found = (each.due for each in self.chunks.values() if each.state == "ready")
        return tuple(nsmallest(limit, (due for due in found if due is not None and now < due < NEVER)))

    def commit(self, block: Block, page: int) -> None:
        """Keep results."""
        self.committed.append(Committed(len(self.committed), page, block))
        self.blocks.setdefault(page, []).append(self.committed[-1])

    def of_page(self, page: int, most: int) -> tuple[Committed, ...]:
        """Return results as `Scatters.blocks` does."""
        known = self.blocks.get(page, [])
        sizes = accumulate(weight(each.block) for each in known)
        return tuple(each if size <= most else each.without_contents() for each, size in zip(known, sizes, strict=True))

    def committed_after(self, number: int, limit: int, most: int) -> tuple[Committed, ...]:
        """Return results as `Scatters.committed` does."""
        known = self.committed[number + 1 : number + 1 + limit]
        sizes = accumulate((weight(each.block) for each in known), initial=0)
        found = (each for each, before in zip(known, sizes, strict=False) if before < most or not before)
        return tuple(map(self._numbered, found))

    def _numbered(self, each: Committed) -> Committed:
        position = each.block.positions[0]
        if position < SPLIT:
            return each
        return each._replace(block=each.block._replace(number=self.chunks[position, True].kept.number))

    def fail(self, item: ItemFailed, page: int, at: datetime, worker: str) -> None:
        """Keep an item that failed for good."""
        alone = self.chunks.get((item.position, True))
        self.failures[item.position] = StoredFailure(
            item.position,
            page,
            at,
            item.attempts,
            worker,
            item.error,
            number=None if alone is None else alone.kept.number,
        )
