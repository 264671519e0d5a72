"""Stored values as they are answered: whole as they come, or in JSON and cut."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Any, cast

import anyio
from pydantic import Field
from pydantic_core import from_json
from starlette.responses import Response, StreamingResponse

from flowstone_async._engine.reading import Reader
from flowstone_async.definition.keys import encode_key
from flowstone_async.definition.stream import AsyncClosing, Stream
from flowstone_async.errors import NotMaterialized
from flowstone_async.redaction import Redactor
from flowstone_async.types import AssetKey
from flowstone_async.web.named import asset_of, key_of
from flowstone_async.web.operation import Answer, Call, Operation, Query, json_answer
from flowstone_async.web.plain import NoJson, as_json
from flowstone_async.web.refusal import Refused

MOST_SHOWN = 1 << 16
_MOST_SHOWN = 8 << 20
_MOST_LOADED = 64 << 20
_BEGINNING = 4096
_RAW_TYPES = ("application/octet-stream", "text/plain", "application/x-ndjson")
_RAW = {"Content-Disposition": "attachment", "Content-Security-Policy": "sandbox; default-src 'none'"}


class Shown(Answer):
    """A value in JSON.

    Attributes:
        value: The value; of a stream its items. Null where it was cut.
        cut: Whether it is larger than was asked for, so that it is not here.
        beginning: Of one that was cut, as text, its secrets hidden.
        json_form: Whether the value has one at all.
    """

    value: Any
    cut: bool = False
    beginning: str | None = None
    json_form: bool = True


class StoredValue(Shown):
    """The current value of an asset and partition."""

    asset: str
    partition: str | None
    run_id: str
    computed_at: str
    size: int


class ValueQuery(Query):
    """Which value, and how it is answered."""

    partition: Annotated[str | None, Field(description="Its key, as people type it.")] = None
    max_bytes: Annotated[int, Field(ge=1, le=_MOST_SHOWN, description="A larger value is cut.")] = MOST_SHOWN
    raw: Annotated[
        bool,
        Field(
            description="The value itself, whole: bytes as they are, text as text, a stream as a line of JSON for each "
            "item, anything else as JSON."
        ),
    ] = False


async def shown(value: object, most: int, redactor: Redactor) -> Shown:
    """Return a value in JSON, if that has at most so many bytes."""
    try:
        if isinstance(value, Stream):
            data = await _items(cast("Stream[object]", value), most)
        else:
            data = await anyio.to_thread.run_sync(as_json, value)
    except NoJson:
        return Shown(value=None, cut=True, json_form=False)
    if data is not None and len(data) <= most:
        return Shown(value=from_json(data))
    hidden = redactor.text((data or b"")[:_BEGINNING].decode("utf-8", "ignore"))
    return Shown(value=None, cut=True, beginning=hidden or None)


async def _items(stream: Stream[object], most: int) -> bytes | None:
    """Return the items of a stream as a JSON array; None if they are more than is wanted."""
    parts: list[bytes] = []
    size = 2
    async with aclosing(cast("AsyncClosing[object]", aiter(stream))) as items:
        async for item in items:
            parts.append(as_json(item))
            size += len(parts[-1]) + 1
            if size > most + 1:
                return None
    return b"[" + b",".join(parts) + b"]"


async def _get(call: Call[ValueQuery, None]) -> Response:
    query, redactor = call.query, call.state.redactor
    catalog, name = asset_of(call, call.path["asset"])
    key = key_of(catalog, name, query.partition, where="query.partition")
    asset_key = AssetKey(catalog.graph.pipeline, name, encode_key(key), "")
    state = (await call.session.store.states([asset_key])).get(asset_key)
    current = None if state is None else state.current
    if current is None:
        raise NotMaterialized(f"asset {name!r} has no stored value for this partition", hint="Submit a run first.")
    found = Shown(value=None, cut=True)
    if query.raw or current.size <= _MOST_LOADED:
        reader = Reader(call.session)
        runnable = catalog.runnable(catalog.node(name))
        value: object = await reader.load(runnable, key, current, runnable.manager)
        if query.raw:
            return await _raw(value)
        found = await shown(value, query.max_bytes, redactor)
    fields = {each: getattr(found, each) for each in Shown.model_fields}
    return json_answer(
        StoredValue(
            **fields,
            asset=name,
            partition=query.partition,
            run_id=current.run_id,
            computed_at=current.committed_at.isoformat(),
            size=current.size,
        )
    )


async def _raw(value: object) -> Response:
    """Return a value itself; no browser shows it, whatever it holds."""
    if isinstance(value, bytes):
        return Response(value, media_type="application/octet-stream", headers=_RAW)
    if isinstance(value, str):
        return Response(value.encode("utf-8", "replace"), media_type="text/plain", headers=_RAW)
    if isinstance(value, Stream):
        lines = _lines(cast("Stream[object]", value))
        return StreamingResponse(lines, media_type="application/x-ndjson", headers=_RAW)
    try:
        data = await anyio.to_thread.run_sync(as_json, value)
    except NoJson as error:
        raise Refused(409, "NO_JSON_FORM", str(error), hint="Read it with engine.get in Python.") from error
    return Response(data, media_type="application/json", headers=_RAW)


async def _lines(stream: Stream[object]) -> AsyncGenerator[bytes]:
    async with aclosing(cast("AsyncClosing[object]", aiter(stream))) as items:
        async for item in items:
            yield as_json(item) + b"\n"


OPERATIONS: tuple[Operation[Any, Any], ...] = (
    Operation(
        name="getValue",
        method="GET",
        path="/api/v1/assets/{asset}/value",
        summary="Read a stored value; nothing is computed.",
        tag="assets",
        permission="read",
        handler=_get,
        query=ValueQuery,
        answers={200: (StoredValue, *_RAW_TYPES)},
        refusals=(404, 409),
    ),
)
