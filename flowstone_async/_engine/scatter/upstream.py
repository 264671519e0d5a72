"""The results of a scatter as the items of another one: each as soon as it is committed, and every one once."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any, NamedTuple, cast

from typing_extensions import override

from flowstone_async._engine.scatter.contents import contents
from flowstone_async._engine.scatter.facts import refuse_otherwise_stored
from flowstone_async._engine.scatter.gathered import Labels
from flowstone_async._engine.scatter.results import Results
from flowstone_async._engine.scatter.seen import Given
from flowstone_async.clock import Clock
from flowstone_async.errors import SourceError, StorageError, StoreUnavailable
from flowstone_async.sources.source import Page, Source
from flowstone_async.store.batches import SPLIT
from flowstone_async.store.blocks import Committed, weight
from flowstone_async.store.scatters import Page as StoredPage
from flowstone_async.store.scatters import ScatterRecord, Scatters

_PACE = 0.01
_BLOCKS, _MOST_BLOCKS = 16, 1000
_FAILURES = 1000
_MOST_BYTES = 64 << 20
"""Bytes of results, with their keys, from which on no more are given together, or read."""
_logger = logging.getLogger("flowstone")


class Arrived(NamedTuple):
    """A result of the upstream scatter.

    Attributes:
        key: Of the item, or of the batch, that it was made of.
    """

    key: Any
    value: Any


class UpstreamResults(Source[Arrived]):
    """Follows the results of a scatter while it goes on, and ends when it is closed and all were given.

    Results are numbered before they are committed, so that a smaller number may appear after a larger one. What was
    given is remembered (`seen.py`). When nothing new is there, what was committed since the last such moment is looked
    through again; and once the scatter is closed, whatever is missing is read page by page. What is missing then has
    failed, and is counted as skipped.

    Args:
        store: Where it is.
        scatter: Which one.
        results: Decodes its results.
        labels: Knows its keys.
        clock: Measures the pace.
        poll: The longest time between two looks.
        upstream: What the scatter is called, for people.
        batches: Whether its results are those of batches.

    Attributes:
        drained: Called when there is nothing new.
    """

    read_timeout = False

    def __init__(
        self,
        store: Scatters,
        scatter: str,
        *,
        results: Results,
        labels: Labels,
        clock: Clock,
        poll: float,
        upstream: str,
        batches: bool = False,
    ) -> None:
        self._store, self._scatter, self._results, self._labels = store, scatter, results, labels
        self._clock, self._poll, self._upstream, self._batches = clock, poll, upstream, batches
        self._held = store.pin(scatter)
        self.drained: Callable[[], None] = _nothing
        self._hint = asyncio.Event()
        self._dry = self._afresh = False
        self._given = self._taken = 0
        self._count: int | None = None
        self._known_as: int | None = None

    @property
    @override
    def label(self) -> str:
        return f"the results of {self._upstream}"

    @override
    async def read(self, cursor: Any) -> AsyncIterator[Page[Arrived]]:
        async for page in self.read_sized(cursor, 1000):
            yield page

    @property
    def is_drained(self) -> bool:
        """Whether there was nothing new when it was looked at last, and all that was given was taken."""
        return self._dry and self._given == self._taken

    def took(self, count: int) -> None:
        """Hear that so many results were taken."""
        self._taken += count

    def look(self) -> None:
        """Look soon for what is new."""
        self._dry = False
        self._hint.set()

    async def caught_up(self) -> bool:
        """Tell whether all that is on record was given; if not, look for it from the beginning."""
        totals = await self._store.totals(self._scatter)
        succeeded = None if totals is None else totals.succeeded
        if self._count in (None, succeeded) or self._known_as == succeeded:
            return self.is_drained
        self._known_as, self._afresh = succeeded, True
        self.look()
        return False

    @override
    async def read_sized(self, cursor: Any, page_size: int) -> AsyncIterator[Page[Arrived]]:
        self._given = self._taken
        while True:
            try:
                async with aclosing(self._pages(cursor, page_size)) as pages:
                    async for page in pages:
                        cursor = page.cursor
                        self._given += len(page.items)
                        yield page
            except StoreUnavailable as error:
                _logger.info("%s: looked at again: %s", self.label, error.message)
                await self._clock.sleep(self._poll)
            except StorageError as error:
                if await self._store.scatter(self._scatter) is None:
                    raise self._gone() from error
                raise
            else:
                return

    async def _pages(self, cursor: Any, page_size: int) -> AsyncGenerator[Page[Arrived]]:
        reading = _Reading(
            self._store, self._scatter, self._results, self._labels, page_size, _known(cursor), batches=self._batches
        )
        pace, record = _PACE, await self._record()
        refuse_otherwise_stored(record, self._upstream, batches=self._batches)
        while True:
            if self._afresh:
                self._afresh = False
                reading.begin_again()
            if found := await reading.committed():
                async with aclosing(reading.given(found)) as pages:
                    async for page in pages:
                        self._dry = False
                        yield page
                continue
            if record.state == "closed":
                break
            record = await self._record()
            new = reading.look_again()
            pace = _PACE if new else min(2 * pace, self._poll)
            if record.state != "closed":
                self._count = reading.count
                await self._pause(pace, dry=not new)
        async with aclosing(reading.rest(record)) as pages:
            async for page in pages:
                yield page

    async def _pause(self, pace: float, *, dry: bool) -> None:
        """Wait for a while, or until somebody says that there may be more."""
        timer = self._clock.call_later(pace, self._hint.set)
        try:
            if dry and not self._dry and not self._hint.is_set():
                self._dry = True
                self.drained()
            await self._hint.wait()
        finally:
            timer.cancel()
            self._hint.clear()

    async def _record(self) -> ScatterRecord:
        record = await self._store.scatter(self._scatter)
        if record is None:
            raise self._gone()
        return record

    def _gone(self) -> SourceError:
        return SourceError(
            f"{self.label} are gone from the store: invalidated, or replaced and pruned, while they were read",
            hint="Retry the run: what follows begins anew, with what is current then.",
            retryable=False,
        )


class _Reading:
    """One reading of one scatter's results.

    Attributes:
        count: How many were given; None if an older version has begun, which did not count.
    """

    def __init__(
        self,
        store: Scatters,
        scatter: str,
        results: Results,
        labels: Labels,
        page_size: int,
        facts: Mapping[str, Any],
        *,
        batches: bool,
    ) -> None:
        self._store, self._results, self._labels, self._size = store, results, labels, page_size
        self._scatter = scatter
        if facts.get("follows") != scatter:
            facts = {}
        self._given = Given(facts or None, batches=batches)
        self._skipped: int = facts.get("skipped", 0)
        self.count: int | None = facts.get("count") if facts else 0
        self._at: int = facts.get("after", -1)
        self._low = self._high = self._at
        self._limit, self._new = _BLOCKS, False

    async def committed(self) -> Sequence[Committed] | None:
        """Return the next results in the order of their commits; None if there are none now."""
        found = await self._store.committed(self._scatter, after=self._at, limit=self._limit, most=_MOST_BYTES)
        if not found:
            return None
        items = sum(len(each.block.positions) for each in found)
        self._limit = max(1, min(_MOST_BLOCKS, 2 * self._size * len(found) // items))
        self._at = found[-1].no
        self._high = max(self._high, self._at)
        return found

    def begin_again(self) -> None:
        """Look through all results once more."""
        self._at = self._low = -1

    def look_again(self) -> bool:
        """Begin again where all was read when this was called last; tell whether anything new was found since."""
        new, self._new = self._new, False
        self._at, self._low = self._low, self._high
        return new

    async def given(self, found: Sequence[Committed]) -> AsyncGenerator[Page[Arrived]]:
        """Yield what is new of some results."""
        arrived: list[Arrived] = []
        size = 0.0
        for each in found:
            known, own, number, block = self._given, each.block.number, each.page, each.block
            fresh = [
                (place, position)
                for place, position in enumerate(block.positions)
                if (position < SPLIT or own is not None) and not known.has(position, own)
            ]
            if not fresh:
                continue
            self._new = True
            page = await self._load(number)
            block = await contents(self._store, self._scatter, each)
            values = self._results.unpack(block)
            # A key may be as large as the item that it is of.
            one = weight(block) / len(block.positions) + len(page.items if page.keys is None else page.keys) / page.size
            for place, position in fresh:
                known.add(position, own)
                self.count = None if self.count is None else self.count + 1
                arrived.append(Arrived(self._labels.key(number, position), values[place]))
                size += one
                if len(arrived) == self._size or size >= _MOST_BYTES:
                    yield Page(arrived, self._cursor())
                    arrived, size = [], 0.0
        if arrived:
            yield Page(arrived, self._cursor())

    async def _load(self, number: int) -> StoredPage:
        await self._labels.load(number)
        page = self._labels.page(number)
        self._given.add_page(page)
        return page

    async def rest(self, record: ScatterRecord) -> AsyncGenerator[Page[Arrived]]:
        """Yield what is missing of a scatter that is closed, and the end."""
        await self._skip_failed()
        while (position := self._given.first_missing()) < record.read:
            number = await self._store.page_at(self._scatter, position)
            if number is None:
                raise StorageError("the items of a scatter are gone from the store", retryable=False)
            await self._load(number)
            blocks = await self._store.blocks(self._scatter, number, most=_MOST_BYTES)
            async with aclosing(self.given(blocks)) as pages:
                async for page in pages:
                    yield page
            if self._given.first_missing() == position:
                raise StorageError(f"item {position} of a scatter has no result in the store", retryable=False)
        if not self._given.has_all_that_left(record):
            self._at = -1
            while found := await self.committed():
                async with aclosing(self.given(found)) as pages:
                    async for page in pages:
                        yield page
            if not self._given.has_all_that_left(record):
                raise StorageError("a batch that left another one has no result in the store", retryable=False)
        self._skipped += skipped_of(record)
        yield Page((), self._cursor(), last=True)

    async def _skip_failed(self) -> None:
        """Count what failed as skipped."""
        last = -1
        while failures := await self._store.failures(self._scatter, after=last, limit=_FAILURES):
            for each in failures:
                if not self._given.has(each.position, each.number):
                    self._given.add(each.position, each.number)
                    self._skipped += 1
            last = failures[-1].position

    def _cursor(self) -> dict[str, object]:
        counted = {} if self.count is None else {"count": self.count}
        place = {"follows": self._scatter, "after": self._low, "skipped": self._skipped}
        return {**place, **counted, **self._given.stored()}


def skipped_of(record: ScatterRecord) -> int:
    """Return how many items of a scatter were skipped, for the scatter that it follows has no result for them."""
    if record.cursor is None:
        return 0
    place: object = json.loads(record.cursor)
    return int(_known(_facts(place).get("cursor")).get("skipped", 0))


def followed_by(record: ScatterRecord) -> str | None:
    """Return the scatter whose results a scatter has read; None if it has read none."""
    follows = None if record.cursor is None else _known(_facts(json.loads(record.cursor)).get("cursor")).get("follows")
    return None if follows is None else str(follows)


def _known(cursor: object) -> Mapping[str, Any]:
    """Return a place in the results of a scatter; empty at their start, and for any other cursor."""
    facts = _facts(cursor)
    return facts if facts.keys() - {"left", "count"} == {"after", "base", "follows", "seen", "skipped"} else {}


def _nothing() -> None:
    pass


def _facts(value: object) -> Mapping[str, Any]:
    return cast("Mapping[str, Any]", value) if isinstance(value, Mapping) else {}
