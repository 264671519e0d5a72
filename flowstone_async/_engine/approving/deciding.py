"""Deciding requests: who, which, and what they filled in. The first decision stands, whoever comes at the same time.

A decision is delivered as the payload of its gate: the store lets one win. Sending it again is always safe, as the same
decision by the same person is found to be there already.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass
from types import NoneType
from typing import Any

import anyio

from flowstone_async._engine.approving import finding
from flowstone_async._engine.approving.asking import inputs_on_record, with_inputs
from flowstone_async._engine.approving.requests import (
    Request,
    Verdict,
    decision_of,
    read_verdict,
    record_of,
    request_of,
    told,
    verdict_of,
)
from flowstone_async._engine.gates.sender import Sender
from flowstone_async._engine.gates.type_names import NOWHERE, Home, home_of
from flowstone_async._engine.session import Session
from flowstone_async._engine.targets import Target
from flowstone_async.approval_errors import AlreadyDecided, NotAllowed
from flowstone_async.approvals import Decision
from flowstone_async.config import text
from flowstone_async.definition.assignable import Annotation, render
from flowstone_async.errors import (
    ConfigError,
    FlowstoneError,
    GateClosed,
    GateNotFound,
    PayloadInvalid,
    StoreUnavailable,
)
from flowstone_async.io import pieces
from flowstone_async.store.gates import Delivered, Delivery, Signal, StoredGate

LONGEST_BY, LONGEST_REASON = 1_000, 10_000
_PATIENCE, _PAUSE = 10.0, 0.1
_LOCKED = "55P03"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What somebody says.

    Attributes:
        form: An object of the form's type, or the plain data of one; or
        form_json: JSON as it came.
        roles: Of a user who has logged in; None for a call in process, which is trusted.
    """

    approved: bool
    by: str
    reason: str | None = None
    form: object = None
    form_json: bytes | None = None
    roles: Collection[str] | None = None

    @property
    def filled(self) -> bool:
        """Whether a form was given."""
        return self.form is not None or self.form_json is not None


def answer(
    *,
    approved: bool,
    by: object,
    reason: object = None,
    form: object = None,
    form_json: bytes | None = None,
    roles: Collection[str] | None = None,
) -> Answer:
    """Return what somebody says, checked.

    Raises:
        ConfigError: `by` is empty or no text, or `reason` is no text.
    """
    if not isinstance(by, str) or not by.strip() or len(by) > LONGEST_BY:
        raise ConfigError(f"by={by!r}"[:200], hint="Say who decides: text that is not empty, such as an address.")
    text(by, what="by")
    given = text(reason, what="reason")
    if given is not None and len(given) > LONGEST_REASON:
        raise ConfigError(f"reason= has {len(given):,} characters", hint=f"It may have {LONGEST_REASON:,}.")
    return Answer(approved=approved, by=by, reason=given, form=form, form_json=form_json, roles=roles)


async def decide(
    session: Session, target: Target, partition: object, said: Answer, sender: Sender
) -> tuple[Decision[Any], str]:
    """Decide a request; return the decision that stands, and the run that waits for it.

    Raises:
        NothingPending: There is no such request that is pending, or was.
        ConfigError: Several match; they are listed.
        AlreadyDecided: Another decision came first, and stands.
        GateClosed: The request has expired, or was cancelled.
        GateNotFound: There is no request of this id.
        NotAllowed: The person has none of the roles.
        PayloadInvalid: The form does not fit; the request is as pending as before.
        StoreUnavailable: Nobody knows whether it was taken: decide it again.
    """
    session.check()
    stored = await finding.to_decide(session, target, partition)
    return await _Deciding(session, stored, said, sender).run(), stored.gate.run_id


