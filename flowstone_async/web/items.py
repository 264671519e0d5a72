"""Items of a scatter, and what goes wrong with them."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field
from pydantic_core import to_json
from starlette.responses import Response

from flowstone_async.definition.scatter_item import ItemState, ScatterItem
from flowstone_async.redaction import Redactor
from flowstone_async.web.cursor import from_cursor, to_cursor
from flowstone_async.web.named import asset_of, key_of, run_of
from flowstone_async.web.operation import Answer, Call, Operation, PageQuery, Query, json_answer
from flowstone_async.web.plain import jsonable
from flowstone_async.web.runs import ErrorFacts, facts_of

_MOST_SHOWN = 4096


class Item(Answer):
    """An item of a scatter; items of more than 4 KiB are cut."""

    key: Any
    index: int
    state: ItemState
    item: Any
    cut: bool
    attempts: int | None
    worker: str | None
    error_type: str | None
    error: ErrorFacts | None


class ItemPage(Answer):
    """A page of items, in the order of their source."""

    items: list[Item]
    next: str | None


class ErrorGroup(Answer):
    """Failed items that raised the same type of error."""

    error_type: str
    count: int
    example: ErrorFacts | None


class ErrorGroups(Answer):
    """What failed items raised, the most frequent first."""

    errors: list[ErrorGroup]


class ScatterQuery(Query):
    """Which scatter of the run."""

    asset: Annotated[str, Field(min_length=1, description="The scatter.")]
    partition: Annotated[str | None, Field(description="Its key; needed where the run has several.")] = None


class ItemsQuery(PageQuery, ScatterQuery):
    """Which items."""

    state: ItemState = "failed"


class ErrorsQuery(ScatterQuery):
    """How many types of errors."""

    limit: Annotated[int, Field(ge=1, le=500)] = 50


def _item(found: ScatterItem, redactor: Redactor) -> Item:
    item = jsonable(found.item, redactor)
    cut = len(to_json(item, inf_nan_mode="strings")) > _MOST_SHOWN
    return Item(
        key=jsonable(found.key, redactor),
        index=found.index,
        state=found.state,
        item=None if cut else item,
        cut=cut,
        attempts=found.attempts,
        worker=found.worker,
        error_type=found.error_type,
        error=facts_of(found.error, redactor),
    )


def _scatter(call: Call[Any, Any]) -> tuple[str, Any]:
    """Return the name of the scatter that is asked for, and its key."""
    query: ScatterQuery = call.query
    catalog, name = asset_of(call, query.asset)
    key = None if query.partition is None else key_of(catalog, name, query.partition, where="query.partition")
    return f"{catalog.graph.pipeline}.{name}", key


async def _items(call: Call[ItemsQuery, None]) -> Response:
    run, query = await run_of(call), call.query
    target, key = _scatter(call)
    after = from_cursor("items", query.cursor, int)
    found = await run.items(target, state=query.state, partition=key, limit=query.limit + 1, after=after)
    page = found[: query.limit]
    more = len(found) > query.limit
    return json_answer(
        ItemPage(
            items=[_item(each, call.state.redactor) for each in page],
            next=to_cursor("items", page[-1].place) if more else None,
        )
    )


async def _errors(call: Call[ErrorsQuery, None]) -> Response:
    run = await run_of(call)
    target, key = _scatter(call)
    found = await run.item_errors(target, partition=key, limit=call.query.limit)
    groups = [
        ErrorGroup(error_type=each.error_type, count=each.count, example=facts_of(each.example, call.state.redactor))
        for each in found
    ]
    return json_answer(ErrorGroups(errors=groups))


OPERATIONS: tuple[Operation[Any, Any], ...] = (
    Operation(
        name="listItems",
        method="GET",
        path="/api/v1/runs/{run_id}/items",
        summary="List items of a scatter of a run; failed ones, unless the state says otherwise.",
        tag="items",
        permission="read",
        handler=_items,
        query=ItemsQuery,
        answers={200: ItemPage},
        refusals=(404,),
    ),
    Operation(
        name="listItemErrors",
        method="GET",
        path="/api/v1/runs/{run_id}/item-errors",
        summary="Count failed items of a scatter of a run by the type of their error.",
        tag="items",
        permission="read",
        handler=_errors,
        query=ErrorsQuery,
        answers={200: ErrorGroups},
        refusals=(404,),
    ),
)
