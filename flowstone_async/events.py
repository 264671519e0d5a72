"""Typed records of what happened in a run; hooks are functions called with them.

An event's canonical name is `family.what`. Subscribing to a base type receives all below it. Events are stored as
JSON (`to_body`), and come back as the same types (`from_record`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import ClassVar

from flowstone_async.errors import FlowstoneError


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened.

    Attributes:
        pipeline: Name of the pipeline.
        run_id: The run it belongs to.
        at: When, on the store's clock.
        no: Its number within the run, from 1, without gaps: the cursor of `RunHandle.events`.
        cursor: Its place among the events of all runs, where it was read by `Engine.events`; else 0.
    """

    type: ClassVar[str] = "event"

    pipeline: str
    run_id: str
    at: datetime
    no: int = 0
    cursor: int = field(default=0, compare=False, repr=False)


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
class AssetEvent(Event):
    """Something that happened to one asset and partition in a run."""

    asset: str
    partition: object = None


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
class ResourceFailed(Event):
    """A resource could not be opened for an attempt, whose body was not called."""

    type: ClassVar[str] = "resource.failed"
    resource: str = ""
    error: FlowstoneError | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopBlocked(Event):
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


EVENT_TYPES: Mapping[str, type[Event]] = {
    each.type: each
    for each in (
        RunStarted, RunFinished, RunSucceeded, RunFailed, RunCancelled,
        AssetStarted, AssetFinished, AssetSucceeded, AssetFailed, AssetRetrying, AssetReused, AssetSkipped,
        ResourceFailed, LoopBlocked,
    )
}  # fmt: skip
