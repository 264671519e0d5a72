"""The results of a scatter as the items of another one: each as soon as it is committed, and every one once."""

from __future__ import annotations

import base64
import json
import logging
import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping, Sequence
from contextlib import aclosing
from typing import Any, NamedTuple, cast

from typing_extensions import override

from flowstone_async._engine.scatter.gathered import Labels
from flowstone_async._engine.scatter.results import Results
from flowstone_async.clock import Clock
from flowstone_async.errors import StorageError, StoreUnavailable
from flowstone_async.sources.source import Page, Source
from flowstone_async.store.scatters import Block, ScatterRecord, Scatters

_PACE = 0.01
_BLOCKS, _MOST_BLOCKS = 16, 1000
_FAILURES = 1000
_logger = logging.getLogger("flowstone")


class Arrived(NamedTuple):
    """A result of the upstream scatter.

    Attributes:
        key: Of the item that it was made of.
    """

    key: Any
    value: Any


class Seen:
    """Positions, a bit for each: an eighth of a byte for an item, and next to nothing when it is stored.

    Args:
        base: All positions before it are in; a multiple of 8.
        bits: Those from there on.
    """

    def __init__(self, base: int = 0, bits: bytes = b"") -> None:
        self._base, self._bits = base, bytearray(bits)

    def __contains__(self, position: int) -> bool:
        byte, bit = divmod(position - self._base, 8)
        return byte < 0 or (byte < len(self._bits) and bool(self._bits[byte] >> bit & 1))

    def add(self, position: int) -> None:
        """Let a position be in."""
        byte, bit = divmod(position - self._base, 8)
        if byte >= len(self._bits):
            self._bits.extend(bytes(byte + 1 - len(self._bits)))
        if byte >= 0:
            self._bits[byte] |= 1 << bit

    def update(self, positions: Iterable[int]) -> None:
        """Let positions be in."""
        for position in positions:
            self.add(position)

    def first_missing(self) -> int:
        """Return the first position that is not in."""
        self._trim()
        first = self._bits[0] if self._bits else 0
        return self._base + next(bit for bit in range(8) if not first >> bit & 1)

    def _trim(self) -> None:
        full = len(self._bits) - len(self._bits.lstrip(b"\xff"))
        if full:
            del self._bits[:full]
            self._base += 8 * full

    def stored(self) -> dict[str, object]:
        """Return them as JSON-compatible values."""
        self._trim()
        return {"base": self._base, "seen": base64.b64encode(zlib.compress(bytes(self._bits), 1)).decode()}

    @classmethod
    def restored(cls, facts: Mapping[str, Any]) -> Seen:
        """Return what `stored` described."""
        return cls(facts["base"], zlib.decompress(base64.b64decode(facts["seen"])))


