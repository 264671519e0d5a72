"""Partition keys and the text that stands for them in the store, in paths and in URLs.

The encoded form is injective: distinct keys never share a text, and every key comes back equal and of the same type.
Where the text came from outside, decoding is bounded in length and in nesting, and refuses what was never written.
"""

from __future__ import annotations

import json
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import NoReturn, TypeAlias, cast
from uuid import UUID

from flowstone_async.errors import PartitionError

PartitionKey: TypeAlias = "date | datetime | str | int | bool | UUID | tuple[PartitionKey, ...]"
"""What selects one slice of an asset."""

MAX_ENCODED_BYTES = 2048
"""Longest encoded key in UTF-8, so that asset and key fit one index row of Postgres (2,704 bytes)."""

MAX_DEPTH = 12
"""Deepest nesting of tuples."""

_SURELY_SHORT = MAX_ENCODED_BYTES // 4
_LONGEST_INT_BITS = 6_800
_ISO_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_ISO_DATETIME = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]{1,6})?)?"
    r"(?:Z|[+-][0-9]{2}:[0-9]{2}(?::[0-9]{2})?)?"
)
_INT = re.compile(r"0|-?[1-9][0-9]*")
_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_BASE64 = re.compile(r"[A-Za-z0-9_-]*")
# NUL and lone surrogates cannot be stored as text, so they are written like the separators.
_NEEDS_BASE64 = re.compile(r"[:|\x00\ud800-\udfff]|\A[0-9]{4}-[0-9]{2}-[0-9]{2}(?:\Z|[T ][0-9]{2})")

_PLAIN: frozenset[type] = frozenset({str, int, bool, date, UUID})
_INSTEAD: dict[type, str] = {
    float: "Use an int or a str.",
    list: "Use a tuple.",
    dict: "Use a tuple of its values, or a str.",
    set: "Use a sorted tuple.",
    frozenset: "Use a sorted tuple.",
    bytes: "Use a str, such as key.hex().",
}


def canonical_key(key: object) -> PartitionKey | None:
    """Return the key as it will come back from the store: aware datetimes in UTC, everything else as it is.

    A date, datetime or UUID of a library's own subclass is taken as the standard type that it equals.

    Raises:
        PartitionError: The key, or an element of it, is of a type that cannot be a key.
    """
    return None if key is None else _canonical(key, 0)


def encode_key(key: PartitionKey | None) -> str:
    """Return the text that stands for a key; `None`, the absence of a key, is the empty text.

    Example:
        >>> encode_key(date(2025, 1, 15)), encode_key("us"), encode_key(7)
        ('d:2025-01-15', 'us', 'i:7')

    Raises:
        PartitionError: The key cannot be one, or its encoded form is longer than `MAX_ENCODED_BYTES`.
    """
    kind = type(key)
    if kind is str:
        text = cast("str", key)
        return text if len(text) <= _SURELY_SHORT and text.isalnum() else _bounded(_encode_str(text), text)
    if kind is date:
        return f"d:{cast('date', key).isoformat()}"
    if key is None:
        return ""
    return _bounded(_encode(_canonical(key, 0)), key)


def decode_key(text: object) -> PartitionKey | None:
    """Return the key that a text stands for; a key that is no text is already decoded and passes through.

    Reads what `encode_key` writes, and also untagged ISO dates, ISO datetimes and `|`-separated tuples.

    Raises:
        PartitionError: The text stands for no key, or the object cannot be one.
    """
    if type(text) is not str:
        return canonical_key(text)
    if text == "":
        return None
    if len(text) > MAX_ENCODED_BYTES:
        _refuse_text(text, f"it is longer than {MAX_ENCODED_BYTES} bytes")
    return _decode(text, 0)


def is_aware(moment: datetime) -> bool:
    """Return whether a datetime is an instant, rather than a reading of some clock on a wall."""
    return moment.tzinfo is not None and moment.utcoffset() is not None


def _canonical(key: object, depth: int) -> PartitionKey:
    kind = type(key)
    if kind in _PLAIN:
        return cast("PartitionKey", key)
    if kind is datetime:
        return _canonical_datetime(cast("datetime", key))
    if kind is tuple:
        if depth >= MAX_DEPTH:
            raise PartitionError(f"a partition key is nested deeper than {MAX_DEPTH} tuples", hint="Use a flat tuple.")
        return tuple(_canonical(element, depth + 1) for element in cast("tuple[object, ...]", key))
    return _canonical_subclass(key)


