"""The frozen records that cross the store's port: what is asked, what is written, what comes back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, NamedTuple, TypeAlias

from flowstone_async.errors import Failure
from flowstone_async.types import NOTHING, AssetKey, Materialization

RunState: TypeAlias = Literal["queued", "running", "waiting", "succeeded", "failed", "cancelled"]
AssetOutcome: TypeAlias = Literal["completed", "failed", "skipped", "cancelled"]
AttemptState: TypeAlias = Literal["pending", "running", "waiting", "completed", "failed", "skipped", "cancelled"]
FINAL_RUN_STATES: frozenset[RunState] = frozenset({"succeeded", "failed", "cancelled"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """An engine that owns runs, as the store knows it.

    Attributes:
        id: Fresh for every start of an engine; never a host name.
        host: Host name, for people.
        pid: Process id, for people.
        pipelines: Names of the pipelines it has; only their runs may be given to it.
    """

    id: str
    host: str
    pid: int
    pipelines: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """One run, as stored.

    Attributes:
        id: Opaque UUID.
        targets: Names of the targets, in the order asked for.
        partition: Encoded partition key of the run.
        options: The run's options, JSON-compatible; enough to continue it in another process.
        params: Params as JSON text, without any `SecretStr`. Not in the repr: other fields may hold secrets.
        state: See docs/states.md.
        worker: The worker that owns it, or None.
        fence: Grows with each change of owner and with a cancellation; a write under an older one is refused.
        continuable: Whether another worker can continue it if its owner dies.
        lost: How many owners died under it.
        error: Why it failed.
        submitted: Whether it came through the queue.
        priority: 0 to 3, lower first.
        at: The instant that it was asked to wait for, or None.
        request: What it was asked for, hashed: a submit joins an equal active run. Empty for one that none joins, and
            in what a store returns.
        unreadable: Why the rest of the record cannot be read, or None.
    """

    id: str
    pipeline: str
    targets: tuple[str, ...]
    partition: str = ""
    options: Mapping[str, object] = field(default_factory=dict[str, object])
    params: str = field(default="{}", repr=False)
    state: RunState = "running"
    worker: str | None = None
    fence: int = 1
    continuable: bool = True
    lost: int = 0
    created_at: datetime | None = None
    finished_at: datetime | None = None
    error: Failure | None = None
    submitted: bool = False
    priority: int = 0
    at: datetime | None = None
    request: str = ""
    unreadable: str | None = None


class AuditEntry(NamedTuple):
    """One act, for the audit log.

    Attributes:
        actor: Who acted; `"engine"` for the library itself.
        actor_kind: `"engine"`, `"process"` (a call in process), `"person"`, `"token"` (of the web side).
        action: `asset.succeeded`, `run.submitted`, `asset.invalidated` …
        subject: What was acted on, as text (`pipeline.asset[partition]` or a run id).
    """

    action: str
    subject: str
    actor: str = "engine"
    actor_kind: str = "engine"
    run_id: str | None = None
    details: Mapping[str, object] = NOTHING


class Submission(NamedTuple):
    """A run to be put into the queue.

    Attributes:
        run: As it is to be stored, without an owner; its `request` says which active run it joins instead.
        subject: Targets, partition and params, hashed: what a key stands for.
        key: The caller's idempotency key, or None.
        audit: The act.
    """

    run: RunRecord
    subject: str
    key: str | None = None
    audit: AuditEntry = AuditEntry("run.submitted", "")


class Submitted(NamedTuple):
    """The answer to a submission: the run that was stored or joined, and whether it is new."""

    run: RunRecord
    created: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class AssetState:
    """What the store knows of one asset key.

    Attributes:
        current: The newest committed materialization, or None (never stored, or invalidated).
        state: State of the newest attempt to compute it; `completed` also once its value is invalidated and
            `pending` when nothing was ever tried.
        run_id: The run of that attempt.
        claimed_by: The run that is computing it now, or None.
        error: Why the newest attempt failed.
        reason: Why it was skipped.
    """

    key: AssetKey
    current: Materialization | None = None
    state: AttemptState = "pending"
    run_id: str | None = None
    claimed_by: str | None = None
    started_at: datetime | None = None
    completed_at: datetime | None = None
    seconds: float | None = None
    attempts: int = 0
    error: Failure | None = None
    reason: str | None = None


class EventRecord(NamedTuple):
    """One event of a run, as stored.

    Attributes:
        no: Its number in the run, from 1, without gaps; the run's owner gives it.
        type: Canonical name, `family.what`.
        at: On the store's clock.
        body: JSON-compatible fields of the event.
    """

    no: int
    type: str
    at: datetime
    body: Mapping[str, object]


class StoredEvent(NamedTuple):
    """An event read across runs: a cursor to continue after, its run, and the event."""

    cursor: int
    run_id: str
    pipeline: str
    event: EventRecord


class AssetDone(NamedTuple):
    """The outcome of one asset in one run, to be committed.

    Attributes:
        outcome: `completed` needs the claim and carries `materialization`; the others carry `error` or `reason`.
        claimed: Whether the run holds the claim of `key`, which this outcome releases. An outcome without claim
            (skipped, or failed because of an upstream) leaves a key alone that another run has claimed.
        payload: Encoded value to be stored with the record (the store's own manager), or None if it lies elsewhere.
        table: `schema.table` or `table` in which the payload is upserted, one row for each pipeline, asset and
            partition, in the same transaction, instead of with the record. Only on Postgres.
    """

    key: AssetKey
    outcome: AssetOutcome
    claimed: bool = True
    attempts: int = 1
    started_at: datetime | None = None
    seconds: float = 0.0
    materialization: Materialization | None = None
    payload: bytes | None = None
    table: str | None = None
    error: Failure | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunDone:
    """The end of a run, to be committed: its final state and the first error."""

    state: Literal["succeeded", "failed", "cancelled"]
    error: Failure | None = None


class Advance(NamedTuple):
    """Everything that one step forward of one run writes, in one transaction, under the run's fencing token.

    Attributes:
        run_id: The run that moves forward.
        fence: The token under which its driver owns it.
        create: The run itself, with its first step.
        done: Outcomes of assets.
        claims: Keys the run wants to compute next.
        releases: Keys it holds and will not compute after all (another run did).
        events: In order of their numbers.
        audit: Acts that this step is.
        finish: The end of the run, with its last step. A final step releases whatever the run still holds.
    """

    run_id: str
    fence: int
    create: RunRecord | None = None
    done: tuple[AssetDone, ...] = ()
    claims: tuple[AssetKey, ...] = ()
    releases: tuple[AssetKey, ...] = ()
    events: tuple[EventRecord, ...] = ()
    audit: tuple[AuditEntry, ...] = ()
    finish: RunDone | None = None


class Claimed(NamedTuple):
    """The answer to one claim.

    Attributes:
        granted: Whether the run may compute the key now. If not, `holder` does.
        holder: The run that holds the key: the asking run when granted.
        current: Id of the key's current materialization at that instant: if it is not the one that was planned
            with, freshness is judged again.
        lost: How many owners died while computing the key under this claim.
    """

    granted: bool
    holder: str
    current: str | None
    lost: int


class Advanced(NamedTuple):
    """The answer to one `Advance`.

    Attributes:
        accepted: False when the fencing token is old: nothing of the step was written.
        at: Instant of the commit on the store's clock; also each new materialization's `committed_at`.
        claims: One answer for each claim asked.
        superseded: Materializations that were current before and no longer are; their values may be deleted.
    """

    accepted: bool
    at: datetime
    claims: Mapping[AssetKey, Claimed] = {}
    superseded: tuple[Materialization, ...] = ()


class Removed(NamedTuple):
    """A key that was invalidated, with the materialization that was current."""

    key: AssetKey
    materialization: Materialization


class Pruned(NamedTuple):
    """What was pruned.

    Attributes:
        runs: How many runs, with their events.
        values: Superseded materializations, whose values elsewhere may now be deleted.
        swept: How many parts went of what scatters have left that were deleted; each of some thousand rows.
    """

    runs: int
    values: tuple[Materialization, ...]
    swept: int = 0


class Unswept(NamedTuple):
    """What deleted scatters have left that is still to be deleted.

    Attributes:
        scatters: How many have left something.
        since: When something was last deleted of the one that has waited for longest; None if nothing is left.
    """

    scatters: int = 0
    since: datetime | None = None


class Fault(NamedTuple):
    """Something of the store's own that is not as it should be.

    Attributes:
        problem: What it is.
        remedy: The statement that mends it, to be given to the database; empty where there is none.
    """

    problem: str
    remedy: str


class TableSize(NamedTuple):
    """A table: rows and dead rows (about), bytes with indexes, and partitions if it has any."""

    name: str
    rows: int
    size: int
    dead: int
    partitions: int


class PartitionSize(NamedTuple):
    """A partition of the events: rows (about), and bytes with indexes."""

    name: str
    rows: int
    size: int


class Statistics(NamedTuple):
    """What a store's tables hold and what weighs on them.

    Attributes:
        tables: Largest first.
        partitions: Of events and steps, by name.
        runs: How many there are in each state.
        oldest_active: When the oldest run was created that has not ended.
        astray: Rows of events that are in no partition of their own.
        transaction_seconds: Age of the oldest transaction that keeps dead rows from being removed, of any application.
        transactions: How many transactions ago whatever keeps dead rows began, replication slots included.
        notifications: How full the server's queue of notifications is, from 0 to 1.
    """

    tables: tuple[TableSize, ...]
    partitions: tuple[PartitionSize, ...]
    runs: Mapping[RunState, int]
    oldest_active: datetime | None
    astray: int
    transaction_seconds: float
    transactions: int
    notifications: float


class QueueState(NamedTuple):
    """The runs of some pipelines that have not ended.

    Attributes:
        queued: How many wait for a worker.
        later: How many more wait for the instant from which they may start.
        oldest_at: Since when the oldest that waits for a worker may start; None if there is none.
        running: How many are running.
        waiting: How many are suspended: they wait for a signal, a person or time, and for no worker.
    """

    queued: int
    later: int
    oldest_at: datetime | None
    running: int
    waiting: int = 0


class LiveWorker(NamedTuple):
    """A worker that nobody has declared dead.

    Attributes:
        lease: Seconds that its lease has left, below 0 if it has run out; None where leases never do.
    """

    worker: Worker
    started_at: datetime
    lease: float | None


class Page(NamedTuple):
    """Bounds of a listing: at most `limit` entries behind `after` (a run id or key of the previous page)."""

    limit: int = 50
    after: str | None = None
