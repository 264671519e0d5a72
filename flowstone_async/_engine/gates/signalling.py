"""Signals: checked against the type of their gate, delivered, and on record whatever became of them.

`deliver` is behind `Engine.signal` and whatever else takes signals. Sending one again is always safe: it tells that it
is a repetition, and changes nothing. One whose reply is lost is sent again here.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import anyio
from pydantic_core import to_json

from flowstone_async._engine.gates import refusals
from flowstone_async._engine.gates.payloads import Payloads, is_unchecked, unchecked, unchecked_json
from flowstone_async._engine.gates.sender import Sender
from flowstone_async._engine.gates.type_names import NOWHERE, Home, home_of
from flowstone_async._engine.session import Session
from flowstone_async._engine.tokens import chosen, gate_of, looks_derived
from flowstone_async.definition.assignable import Annotation
from flowstone_async.definition.keys import PartitionKey, decode_key
from flowstone_async.errors import ConfigError, ForgedToken, MalformedToken, PayloadInvalid, StoreUnavailable
from flowstone_async.store.gates import Delivered, Delivery, Signal, StoredGate

_PATIENCE = 10.0
_PAUSE = 0.1
_LOCKED = "55P03"  # another transaction is delivering to the same gate
_MOVES = 4  # of a token, from gate to gate, while one signal is delivered
_LONGEST_ID = 1024
_MOST_INSPECTED = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Signalled:
    """A signal that was taken.

    Attributes:
        gate_id: Its gate; None if that is not on record yet and the other side chose the token.
        run_id: The run that waits, or waited; None if the gate is not on record yet: the signal is kept for it.
        asset: What waits, or waited; None likewise.
        partition: For which key.
        duplicate: Whether it had been taken before, so that nothing has changed.
        at: When it was taken: the first time, if this was a repetition.
    """

    gate_id: str | None
    run_id: str | None
    asset: str | None
    partition: PartitionKey | None
    duplicate: bool
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """What is sent: an object, or JSON as it came.

    Attributes:
        payload: The object, if `text` is None.
        text: The JSON; nothing at all is taken as `null`.
    """

    payload: object = None
    text: bytes | None = None

    def encoded(self, payloads: Payloads, model: Annotation, home: Home) -> bytes:
        """Return it as it is stored; raises `PayloadInvalid`."""
        if self.text is None:
            return payloads.encode(model, self.payload, home)
        return payloads.encode_json(model, self.text or b"null", home)

    def unchecked(self) -> bytes:
        """Return it as it is stored while nobody knows of which type it must be; raises `PayloadInvalid`."""
        return unchecked(self.payload) if self.text is None else unchecked_json(self.text or b"null")

    def for_ended(self) -> bytes:
        """Return it for a gate that has ended, of which it can be nothing but a repetition, or too late."""
        try:
            return self.unchecked()
        except PayloadInvalid:
            if self.text is not None:
                raise
            # Of an object that no JSON is made of nothing counts but its id.
            return unchecked_json(to_json(f"a {type(self.payload).__name__}, which has no JSON form"))

    def inspected(self) -> bytes | None:
        """Return what is kept of it for people to look at, if it is refused."""
        if self.text is not None:
            return self.text[:_MOST_INSPECTED]
        try:
            return to_json(self.payload, serialize_unknown=True, inf_nan_mode="constants")[:_MOST_INSPECTED]
        except (ValueError, TypeError, RecursionError):
            return None


async def deliver(
    session: Session,
    token: object,
    message: Message,
    *,
    sender: Sender,
    signal_id: str | None = None,
    connection: object = None,
    public: bool = False,
) -> Signalled:
    """Deliver a signal to the gate that a token belongs to.

    Args:
        session: Of the engine.
        token: The gate's own, or one that the other side chose.
        message: The payload.
        sender: For the record.
        signal_id: What the sender calls the signal.
        connection: In whose transaction it takes effect.
        public: Whether anybody may call: then only tokens that gates make for themselves count.

    Raises:
        MalformedToken: It is no token.
        ForgedToken: It was not made with a secret of this engine.
        PayloadInvalid: The payload does not fit the gate's type; the gate is as open as before.
        GateNotFound: There is no such gate, and signals that come first are not kept.
        GateExpired: Its deadline has passed.
        GateClosed: Its run was cancelled, or has ended.
        AlreadySignalled: Another signal came first.
        ConfigError: Another argument is wrong, or the type of the payload is not to be found here.
        StoreUnavailable: Nobody knows whether it was taken: send it again.
    """
    session.check()
    if not isinstance(token, str):
        raise MalformedToken(f"token={type(token).__name__} is no text", hint="Pass `gate.token` on as it is.")
    return await _Delivering(session, token, message, sender, _checked_id(signal_id), connection).run(public=public)


class _Delivering:
    """One signal on its way."""

    def __init__(
        self,
        session: Session,
        token: str,
        message: Message,
        sender: Sender,
        signal_id: str | None,
        connection: object,
    ) -> None:
        self._catalogs, self._services = session.catalogs, session.services
        self._gates = session.services.store.gates
        self._token, self._message, self._sender = token, message, sender
        self._signal_id, self._connection = signal_id, connection
        self._facts = sender.facts(session.services.redactor, token)

    async def run(self, *, public: bool) -> Signalled:
        gate, token = await self._address(public=public)
        moves = 0
        while True:
            stored = await self._gate(gate, token)
            data = await self._data(stored)
            delivered = await self._deliver(self._signal(data, gate, token, stored))
            moves += 1
            if moves == _MOVES or not await self._moved(delivered, token, stored):
                return await self._told(delivered, gate, stored, data)

    async def _address(self, *, public: bool) -> tuple[str | None, bytes | None]:
        """Return the gate that a token was made for, or what one that was chosen is found by."""
        token = self._token
        try:
            if not public and not looks_derived(token):
                return None, _hash(token)
            if not self._services.secrets:
                raise refusals.no_secret()
            return gate_of(self._services.secrets, token), None
        except MalformedToken:
            await self._refused("malformed")
            raise
        except ForgedToken:
            await self._refused("forged")
            raise

    async def _gate(self, gate: str | None, token: bytes | None) -> StoredGate | None:
        if token is not None:
            stored = await self._gates.holder(token)
        else:
            stored = (await self._gates.read([gate or ""])).get(gate or "")
        if stored is not None and stored.gate.kind != "signal":
            await self._refused("unknown", stored.gate.id)
            raise refusals.other_kind(stored)
        return stored

    async def _data(self, stored: StoredGate | None) -> bytes:
        """Return the payload as it is stored; what it stands for is not asked of a gate that has ended."""
        try:
            return self._message.unchecked() if stored is None else self._fitting(stored)
        except PayloadInvalid as error:
            await self._refused("invalid", None if stored is None else stored.gate.id)
            raise refusals.located(error, stored) from None
        except ConfigError:
            await self._refused("type unknown", None if stored is None else stored.gate.id)
            raise

    def _fitting(self, stored: StoredGate) -> bytes:
        try:
            model, home = self._model(stored)
            data = self._message.encoded(self._services.payloads, model, home)
        except ConfigError:
            if stored.state == "open":
                raise
            return self._message.for_ended()
        outcome = stored.outcome
        if outcome is None or outcome.payload is None:
            return data
        return outcome.payload if self._services.payloads.same(model, data, outcome.payload, home) else data

    def _model(self, stored: StoredGate) -> tuple[Annotation, Home]:
        key = stored.gate.asset
        catalog = self._catalogs.get(key.pipeline)
        node = None if catalog is None else catalog.graph.nodes.get(key.asset)
        home = NOWHERE if node is None else home_of(node.definition)
        return self._services.payloads.type_of(stored.gate.facts, home=home), home

    def _signal(self, data: bytes, gate: str | None, token: bytes | None, stored: StoredGate | None) -> Signal:
        early = self._services.settings.early_signals if stored is None else None
        return Signal(
            payload=data,
            gate=gate if stored is None else stored.gate.id,
            token=token if stored is None else None,
            signal_id=self._signal_id,
            facts=self._facts,
            keep=early,
        )

    async def _deliver(self, signal: Signal) -> Delivered:
        if self._connection is not None:
            return await self._gates.deliver(signal, connection=self._connection)
        give_up = time.monotonic() + _PATIENCE
        while True:
            try:
                delivered = await self._gates.deliver(signal)  # which may have gone more than once itself
                ours = delivered.state == "duplicate" and await self._was_ours(signal, delivered)
            except StoreUnavailable as error:
                if error.details.get("sqlstate") == _LOCKED or time.monotonic() > give_up:
                    raise
            else:
                return delivered._replace(state="accepted") if ours else delivered
            await anyio.sleep(_PAUSE)

    async def _was_ours(self, signal: Signal, delivered: Delivered) -> bool:
        """Tell whether what a repetition found is what was delivered before, and only the reply to it was lost."""
        gate = delivered.gate or signal.gate
        found = () if gate is None else await self._gates.deliveries(gate)
        mine = self._sender.delivery
        return any(
            each.state in ("accepted", "early") and json.loads(each.facts).get("delivery") == mine for each in found
        )

    async def _moved(self, delivered: Delivered, token: bytes | None, stored: StoredGate | None) -> bool:
        """Tell whether the signal is for another gate than it was made for: it is on record now, or has the token."""
        if stored is None:
            return delivered.state == "already" and delivered.gate is not None
        if token is None or delivered.state not in ("already", "expired", "closed"):
            return False
        holder = await self._gates.holder(token)
        return holder is not None and holder.gate.id != stored.gate.id

    async def _told(self, delivered: Delivered, gate: str | None, stored: StoredGate | None, data: bytes) -> Signalled:
        """Return what became of the signal.

        Raises:
            FlowstoneError: It was refused.
        """
        found = delivered.gate or gate
        if stored is None and delivered.gate is not None:  # it was recorded meanwhile
            stored = (await self._gates.read([delivered.gate])).get(delivered.gate)
        duplicate = delivered.state == "duplicate" or self._is_same(delivered, stored, data)
        if not duplicate and delivered.state not in ("accepted", "early"):
            raise refusals.refused(delivered, stored)
        outcome = delivered.outcome
        return Signalled(
            gate_id=found,
            run_id=None if stored is None else stored.gate.run_id,
            asset=None if stored is None else stored.gate.asset.asset,
            partition=None if stored is None else decode_key(stored.gate.asset.partition),
            duplicate=duplicate,
            at=self._services.store.now() if outcome is None else outcome.at,
        )

    def _is_same(self, delivered: Delivered, stored: StoredGate | None, data: bytes) -> bool:
        """Tell whether what stands came before its gate, unchecked, and is the same when it is checked."""
        payload = None if delivered.outcome is None else delivered.outcome.payload
        if delivered.state != "already" or payload is None or stored is None:
            return False
        if is_unchecked(data) or not is_unchecked(payload):
            return False
        model, home = self._model(stored)
        return self._services.payloads.same(model, data, payload, home)

    async def _refused(self, state: str, gate: str | None = None) -> None:
        payload = None if state in ("malformed", "forged") else self._message.inspected()
        record: dict[str, Any] = {"gate": gate, "signal_id": self._signal_id, "facts": self._facts, "payload": payload}
        await self._gates.record_delivery(Delivery(state, **record))


def _hash(token: str) -> bytes:
    try:
        return chosen(token)
    except ConfigError as error:
        raise MalformedToken(error.message, hint=error.hint) from None


def _checked_id(given: object) -> str | None:
    if given is None:
        return None
    hint = f"Give text of 1 to {_LONGEST_ID:,} bytes, without NUL: what the other side calls this message."
    try:
        size = len(given.encode()) if isinstance(given, str) else 0
    except UnicodeEncodeError:
        size = 0
    if not isinstance(given, str) or not 1 <= size <= _LONGEST_ID or "\0" in given:
        raise ConfigError(f"id={given!r}"[:200], hint=hint)
    return given