def _canonical_datetime(moment: datetime) -> datetime:
    if moment.tzinfo is None:
        return moment.replace(fold=0)
    if moment.utcoffset() is None:
        raise PartitionError(
            f"{moment!r} has a tzinfo that gives no offset", hint="Use zoneinfo.ZoneInfo, or a naive datetime."
        )
    try:
        return moment.astimezone(UTC)
    except OverflowError as error:
        raise PartitionError(f"{moment!r} has no counterpart in UTC between the years 1 and 9999") from error


def _canonical_subclass(key: object) -> PartitionKey:
    """Accept what drivers and test libraries return: `asyncpg` has a UUID of its own, `freezegun` a date."""
    plain: PartitionKey | None = None
    try:
        if isinstance(key, datetime):
            naive = datetime.combine(date(key.year, key.month, key.day), key.time(), key.tzinfo)
            plain = _canonical_datetime(naive) if naive == key else None
        elif isinstance(key, date):
            plain = date(key.year, key.month, key.day)
        elif isinstance(key, UUID):
            plain = UUID(int=key.int)
    except (TypeError, ValueError):  # pandas' NaT claims to be a datetime
        plain = None
    if plain is None or plain != key:
        raise PartitionError(
            f"a partition key cannot be a {_type_name(key)}: {_shown(key)}",
            hint=_hint(key),
            details={"type": _type_name(key)},
        )
    return plain


def _type_name(key: object) -> str:
    return type(key).__qualname__


def _hint(key: object) -> str:
    allowed = "Keys are date, datetime, str, int, bool, UUID, and tuples of these."
    if hasattr(type(key), "__members__"):
        return f"Use its value: key.value. {allowed}"
    for kind, instead in _INSTEAD.items():
        if isinstance(key, kind):
            return f"{instead} {allowed}"
    for kind in (bool, int, str, tuple, datetime):
        if isinstance(key, kind):
            return f"Use a plain {kind.__name__}. {allowed}"
    if key is None:
        return f"None means no partition, and is no element of a tuple. {allowed}"
    return f"Use a str, such as str(key). {allowed}"


def _encode(key: PartitionKey) -> str:
    """Write a canonical key."""
    if isinstance(key, str):
        return _encode_str(key)
    if isinstance(key, bool):
        return "b:true" if key else "b:false"
    if isinstance(key, int):
        if key.bit_length() > _LONGEST_INT_BITS:
            _refuse_long(key)
        return f"i:{key}"
    if isinstance(key, datetime):
        return f"{'ndt' if key.tzinfo is None else 'dt'}:{key.isoformat()}"
    if isinstance(key, date):
        return f"d:{key.isoformat()}"
    if isinstance(key, UUID):
        return f"u:{key}"
    elements = [_bounded(_encode(element), element) for element in key]
    return "t:" + _base64(json.dumps(elements, ensure_ascii=False, separators=(",", ":")).encode())


def _encode_str(text: str) -> str:
    if text and len(text) <= MAX_ENCODED_BYTES and not _NEEDS_BASE64.search(text):
        return text
    return "s:" + _base64(text.encode("utf-8", "surrogatepass"))


def _base64(content: bytes) -> str:
    return urlsafe_b64encode(content).rstrip(b"=").decode("ascii")


def _bounded(text: str, key: object) -> str:
    if len(text) > _SURELY_SHORT and len(text.encode()) > MAX_ENCODED_BYTES:
        _refuse_long(key)
    return text


def _refuse_long(key: object) -> NoReturn:
    raise PartitionError(
        f"a partition key is longer than {MAX_ENCODED_BYTES} bytes in its encoded form: {_shown(key)}",
        hint="Use a shorter name or a digest as the key, and keep the long text in the value.",
    )


def _shown(key: object) -> str:
    if isinstance(key, int) and key.bit_length() > _LONGEST_INT_BITS:
        return f"an int of {key.bit_length()} bits"
    text = repr(key)
    return text if len(text) <= 80 else f"{text[:77]}..."  # noqa: PLR2004  one line of a terminal


