"""The keys of dynamic partition sets."""

from __future__ import annotations

from collections.abc import Collection

from typing_extensions import override

from flowstone_async.store.partition_keys import PartitionKeys
from flowstone_async.store.postgres.connections import Connections


class PostgresPartitionKeys(PartitionKeys):
    """Keys by the identity of their set, in the order in which they were added."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    @override
    async def known(self, identity: str) -> tuple[str, ...]:
        return tuple(row[0] for row in await self._connections.fetch("partition_keys", identity))

    @override
    async def add(self, identity: str, keys: Collection[str]) -> int:
        return len(await self._connections.fetch("add_partition_keys", identity, list(dict.fromkeys(keys))))

    @override
    async def remove(self, identity: str, keys: Collection[str]) -> int:
        return len(await self._connections.fetch("remove_partition_keys", identity, list(dict.fromkeys(keys))))
