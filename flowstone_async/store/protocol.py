"""The store's port: intents of the engine, not tables.

One contract suite (tests/contract) runs on every implementation. For all methods: a call took effect as a whole or
raised; a store that cannot be reached raises `StoreUnavailable`; none calls user code; each may be cancelled.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from datetime import datetime
from typing import Protocol

from flowstone_async.errors import Failure, FlowstoneError
from flowstone_async.limits.book import LimitBook
from flowstone_async.store.api_tokens import ApiTokens
from flowstone_async.store.crews import Crews
from flowstone_async.store.figures import Figures
from flowstone_async.store.gates import Gates
from flowstone_async.store.partition_keys import PartitionKeys
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
    Statistics,
    StoredEvent,
    Submission,
    Submitted,
    Unswept,
    Worker,
)
from flowstone_async.store.redrives import Redrive
from flowstone_async.store.scatters import Scatters
from flowstone_async.store.steps import Steps
from flowstone_async.types import AssetKey, Materialization


class Values(Protocol):
    """Where a store keeps values of its own: payloads committed with their record, and streamed chunks.

    Chunks are written ahead of the record that makes them visible; chunks whose record never came are deleted by
    `Store.prune` after a day.
    """

    async def payload(self, materialization: str) -> bytes | None:
        """Return the payload that was committed with a materialization; None if it is gone."""
        ...

    async def prepare_table(self, table: str) -> None:
        """Make the table of an `io.Postgres(table=...)` if it does not exist: `pipeline, asset, partition` (primary
        key), `materialization uuid, value bytea, stored_at timestamptz`. The name was checked before.

        Raises:
            ConfigError: The store has no tables (memory), or the table has another shape.
        """
        ...

    async def table_payload(self, table: str, key: AssetKey) -> tuple[str, bytes] | None:
        """Return the materialization and payload that the table holds for a key now, or None."""
        ...

    async def delete_from_table(self, table: str, materialization: str, key: AssetKey) -> None:
        """Delete the row of a key if it still holds that materialization."""
        ...

    async def append_chunk(self, materialization: str, no: int, data: bytes) -> None:
        """Keep chunk `no` (from 0) of a stream; repeating a call with the same number replaces it."""
        ...

    def chunks(self, materialization: str) -> AsyncIterator[bytes]:
        """Yield the chunks in order, a bounded number in memory at a time. No connection is held between two."""
        ...

    async def delete(self, materializations: Collection[str]) -> None:
        """Delete payloads and chunks; unknown ids are ignored."""
        ...


class Store(Protocol):
    """Where records live."""

    durable: bool
    values: Values
    partition_keys: PartitionKeys
    limits: LimitBook
    scatters: Scatters
    gates: Gates
    api_tokens: ApiTokens
    steps: Steps
    crews: Crews | None

    async def open(self, worker: Worker, *, lease: float | None, lost: Callable[[], None]) -> None:
        """Connect, migrate, and register `worker` under a lease that is renewed until `close`.

        Args:
            worker: The engine that opens the store.
            lease: Seconds a claim outlives its last renewal; None registers no worker (nothing may be claimed).
            lost: Called once, in the loop that opened the store, when the lease is lost: all work must stop, and
                every later `advance` of this worker's runs is refused.

        Raises:
            StoreUnavailable: It cannot be reached or refuses the login.
            ConfigError: The schema is newer than the library, the server is too old.
        """
        ...

    async def rejoin(self, worker: Worker, *, lease: float, lost: Callable[[], None]) -> None:
        """Register another worker after the one before has lost its lease; arguments as for `open`.

        Raises:
            StoreUnavailable: The store cannot be reached; try again.
        """
        ...

    async def close(self) -> None:
        """Hand back what the worker still owns, free its slots, end its lease, disconnect. Idempotent."""
        ...

    @property
    def unreachable(self) -> FlowstoneError | None:
        """Why the lease could not be renewed last time, if it is that the store cannot be reached; None otherwise."""
        return None

    @property
    def migrated(self) -> Sequence[str]:
        """Names of the changes that `open` has made to the schema, in order."""
        return ()

    @property
    def identity(self) -> str | None:
        """What tells this set of records from every other, also from a copy, once the store is open; or None: what is
        kept elsewhere then cannot be told from another store's.
        """
        ...

    def now(self) -> datetime:
        """Return the store's clock, without asking it: the last known instant plus the monotonic time since."""
        ...

    async def states(self, keys: Collection[AssetKey]) -> Mapping[AssetKey, AssetState]:
        """Return what is known of `keys`; unknown ones are left out. A bounded number of queries, no values."""
        ...

    async def advance(self, step: Advance) -> Advanced:
        """Commit one step of one run: all of it under the fencing token, or nothing (`accepted=False`).

        Atomic with each other: the run's creation or end, outcomes with their materializations, lineage (one edge
        for each input that has a materialization), payloads, events, audit entries, releases and claims. A claim is
        granted when no other run holds the key; a refused one leaves a mark, so that the release of the key wakes
        `changed("key:…")`. Calling it again with the same contents after a lost reply changes nothing more and
        answers the same. Concurrent calls share transactions.

        Raises:
            KeyConflict: `create` carries an id that exists already with other contents.
        """
        ...

    async def submit(
        self, submission: Submission, *, connection: object = None, redrives: Sequence[Redrive] = ()
    ) -> Submitted:
        """Put a run into the queue, with its audit entry; or return the run that it joins.

        That is the run that its key stands for, in whatever state it is; else an active run with the same `request`
        (one that waits for a later `at` only if that is the same). A key that was used counts from then on for the
        run that was joined. Concurrent calls with one key or request make one run.

        Args:
            submission: The run.
            connection: A connection of the caller's, in whose transaction everything is done; only where the store
                is on that database. The run then joins nothing but what its key stands for, and is not joined: one
                that has begun does not see what else the transaction writes.
            redrives: Scatters that the run begins with, each where one of an ended run is, which is left as it is
                (one that its run never ended is cancelled). Stored with the run, or not at all; not where it joins
                another one. No two scatters go on from the same one. Not with `connection`.

        Raises:
            KeyConflict: The key stands for another subject, or the run's id is taken.
            ConfigError: `connection` is none that the store can use; or a required redrive cannot be: the scatter is
                gone, goes on, has been gone on from already, or there is nothing to run.
        """
        ...

    async def claim(self, worker: str, pipelines: Sequence[str], *, limit: int) -> tuple[RunRecord, ...]:
        """Give `worker` queued runs of `pipelines` that are due: by priority, then since when they are due, then in
        order of submission. Each is running from then on, under a new fence. A worker without a live lease gets none.
        """
        ...

    async def take_orphans(
        self, worker: str, pipelines: Sequence[str], *, limit: int, run_id: str | None = None
    ) -> tuple[RunRecord, ...]:
        """Give `worker` running runs of `pipelines` whose owner is dead, with a new fence each.

        Also those that are not `continuable`, for the caller to end (`fail`). Claims stay with the run and count one
        more lost owner each.

        Args:
            worker: Who takes them; one without a live lease gets none.
            pipelines: Whose runs.
            limit: At most so many.
            run_id: Only this one.
        """
        ...

    async def hand_back(self, run_id: str, fence: int) -> None:
        """Give up a run so that another worker may take it at once; counts as no lost owner."""
        ...

    async def run(self, run_id: str) -> RunRecord | None:
        """Return one run."""
        ...

    async def runs(
        self,
        *,
        pipelines: Sequence[str],
        state: RunState | None = None,
        asset: str | None = None,
        limit: int = 50,
        after: str | None = None,
    ) -> tuple[RunRecord, ...]:
        """Return runs, newest first; `after` is the id of the last one of the previous page."""
        ...

    async def cancel(
        self,
        run_id: str,
        events: Sequence[EventRecord],
        audit: Sequence[AuditEntry],
        *,
        unless_joined: bool = False,
    ) -> RunRecord | None:
        """End a run that is not final as cancelled and move its fence, so that nothing of it commits any more.

        Its claimed keys become `cancelled` and free. `events` are appended with numbers that follow the run's last
        (their own numbers are ignored). Returns the run as it is now, or None if there is none; a run that is final
        already is returned unchanged and nothing is written. With `unless_joined` so is one that a submission made or
        joined; none joins it between the look and the end.
        """
        ...

    async def join(self, run_id: str) -> bool:
        """Stand for a run as a submission does that joined it (`cancel`); False if it has ended, or there is none."""
        ...

    async def fail(
        self, run_id: str, fence: int, error: Failure, events: Sequence[EventRecord], audit: Sequence[AuditEntry]
    ) -> RunRecord | None:
        """End a run as failed that its owner, under `fence`, does not drive; else as `cancel`.

        Its claimed keys become `failed` with the error, and free. A run that is owned under another fence is returned
        unchanged.
        """
        ...

    async def owned(self, worker: str, pipelines: Sequence[str]) -> Mapping[str, int]:
        """Return the running runs of `pipelines` that `worker` owns, with their fences."""
        ...

    async def moved_on(self, owned: Mapping[str, int]) -> frozenset[str]:
        """Return those of some runs, given with their fences, that have ended or are owned under another fence."""
        ...

    async def events(self, run_id: str, *, after: int = 0, limit: int = 1000) -> tuple[EventRecord, ...]:
        """Return the run's events with numbers above `after`, in order, at most about `limit`."""
        ...

    async def all_events(
        self, *, pipelines: Sequence[str], after: int = 0, limit: int = 1000
    ) -> tuple[StoredEvent, ...]:
        """Return events of all runs behind a cursor, in an order that no later commit can fill up from behind."""
        ...

    async def changed(self, topic: str, *, within: float) -> None:
        """Return when something about `topic` may have changed: `run:<id>`, `key:<asset key>`, `queue` (runs to be
        claimed), `woken` (suspended ones that go on); at the latest after `within` seconds. A hint only: look again.
        """
        ...

    async def keys(
        self, pipeline: str, asset: str, io: str, *, limit: int = 1000, after: str | None = None
    ) -> tuple[AssetState, ...]:
        """Return states of an asset's known partitions, ordered by encoded key, behind `after`."""
        ...

    async def stored_assets(self, pipeline: str) -> Mapping[str, int]:
        """Return asset name -> number of current values, for every asset the store knows of."""
        ...

    async def rename(self, pipeline: str, old: str, new: str) -> int:
        """Carry values, history and freshness of an asset over to another name; keys the new name has already
        stay. Lineage and inputs of dependants follow. Returns the number of keys moved.
        """
        ...

    async def invalidate(
        self,
        keys: Collection[AssetKey],
        *,
        cascade: bool,
        audit: Sequence[AuditEntry] = (),
    ) -> tuple[Removed, ...]:
        """Take the current materializations of `keys` away, with `cascade` also of everything computed from them,
        transitively, each once. A computation that is running keeps its claim. Returns what was really removed.
        """
        ...

    async def upstream(self, materialization: str) -> tuple[tuple[AssetKey, str], ...]:
        """Return the direct inputs of a materialization: their keys and materializations."""
        ...

    async def recorded(self, materializations: Collection[str]) -> frozenset[str]:
        """Return those of some materializations that are on record: current, or superseded and not yet forgotten.

        What was committed before the call is seen. Texts that are no id of anything are left out.
        """
        ...

    async def materializations(self, wanted: Collection[str]) -> Mapping[str, Materialization]:
        """Return those of some materializations that are `recorded`, by id; one that was invalidated has no value."""
        ...

    async def durations(self, pipeline: str, assets: Sequence[str]) -> Mapping[str, float]:
        """Return the median seconds of the last 20 computations of each asset that has any."""
        ...

    async def prune(self, *, runs: float | None, values: float | None, limit: int = 1000) -> Pruned:
        """Delete finished runs with their events older than `runs` seconds, and forget superseded materializations
        older than `values` seconds, at most `limit` of each; and some of what deleted scatters have left. Any number
        of processes may do so at once, and share the work: nothing pruned means that nothing is left, or that others
        are at it.

        From two days on, `runs` is rounded up to whole days (UTC) of their creation: a run that could go today goes at
        the latest two days later. Current values, active runs and audit entries stay.
        """
        ...

    async def maintain(self) -> None:
        """Do what keeps the store in shape, such as making room for what is to come: about once an hour, by any
        number of processes at once. Without it the store gives the same answers.
        """
        ...

    async def statistics(self) -> Statistics | None:
        """Return what the store holds and what weighs on it; None if it has no tables. May take seconds."""
        ...

    async def audit(
        self, *, limit: int = 100, after: int | None = None
    ) -> tuple[tuple[int, datetime, AuditEntry], ...]:
        """Return audit entries, newest first, below the number `after`."""
        ...

    async def queue(self, pipelines: Sequence[str]) -> QueueState:
        """Count the runs of `pipelines` that have not ended, and tell since when the oldest queued one waits."""
        ...

    async def figures(self, pipelines: Sequence[str]) -> Figures:
        """Count what goes on in runs of `pipelines`: open gates, and items of scatters that are under way."""
        ...

    async def workers(self) -> tuple[LiveWorker, ...]:
        """Return the workers that nobody has declared dead, in the order in which they came."""
        ...

    async def faults(self) -> tuple[Fault, ...]:
        """Return indexes that are missing, damaged or others than they should be, events without a partition, and who
        has kept dead rows from being removed for minutes.

        With faults a store gives the same answers, only later; nothing mends them unasked, for that may take long.
        """
        ...

    async def unswept(self) -> Unswept:
        """Return what deleted scatters have left: `prune` and whoever deletes go on with it."""
        ...

    async def verify(self) -> tuple[Fault, ...]:
        """Read all records, and return what must always hold of them and does not: damage, not work that is left.

        In one snapshot, while others go on; writes nothing, and names a bounded number of examples of each kind.
        There is no remedy for most of it: whoever finds it restores a backup, or asks for help.
        """
        ...

    async def health(self) -> Mapping[str, object]:
        """Ask the store whether it answers; returns facts (latency in seconds, versions). Raises as any call."""
        ...
