"""The clocks of a time zone, as instants: when its offset changes, when a local day begins, what a local time means.

Everything counts in UTC, where no hour is missing or repeated; local times are only looked at.
"""

from __future__ import annotations

import zoneinfo
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

from flowstone_async.errors import ConfigError, PartitionError

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
SECOND = timedelta(seconds=1)

FIRST_YEAR = 2
LAST_YEAR = 9998
"""Windows lie in these years, so that both of their ends are instants in every zone."""

_CYCLE = 400
_CYCLE_DAYS = timedelta(days=146_097)
_RULES_ONLY_FROM = 2100
# No zone of the tz database keeps an offset for less than six days, so that no change hides between two probes.
_PROBE = 3 * DAY
# Dates were skipped from 1844 (Manila) to 2011 (Apia); rules for the future shift clocks by hours.
_DATE_LINE_YEARS = (1800, 2100)


class OffsetChange(NamedTuple):
    """A change of a zone's offset from UTC.

    Attributes:
        at: The first instant of the new offset, in UTC.
        before: Offset until then.
        after: Offset from then on.
    """

    at: datetime
    before: timedelta
    after: timedelta


def load_zone(name: str) -> tzinfo:
    """Return a zone of the tz database.

    Raises:
        ConfigError: There is none of that name.
    """
    if not isinstance(name, str):
        raise ConfigError(f"tz={name!r} is not the name of a time zone", hint="Give a name such as 'Europe/Paris'.")
    if name == "UTC":
        return UTC
    try:
        return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as error:
        import difflib

        known = zoneinfo.available_timezones()
        close = difflib.get_close_matches(name, known, n=3) if known else []
        hint = "Install tzdata, the time zone database." if not known else "Give a name such as 'Europe/Paris'."
        raise ConfigError(
            f"tz={name!r} is not a time zone",
            hint=f"Did you mean {' or '.join(map(repr, close))}?" if close else hint,
        ) from error


def check_year(point: date) -> None:
    """Refuse a point in time that windows cannot reach.

    Raises:
        PartitionError: It is not in the years from `FIRST_YEAR` to `LAST_YEAR`.
    """
    if not FIRST_YEAR <= point.year <= LAST_YEAR:
        raise PartitionError(f"{point.isoformat()} is not in the years from {FIRST_YEAR} to {LAST_YEAR}")


def offset_at(zone: tzinfo, instant: datetime) -> timedelta:
    """Return a zone's offset from UTC at an instant."""
    return instant.astimezone(zone).utcoffset() or timedelta(0)


def opening(zone: tzinfo, day: date) -> datetime:
    """Return the instant at which the local clock first shows that day or a later one, in UTC.

    That is midnight, or where the clock jumps over midnight, the instant of the jump; a day that is jumped over opens
    when the next one does.
    """
    midnight = datetime.combine(day, time())
    if zone is UTC:
        return midnight.replace(tzinfo=UTC)
    instant = midnight.replace(tzinfo=zone).astimezone(UTC)
    if instant.astimezone(zone).replace(tzinfo=None) == midnight:
        return instant
    before_jump = midnight.replace(tzinfo=zone, fold=1).astimezone(UTC)
    return change_between(zone, before_jump, instant)


def day_at(zone: tzinfo, instant: datetime) -> date:
    """Return the local day whose opening is the latest one not after an instant."""
    day = instant.astimezone(zone).date()
    while instant < opening(zone, day):
        day -= DAY
    while instant >= opening(zone, day + DAY):
        day += DAY
    return day


def instants_of(zone: tzinfo, local: datetime) -> tuple[datetime, ...]:
    """Return the instants at which the local clock shows a naive time: one, none if it is skipped, two if repeated."""
    readings = (local.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1))
    shown = [each for each in readings if each.astimezone(zone).replace(tzinfo=None, fold=0) == local]
    return tuple(sorted(set(shown)))


def change_between(zone: tzinfo, low: datetime, high: datetime) -> datetime:
    """Return when the offset stops being that of `low`, to the second; it has changed once at `high`."""
    before = offset_at(zone, low)
    while high - low > SECOND:
        middle = low + (high - low) // 2
        middle = max(middle - timedelta(microseconds=middle.microsecond), low + SECOND)
        low, high = (middle, high) if offset_at(zone, middle) == before else (low, middle)
    return high


@lru_cache(maxsize=16_384)
def offset_changes(zone: tzinfo, year: int) -> tuple[OffsetChange, ...]:
    """Return the changes of a zone's offset in a year of UTC, in order."""
    if zone is UTC:
        return ()
    if year >= _RULES_ONLY_FROM + _CYCLE:  # rules name months and weekdays, which come again after 400 years
        cycles = (year - _RULES_ONLY_FROM) // _CYCLE
        shift = cycles * _CYCLE_DAYS
        return tuple(OffsetChange(at + shift, *rest) for at, *rest in offset_changes(zone, year - cycles * _CYCLE))
    first, last = datetime(year, 1, 1, tzinfo=UTC) - SECOND, datetime(year + 1, 1, 1, tzinfo=UTC) - SECOND
    probes = [min(first + _PROBE * step, last) for step in range((last - first) // _PROBE + 2)]
    found: list[OffsetChange] = []
    for (low, before), (high, after) in pairwise((probe, offset_at(zone, probe)) for probe in probes):
        if before != after:
            found.append(OffsetChange(change_between(zone, low, high), before, after))
    return tuple(found)


@lru_cache(maxsize=1024)
def skipped_days(zone: tzinfo) -> tuple[date, ...]:
    """Return the days that a zone's calendar never had, such as 2011-12-30 in Apia, in order."""
    first, last = _DATE_LINE_YEARS
    january = [offset_at(zone, datetime(year, 1, 1, tzinfo=UTC)) for year in range(first, last + 1)]
    jumped = [first + at for at, (before, after) in enumerate(pairwise(january)) if after - before > 0.75 * DAY]
    found: list[date] = []
    for change in (change for year in jumped for change in offset_changes(zone, year)):
        day = (change.at + change.before).date()
        found.extend(each for each in (day, day + DAY) if opening(zone, each) == opening(zone, each + DAY))
    return tuple(found)
