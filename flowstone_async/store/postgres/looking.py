"""The half of the port on Postgres that only looks: each call goes to the one that does it."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime

from typing_extensions import override

from flowstone_async.store.figures import Figures
from flowstone_async.store.postgres.catalog import Catalog
from flowstone_async.store.postgres.connections import Connections
from flowstone_async.store.postgres.history import History
from flowstone_async.store.postgres.indexes import index_faults
from flowstone_async.store.postgres.instants import Instants
from flowstone_async.store.postgres.queue import Queue
from flowstone_async.store.postgres.reading import RunReader
from flowstone_async.store.postgres.statistics import held_faults, read_statistics, stray_faults
from flowstone_async.store.postgres.verify import verify
from flowstone_async.store.protocol import Store
from flowstone_async.store.records import (
    AssetState,
    AuditEntry,
    EventRecord,
    Fault,
    LiveWorker,
    QueueState,
    RunRecord,
    RunState,
    Statistics,
    StoredEvent,
    Unswept,
)
from flowstone_async.types import AssetKey, Materialization


class LookingStore(Store):
    """What a store on Postgres tells, without changing anything."""

    _connections: Connections
    _instants: Instants
    _catalog: Catalog
    _history: History
    _queue: Queue
    _runs: RunReader

    @override
    async def owned(self, worker: str, pipelines: Sequence[str]) -> Mapping[str, int]:
        return await self._queue.owned(worker, pipelines)

    @override
    async def moved_on(self, owned: Mapping[str, int]) -> frozenset[str]:
        return await self._queue.moved_on(owned)

    @override
    async def run(self, run_id: str) -> RunRecord | None:
        return await self._runs.run(run_id)

    @override
    async def runs(
        self,
        *,
        pipelines: Sequence[str],
        state: RunState | None = None,
        asset: str | None = None,
        limit: int = 50,
        after: str | None = None,
    ) -> tuple[RunRecord, ...]:
        return await self._history.runs(pipelines, state=state, asset=asset, limit=limit, after=after)

    @override
    async def events(self, run_id: str, *, after: int = 0, limit: int = 1000) -> tuple[EventRecord, ...]:
        return await self._history.events(run_id, after=after, limit=limit)

    @override
    async def all_events(
        self, *, pipelines: Sequence[str], after: int = 0, limit: int = 1000
    ) -> tuple[StoredEvent, ...]:
        return await self._history.all_events(pipelines, after=after, limit=limit)

    @override
    async def audit(
        self, *, limit: int = 100, after: int | None = None
    ) -> tuple[tuple[int, datetime, AuditEntry], ...]:
        return await self._history.audit(limit=limit, after=after)

    @override
    async def keys(
        self, pipeline: str, asset: str, io: str, *, limit: int = 1000, after: str | None = None
    ) -> tuple[AssetState, ...]:
        return await self._catalog.keys(pipeline, asset, io, limit=limit, after=after)

    @override
    async def stored_assets(self, pipeline: str) -> Mapping[str, int]:
        return await self._catalog.stored_assets(pipeline)

    @override
    async def upstream(self, materialization: str) -> tuple[tuple[AssetKey, str], ...]:
        return await self._catalog.upstream(materialization)

    @override
    async def recorded(self, materializations: Collection[str]) -> frozenset[str]:
        return await self._catalog.recorded(materializations)

    @override
    async def materializations(self, wanted: Collection[str]) -> Mapping[str, Materialization]:
        return await self._catalog.materializations(wanted)

    @override
    async def durations(self, pipeline: str, assets: Sequence[str]) -> Mapping[str, float]:
        return await self._catalog.durations(pipeline, assets)

    @override
    async def statistics(self) -> Statistics:
        return await read_statistics(self._connections)

    @override
    async def queue(self, pipelines: Sequence[str]) -> QueueState:
        return await self._history.queue(pipelines)

    @override
    async def figures(self, pipelines: Sequence[str]) -> Figures:
        return await self._history.figures(pipelines)

    @override
    async def workers(self) -> tuple[LiveWorker, ...]:
        return await self._history.workers()

    @override
    async def faults(self) -> tuple[Fault, ...]:
        found = [await each(self._connections) for each in (index_faults, stray_faults, held_faults)]
        return tuple(fault for faults in found for fault in faults)

    @override
    async def unswept(self) -> Unswept:
        return Unswept(*(await self._connections.fetch("unswept"))[0])

    @override
    async def verify(self) -> tuple[Fault, ...]:
        return await verify(self._connections)

    @override
    async def health(self) -> Mapping[str, object]:
        asked = time.monotonic()
        instant, version, schema = (await self._connections.fetch("ping", self._instants.given()))[0]
        self._instants.learn(instant)
        return {
            "store": "postgres",
            "latency": time.monotonic() - asked,
            "server": version,
            "schema": schema,
            "where": self._connections.where,
        }
