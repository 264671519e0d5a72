"""Records and values as JSON holds them, for whoever reads answers: cut, and without traces."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from datetime import date, timedelta
from typing import cast

from pydantic_core import PydanticSerializationError, to_json, to_jsonable_python

from flowstone_async.definition.batch import Batch
from flowstone_async.definition.key_text import format_key
from flowstone_async.definition.keys import PartitionKey, decode_key
from flowstone_async.errors import Failure, FlowstoneError, PartitionError
from flowstone_async.events import Event
from flowstone_async.redaction import Redactor

_DEPTH = 50
_LONGEST_INT_BITS = 10_000


def plain(value: object, depth: int = 0) -> object:
    """Return a fact of ours as JSON holds it; what it has no form for, as text, and traces not at all."""
    if depth > _DEPTH:
        return "…"
    if isinstance(value, FlowstoneError | Failure):
        value = plain_error(value)
    if isinstance(value, Mapping):
        entries = cast("Mapping[object, object]", value).items()
        return {_text(key): plain(each, depth + 1) for key, each in entries if not _is_trace(key)}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(each, depth + 1) for each in cast("list[object]", value)]
    return _scalar(value)


def _scalar(value: object) -> object:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if value.bit_length() < _LONGEST_INT_BITS else f"an int of {value.bit_length()} bits"
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, timedelta):
        return value.total_seconds()
    return value.isoformat() if isinstance(value, date) else _text(value)  # a datetime is a date, too


def _text(value: object) -> str:
    text = value if isinstance(value, str) else str(value)
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _is_trace(name: object) -> bool:
    return isinstance(name, str) and name.startswith("traceback")


def plain_error(error: FlowstoneError | Failure) -> dict[str, object]:
    """Return what is told of an error that ended a run, an asset or an item."""
    return {
        "type": error.type if isinstance(error, Failure) else type(error).__name__,
        "code": error.code,
        "message": error.message,
        "hint": error.hint,
        "asset": error.asset,
        "retryable": error.retryable,
        "details": dict(error.details),
    }


def plain_event(event: Event, redactor: Redactor) -> dict[str, object]:
    """Return an event of a run; its partition as people type it."""
    found: dict[str, object] = {each.name: getattr(event, each.name) for each in dataclasses.fields(event) if each.repr}
    if "partition" in found:
        key = cast("PartitionKey | None", found["partition"])
        found["partition"] = None if key is None else format_key(key)
    return cast("dict[str, object]", redactor.value(plain({"type": event.type, **found})))


def key_text(encoded: str) -> str | None:
    """Return an encoded key as people type it; None for none."""
    try:
        key = decode_key(encoded)
    except PartitionError:  # a damaged record
        return encoded
    return None if key is None else format_key(key)


class NoJson(Exception):
    """A value has no JSON form."""


def as_json(value: object) -> bytes:
    """Return a value of the user's as JSON.

    Raises:
        NoJson: It has no such form.
    """
    try:
        return to_json(value, bytes_mode="base64", inf_nan_mode="strings")
    except (PydanticSerializationError, ValueError, RecursionError) as error:
        raise NoJson(f"a value of type {type(value).__name__} has no JSON form") from error


def jsonable(value: object, redactor: Redactor) -> object:
    """Return an item or a key of a scatter as JSON holds it, its secrets hidden."""
    return redactor.value(_jsonable(value))


def _jsonable(value: object) -> object:
    if isinstance(value, Mapping):
        entries = cast("Mapping[object, object]", value).items()
        return {str(name): _jsonable(each) for name, each in entries}
    if isinstance(value, Batch):
        return [_jsonable(each) for each in cast("Batch[object]", value)]
    try:
        return to_jsonable_python(value, serialize_unknown=True, bytes_mode="base64", inf_nan_mode="strings")
    except (PydanticSerializationError, ValueError, RecursionError):
        return f"<{type(value).__name__}>"
