"""Keys that follow no rule: given in a list, found in configuration, or added at run time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Generic, TypeVar, cast

from typing_extensions import override

from flowstone_async.definition.key_range import Indexes
from flowstone_async.definition.keys import PartitionKey, encode_key
from flowstone_async.errors import ConfigError, PartitionError

K_co = TypeVar("K_co", covariant=True)


class ListedKeys(Generic[K_co]):
    """Keys that follow no rule, in the order in which they were given, each of them once."""

    __slots__ = ("_index", "_keys", "_what")

    def __init__(self, keys: Iterable[K_co], what: str) -> None:
        listed: dict[str, K_co] = {}
        for key in keys:
            listed.setdefault(encode_key(cast("PartitionKey", key)), key)
        self._keys = tuple(listed.values())
        self._index = {text: index for index, text in enumerate(listed)}
        self._what = what

    @property
    def keys(self) -> tuple[K_co, ...]:
        """All of them."""
        return self._keys

    @property
    def extent(self) -> int:
        """How many there are."""
        return len(self._keys)

    @property
    def sorts_encoded(self) -> bool:
        """Always false: a list has the order it was given."""
        return False

    def describe(self) -> str:
        """Return what they are."""
        return self._what

    def find(self, key: object) -> int | None:
        """Return the index of a key, or None.

        Raises:
            PartitionError: The object is of a type that cannot be a key.
        """
        return self._index.get(encode_key(cast("PartitionKey", key)))

    def index_of(self, key: object) -> int:
        """Return the index of a key.

        Raises:
            PartitionError: It is not listed.
        """
        index = self.find(key)
        if index is None:
            raise PartitionError(f"{key!r} is not one of {self._what}", partition=key)
        return index

    def key_at(self, index: int) -> K_co:
        """Return the key at an index.

        Raises:
            PartitionError: There is no such index.
        """
        if not 0 <= index < len(self._keys):
            raise PartitionError(f"there is no key at index {index} of {self._what}, which has {len(self._keys)}")
        return self._keys[index]

    def iterate(self, indexes: Indexes) -> Iterator[K_co]:
        """Yield the keys at the indexes."""
        return (self._keys[index] for index in indexes)

    @override
    def __eq__(self, other: object) -> bool:
        return isinstance(other, ListedKeys) and tuple(self._index) == tuple(cast("ListedKeys[object]", other)._index)

    @override
    def __hash__(self) -> int:
        return hash(tuple(self._index))


class KnownKeys:
    """The keys of dynamic sets, as far as whoever asks has looked them up in the store.

    To judge one key, hold those of its `memberships` that exist; to count or list, hold all keys of `dynamic_sets`.

    Example:
        >>> known = KnownKeys({tenants: ["acme", "globex"]})
        >>> tenants.contains("acme", known)
        True
    """

    __slots__ = ("_listed",)

    def __init__(self, keys: Mapping[object, Iterable[object]]) -> None:
        self._listed = {each: ListedKeys(listed, f"the known keys of {each!r}") for each, listed in keys.items()}

    def listed(self, partition_set: object) -> ListedKeys[object]:
        """Return the known keys of a dynamic set, in the order in which they were added.

        Raises:
            ConfigError: The keys of that set were not looked up.
        """
        if partition_set not in self._listed:
            raise not_looked_up(partition_set)
        return self._listed[partition_set]


def not_looked_up(partition_set: object) -> ConfigError:
    """Return the error for a question that only the store can answer."""
    return ConfigError(
        f"the keys of {partition_set!r} are added at run time, so that only an engine knows them",
        hint="Ask engine.partitions(...), or pass known=KnownKeys({...}).",
    )
