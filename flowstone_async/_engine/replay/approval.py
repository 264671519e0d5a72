"""A body that asks people: a gate whose payload is the decision, with messages, and alarms while it is open."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import anyio
from typing_extensions import override

from flowstone_async._engine.approving.requests import (
    Request,
    Verdict,
    by_timeout,
    decision_of,
    facts_of,
    read_verdict,
    record_of,
    request_of,
    told,
)
from flowstone_async._engine.gates.type_names import home_of
from flowstone_async._engine.replay.gate import BodyGate, Host, Wait
from flowstone_async._engine.replay.messages import Messages
from flowstone_async._engine.replay.scope import Place
from flowstone_async._engine.replay.script import Called
from flowstone_async.approval_errors import ApprovalTimedOut, Rejected
from flowstone_async.approvals import Asking, Escalation
from flowstone_async.errors import FlowstoneError, StoreUnavailable
from flowstone_async.store.gates import Outcome, StoredGate


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalWait(Wait):
    """Waits for a decision."""

    asked: Asking

    @override
    def called(self) -> Called:
        return Called(("approval", self.name, ""))

    @override
    def facts(self, host: Host) -> str:
        services = host.services
        secret = services.secrets[0] if services.secrets else None
        home = home_of(host.facts.definition)
        return facts_of(self.asked, services.payloads, services.redactor, secret=secret, home=home, item=host.key)

    @override
    def value(self, host: Host, data: bytes) -> Any:
        return decision_of(data, host.services.payloads, self.asked.options.form, home_of(host.facts.definition))

    @override
    def taken(self, outcome: Outcome) -> bytes | FlowstoneError:
        raise AssertionError("whether it is a yes is on record of the request")


class ApprovalInBody(BodyGate):
    """A request with its place in a body. What ended it stands for all attempts: nobody is asked twice."""

    __slots__ = ("_asked", "_messages")

    def __init__(self, host: Host, place: Place, wait: ApprovalWait) -> None:
        super().__init__(host, place, wait)
        self._asked = wait.asked
        self._messages = Messages(host, place.key)

    @override
    async def _taken(self) -> tuple[bytes | FlowstoneError, Any]:
        stored, outcome = await self._decided()
        self._host.journal.ended(stored, outcome)
        request = request_of(stored)
        verdict = None
        if outcome.how == "signalled":
            verdict = read_verdict(outcome.payload or b"")
        elif request.approves:
            verdict = by_timeout(request)
        if verdict is None:
            return expired(stored, request), None
        if not verdict.approved:
            return rejected(stored, request, verdict, outcome.at), None
        data = record_of(verdict, outcome.at, request)
        return data, self._wait.value(self._host, data)

    async def _decided(self) -> tuple[StoredGate, Outcome]:
        """Make the request unless it is made, tell people, and wait for what ends it."""
        host = self._host
        try:
            stored = await self._opened()
            outcome = stored.outcome or await self._open_until(stored)
        except StoreUnavailable as error:
            host.facts.away(error)
            raise
        if outcome.how == "cancelled":
            raise self._lost()
        return stored, outcome

    async def _open_until(self, stored: StoredGate) -> Outcome:
        host, options = self._host, self._asked.options
        await self._messages.tell(stored, options.notify, None)
        alarms = [(number, each) for number, each in enumerate(options.escalate) if each.notify]
        if not alarms:
            return await host.waits.park(stored)
        outcome: Outcome | None = None
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._escalate, stored, alarms, name=f"escalation of {self._wait.name}")
                outcome = await host.waits.park(stored)
                group.cancel_scope.cancel()
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        assert outcome is not None  # noqa: S101 - the group raises otherwise
        return outcome

    async def _escalate(self, stored: StoredGate, alarms: Sequence[tuple[int, Escalation]]) -> None:
        """Tell more people once the request is so old."""
        host = self._host
        for number, escalation in alarms:
            opened = await host.waits.waits.open(self._messages.alarm(stored, number, escalation.age))
            if opened is None:
                raise self._lost()
            outcome = opened.outcome or await host.waits.park(opened)
            if outcome.how == "cancelled":
                raise self._lost()
            host.journal.escalated(stored, number, outcome.at)
            await self._messages.tell(stored, escalation.notify, number)


def approval_gate(host: Host, place: Place, asked: Asking) -> ApprovalInBody:
    """Return a request at its place in a body."""
    total = asked.options.total
    due = None if total is None else timedelta(seconds=total)
    return ApprovalInBody(host, place, ApprovalWait(kind="approval", name=asked.name, due=due, asked=asked))


def rejected(stored: StoredGate, request: Request, verdict: Verdict, at: datetime) -> Rejected:
    """Return the error for a request to which somebody said no."""
    why = "" if verdict.reason is None else f": {verdict.reason}"
    details = {"gate": stored.gate.id, "by": verdict.by, "reason": verdict.reason, "at": at.isoformat()}
    return Rejected(
        f"{request.text!r} was rejected by {verdict.by}{why}",
        details=details,
        hint="Run it again to ask again; in a body, catch Rejected to go on without it.",
        **told(stored),
    )


def expired(stored: StoredGate, request: Request) -> ApprovalTimedOut:
    """Return the error for a request that nobody decided in time, which counts as a no."""
    due = stored.due
    return ApprovalTimedOut(
        f"nobody decided {request.text!r} in time",
        details={"gate": stored.gate.id, "at": None if due is None else due.isoformat()},
        hint="Raise timeout=, say on_timeout= or escalate=, or run it again to ask again.",
        **told(stored),
    )
