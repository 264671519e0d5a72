"""Records of the engine as JSON-compatible values, for machines that read the output of a command."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from datetime import datetime
from typing import cast

from flowstone_async._engine.approving.listing import ApprovalRequest
from flowstone_async._engine.gates.listing import GateDelivery, GateStatus
from flowstone_async._engine.gates.signalling import Signalled
from flowstone_async._engine.status import AssetStatus
from flowstone_async.api_tokens import ApiToken
from flowstone_async.definition.key_text import format_key
from flowstone_async.definition.keys import decode_key
from flowstone_async.errors import ExecutionError, Failure, FlowstoneError
from flowstone_async.events import Event
from flowstone_async.store.records import RunRecord


def plain(value: object) -> object:
    """Return a value as JSON holds it; what it has no form for, as text."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, FlowstoneError):
        return plain_error(value)
    if isinstance(value, Failure):
        return {"type": value.type, "code": value.code, "message": value.message, "hint": value.hint}
    if isinstance(value, Mapping):
        entries = cast("Mapping[object, object]", value).items()
        return {str(key): plain(item) for key, item in entries}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in cast("list[object]", value)]
    return str(value)


def plain_event(event: Event) -> dict[str, object]:
    """Return an event; its partition as it is typed on the command line."""
    return {"type": event.type, **plain_record(event)}


def plain_record(
    record: Event | AssetStatus | GateStatus | GateDelivery | Signalled | ApprovalRequest | ApiToken,
) -> dict[str, object]:
    """Return a frozen record of ours by its fields; a partition as it is typed on the command line."""
    found = {each.name: getattr(record, each.name) for each in dataclasses.fields(record) if each.repr}
    return {
        name: (None if value is None else format_key(value)) if name == "partition" else plain(value)
        for name, value in found.items()
    }


def plain_run(record: RunRecord) -> dict[str, object]:
    """Return a run as people look at it; what only its owner needs is left out."""
    key = decode_key(record.partition)
    return {
        "id": record.id,
        "pipeline": record.pipeline,
        "targets": list(record.targets),
        "partition": None if key is None else format_key(key),
        "state": record.state,
        "created_at": plain(record.created_at),
        "finished_at": plain(record.finished_at),
        "error": plain(record.error),
    }


def plain_error(error: FlowstoneError) -> dict[str, object]:
    """Return an error with everything that a machine may ask about."""
    found: dict[str, object] = {
        "type": type(error).__name__,
        "code": error.code,
        "message": error.message,
        "hint": error.hint,
        "asset": error.asset,
        "retryable": error.retryable,
        "details": plain(error.details),
    }
    if isinstance(error, ExecutionError):
        found |= {"attempt": error.attempt, "traceback": error.traceback_text}
    return found
