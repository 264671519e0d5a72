"""What bodies tell of gates, requests for approval and steps; see docs/adr/0011-events-of-waits.md.

What is told is on record already, and joins the run's journal: it is committed with whatever comes next, or alone if
that takes long. Whoever comes to it again tells nothing: each event has a mark (`told.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime

from flowstone_async._engine.approving.requests import BY_TIMEOUT, Verdict, by_timeout, read_verdict, request_of
from flowstone_async._engine.journal import Journal
from flowstone_async.errors import FlowstoneError
from flowstone_async.event import AssetEvent
from flowstone_async.redaction import Redactor
from flowstone_async.store.gates import Gate, Outcome, StoredGate
from flowstone_async.types import AssetKey
from flowstone_async.wait_events import (
    ApprovalDecided,
    ApprovalEscalated,
    ApprovalExpired,
    ApprovalOpened,
    GateOpened,
    GateRearmed,
    GateSignalled,
    GateTimedOut,
    StepFailed,
    StepFinished,
)

SOON, LATER = 0.2, 1.0
"""Seconds after which it is committed alone: of waits; of steps, of which there may be many."""


class WaitJournal:
    """Takes what bodies of one run tell.

    Args:
        journal: Of the run; None to tell nobody, as for items of a scatter.
        redactor: Hides secrets.
        now: The store's clock.
        within: Told in how many seconds the journal is to be committed.
    """

    def __init__(
        self,
        journal: Journal | None,
        redactor: Redactor,
        now: Callable[[], datetime],
        within: Callable[[float], None],
    ) -> None:
        self._journal, self._redactor, self._now, self._within = journal, redactor, now, within

    def close(self) -> None:
        """Tell nothing any more, and let go of the run."""
        self._journal, self._within = None, _unheard

    def opened(self, stored: StoredGate) -> None:
        """Tell that a gate is open, or was."""
        gate, due = stored.gate, stored.due
        if gate.kind != "approval":
            self._add(GateOpened, stored.opened_at, {**_gate(gate), "due": _text(due)}, gate.asset)
        elif self._journal is not None:
            due = request_of(stored).due(stored.opened_at, stored.opened_at)
            self._add(ApprovalOpened, stored.opened_at, {**_request(gate), "due": _text(due)}, gate.asset)

    def ended(self, stored: StoredGate, outcome: Outcome) -> None:
        """Tell what has ended a gate; nothing if it was cancelled, which whoever does that tells."""
        if self._journal is None or outcome.how == "cancelled":
            return
        gate = stored.gate
        if gate.kind == "approval":
            self._decided(stored, outcome)
            return
        body = {**_gate(gate), "seconds": self._since(stored, outcome.at)}
        if outcome.how == "signalled":
            self._add(GateSignalled, outcome.at, body, gate.asset)
        else:
            self._add(GateTimedOut, outcome.at, {**body, "due": _text(stored.due)}, gate.asset)

    def _decided(self, stored: StoredGate, outcome: Outcome) -> None:
        verdict, body = _verdict(stored, outcome), {**_request(stored.gate), "seconds": self._since(stored, outcome.at)}
        if verdict is None:
            self._add(ApprovalExpired, outcome.at, body, stored.gate.asset)
            return
        decision = "approved" if verdict.approved else "rejected"
        by = verdict.by if verdict.by == BY_TIMEOUT else self._redactor.text(verdict.by)
        body |= {"decision": decision, "by": by, "modified": verdict.modified}
        self._add(ApprovalDecided, outcome.at, body, stored.gate.asset)

    def _since(self, stored: StoredGate, at: datetime) -> float:
        opened = None if self._journal is None else self._journal.told.opened_at(stored.gate.id)
        return max(0.0, (at - (opened or stored.opened_at)).total_seconds())

    def rearmed(self, gate: Gate, due: datetime) -> None:
        """Tell that a gate that had expired is open again."""
        if self._journal is not None:
            self._add(GateRearmed, self._now(), {**_gate(gate), "due": _text(due)}, gate.asset)

    def escalated(self, stored: StoredGate, number: int, at: datetime) -> None:
        """Tell that more people are told of a request."""
        body = {**_request(stored.gate), "escalation": number, "seconds": (at - stored.opened_at).total_seconds()}
        self._add(ApprovalEscalated, at, body, stored.gate.asset)

    def withdrawn(self, gates: Iterable[str]) -> None:
        """Tell that nobody waits at gates any more."""
        if self._journal is not None:
            self._journal.add_all(self._journal.told.cancelled(self._now(), gates))
            self._within(SOON)

    def step(
        self, key: AssetKey, step: str, attempt: int, seconds: float | None, error: FlowstoneError | None = None
    ) -> None:
        """Tell that a step has a result on record, or failed in an attempt."""
        if self._journal is not None:
            body: dict[str, object] = {"step": self._redactor.text(step), "attempt": attempt, "seconds": seconds}
            self._add(StepFinished if error is None else StepFailed, self._now(), body, key, LATER, error)

    def untold(self, key: AssetKey, *, gate: str = "", step: str = "", attempt: int = 0) -> bool:
        """Tell whether the end of a gate, or what came of a step in an attempt, is yet to be told."""
        if self._journal is None:
            return False
        told = self._journal.told
        if gate:
            return not told.ended(gate, key.asset, key.partition)
        body = {"asset": key.asset, "partition": key.partition, "step": self._redactor.text(step), "attempt": attempt}
        return not told.knows(StepFinished.type, body)

    def _add(
        self,
        kind: type[AssetEvent],
        at: datetime,
        body: dict[str, object],
        key: AssetKey,
        within: float = SOON,
        error: FlowstoneError | None = None,
    ) -> None:
        journal = self._journal
        if journal is None:
            return
        body = {"asset": key.asset, "partition": key.partition, **body}
        if "name" in body:
            body["name"] = self._redactor.text(str(body["name"]))
        if not journal.told.knows(kind.type, body):
            journal.add(kind, at, body, error)
            self._within(within)


class SilentJournal(WaitJournal):
    """Tells nobody."""

    def __init__(self) -> None:
        super().__init__(None, Redactor(), _never, _unheard)


def _unheard(_: float) -> None:
    pass


def _never() -> datetime:
    raise AssertionError("nothing is told")


def _gate(gate: Gate) -> dict[str, object]:
    return {"gate": gate.id, "name": gate.name, "kind": gate.kind}


def _request(gate: Gate) -> dict[str, object]:
    return {"request": gate.id, "name": gate.name}


def _verdict(stored: StoredGate, outcome: Outcome) -> Verdict | None:
    if outcome.how == "signalled":
        return read_verdict(outcome.payload or b"")
    request = request_of(stored)
    return by_timeout(request) if request.approves else None


def _text(due: datetime | None) -> str | None:
    return None if due is None else due.isoformat()
