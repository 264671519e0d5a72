"""The port on Postgres: opens and wires the parts, and gives each call to the one that does it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from datetime import datetime

from asyncpg.pool import Pool
from typing_extensions import override

from flowstone_async.clock import Clock
from flowstone_async.errors import ConfigError, Failure, FlowstoneError, StoreUnavailable
from flowstone_async.store.postgres.api_tokens import PostgresApiTokens
from flowstone_async.store.postgres.catalog import Catalog
from flowstone_async.store.postgres.committer import Committer
from flowstone_async.store.postgres.connections import Connections
from flowstone_async.store.postgres.crews import PostgresCrews
from flowstone_async.store.postgres.gates import PostgresGates
from flowstone_async.store.postgres.hints import Hints
from flowstone_async.store.postgres.history import History
from flowstone_async.store.postgres.identifiers import is_id
from flowstone_async.store.postgres.instants import Instants
from flowstone_async.store.postgres.lease import Lease
from flowstone_async.store.postgres.ledger import DrivenRun
from flowstone_async.store.postgres.limits import PostgresLimits
from flowstone_async.store.postgres.looking import LookingStore
from flowstone_async.store.postgres.migrate import migrate, require_current
from flowstone_async.store.postgres.notifier import Notifier
from flowstone_async.store.postgres.ownership import Ownership
from flowstone_async.store.postgres.partition_keys import PostgresPartitionKeys
from flowstone_async.store.postgres.partitions import Partitions
from flowstone_async.store.postgres.queue import Queue
from flowstone_async.store.postgres.reading import RunReader, StateReader
from flowstone_async.store.postgres.renaming import rename
from flowstone_async.store.postgres.retention import Retention
from flowstone_async.store.postgres.scatters import PostgresScatters
from flowstone_async.store.postgres.steps import PostgresSteps
from flowstone_async.store.postgres.values import PostgresValues
from flowstone_async.store.records import (
    Advance,
    Advanced,
    AssetState,
    AuditEntry,
    EventRecord,
    Pruned,
    Removed,
    RunRecord,
    Submission,
    Submitted,
    Worker,
)
from flowstone_async.store.redrives import Redrive
from flowstone_async.types import AssetKey

_CLOSE = 10.0
_FIRST_WAIT = 0.1


class PostgresStore(LookingStore):
    """A durable store: everything it acknowledges survives the death of any process.

    Args:
        dsn: Address of the server, or a pool of the caller's, which is used and never closed. A pool alone can
            register no worker: give `direct` too.
        direct: Address of the server itself for the listener, the lease and migrations, where `dsn` leads through a
            transaction pooler. Statements then prepare nothing and are each a transaction of their own.
        clock: Where instants come from if it is virtual; otherwise they come from the database. Leases always run on
            real time.
        migrate: Whether `open` brings the schema up to date, or refuses one that is not.
        notify: Whether to tell other processes of changes, and to listen to theirs; without it they look every
            `poll` seconds.
        poll: Seconds after which `changed` returns at the latest.
        alive: Proof of life of a worker by its id: what it says is dead is dead at once, whatever its lease says.
        patience: Seconds for which a commit is tried again while the server cannot be reached; a query, at most 10.
    """

    durable = True

    def __init__(
        self,
        dsn: str | Pool,
        *,
        direct: str | None = None,
        clock: Clock,
        migrate: bool = True,
        notify: bool = True,
        poll: float = 1.0,
        alive: Callable[[str], bool] | None = None,
        patience: float = 30.0,
    ) -> None:
        self._connections = Connections(dsn, direct=direct, reconnect=patience)
        self._instants = Instants(clock)
        self._migrate = migrate
        self._notify = notify
        self._poll = poll
        self._lease: Lease | None = None
        self._worker = ""
        self._identity: str | None = None
        self._migrated: Sequence[str] = ()
        self._host: asyncio.Task[None] | None = None
        self._working: list[asyncio.Task[None]] = []
        self._notifier = Notifier(self._connections, enabled=notify)
        self._hints = Hints(self._notifier.tell)
        told = self._connections, self._instants, self._hints
        self._committer = Committer(*told, owns=self._owns, process=self._process, patience=patience)
        self._reader = StateReader(self._connections)
        self._runs = RunReader(self._connections)
        self._history = History(self._connections, self._instants)
        self._catalog = Catalog(self._connections, self._instants, self._hints)
        self._partitions = Partitions(self._connections, self._instants)
        self._retention = Retention(self._connections, self._instants, self._partitions)
        self.values = PostgresValues(self._connections, self._instants)
        self.partition_keys = PostgresPartitionKeys(self._connections)
        self.limits = self._limits = PostgresLimits(
            self._connections,
            self._instants,
            self._hints,
            process=self._process,
            leased=lambda: None if self._lease is None else self._lease.holds(),
            poll=poll,
        )
        self.scatters = PostgresScatters(self._connections, self._instants, owns=self._owns, patience=patience)
        self.gates = PostgresGates(
            self._connections,
            self._instants,
            self._hints,
            committer=self._committer,
            owns=self._owns,
            patience=patience,
        )
        self.steps = self._steps = PostgresSteps(self._connections, self._instants, owns=self._owns, patience=patience)
        self.api_tokens = PostgresApiTokens(self._connections, self._instants, patience=patience)
        self.crews = PostgresCrews(self._connections, owns=self._owns)
        self._queue = Queue(self._connections, self._instants, self._hints)
        self._ownership = Ownership(self._connections, self._instants, self._hints, healthy=self._healthy, alive=alive)

    def _owns(self) -> bool:
        return self._lease is None or self._lease.holds()

    def _healthy(self) -> bool:
        return self._lease is not None and self._lease.is_healthy()

    @override
    async def open(self, worker: Worker, *, lease: float | None, lost: Callable[[], None]) -> None:
        if self._worker:
            raise ConfigError("the store was opened before", hint="Make a new store for each opening.")
        if lease is not None and self._connections.direct_address is None:
            raise ConfigError(
                "a pool alone can keep no lease", hint="Give the server's DSN with direct=, or use no worker: slots=0."
            )
        self._worker = worker.id
        try:
            await self._connections.open()
            async with self._connections.translated(), self._connections.direct() as session:
                self._migrated = await (migrate if self._migrate else require_current)(session)
            if lease is not None or self._migrated:
                await self._partitions.add()
            self._instants.learn((await self._connections.fetch("ping", None))[0][0])
            self._identity = await self._catalog.identity()
            if lease is not None:
                self._lease = Lease(self._connections, worker, lease, lost)
                await self._lease.start()
            started = asyncio.Event()
            self._host = asyncio.create_task(self._serve(started), name=f"flowstone store {worker.id}")
            await started.wait()
        except BaseException:
            host, self._host = self._host, None
            await self._leave(host)
            raise

    async def _serve(self, started: asyncio.Event) -> None:
        """Run the store's own tasks: they outlive the task that opens the store, and may end in another."""
        async with asyncio.TaskGroup() as group:
            for number, lane in enumerate(self._committer.lanes):
                self._working.append(group.create_task(lane.serve(), name=f"flowstone committer {number}"))
            for reader in (self._reader, self._runs):
                self._working.append(group.create_task(reader.serve(), name="flowstone reader"))
            for lane in self._limits.lanes:
                self._working.append(group.create_task(lane.serve(), name="flowstone limits"))
            self._working.append(group.create_task(self._steps.lane.serve(), name="flowstone steps"))
            group.create_task(self._notifier.serve(self._hints), name="flowstone notifier")
            started.set()

    @override
    async def rejoin(self, worker: Worker, *, lease: float, lost: Callable[[], None]) -> None:
        if self._lease is not None:
            await self._lease.stop()
        renewed = Lease(self._connections, worker, lease, lost)
        await renewed.start()
        self._committer.ledger.clear()
        self._lease, self._worker = renewed, worker.id

    @override
    async def close(self) -> None:
        host, self._host = self._host, None
        if host is None:
            return
        try:
            with suppress(TimeoutError, StoreUnavailable):
                async with asyncio.timeout(_CLOSE):
                    await self._stop(host)
        finally:
            await self._leave(host)

    async def _stop(self, host: asyncio.Task[None]) -> None:
        """Finish what was begun, then give up what the worker still owns."""
        self._committer.close()
        self._reader.close()
        self._runs.close()
        self._limits.close()
        self._steps.lane.close()
        for task in self._working:
            await task
        owns = self._lease is not None and self._lease.holds()
        if owns:
            await self._ownership.hand_back_all(self._worker)
        await self._limits.leave(slots=owns)
        self._notifier.close()
        await host

    async def _leave(self, host: asyncio.Task[None] | None = None) -> None:
        try:
            if host is not None:
                host.cancel()
                await asyncio.wait([host])
            if self._lease is not None:
                await self._lease.stop()
            await self._steps.close()
        finally:
            await self._connections.close()

    async def expire(self, worker: str) -> None:
        """For tests: let a worker die, as if its lease had expired and another worker had noticed."""
        await self._ownership.expire(worker)
        if self._lease is not None and worker == self._worker:
            self._lease.renew_now()

    @property
    @override
    def unreachable(self) -> FlowstoneError | None:
        return None if self._lease is None else self._lease.unreachable

    @property
    @override
    def migrated(self) -> Sequence[str]:
        return self._migrated

    @property
    @override
    def identity(self) -> str | None:
        return self._identity

    @override
    def now(self) -> datetime:
        return self._instants.now()

    @override
    async def states(self, keys: Collection[AssetKey]) -> Mapping[AssetKey, AssetState]:
        return await self._reader.read(keys)

    @override
    async def advance(self, step: Advance) -> Advanced:
        return await self._committer.advance(step, self._worker)

    def _process(self) -> str:
        return self._worker

    @override
    async def submit(
        self, submission: Submission, *, connection: object = None, redrives: Sequence[Redrive] = ()
    ) -> Submitted:
        return await self._queue.submit(submission, connection, redrives)

    @override
    async def claim(self, worker: str, pipelines: Sequence[str], *, limit: int) -> tuple[RunRecord, ...]:
        if self._lease is None or not self._lease.may_claim():
            return ()
        claimed = await self._queue.claim(worker, pipelines, limit)
        for run in claimed:
            self._committer.ledger[run.id] = DrivenRun(run.pipeline, worker)
        return claimed

    @override
    async def take_orphans(
        self, worker: str, pipelines: Sequence[str], *, limit: int, run_id: str | None = None
    ) -> tuple[RunRecord, ...]:
        return await self._ownership.take_orphans(worker, pipelines, limit, run_id) if self._owns() else ()

    @override
    async def hand_back(self, run_id: str, fence: int) -> None:
        await self._ownership.hand_back(run_id, fence)
        self._committer.ledger.pop(run_id, None)

    @override
    async def cancel(
        self,
        run_id: str,
        events: Sequence[EventRecord],
        audit: Sequence[AuditEntry],
        *,
        unless_joined: bool = False,
    ) -> RunRecord | None:
        return await self._ownership.cancel(run_id, events, audit, unless_joined=unless_joined)

    @override
    async def join(self, run_id: str) -> bool:
        return await self._ownership.join(run_id)

    @override
    async def fail(
        self, run_id: str, fence: int, error: Failure, events: Sequence[EventRecord], audit: Sequence[AuditEntry]
    ) -> RunRecord | None:
        return await self._ownership.fail(run_id, fence, error, events, audit)

    @override
    async def changed(self, topic: str, *, within: float) -> None:
        if within <= 0:
            return
        within = min(within, self._poll)
        if self._hints.follow(topic):
            # What has changed since the caller looked was not followed: the first wait is short.
            within = min(within, _FIRST_WAIT)
            if self._notify and topic.startswith("run:"):
                await self._watch(topic.removeprefix("run:"))
        await self._hints.wait(topic, within=within)

    async def _watch(self, run_id: str) -> None:
        """Ask the process that drives a run to tell of it."""
        if run_id not in self._committer.ledger and is_id(run_id):
            with suppress(StoreUnavailable):
                watched = await self._connections.fetch("watch", run_id)
                # It may have moved on before it was asked.
                self._hints.publish(f"run:{run_id}")
                if watched and watched[0]["queued"]:
                    self._hints.queued()

    @override
    async def rename(self, pipeline: str, old: str, new: str) -> int:
        return await rename(self._connections, pipeline, old, new)

    @override
    async def invalidate(
        self,
        keys: Collection[AssetKey],
        *,
        cascade: bool,
        audit: Sequence[AuditEntry] = (),
    ) -> tuple[Removed, ...]:
        return await self._catalog.invalidate(keys, cascade=cascade, audit=audit)

    @override
    async def prune(self, *, runs: float | None, values: float | None, limit: int = 1000) -> Pruned:
        return await self._retention.prune(runs=runs, values=values, limit=limit)

    @override
    async def maintain(self) -> None:
        await self._partitions.add()
        await self._partitions.add_deliveries()
        await self._partitions.analyze()
        await self._limits.prune()
