"""The one tree of errors that the library raises on its own account.

Every error carries facts for machines (`code`, `asset`, `partition`, `run_id`, `details`), a sentence for people
(`message`) and, where there is one, the way out (`hint`). Read `FlowstoneError` first; the rest are its kinds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from typing_extensions import override


class FlowstoneError(Exception):
    """Base of everything the library raises on its own account.

    Attributes:
        code: Stable identifier of the kind of error, for machines.
        message: One or more sentences for people: what was found, what was expected.
        asset: Name of the asset concerned, or None.
        partition: Partition key concerned, as a real object, or None.
        run_id: Run concerned, or None.
        details: JSON-compatible facts.
        hint: The way forward, or None.
        retryable: Whether doing the same again may succeed.
        also: Further failures of the same run.
        cause_text: What is stored of the cause, secrets hidden; None to tell it from the cause itself.
    """

    code: ClassVar[str] = "FLOWSTONE"
    default_retryable: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        asset: str | None = None,
        partition: object = None,
        run_id: str | None = None,
        details: Mapping[str, object] | None = None,
        hint: str | None = None,
        retryable: bool | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.asset = asset
        self.partition = partition
        self.run_id = run_id
        self.details: dict[str, object] = dict(details or {})
        self.hint = hint
        self.retryable = self.default_retryable if retryable is None else retryable
        self.also: tuple[FlowstoneError, ...] = ()
        self.cause_text: str | None = None

    @override
    def __str__(self) -> str:
        return f"{self.message}\n  {self.hint}" if self.hint else self.message


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One mistake in a definition.

    Attributes:
        code: `FS1xx`, with a page of its own in docs/problems.md.
        message: What was found and what was expected.
        file: Source file, or None where there is none (a REPL).
        line: Line of the definition in `file`, from 1, or None.
        asset: Name of the asset concerned, or None.
        hint: The way out, or None.
    """

    code: str
    message: str
    file: str | None = None
    line: int | None = None
    asset: str | None = None
    hint: str | None = None

    @property
    def location(self) -> str:
        """`file:line`, or `<unknown>`."""
        return f"{self.file}:{self.line or 0}" if self.file else "<unknown>"


class DefinitionError(FlowstoneError):
    """A pipeline is defined wrongly; `problems` holds every mistake found, in order of their place."""

    code: ClassVar[str] = "DEFINITION"

    def __init__(self, pipeline: str, problems: Sequence[Problem]) -> None:
        self.pipeline = pipeline
        self.problems = tuple(problems)
        count = len(self.problems)
        head = f"{count} problem{'' if count == 1 else 's'} in pipeline {pipeline!r}"
        parts = [head, *(_paragraph(problem) for problem in self.problems)]
        facts = [{"code": p.code, "location": p.location, "message": p.message} for p in self.problems]
        super().__init__("\n\n".join(parts), details={"pipeline": pipeline, "problems": facts})


def _paragraph(problem: Problem) -> str:
    text = problem.message if problem.hint is None else f"{problem.message} {problem.hint}"
    return f"{problem.code}  {problem.location}\n  {text}"


class ConfigError(FlowstoneError, ValueError):
    """An option, setting or call is wrong; nothing has run."""

    code: ClassVar[str] = "CONFIG"


class ParamsError(ConfigError):
    """The params of a run are missing, invalid or unknown; `details["fields"]` lists every one."""

    code: ClassVar[str] = "PARAMS"


class PartitionError(ConfigError):
    """A partition key is of the wrong type or outside its set."""

    code: ClassVar[str] = "PARTITION"


class KeyConflict(ConfigError):
    """A key or run id that was used already was given again with other contents."""

    code: ClassVar[str] = "KEY_CONFLICT"


class NotFound(FlowstoneError, LookupError):
    """Something that was named does not exist."""

    code: ClassVar[str] = "NOT_FOUND"


class AssetNotFound(NotFound):
    """The pipeline has no asset of that name."""

    code: ClassVar[str] = "ASSET_NOT_FOUND"


class NotMaterialized(NotFound):
    """The asset exists, but no value is stored for the partition."""

    code: ClassVar[str] = "NOT_MATERIALIZED"


class RunNotFound(NotFound):
    """No run has that id in this store."""

    code: ClassVar[str] = "RUN_NOT_FOUND"


class GateNotFound(NotFound):
    """No gate has that id in this store."""

    code: ClassVar[str] = "GATE_NOT_FOUND"


class MalformedToken(ConfigError):
    """What was given as a gate's token is none; no gate was looked at."""

    code: ClassVar[str] = "MALFORMED_TOKEN"


class ForgedToken(ConfigError):
    """The token was not made with this engine's secret; no gate was looked at."""

    code: ClassVar[str] = "FORGED_TOKEN"


class TokenInUse(ConfigError):
    """The token that was chosen for a gate is held by another one that is open."""

    code: ClassVar[str] = "TOKEN_IN_USE"


class PayloadInvalid(ConfigError):
    """The payload of a signal does not fit the type that its gate has; `details["fields"]` says where."""

    code: ClassVar[str] = "PAYLOAD_INVALID"


class GateExpired(FlowstoneError):
    """The deadline of the gate has passed: the signal changed nothing."""

    code: ClassVar[str] = "GATE_EXPIRED"


class GateClosed(FlowstoneError):
    """The run that waited was cancelled or has ended: what was delivered changed nothing."""

    code: ClassVar[str] = "GATE_CLOSED"


