"""The events of a run as server-sent events: live, from wherever a reader left off, at the reader's own pace."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from typing import Annotated, Any, cast

import anyio
from pydantic import Field
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.responses import Response

from flowstone_async._engine.handle import RunHandle
from flowstone_async.definition.stream import AsyncClosing
from flowstone_async.errors import FlowstoneError
from flowstone_async.events import Event
from flowstone_async.store.records import FINAL_RUN_STATES
from flowstone_async.web.named import run_of
from flowstone_async.web.operation import Call, Operation, Query
from flowstone_async.web.plain import plain_event
from flowstone_async.web.refusal import Problem, unfit
from flowstone_async.web.state import Signpost, WebState

PING = 15
_GRACE = 1.0
_DIGITS = 18


class EventsQuery(Query):
    """Where to begin."""

    after: Annotated[
        int, Field(ge=0, le=10**_DIGITS, description="Number of the last event seen; Last-Event-ID comes before it.")
    ] = 0


async def _events(call: Call[EventsQuery, None]) -> Response:
    handle = await run_of(call)
    after = _after(call)
    if await _nothing_left(call, handle, after):
        return Response(status_code=204)  # tells a browser not to come again
    stopping = anyio.Event()  # set when the server is
    return EventSourceResponse(
        _stream(handle, after, call.state, stopping),
        ping=PING,
        sep="\n",
        shutdown_event=stopping,
        shutdown_grace_period=_GRACE,
    )


def _after(call: Call[EventsQuery, None]) -> int:
    given = call.request.headers.get("last-event-id")
    if given is None or not given.strip():
        return call.query.after
    if not given.isascii() or not given.isdigit() or len(given) > _DIGITS:
        raise unfit([Problem("header.Last-Event-ID", "it is no id of an event of this stream")], "request")
    return int(given)


async def _nothing_left(call: Call[Any, Any], handle: RunHandle[Any], after: int) -> bool:
    ended = (await handle.status()).state in FINAL_RUN_STATES
    return ended and not await call.session.store.events(handle.id, after=after, limit=1)


async def _stream(
    handle: RunHandle[Any], after: int, state: WebState, stopping: anyio.Event
) -> AsyncGenerator[ServerSentEvent]:
    """Yield events as they are asked for: no more of them are held than one page of the store."""
    state.streams += 1
    try:
        async with aclosing(cast("AsyncClosing[Event]", handle.events(after=after))) as events:
            while (event := await _next(events, state.draining, stopping)) is not None:
                data = json.dumps(plain_event(event, state.redactor), ensure_ascii=False)
                yield ServerSentEvent(data=data, event=event.type, id=str(event.no))
    finally:
        state.streams -= 1


async def _next(events: AsyncClosing[Event], *ends: anyio.Event | Signpost) -> Event | None:
    """Return the next event; None behind the last, and if the engine, the store or the server goes away meanwhile.

    A reader comes again then, with the last id.
    """
    found: Event | None = None

    async def watch(end: anyio.Event | Signpost) -> None:
        await end.wait()
        group.cancel_scope.cancel()

    async with anyio.create_task_group() as group:
        for each in ends:
            group.start_soon(watch, each, name="watch for the server's end")
        with suppress(FlowstoneError):
            found = await anext(events, None)
        group.cancel_scope.cancel()
    return found


OPERATIONS: tuple[Operation[Any, Any], ...] = (
    Operation(
        name="runEvents",
        method="GET",
        path="/api/v1/runs/{run_id}/events",
        summary="Follow the events of a run; the stream ends after its last event.",
        tag="runs",
        permission="read",
        handler=_events,
        query=EventsQuery,
        answers={200: "text/event-stream", 204: None},
        refusals=(404,),
        headers={"Last-Event-ID": "Go on behind this event."},
    ),
)
