"""The log of events across runs: a cursor for each, in order of commit."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator

from flowstone_async.store.memory.run import Run
from flowstone_async.store.records import EventRecord, StoredEvent

SMALL = 1024


class Log:
    """Events in order of commit, one entry for each step: the cursor of its last event, its run, its events.

    Entries of forgotten runs leave at the old end at once and elsewhere when the log has doubled, so that forgetting
    a run costs the same however long the log is.
    """

    __slots__ = ("_entries", "_last", "_limit")

    def __init__(self) -> None:
        self._entries: deque[tuple[int, Run, tuple[EventRecord, ...]]] = deque()
        self._last = 0
        self._limit = SMALL

    def append(self, run: Run, events: tuple[EventRecord, ...]) -> None:
        """Keep the events of one step."""
        self._last += len(events)
        self._entries.append((self._last, run, events))

    def trim(self) -> None:
        """Drop what belongs to forgotten runs."""
        entries = self._entries
        while entries and entries[0][1].forgotten:
            entries.popleft()
        if len(entries) > self._limit:
            self._entries = deque(entry for entry in entries if not entry[1].forgotten)
            self._limit = max(SMALL, 2 * len(self._entries))

    def behind(self, cursor: int, pipelines: Collection[str]) -> Iterator[StoredEvent]:
        """Yield events of the pipelines with cursors above `cursor`."""
        for index in range(self._start(cursor), len(self._entries)):
            last, run, events = self._entries[index]
            if run.forgotten or run.created.pipeline not in pipelines:
                continue
            for number, event in enumerate(events, last - len(events) + 1):
                if number > cursor:
                    yield StoredEvent(number, run.id, run.created.pipeline, event)

    def _start(self, cursor: int) -> int:
        low, high = 0, len(self._entries)
        while low < high:
            middle = (low + high) // 2
            if self._entries[middle][0] > cursor:
                high = middle
            else:
                low = middle + 1
        return low
