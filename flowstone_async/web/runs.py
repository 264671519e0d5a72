"""Runs: listed, looked at, cancelled, submitted again."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field
from starlette.responses import Response

from flowstone_async._engine.handle import RunHandle
from flowstone_async._engine.resolving import How, resolve
from flowstone_async._engine.run_status import RunStatus
from flowstone_async.definition.key_text import format_key
from flowstone_async.definition.scatter_counts import ScatterCounts
from flowstone_async.errors import Failure, FlowstoneError, RunNotFound
from flowstone_async.redaction import Redactor
from flowstone_async.store.records import RunRecord, RunState
from flowstone_async.web.cursor import from_cursor, to_cursor
from flowstone_async.web.named import asset_of, key_of, run_of
from flowstone_async.web.operation import Answer, Call, Operation, Order, PageQuery, Query, json_answer, root_of
from flowstone_async.web.plain import key_text, plain, plain_error
from flowstone_async.web.refusal import Refused
from flowstone_async.web.senders import sender_of


class ErrorFacts(Answer):
    """Why a run, an asset or an item failed."""

    type: str
    code: str
    message: str
    hint: str | None
    asset: str | None
    retryable: bool
    details: dict[str, object]


class Run(Answer):
    """A run."""

    id: str
    pipeline: str
    targets: list[str]
    partition: str | None
    state: RunState
    created_at: datetime | None
    finished_at: datetime | None
    error: ErrorFacts | None


class Counts(Answer):
    """How far a scatter is; `total` is final once it is sealed."""

    total: int
    done: int
    failed: int
    pending: int
    running: int
    waiting: int
    skipped: int
    cancelled: int
    sealed: bool


class RunDetail(Run):
    """A run, with what drives it and what it waits for."""

    at: datetime | None
    priority: int
    started_at: datetime | None
    seconds: float | None
    worker: str | None
    lost: int
    waiting_for: str | None
    scatters: dict[str, Counts]


class RunPage(Answer):
    """A page of runs, newest first."""

    runs: list[Run]
    next: str | None


class RunsQuery(PageQuery):
    """Which runs."""

    state: Annotated[RunState | None, Field(description="Only runs in this state.")] = None
    asset: Annotated[str | None, Field(min_length=1, description="Only runs with this target.")] = None


class Redrive(Order):
    """Which items of an ended run are to run again."""

    asset: Annotated[str, Field(min_length=1, description="The scatter.")]
    only: Literal["failed", "all"] = "failed"
    partition: str | None = None


class Resolve(Order):
    """How an asset goes on whose code does not fit what it has on record."""

    asset: Annotated[str, Field(min_length=1, description="The asset that waits.")]
    how: Annotated[How, Field(description="What becomes of what its body has on record.")]
    partition: str | None = None


# -- what is shown ----------------------------------------------------------------------------------------------


def facts_of(error: FlowstoneError | Failure | None, redactor: Redactor) -> ErrorFacts | None:
    """Return what is told of an error."""
    if error is None:
        return None
    found = redactor.value(plain(plain_error(error)))
    found["message"] = redactor.text(found["message"])
    return ErrorFacts.model_validate(found)


def run_fields(record: RunRecord, redactor: Redactor) -> dict[str, Any]:
    """Return the fields of a run in a list."""
    return {
        "id": record.id,
        "pipeline": record.pipeline,
        "targets": list(record.targets),
        "partition": key_text(record.partition),
        "state": record.state,
        "created_at": record.created_at,
        "finished_at": record.finished_at,
        "error": facts_of(record.error, redactor),
    }


async def run_detail(handle: RunHandle[Any], redactor: Redactor) -> RunDetail:
    """Return a run as it is now."""
    status = await handle.status()
    return RunDetail(
        id=handle.id,
        pipeline=handle.ref.pipeline,
        targets=list(status.targets),
        partition=None if status.partition is None else format_key(status.partition),
        state=status.state,
        created_at=status.created_at,
        finished_at=status.finished_at,
        error=facts_of(status.error, redactor),
        at=status.at,
        priority=status.priority,
        started_at=status.started_at,
        seconds=status.seconds,
        worker=status.worker,
        lost=status.lost,
        waiting_for=status.waiting_for,
        scatters=_scatters(status),
    )


def _scatters(status: RunStatus) -> dict[str, Counts]:
    return {name: _counts(each) for name, each in status.scatters.items()}


def _counts(found: ScatterCounts) -> Counts:
    return Counts.model_validate(found, from_attributes=True)


def place_of(call: Call[Any, Any], handle: RunHandle[Any]) -> dict[str, str]:
    """Return the header that says where a run is looked at."""
    return {"Location": f"{root_of(call.request)}/api/v1/runs/{handle.id}"}


# -- what is done -----------------------------------------------------------------------------------------------


async def _list(call: Call[RunsQuery, None]) -> Response:
    query, redactor = call.query, call.state.redactor
    after = from_cursor("runs", query.cursor, str)
    if query.asset is not None:
        asset_of(call, query.asset)
    try:
        found = await call.engine.runs(state=query.state, asset=query.asset, limit=query.limit + 1, after=after)
    except RunNotFound as error:
        raise Refused(
            410, "CURSOR_GONE", "the run that the cursor stands at was pruned", hint="Begin anew, without a cursor."
        ) from error
    runs = [Run(**run_fields(each, redactor)) for each in found[: query.limit]]
    more = len(found) > query.limit
    return json_answer(RunPage(runs=runs, next=to_cursor("runs", runs[-1].id) if more else None))


async def _get(call: Call[Query, None]) -> Response:
    return json_answer(await run_detail(await run_of(call), call.state.redactor))


async def _cancel(call: Call[Query, None]) -> Response:
    handle = await run_of(call)
    await handle.cancel()
    return json_answer(await run_detail(handle, call.state.redactor))


async def _retry(call: Call[Query, None]) -> Response:
    before = await run_of(call)
    handle = await call.engine.retry(before.id)
    return json_answer(await run_detail(handle, call.state.redactor), 202, place_of(call, handle))


async def _redrive(call: Call[Query, Redrive]) -> Response:
    run, order = await run_of(call), call.body
    catalog, name = asset_of(call, order.asset)
    key = None if order.partition is None else key_of(catalog, name, order.partition, where="body.partition")
    target = f"{catalog.graph.pipeline}.{name}"
    handle = await run.redrive(target, only=order.only, partition=key)
    return json_answer(await run_detail(handle, call.state.redactor), 202, place_of(call, handle))


async def _resolve(call: Call[Query, Resolve]) -> Response:
    run, order, sender = await run_of(call), call.body, sender_of(call)
    catalog, name = asset_of(call, order.asset)
    key = None if order.partition is None else key_of(catalog, name, order.partition, where="body.partition")
    await resolve(call.session, run, f"{catalog.graph.pipeline}.{name}", how=order.how, partition=key, sender=sender)
    return json_answer(await run_detail(run, call.state.redactor), 202, place_of(call, run))


OPERATIONS: tuple[Operation[Any, Any], ...] = (
    Operation(
        name="listRuns",
        method="GET",
        path="/api/v1/runs",
        summary="List runs, newest first.",
        tag="runs",
        permission="read",
        handler=_list,
        query=RunsQuery,
        answers={200: RunPage},
        refusals=(404, 410),
    ),
    Operation(
        name="getRun",
        method="GET",
        path="/api/v1/runs/{run_id}",
        summary="Look at a run.",
        tag="runs",
        permission="read",
        handler=_get,
        answers={200: RunDetail},
        refusals=(404,),
    ),
    Operation(
        name="cancelRun",
        method="POST",
        path="/api/v1/runs/{run_id}/cancel",
        summary="Cancel a run: nothing of it commits from then on.",
        tag="runs",
        permission="operate",
        handler=_cancel,
        answers={200: RunDetail},
        refusals=(404, 409),
    ),
    Operation(
        name="retryRun",
        method="POST",
        path="/api/v1/runs/{run_id}/retry",
        summary="Submit an ended run once more; what it committed is taken as it is.",
        tag="runs",
        permission="operate",
        handler=_retry,
        answers={202: RunDetail},
        refusals=(404,),
        instead={422: 409},
    ),
    Operation(
        name="redriveRun",
        method="POST",
        path="/api/v1/runs/{run_id}/redrive",
        summary="Submit a run that runs items of a scatter again, with all that depends on them.",
        tag="runs",
        permission="operate",
        handler=_redrive,
        body=Redrive,
        answers={202: RunDetail},
        refusals=(404,),
        instead={422: 409},
    ),
    Operation(
        name="resolveRun",
        method="POST",
        path="/api/v1/runs/{run_id}/resolve",
        summary="Say how an asset goes on whose code does not fit what its body has on record.",
        tag="runs",
        permission="operate",
        handler=_resolve,
        body=Resolve,
        answers={202: RunDetail},
        refusals=(404, 409),
        instead={422: 409},
    ),
)
