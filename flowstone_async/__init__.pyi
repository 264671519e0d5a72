# The public names as type checkers see them; __init__.py imports each from the same place when it is first used.

from flowstone_async import io, notify, sources
from flowstone_async._engine.approving.listing import ApprovalRequest
from flowstone_async._engine.backfill_handle import BackfillHandle
from flowstone_async._engine.backfill_report import BackfillReport
from flowstone_async._engine.gates.listing import GateDelivery, GateStatus
from flowstone_async._engine.gates.signalling import Signalled
from flowstone_async._engine.handle import RunHandle, RunRef
from flowstone_async._engine.health import Capabilities, Health
from flowstone_async._engine.report import AssetReport, RunReport
from flowstone_async._engine.run_status import RunStatus
from flowstone_async._engine.status import AssetStatus, Why
from flowstone_async._engine.upkeep import Retention
from flowstone_async.api_tokens import ApiToken, ApiTokenNotFound, NewApiToken
from flowstone_async.approval_errors import AlreadyDecided, ApprovalTimedOut, NotAllowed, NothingPending, Rejected
from flowstone_async.approval_gate import ApprovalGate
from flowstone_async.approvals import After, ApprovalRequested, Ask, Decision, Extend
from flowstone_async.definition.batch import Batch, BatchFailed
from flowstone_async.definition.batching import Batching
from flowstone_async.definition.calendar_windows import Daily, Monthly, Weekly
from flowstone_async.definition.context import Context
from flowstone_async.definition.custom import Custom
from flowstone_async.definition.dynamic import Dynamic
from flowstone_async.definition.enumerated import Keys
from flowstone_async.definition.gathered import Gathered, ItemFailure
from flowstone_async.definition.handle import (
    Asset,
    AssetRef,
    BlockingAsset,
    OpenRef,
    PartitionedAsset,
    PartitionedBlockingAsset,
    PartitionedRef,
    PartitionedStreamAsset,
    StreamAsset,
)
from flowstone_async.definition.info import AssetInfo
from flowstone_async.definition.instant_windows import Every, Hourly
from flowstone_async.definition.item import Item
from flowstone_async.definition.key_range import KeyRange
from flowstone_async.definition.mapping import KeyMapping, mapping
from flowstone_async.definition.partition import PartitionSet
from flowstone_async.definition.policy import Cache
from flowstone_async.definition.scatter_counts import ScatterCounts
from flowstone_async.definition.scatter_handle import PartitionedScatterAsset, ScatterAsset
from flowstone_async.definition.scatter_item import ErrorGroup, ScatterItem
from flowstone_async.definition.single import Single
from flowstone_async.definition.stream import Stream
from flowstone_async.definition.take import dep, param, resource
from flowstone_async.definition.tolerance import Tolerance
from flowstone_async.engine import Engine
from flowstone_async.errors import (
    AlreadySignalled,
    AssetNotFound,
    Cancelled,
    ConfigError,
    DefinitionError,
    DependencyFailed,
    DependencyNotReady,
    ExecutionError,
    FlowstoneError,
    ForgedToken,
    GateClosed,
    GateExpired,
    GateNotFound,
    KeyConflict,
    LeaseLost,
    MalformedToken,
    NotFound,
    NothingToCancel,
    NotMaterialized,
    ParamsError,
    PartitionError,
    PayloadInvalid,
    PlanOutdated,
    Problem,
    RateLimited,
    ReplayMismatch,
    ResourceUnavailable,
    RunNotFound,
    ScatterThreshold,
    SlotTimeout,
    SourceError,
    StepLimit,
    StorageError,
    StoreUnavailable,
    TargetSkipped,
    TimedOut,
    TokenInUse,
    Waiting,
    WaitingApproval,
    WaitingSignal,
    WorkerLost,
)
from flowstone_async.event import Event
from flowstone_async.events import (
    AssetEvent,
    AssetFailed,
    AssetFinished,
    AssetRetrying,
    AssetReused,
    AssetSkipped,
    AssetStarted,
    AssetSucceeded,
    BackfillProgress,
    EngineEvent,
    EngineStarted,
    EngineStopped,
    LeaseAcquired,
    LeaseEvent,
    LeaseExpired,
    LeaseReleased,
    LoopBlocked,
    ResourceClosed,
    ResourceEvent,
    ResourceFailed,
    ResourceOpened,
    RunCancelled,
    RunEvent,
    RunFailed,
    RunFinished,
    RunStarted,
    RunSucceeded,
    ScatterRedriven,
    StorageEvent,
    StorageLoadFailed,
    StorageLoadFinished,
    StorageLoadStarted,
    StorageStoreFailed,
    StorageStoreFinished,
    StorageStoreStarted,
)
from flowstone_async.limits.book import LimitHolder
from flowstone_async.limits.limits import Limits
from flowstone_async.limits.rate import Rate
from flowstone_async.limits.slot_line import Slot
from flowstone_async.limits.status import LimitStatus
from flowstone_async.mapped.fan import Mapped
from flowstone_async.pipeline import Pipeline
from flowstone_async.planning.plan import Plan, PlanEntry
from flowstone_async.rate_events import RateChecked, RateEvent, RateSlotAcquired, RateSlotReleased, RateWaited
from flowstone_async.retry import Retry
from flowstone_async.types import ALL, Failed, Skipped
from flowstone_async.web.user import User