def _decode(text: str, depth: int) -> PartitionKey:
    if "|" in text:  # never written, so it is the old form of a tuple
        return tuple(_decode_element(element, depth) for element in text.split("|"))
    tag, colon, body = text.partition(":")
    if colon and tag in _READERS:
        return _READERS[tag](body, text, depth)
    if _ISO_DATE.fullmatch(text):
        try:
            return date.fromisoformat(text)
        except ValueError:
            return text
    if not colon:
        return text
    if not _ISO_DATETIME.fullmatch(text):
        _refuse_text(text, f"{tag!r} is none of its tags")
    return _decode_datetime(text, text)


def _decode_element(text: str, depth: int) -> PartitionKey:
    if depth >= MAX_DEPTH:
        _refuse_text(text, f"it is nested deeper than {MAX_DEPTH} tuples")
    return "" if text == "" else _decode(text, depth + 1)


def _decode_datetime(text: str, whole: str) -> datetime:
    try:
        return _canonical_datetime(datetime.fromisoformat(text))
    except ValueError as error:  # PartitionError included
        _refuse_text(whole, "it is not a moment of the calendar", error)


def _read_date(body: str, text: str, _: int) -> date:
    if not _ISO_DATE.fullmatch(body):
        _refuse_text(text, "the date is not YYYY-MM-DD")
    try:
        return date.fromisoformat(body)
    except ValueError as error:
        _refuse_text(text, "it is not a day of the calendar", error)


def _read_aware(body: str, text: str, _: int) -> datetime:
    moment = _decode_datetime(body, text) if _ISO_DATETIME.fullmatch(body) else None
    if moment is None or moment.tzinfo is None:
        _refuse_text(text, "the datetime is not ISO with an offset")
    return moment


def _read_naive(body: str, text: str, _: int) -> datetime:
    moment = _decode_datetime(body, text) if _ISO_DATETIME.fullmatch(body) else None
    if moment is None or moment.tzinfo is not None:
        _refuse_text(text, "the datetime is not ISO without an offset")
    return moment


def _read_int(body: str, text: str, _: int) -> int:
    if not _INT.fullmatch(body):
        _refuse_text(text, "the number is not a decimal integer")
    return int(body)


def _read_bool(body: str, text: str, _: int) -> bool:
    if body not in {"true", "false"}:
        _refuse_text(text, "a bool is true or false")
    return body == "true"


def _read_uuid(body: str, text: str, _: int) -> UUID:
    if not _UUID.fullmatch(body):
        _refuse_text(text, "the UUID is not 32 digits in five groups")
    return UUID(body)


def _read_str(body: str, text: str, _: int) -> str:
    try:
        return _unbase64(body, text).decode("utf-8", "surrogatepass")
    except UnicodeDecodeError as error:
        _refuse_text(text, "its bytes are not UTF-8", error)


def _read_tuple(body: str, text: str, depth: int) -> tuple[PartitionKey, ...]:
    try:
        elements = cast("object", json.loads(_unbase64(body, text).decode()))
    except (ValueError, RecursionError) as error:
        if isinstance(error, PartitionError):
            raise
        _refuse_text(text, "its bytes are not a JSON array", error)
    if not isinstance(elements, list):
        _refuse_text(text, "its bytes are not a JSON array")
    key: list[PartitionKey] = []
    for element in cast("list[object]", elements):
        if not isinstance(element, str) or not element:
            _refuse_text(text, "an element is not an encoded key")
        key.append(_decode_element(element, depth))
    return tuple(key)


def _unbase64(body: str, text: str) -> bytes:
    if not _BASE64.fullmatch(body) or len(body) % 4 == 1:
        _refuse_text(text, "it is not URL-safe base64")
    return urlsafe_b64decode(body + "=" * (-len(body) % 4))


_READERS: dict[str, Callable[[str, str, int], PartitionKey]] = {
    "d": _read_date,
    "dt": _read_aware,
    "ndt": _read_naive,
    "i": _read_int,
    "b": _read_bool,
    "u": _read_uuid,
    "t": _read_tuple,
    "s": _read_str,
}


def _refuse_text(text: str, reason: str, cause: Exception | None = None) -> NoReturn:
    raise PartitionError(
        f"{_shown(text)} is not an encoded partition key: {reason}",
        hint="Encoded keys look like d:2025-01-15, i:7, b:true, u:<uuid>, t:<base64>, s:<base64>, or a plain name.",
    ) from cause
