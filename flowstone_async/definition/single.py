"""The set of no keys: an asset with exactly one value."""

from __future__ import annotations

from typing import final

from typing_extensions import override

from flowstone_async.definition.key_range import KeyRange, KeySpace
from flowstone_async.definition.key_set import KeySet
from flowstone_async.definition.listed_keys import KnownKeys, ListedKeys
from flowstone_async.definition.partition import PartitionSet

_ONE: ListedKeys[None] = ListedKeys((None,), "a single value")


@final
class Single(PartitionSet[None]):
    """One value whatever the run's key is: every key stands for None, and a whole backfill computes it once."""

    __slots__ = ()

    @property
    @override
    def key_type(self) -> object:
        return type(None)

    @property
    @override
    def dimensions(self) -> tuple[KeySet[object], ...]:
        return ()

    @override
    def validate(self, key: object, known: KnownKeys | None = None) -> None:
        """Return None."""

    @override
    def parse(self, text: str) -> None:
        """Return None."""

    @override
    def space(self, known: KnownKeys | None = None) -> KeySpace[None]:
        return _ONE

    @override
    def between(self, first: object, last: object, known: KnownKeys | None = None) -> KeyRange[None]:
        return self.whole()

    @override
    def only(self, key: object, known: KnownKeys | None = None) -> KeyRange[None]:
        return self.whole()

    @override
    def parts(self, key: object) -> tuple[object, ...]:
        return ()

    @override
    def describe(self) -> str:
        return "a single value"

    @override
    def identity(self, owner: str | None = None) -> str:
        return "single"

    @override
    def __eq__(self, other: object) -> bool:
        return isinstance(other, Single)

    @override
    def __hash__(self) -> int:
        return hash("single")

    @override
    def __repr__(self) -> str:
        return "Single()"
