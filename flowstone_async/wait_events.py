"""Events of what waits and of durable steps: gates, requests for approval, calls of `ctx.step`.

They are journaled, by the run that goes on with what they tell (docs/adr/0011-events-of-waits.md), for bodies of assets
and their handlers. Items of a scatter have none. No token and no payload is in them.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar

from flowstone_async.errors import FlowstoneError
from flowstone_async.event import AssetEvent


@dataclass(frozen=True, slots=True, kw_only=True)
class GateEvent(AssetEvent):
    """Something that happened to a gate of an asset. A request for approval has `ApprovalEvent`s instead.

    Attributes:
        gate: Its id, as `engine.gates` knows it.
        name: For people.
        kind: `signal`, `sleep`, or `mismatch`: somebody is to say how code goes on that does not fit its record.
    """

    gate: str
    name: str = ""
    kind: str = "signal"


@dataclass(frozen=True, slots=True, kw_only=True)
class GateOpened(GateEvent):
    """A body waits at a gate, until `due` if that is not None."""

    type: ClassVar[str] = "gate.opened"
    due: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GateSignalled(GateEvent):
    """A signal ended the wait, `seconds` after the gate was opened. `at` is when it came."""

    type: ClassVar[str] = "gate.signalled"
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class GateTimedOut(GateEvent):
    """Nobody signalled the gate until `due`, or a sleep is over. `GateExpired` is an error."""

    type: ClassVar[str] = "gate.expired"
    due: datetime | None = None
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class GateRearmed(GateEvent):
    """A gate that had expired is open again, until `due`: by `Rearm`, or for another attempt of its asset."""

    type: ClassVar[str] = "gate.rearmed"
    due: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GateCancelled(GateEvent):
    """Nobody waits at a gate any more that was open for `seconds`: its run has ended, or its body has no use for it."""

    type: ClassVar[str] = "gate.cancelled"
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalEvent(AssetEvent):
    """Something that happened to a request for approval.

    Attributes:
        request: Its id, as `engine.approvals` knows it.
        name: For people.
    """

    request: str
    name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalOpened(ApprovalEvent):
    """People are asked, until `due` if that is not None. `ApprovalRequested` is what a notifier is given."""

    type: ClassVar[str] = "approval.requested"
    due: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalDecided(ApprovalEvent):
    """A request was decided, `seconds` after it was made.

    Attributes:
        decision: `approved` or `rejected`.
        by: Who decided; `timeout` where a deadline that passes is a yes.
        modified: Whether the form differs from the proposed one.
    """

    type: ClassVar[str] = "approval.decided"
    decision: str = ""
    by: str = ""
    modified: bool = False
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalEscalated(ApprovalEvent):
    """A request is `seconds` old and undecided, so that more people are told: those of its `escalation`, from 0."""

    type: ClassVar[str] = "approval.escalated"
    escalation: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalExpired(ApprovalEvent):
    """Nobody decided in time, `seconds` after the request was made, and that is a no."""

    type: ClassVar[str] = "approval.expired"
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalCancelled(ApprovalEvent):
    """A request was pending for `seconds` when its run ended, or its body had no use for it any more."""

    type: ClassVar[str] = "approval.cancelled"
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StepEvent(AssetEvent):
    """Something that happened to a step of a body: a call of `ctx.step`, `ctx.tx` or `ctx.map`.

    Attributes:
        step: Its key in the body, `charge#0`.
        attempt: Of the asset.
        seconds: How long it took; None where the process that had called it died before it could tell.
    """

    step: str
    attempt: int = 1
    seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StepFinished(StepEvent):
    """A step has a result on record, and is not called again."""

    type: ClassVar[str] = "step.finished"


@dataclass(frozen=True, slots=True, kw_only=True)
class StepFailed(StepEvent):
    """A step failed in this attempt of its asset, after all its own retries."""

    type: ClassVar[str] = "step.failed"
    error: FlowstoneError | None = None


WAIT_EVENTS = (
    GateOpened, GateSignalled, GateTimedOut, GateRearmed, GateCancelled,
    ApprovalOpened, ApprovalDecided, ApprovalEscalated, ApprovalExpired, ApprovalCancelled,
    StepFinished, StepFailed,
)  # fmt: skip
