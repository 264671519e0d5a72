"""The store's port for keys of partition sets that are added at run time."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol


class PartitionKeys(Protocol):
    """The keys of dynamic partition sets, by the set's identity; keys are encoded."""

    async def known(self, identity: str) -> tuple[str, ...]:
        """Return the keys of a set in the order in which they were added."""
        ...

    async def add(self, identity: str, keys: Collection[str]) -> int:
        """Add keys; return how many were not there. A key that is added again keeps its place."""
        ...

    async def remove(self, identity: str, keys: Collection[str]) -> int:
        """Remove keys; return how many were there. What is stored for them stays."""
        ...
