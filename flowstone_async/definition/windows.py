"""Partition sets of consecutive time windows: what `Hourly`, `Daily`, `Weekly`, `Monthly` and `Every` share.

A window is known by its key, and spans the time from its opening to that of the next one. The set's zone decides where
windows open; counting is arithmetic on positions, in which the first key has 0.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, tzinfo
from typing import NamedTuple, TypeVar

from typing_extensions import override

from flowstone_async.definition.key_range import Indexes, KeyRange
from flowstone_async.definition.key_set import missing_key
from flowstone_async.definition.key_text import format_key
from flowstone_async.definition.keys import is_aware
from flowstone_async.definition.listed_keys import KnownKeys
from flowstone_async.definition.local_time import LAST_YEAR, check_year, load_zone
from flowstone_async.definition.product import Dimension
from flowstone_async.errors import ConfigError, PartitionError

K = TypeVar("K", bound=date)


class Window(NamedTuple):
    """The time that a partition covers, in UTC.

    Attributes:
        start: Its first instant.
        end: The first instant behind it.
    """

    start: datetime
    end: datetime


class TimeWindows(Dimension[K]):
    """Consecutive time windows from a first one, to a last one or for ever.

    Args:
        start: A point in time of the first window: a date, ISO text, or an aware datetime. Text without an offset is
            read in the set's zone.
        end: Likewise of the last window, which is part of the set; a date means the last window that starts on it.
            Without one the set is open, and accepts keys of the future.
        tz: Zone of the tz database whose clock decides where windows open.

    Raises:
        ConfigError: One of them cannot be read, or the end is before the start.
    """

    __slots__ = ("_end", "_start", "_tz", "_zone")

    def __init__(self, start: str | date, *, end: str | date | None = None, tz: str = "UTC") -> None:
        self._tz = tz
        self._zone = load_zone(tz)
        self._end: K | None = None
        self._start: K = self._configured(start, "start", self.beginning)
        self._end = None if end is None else self._configured(end, "end", self.last_reading)
        if self._end is not None and self._end < self._start:
            raise ConfigError(
                f"end={end!r} is before start={start!r}", hint="Swap them, or leave end= out for a set without an end."
            )

    @property
    def start(self) -> K:
        """The first key."""
        return self._start

    @property
    def end(self) -> K | None:
        """The last key, or None of an open set."""
        return self._end

    @property
    def tz(self) -> str:
        """Name of the zone whose clock decides where windows open."""
        return self._tz

    @property
    def zone(self) -> tzinfo:
        """The zone itself."""
        return self._zone

    def window(self, key: K) -> Window:
        """Return the time that a partition covers; its end is the start of the next.

        Raises:
            PartitionError: The key is not in the set.
        """
        checked = self.validate(key)
        return Window(self.opens(checked), self.opens(self.following(checked)))

    def key_of(self, instant: datetime) -> K:
        """Return the key of the window that holds an instant.

        Raises:
            PartitionError: The instant is before the first window or behind the last.
            ConfigError: It is a naive datetime.
        """
        return self._within(self._holding(instant), instant)

    def last_closed(self, now: datetime) -> K | None:
        """Return the key of the last window that is over, or None before the first is.

        Raises:
            ConfigError: `now` is a naive datetime.
        """
        closed = self._closed(now)
        return self.at(closed - 1) if closed else None

    def range(self, first: date | str, last: date | str) -> KeyRange[K]:
        """Return the keys of the windows from one point in time to another, both included.

        Example:
            >>> len(Daily("2025-01-01").range("2025-01-01", "2025-01-31"))
            31

        Args:
            first: A date, ISO text or an aware datetime in the first window.
            last: Likewise in the last; a date means the last window that starts on it.

        Raises:
            PartitionError: One of them is outside the set, or the last is before the first.
        """
        return self.between(first, last)

    @property
    @override
    def finite(self) -> bool:
        return self._end is not None

    @override
    def validate(self, key: object, known: KnownKeys | None = None) -> K:
        if key is None:
            raise missing_key(self, f"Pass partition={self._start!r}, for example.")
        return self._within(self.exact(key), key)

    @override
    def between(self, first: object, last: object, known: KnownKeys | None = None) -> KeyRange[K]:
        low = self._within(self.first_reading(first), first)
        high = self._within(self.last_reading(last), last)
        if high < low:
            raise PartitionError(
                f"the range from {_text(first)} to {_text(last)} of {self.describe()} ends before it starts",
                hint="Swap the two.",
            )
        return KeyRange(self, Indexes(self.place(low), self.place(high) + 1))

    @override
    def keys(self, now: datetime, known: KnownKeys | None = None) -> KeyRange[K]:
        return KeyRange(self, Indexes(self._closed(now)))

    @override
    def position(self, key: object, known: KnownKeys | None = None) -> int:
        return self.place(self.exact(key))

    @override
    def precedes(self, key: object) -> bool:
        try:
            return self.exact(key) < self._start
        except PartitionError:
            return False

    # The order of the keys.

    @override
    def space(self, known: KnownKeys | None = None) -> TimeWindows[K]:
        return self

    @property
    def extent(self) -> int | None:
        """How many windows there are, or None of an open set."""
        return None if self._end is None else self.place(self._end) + 1

    @property
    def sorts_encoded(self) -> bool:
        """ISO dates and instants in UTC sort as text."""
        return True

    @override
    def index_of(self, key: object, known: KnownKeys | None = None) -> int:
        return self.place(self.validate(key))

    @override
    def key_at(self, index: int, known: KnownKeys | None = None) -> K:
        if index >= 0:
            try:
                key = self.at(index)
            except OverflowError:
                pass
            else:
                if key.year <= LAST_YEAR and (self._end is None or key <= self._end):
                    return key
        raise PartitionError(f"there is no key at index {index} of {self.describe()}", details=self._facts())

    def iterate(self, indexes: Indexes) -> Iterator[K]:
        """Yield the keys at the indexes."""
        if indexes.step != 1:
            yield from (self.key_at(index) for index in indexes)
        elif indexes:
            key = self.key_at(indexes.start)
            yield key
            for _ in indexes[1:]:
                key = self.following(key)
                yield key

    # What a kind of windows has to say; start and end do not matter to it.

    @abstractmethod
    def exact(self, key: object) -> K:
        """Return a key of this kind of windows as the store gives it back, or raise PartitionError."""

    @abstractmethod
    def first_reading(self, point: object) -> K:
        """Return the key of the first window of a point in time that was given by a person, or raise PartitionError."""

    @abstractmethod
    def last_reading(self, point: object) -> K:
        """Return the key of the last window of a point in time that was given by a person, or raise PartitionError."""

    def beginning(self, point: object) -> K:
        """Return the first key of all, or raise PartitionError."""
        return self.first_reading(point)

    @abstractmethod
    def holding(self, instant: datetime) -> K:
        """Return the key of the window that holds an instant."""

    @abstractmethod
    def opens(self, key: K) -> datetime:
        """Return the first instant of a window, in UTC."""

    @abstractmethod
    def following(self, key: K) -> K:
        """Return the key behind a key."""

    @abstractmethod
    def place(self, key: K) -> int:
        """Return how many windows lie between the first one and a key, negative before it."""

    @abstractmethod
    def at(self, place: int) -> K:
        """Return the key at a place from 0, or raise OverflowError behind the last year."""

    def _configured(self, point: object, option: str, reading: Callable[[object], K]) -> K:
        try:
            return reading(point)
        except PartitionError as error:
            raise ConfigError(f"{option}={point!r}: {error.message}", hint=error.hint) from error

    def _within(self, key: K, given: object) -> K:
        if self._start <= key and (key <= self._end if self._end is not None else key.year <= LAST_YEAR):
            return key
        where = "before the first" if key < self._start else "behind the last"
        last = "on" if self._end is None else f"to {self.format(self._end)}"
        raise PartitionError(
            f"{_text(given)} is {where} partition of {self.describe()}",
            partition=given,
            details=self._facts(),
            hint=f"Valid keys: {self.format(self._start)} {last}.",
        )

    def _facts(self) -> dict[str, object]:
        last = None if self._end is None else format_key(self._end)
        return {"valid_from": format_key(self._start), "valid_to": last}

    def _closed(self, now: datetime) -> int:
        """Return how many windows of the set are over."""
        current = self._holding(now)
        if current < self._start:
            return 0
        if self._end is not None and self._end < current:
            return self.place(self._end) + 1
        return self.place(current)

    def _holding(self, instant: datetime) -> K:
        if not is_aware(instant):
            raise ConfigError(
                f"{instant!r} is a naive datetime, which is no instant", hint="Give it a tzinfo, such as datetime.UTC."
            )
        check_year(instant)
        return self.holding(instant.astimezone(UTC))

    @property
    @abstractmethod
    def word(self) -> str:
        """What kind of windows these are: `daily`."""

    @override
    def describe(self) -> str:
        end = "" if self._end is None else f" to {self.format(self._end)}"
        return f"{self.word} from {self.format(self._start)}{end} ({self._tz})"

    @override
    def identity(self, owner: str | None = None) -> str:
        end = "" if self._end is None else format_key(self._end)
        return f"{self.word}:{format_key(self._start)}..{end}@{self._tz}"

    @override
    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and isinstance(other, TimeWindows) and other.identity() == self.identity()

    @override
    def __hash__(self) -> int:
        return hash((self.word, self._start, self._end, self._tz))


def _text(point: object) -> str:
    return format_key(point) if isinstance(point, date) else repr(point)
