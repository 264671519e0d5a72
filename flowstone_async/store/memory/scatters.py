"""Scatters in memory: the same rules, kept in dictionaries. See docs/adr/0008-scatter.md."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from itertools import islice
from threading import RLock
from typing import Literal
from weakref import WeakValueDictionary

from typing_extensions import override

from flowstone_async.errors import Failure
from flowstone_async.store.batches import split_from
from flowstone_async.store.blocks import MOST_AT_ONCE, Committed
from flowstone_async.store.memory.item_waits import ItemWaits
from flowstone_async.store.memory.redriving import redriven
from flowstone_async.store.memory.scatter import OPEN, StoredChunk, StoredScatter
from flowstone_async.store.redrives import Redrive
from flowstone_async.store.scatters import (
    NEVER,
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
from flowstone_async.waiters import Waiters


class MemoryScatters(Scatters):
    """Keeps scatters; all handles of a memory share them.

    Args:
        lock: Guards the memory.
        now: Its clock.
        leases: Workers that are alive.
        waiters: Who waits for what changes.
        owns: Tells whether a run is owned under a fence.
        waits: Items that wait at gates.
    """

    def __init__(
        self,
        lock: RLock,
        now: Callable[[], datetime],
        leases: Mapping[str, object],
        waiters: Waiters,
        owns: Callable[[str, int], bool],
        waits: ItemWaits,
    ) -> None:
        self._lock, self._now, self._leases, self._waiters, self._owns = lock, now, leases, waiters, owns
        self._waits = waits
        self._scatters: dict[str, StoredScatter] = {}
        self._of: dict[str, dict[AssetKey, str]] = {}
        # What was deleted while somebody held it.
        self._let_go: WeakValueDictionary[str, StoredScatter] = WeakValueDictionary()

    def _read(self, scatter: str) -> StoredScatter | None:
        return self._scatters.get(scatter) or self._let_go.get(scatter)

    @override
    async def begin(
        self, scatter: ScatterRecord, fence: int, worker: str, *, instead_of: str | None = None
    ) -> ScatterRecord | None:
        with self._lock:
            if worker not in self._leases or not self._owns(scatter.run_id, fence):
                return None
            if instead_of is not None:
                self._forget(instead_of)
            known = self._of.setdefault(scatter.run_id, {}).setdefault(scatter.key, scatter.id)
            found = self._scatters.setdefault(known, StoredScatter(scatter, fence, self._now()))
            if not found.fence:  # a redrive made it, and nobody has begun it yet
                found.record = found.record._replace(facts=scatter.facts)
            found.fence, found.record = fence, found.record._replace(fence=fence)
            found.release(worker)
            return found.shown._replace(carry=found.carry)

    @override
    async def decide(self, scatter: str, fence: int, known: str, facts: str) -> str | None:
        with self._lock:
            found = self._scatters.get(scatter)
            if found is None or found.fence != fence or found.record.state != "running":
                return None
            if found.record.facts == known:
                found.record = found.record._replace(facts=facts)
            return found.record.facts

    @override
    async def note(self, scatter: str, noted: str) -> None:
        with self._lock:
            found = self._scatters.get(scatter)
            if found is not None and found.record.state == "running":
                found.notes.append(noted)

    @override
    async def noted(self, scatter: str) -> tuple[str, ...]:
        with self._lock:
            found = self._read(scatter)
            return () if found is None else tuple(found.notes)

    @override
    async def known(self, scatter: str, hashes: Collection[str]) -> frozenset[str]:
        with self._lock:
            found = self._read(scatter)
            return frozenset(() if found is None else filter(found.keys.__contains__, hashes))

    @override
    async def add_page(self, page: NewPage, worker: str) -> PageAdded | None:
        with self._lock:
            found = self._scatters.get(page.scatter)
            if found is None or worker not in self._leases:
                return None
            known = found.pages.get(page.no)
            if known is not None and found.fences[page.no] == page.fence:
                return PageAdded(known.first, known.before, known.duplicates)
            record = found.record
            expected = (found.fence, record.pages, False, "running")
            if (page.fence, page.no, record.sealed, record.state) != expected:
                return None
            return self._add(found, page, worker)

    def _add(self, found: StoredScatter, page: NewPage, worker: str) -> PageAdded:
        record, first = found.record, found.record.read
        duplicates: set[int] = set()
        hashes = page.hashes or ()
        for place, hash_ in zip(page.places or range(len(hashes)), hashes, strict=True):
            if found.keys.setdefault(hash_, first + place) != first + place:
                duplicates.add(place)
        found.pages[page.no] = Page(
            page.no, first, record.total, page.size, frozenset(duplicates), page.items, page.keys
        )
        found.fences[page.no] = page.fence
        page = page._replace(failed=[each for each in page.failed if each.position not in duplicates])
        found.cut(page, first, worker)
        for each in page.failed:
            found.fail(each._replace(position=first + each.position), page.no, self._now(), worker)
        found.record = record._replace(
            pages=record.pages + 1,
            read=record.read + page.size,
            total=record.total + page.size - len(duplicates),
            cursor=page.cursor,
            sealed=page.last,
        )
        found.carry = page.carry
        if page.distinct is not None:
            found.distinct = (found.distinct or 0) + page.distinct
        return PageAdded(first, record.total, frozenset(duplicates))

    @override
    async def flush(self, flushes: Sequence[Flush], worker: str) -> frozenset[int]:
        with self._lock:
            return frozenset(place for place, flush in enumerate(flushes) if self._flush(flush, worker))

    def _flush(self, flush: Flush, worker: str) -> bool:
        found = self._scatters.get(flush.chunk.scatter)
        chunk = None if found is None else found.chunks.get((flush.chunk.first, flush.chunk.alone))
        if found is None or chunk is None:
            return False
        if chunk.kept.fence != flush.chunk.fence:
            later = chunk.kept.fence > flush.chunk.fence and chunk.kept.attempts >= flush.attempts
            return flush.state == "ready" and later
        if chunk.flushes == flush.number + 1:
            return True
        if chunk.worker != worker or worker not in self._leases or chunk.flushes != flush.number:
            return False
        chunk.kept = chunk.kept._replace(
            done=flush.done,
            succeeded=flush.succeeded,
            failed=flush.failed,
            attempts=flush.attempts,
            error=flush.error,
        )
        chunk.flushes, chunk.state, chunk.due = flush.number + 1, flush.state, flush.due
        chunk.worker = worker if flush.state == "running" else None
        page, now = chunk.kept.page, self._now()
        self._waits.wait(chunk, flush.gates)
        for each in flush.later:
            kept = Chunk(chunk.kept.scatter, each.position, alone=True, page=page, size=1)
            kept = kept._replace(attempts=each.attempts, lost=each.lost, error=each.error)
            found.chunks[each.position, True] = StoredChunk(kept, state="ready", due=each.due)
            self._waits.wait(found.chunks[each.position, True], each.gates)
        if flush.block is not None:
            found.commit(flush.block, page)
        found.split(flush, page)
        for each in flush.failures:
            found.fail(each, page, now, worker)
        return True

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
        with self._lock:
            found = self._scatters.get(scatter)
            if found is None or worker not in self._leases or found.record.state != "running":
                return ()
            now = self._now()
            free = sorted(
                key
                for key, each in found.chunks.items()
                if each.is_due(now)
                and (self._is_free(each) or (known is not None and each.worker == worker and key not in known))
            )
            new = [key for key in free if found.chunks[key].due is None][:fresh]
            due = [key for key in free if found.chunks[key].due is not None]
            return tuple(self._take(found.chunks[key], worker) for key in sorted((*new, *due)[:limit]))

    def _is_free(self, chunk: StoredChunk) -> bool:
        return chunk.state in OPEN and chunk.worker not in self._leases

    def _take(self, chunk: StoredChunk, worker: str) -> Chunk:
        died = chunk.worker not in (None, worker) and (chunk.flushes > 0 or not chunk.kept.lost)
        chunk.kept = chunk.kept._replace(fence=chunk.kept.fence + 1, lost=chunk.kept.lost + died)
        chunk.state, chunk.worker, chunk.flushes = "running", worker, 0
        return chunk.kept

    @override
    async def release(self, scatter: str, worker: str) -> None:
        with self._lock:
            if scatter in self._scatters:
                self._scatters[scatter].release(worker)

    @override
    async def close(self, scatter: str, fence: int) -> bool:
        with self._lock:
            found = self._scatters.get(scatter)
            if found is None or found.fence != fence:
                return False
            record = found.record
            if record.state == "running" and record.sealed and not any(c.state in OPEN for c in found.chunks.values()):
                found.record = record._replace(state="closed")
            return found.record.state == "closed"

    @override
    async def left(self, scatter: str, *, besides: str | None = None) -> Left:
        with self._lock:
            found = self._read(scatter)
            chunks = () if found is None else found.chunks.values()
            counts = [chunk for chunk in chunks if chunk.state in OPEN]
            dues = {each.due for each in counts if besides is None or each.state != "running" or each.worker != besides}
            return "work" if dues - {NEVER} else "waits" if dues else "nothing"

    @override
    async def end(self, scatter: str, fence: int, state: Literal["failed", "cancelled"]) -> bool:
        with self._lock:
            found = self._scatters.get(scatter)
            if found is None or found.fence != fence:
                return False
            if found.record.state == "running":
                found.cancel(state)
            return found.record.state == state

    def redriven(self, asked: Redrive, run_id: str, active: Callable[[str], bool]) -> StoredScatter | None:
        """Return the scatter that a run begins with, not kept yet; see `redriving.redriven`."""
        return redriven(asked, run_id, self._scatters, active, self._now())

    def keep(self, scatter: StoredScatter) -> None:
        """Keep a scatter that a run begins with."""
        record = scatter.record
        self._scatters[record.id] = scatter
        self._of.setdefault(record.run_id, {})[record.key] = record.id

    def forget_run(self, run_id: str) -> None:
        """Delete the scatters of a run that became no value: those of values go with them."""
        for scatter in tuple(self._of.get(run_id, {}).values()):
            if self._scatters[scatter].record.state != "closed":
                self._forget(scatter)

    def end_of_run(self, run_id: str) -> None:
        """End the scatters of a run that is ended from outside."""
        for scatter in self._of.get(run_id, {}).values():
            if self._scatters[scatter].record.state == "running":
                self._scatters[scatter].cancel("cancelled")

    @override
    async def scatter(self, scatter: str) -> ScatterRecord | None:
        with self._lock:
            found = self._read(scatter)
            return None if found is None else found.shown

    @override
    async def of_run(self, run_id: str) -> tuple[ScatterRecord, ...]:
        with self._lock:
            return tuple(self._scatters[scatter].shown for scatter in self._of.get(run_id, {}).values())

    @override
    async def dues(self, scatter: str, *, limit: int) -> tuple[datetime, ...]:
        with self._lock:
            found = self._read(scatter)
            return () if found is None else found.dues(self._now(), limit)

    @override
    async def totals(self, scatter: str) -> ScatterTotals | None:
        with self._lock:
            found = self._read(scatter)
            return None if found is None else found.totals()

    @override
    async def pages(self, scatter: str, numbers: Collection[int]) -> tuple[Page, ...]:
        with self._lock:
            found = self._read(scatter)
            known = {} if found is None else found.pages
            return tuple(known[no] for no in sorted(numbers) if no in known)

    @override
    async def blocks(self, scatter: str, page: int, *, most: int = MOST_AT_ONCE) -> tuple[Committed, ...]:
        with self._lock:
            found = self._read(scatter)
            return () if found is None else found.of_page(page, most)

    @override
    async def committed(
        self, scatter: str, *, after: int = -1, limit: int = 50, most: int = MOST_AT_ONCE
    ) -> tuple[Committed, ...]:
        with self._lock:
            found = self._read(scatter)
            return () if found is None else found.committed_after(after, limit, most)

    @override
    async def page_at(self, scatter: str, position: int) -> int | None:
        with self._lock:
            found = self._read(scatter)
            pages = () if found is None else found.pages.values()
            read, _ = split_from(position)
            return next((page.no for page in pages if page.first <= read < page.first + page.size), None)

    @override
    async def failures(self, scatter: str, *, after: int = -1, limit: int = 1000) -> tuple[StoredFailure, ...]:
        with self._lock:
            found = self._read(scatter)
            known = {} if found is None else found.failures
            return tuple(islice((known[each] for each in sorted(known) if each > after), limit))

    @override
    async def splits(self, scatter: str, *, after: int = -1, limit: int = 1000) -> tuple[Chunk, ...]:
        with self._lock:
            found = self._read(scatter)
            known = [] if found is None else [c for c in found.chunks.values() if c.is_split_off and not c.has_rejoined]
            return tuple(sorted(c.kept for c in known if c.kept.first > after)[:limit])

    @override
    async def errors(self, scatter: str, *, limit: int = 10) -> tuple[tuple[int, Failure], ...]:
        groups: dict[str, list[Failure]] = {}
        for each in await self.failures(scatter, limit=sys.maxsize):
            groups.setdefault(kind_of(each.error), []).append(each.error)
        ordered = sorted(groups.items(), key=lambda group: (-len(group[1]), group[0]))
        return tuple((len(errors), errors[0]) for _, errors in ordered[:limit])

    @override
    async def find(self, scatter: str, hash: str) -> int | None:
        with self._lock:
            found = self._read(scatter)
            return None if found is None else found.keys.get(hash)

    @override
    def pin(self, scatter: str) -> object | None:
        return self._read(scatter)

    @override
    async def delete(self, scatters: Collection[str]) -> None:
        with self._lock:
            for scatter in scatters:
                self._forget(scatter)

    def _forget(self, scatter: str) -> None:
        gone = self._scatters.pop(scatter, None)
        if gone is not None:
            self._let_go[scatter] = gone
            of = self._of[gone.record.run_id]
            del of[gone.record.key]
            if not of:
                del self._of[gone.record.run_id]
