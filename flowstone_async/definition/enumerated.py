"""Partition sets that follow no calendar: what they share, and the simplest of them, a fixed list of names."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from types import GenericAlias
from typing import TypeVar, Union, cast, final

from typing_extensions import override

from flowstone_async.definition.key_range import Indexes, KeyRange, KeySpace
from flowstone_async.definition.key_set import missing_key, wrong_type
from flowstone_async.definition.key_text import fits, format_key, parse_key, type_text
from flowstone_async.definition.keys import PartitionKey, canonical_key, encode_key
from flowstone_async.definition.listed_keys import KnownKeys, ListedKeys
from flowstone_async.definition.product import Dimension
from flowstone_async.errors import ConfigError, PartitionError

K = TypeVar("K", bound=PartitionKey)

_SHOWN = 10
_COMPARED = 500


class EnumeratedKeys(Dimension[K]):
    """Keys in the order in which something lists them."""

    __slots__ = ()

    @abstractmethod
    def listed(self, known: KnownKeys | None = None) -> ListedKeys[K]:
        """Return the keys as they are now.

        Raises:
            ConfigError: They are not known here.
        """

    @override
    def validate(self, key: object, known: KnownKeys | None = None) -> K:
        typed = self.typed(key)
        listed = self.listed(known)
        if listed.find(typed) is None:
            raise self.unknown(typed, listed.keys)
        return typed

    @override
    def space(self, known: KnownKeys | None = None) -> KeySpace[K]:
        return self.listed(known)

    def range(self, first: K | str, last: K | str, known: KnownKeys | None = None) -> KeyRange[K]:
        """Return the keys from one to another in the order of the set, both included.

        Example:
            >>> list(Keys("us", "eu", "asia").range("us", "eu"))
            ['us', 'eu']

        Raises:
            PartitionError: One of them is outside the set, or the last is before the first.
        """
        return self.between(first, last, known)

    @override
    def between(self, first: object, last: object, known: KnownKeys | None = None) -> KeyRange[K]:
        listed = self.listed(known)
        low, high = (self._place(end, listed) for end in (first, last))
        if high < low:
            raise PartitionError(
                f"the range from {first!r} to {last!r} of {self.describe()} ends before it starts",
                hint="Swap the two: the order is that of the set.",
            )
        return KeyRange(listed, Indexes(low, high + 1))

    def typed(self, key: object) -> K:
        """Return the key as the store gives it back, whether it is listed or not.

        Raises:
            PartitionError: It is missing, or of another type than the set's keys.
        """
        if key is None:
            raise missing_key(self, "Pass partition=<key>.")
        plain = canonical_key(key)
        if not fits(plain, self.key_type):
            raise wrong_type(key, self, f"Pass a key of type {type_text(self.key_type)}.")
        return cast("K", plain)

    def unknown(self, key: K, listed: Sequence[K]) -> PartitionError:
        """Return the error for a key that is not listed."""
        import difflib

        names = {format_key(each): each for each in listed[:_COMPARED]}
        near = [repr(names[each]) for each in difflib.get_close_matches(format_key(key), names, n=3)]
        return PartitionError(
            f"{key!r} is not one of {shown(listed)}",
            partition=key,
            details={"nearest": near},
            hint=f"Did you mean {' or '.join(near)}?" if near else self.remedy,
        )

    @property
    def remedy(self) -> str | None:
        """What to do about a key that is not listed, where none is like it."""
        return None

    def _place(self, end: object, listed: ListedKeys[K]) -> int:
        typed = self.parse(end) if isinstance(end, str) and not fits(end, self.key_type) else self.typed(end)
        place = listed.find(typed)
        if place is None:
            raise self.unknown(typed, listed.keys)
        return place


@final
class Keys(EnumeratedKeys[K]):
    """A fixed list of keys, in the order given.

    Example:
        >>> regions = Keys("us", "eu", "asia")
        >>> regions.next("us"), regions.count(now)
        ('eu', 3)

    Raises:
        ConfigError: There is none, or one comes twice.
        PartitionError: One is of a type that cannot be a key.
    """

    __slots__ = ("_key_type", "_listed")

    def __init__(self, *names: K) -> None:
        if not names:
            raise ConfigError("Keys() has no keys", hint='Name them: Keys("us", "eu").')
        if len(names) == 1 and isinstance(names[0], list | set | dict | frozenset):
            raise ConfigError(f"Keys({names[0]!r}) takes the keys themselves", hint="Write Keys(*names).")
        keys = [cast("K", canonical_key(name)) for name in names]
        if None in keys:
            raise ConfigError("None is no key", hint="Leave it out.")
        self._listed: ListedKeys[K] = ListedKeys(keys, f"keys {shown(keys)}")
        if self._listed.extent < len(keys):
            twice = next(key for place, key in enumerate(keys) if self._listed.find(key) != place)
            raise ConfigError(f"Keys(...) names {twice!r} twice", hint="Name each key once.")
        kinds = tuple(dict.fromkeys(_type_of(key) for key in keys))
        self._key_type: object = kinds[0] if len(kinds) == 1 else Union[kinds]  # noqa: UP007 - known only now

    @property
    @override
    def key_type(self) -> object:
        return self._key_type

    @override
    def listed(self, known: KnownKeys | None = None) -> ListedKeys[K]:
        return self._listed

    @override
    def parse(self, text: str) -> K:
        return chosen(text, self._listed.keys, self.key_type)

    @override
    def describe(self) -> str:
        return self._listed.describe()

    @override
    def identity(self, owner: str | None = None) -> str:
        names = "\n".join(encode_key(key) for key in self._listed.keys)
        return f"keys:{self._listed.extent}:{blake2b(names.encode(), digest_size=12).hexdigest()}"

    @override
    def __eq__(self, other: object) -> bool:
        return isinstance(other, Keys) and self._listed == cast("Keys[PartitionKey]", other)._listed

    @override
    def __hash__(self) -> int:
        return hash(self._listed)

    @override
    def __repr__(self) -> str:
        return f"Keys({', '.join(map(repr, self._listed.keys))})"


def chosen(text: str, keys: Iterable[K], key_type: object) -> K:
    """Return the key that somebody typed out of those that there are, or what it is as text of the type.

    Raises:
        PartitionError: It could be several of them, or is no text of the type.
    """
    found = list({encode_key(key): key for key in keys if text in {format_key(key), encode_key(key)}}.values())
    if len(found) > 1:
        raise PartitionError(
            f"{text!r} could be {' or '.join(map(repr, found))}",
            hint=f"Write it in its encoded form: {' or '.join(encode_key(key) for key in found)}.",
        )
    return found[0] if found else cast("K", parse_key(text, key_type))


def shown(keys: Sequence[object]) -> str:
    """Return the first few of some keys, for a message."""
    names = ", ".join(map(repr, keys[:_SHOWN]))
    more = len(keys) - _SHOWN
    return f"{names} and {more} more" if more > 0 else names or "no keys"


def _type_of(key: PartitionKey) -> object:
    return GenericAlias(tuple, tuple(map(_type_of, key))) if isinstance(key, tuple) else type(key)