class Waiting(FlowstoneError):
    """The run waits for a person or another system, and is suspended; `details["gates"]` lists for which."""

    code: ClassVar[str] = "WAITING"


class WaitingSignal(Waiting):
    """The run waits for signals."""

    code: ClassVar[str] = "WAITING_SIGNAL"


class WaitingApproval(Waiting):
    """The run waits for decisions."""

    code: ClassVar[str] = "WAITING_APPROVAL"


class AlreadySignalled(FlowstoneError):
    """Another signal came first, and stands: this one changed nothing."""

    code: ClassVar[str] = "ALREADY_SIGNALLED"


class DependencyNotReady(FlowstoneError):
    """Stored values that a computation needs are missing; `details["missing"]` lists every one."""

    code: ClassVar[str] = "DEPENDENCY_NOT_READY"
    default_retryable: ClassVar[bool] = True


class DependencyFailed(FlowstoneError):
    """An asset could not run because an asset it depends on failed; the cause is that failure."""

    code: ClassVar[str] = "DEPENDENCY_FAILED"


class ExecutionError(FlowstoneError):
    """A body raised; `__cause__` is the original exception.

    Attributes:
        attempt: The attempt that failed, from 1.
        traceback_text: The formatted traceback of the original exception.
    """

    code: ClassVar[str] = "EXECUTION"

    def __init__(
        self,
        message: str,
        *,
        asset: str | None = None,
        partition: object = None,
        run_id: str | None = None,
        details: Mapping[str, object] | None = None,
        hint: str | None = None,
        retryable: bool | None = None,
        attempt: int = 1,
        traceback_text: str = "",
    ) -> None:
        super().__init__(
            message,
            asset=asset,
            partition=partition,
            run_id=run_id,
            details=details,
            hint=hint,
            retryable=retryable,
        )
        self.attempt = attempt
        self.traceback_text = traceback_text


class TimedOut(FlowstoneError, TimeoutError):
    """A time limit passed."""

    code: ClassVar[str] = "TIMED_OUT"
    default_retryable: ClassVar[bool] = True


class RateLimited(TimedOut):
    """A rate gave no permit in time, or cannot; `details` has the key, the rate and the seconds until the next one."""

    code: ClassVar[str] = "RATE_LIMITED"


class SlotTimeout(TimedOut):
    """No slot came free in time; `details` has the key and how many there are."""

    code: ClassVar[str] = "SLOT_TIMEOUT"


class Cancelled(FlowstoneError):
    """The run that was awaited was cancelled. Not `asyncio.CancelledError`: the awaiting task goes on."""

    code: ClassVar[str] = "CANCELLED"


class TargetSkipped(FlowstoneError):
    """The target of a run was skipped in it, so that there is no value to return."""

    code: ClassVar[str] = "TARGET_SKIPPED"


class StorageError(FlowstoneError):
    """A value could not be stored, read back or deleted."""

    code: ClassVar[str] = "STORAGE"


class StoreUnavailable(FlowstoneError):
    """The store cannot be reached, refuses the login or went away."""

    code: ClassVar[str] = "STORE_UNAVAILABLE"
    default_retryable: ClassVar[bool] = True


class ResourceUnavailable(FlowstoneError):
    """A resource could not be opened; `__cause__` says why."""

    code: ClassVar[str] = "RESOURCE_UNAVAILABLE"
    default_retryable: ClassVar[bool] = True


class SourceError(FlowstoneError):
    """Items could not be read, however often it was tried; `details` has `source`, `cursor` and `cause`."""

    code: ClassVar[str] = "SOURCE"
    default_retryable: ClassVar[bool] = True


class LeaseLost(FlowstoneError):
    """Somebody else owns the work now: a write under an old fencing token was refused."""

    code: ClassVar[str] = "LEASE_LOST"


class WorkerLost(FlowstoneError):
    """The processes that ran the work died under it, too often to try again."""

    code: ClassVar[str] = "WORKER_LOST"


class ScatterThreshold(FlowstoneError):
    """More items of a scatter failed than it tolerates.

    `details` has `total`, `done` and `failed`, what is `tolerated`, and the most frequent `errors`.
    """

    code: ClassVar[str] = "SCATTER_THRESHOLD"


class PlanOutdated(FlowstoneError):
    """What a plan was made from has changed; `details["changed"]` lists every change."""

    code: ClassVar[str] = "PLAN_OUTDATED"


class ReplayMismatch(FlowstoneError):
    """A body that is called again makes another durable call than is on record: `details` has both."""

    code: ClassVar[str] = "REPLAY_MISMATCH"


class StepLimit(FlowstoneError):
    """A body makes more durable calls than are kept of one."""

    code: ClassVar[str] = "STEP_LIMIT"


class NothingToCancel(FlowstoneError):
    """No active run was found to cancel."""

    code: ClassVar[str] = "NOTHING_TO_CANCEL"


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """An error as it is stored: enough to rebuild it in another process, and nothing executable.

    Attributes:
        type: Class name; of the library's own tree where `library` is true.
        library: Whether the error was one of the library's own.
        cause: The original exception behind it, as text, or None.
    """

    type: str
    library: bool
    code: str
    message: str
    retryable: bool
    asset: str | None = None
    partition: str | None = None
    run_id: str | None = None
    hint: str | None = None
    details: Mapping[str, object] = field(default_factory=dict[str, object])
    attempt: int = 1
    traceback_text: str = ""
    cause: str | None = None
