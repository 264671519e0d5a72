"""Requests for approval that bodies return (APPR-16): what is kept of one, and what becomes of it.

The value that is to be approved is on record with the body, as the asset's I/O manager encodes values. Functions that
are to be told cannot be kept: where somebody is yet to be told after a restart, or when the request is old, the body is
called again for them, and for nothing else of what it returns.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from types import NoneType
from typing import Any, Generic, Protocol, TypeVar

from flowstone_async._engine.approving.asking import refusal, with_inputs
from flowstone_async._engine.approving.requests import (
    Request,
    Verdict,
    by_timeout,
    decision_of,
    read_verdict,
    record_of,
    request_of,
)
from flowstone_async._engine.gates.type_names import home_of
from flowstone_async._engine.replay.approval import approval_gate, expired, rejected
from flowstone_async._engine.replay.body import DurableBody
from flowstone_async._engine.replay.gate import lost
from flowstone_async._engine.replay.messages import Messages
from flowstone_async._engine.replay.scope import Place
from flowstone_async._engine.services import Services
from flowstone_async._engine.waits.alarms import waits_as
from flowstone_async._engine.waits.parked import Parked
from flowstone_async._engine.waits.returned_record import PATH, Proposal
from flowstone_async.approval_gate import ApprovalGate
from flowstone_async.approvals import ApprovalOptions, Decision, Notifier
from flowstone_async.definition.assignable import assignable
from flowstone_async.definition.graph import BoundGate, BoundHandler, Node
from flowstone_async.errors import StorageError
from flowstone_async.io.base import IOManager
from flowstone_async.io.codec import Codec, codec_for
from flowstone_async.io.encoder import Encoder
from flowstone_async.store.gates import Gate, Outcome, StoredGate

V = TypeVar("V")
V_co = TypeVar("V_co", covariant=True)


class Body(Protocol[V_co]):
    """The attempt at an asset whose body has returned a request."""

    gate: BoundGate
    node: Node
    services: Services

    @property
    def manager(self) -> IOManager | None:
        """Of the asset's value; None for an item."""
        ...

    @property
    def durable(self) -> DurableBody:
        """What the body has on record."""
        ...

    async def again(self) -> object:
        """Call the body again, and return what it returns; None if it fails."""
        ...

    async def handled(self, handler: BoundHandler, decision: Decision[Any]) -> Any:
        """Call a handler with a decision."""
        ...

    async def stored(self, value: Any) -> V_co:
        """Store the value of the asset."""
        ...

    def note(self, **notes: object) -> None:
        """Note something of the value."""
        ...

    def sleep(self, waits: tuple[Parked, ...]) -> None:
        """Let go of the asset until one of some gates has ended."""
        ...

    def give_up(self) -> None:
        """Make no more attempts: another would change nothing."""
        ...


def proposed(
    durable: DurableBody, manager: IOManager | None, node: Node, given: ApprovalGate[Any]
) -> tuple[Gate, Proposal]:
    """Return what is recorded of a request.

    Raises:
        StorageError: The value cannot be kept.
        ConfigError: The form cannot be stored, or what is proposed does not fit it.
    """
    asking, options = given.asking, given.asking.options
    filled = options.form is not None and assignable(options.form, node.value_type)
    if filled and asking.initial is None:
        asking = replace(asking, initial=given.value)
    place = Place(f"{PATH}/{asking.name}#0", PATH, 0)
    try:
        value = _codec(manager, node).encode(given.value)
    except StorageError as error:
        raise StorageError(
            f"value= of the request that the body returned cannot be kept: {error.message}",
            hint=error.hint,
            details=error.details,
        ) from error
    later = tuple((each.age, len(each.notify)) for each in options.escalate)
    return approval_gate(durable, place, asking).record(), Proposal(value, filled, len(options.notify), later)


