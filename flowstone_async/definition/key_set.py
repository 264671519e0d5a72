"""What every set of partition keys can do: judge a key, order its keys, count and cut them without listing any.

The kinds of sets are in `windows.py`, `enumerated.py` and `product.py`; `partition.py` adds what definitions say with
a set.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, TypeVar, cast

from flowstone_async.definition.key_range import Indexes, KeyRange, KeySpace
from flowstone_async.definition.key_text import format_key, type_text
from flowstone_async.definition.keys import PartitionKey
from flowstone_async.definition.listed_keys import KnownKeys
from flowstone_async.errors import ConfigError, PartitionError

K_co = TypeVar("K_co", covariant=True)


class KeySet(ABC, Generic[K_co]):
    """The declared set of valid keys of an asset; equal to every other set of the same rule.

    Where a method takes `known`, only products with a `Dynamic` dimension and `Dynamic` itself look at it.
    """

    __slots__ = ()

    @property
    @abstractmethod
    def key_type(self) -> object:
        """The type of the keys as an annotation would say it, such as `date` or `tuple[date, str]`."""

    @property
    def dimensions(self) -> tuple[KeySet[object], ...]:
        """The sets that this one is a product of: itself alone, unless it is one."""
        return (self,)

    @abstractmethod
    def describe(self) -> str:
        """Return what set this is, for people, such as `daily from 2025-01-01 (Europe/Paris)`."""

    @abstractmethod
    def identity(self, owner: str | None = None) -> str:
        """Return a text that is equal for equal rules, in every process.

        Args:
            owner: What names a `Dynamic` set that was given no name, such as the first asset that declares it.

        Raises:
            ConfigError: The set has no name and needs one.
        """

    @abstractmethod
    def validate(self, key: object, known: KnownKeys | None = None) -> K_co:
        """Return the key as it will come back from the store.

        Raises:
            PartitionError: The key is missing, of another type, or outside the set.
        """

    def contains(self, key: object, known: KnownKeys | None = None) -> bool:
        """Return whether `validate` accepts the key."""
        try:
            self.validate(key, known)
        except PartitionError:
            return False
        return True

    def memberships(self, key: object) -> tuple[Membership, ...]:
        """Return what the store has to be asked before `validate`: which keys of which dynamic sets exist."""
        del key
        return ()

    @property
    def dynamic_sets(self) -> tuple[KeySet[object], ...]:
        """The dynamic sets among the dimensions, whose keys have to be known before any are counted or listed."""
        return ()

    @abstractmethod
    def parse(self, text: str) -> K_co:
        """Return the key that somebody typed on the command line or in a page; `validate` says if it exists.

        Raises:
            PartitionError: The text is no key of the declared type.
        """

    def format(self, key: object) -> str:
        """Return the text that `parse` reads as the key."""
        return format_key(cast("PartitionKey", key))

    @abstractmethod
    def space(self, known: KnownKeys | None = None) -> KeySpace[K_co]:
        """Return all keys in their order, including those that are still to come.

        Raises:
            ConfigError: The set has no such order.
        """

    @abstractmethod
    def between(self, first: object, last: object, known: KnownKeys | None = None) -> KeyRange[K_co]:
        """Return the keys from one to another, both included; each may be given as text.

        Raises:
            PartitionError: One of them is outside the set, or the last is before the first.
        """

    def parse_range(self, text: str, known: KnownKeys | None = None) -> KeyRange[K_co]:
        """Return the keys that somebody typed as `FIRST..LAST`, or as one key.

        Raises:
            PartitionError: The text is neither.
        """
        problem: PartitionError | None = None
        for first, last in _halves(text):
            try:
                return self.between(first, last, known)
            except PartitionError as error:
                problem = problem or error
        try:
            return self.only(self.parse(text), known)
        except PartitionError as error:
            raise problem or error from None

    def only(self, key: object, known: KnownKeys | None = None) -> KeyRange[K_co]:
        """Return the range of one key.

        Raises:
            PartitionError: The key is not in the set.
        """
        space = self.space(known)
        index = space.index_of(key)
        return KeyRange(space, Indexes(index, index + 1))

    def whole(self, known: KnownKeys | None = None) -> KeyRange[K_co]:
        """Return every key of a finite set, whether its time has come or not.

        Raises:
            ConfigError: The set is open: it has no last key.
        """
        space = self.space(known)
        if space.extent is None:
            raise ConfigError(
                f"{self.describe()} has no end, so that it has no whole",
                hint="Give a range: .range(first, last), or .keys(now) for what has passed.",
            )
        return KeyRange(space, Indexes(space.extent))

    def keys(self, now: datetime, known: KnownKeys | None = None) -> KeyRange[K_co]:
        """Return the keys that exist at an instant: of time windows, those that have closed."""
        del now
        return self.whole(known)

    def count(self, now: datetime, known: KnownKeys | None = None) -> int:
        """Return how many keys exist at an instant."""
        return self.keys(now, known).count

    @property
    def finite(self) -> bool:
        """Whether the set has a last key, as all but open time windows have."""
        return True

    def index_of(self, key: object, known: KnownKeys | None = None) -> int:
        """Return the place of a key in the order of the set, from 0.

        Raises:
            PartitionError: The key is not in the set.
        """
        return self.space(known).index_of(key)

    def key_at(self, index: int, known: KnownKeys | None = None) -> K_co:
        """Return the key at a place in the order of the set, from 0.

        Raises:
            PartitionError: There is no such place.
        """
        return self.space(known).key_at(index)

    def next(self, key: object, known: KnownKeys | None = None) -> K_co | None:
        """Return the key behind a key, or None behind the last."""
        space = self.space(known)
        index = space.index_of(key) + 1
        return None if index == space.extent else space.key_at(index)

    def previous(self, key: object, known: KnownKeys | None = None) -> K_co | None:
        """Return the key before a key, or None before the first."""
        space = self.space(known)
        index = space.index_of(key) - 1
        return None if index < 0 else space.key_at(index)

    def position(self, key: object, known: KnownKeys | None = None) -> int:
        """Return the index that a key of a set in step has, or would have, here: negative before the first key."""
        return self.index_of(key, known)

    def precedes(self, key: object) -> bool:
        """Return whether something would be a key, had the set begun earlier."""
        del key
        return False

    def in_step_with(self, other: KeySet[object]) -> bool:
        """Return whether keys of this set are keys of the other, but for where the two begin and end."""
        return self == other

    def parts(self, key: object) -> tuple[object, ...]:
        """Return the element of a key for each dimension."""
        return (key,)

    def assemble(self, ranges: Sequence[KeyRange[object]]) -> KeyRange[K_co]:
        """Return the keys whose elements are in the ranges, one range of each dimension."""
        return cast("KeyRange[K_co]", ranges[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class Membership:
    """A question for the store: is the key one of that dynamic set's?"""

    partition_set: KeySet[object]
    key: object


