"""The keys of dynamic partition sets."""

from __future__ import annotations

from collections.abc import Collection
from threading import RLock

from typing_extensions import override

from flowstone_async.store.partition_keys import PartitionKeys


class MemoryPartitionKeys(PartitionKeys):
    """Keys by the identity of their set, in the order in which they were added."""

    def __init__(self, lock: RLock) -> None:
        self._lock = lock
        self._sets: dict[str, dict[str, None]] = {}

    @override
    async def known(self, identity: str) -> tuple[str, ...]:
        with self._lock:
            return tuple(self._sets.get(identity, ()))

    @override
    async def add(self, identity: str, keys: Collection[str]) -> int:
        with self._lock:
            held = self._sets.setdefault(identity, {})
            before = len(held)
            held.update((key, None) for key in keys if key not in held)
            return len(held) - before

    @override
    async def remove(self, identity: str, keys: Collection[str]) -> int:
        with self._lock:
            held = self._sets.get(identity, {})
            return sum(held.pop(key, key) is None for key in dict.fromkeys(keys))
