"""The port on memory: each method is one short piece of work under the lock."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import islice
from typing import Self

from typing_extensions import override

from flowstone_async.clock import Clock
from flowstone_async.errors import ConfigError, Failure
from flowstone_async.store.figures import Figures
from flowstone_async.store.memory import figures, lineage, ownership, queue
from flowstone_async.store.memory.lease import Lease
from flowstone_async.store.memory.memory import Memory
from flowstone_async.store.memory.run import Run
from flowstone_async.store.memory.scatter import StoredScatter
from flowstone_async.store.memory.step import advance
from flowstone_async.store.protocol import Store
from flowstone_async.store.records import (
    Advance,
    Advanced,
    AssetState,
    AuditEntry,
    EventRecord,
    Fault,
    LiveWorker,
    Pruned,
    QueueState,
    Removed,
    RunRecord,
    RunState,
    StoredEvent,
    Submission,
    Submitted,
    Unswept,
    Worker,
)
from flowstone_async.store.redrives import Redrive
from flowstone_async.types import AssetKey, Materialization
from flowstone_async.waiters import Waiter


class MemoryStore(Store):
    """A store without durability, for one process.

    It is tied to no event loop and may be used from several loops and threads at once. `share` gives another engine
    a handle of its own on the same records, as two engines have on one database; `close` ends what was opened
    through its handle, and the records stay as long as any handle does. A superseded materialization is forgotten in
    the step that supersedes it, together with its payload and chunks. A lease never expires of its own accord:
    nobody outlives the process; tests call `expire`.

    Args:
        clock: Where instants and timers come from.
        history: How many finished runs are kept, with their events.
    """

    durable = False

    def __init__(self, clock: Clock, *, history: int = 1000) -> None:
        self._attach(Memory(clock, history))

    @property
    def secret(self) -> bytes:
        """What engines on this memory sign with that were given nothing else: the same for all of them."""
        return self._memory.secret

    def share(self) -> Self:
        """Return another handle on the same records, with no worker of its own yet."""
        handle = copy.copy(self)
        handle._attach(self._memory)  # noqa: SLF001 - of the same class
        return handle

    def _attach(self, memory: Memory) -> None:
        self._memory = memory
        self._lock = memory.lock
        self._opened: list[str] = []
        self.values = memory.values
        self.partition_keys = memory.partition_keys
        opened = self._opened
        self.limits = memory.limits.of(lambda: opened[-1] if opened else None)
        self.scatters, self.crews, self.steps = memory.scatters, None, memory.steps
        self.gates, self.api_tokens = memory.gates, memory.api_tokens

    def expire(self, worker: str) -> None:
        """For tests: let a worker die, as if its lease had expired. Its `lost` is called, its runs become orphans."""
        with self._lock:
            ownership.expire(self._memory, worker)

    @override
    async def open(self, worker: Worker, *, lease: float | None, lost: Callable[[], None]) -> None:
        if lease is not None:
            with self._lock:
                self._memory.leases[worker.id] = Lease(worker, self._memory.clock.now(), lost)
                self._opened.append(worker.id)

    @override
    async def rejoin(self, worker: Worker, *, lease: float, lost: Callable[[], None]) -> None:
        await self.open(worker, lease=lease, lost=lost)

    @override
    async def close(self) -> None:
        with self._lock:
            ownership.leave(self._memory, self._opened)
            self._opened.clear()
            self._memory.waiters.wake_all()
            self._memory.limits.wake_all()

    @property
    @override
    def identity(self) -> str | None:
        return self._memory.identity

    @override
    def now(self) -> datetime:
        return self._memory.clock.now()

    @override
    async def states(self, keys: Collection[AssetKey]) -> Mapping[AssetKey, AssetState]:
        with self._lock:
            return self._memory.keys.states(keys)

    @override
    async def advance(self, step: Advance) -> Advanced:
        with self._lock:
            return advance(self._memory, step)

    @override
    async def submit(
        self, submission: Submission, *, connection: object = None, redrives: Sequence[Redrive] = ()
    ) -> Submitted:
        if connection is not None:
            raise ConfigError(
                "conn= needs a store on Postgres: a memory store takes part in no transaction",
                hint="Leave it out, or open the engine on the database of the connection.",
            )
        with self._lock:
            memory, run_id = self._memory, submission.run.id
            made: list[tuple[Redrive, StoredScatter]] = []
            if redrives and not queue.joins(memory, submission):
                active = memory.active.__contains__
                begun = ((each, memory.scatters.redriven(each, run_id, active)) for each in redrives)
                made = [(each, scatter) for each, scatter in begun if scatter is not None]
            run = queue.submit(memory, submission)
            for each, scatter in made:
                memory.scatters.keep(scatter)
                memory.note(() if each.audit is None else (each.audit,), memory.clock.now())
            return Submitted(run.record(), created=run.id == run_id)

    @override
    async def claim(self, worker: str, pipelines: Sequence[str], *, limit: int) -> tuple[RunRecord, ...]:
        with self._lock:
            return tuple(run.record() for run in queue.claim(self._memory, worker, pipelines, limit))

    @override
    async def take_orphans(
        self, worker: str, pipelines: Sequence[str], *, limit: int, run_id: str | None = None
    ) -> tuple[RunRecord, ...]:
        with self._lock:
            taken = ownership.take_orphans(self._memory, worker, pipelines, limit, run_id)
            return tuple(run.record() for run in taken)

    @override
    async def owned(self, worker: str, pipelines: Sequence[str]) -> Mapping[str, int]:
        with self._lock:
            return {
                run.id: run.fence
                for run in self._memory.runs.values()
                if run.state == "running" and run.worker == worker and run.created.pipeline in pipelines
            }

    @override
    async def moved_on(self, owned: Mapping[str, int]) -> frozenset[str]:
        with self._lock:
            runs = self._memory.runs
            return frozenset(
                run_id
                for run_id, fence in owned.items()
                if run_id not in runs or runs[run_id].final or runs[run_id].fence != fence
            )

    @override
    async def hand_back(self, run_id: str, fence: int) -> None:
        with self._lock:
            run = self._memory.runs.get(run_id)
            if run is not None and run.accepts == fence:
                ownership.hand_back(self._memory, run)

    @override
    async def run(self, run_id: str) -> RunRecord | None:
        with self._lock:
            run = self._memory.runs.get(run_id)
            return None if run is None else run.record()

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
        def wanted(run: Run) -> bool:
            created = run.created
            if state is not None and run.state != state:
                return False
            return created.pipeline in pipelines and (asset is None or asset in created.targets)

        with self._lock:
            newest = reversed(self._memory.runs.values())
            if after is not None:
                for run in newest:
                    if run.id == after:
                        break
            return tuple(run.record() for run in islice(filter(wanted, newest), limit))

    @override
    async def cancel(
        self,
        run_id: str,
        events: Sequence[EventRecord],
        audit: Sequence[AuditEntry],
        *,
        unless_joined: bool = False,
    ) -> RunRecord | None:
        with self._lock:
            run = self._memory.runs.get(run_id)
            kept = run is not None and unless_joined and (run.joined or run.created.submitted)
            if run is not None and not run.final and not kept:
                ownership.end(self._memory, run, "cancelled", None, events, audit)
            return None if run is None else run.record()

    @override
    async def join(self, run_id: str) -> bool:
        with self._lock:
            return ownership.join(self._memory, run_id)

    @override
    async def fail(
        self, run_id: str, fence: int, error: Failure, events: Sequence[EventRecord], audit: Sequence[AuditEntry]
    ) -> RunRecord | None:
        with self._lock:
            run = self._memory.runs.get(run_id)
            if run is not None and not run.final and run.accepts == fence:
                ownership.end(self._memory, run, "failed", error, events, audit)
            return None if run is None else run.record()

    @override
    async def events(self, run_id: str, *, after: int = 0, limit: int = 1000) -> tuple[EventRecord, ...]:
        with self._lock:
            run = self._memory.runs.get(run_id)
            return () if run is None else tuple(run.events[after : after + limit])

    @override
    async def all_events(
        self, *, pipelines: Sequence[str], after: int = 0, limit: int = 1000
    ) -> tuple[StoredEvent, ...]:
        with self._lock:
            return tuple(islice(self._memory.log.behind(after, pipelines), limit))

    @override
    async def changed(self, topic: str, *, within: float) -> None:
        if within <= 0:
            return
        waiters = self._memory.waiters
        waiter = Waiter()
        with self._lock:
            waiters.add(topic, waiter)
        timer = self._memory.clock.call_later(within, waiter.expire)
        try:
            await waiter.woken()
        finally:
            timer.cancel()
            with self._lock:
                waiters.discard(topic, waiter)

    @override
    async def keys(
        self, pipeline: str, asset: str, io: str, *, limit: int = 1000, after: str | None = None
    ) -> tuple[AssetState, ...]:
        with self._lock:
            stored = self._memory.keys.assets.get((pipeline, asset))
            return () if stored is None else tuple(key.shown() for key in stored.page(io, limit, after))

    @override
    async def stored_assets(self, pipeline: str) -> Mapping[str, int]:
        with self._lock:
            return {
                name: sum(key.current is not None for key in asset.keys.values())
                for (of, name), asset in self._memory.keys.assets.items()
                if of == pipeline
            }

    @override
    async def rename(self, pipeline: str, old: str, new: str) -> int:
        with self._lock:
            return lineage.rename(self._memory, pipeline, old, new)

    @override
    async def invalidate(
        self,
        keys: Collection[AssetKey],
        *,
        cascade: bool,
        audit: Sequence[AuditEntry] = (),
    ) -> tuple[Removed, ...]:
        with self._lock:
            removed = lineage.invalidate(self._memory, keys, cascade=cascade)
            self._memory.note(audit, self._memory.clock.now())
            return tuple(removed)

    @override
    async def upstream(self, materialization: str) -> tuple[tuple[AssetKey, str], ...]:
        with self._lock:
            key = self._memory.keys.by_materialization.get(materialization)
            return () if key is None or key.current is None else lineage.edges(key.current)

    @override
    async def recorded(self, materializations: Collection[str]) -> frozenset[str]:
        with self._lock:
            return frozenset(filter(self._memory.keys.by_materialization.__contains__, materializations))

    @override
    async def materializations(self, wanted: Collection[str]) -> Mapping[str, Materialization]:
        with self._lock:
            keys = self._memory.keys.by_materialization
            found = [made for id_ in wanted if id_ in keys and (made := keys[id_].materialization()) is not None]
            return {made.id: made for made in found}

    @override
    async def durations(self, pipeline: str, assets: Sequence[str]) -> Mapping[str, float]:
        from statistics import median  # with the fractions and decimals that it needs

        with self._lock:
            known = self._memory.keys.assets
            found = ((name, known.get((pipeline, name))) for name in assets)
            return {name: median(asset.durations) for name, asset in found if asset is not None and asset.durations}

    @override
    async def prune(self, *, runs: float | None, values: float | None, limit: int = 1000) -> Pruned:
        memory = self._memory
        with self._lock:
            now = memory.clock.now()
            ended = 0 if runs is None else memory.forget_older(now - timedelta(seconds=runs), limit)
            memory.values.prune(memory.keys.by_materialization, now)
            memory.gates.prune(now)
        return Pruned(ended, ())

    @override
    async def maintain(self) -> None:
        await self._memory.limits.forget_idle()

    @override
    async def statistics(self) -> None:
        return None

    @override
    async def audit(
        self, *, limit: int = 100, after: int | None = None
    ) -> tuple[tuple[int, datetime, AuditEntry], ...]:
        with self._lock:
            below = (act for act in reversed(self._memory.acts) if after is None or act[0] < after)
            return tuple(islice(below, limit))

    @override
    async def queue(self, pipelines: Sequence[str]) -> QueueState:
        with self._lock:
            return queue.count(self._memory, pipelines)

    @override
    async def figures(self, pipelines: Sequence[str]) -> Figures:
        return await figures.count(self._memory, pipelines)

    @override
    async def workers(self) -> tuple[LiveWorker, ...]:
        with self._lock:
            return tuple(LiveWorker(each.worker, each.started_at, None) for each in self._memory.leases.values())

    @override
    async def faults(self) -> tuple[Fault, ...]:
        return ()

    @override
    async def unswept(self) -> Unswept:
        return Unswept()

    @override
    async def verify(self) -> tuple[Fault, ...]:
        return ()

    @override
    async def health(self) -> Mapping[str, object]:
        with self._lock:
            return {"store": "memory", "latency": 0.0, "runs": len(self._memory.runs)}
