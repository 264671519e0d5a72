"""Whether this process lives, whether it can work, and how the parts of its engine are."""

from __future__ import annotations

from typing import Any, Literal

import anyio
from starlette.responses import Response

from flowstone_async._engine.health import ANSWER_WITHIN, PartHealth
from flowstone_async.errors import ConfigError, FlowstoneError
from flowstone_async.web.operation import Answer, Call, Operation, Query, json_answer

_KEPT = 1.0


class Alive(Answer):
    """The event loop turns."""

    ok: bool


class Ready(Answer):
    """Whether this process can work, and if not, why."""

    ok: bool
    reasons: list[str]


class Part(Answer):
    """A part of the engine, or a resource."""

    state: Literal["ok", "error", "disabled"]
    seconds: float
    detail: str


class Healthy(Answer):
    """How the parts of the engine are."""

    ok: bool
    parts: dict[str, Part]
    resources: dict[str, Part]


async def _live(call: Call[Query, None]) -> Response:
    del call
    return json_answer(Alive(ok=True))


async def _ready(call: Call[Query, None]) -> Response:
    reasons = await _reasons(call)
    return json_answer(Ready(ok=not reasons, reasons=list(reasons)), 503 if reasons else 200)


async def _reasons(call: Call[Query, None]) -> tuple[str, ...]:
    """Return why the engine cannot work; the store is asked once for all who want to know within a second."""
    try:
        session = call.session
    except ConfigError as error:
        return (error.message,)
    if session.closing or session.left:
        return ("the engine is being left",)
    if call.state.draining.passed:
        return ("the server is being stopped",)
    if session.lost:
        return ("the engine has lost its lease",)
    state = call.state
    async with state.asking:
        if state.ready is None or state.clock() - state.ready[0] > _KEPT:
            found = ("the store did not answer in time",)
            with anyio.move_on_after(ANSWER_WITHIN):
                found = await _store(call)
            state.ready = state.clock(), found
        return state.ready[1]


async def _store(call: Call[Query, None]) -> tuple[str, ...]:
    try:
        await call.session.store.health()
    except FlowstoneError:
        return ("the store cannot be reached",)
    return ()


async def _health(call: Call[Query, None]) -> Response:
    found = await call.engine.health()
    hide = call.state.redactor.line

    def shown(part: PartHealth) -> Part:
        return Part(state=part.state, seconds=round(part.seconds, 4), detail=hide(part.detail))

    parts = {name: shown(each) for name, each in found.parts.items()}
    resources = {name: shown(each) for name, each in found.resources.items()}
    return json_answer(Healthy(ok=found.ok, parts=parts, resources=resources))


OPERATIONS: tuple[Operation[Any, Any], ...] = (
    Operation(
        name="live",
        method="GET",
        path="/health/live",
        summary="Answer as long as the event loop turns.",
        tag="health",
        permission=None,
        handler=_live,
        answers={200: Alive},
        open=False,
    ),
    Operation(
        name="ready",
        method="GET",
        path="/health/ready",
        summary="Tell whether the engine is open and its store answers.",
        tag="health",
        permission="read",
        handler=_ready,
        answers={200: Ready, 503: Ready},
        open=False,
    ),
    Operation(
        name="getHealth",
        method="GET",
        path="/api/v1/health",
        summary="Ask the store, the queue, the workers and the resources how they are.",
        tag="health",
        permission="read",
        handler=_health,
        answers={200: Healthy},
    ),
)
