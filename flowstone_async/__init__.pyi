# The public names as type checkers see them; __init__.py imports each from the same place when it is first used.

from flowstone_async import io
from flowstone_async._engine.backfill import BackfillReport
from flowstone_async._engine.handle import RunHandle, RunRef
from flowstone_async._engine.health import Capabilities, Health
from flowstone_async._engine.report import AssetReport, RunReport
from flowstone_async._engine.status import AssetStatus, Why
from flowstone_async._engine.upkeep import Retention
from flowstone_async.definition.calendar_windows import Daily, Monthly, Weekly
from flowstone_async.definition.context import Context
from flowstone_async.definition.custom import Custom
from flowstone_async.definition.dynamic import Dynamic
from flowstone_async.definition.enumerated import Keys
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
from flowstone_async.definition.key_range import KeyRange
from flowstone_async.definition.mapping import KeyMapping, mapping
from flowstone_async.definition.partition import PartitionSet
from flowstone_async.definition.policy import Cache, Retry
from flowstone_async.definition.single import Single
from flowstone_async.definition.stream import Stream
from flowstone_async.definition.take import dep, param, resource
from flowstone_async.engine import Engine
from flowstone_async.errors import (
    AssetNotFound,
    Cancelled,
    ConfigError,
    DefinitionError,
    DependencyFailed,
    DependencyNotReady,
    ExecutionError,
    FlowstoneError,
    KeyConflict,
    LeaseLost,
    NotFound,
    NothingToCancel,
    NotMaterialized,
    ParamsError,
    PartitionError,
    PlanOutdated,
    Problem,
    ResourceUnavailable,
    RunNotFound,
    StorageError,
    StoreUnavailable,
    TargetSkipped,
    TimedOut,
    WorkerLost,
)
from flowstone_async.events import (
    AssetEvent,
    AssetFailed,
    AssetFinished,
    AssetRetrying,
    AssetReused,
    AssetSkipped,
    AssetStarted,
    AssetSucceeded,
    Event,
    LoopBlocked,
    ResourceFailed,
    RunCancelled,
    RunEvent,
    RunFailed,
    RunFinished,
    RunStarted,
    RunSucceeded,
)
from flowstone_async.pipeline import Pipeline
from flowstone_async.planning.plan import Plan, PlanEntry
from flowstone_async.types import ALL, Failed, Skipped

__version__: str

__all__ = [
    "ALL",
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
    "BackfillReport",
    "BlockingAsset",
    "Cache",
    "Cancelled",
    "Capabilities",
    "ConfigError",
    "Context",
    "Custom",
    "Daily",
    "DefinitionError",
    "DependencyFailed",
    "DependencyNotReady",
    "Dynamic",
    "Engine",
    "Event",
    "Every",
    "ExecutionError",
    "Failed",
    "FlowstoneError",
    "Health",
    "Hourly",
    "KeyConflict",
    "KeyMapping",
    "KeyRange",
    "Keys",
    "LeaseLost",
    "LoopBlocked",
    "Monthly",
    "NotFound",
    "NotMaterialized",
    "NothingToCancel",
    "OpenRef",
    "ParamsError",
    "PartitionError",
    "PartitionSet",
    "PartitionedAsset",
    "PartitionedBlockingAsset",
    "PartitionedRef",
    "PartitionedStreamAsset",
    "Pipeline",
    "Plan",
    "PlanEntry",
    "PlanOutdated",
    "Problem",
    "ResourceFailed",
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
    "RunSucceeded",
    "Single",
    "Skipped",
    "StorageError",
    "StoreUnavailable",
    "Stream",
    "StreamAsset",
    "TargetSkipped",
    "TimedOut",
    "Weekly",
    "Why",
    "WorkerLost",
    "dep",
    "io",
    "mapping",
    "param",
    "resource",
]
