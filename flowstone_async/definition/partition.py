"""What a definition says with a partition set: the set itself, the key of a parameter, and `over=` of an edge."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar, cast

from flowstone_async.definition.key_set import KeySet, locate
from flowstone_async.definition.mapping import KeyMapping, all_keys, last_keys

K_co = TypeVar("K_co", covariant=True)


class PartitionSet(KeySet[K_co]):
    """The declared set of valid keys of an asset, held as a rule and never as a list.

    Equal to every other set of the same rule. Its kinds are `Hourly`, `Daily`, `Weekly`, `Monthly`, `Every`, `Keys`,
    `Dynamic`, `Custom`, `Single`, and products of them.
    """

    __slots__ = ()

    def key(self) -> K_co:
        """Return the default of the parameter that receives the partition key: `day: date = days.key()`.

        Declared to return a key, so that a type checker compares the annotation.
        """
        return cast("K_co", KeyMarker(self))

    def last(self, n: int) -> KeyMapping:
        """Relate a key to the last `n` keys of this set, itself included: `dep(metrics, over=days.last(7))`.

        Keys before the start of the set are left out. The dependant has this set, one in step with it (the same kind
        of windows, begun elsewhere), or a product of either; other dimensions of the upstream stay as they are.

        Raises:
            ConfigError: `n` is no whole number from 1.
        """
        return last_keys(self, n)

    def all(self) -> KeyMapping:
        """Relate any key to all keys of this set, up to the last window that has closed: `over=days.all()`."""
        return all_keys(self)


@dataclass(frozen=True, slots=True)
class KeyMarker:
    """A parameter's default that stands for the partition key, or for its element of one dimension.

    Attributes:
        partition_set: The asset's set, or a dimension of it.
    """

    partition_set: KeySet[object]

    @property
    def key_type(self) -> object:
        """The type of what the parameter receives."""
        return self.partition_set.key_type

    def misfit(self, partition_set: KeySet[object]) -> str | None:
        """Return why the marker says nothing in an asset of that set, or None if it does."""
        if self.partition_set == partition_set or locate(self.partition_set, partition_set) is not None:
            return None
        return (
            f"the default is a key of {self.partition_set.describe()}, "
            f"but the asset's partitions are {partition_set.describe()}."
        )

    def pick(self, partition_set: KeySet[object] | None, key: object) -> object:
        """Return what the parameter receives.

        Args:
            partition_set: The asset's set, which the marker fits, or None if it follows the run's key.
            key: The key that the asset is computed for.

        Raises:
            PartitionError: The asset follows the run's key, and that is no key of the marker's set.
        """
        if partition_set is None:
            return self.partition_set.validate(key)
        if self.partition_set == partition_set:
            return key
        place = locate(self.partition_set, partition_set)
        return key if place is None else partition_set.parts(key)[place]
