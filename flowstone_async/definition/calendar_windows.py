"""Partitions of local days, weeks and months, each known by its first day."""

from __future__ import annotations

from abc import abstractmethod
from bisect import bisect_left
from datetime import MAXYEAR, date, datetime, timedelta
from typing import final

from typing_extensions import override

from flowstone_async.definition.key_set import KeySet, wrong_type
from flowstone_async.definition.key_text import day, moment, parse_key
from flowstone_async.definition.keys import canonical_key, is_aware
from flowstone_async.definition.local_time import DAY, check_year, day_at, opening, skipped_days
from flowstone_async.definition.windows import TimeWindows
from flowstone_async.errors import PartitionError

_WEEK = timedelta(days=7)
_MONTHS = 12


class CalendarWindows(TimeWindows[date]):
    """Windows of whole local days; see `TimeWindows` for their arguments."""

    __slots__ = ()

    @property
    @override
    def key_type(self) -> object:
        return date

    @override
    def exact(self, key: object) -> date:
        plain = key if type(key) is date else canonical_key(key)
        if type(plain) is not date:
            read = day(key) if isinstance(key, str) else key.date() if isinstance(key, datetime) else None
            raise wrong_type(key, self, "Pass a date." if read is None else f"Pass {read!r}.")
        check_year(plain)
        if self.first_day(plain) != plain:
            before = self.first_day(plain)
            near = [each for each in (before, self.following(before)) if self.contains(each)]
            raise PartitionError(
                f"{plain} {self.reason_against(plain)}",
                partition=plain,
                details={"nearest": [str(each) for each in near]},
                hint=f"Nearest keys: {' and '.join(map(str, near))}." if near else None,
            )
        return plain

    @override
    def first_reading(self, point: object) -> date:
        return self.first_day(self._day(point))

    @override
    def last_reading(self, point: object) -> date:
        return self.first_day(self._day(point))

    @override
    def parse(self, text: str) -> date:
        return self.exact(parse_key(text, date))

    @override
    def holding(self, instant: datetime) -> date:
        return self.first_day(day_at(self._zone, instant))

    @override
    def opens(self, key: date) -> datetime:
        return opening(self._zone, key)

    @override
    def in_step_with(self, other: KeySet[object]) -> bool:
        return type(other) is type(self) and isinstance(other, CalendarWindows) and other.tz == self.tz

    @abstractmethod
    def first_day(self, of: date) -> date:
        """Return the key of the window that holds a day."""

    @abstractmethod
    def reason_against(self, key: date) -> str:
        """Return why a day that begins no window is no key, to follow its name."""

    def _day(self, point: object) -> date:
        if isinstance(point, str):
            read = day(point) or moment(point)
            if read is None:
                raise PartitionError(f"{point!r} is no date", hint="Write it like 2025-01-15.")
            point = read.date() if isinstance(read, datetime) and not is_aware(read) else read
        elif isinstance(point, datetime) and not is_aware(point):
            raise PartitionError(
                f"{point!r} is a naive datetime, which is no point in time", hint=f"Pass {point.date()!r}."
            )
        if isinstance(point, date):
            check_year(point)
            return day_at(self._zone, point) if isinstance(point, datetime) else point
        raise PartitionError(f"{point!r} is no date", hint="Pass a date, or text such as '2025-01-15'.")

    @override
    def __repr__(self) -> str:
        end = "" if self._end is None else f", end={str(self._end)!r}"
        zone = "" if self._tz == "UTC" else f", tz={self._tz!r}"
        return f"{type(self).__name__}({str(self._start)!r}{end}{zone})"


@final
class Daily(CalendarWindows):
    """One partition a local day, of 23 or 25 hours where the clock changes.

    A day that a zone's calendar skipped (2011-12-30 in Apia) is no key.

    Example:
        >>> days = Daily("2025-01-01", tz="Europe/Paris")
        >>> days.window(date(2025, 3, 30)).end - days.window(date(2025, 3, 30)).start
        datetime.timedelta(seconds=82800)
    """

    __slots__ = ()

    @property
    @override
    def word(self) -> str:
        return "daily"

    @override
    def first_day(self, of: date) -> date:
        return of - DAY if of in skipped_days(self._zone) else of

    @override
    def first_reading(self, point: object) -> date:
        found = self._day(point)
        return found + DAY if found in skipped_days(self._zone) else found

    @override
    def following(self, key: date) -> date:
        found = key + DAY
        return found + DAY if found in skipped_days(self._zone) else found

    @override
    def place(self, key: date) -> int:
        skipped = skipped_days(self._zone)
        return (key - self._start).days - bisect_left(skipped, key) + bisect_left(skipped, self._start)

    @override
    def at(self, place: int) -> date:
        found = self._start + timedelta(days=place)
        for skipped in skipped_days(self._zone):
            if self._start < skipped <= found:
                found += DAY
        return found

    @override
    def reason_against(self, key: date) -> str:
        return f"does not exist in {self._tz}, whose calendar skipped it"


@final
class Weekly(CalendarWindows):
    """One partition a week, known by its Monday. The first one holds the start.

    Example:
        >>> Weekly("2025-01-01").start
        datetime.date(2024, 12, 30)
    """

    __slots__ = ()

    @property
    @override
    def word(self) -> str:
        return "weekly"

    @override
    def first_day(self, of: date) -> date:
        return of - timedelta(days=of.weekday())

    @override
    def following(self, key: date) -> date:
        return key + _WEEK

    @override
    def place(self, key: date) -> int:
        return (key - self._start).days // 7

    @override
    def at(self, place: int) -> date:
        return self._start + timedelta(days=7 * place)

    @override
    def reason_against(self, key: date) -> str:
        return f"is a {key:%A}, and weeks are known by their Monday"


@final
class Monthly(CalendarWindows):
    """One partition a month, known by its first day. The first one holds the start.

    Example:
        >>> Monthly("2025-01-01").range("2025-01-01", "2025-12-31").count
        12
    """

    __slots__ = ()

    @property
    @override
    def word(self) -> str:
        return "monthly"

    @override
    def first_day(self, of: date) -> date:
        return of.replace(day=1)

    @override
    def following(self, key: date) -> date:
        return _month(key.year * _MONTHS + key.month)

    @override
    def place(self, key: date) -> int:
        return (key.year - self._start.year) * _MONTHS + key.month - self._start.month

    @override
    def at(self, place: int) -> date:
        return _month(self._start.year * _MONTHS + self._start.month - 1 + place)

    @override
    def reason_against(self, key: date) -> str:
        return f"is day {key.day} of its month, and months are known by their first day"


def _month(number: int) -> date:
    year, month = divmod(number, _MONTHS)
    if year > MAXYEAR:
        raise OverflowError("there is no year 10000")
    return date(year, month + 1, 1)
