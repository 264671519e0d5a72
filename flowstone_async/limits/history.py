"""When permits were granted, and when the next may be: the judge of every rate, in a process and on Postgres alike.

A grant counts until it is `per` old. So no window of length `per`, wherever it starts, sees more than `n` of them,
which a bucket that refills does not give. docs/adr/0009-limits.md has the argument, `take_permits` the same in SQL.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from flowstone_async.limits.rate import Pace

EXACT = 128
"""Entries up to which each grant has one of its own."""
SHARE = 1 / 128
"""Of `per`: beyond, grants that are no further apart share an entry. So long a permit from elsewhere is good, too."""
_COMPACT = 1024
# A token that is a billionth short is there: what came of adding and dividing floats.
_NEARLY = 1e-9


class Entry:
    """Permits that count together.

    Attributes:
        first: When the first of them was granted; none was used before.
        last: Until when the last of them may have been used.
        count: How many.
    """

    __slots__ = ("count", "first", "last")

    def __init__(self, first: float, last: float, count: int) -> None:
        self.first, self.last, self.count = first, last, count


class History:
    """The grants of one key, as long as they matter. Instants are seconds on one clock.

    Args:
        entries: Those that are known, oldest first.
    """

    __slots__ = ("_compact", "_entries", "_horizon", "_pace", "_tat", "_total")

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        self._entries = deque(entries)
        self._total = sum(entry.count for entry in self._entries)
        self._horizon = 0.0
        self._compact = _COMPACT
        self._pace: Pace | None = None
        self._tat = -math.inf

    def forgotten(self, now: float) -> bool:
        """Drop what is older than the longest `per` that was asked about; tell whether nothing is left."""
        entries, horizon = self._entries, self._horizon
        while entries and not _counts(entries[0], now, horizon):
            self._total -= entries.popleft().count
        return not entries

    def used(self, now: float, per: float) -> int:
        """Return how many permits count against a window of length `per` that ends now."""
        self._horizon = max(self._horizon, per)
        self.forgotten(now)
        if per == self._horizon:
            return self._total
        return sum(entry.count for entry in self._entries if _counts(entry, now, per))

    def room(self, now: float, pace: Pace) -> int:
        """Return how many permits may be granted now."""
        free = pace.n - self.used(now, pace.per)
        if pace.burst < pace.n:
            tokens = pace.burst + (now - self._theoretical(now, pace)) * pace.n / pace.per
            free = min(free, math.floor(min(pace.burst, tokens) + _NEARLY))
        return max(0, free)

    def add(self, now: float, count: int, pace: Pace, span: float = 0.0) -> None:
        """Remember permits that are granted now and used within `span` seconds."""
        if pace.burst < pace.n and not span:
            self._tat = max(self._theoretical(now, pace), now) + count * pace.per / pace.n
        else:
            self._pace = None  # worked out anew when it is asked for
        self._total += count
        newest = self._entries[-1] if self._entries else None
        if newest is not None and len(self._entries) >= EXACT and now - newest.first <= pace.per * SHARE:
            newest.last = max(newest.last, now + span)
            newest.count += count
            return
        self._entries.append(Entry(now, now + span, count))
        if len(self._entries) > self._compact:
            self._merge(now)

    def take_back(self, granted_at: float, count: int) -> None:
        """Forget permits of a grant that were not used."""
        for entry in reversed(self._entries):
            if entry.first <= granted_at <= entry.last:
                back = min(count, entry.count)
                entry.count -= back
                self._total -= back
                self._pace = None
                return

    def outlook(self, now: float, pace: Pace, blocked: float = 0.0) -> Outlook:
        """Return when permits come free.

        Args:
            now: The instant from which it counts.
            pace: At which permits are asked for.
            blocked: Seconds for which nothing is granted whatever is free.
        """
        used = self.used(now, pace.per)
        free: list[tuple[int, float]] = [(pace.n - used, 0.0)]
        for entry in self._entries:
            if free[-1][0] >= pace.n:
                break
            if _counts(entry, now, pace.per):
                free.append((free[-1][0] + entry.count, _until_free(entry, now, pace.per)))
        late = self._theoretical(now, pace) - now if pace.burst < pace.n else -math.inf
        return Outlook(pace, blocked, tuple(free), late)

    def _theoretical(self, now: float, pace: Pace) -> float:
        """Return the instant at which all of the burst is there again, by what was granted in the last `per`."""
        if pace != self._pace:
            self._pace, self._tat = pace, -math.inf
            each, since = pace.per / pace.n, 0
            for entry in reversed(self._entries):
                since += entry.count
                if _counts(entry, now, pace.per):
                    lag = math.floor((entry.last - entry.first) / each)
                    self._tat = max(self._tat, entry.first + (since + lag) * each)
        return self._tat

    def _merge(self, now: float) -> None:
        """Let old grants share entries, each by at most a share of its age: so their number stays bounded."""
        kept: deque[Entry] = deque()
        for entry in self._entries:
            if kept and entry.last - kept[-1].first <= (now - entry.last) * SHARE:
                kept[-1].last = max(kept[-1].last, entry.last)
                kept[-1].count += entry.count
            else:
                kept.append(entry)
        self._entries = kept
        self._compact = max(_COMPACT, 2 * len(kept))

    def __iter__(self) -> Iterator[Entry]:
        """Yield what is remembered, oldest first."""
        return iter(self._entries)


@dataclass(frozen=True, slots=True)
class Outlook:
    """When permits come free if nobody else asks.

    Attributes:
        pace: At which they are asked for.
        blocked: Seconds for which nothing is granted.
        free: How many are free, all in all, after so many seconds.
        late: Seconds until all of the burst is there again; below 0 if it is.
    """

    pace: Pace
    blocked: float
    free: tuple[tuple[int, float], ...]
    late: float

    def after(self, count: int) -> float:
        """Return the seconds after which `count` permits can have been granted, at the earliest."""
        n, per, burst = self.pace
        windows, left = divmod(count - 1, n)
        # Whoever is n places further back comes `per` later at least.
        wait = max(next((after for free, after in self.free if free > left), per), self.blocked) + windows * per
        tokens = self.late + (count - burst) * per / n
        return max(wait, tokens, 0.0)


def _counts(entry: Entry, now: float, per: float) -> bool:
    # Both ways, since adding and subtracting floats round differently, and whoever checks may do either.
    return entry.last + per > now or now - entry.last < per


def _until_free(entry: Entry, now: float, per: float) -> float:
    """Return seconds after which, added to `now`, an entry counts no more."""
    wait = entry.last + per - now
    while _counts(entry, now + wait, per):
        wait += math.ulp(now + wait)
    return max(wait, 0.0)