class ReturnedApproval(Generic[V]):
    """One look at a request that a body has returned.

    Args:
        body: The attempt.
        gate: The gate of the request.
        proposal: What else is on record of it.
        options: Those of the request, where the body has just returned it.
    """

    def __init__(self, body: Body[V], gate: Gate, proposal: Proposal, options: ApprovalOptions | None) -> None:
        self._body, self._gate, self._proposal, self._options = body, gate, proposal, options
        self._services, self._waits = body.services, body.durable.facts.waits
        self._messages = Messages(body.durable, gate.key)

    async def value(self) -> V | None:
        """Return the value of the asset, or None as long as nobody has decided.

        Raises:
            Rejected: Somebody said no, or nobody decided in time, and nothing makes a value of that.
        """
        stored, journal = await self._opened(self._gate), self._body.durable.journal
        journal.opened(stored)
        outcome = stored.outcome
        if outcome is None:
            await self._wait(stored)
            return None
        journal.ended(stored, outcome)
        request = request_of(stored)
        verdict = None
        if outcome.how == "signalled":
            verdict = read_verdict(outcome.payload or b"")
        elif request.approves:
            verdict = by_timeout(request)
        if verdict is not None and verdict.approved:
            return await self._approved(request, verdict, outcome.at)
        return await self._refused(stored, request, verdict, outcome)

    async def _opened(self, gate: Gate) -> StoredGate:
        stored = await self._waits.open(gate)
        if stored is None or (stored.outcome is not None and stored.outcome.how == "cancelled"):
            raise lost(self._body.durable.facts, gate.key)
        return stored

    # -- while nobody has decided -------------------------------------------------------------------------------

    async def _wait(self, stored: StoredGate) -> None:
        """Tell whoever is to be told by now, and let go of the asset until the request, or an alarm, has ended."""
        waits = [_parked(stored)]
        wanted: list[tuple[int | None, int]] = [(None, self._proposal.told)]
        for number, (age, count) in enumerate(self._proposal.later):
            if count:
                alarm = await self._opened(self._messages.alarm(stored, number, age))
                if alarm.outcome is None:
                    waits.append(_parked(alarm))
                else:
                    self._body.durable.journal.escalated(stored, number, alarm.outcome.at)
                    wanted.append((number, count))
        for escalation, count in wanted:
            if self._messages.untold(count, escalation):
                await self._messages.tell(stored, await self._notifiers(escalation, count), escalation)
        self._body.sleep(tuple(waits))

    async def _notifiers(self, escalation: int | None, count: int) -> Sequence[Notifier | None]:
        """Return whom to tell; those that the body, called again, does not name any more are None."""
        if self._options is None:
            again = await self._body.again()
            self._options = again.asking.options if isinstance(again, ApprovalGate) else ApprovalOptions()
        given = self._options
        found = given.notify if escalation is None else ()
        if escalation is not None and escalation < len(given.escalate):
            found = given.escalate[escalation].notify
        return [*found, *[None] * count][:count]

    # -- once somebody has ---------------------------------------------------------------------------------------

    async def _approved(self, request: Request, verdict: Verdict, at: datetime) -> V:
        body, home = self._body, home_of(self._body.node.definition)
        payloads = self._services.payloads
        model = payloads.type_of(self._gate.facts, home=home) if request.has_form else NoneType
        value = self._value()
        found: Decision[Any] = decision_of(record_of(verdict, at, request), payloads, model, home)
        decision = with_inputs(found, {"value": value})
        body.note(approved_by=decision.by, modified=decision.modified)
        handler = body.gate.on_approve
        if handler is not None:
            return await body.stored(await body.handled(handler, decision))
        return await body.stored(decision.form if self._proposal.filled and verdict.filled else value)

    async def _refused(self, stored: StoredGate, request: Request, verdict: Verdict | None, outcome: Outcome) -> V:
        body, handler = self._body, self._body.gate.on_reject
        error = expired(stored, request) if verdict is None else rejected(stored, request, verdict, outcome.at)
        if handler is None:
            body.give_up()
            raise error
        return await body.stored(await body.handled(handler, refusal(error, None, {"value": self._value()})))

    def _value(self) -> Any:
        return _codec(self._body.manager, self._body.node).decode(self._proposal.value)


def _codec(manager: IOManager | None, node: Node) -> Codec:
    """Return what keeps the value meanwhile: what the asset's manager encodes with, where it is one of ours."""
    names, encoder = node.definition.scope.names, getattr(manager, "encoder", None)
    if isinstance(encoder, Encoder):
        return encoder.codec(node.value_type, names)
    return codec_for(node.value_type, names=names)


def _parked(stored: StoredGate) -> Parked:
    future = asyncio.get_running_loop().create_future()
    return Parked(stored.gate.id, waits_as(stored.gate), stored.due, future, timed=False)
