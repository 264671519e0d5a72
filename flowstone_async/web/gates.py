"""Gates that runs wait for, and what was sent to them. No token is shown."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from pydantic import Field
from starlette.responses import Response

from flowstone_async._engine.gates.listing import GateDelivery, GateStatus
from flowstone_async.definition.key_text import format_key
from flowstone_async.errors import GateNotFound
from flowstone_async.redaction import Redactor
from flowstone_async.store.gates import GateKind, GateState
from flowstone_async.web.cursor import from_cursor, to_cursor
from flowstone_async.web.named import asset_of, is_id
from flowstone_async.web.operation import Answer, Call, Operation, PageQuery, Query, json_answer
from flowstone_async.web.refusal import Refused

_DELIVERIES = 100
_MOST_SHOWN = 4096


class Gate(Answer):
    """Something that a run waits for."""

    id: str
    kind: GateKind
    run_id: str
    pipeline: str
    asset: str
    partition: str | None
    name: str
    state: GateState
    opened_at: datetime
    due: datetime | None
    ended_at: datetime | None
    signal_id: str | None


class GatePage(Answer):
    """A page of open gates, the nearest deadline first and those without one last."""

    gates: list[Gate]
    next: str | None


class Delivery(Answer):
    """Something that was sent to a gate.

    Attributes:
        payload: Of one that was refused: the first 4 KiB of its JSON, secrets hidden.
    """

    at: datetime
    state: str
    signal_id: str | None
    way: str
    actor: str | None
    address: str | None
    headers: list[tuple[str, str]]
    payload: str | None


class GateDetail(Gate):
    """A gate, with the newest 100 of what was sent to it."""

    deliveries: list[Delivery]


class GatesQuery(PageQuery):
    """Which gates."""

    asset: Annotated[str | None, Field(min_length=1, description="Only of this asset.")] = None
    kind: Annotated[GateKind | None, Field(description="Only of this kind.")] = None


def _fields(found: GateStatus) -> dict[str, Any]:
    key: Any = found.partition
    names = ("id", "kind", "run_id", "pipeline", "asset", "name", "state", "opened_at", "due", "ended_at", "signal_id")
    return {**{name: getattr(found, name) for name in names}, "partition": None if key is None else format_key(key)}


def _delivery(found: GateDelivery, redactor: Redactor) -> Delivery:
    return Delivery(
        at=found.at,
        state=found.state,
        signal_id=found.signal_id,
        way=found.way,
        actor=found.actor,
        address=found.address,
        headers=list(found.headers),
        payload=None if found.payload is None else redactor.text(found.payload[:_MOST_SHOWN]),
    )


async def _list(call: Call[GatesQuery, None]) -> Response:
    query = call.query
    after = from_cursor("gates", query.cursor, str)
    target = None
    if query.asset is not None:
        catalog, name = asset_of(call, query.asset)
        target = f"{catalog.graph.pipeline}.{name}"
    try:
        _check_id(after)
        found = await call.engine.gates.waiting(asset=target, kind=query.kind, limit=query.limit + 1, after=after)
    except GateNotFound as error:
        raise Refused(
            410, "CURSOR_GONE", "the gate that the cursor stands at is gone", hint="Begin anew, without a cursor."
        ) from error
    gates = [Gate(**_fields(each)) for each in found[: query.limit]]
    more = len(found) > query.limit
    return json_answer(GatePage(gates=gates, next=to_cursor("gates", gates[-1].id) if more else None))


async def _get(call: Call[Query, None]) -> Response:
    gate = call.path["gate_id"]
    _check_id(gate)
    found = await call.engine.gates.get(gate)
    if found.pipeline not in call.session.catalogs:
        raise GateNotFound(
            "there is no such gate of the pipelines of this app", hint="GET /api/v1/gates lists those that are open."
        )
    sent = await call.engine.gates.deliveries(gate, limit=_DELIVERIES)
    deliveries = [_delivery(each, call.state.redactor) for each in sent]
    return json_answer(GateDetail(**_fields(found), deliveries=deliveries))


def _check_id(text: str | None) -> None:
    """Refuse what no gate is called.

    Raises:
        GateNotFound: It is no id.
    """
    if text is not None and not is_id(text):
        raise GateNotFound("there is no such gate", hint="GET /api/v1/gates lists those that are open.")


OPERATIONS: tuple[Operation[Any, Any], ...] = (
    Operation(
        name="listGates",
        method="GET",
        path="/api/v1/gates",
        summary="List open gates, the nearest deadline first.",
        tag="signals",
        permission="read",
        handler=_list,
        query=GatesQuery,
        answers={200: GatePage},
        refusals=(404, 410),
    ),
    Operation(
        name="getGate",
        method="GET",
        path="/api/v1/gates/{gate_id}",
        summary="Look at a gate, and at what was sent to it.",
        tag="signals",
        permission="read",
        handler=_get,
        answers={200: GateDetail},
        refusals=(404,),
    ),
)
