"""Values as DynamoDB writes them, and back; and its keys as JSON-compatible values."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, cast

from flowstone_async.errors import ConfigError

_ALLOWED = (
    "Give None, True or False, numbers, text, bytes, or lists, sets and dicts of these (dicts with text as keys)."
)
_DIGITS = 38


def packed(value: object, *, what: str) -> dict[str, Any]:
    """Return a value as the service takes it.

    Args:
        value: None, a bool, number, text or bytes, or lists, sets and dicts of these.
        what: What it is, for the message.

    Raises:
        ConfigError: The service has no such values.
    """
    match value:
        case None:
            return {"NULL": True}
        case bool():
            return {"BOOL": value}
        case str():
            return {"S": value}
        case int() | float() | Decimal():
            return {"N": _number(value, what)}
        case bytes() | bytearray():
            return {"B": bytes(cast("bytes", value))}
        case set() | frozenset():
            return _packed_set(cast("set[object]", value), what)
        case list() | tuple():
            return {"L": [packed(each, what=what) for each in cast("list[object]", value)]}
        case Mapping():
            entries = cast("Mapping[object, object]", value)
            if all(isinstance(key, str) for key in entries):
                return {"M": {key: packed(each, what=what) for key, each in entries.items()}}
        case _:
            pass
    kind = type(cast("object", value)).__name__
    raise ConfigError(f"{what} holds a {kind}, which DynamoDB has not", hint=_ALLOWED)


def unpacked(attribute: Mapping[str, Any]) -> Any:
    """Return a value of the service: whole numbers as int, others as Decimal."""
    ((kind, value),) = attribute.items()
    match kind:
        case "NULL":
            return None
        case "N":
            return _read_number(value)
        case "NS":
            return {_read_number(each) for each in value}
        case "SS" | "BS":
            return set(value)
        case "L":
            return [unpacked(each) for each in value]
        case "M":
            return {name: unpacked(each) for name, each in value.items()}
        case _:  # BOOL, S, B
            return value


def stored_key(key: Mapping[str, Mapping[str, Any]]) -> dict[str, object]:
    """Return a key of the service as JSON-compatible values."""
    return {
        name: {kind: base64.b64encode(value).decode() if kind == "B" else value for kind, value in attribute.items()}
        for name, attribute in key.items()
    }


def restored_key(stored: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the key that `stored_key` described."""
    return {
        name: {kind: base64.b64decode(value) if kind == "B" else value for kind, value in attribute.items()}
        for name, attribute in stored.items()
    }


def _number(value: float | Decimal, what: str) -> str:
    number = Decimal(repr(value)) if isinstance(value, float) and math.isfinite(value) else Decimal(value)
    if not number.is_finite() or len("".join(map(str, number.as_tuple().digits)).rstrip("0")) > _DIGITS:
        raise ConfigError(
            f"{what} holds {value}, which DynamoDB has not", hint=f"Numbers have {_DIGITS} digits at most."
        )
    return str(number)


def _read_number(text: str) -> int | Decimal:
    try:
        return int(text)
    except ValueError:
        return Decimal(text)


def _packed_set(values: set[object] | frozenset[object], what: str) -> dict[str, Any]:
    attributes = [packed(each, what=what) for each in values]
    kinds = {kind for attribute in attributes for kind in attribute}
    if len(kinds) != 1 or not kinds <= {"S", "N", "B"}:
        raise ConfigError(
            f"{what} holds a set that is empty or mixed, which DynamoDB has not",
            hint="Sets hold texts, numbers or bytes, at least one, of one kind.",
        )
    (kind,) = kinds
    return {f"{kind}S": [attribute[kind] for attribute in attributes]}