class _Deciding:
    def __init__(self, session: Session, stored: StoredGate, said: Answer, sender: Sender) -> None:
        self._services, self._gates = session.services, session.services.store.gates
        self._stored, self._said = stored, said
        self._request: Request = request_of(stored)
        self._facts = sender.facts(session.services.redactor, "")
        key = stored.gate.asset
        catalog = session.catalogs.get(key.pipeline)
        node = self._node = None if catalog is None else catalog.graph.nodes.get(key.asset)
        self._home: Home = NOWHERE if node is None else home_of(node.definition)

    async def run(self) -> Decision[Any]:
        stored = self._stored
        await self._check_roles()
        if stored.outcome is not None or stored.state != "open":
            return await self._stands(stored)
        payload = (await self._verdict()).payload()
        delivered = await self._deliver(Signal(payload=payload, gate=stored.gate.id, facts=self._facts))
        if delivered.state in ("accepted", "duplicate"):
            return await self._decision(stored._replace(outcome=delivered.outcome))
        raise self._refused(stored, delivered)

    async def _check_roles(self) -> None:
        """Refuse a user who may not decide."""
        roles, stored = self._said.roles, self._stored
        age = (self._services.store.now() - stored.opened_at).total_seconds()
        wanted = self._request.roles_at(age)
        if roles is None or not wanted or set(wanted) & set(roles):
            return
        await self._record("not allowed")
        raise NotAllowed(
            f"{self._said.by} may not decide {self._request.text!r}",
            details={"gate": stored.gate.id, "roles": list(wanted)},
            hint=f"Whoever has one of these roles may: {', '.join(wanted)}.",
            **told(stored),
        )

    async def _verdict(self) -> Verdict:
        """Return the decision as it is stored.

        Raises:
            PayloadInvalid: The form does not fit.
            ConfigError: Its type is not to be found here.
        """
        said, request = self._said, self._request
        if not said.approved:
            return Verdict(approved=False, by=said.by, reason=said.reason)
        if not said.filled and (request.proposed or not request.has_form):
            form = request.initial
            return Verdict(approved=True, by=said.by, reason=said.reason, form=form, filled=request.proposed)
        try:
            form = self._form()
        except PayloadInvalid:
            await self._record("invalid")
            raise
        except ConfigError:
            await self._record("type unknown")
            raise
        modified = request.proposed and form != request.initial
        return Verdict(approved=True, by=said.by, reason=said.reason, form=form, filled=True, modified=modified)

    def _form(self) -> Any:
        said, payloads = self._said, self._services.payloads
        if not self._request.has_form:
            raise self._unfit("this request has no form", {"": "there is no form"})
        model = self._model()
        if not said.filled:
            raise self._unfit(f"the form is missing: a {render(model)}", {"": "it is missing"})
        try:
            if said.form_json is not None:
                return pieces.load(payloads.encode_json(model, said.form_json, self._home))
            return pieces.load(payloads.encode(model, said.form, self._home))
        except PayloadInvalid as error:
            text = error.message.replace("the payload is", "the form is", 1)
            raise self._unfit(text, error.details.get("fields", {})) from None

    def _unfit(self, message: str, fields: object) -> PayloadInvalid:
        return PayloadInvalid(
            message,
            details={"gate": self._stored.gate.id, "fields": fields},
            hint="The request is as pending as before: decide it again.",
            **told(self._stored),
        )

    def _model(self) -> Annotation:
        if not self._request.has_form:
            return NoneType
        return self._services.payloads.type_of(self._stored.gate.facts, home=self._home)

    async def _deliver(self, signal: Signal) -> Delivered:
        give_up = time.monotonic() + _PATIENCE
        while True:
            try:
                return await self._gates.deliver(signal)
            except StoreUnavailable as error:
                if error.details.get("sqlstate") == _LOCKED or time.monotonic() > give_up:
                    raise
            await anyio.sleep(_PAUSE)

    # -- what stands --------------------------------------------------------------------------------------------

    async def _stands(self, stored: StoredGate) -> Decision[Any]:
        """Return the decision that was made before, if it is this one.

        Raises:
            AlreadyDecided: It is another one.
            GateClosed: The request has ended without one.
        """
        outcome = stored.outcome
        if outcome is None or outcome.how != "signalled":
            raise self._closed(stored)
        if not self._is_same(read_verdict(outcome.payload or b"")):
            raise self._decided(stored)
        return await self._decision(stored)

    def _is_same(self, first: Verdict) -> bool:
        said = self._said
        if (first.approved, first.by, first.reason) != (said.approved, said.by, said.reason):
            return False
        if not said.approved:
            return True
        if not said.filled:
            return not first.filled or (self._request.proposed and not first.modified)
        try:
            return self._form() == first.form
        except (PayloadInvalid, ConfigError):
            return False

    def _refused(self, stored: StoredGate, delivered: Delivered) -> FlowstoneError:
        stored = stored._replace(outcome=delivered.outcome)
        if delivered.state == "already":
            return self._decided(stored)
        if delivered.state in ("expired", "closed"):
            how = "expired" if delivered.state == "expired" else "cancelled"
            return self._closed(stored._replace(state=how))
        return GateNotFound(
            "the run of this request is forgotten by now",
            details={"gate": stored.gate.id},
            hint="engine.approvals.pending() lists those that wait for somebody.",
        )

    def _decided(self, stored: StoredGate) -> AlreadyDecided:
        outcome = stored.outcome
        assert outcome is not None  # noqa: S101 - it is decided
        first = read_verdict(outcome.payload or b"")
        how = "approved" if first.approved else "rejected"
        decision = {"approved": first.approved, "by": first.by, "reason": first.reason, "at": outcome.at.isoformat()}
        return AlreadyDecided(
            f"{first.by} has {how} {self._request.text!r} already",
            details={"gate": stored.gate.id, "decision": {**decision, "form": first.form}},
            hint="The first decision stands. Run the asset again to ask again.",
            **told(stored),
        )

    def _closed(self, stored: StoredGate) -> GateClosed:
        outcome = stored.outcome
        state = stored.state if outcome is None else outcome.how
        verdict = verdict_of(stored)
        counts = "" if verdict is None else ", which counted as a yes"
        text = f"nobody decided {self._request.text!r} in time{counts}" if state == "expired" else "its run has ended"
        return GateClosed(
            f"the request is {state}: {text}",
            details={"gate": stored.gate.id, "state": state},
            hint="Run the asset again to ask again.",
            **told(stored),
        )

    async def _decision(self, stored: StoredGate) -> Decision[Any]:
        outcome = stored.outcome
        assert outcome is not None  # noqa: S101 - it is decided
        data = record_of(read_verdict(outcome.payload or b""), outcome.at, self._request)
        decision = decision_of(data, self._services.payloads, self._model(), self._home)
        if self._node is None:
            return decision
        return with_inputs(decision, await inputs_on_record(self._services.store, self._node, stored))

    async def _record(self, state: str) -> None:
        """Put on record that a decision was refused."""
        payload = pieces.dump({"by": self._said.by, "approved": self._said.approved})
        await self._gates.record_delivery(
            Delivery(state, gate=self._stored.gate.id, facts=self._facts, payload=payload)
        )