__version__: str

from flowstone_async.signals import Rearm, SignalGate

__all__ = [
    "ALL",
    "After",
    "AlreadyDecided",
    "AlreadySignalled",
    "ApiToken",
    "ApiTokenNotFound",
    "ApprovalGate",
    "ApprovalRequest",
    "ApprovalRequested",
    "ApprovalTimedOut",
    "Ask",
    "Asset",
    "AssetEvent",
    "AssetFailed",
    "AssetFinished",
    "AssetInfo",
    "AssetNotFound",
    "AssetRef",
    "AssetReport",
    "AssetRetrying",
    "AssetReused",
    "AssetSkipped",
    "AssetStarted",
    "AssetStatus",
    "AssetSucceeded",
    "BackfillHandle",
    "BackfillProgress",
    "BackfillReport",
    "Batch",
    "BatchFailed",
    "Batching",
    "BlockingAsset",
    "Cache",
    "Cancelled",
    "Capabilities",
    "ConfigError",
    "Context",
    "Custom",
    "Daily",
    "Decision",
    "DefinitionError",
    "DependencyFailed",
    "DependencyNotReady",
    "Dynamic",
    "Engine",
    "EngineEvent",
    "EngineStarted",
    "EngineStopped",
    "ErrorGroup",
    "Event",
    "Every",
    "ExecutionError",
    "Extend",
    "Failed",
    "FlowstoneError",
    "ForgedToken",
    "GateClosed",
    "GateDelivery",
    "GateExpired",
    "GateNotFound",
    "GateStatus",
    "Gathered",
    "Health",
    "Hourly",
    "Item",
    "ItemFailure",
    "KeyConflict",
    "KeyMapping",
    "KeyRange",
    "Keys",
    "LeaseAcquired",
    "LeaseEvent",
    "LeaseExpired",
    "LeaseLost",
    "LeaseReleased",
    "LimitHolder",
    "LimitStatus",
    "Limits",
    "LoopBlocked",
    "MalformedToken",
    "Mapped",
    "Monthly",
    "NewApiToken",
    "NotAllowed",
    "NotFound",
    "NotMaterialized",
    "NothingPending",
    "NothingToCancel",
    "OpenRef",
    "ParamsError",
    "PartitionError",
    "PartitionSet",
    "PartitionedAsset",
    "PartitionedBlockingAsset",
    "PartitionedRef",
    "PartitionedScatterAsset",
    "PartitionedStreamAsset",
    "PayloadInvalid",
    "Pipeline",
    "Plan",
    "PlanEntry",
    "PlanOutdated",
    "Problem",
    "Rate",
    "RateChecked",
    "RateEvent",
    "RateLimited",
    "RateSlotAcquired",
    "RateSlotReleased",
    "RateWaited",
    "Rearm",
    "Rejected",
    "ReplayMismatch",
    "ResourceClosed",
    "ResourceEvent",
    "ResourceFailed",
    "ResourceOpened",
    "ResourceUnavailable",
    "Retention",
    "Retry",
    "RunCancelled",
    "RunEvent",
    "RunFailed",
    "RunFinished",
    "RunHandle",
    "RunNotFound",
    "RunRef",
    "RunReport",
    "RunStarted",
    "RunStatus",
    "RunSucceeded",
    "ScatterAsset",
    "ScatterCounts",
    "ScatterItem",
    "ScatterRedriven",
    "ScatterThreshold",
    "SignalGate",
    "Signalled",
    "Single",
    "Skipped",
    "Slot",
    "SlotTimeout",
    "SourceError",
    "StepLimit",
    "StorageError",
    "StorageEvent",
    "StorageLoadFailed",
    "StorageLoadFinished",
    "StorageLoadStarted",
    "StorageStoreFailed",
    "StorageStoreFinished",
    "StorageStoreStarted",
    "StoreUnavailable",
    "Stream",
    "StreamAsset",
    "TargetSkipped",
    "TimedOut",
    "TokenInUse",
    "Tolerance",
    "User",
    "Waiting",
    "WaitingApproval",
    "WaitingSignal",
    "Weekly",
    "Why",
    "WorkerLost",
    "dep",
    "io",
    "mapping",
    "notify",
    "param",
    "resource",
    "sources",
]
