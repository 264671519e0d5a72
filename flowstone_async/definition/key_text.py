"""Partition keys as people write and read them: on the command line, in URLs of pages, in messages.

Only the command line and the web side parse text, by the declared type of the key; the API takes real objects.
"""

from __future__ import annotations

import re
import types
from collections.abc import Callable, Sequence
from datetime import date, datetime
from typing import Any, Union, cast, get_args, get_origin
from uuid import UUID

from flowstone_async.definition.keys import PartitionKey, decode_key, encode_key
from flowstone_async.errors import ConfigError, PartitionError

_ANY: tuple[object, ...] = (Any,)
_ANY_TEXT: tuple[object, ...] = (str, Any)
_NONE: tuple[object, ...] = (None, types.NoneType)
_INT = re.compile(r"0|-?[1-9][0-9]*")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_DATETIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}.*")


def format_key(key: PartitionKey | None) -> str:
    """Return the text that people read and type: `2025-01-15`, `us`, `2025-01-15|us`; `(none)` without a key.

    A tuple whose elements hold separators themselves is shown in its encoded form, which `parse_key` reads too.
    """
    if key is None:
        return "(none)"
    if isinstance(key, str):
        return key
    if isinstance(key, bool):
        return "true" if key else "false"
    if isinstance(key, date):  # a datetime, too
        return key.isoformat()
    if isinstance(key, tuple):
        nested = len(key) < 2 or any(isinstance(element, tuple) for element in key)  # noqa: PLR2004 - needs a separator
        parts = [format_key(element) for element in key]
        return encode_key(key) if nested or any(not part or "|" in part for part in parts) else "|".join(parts)
    return str(key)


def parse_key(text: str, key_type: object) -> PartitionKey | None:
    """Return the key that somebody typed, read as the declared type.

    Args:
        text: What was typed. Parts of a tuple are separated by `|`, or by `,` where there is no `|`.
        key_type: `date`, `datetime`, `str`, `int`, `bool`, `UUID`, a tuple or a union of these.

    Raises:
        PartitionError: The text is no key of that type.
        ConfigError: The type is no type of keys.
    """
    if key_type in _ANY_TEXT:
        return text
    found = _read(text, key_type)
    if found is None and text:
        decoded = _decoded(text)
        found = (decoded,) if decoded is not None and fits(decoded, key_type) else None
    if found is None:
        raise PartitionError(
            f"{text!r} is not a {type_text(key_type)}",
            hint=_example(key_type),
            details={"text": text, "type": type_text(key_type)},
        )
    return found[0]


def fits(key: object, key_type: object) -> bool:
    """Return whether a key is of exactly the declared type: a datetime is no date, a bool no int.

    Raises:
        ConfigError: The type is no type of keys.
    """
    if key_type in _NONE:
        return key is None
    if key_type in _ANY:
        return key is not None
    if key_type in _READERS:
        return cast("object", type(key)) is key_type
    if _is_union(key_type):
        return any(fits(key, option) for option in get_args(key_type))
    elements = _elements(key_type, len(cast("tuple[object, ...]", key)) if isinstance(key, tuple) else None)
    if not isinstance(key, tuple) or elements is None:
        return False
    return all(fits(each, kind) for each, kind in zip(cast("tuple[object, ...]", key), elements, strict=True))


def type_text(key_type: object) -> str:
    """Return the name of a type of keys, such as `date` or `tuple[date, str]`."""
    if key_type in _NONE:
        return "None"
    if get_origin(key_type) is tuple:
        return f"tuple[{', '.join('...' if each is ... else type_text(each) for each in get_args(key_type))}]"
    if _is_union(key_type):
        return " | ".join(type_text(option) for option in get_args(key_type))
    return getattr(key_type, "__name__", repr(key_type))


def moment(text: str) -> datetime | None:
    """Return the datetime that an ISO text with a time of day holds, naive without an offset; None if it holds none."""
    if not _DATETIME.fullmatch(text):
        return None
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None


def day(text: str) -> date | None:
    """Return the date that a text such as `2025-01-15` holds, or None."""
    if not _DATE.fullmatch(text):
        return None
    try:
        return date.fromisoformat(text)
    except ValueError:
        return None


def _read(text: str, key_type: object) -> tuple[PartitionKey | None] | None:
    """Read a key, in a tuple of one since a key may be None."""
    if key_type in _NONE:
        return (None,) if text in {"", "(none)"} else None
    if key_type in _READERS:
        key = _READERS[key_type](text)
        return None if key is None else (key,)
    if _is_union(key_type):
        options = sorted(get_args(key_type), key=lambda option: option in _ANY_TEXT)  # everything reads as a str
        return next((found for option in options if (found := _read(text, option)) is not None), None)
    if text.startswith("t:") and (decoded := _decoded(text)) is not None and fits(decoded, key_type):
        return (decoded,)
    parts = text.split("|") if "|" in text else text.split(",")
    elements = _elements(key_type, len(parts))
    return None if elements is None else _read_elements(parts, elements)


def _read_elements(parts: Sequence[str], elements: Sequence[object]) -> tuple[PartitionKey] | None:
    key: list[PartitionKey] = []
    for part, element in zip(parts, elements, strict=True):
        found = _read(part if element is str else part.strip(), element)
        if found is None or found[0] is None:
            return None
        key.append(found[0])
    return (tuple(key),)


def _is_union(key_type: object) -> bool:
    return get_origin(key_type) in {Union, types.UnionType}


def _elements(key_type: object, length: int | None) -> tuple[object, ...] | None:
    """Return the types of the elements of a tuple of that length, or None if the type has no such tuples."""
    if get_origin(key_type) is not tuple:
        raise ConfigError(
            f"{type_text(key_type)} is not a type of partition keys",
            hint="Keys are date, datetime, str, int, bool, UUID, and tuples of these.",
        )
    elements: tuple[object, ...] = get_args(key_type)
    if len(elements) == 2 and elements[1] is ...:  # noqa: PLR2004 - tuple[int, ...]
        return None if length is None else elements[:1] * length
    return elements if length == len(elements) else None


def _decoded(text: str) -> PartitionKey | None:
    try:
        return decode_key(text)
    except PartitionError:
        return None


def _int(text: str) -> int | None:
    return int(text) if _INT.fullmatch(text) and len(text) <= len(str(2**2048)) else None


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None


def _moment(text: str) -> datetime | None:
    found = moment(text)
    return None if found is None else cast("datetime", decode_key(found))


_READERS: dict[object, Callable[[str], PartitionKey | None]] = {
    str: lambda text: text,
    bool: {"true": True, "false": False}.get,
    int: _int,
    date: day,
    datetime: _moment,
    UUID: _uuid,
    Any: lambda text: text,
}

_EXAMPLES: dict[object, str] = {
    bool: "true",
    int: "7",
    date: "2025-01-15",
    datetime: "2025-01-15T09:00+00:00",
    UUID: "8f14e45f-ceea-4c2d-9b1a-0c6f2b7a5d10",
    str: "us",
}


def _example(key_type: object) -> str:
    if get_origin(key_type) is tuple:
        elements = [each for each in get_args(key_type) if each is not ...]
        return f"Write it like {'|'.join(_EXAMPLES.get(each, '...') for each in elements)}."
    return f"Write it like {_EXAMPLES[key_type]}." if key_type in _EXAMPLES else "Give it in its encoded form."
