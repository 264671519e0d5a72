"""Values that the store keeps itself: payloads and streamed chunks."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Container
from datetime import datetime, timedelta
from threading import RLock

from typing_extensions import override

from flowstone_async.errors import ConfigError
from flowstone_async.store.protocol import Values
from flowstone_async.types import AssetKey

UNREFERENCED = timedelta(days=1)


class Stream:
    """Chunks by number, and when the last one came."""

    __slots__ = ("at", "chunks")

    def __init__(self, at: datetime) -> None:
        self.at = at
        self.chunks: dict[int, bytes] = {}


class MemoryValues(Values):
    """Payloads and chunks by materialization."""

    def __init__(self, lock: RLock, now: Callable[[], datetime]) -> None:
        self._lock = lock
        self._now = now
        self._payloads: dict[str, bytes] = {}
        self._streams: dict[str, Stream] = {}

    @override
    async def payload(self, materialization: str) -> bytes | None:
        return self._payloads.get(materialization)

    @override
    async def prepare_table(self, table: str) -> None:
        message = f"values cannot be kept in the table {table!r}: a memory store has no tables"
        raise ConfigError(message, hint="Use a Postgres store, or io.Memory().")

    @override
    async def table_payload(self, table: str, key: AssetKey) -> tuple[str, bytes] | None:
        return None

    @override
    async def delete_from_table(self, table: str, materialization: str, key: AssetKey) -> None:
        return

    @override
    async def append_chunk(self, materialization: str, no: int, data: bytes) -> None:
        with self._lock:
            at = self._now()
            stream = self._streams.setdefault(materialization, Stream(at))
            stream.at = at
            stream.chunks[no] = bytes(data)

    @override
    async def chunks(self, materialization: str) -> AsyncIterator[bytes]:
        with self._lock:
            stream = self._streams.get(materialization)
            numbers = sorted(stream.chunks) if stream is not None else []
        for number in numbers:
            if stream is None or number not in stream.chunks:
                return
            yield stream.chunks[number]

    @override
    async def delete(self, materializations: Collection[str]) -> None:
        with self._lock:
            for materialization in materializations:
                self.drop(materialization)

    def keep(self, materialization: str, payload: bytes) -> None:
        """Keep the payload of a materialization that is being committed; under the store's lock."""
        self._payloads[materialization] = payload

    def drop(self, materialization: str) -> None:
        """Delete a value; under the store's lock."""
        self._payloads.pop(materialization, None)
        self._streams.pop(materialization, None)

    def prune(self, current: Container[str], now: datetime) -> None:
        """Delete chunks without a record whose last one came a day ago; under the store's lock."""
        unreferenced = [
            materialization
            for materialization, stream in self._streams.items()
            if now - stream.at >= UNREFERENCED and materialization not in current
        ]
        for materialization in unreferenced:
            del self._streams[materialization]
