"""Putting items together in batches: decided by the items and their instants alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, NamedTuple


class Entry(NamedTuple):
    """An item that is put in a batch.

    Attributes:
        key: What identifies it; None where it does so itself.
        hash: That of its key; None where positions are items.
        size: What it counts for `max_bytes`.
        group: Which batches it may be in.
    """

    item: Any
    key: Any
    hash: str | None
    size: float = 0
    group: str = ""


class Limits(NamedTuple):
    """When a batch is closed; None for no limit."""

    max_items: int
    max_bytes: int | None = None
    max_wait: timedelta | None = None
    groups: int = 1000


@dataclass(slots=True)
class OpenBatch:
    """A batch that further items may join.

    Attributes:
        since: When its first item came.
    """

    group: str
    since: datetime
    entries: list[Entry] = field(default_factory=list[Entry])
    size: float = 0


class Composer:
    """Puts items together.

    Args:
        limits: When a batch is closed.
        opened: Batches to go on with, the oldest first.

    Attributes:
        hashes: Of the items in open batches.
    """

    def __init__(self, limits: Limits, opened: Iterable[OpenBatch] = ()) -> None:
        self._limits = limits
        self._open = {batch.group: batch for batch in opened}
        self.hashes = {entry.hash for batch in self._open.values() for entry in batch.entries}

    @property
    def opened(self) -> Sequence[OpenBatch]:
        """The open batches, the oldest first."""
        return tuple(self._open.values())

    @property
    def count(self) -> int:
        """How many items are in open batches."""
        return sum(len(batch.entries) for batch in self._open.values())

    @property
    def due(self) -> datetime | None:
        """When the first of the open batches has waited long enough; None if none waits for that."""
        oldest = next(iter(self._open.values()), None)
        wait = self._limits.max_wait
        return None if oldest is None or wait is None else oldest.since + wait

    def add(self, entry: Entry, now: datetime) -> Iterator[Sequence[Entry]]:
        """Add an item; yields the batches that are closed by that, in order."""
        limits = self._limits
        batch = self._open.get(entry.group)
        if batch is not None and limits.max_bytes is not None and batch.size + entry.size > limits.max_bytes:
            yield self._close(batch)
            batch = None
        if batch is None:
            batch = self._open[entry.group] = OpenBatch(entry.group, now)
        batch.entries.append(entry)
        batch.size += entry.size
        self.hashes.add(entry.hash)
        full = limits.max_bytes is not None and batch.size >= limits.max_bytes
        if full or len(batch.entries) >= limits.max_items:
            yield self._close(batch)
        elif len(self._open) > limits.groups:
            yield self._close(next(iter(self._open.values())))

    def expire(self, now: datetime) -> Iterator[Sequence[Entry]]:
        """Close what has waited long enough."""
        while (due := self.due) is not None and due <= now:
            yield self._close(next(iter(self._open.values())))

    def end(self) -> Iterator[Sequence[Entry]]:
        """Close everything: no further item comes."""
        for batch in self.opened:
            yield self._close(batch)

    def _close(self, batch: OpenBatch) -> Sequence[Entry]:
        del self._open[batch.group]
        self.hashes.difference_update(entry.hash for entry in batch.entries)
        return batch.entries
