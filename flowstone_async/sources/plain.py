"""Values of a few exact types as JSON-compatible ones, and back: what sources must remember over a restart."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from typing import Any, cast
from uuid import UUID

from flowstone_async.errors import ConfigError

_TAG = "$"
_TEXTS: Mapping[str, tuple[type, Callable[[Any], str], Callable[[str], object]]] = {
    # A datetime is a date too: the exact types are compared.
    "datetime": (datetime, datetime.isoformat, datetime.fromisoformat),
    "date": (date, date.isoformat, date.fromisoformat),
    "time": (time, time.isoformat, time.fromisoformat),
    "decimal": (Decimal, str, Decimal),
    "bytes": (bytes, lambda data: base64.b64encode(data).decode(), base64.b64decode),
    "ipv4": (IPv4Address, str, IPv4Address),
    "ipv6": (IPv6Address, str, IPv6Address),
    "ipv4interface": (IPv4Interface, str, IPv4Interface),
    "ipv6interface": (IPv6Interface, str, IPv6Interface),
    "ipv4network": (IPv4Network, str, IPv4Network),
    "ipv6network": (IPv6Network, str, IPv6Network),
}
_NAMES: Mapping[type, str] = {kind: name for name, (kind, _, _) in _TEXTS.items()}
_HINT = (
    "Allowed are None, True and False, numbers, text, bytes, Decimal, dates and times, UUIDs, IP addresses, "
    "and lists, tuples, sets and dicts of these (dicts with text as keys)."
)


def pack(value: object, *, what: str) -> object:
    """Return a value as JSON-compatible values, from which `unpack` makes an equal one of the same type.

    Args:
        value: What to keep.
        what: What it is, for the message.

    Raises:
        ConfigError: A part of it is of a type that is not kept.
    """
    kind: type = type(value)
    if value is None or kind in (bool, int, str) or (kind is float and math.isfinite(cast("float", value))):
        return value
    if kind is list:
        return [pack(each, what=what) for each in cast("list[object]", value)]
    if kind is dict and all(type(key) is str for key in cast("dict[object, object]", value)):
        packed = {key: pack(each, what=what) for key, each in cast("dict[str, object]", value).items()}
        return {_TAG: "dict", "v": packed} if _TAG in packed else packed
    if kind in (tuple, set, frozenset):
        return {_TAG: kind.__name__, "v": [pack(each, what=what) for each in cast("tuple[object, ...]", value)]}
    if kind is float:
        return {_TAG: "float", "v": repr(value)}
    if kind is timedelta:
        span = cast("timedelta", value)
        return {_TAG: "timedelta", "v": [span.days, span.seconds, span.microseconds]}
    if isinstance(value, UUID):  # asyncpg has a class of its own
        return {_TAG: "uuid", "v": str(value)}
    name = _NAMES.get(kind)
    if name is None:
        raise ConfigError(f"{what} holds a {kind.__name__}, which cannot be stored", hint=_HINT)
    return {_TAG: name, "v": _TEXTS[name][1](value)}


def unpack(packed: object) -> Any:
    """Return the value that `pack` made this from."""
    if isinstance(packed, list):
        return [unpack(each) for each in cast("list[object]", packed)]
    if not isinstance(packed, dict):
        return packed
    facts = cast("dict[str, Any]", packed)
    name, inner = facts.get(_TAG), facts.get("v")
    if name is None or name == "dict":
        return {key: unpack(each) for key, each in (facts if name is None else cast("Any", inner)).items()}
    return _MAKERS[name](inner)


_MAKERS: Mapping[str, Callable[[Any], object]] = {
    **{name: make for name, (_, _, make) in _TEXTS.items()},
    "float": float,
    "frozenset": lambda items: frozenset(map(unpack, items)),
    "set": lambda items: set(map(unpack, items)),
    "timedelta": lambda parts: timedelta(*parts),
    "tuple": lambda items: tuple(map(unpack, items)),
    "uuid": UUID,
}
