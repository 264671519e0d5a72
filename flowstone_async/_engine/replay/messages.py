"""Messages about a request for approval: who is told, each once, and the alarms by which more people are told later."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID, uuid5

import anyio

from flowstone_async._engine.approving.requests import request_of
from flowstone_async._engine.gates.addresses import approval_url
from flowstone_async._engine.replay.gate import Host
from flowstone_async._engine.replay.scope import Place
from flowstone_async._engine.replay.script import Called
from flowstone_async._engine.waits.alarms import ALARM
from flowstone_async.approvals import ApprovalRequested, Notifier
from flowstone_async.definition.keys import decode_key
from flowstone_async.store.gates import Gate, StoredGate

TRIES = 3
_PAUSE, _LONGEST = 0.25, 30.0
_CALLED = Called(("notify", "", ""))
_logger = logging.getLogger("flowstone")


class Messages:
    """The messages about one request.

    Args:
        host: The body that asks, with what is on record of it.
        key: Of the request in the body.
    """

    def __init__(self, host: Host, key: str) -> None:
        self._host, self._key = host, key

    def alarm(self, stored: StoredGate, number: int, age: float) -> Gate:
        """Return the alarm for when the request is so old, in seconds."""
        gate = stored.gate
        return Gate(
            id=str(uuid5(UUID(gate.id), f"{ALARM} {number}")),
            run_id=gate.run_id,
            body=gate.body,
            key=f"{self._key}/{ALARM}#{number}",
            kind="sleep",
            asset=gate.asset,
            name=ALARM,
            due=stored.opened_at + timedelta(seconds=age),
        )

    def untold(self, count: int, escalation: int | None) -> bool:
        """Tell whether some of so many people have not been told yet."""
        return any(self._host.script.find(self._place(number, escalation), _CALLED) is None for number in range(count))

    async def tell(self, stored: StoredGate, notifiers: Sequence[Notifier | None], escalation: int | None) -> None:
        """Call notifiers, each once: what was called is on record. One that is None has not been found."""
        host = self._host
        for number, notifier in enumerate(notifiers):
            place = self._place(number, escalation)
            if host.script.find(place, _CALLED) is not None:
                continue
            host.count(place)
            told = notifier is not None and await self._told(self._requested(stored, escalation), notifier)
            await host.keep(host.make_record(place, _CALLED, b" true" if told else b" false"))

    def _place(self, number: int, escalation: int | None) -> Place:
        path = f"{self._key}/{'notify' if escalation is None else f'{ALARM}#{escalation}'}"
        return Place(f"{path}/notify#{number}", path, number)

    async def _told(self, requested: ApprovalRequested, notifier: Notifier) -> bool:
        clock = self._host.services.clock
        for attempt in range(1, TRIES + 1):
            try:
                with anyio.fail_after(_LONGEST):
                    await notifier(requested)
            except Exception as error:
                shown = self._host.services.redactor.line(f"{type(error).__name__}: {error}")
                text = "approval %s of asset %r: telling people has failed, try %d of %d: %s"
                _logger.warning(text, requested.id, requested.asset, attempt, TRIES, shown)
            else:
                return True
            if attempt < TRIES:
                await clock.sleep(_PAUSE * attempt)
        return False

    def _requested(self, stored: StoredGate, escalation: int | None) -> ApprovalRequested:
        request, gate, services = request_of(stored), stored.gate, self._host.services
        age = 0.0 if escalation is None else request.escalate[escalation][0]
        return ApprovalRequested(
            id=gate.id,
            text=request.text,
            show=request.show,
            pipeline=gate.asset.pipeline,
            asset=gate.asset.asset,
            partition=decode_key(gate.asset.partition),
            run_id=gate.run_id,
            name=gate.name,
            roles=request.roles_at(age),
            schema=request.schema,
            initial=request.initial,
            opened_at=stored.opened_at,
            due=request.due(stored.opened_at, services.store.now()),
            escalation=escalation,
            item=request.item,
            url=approval_url(services.settings.base_url, services.secrets, gate.id),
        )
