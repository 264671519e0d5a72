"""Signals to gates: the public URL of a gate, which needs nothing but its token, and tokens that others chose."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, JsonValue
from pydantic_core import to_json
from starlette.responses import Response

from flowstone_async._engine.gates.sender import Sender
from flowstone_async._engine.gates.signalling import Message, deliver
from flowstone_async._engine.tokens import gate_of
from flowstone_async.errors import (
    AlreadySignalled,
    FlowstoneError,
    ForgedToken,
    GateClosed,
    GateExpired,
    GateNotFound,
    MalformedToken,
)
from flowstone_async.web.operation import Answer, Call, Operation, Order, Query, json_answer
from flowstone_async.web.received import read_body
from flowstone_async.web.refusal import Refused
from flowstone_async.web.senders import sender_of

MOST_BODY = 1 << 20
_LONGEST_TOKEN = 512
_HEADERS = {"Idempotency-Key": "What the sender calls the signal: one with the same is a repetition."}
_LATE = "Do not send it again; whoever gave the address knows how it went on."
_SAID: Mapping[type[FlowstoneError], tuple[int, str, str]] = {
    AlreadySignalled: (
        409,
        "another signal came first, and stands",
        "Only the same signal again, or its id, succeeds.",
    ),
    GateExpired: (410, "the deadline of the gate has passed", _LATE),
    GateClosed: (410, "nobody waits for the signal any more", _LATE),
}


class Accepted(Answer):
    """A signal was taken: now, or before if this is a repetition."""

    duplicate: bool


class Delivered(Accepted):
    """A signal was taken.

    Attributes:
        run_id: Which run waited for it; null if its gate is not on record yet: the signal is kept for it.
    """

    run_id: str | None
    asset: str | None


class SignalOrder(Order):
    """A signal."""

    token: Annotated[
        str, Field(min_length=1, max_length=_LONGEST_TOKEN, description="The gate's, or the one that was chosen.")
    ]
    payload: JsonValue = None
    id: Annotated[str | None, Field(min_length=1, max_length=1024, description="What the sender calls it.")] = None


async def _hook(call: Call[Query, None]) -> Response:
    request = call.request
    address = None if request.client is None else request.client.host
    wait = call.state.addresses.wait(address)
    if wait:
        headers = {"Retry-After": str(math.ceil(wait))}
        raise Refused(
            429,
            "TOO_OFTEN",
            "too many signals from this address",
            hint=f"Try again in {math.ceil(wait)} s.",
            headers=headers,
        )
    token = call.path["token"]
    try:
        gate_of(call.session.services.secrets, token)  # before the body is read, or anything is on record
    except (MalformedToken, ForgedToken):
        raise _no_gate() from None
    payload = await read_body(request, MOST_BODY)
    sender = Sender(way="hook", address=address, headers=request.headers.items())
    key = request.headers.get("idempotency-key")
    try:
        taken = await deliver(call.session, token, Message(text=payload), sender=sender, signal_id=key, public=True)
    except GateNotFound:
        raise _no_gate() from None
    except tuple(_SAID) as error:  # whoever sends a signal need not know what waits for it
        status, message, hint = _SAID[type(error)]
        raise Refused(status, error.code, message, hint=hint) from None
    return json_answer(Accepted(duplicate=taken.duplicate))


def _no_gate() -> Refused:
    return Refused(
        404,
        GateNotFound.code,
        "there is no gate with this token",
        hint="Send to the address as it was given, all of it and nothing else.",
    )


async def _signal(call: Call[Query, SignalOrder]) -> Response:
    order, message = call.body, Message(text=to_json(call.body.payload))
    taken = await deliver(call.session, order.token, message, sender=sender_of(call), signal_id=order.id)
    return json_answer(Delivered(duplicate=taken.duplicate, run_id=taken.run_id, asset=taken.asset))


OPERATIONS: tuple[Operation[Any, Any], ...] = (
    Operation(
        name="signalHook",
        method="POST",
        path="/hooks/signal/{token}",
        summary="Signal a gate by its URL; answers once that is on record.",
        tag="signals",
        permission=None,
        handler=_hook,
        raw_body=True,
        answers={200: Accepted},
        refusals=(400, 404, 409, 410, 413, 429),
        headers=_HEADERS,
    ),
    Operation(
        name="signalGate",
        method="POST",
        path="/api/v1/gates/signal",
        summary="Signal a gate by its token, also one that the other side chose.",
        tag="signals",
        permission="operate",
        handler=_signal,
        body=SignalOrder,
        answers={200: Delivered},
        refusals=(404, 409, 410),
    ),
)
