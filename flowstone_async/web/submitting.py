"""Submitting runs, and waiting a while for what comes of them. A client that leaves ends no run."""

from __future__ import annotations

from contextlib import suppress
from typing import Annotated, Any, Literal, TypeAlias

import anyio
from pydantic import AwareDatetime, Field, JsonValue
from starlette.responses import Response

from flowstone_async._engine.catalog import Catalog
from flowstone_async._engine.handle import RunHandle
from flowstone_async._engine.submitting import SubmitOptions, submit_or_join
from flowstone_async._engine.typed_params import from_json_values
from flowstone_async.config import seconds
from flowstone_async.errors import ConfigError, FlowstoneError, PartitionError
from flowstone_async.store.records import FINAL_RUN_STATES
from flowstone_async.web.named import pipeline_of, typed
from flowstone_async.web.operation import Call, Operation, Order, Query, json_answer
from flowstone_async.web.refusal import Problem, unfit
from flowstone_async.web.runs import RunDetail, place_of, run_detail
from flowstone_async.web.values import MOST_SHOWN, Shown, shown

LONGEST_WAIT = 300.0
Seconds: TypeAlias = Annotated[float, Field(gt=0, le=1e9)]


class RunOrder(Order):
    """What is to be run."""

    targets: Annotated[
        list[Annotated[str, Field(min_length=1)]],
        Field(min_length=1, max_length=100, description="Names of assets of one pipeline."),
    ]
    partition: Annotated[str | None, Field(description="Its key, as people type it: 2025-01-15, or 2025-01-15|us.")] = (
        None
    )
    params: Annotated[dict[str, JsonValue] | None, Field(description="Of the pipeline's params type, in JSON.")] = None
    force: bool | Literal["all"] = False
    with_deps: bool = True
    timeout: Annotated[
        Seconds | str | Literal[False] | None, Field(description="Of the whole run: seconds, or text like 15m.")
    ] = None
    concurrency: Annotated[int, Field(ge=1, le=100_000)] | None = None
    priority: Annotated[int, Field(ge=0, le=3, description="Lower first.")] = 0
    at: Annotated[AwareDatetime | None, Field(description="Not before this instant.")] = None


class SubmitQuery(Query):
    """How long the answer may take."""

    wait: Annotated[
        str | None,
        Field(
            description="Wait so long for the end, such as 30s, at most 5m: 200 with what came of it, or 202.",
            pattern=r"^[1-9][0-9]{0,5}(ms|s|m)$",
        ),
    ] = None


class SubmittedRun(RunDetail):
    """A run that was submitted.

    Attributes:
        result: Its value, if it was waited for and has succeeded.
    """

    result: Shown | None


async def _submit(call: Call[SubmitQuery, RunOrder]) -> Response:
    order = call.body
    wait = _wait(call.query.wait)
    catalog, names = pipeline_of(call, list(order.targets))
    options: SubmitOptions = {
        "params": from_json_values(catalog.collection.params_type, order.params),
        "force": order.force,
        "with_deps": order.with_deps,
        "timeout": order.timeout,
        "concurrency": order.concurrency,
        "priority": order.priority,
        "at": order.at,
        "key": call.request.headers.get("idempotency-key"),
    }
    targets = [f"{catalog.graph.pipeline}.{name}" for name in names]
    key = _key(catalog, names, order.partition)
    handle, created = await submit_or_join(call.session, targets, key, options)
    values = await _awaited(call, handle, wait) if wait else []
    detail = await run_detail(handle, call.state.redactor)
    result = await shown(values[0], MOST_SHOWN, call.state.redactor) if values else None
    fields = {name: getattr(detail, name) for name in RunDetail.model_fields}
    status = 200 if (detail.state in FINAL_RUN_STATES if wait else not created) else 202
    return json_answer(SubmittedRun(**fields, result=result), status, place_of(call, handle))


def _wait(text: str | None) -> float:
    if text is None:
        return 0.0
    try:
        found = seconds(text, what="wait")
    except ConfigError as error:
        raise unfit([Problem("query.wait", error.message)], "query", hint=error.hint) from error
    if found > LONGEST_WAIT:
        raise unfit([Problem("query.wait", "it is longer than 5m")], "query", hint="Ask again, or read the events.")
    return found


def _key(catalog: Catalog, names: list[str], text: str | None) -> Any:
    """Return the key of the run, read as the first target declares it that can."""
    problem: ConfigError | None = None
    for name in names:
        try:
            return typed(catalog, name, text)
        except (PartitionError, ConfigError) as error:
            problem = problem or error
    found = problem or PartitionError(f"{text!r} is no key", hint="Give targets, which say what it is a key of.")
    raise unfit([Problem("body.partition", found.message)], "body", hint=found.hint)


async def _awaited(call: Call[Any, Any], handle: RunHandle[Any], wait: float) -> list[Any]:
    """Wait for the end of a run, as long as somebody is there to hear of it; return its value if it comes to one."""
    found: list[Any] = []

    async def watch() -> None:
        while (await call.request.receive())["type"] != "http.disconnect":
            pass
        group.cancel_scope.cancel()

    async def drain() -> None:
        await call.state.draining.wait()
        group.cancel_scope.cancel()

    async with anyio.create_task_group() as group:
        group.start_soon(watch, name="watch for the client's end")
        group.start_soon(drain, name="watch for the server's end")
        with suppress(FlowstoneError):  # its time is up, or the run tells why it has no value
            found.append(await handle.result(timeout=wait))
        group.cancel_scope.cancel()
    return found


OPERATIONS: tuple[Operation[Any, Any], ...] = (
    Operation(
        name="submitRun",
        method="POST",
        path="/api/v1/runs",
        summary="Submit a run; an equal one that is queued or running is joined.",
        tag="runs",
        permission="operate",
        handler=_submit,
        query=SubmitQuery,
        body=RunOrder,
        answers={200: SubmittedRun, 202: SubmittedRun},
        refusals=(404, 409),
        headers={"Idempotency-Key": "The same key gives the same run again, as long as it is on record."},
    ),
)
