"""Partitions shorter than a day, or cut by elapsed time, each known by the instant at which it starts, in UTC."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import cast, final

from typing_extensions import override

from flowstone_async.config import seconds
from flowstone_async.definition.key_set import KeySet, wrong_type
from flowstone_async.definition.key_text import day, moment, parse_key
from flowstone_async.definition.keys import canonical_key, is_aware
from flowstone_async.definition.local_hours import hour_after, hour_at, hour_behind, hours_between
from flowstone_async.definition.local_time import DAY, check_year, instants_of, opening
from flowstone_async.definition.windows import TimeWindows
from flowstone_async.errors import ConfigError, PartitionError

_TICK = timedelta(microseconds=1)
_LONGEST = timedelta(days=366)
_UNITS = {"d": DAY, "h": timedelta(hours=1), "m": timedelta(minutes=1), "s": timedelta(seconds=1)}


class InstantWindows(TimeWindows[datetime]):
    """Windows that are known by their first instant; see `TimeWindows` for their arguments."""

    __slots__ = ()

    @property
    @override
    def key_type(self) -> object:
        return datetime

    @override
    def exact(self, key: object) -> datetime:
        plain = canonical_key(key)
        if type(plain) is not datetime:
            raise wrong_type(key, self, "Pass an aware datetime, such as datetime(2025, 1, 15, 9, tzinfo=UTC).")
        if plain.tzinfo is None:
            raise PartitionError(
                f"{key!r} is a naive datetime, but an aware one is needed: {self.describe()}",
                partition=key,
                hint="Give it a tzinfo, such as datetime.UTC.",
            )
        check_year(plain)
        before = self.holding(plain)
        if before != plain:
            near = [self.format(each) for each in (before, self.following(before)) if self.contains(each)]
            raise PartitionError(
                f"{self.format(plain)} starts no window of {self.describe()}",
                partition=key,
                details={"nearest": near},
                hint=f"Nearest keys: {' and '.join(near)}." if near else None,
            )
        return plain

    @override
    def first_reading(self, point: object) -> datetime:
        return self.holding(self.first_instant(point))

    @override
    def last_reading(self, point: object) -> datetime:
        whole_day = day(point) if isinstance(point, str) else None if isinstance(point, datetime) else point
        if isinstance(whole_day, date):
            check_year(whole_day)
            return self.holding(opening(self._zone, whole_day + DAY) - _TICK)
        return self.holding(self.first_instant(point))

    @override
    def parse(self, text: str) -> datetime:
        if moment(text) is not None:
            return self.exact(self.first_instant(text))
        return self.exact(parse_key(text, datetime))

    @override
    def format(self, key: object) -> str:
        return cast("datetime", key).astimezone(self._zone).isoformat()

    @override
    def opens(self, key: datetime) -> datetime:
        return key

    def first_instant(self, point: object) -> datetime:
        """Return the first instant of a point in time that was given by a person, in UTC.

        Raises:
            PartitionError: It cannot be read, or the local clock never shows it, or shows it twice.
        """
        if isinstance(point, str):
            return self._written(point)
        if isinstance(point, datetime):
            if not is_aware(point):
                raise PartitionError(
                    f"{point!r} is a naive datetime, which is no instant",
                    hint=f"Give it a tzinfo, or pass {point.isoformat()!r}, which is read in {self._tz}.",
                )
            check_year(point)
            return point.astimezone(UTC)
        if isinstance(point, date):
            check_year(point)
            return opening(self._zone, point)
        raise PartitionError(f"{point!r} is no point in time", hint="Pass an aware datetime, a date, or ISO text.")

    def _written(self, text: str) -> datetime:
        found = day(text) or moment(text)
        if found is None:
            raise PartitionError(f"{text!r} is no point in time", hint="Write it like 2025-01-15T09:00.")
        check_year(found)
        if not isinstance(found, datetime):
            return opening(self._zone, found)
        if is_aware(found):
            return found.astimezone(UTC)
        instants = instants_of(self._zone, found)
        if len(instants) == 1:
            return instants[0]
        local = [instant.astimezone(self._zone).isoformat() for instant in instants]
        raise PartitionError(
            f"the clocks of {self._tz} show {text} {'twice' if local else 'never'}",
            hint=f"Say which: {' or '.join(local)}." if local else "They jump over it.",
        )

    def _options(self) -> str:
        end = "" if self._end is None else f", end={self.format(self._end)!r}"
        zone = "" if self._tz == "UTC" else f", tz={self._tz!r}"
        return f"{self.format(self._start)!r}{end}{zone}"


@final
class Hourly(InstantWindows):
    """One partition an hour of the local clock: the repeated hour is two, the skipped one does not exist.

    Example:
        >>> hours = Hourly("2025-01-01", tz="Europe/Paris")
        >>> hours.range("2025-10-26", "2025-10-26").count
        25
    """

    __slots__ = ()

    @property
    @override
    def word(self) -> str:
        return "hourly"

    @override
    def holding(self, instant: datetime) -> datetime:
        return hour_at(self._zone, instant)

    @override
    def following(self, key: datetime) -> datetime:
        return hour_after(self._zone, key)

    @override
    def place(self, key: datetime) -> int:
        if key < self._start:
            return -hours_between(self._zone, key, self._start)
        return hours_between(self._zone, self._start, key)

    @override
    def at(self, place: int) -> datetime:
        return hour_behind(self._zone, self._start, place)

    @override
    def in_step_with(self, other: KeySet[object]) -> bool:
        return isinstance(other, Hourly) and other.tz == self.tz

    @override
    def __repr__(self) -> str:
        return f"Hourly({self._options()})"


@final
class Every(InstantWindows):
    """One partition for each stretch of elapsed time from the start on, whatever the clocks do.

    Args:
        every: Length of a window.
        start: Start of the first window; see `TimeWindows`.
        end: A point in time of the last window.
        tz: Zone in which text and dates are read.

    Raises:
        ConfigError: One of them cannot be read, or the end is before the start.

    Example:
        >>> quarters = Every("15m", "2025-01-01")
        >>> quarters.range("2025-01-01", "2025-01-01").count
        96
    """

    __slots__ = ("_every",)

    def __init__(
        self,
        every: timedelta | float | str,
        start: str | date,
        *,
        end: str | date | None = None,
        tz: str = "UTC",
    ) -> None:
        length = seconds(every, what="every")
        if not _TICK.total_seconds() <= length <= _LONGEST.total_seconds():
            raise ConfigError(
                f"every={every!r} is no length of a window", hint="Give a microsecond or more, and a year or less."
            )
        self._every = timedelta(seconds=length)
        super().__init__(start, end=end, tz=tz)

    @property
    def every(self) -> timedelta:
        """Length of a window."""
        return self._every

    @property
    @override
    def word(self) -> str:
        return f"every {self._every_text()}"

    @override
    def beginning(self, point: object) -> datetime:
        return self.first_instant(point)

    @override
    def holding(self, instant: datetime) -> datetime:
        return self.at((instant - self._start) // self._every)

    @override
    def following(self, key: datetime) -> datetime:
        return key + self._every

    @override
    def place(self, key: datetime) -> int:
        return (key - self._start) // self._every

    @override
    def at(self, place: int) -> datetime:
        return self._start + place * self._every

    @override
    def in_step_with(self, other: KeySet[object]) -> bool:
        return (
            isinstance(other, Every)
            and other.every == self._every
            and (other.start - self._start) % self._every == timedelta(0)
        )

    def _every_text(self) -> str:
        for unit, length in _UNITS.items():
            if self._every % length == timedelta(0):
                return f"{self._every // length}{unit}"
        return f"{self._every.total_seconds():.6f}".rstrip("0") + "s"

    @override
    def __repr__(self) -> str:
        return f"Every({self._every_text()!r}, {self._options()})"
