"""Gates to look at: those that runs wait for, one by its id, and what was sent to it. Nothing here shows a token."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from flowstone_async._engine.gates.payloads import is_unchecked
from flowstone_async._engine.session import Session
from flowstone_async._engine.targets import Target, find
from flowstone_async._engine.tokens import looks_derived
from flowstone_async.config import whole, word
from flowstone_async.definition.keys import PartitionKey, decode_key
from flowstone_async.errors import ConfigError, GateNotFound
from flowstone_async.store.gates import GATE_KINDS, Delivery, GateKind, GateState, StoredGate

_MOST = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class GateStatus:
    """A gate as it is at a moment.

    Attributes:
        id: Its id, which opens nothing.
        kind: `"signal"`, `"approval"`, `"sleep"`; `"mismatch"`: code that does not fit what is on record; `"worker"`:
            one that knows the asset.
        run_id: The run that waits.
        asset: What waits.
        partition: For which key.
        name: What it is called in the body.
        state: `"open"`, `"signalled"`, `"expired"`, or `"cancelled"`: its run has ended, or nothing of it
            waits for it any more.
        opened_at: When it was recorded.
        due: When it expires; None never.
        ended_at: When it was signalled, expired or was cancelled; None while it is open, or if nobody has noticed yet.
        signal_id: What the sender called the signal that counts.
    """

    id: str
    kind: GateKind
    run_id: str
    pipeline: str
    asset: str
    partition: PartitionKey | None
    name: str
    state: GateState
    opened_at: datetime
    due: datetime | None
    ended_at: datetime | None = None
    signal_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GateDelivery:
    """Something that was sent to a gate, whatever became of it.

    Attributes:
        at: When it came.
        state: `"accepted"`; `"early"`: before the gate was on record; `"duplicate"`; or why it was refused:
            `"already"`, `"expired"`, `"closed"`, `"invalid"`, `"type unknown"`.
        signal_id: What the sender called it.
        way: `"process"` for a call, `"rest"`, or `"hook"` for the gate's public URL.
        actor: Who sent it, as far as that is known.
        address: Where it came from.
        headers: Of the request, credentials hidden.
        payload: Of one that was refused, as JSON.
    """

    at: datetime
    state: str
    signal_id: str | None = None
    way: str = "process"
    actor: str | None = None
    address: str | None = None
    headers: Sequence[tuple[str, str]] = ()
    payload: str | None = None


class GateList:
    """The gates of an engine's pipelines: `engine.gates`."""

    def __init__(self, session: Callable[[], AbstractAsyncContextManager[Session]]) -> None:
        self._session = session

    async def waiting(
        self,
        *,
        asset: Target | None = None,
        kind: GateKind | None = None,
        limit: int = 100,
        after: str | None = None,
    ) -> tuple[GateStatus, ...]:
        """Return open gates, the nearest deadline first and those without one last.

        Args:
            kind: Only of this kind.
            asset: Only of this asset.
            limit: At most so many.
            after: Id of the last gate of the previous page; it may have ended meanwhile.

        Raises:
            AssetNotFound: There is no such asset.
            GateNotFound: `after` is no gate of this store (any more).
            ConfigError: Another option is wrong.
        """
        whole(limit, what="limit")
        kinds = GATE_KINDS if kind is None else (kind,)
        word(kinds[0], GATE_KINDS, what="kind")
        async with self._session() as session:
            session.check()
            pipelines, name = tuple(session.catalogs), None
            if asset is not None:
                catalog, name = find(session.catalogs, asset)
                pipelines = (catalog.graph.pipeline,)
            if after is not None:
                await _find(session, after)
            gates = session.services.store.gates
            found = await gates.waiting(pipelines, kinds, asset=name, limit=min(limit, _MOST), after=after)
        return tuple(_status(each) for each in found)

    async def get(self, id: str) -> GateStatus:  # noqa: A002 - what it is
        """Return a gate, in whatever state it is.

        Raises:
            GateNotFound: The store has no such gate.
        """
        async with self._session() as session:
            session.check()
            return _status(await _find(session, id))

    async def deliveries(self, id: str, *, limit: int = 100) -> tuple[GateDelivery, ...]:  # noqa: A002 - what it is
        """Return what was sent to a gate, the newest first; what was refused is among it, with its payload.

        Args:
            id: The gate's id.
            limit: At most so many.

        Raises:
            GateNotFound: The store has no such gate.
            ConfigError: `limit` is wrong.
        """
        whole(limit, what="limit")
        async with self._session() as session:
            session.check()
            gate = await _find(session, id)
            found = await session.services.store.gates.deliveries(gate.gate.id, limit=min(limit, _MOST))
        return tuple(_delivery(each) for each in found)


async def _find(session: Session, gate: object) -> StoredGate:
    if not isinstance(gate, str):
        raise ConfigError(f"gate {gate!r} is no text", hint="Give the id of a gate: `gate.id`.")
    found = (await session.services.store.gates.read([gate])).get(gate)
    if found is None:
        shown = "of this id: it is a token" if looks_derived(gate) else repr(gate[:100])
        raise GateNotFound(f"no gate {shown} in this store", hint="engine.gates.waiting() lists those that are open.")
    return found


def _status(stored: StoredGate) -> GateStatus:
    gate, outcome = stored.gate, stored.outcome
    return GateStatus(
        id=gate.id,
        kind=gate.kind,
        run_id=gate.run_id,
        pipeline=gate.asset.pipeline,
        asset=gate.asset.asset,
        partition=decode_key(gate.asset.partition),
        name=gate.name,
        state=stored.state,
        opened_at=stored.opened_at,
        due=stored.due,
        ended_at=None if outcome is None else outcome.at,
        signal_id=None if outcome is None else outcome.signal_id,
    )


def _delivery(delivery: Delivery) -> GateDelivery:
    facts: dict[str, Any] = json.loads(delivery.facts)
    payload = delivery.payload
    if payload is not None and (is_unchecked(payload) or payload[:1] == b" "):
        payload = payload[1:]
    assert delivery.at is not None  # noqa: S101 - it is on record
    return GateDelivery(
        at=delivery.at,
        state=delivery.state,
        signal_id=delivery.signal_id,
        way=facts.get("way", "process"),
        actor=facts.get("actor"),
        address=facts.get("address"),
        headers=tuple((name, value) for name, value in facts.get("headers", ())),
        payload=None if payload is None else payload.decode("utf-8", "replace"),
    )