def locate(dimension: KeySet[object], key_set: KeySet[object]) -> int | None:
    """Return which dimension of a set it is, or None if it is none.

    Raises:
        ConfigError: Several are equal to it, and none is the very same object.
    """
    places = [place for place, each in enumerate(key_set.dimensions) if each is dimension]
    places = places or [place for place, each in enumerate(key_set.dimensions) if each == dimension]
    if len(places) > 1:
        raise ConfigError(
            f"{dimension.describe()} is more than one dimension of {key_set.describe()}",
            hint="Take the whole key and pick the element by its place.",
        )
    return places[0] if places else None


def _halves(text: str) -> Iterator[tuple[str, str]]:
    """Yield every way to read a text as two around `..`, which names may hold themselves."""
    at = text.find("..")
    while at >= 0:
        if text[:at] and text[at + 2 :]:
            yield text[:at], text[at + 2 :]
        at = text.find("..", at + 1)


def missing_key(key_set: KeySet[object], hint: str) -> PartitionError:
    """Return the error for an asset with a declared set that is asked for without a key."""
    kind = type_text(key_set.key_type)
    return PartitionError(
        f"no partition was given, but {kind} is needed: {key_set.describe()}", details={"type": kind}, hint=hint
    )


def wrong_type(key: object, key_set: KeySet[object], hint: str) -> PartitionError:
    """Return the error for a key that is not of the type that a set declares."""
    kind = type_text(key_set.key_type)
    return PartitionError(
        f"{key!r} is of type {type(key).__name__}, but {kind} is needed: {key_set.describe()}",
        partition=key,
        details={"type": kind},
        hint=hint,
    )
