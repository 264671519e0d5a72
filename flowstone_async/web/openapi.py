"""The OpenAPI document, made from the declarations that route and check."""

from __future__ import annotations

import re
from collections.abc import Sequence
from http import HTTPStatus
from itertools import chain
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from flowstone_async.web.operation import Operation, Query, answered
from flowstone_async.web.refusal import ErrorBody

_PATH = re.compile(r"\{(\w+)\}")
_REFERENCE = "#/components/schemas/{model}"
_WHAT = {
    400: "the request is malformed",
    401: "nobody who is known asks",
    403: "not allowed",
    404: "there is no such thing",
    409: "it does not fit how things are",
    410: "it is over",
    413: "too large",
    422: "a field does not fit",
    429: "too often",
    500: "a stored value cannot be read, or the server made a mistake",
    503: "the engine is not open, or the store cannot be reached",
}

Schema = dict[str, Any]


def document(operations: Sequence[Operation[Any, Any]], *, title: str, version: str, root: str) -> Schema:
    """Return the document.

    Args:
        operations: What is routed.
        title: Of the app.
        version: Of the library.
        root: Where the app is mounted.
    """
    schemas, definitions = _schemas(operations)
    paths: dict[str, Schema] = {}
    for each in operations:
        paths.setdefault(each.path, {})[each.method.lower()] = _operation(each, schemas)
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": version},
        "servers": [{"url": root or "/"}],
        "paths": paths,
        "components": {
            "schemas": definitions,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _schemas(operations: Sequence[Operation[Any, Any]]) -> tuple[dict[type[BaseModel], Schema], Schema]:
    wanted: dict[type[BaseModel], JsonSchemaMode] = {ErrorBody: "serialization"}
    for each in operations:
        body = each.body or each.described
        if body is not None:
            wanted[body] = "validation"
        for model in chain(*answered(each).values()):
            if isinstance(model, type):
                wanted[model] = "serialization"
    found, whole = models_json_schema(list(wanted.items()), ref_template=_REFERENCE)
    return {model: schema for (model, _), schema in found.items()}, whole.get("$defs", {})  # pyright: ignore[reportReturnType]


def _operation(each: Operation[Any, Any], schemas: dict[type[BaseModel], Schema]) -> Schema:
    made: Schema = {
        "operationId": each.name,
        "summary": each.summary,
        "tags": [each.tag],
        "parameters": [*_in_path(each), *_in_query(each.query), *_in_headers(each)],
        "responses": _responses(each, schemas),
        "security": [] if each.permission is None else [{"token": []}],
    }
    if each.body is not None:
        content = {"application/json": {"schema": schemas[each.body]}}
        made["requestBody"] = {"required": True, "content": content}
    if each.raw_body:
        schema = {} if each.described is None else {"schema": schemas[each.described]}
        made["requestBody"] = {"required": each.described is not None, "content": {"application/json": schema}}
    if not made["parameters"]:
        del made["parameters"]
    return made


def _in_path(each: Operation[Any, Any]) -> list[Schema]:
    return [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        for name in _PATH.findall(each.path)
    ]


def _in_query(model: type[Query]) -> list[Schema]:
    schema = model.model_json_schema(ref_template=_REFERENCE)
    needed = schema.get("required", [])
    return [
        {"name": name, "in": "query", "required": name in needed, "schema": _plain(each)}
        for name, each in schema.get("properties", {}).items()
    ]


def _plain(schema: Schema) -> Schema:
    """Return the schema of a parameter, which is left out rather than null."""
    options = [each for each in schema.get("anyOf", []) if each != {"type": "null"}]
    if len(options) == 1:
        rest = {name: each for name, each in schema.items() if name not in ("anyOf", "default")}
        return {**options[0], **rest}
    return schema


def _in_headers(each: Operation[Any, Any]) -> list[Schema]:
    return [
        {"name": name, "in": "header", "required": False, "description": text, "schema": {"type": "string"}}
        for name, text in each.headers.items()
    ]


def _responses(each: Operation[Any, Any], schemas: dict[type[BaseModel], Schema]) -> Schema:
    found: Schema = {}
    for status, models in answered(each).items():
        found[str(status)] = {"description": HTTPStatus(status).phrase}
        content: Schema = {model: {} for model in models if isinstance(model, str)}
        for model in models:
            if isinstance(model, type):
                content["application/json"] = {"schema": schemas[model]}
        if content:
            found[str(status)]["content"] = content
    for status in refusals(each):
        content: Schema = {"application/json": {"schema": schemas[ErrorBody]}}
        if each.pages:
            content["text/html"] = {}
        found.setdefault(str(status), {"description": _WHAT[status], "content": content})
    return found


def refusals(each: Operation[Any, Any]) -> list[int]:
    """Return the statuses of refusals that an operation may answer."""
    found = {422, 500, *each.refusals, *each.instead.values()}
    if each.permission is not None:
        found |= {401, 403}
    if each.open:
        found |= {503}
    if each.body is not None:
        found |= {400, 413}
    return sorted(found)
