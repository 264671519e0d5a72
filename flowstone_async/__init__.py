"""flowstone_async: an asyncio-native, asset-first workflow engine on Postgres.

Start with `Pipeline` (define assets, run them in memory) and `Engine` (the same, durable). Importing this package
starts nothing and loads neither a database driver nor a web framework.
"""

from __future__ import annotations

import importlib
from typing import Final

__version__ = "0.1.0.dev0"

# Where each public name is. A name is imported when it is first used, so that the command line, which lives in this
# package, can show its help without loading the engine. Type checkers read __init__.pyi; a test compares the two.
_HOMES: Final = {
    "ALL": "types",
    "Asset": "definition.handle",
    "AssetEvent": "events",
    "AssetFailed": "events",
    "AssetFinished": "events",
    "AssetInfo": "definition.info",
    "AssetNotFound": "errors",
    "AssetRef": "definition.handle",
    "AssetReport": "_engine.report",
    "AssetRetrying": "events",
    "AssetReused": "events",
    "AssetSkipped": "events",
    "AssetStarted": "events",
    "AssetStatus": "_engine.status",
    "AssetSucceeded": "events",
    "BackfillHandle": "_engine.backfill_handle",
    "BackfillProgress": "events",
    "BackfillReport": "_engine.backfill",
    "Batch": "definition.batch",
    "BatchFailed": "definition.batch",
    "Batching": "definition.batching",
    "BlockingAsset": "definition.handle",
    "Cache": "definition.policy",
    "Cancelled": "errors",
    "Capabilities": "_engine.health",
    "ConfigError": "errors",
    "Context": "definition.context",
    "Custom": "definition.custom",
    "Daily": "definition.calendar_windows",
    "DefinitionError": "errors",
    "DependencyFailed": "errors",
    "DependencyNotReady": "errors",
    "Dynamic": "definition.dynamic",
    "Engine": "engine",
    "EngineEvent": "events",
    "EngineStarted": "events",
    "EngineStopped": "events",
    "ErrorGroup": "definition.scatter_item",
    "Event": "event",
    "Every": "definition.instant_windows",
    "ExecutionError": "errors",
    "Failed": "types",
    "FlowstoneError": "errors",
    "Gathered": "definition.gathered",
    "Health": "_engine.health",
    "Hourly": "definition.instant_windows",
    "Item": "definition.item",
    "ItemFailure": "definition.gathered",
    "KeyConflict": "errors",
    "KeyMapping": "definition.mapping",
    "KeyRange": "definition.key_range",
    "Keys": "definition.enumerated",
    "LeaseAcquired": "events",
    "LeaseEvent": "events",
    "LeaseExpired": "events",
    "LeaseLost": "errors",
    "LeaseReleased": "events",
    "LimitHolder": "limits.book",
    "LimitStatus": "limits.status",
    "Limits": "limits.limits",
    "LoopBlocked": "events",
    "Mapped": "mapped",
    "Monthly": "definition.calendar_windows",
    "NotFound": "errors",
    "NotMaterialized": "errors",
    "NothingToCancel": "errors",
    "OpenRef": "definition.handle",
    "ParamsError": "errors",
    "PartitionError": "errors",
    "PartitionSet": "definition.partition",
    "PartitionedAsset": "definition.handle",
    "PartitionedBlockingAsset": "definition.handle",
    "PartitionedRef": "definition.handle",
    "PartitionedScatterAsset": "definition.scatter_handle",
    "PartitionedStreamAsset": "definition.handle",
    "Pipeline": "pipeline",
    "Plan": "planning.plan",
    "PlanEntry": "planning.plan",
    "PlanOutdated": "errors",
    "Problem": "errors",
    "Rate": "limits.rate",
    "RateChecked": "rate_events",
    "RateEvent": "rate_events",
    "RateLimited": "errors",
    "RateSlotAcquired": "rate_events",
    "RateSlotReleased": "rate_events",
    "RateWaited": "rate_events",
    "ReplayMismatch": "errors",
    "ResourceClosed": "events",
    "ResourceEvent": "events",
    "ResourceFailed": "events",
    "ResourceOpened": "events",
    "ResourceUnavailable": "errors",
    "Retention": "_engine.upkeep",
    "Retry": "retry",
    "RunCancelled": "events",
    "RunEvent": "events",
    "RunFailed": "events",
    "RunFinished": "events",
    "RunHandle": "_engine.handle",
    "RunNotFound": "errors",
    "RunRef": "_engine.handle",
    "RunReport": "_engine.report",
    "RunStarted": "events",
    "RunStatus": "_engine.run_status",
    "RunSucceeded": "events",
    "ScatterAsset": "definition.scatter_handle",
    "ScatterCounts": "definition.scatter_counts",
    "ScatterItem": "definition.scatter_item",
    "ScatterRedriven": "events",
    "ScatterThreshold": "errors",
    "Single": "definition.single",
    "Skipped": "types",
    "Slot": "limits.slot_line",
    "SlotTimeout": "errors",
    "SourceError": "errors",
    "StepLimit": "errors",
    "StorageError": "errors",
    "StorageEvent": "events",
    "StorageLoadFailed": "events",
    "StorageLoadFinished": "events",
    "StorageLoadStarted": "events",
    "StorageStoreFailed": "events",
    "StorageStoreFinished": "events",
    "StorageStoreStarted": "events",
    "StoreUnavailable": "errors",
    "Stream": "definition.stream",
    "StreamAsset": "definition.handle",
    "TargetSkipped": "errors",
    "TimedOut": "errors",
    "Tolerance": "definition.tolerance",
    "Weekly": "definition.calendar_windows",
    "Why": "_engine.status",
    "WorkerLost": "errors",
    "dep": "definition.take",
    "io": "",
    "mapping": "definition.mapping",
    "param": "definition.take",
    "resource": "definition.take",
    "sources": "",
}

__all__ = list(_HOMES)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> object:
    """Import a public name and keep it."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{home or name}")
    value = globals()[name] = getattr(module, name) if home else module
    return value


def __dir__() -> list[str]:
    """List what there is, imported or not."""
    return sorted({*globals(), *__all__})
