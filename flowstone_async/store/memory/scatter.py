"""One scatter in memory, with all that is its own."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from flowstone_async.store.batches import SPLIT
from flowstone_async.store.scatters import Block, Chunk, Flush, ItemFailed, Page, ScatterRecord, StoredFailure

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

    def is_due(self, now: datetime) -> bool:
        """Whether it waits for no time any more."""
        return self.due is None or self.due <= now


@dataclass(slots=True, weakref_slot=True, eq=False)
class StoredScatter:
    """One scatter with all that is its own."""

    record: ScatterRecord
    fence: int
    since: datetime
    carried: int = 0
    pages: dict[int, Page] = field(default_factory=dict[int, Page])
    fences: dict[int, int] = field(default_factory=dict[int, int])
    keys: dict[str, int] = field(default_factory=dict[str, int])
    chunks: dict[tuple[int, bool], StoredChunk] = field(default_factory=dict[tuple[int, bool], StoredChunk])
    blocks: dict[int, list[Block]] = field(default_factory=dict[int, list[Block]])
    committed: list[tuple[int, Block]] = field(default_factory=list[tuple[int, Block]])
    failures: dict[int, StoredFailure] = field(default_factory=dict[int, StoredFailure])
    carry: bytes | None = None
    distinct: int | None = None

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
        """Let items that leave their batches be batches of their own, with the numbers that come next."""
        for each in flush.splits:
            kept = Chunk(
                flush.chunk.scatter,
                each.position,
                alone=True,
                page=page,
                size=1,
                failed=int(each.failed),
                attempts=each.attempts,
                error=each.error,
                number=self.record.total,
            )
            self.chunks[each.position, True] = StoredChunk(kept, state="done" if each.failed else "ready", due=each.due)
            self.record = self.record._replace(total=self.record.total + 1)

    def committed_after(self, number: int, limit: int) -> tuple[tuple[int, int, Block], ...]:
        """Return results as `Scatters.committed` does."""
        known = enumerate(self.committed[number + 1 : number + 1 + limit], number + 1)
        return tuple((no, page, self._numbered(block)) for no, (page, block) in known)

    def _numbered(self, block: Block) -> Block:
        position = block.positions[0]
        return block if position < SPLIT else block._replace(number=self.chunks[position, True].kept.number)

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
