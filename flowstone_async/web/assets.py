"""Assets and their partitions: what is declared, what is stored, how the last computation went."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field
from starlette.responses import Response

from flowstone_async._engine.catalog import Catalog
from flowstone_async._engine.status import AssetStatus, StatusState
from flowstone_async.definition.graph import Node
from flowstone_async.definition.info import describe
from flowstone_async.definition.keys import decode_key, encode_key
from flowstone_async.errors import ConfigError, PartitionError
from flowstone_async.redaction import Redactor
from flowstone_async.store.records import AssetState
from flowstone_async.web.cursor import from_cursor, to_cursor
from flowstone_async.web.named import asset_of, key_of
from flowstone_async.web.operation import Answer, Call, Operation, PageQuery, Query, json_answer
from flowstone_async.web.plain import key_text
from flowstone_async.web.refusal import Problem, unfit
from flowstone_async.web.runs import ErrorFacts, facts_of


class Asset(Answer):
    """An asset.

    Attributes:
        partitions: Its set, in words; null if it has none.
        expected: How many keys the set has by now; null where only the store knows, or nobody does.
        stored: How many current values there are.
    """

    name: str
    pipeline: str
    kind: str
    description: str | None
    tags: list[str]
    owner: str | None
    depends_on: list[str]
    partitions: str | None
    expected: int | None
    stored: int


class AssetPage(Answer):
    """A page of assets, by pipeline and name."""

    assets: list[Asset]
    next: str | None


class Status(Answer):
    """The newest attempt to compute an asset for a partition, and the value that is stored."""

    partition: str | None
    state: StatusState
    run_id: str | None
    started_at: datetime | None
    completed_at: datetime | None
    seconds: float | None
    io: str | None
    error: ErrorFacts | None
    reason: str | None
    has_value: bool
    fresh: bool
    stale_because: str | None
    code_changed: str | None
    waiting_for: str | None


class AssetDetail(Asset):
    """An asset, with how it is; of one with partitions, of the partition that was asked for."""

    status: Status | None


class AssetQuery(Query):
    """Which partition."""

    partition: Annotated[str | None, Field(description="A key, as people type it.")] = None


class Partition(Answer):
    """A partition that was computed, or tried."""

    partition: str | None
    state: Literal["pending", "running", "waiting", "completed", "failed", "skipped", "cancelled"]
    run_id: str | None
    has_value: bool
    size: int | None
    computed_at: datetime | None
    completed_at: datetime | None
    seconds: float | None
    error: ErrorFacts | None


class PartitionPage(Answer):
    """A page of partitions that were computed or tried, in the order of their encoded keys."""

    asset: str
    partitions: list[Partition]
    next: str | None


# -- what is shown ----------------------------------------------------------------------------------------------


def _fields(catalog: Catalog, node: Node, stored: int, now: datetime) -> dict[str, Any]:
    info, declared = describe(node), node.definition.partitions
    expected: int | None = None
    if declared is not None:
        try:
            expected = declared.count(now)
        except ConfigError:  # keys that only the store knows
            expected = None
    return {
        "name": node.name,
        "pipeline": catalog.graph.pipeline,
        "kind": info.kind,
        "description": info.description,
        "tags": list(info.tags),
        "owner": info.owner,
        "depends_on": list(info.depends_on),
        "partitions": None if declared is None else declared.describe(),
        "expected": expected,
        "stored": stored,
    }


def _status(found: AssetStatus, text: str | None, redactor: Redactor) -> Status:
    return Status(
        partition=text,
        state=found.state,
        run_id=found.run_id,
        started_at=found.started_at,
        completed_at=found.completed_at,
        seconds=found.seconds,
        io=found.io,
        error=facts_of(found.error, redactor),
        reason=found.reason,
        has_value=found.has_value,
        fresh=found.fresh,
        stale_because=found.stale_because,
        code_changed=found.code_changed,
        waiting_for=found.waiting_for,
    )


def _partition(state: AssetState, redactor: Redactor) -> Partition:
    current = state.current
    return Partition(
        partition=key_text(state.key.partition),
        state=state.state,
        run_id=state.run_id,
        has_value=current is not None,
        size=None if current is None else current.size,
        computed_at=None if current is None else current.committed_at,
        completed_at=state.completed_at,
        seconds=state.seconds,
        error=facts_of(state.error, redactor),
    )


# -- what is done -----------------------------------------------------------------------------------------------


async def _list(call: Call[PageQuery, None]) -> Response:
    after = from_cursor("assets", call.query.cursor, str) or ""
    catalogs, store = call.session.catalogs, call.session.store
    everything = sorted((name, each) for name, catalog in catalogs.items() for each in catalog.graph.nodes)
    behind = [each for each in everything if ".".join(each) > after]
    page = behind[: call.query.limit]
    stored = {name: await store.stored_assets(name) for name in dict.fromkeys(pipeline for pipeline, _ in page)}
    assets = [
        Asset(**_fields(catalogs[name], catalogs[name].graph.nodes[each], stored[name].get(each, 0), store.now()))
        for name, each in page
    ]
    more = len(behind) > len(page)
    return json_answer(AssetPage(assets=assets, next=to_cursor("assets", ".".join(page[-1])) if more else None))


async def _get(call: Call[AssetQuery, None]) -> Response:
    catalog, name = asset_of(call, call.path["asset"])
    node, store, text = catalog.node(name), call.session.store, call.query.partition
    declared = node.definition.partitions
    status: Status | None = None
    if text is not None or declared is None or not declared.dimensions:
        key = key_of(catalog, name, text, where="query.partition")
        found = await call.engine.status(f"{catalog.graph.pipeline}.{name}", partition=key)
        status = _status(found, text, call.state.redactor)
    stored = await store.stored_assets(catalog.graph.pipeline)
    return json_answer(AssetDetail(**_fields(catalog, node, stored.get(name, 0), store.now()), status=status))


async def _partitions(call: Call[PageQuery, None]) -> Response:
    catalog, name = asset_of(call, call.path["asset"])
    after = _encoded(from_cursor("partitions", call.query.cursor, str))
    limit = call.query.limit
    found = await call.session.store.keys(catalog.graph.pipeline, name, "", limit=limit + 1, after=after)
    page = found[:limit]
    more = len(found) > limit
    return json_answer(
        PartitionPage(
            asset=name,
            partitions=[_partition(each, call.state.redactor) for each in page],
            next=to_cursor("partitions", page[-1].key.partition) if more else None,
        )
    )


def _encoded(place: str | None) -> str | None:
    """Return a place in a list of partitions, which is the text of a key."""
    try:
        fits = place is None or encode_key(decode_key(place)) == place
    except PartitionError:
        fits = False
    if not fits:
        raise unfit([Problem("query.cursor", "it is no cursor of this list")], "query")
    return place


OPERATIONS: tuple[Operation[Any, Any], ...] = (
    Operation(
        name="listAssets",
        method="GET",
        path="/api/v1/assets",
        summary="List assets, with how many values of each are stored.",
        tag="assets",
        permission="read",
        handler=_list,
        query=PageQuery,
        answers={200: AssetPage},
    ),
    Operation(
        name="getAsset",
        method="GET",
        path="/api/v1/assets/{asset}",
        summary="Look at an asset: what is stored and how the last computation went.",
        tag="assets",
        permission="read",
        handler=_get,
        query=AssetQuery,
        answers={200: AssetDetail},
        refusals=(404,),
    ),
    Operation(
        name="listPartitions",
        method="GET",
        path="/api/v1/assets/{asset}/partitions",
        summary="List partitions of an asset that were computed or tried.",
        tag="assets",
        permission="read",
        handler=_partitions,
        query=PageQuery,
        answers={200: PartitionPage},
        refusals=(404,),
    ),
)
