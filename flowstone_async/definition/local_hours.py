"""The hours of a local clock, as instants, counted over centuries without listing them.

An hour begins where the local clock shows minute 0, and also where the offset changes within an hour: so an hour that
is repeated is two, one that is skipped is none, and a change by half an hour leaves two short ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import MAXYEAR, UTC, datetime, timedelta, tzinfo
from functools import lru_cache
from typing import NamedTuple

from flowstone_async.definition.local_time import EPOCH, change_between, offset_at, offset_changes

HOUR = timedelta(hours=1)
_INSTANT = timedelta(microseconds=1)


def hour_at(zone: tzinfo, instant: datetime) -> datetime:
    """Return the start of the local hour that holds an instant."""
    offset = offset_at(zone, instant)
    start = instant - (instant + offset - EPOCH) % HOUR
    return start if offset_at(zone, start) == offset else change_between(zone, start, instant)


def hour_after(zone: tzinfo, start: datetime) -> datetime:
    """Return the start of the local hour behind the one that starts at `start`."""
    offset = offset_at(zone, start)
    end = start + HOUR - (start + offset - EPOCH) % HOUR
    return end if offset_at(zone, end - _INSTANT) == offset else change_between(zone, start, end)


def hours_between(zone: tzinfo, first: datetime, last: datetime) -> int:
    """Return how many local hours start at `first`, which is a start, or later, and before `last`."""
    if zone is UTC:
        return -((first - last) // HOUR)
    if first.year == last.year:
        return _starts(zone, first, last)
    years = sum(_starts_in_year(zone, year) for year in range(first.year + 1, last.year))
    return _starts(zone, first, _new_year(first.year + 1)) + years + _starts(zone, _new_year(last.year), last)


def hour_behind(zone: tzinfo, first: datetime, count: int) -> datetime:
    """Return the start of the local hour that is `count` behind the one that starts at `first`.

    Raises:
        OverflowError: It lies behind the year 9999.
    """
    if zone is UTC:
        return first + count * HOUR
    begin, end = first, _new_year(first.year + 1)
    size = _starts(zone, begin, end)
    while count >= size:
        count -= size
        begin = end
        size = _starts_in_year(zone, begin.year)
        end = _new_year(begin.year + 1)
    for stretch in _stretches(zone, begin, end):
        if count < stretch.hours:
            return stretch.start(count)
        count -= stretch.hours
    raise AssertionError("a year has as many hours as its stretches")


class _Stretch(NamedTuple):
    """Time of one offset. It begins with a short hour where the change before it was within one."""

    begin: datetime
    short: bool
    first_full: datetime
    hours: int

    def start(self, index: int) -> datetime:
        if self.short:
            return self.begin if index == 0 else self.first_full + (index - 1) * HOUR
        return self.first_full + index * HOUR


def _stretches(zone: tzinfo, begin: datetime, end: datetime) -> Iterator[_Stretch]:
    """Cut the time from `begin` to `end`, which are in one year of UTC, where the offset changes."""
    changes = [change for change in offset_changes(zone, begin.year) if begin <= change.at < end]
    offset = changes[0].before if changes else offset_at(zone, begin)
    starts = [(begin, offset, False), *((change.at, change.after, True) for change in changes)]
    for place, (at, offset, changed) in enumerate(starts):
        stop = starts[place + 1][0] if place + 1 < len(starts) else end
        first_full = at + -(at + offset - EPOCH) % HOUR
        short = changed and first_full > at
        full = max(0, -((first_full - stop) // HOUR))
        yield _Stretch(at, short, first_full, full + short)


def _starts(zone: tzinfo, begin: datetime, end: datetime) -> int:
    return sum(stretch.hours for stretch in _stretches(zone, begin, end)) if begin < end else 0


@lru_cache(maxsize=16_384)
def _starts_in_year(zone: tzinfo, year: int) -> int:
    return _starts(zone, _new_year(year), _new_year(year + 1))


def _new_year(year: int) -> datetime:
    if year > MAXYEAR:
        raise OverflowError("there is no year 10000")
    return datetime(year, 1, 1, tzinfo=UTC)
