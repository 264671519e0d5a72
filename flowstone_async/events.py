"""Typed records of what happened; hooks are functions called with them.

An event's canonical name is `family.what`. Subscribing to a base type receives all below it.

There are two sorts. The events of runs and assets, and `resource.failed`, are *journaled*: numbered within their run,
committed with what they describe, read again as the same types by `RunHandle.events` and `Engine.events`, from any
process; those of waits and steps (`wait_events.py`) are committed behind it. The others (`OBSERVATIONS`) are told to
hooks only, in the process that made them and beside its work: they are stored nowhere, have no number, and are not even
made where no hook wants them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar

from flowstone_async.errors import FlowstoneError
from flowstone_async.event import AssetEvent, Event
from flowstone_async.rate_events import RateChecked, RateSlotAcquired, RateSlotReleased, RateWaited
from flowstone_async.wait_events import WAIT_EVENTS


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEvent(Event):
    """Something that happened to a run as a whole."""

    targets: tuple[str, ...] = ()
    partition: object = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStarted(RunEvent):
    """A run began; its hooks end before the first body starts."""

    type: ClassVar[str] = "run.started"


@dataclass(frozen=True, slots=True, kw_only=True)
class BackfillProgress(RunEvent):
    """Partitions of a submitted backfill have ended.

    Attributes:
        succeeded: Of all so far; `failed` and `skipped` likewise.
        not_started: Left out after the first failure, with `on_error="halt"`; told with the last ones.
        outcomes: Encoded key, outcome and failure of those that this event tells of.
    """

    type: ClassVar[str] = "run.progress"
    succeeded: int = 0
    failed: int = 0
    skipped: int = 0
    not_started: int = 0
    outcomes: tuple[object, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFinished(RunEvent):
    """A run ended, whatever its outcome; every run has exactly one."""

    type: ClassVar[str] = "run.finished"
    state: str = ""
    seconds: float = 0.0
    error: FlowstoneError | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSucceeded(RunEvent):
    """A run reached all its targets."""

    type: ClassVar[str] = "run.succeeded"
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFailed(RunEvent):
    """A run failed, with the first error."""

    type: ClassVar[str] = "run.failed"
    seconds: float = 0.0
    error: FlowstoneError | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunCancelled(RunEvent):
    """A run was cancelled."""

    type: ClassVar[str] = "run.cancelled"
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class AssetStarted(AssetEvent):
    """The first attempt of a body began."""

    type: ClassVar[str] = "asset.started"
    attempt: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class AssetFinished(AssetEvent):
    """A body came to its end, whatever its outcome: `succeeded`, `failed` or `cancelled`."""

    type: ClassVar[str] = "asset.finished"
    outcome: str = ""
    seconds: float = 0.0
    attempts: int = 1
    error: FlowstoneError | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AssetSucceeded(AssetEvent):
    """A value was computed and committed."""

    type: ClassVar[str] = "asset.succeeded"
    seconds: float = 0.0
    attempts: int = 1
    materialization: str = ""
    size: int = 0
    metadata: Mapping[str, object] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AssetFailed(AssetEvent):
    """An asset failed for good, itself or because of an upstream (`blocked`)."""

    type: ClassVar[str] = "asset.failed"
    seconds: float = 0.0
    attempts: int = 1
    blocked: bool = False
    error: FlowstoneError | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AssetRetrying(AssetEvent):
    """An attempt failed and another follows after `wait` seconds, at `due`."""

    type: ClassVar[str] = "asset.retrying"
    attempt: int = 1
    wait: float = 0.0
    due: datetime | None = None
    error: FlowstoneError | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AssetReused(AssetEvent):
    """A stored value was fresh and taken as it is."""

    type: ClassVar[str] = "asset.reused"
    materialization: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class AssetSkipped(AssetEvent):
    """An asset was skipped in this run."""

    type: ClassVar[str] = "asset.skipped"
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScatterRedriven(AssetEvent):
    """The run begins with a scatter where that of the run `of_run` is, and runs `only` its failed items, or all."""

    type: ClassVar[str] = "scatter.redriven"
    of_run: str = ""
    only: str = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceEvent(Event):
    """Something that happened to a resource. Those of scope `"engine"` are opened and closed in no run."""

    resource: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceOpened(ResourceEvent):
    """A resource is open; that took `seconds`. Told to hooks only."""

    type: ClassVar[str] = "resource.opened"
    scope: str = ""
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceFailed(ResourceEvent):
    """A resource could not be opened for an attempt, whose body was not called."""

    type: ClassVar[str] = "resource.failed"
    error: FlowstoneError | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceClosed(ResourceEvent):
    """A resource has been closed, or given up because its closing failed or hung (`error`). Told to hooks only.

    Attributes:
        scope: Whose end closed it.
        seconds: How long it was open, its closing included.
        error: Why it did not close as it should; None if it did.
    """

    type: ClassVar[str] = "resource.closed"
    scope: str = ""
    seconds: float = 0.0
    error: FlowstoneError | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageEvent(Event):
    """A value is stored by an attempt, or loaded for one, for a condition, or for whoever asks. Told to hooks only.

    What an attempt stores and loads belongs to its run; what `get`, or the end of `run`, loads belongs to none.

    Attributes:
        asset: Whose value it is; `pipeline.asset` where that is another pipeline than the event's.
        partition: Of that value.
        io: Name of the I/O manager.
        materialization: Id of the value.
    """

    asset: str
    partition: object = None
    io: str = ""
    materialization: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageStoreStarted(StorageEvent):
    """A value is about to be stored; a stream's items are yet to come."""

    type: ClassVar[str] = "storage.store.started"


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageStoreFinished(StorageEvent):
    """A value was stored, in `size` bytes. It is visible once it is committed, which `AssetSucceeded` tells."""

    type: ClassVar[str] = "storage.store.finished"
    seconds: float = 0.0
    size: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageStoreFailed(StorageEvent):
    """A value could not be stored, also when tried again, or was cut off."""

    type: ClassVar[str] = "storage.store.failed"
    seconds: float = 0.0
    error: FlowstoneError | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageLoadStarted(StorageEvent):
    """A value is about to be loaded."""

    type: ClassVar[str] = "storage.load.started"


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageLoadFinished(StorageEvent):
    """A value was loaded, `size` bytes as they were stored; of a stream, its reading can begin."""

    type: ClassVar[str] = "storage.load.finished"
    seconds: float = 0.0
    size: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageLoadFailed(StorageEvent):
    """A value could not be loaded, or that was cut off."""

    type: ClassVar[str] = "storage.load.failed"
    seconds: float = 0.0
    error: FlowstoneError | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseEvent(Event):
    """Something that happened to the lease under which an engine owns its runs. Told to hooks only.

    Attributes:
        worker: The engine's id in the store.
    """

    worker: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseAcquired(LeaseEvent):
    """An engine was entered that may own runs."""

    type: ClassVar[str] = "lease.acquired"


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseExpired(LeaseEvent):
    """The lease was lost after `seconds`: its runs are broken off here, and the engine can run nothing any more."""

    type: ClassVar[str] = "lease.expired"
    seconds: float = 0.0
    error: FlowstoneError | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseReleased(LeaseEvent):
    """An engine that was left gave its lease back after `seconds`."""

    type: ClassVar[str] = "lease.released"
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineEvent(Event):
    """Something that happened to an engine as a whole. Told to hooks only: its own, and those of its pipelines."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStarted(EngineEvent):
    """An engine is open; its hooks end before `async with Engine(...)` goes on, and may use it."""

    type: ClassVar[str] = "engine.started"
    pipelines: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStopped(EngineEvent):
    """An engine was left after `seconds`: its runs have ended or were handed back, its resources are closed."""

    type: ClassVar[str] = "engine.stopped"
    pipelines: tuple[str, ...] = ()
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopBlocked(EngineEvent):
    """A body (or whatever else runs on the event loop) holds it. Told to hooks only, once it has let go.

    Attributes:
        pipeline: That of the asset; empty where no asset holds it.
        run_id: Empty: a blocked loop holds up every run.
        asset: Whose body it is, or None.
        place: `file:line` of the code that holds it.
        seconds: How long it had held it when it was noticed.
    """

    type: ClassVar[str] = "engine.loop_blocked"
    asset: str | None = None
    place: str = ""
    seconds: float = 0.0


JOURNALED: tuple[type[Event], ...] = (
    RunStarted, BackfillProgress, RunFinished, RunSucceeded, RunFailed, RunCancelled,
    AssetStarted, AssetFinished, AssetSucceeded, AssetFailed, AssetRetrying, AssetReused, AssetSkipped,
    ScatterRedriven, ResourceFailed, *WAIT_EVENTS,
)  # fmt: skip
OBSERVATIONS: tuple[type[Event], ...] = (
    ResourceOpened, ResourceClosed,
    StorageStoreStarted, StorageStoreFinished, StorageStoreFailed,
    StorageLoadStarted, StorageLoadFinished, StorageLoadFailed,
    RateChecked, RateWaited, RateSlotAcquired, RateSlotReleased,
    LeaseAcquired, LeaseExpired, LeaseReleased,
    EngineStarted, EngineStopped, LoopBlocked,
)  # fmt: skip
EVENT_TYPES: Mapping[str, type[Event]] = {each.type: each for each in (*JOURNALED, *OBSERVATIONS)}