class UpstreamResults(Source[Arrived]):
    """Follows the results of a scatter while it goes on, and ends when it is closed and all were given.

    Results are numbered before they are committed, so that a smaller number may appear after a larger one. What was
    given is remembered by its position. When nothing new is there, what was committed since the last such moment is
    looked through again; and once the scatter is closed, whatever is missing is read page by page. What is missing then
    has failed, and is counted as skipped.

    Args:
        store: Where it is.
        scatter: Which one.
        results: Decodes its results.
        labels: Knows its keys.
        clock: Measures the pace.
        poll: The longest time between two looks.
        label: What it is called in messages.
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
        label: str,
    ) -> None:
        self._store, self._scatter, self._results, self._labels = store, scatter, results, labels
        self._clock, self._poll, self._label = clock, poll, label

    @property
    @override
    def label(self) -> str:
        return self._label

    @override
    async def read(self, cursor: Any) -> AsyncIterator[Page[Arrived]]:
        async for page in self.read_sized(cursor, 1000):
            yield page

    @override
    async def read_sized(self, cursor: Any, page_size: int) -> AsyncIterator[Page[Arrived]]:
        while True:
            try:
                async with aclosing(self._pages(cursor, page_size)) as pages:
                    async for page in pages:
                        cursor = page.cursor
                        yield page
            except StoreUnavailable as error:
                _logger.info("%s: looked at again: %s", self._label, error.message)
                await self._clock.sleep(self._poll)
            else:
                return

    async def _pages(self, cursor: Any, page_size: int) -> AsyncGenerator[Page[Arrived]]:
        reading = _Reading(self._store, self._scatter, self._results, self._labels, page_size, _known(cursor))
        pace, record = _PACE, await self._record()
        while True:
            if found := await reading.committed():
                async with aclosing(reading.given(found)) as pages:
                    async for page in pages:
                        yield page
                continue
            record = await self._record()
            if record.state == "closed":
                break
            pace = _PACE if reading.look_again() else min(2 * pace, self._poll)
            await self._clock.sleep(pace)
        async with aclosing(reading.rest(record)) as pages:
            async for page in pages:
                yield page

    async def _record(self) -> ScatterRecord:
        record = await self._store.scatter(self._scatter)
        if record is None:
            raise StorageError(f"{self._label} are gone from the store", retryable=False)
        return record


class _Reading:
    """One reading of one scatter's results."""

    def __init__(
        self,
        store: Scatters,
        scatter: str,
        results: Results,
        labels: Labels,
        page_size: int,
        facts: Mapping[str, Any],
    ) -> None:
        self._store, self._results, self._labels, self._size = store, results, labels, page_size
        self._scatter = scatter
        if facts.get("follows") != scatter:
            facts = {}
        self._seen = Seen.restored(facts) if facts else Seen()
        self._skipped: int = facts.get("skipped", 0)
        self._at: int = facts.get("after", -1)
        self._low = self._high = self._at
        self._limit, self._new = _BLOCKS, False

    async def committed(self) -> Sequence[tuple[int, int, Block]] | None:
        """Return the next results in the order of their commits; None if there are none now."""
        found = await self._store.committed(self._scatter, after=self._at, limit=self._limit)
        if not found:
            return None
        items = sum(len(block.positions) for _, _, block in found)
        self._limit = max(1, min(_MOST_BLOCKS, 2 * self._size * len(found) // max(1, items)))
        self._at = found[-1][0]
        self._high = max(self._high, self._at)
        return found

    def look_again(self) -> bool:
        """Begin again where all was read when this was called last; tell whether anything new was found since."""
        new, self._new = self._new, False
        self._at, self._low = self._low, self._high
        return new

    async def given(self, found: Sequence[tuple[int, int, Block]]) -> AsyncGenerator[Page[Arrived]]:
        """Yield what is new of some results."""
        arrived: list[Arrived] = []
        for _, number, block in found:
            fresh = [(place, position) for place, position in enumerate(block.positions) if position not in self._seen]
            if not fresh:
                continue
            self._new = True
            await self._load(number)
            values = self._results.unpack(block)
            for place, position in fresh:
                self._seen.add(position)
                arrived.append(Arrived(self._labels.key(number, position), values[place]))
                if len(arrived) == self._size:
                    yield Page(arrived, self._cursor())
                    arrived = []
        if arrived:
            yield Page(arrived, self._cursor())

    async def _load(self, number: int) -> None:
        await self._labels.load(number)
        page = self._labels.page(number)
        self._seen.update(page.first + place for place in page.duplicates)

    async def rest(self, record: ScatterRecord) -> AsyncGenerator[Page[Arrived]]:
        """Yield what is missing of a scatter that is closed, and the end."""
        last = -1
        while failures := await self._store.failures(self._scatter, after=last, limit=_FAILURES):
            for each in failures:
                self._skip(each.position)
            last = failures[-1].position
        while (position := self._seen.first_missing()) < record.read:
            number = await self._store.page_at(self._scatter, position)
            if number is None:
                raise StorageError("the items of a scatter are gone from the store", retryable=False)
            await self._load(number)
            blocks = await self._store.blocks(self._scatter, number)
            async with aclosing(self.given([(0, number, block) for block in blocks])) as pages:
                async for page in pages:
                    yield page
            if self._seen.first_missing() == position:
                raise StorageError(f"item {position} of a scatter has no result in the store", retryable=False)
        self._skipped += skipped_of(record)
        yield Page((), self._cursor(), last=True)

    def _skip(self, position: int) -> None:
        if position not in self._seen:
            self._seen.add(position)
            self._skipped += 1

    def _cursor(self) -> dict[str, object]:
        return {"follows": self._scatter, "after": self._low, "skipped": self._skipped, **self._seen.stored()}


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
    return facts if sorted(facts) == ["after", "base", "follows", "seen", "skipped"] else {}


def _facts(value: object) -> Mapping[str, Any]:
    return cast("Mapping[str, Any]", value) if isinstance(value, Mapping) else {}
