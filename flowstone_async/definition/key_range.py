"""Many keys as a rule: an order of keys, and a range of indexes into it. Nothing is listed that can be computed."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, Protocol, TypeAlias, TypeVar, cast, overload

from typing_extensions import override

from flowstone_async.definition.key_text import format_key
from flowstone_async.definition.keys import PartitionKey, encode_key
from flowstone_async.errors import ConfigError, PartitionError

K_co = TypeVar("K_co", covariant=True)
Indexes: TypeAlias = range


class KeySpace(Protocol[K_co]):
    """Keys in a fixed order, each with an index from 0."""

    @property
    def extent(self) -> int | None:
        """How many keys there are, or None where there is no last one."""
        ...

    @property
    def sorts_encoded(self) -> bool:
        """Whether encoded keys sort, byte by byte, in the order of the indexes."""
        ...

    def describe(self) -> str:
        """Return what keys these are, for people."""
        ...

    def key_at(self, index: int) -> K_co:
        """Return the key at an index.

        Raises:
            PartitionError: The index is below 0, or at or behind `extent`.
        """
        ...

    def index_of(self, key: object) -> int:
        """Return the index of a key.

        Raises:
            PartitionError: The key is not one of these.
        """
        ...

    def iterate(self, indexes: Indexes) -> Iterator[K_co]:
        """Yield the keys at the indexes, in their order, one at a time."""
        ...


@dataclass(frozen=True, repr=False)  # without slots: see test_public_names
class KeyRange(Collection[K_co], Generic[K_co]):
    """Some keys of a partition set, in order: iterated lazily, counted and sliced without listing any.

    Example:
        >>> january = days.range("2025-01-01", "2025-01-31")
        >>> len(january), january[-1], date(2025, 2, 1) in january
        (31, datetime.date(2025, 1, 31), False)

    Attributes:
        space: The order that the indexes refer to.
        indexes: Which keys of it.
    """

    space: KeySpace[K_co]
    indexes: Indexes

    @property
    def count(self) -> int:
        """The number of keys; unlike `len`, without an upper limit."""
        first, stop, step = self.indexes.start, self.indexes.stop, self.indexes.step
        return max(0, -((first - stop) // step))

    @property
    def first(self) -> K_co | None:
        """The first key, or None without any."""
        return self.space.key_at(self.indexes.start) if self.indexes else None

    @property
    def last(self) -> K_co | None:
        """The last key, or None without any."""
        return self.space.key_at(self.indexes.start + (self.count - 1) * self.indexes.step) if self.indexes else None

    @override
    def __len__(self) -> int:
        return self.count

    def __bool__(self) -> bool:
        return self.count > 0

    @override
    def __iter__(self) -> Iterator[K_co]:
        return self.space.iterate(self.indexes)

    def __reversed__(self) -> Iterator[K_co]:
        return self.space.iterate(self.indexes[::-1])

    @override
    def __contains__(self, key: object) -> bool:
        try:
            self.index_of(key)
        except PartitionError:
            return False
        return True

    @overload
    def __getitem__(self, index: int) -> K_co: ...
    @overload
    def __getitem__(self, index: slice) -> KeyRange[K_co]: ...
    def __getitem__(self, index: int | slice) -> K_co | KeyRange[K_co]:
        """Return one key, or a part of the range.

        Raises:
            IndexError: There is no key at that index.
        """
        if isinstance(index, slice):
            return KeyRange(self.space, self.indexes[index])
        return self.space.key_at(self.indexes[index])

    def index_of(self, key: object) -> int:
        """Return the index of a key within this range.

        Raises:
            PartitionError: The range does not hold the key.
        """
        index = self.space.index_of(key)
        if index not in self.indexes:
            raise PartitionError(f"{key!r} is not in {self.describe()}", partition=key)
        return self.indexes.index(index)

    def gaps(self, present: Iterable[object]) -> Iterator[KeyRange[K_co]]:
        """Yield the keys that are missing, as ranges in order, in time and memory that depend on what is present only.

        Args:
            present: Keys that are there, in the order of this range; those outside of it are passed over.

        Raises:
            ConfigError: Two keys of `present` are not in order.
        """
        expected = 0
        for key in present:
            if key not in self:
                continue
            index = self.index_of(key)
            if index < expected - 1:
                raise ConfigError(
                    f"the keys that are present are not in the order of {self.describe()}: {key!r} comes too late",
                    hint="Sort them by .index_of(key).",
                )
            if index > expected:
                yield self[expected:index]
            expected = index + 1
        if expected < self.count:
            yield self[expected:]

    def encoded_bounds(self) -> tuple[str, str] | None:
        """Return the encoded first and last key where a query by byte order between them finds exactly this range.

        None where it would find others, too: an empty range, one with steps, a set whose encoding sorts otherwise.
        """
        if not self.indexes or self.indexes.step != 1 or not self.space.sorts_encoded:
            return None
        return encode_key(cast("PartitionKey", self.first)), encode_key(cast("PartitionKey", self.last))

    def describe(self) -> str:
        """Return what keys these are, such as `2025-01-01..2025-01-31 of daily from 2025-01-01 (UTC)`."""
        if not self.indexes:
            return f"no keys of {self.space.describe()}"
        ends = [format_key(cast("PartitionKey", key)) for key in (self.first, self.last)]
        step = "" if self.indexes.step == 1 else f" by {self.indexes.step}"
        return f"{'..'.join(ends)}{step} of {self.space.describe()}"

    @override
    def __repr__(self) -> str:
        return f"<KeyRange {self.describe()}, {self.count} keys>"

    # A range is an order of keys, too: a product is made of ranges.

    @property
    def extent(self) -> int:
        """The number of keys."""
        return self.count

    @property
    def sorts_encoded(self) -> bool:
        """Whether encoded keys sort, byte by byte, in the order of this range."""
        return self.indexes.step > 0 and self.space.sorts_encoded

    def key_at(self, index: int) -> K_co:
        """Return the key at an index of this range.

        Raises:
            PartitionError: There is no such index.
        """
        if not 0 <= index < self.count:
            raise PartitionError(f"there is no key at index {index} of {self.describe()}")
        return self.space.key_at(self.indexes[index])

    def iterate(self, indexes: Indexes) -> Iterator[K_co]:
        """Yield the keys at some indexes of this range."""
        first, step = self.indexes.start, self.indexes.step
        return self.space.iterate(
            Indexes(first + indexes.start * step, first + indexes.stop * step, indexes.step * step)
        )
