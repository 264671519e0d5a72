r"""Large values in pieces: no call into C gets more than about `PIECE` bytes, so that other threads have their turn.

Threads take turns every 5 ms in Python code, but a call into C keeps the others out until it ends. The JSON of a large
list or object is therefore written in groups of entries, each behind a mark of white space that our JSON has nowhere
else (`\n`, a `\t` for each level, `\r`), which is where it is cut again when it is read; a group of one large entry
begins with a `\t` and is written in pieces itself. Without its marks the text is what it would be if written at once.
"""

from __future__ import annotations

import binascii
import heapq
from collections.abc import Callable, Collection, Generator, Iterable
from hashlib import blake2b
from itertools import islice
from typing import Any, cast

from pydantic_core import from_json, to_json

from flowstone_async.io.bulk import bulk

PIECE = 256 * 1024
"""Bytes that are handed to C at once, roughly: 2 ms of work."""

LARGE = 4 * PIECE
_COUNT = 50_000
_FEW = 250
_BYTES = 3 * PIECE
_TEXT = 4 * PIECE
_WHITE = b"\n\t\r"
_LONE = b"\t"
_BACKSLASH = ord("\\")
_FIRST_TWO_BITS, _WITHIN = 0xC0, 0x80  # of UTF-8's bytes, and of those within a character


def dump(plain: Any) -> bytes:
    """Return the JSON of plain JSON, with marks where it is large."""
    return to_json(plain) if _size(plain) <= LARGE else b"".join(_pieces(plain, 0))


def load(data: bytes) -> Any:
    """Return what JSON says, cut at its marks if it has any; it may begin with a space.

    Raises:
        ValueError: It is damaged.
    """
    return from_json(data) if len(data) <= LARGE else _load(data.removeprefix(b" "), 0)


def is_marked(data: bytes) -> bool:
    """Tell whether JSON has marks."""
    return b"\n" in data[:4]


def unmarked(data: bytes) -> bytes:
    """Return JSON without its marks."""
    return data.translate(None, _WHITE) if is_marked(data) else data


def digest(plain: Any, size: int) -> str:
    """Return the fingerprint of the JSON of plain JSON, which has `size` bytes; see `fingerprint.digest`."""
    if size <= LARGE:
        return blake2b(to_json(plain), digest_size=16).hexdigest()
    found = blake2b(digest_size=16)
    for piece in _pieces(plain, 0):
        found.update(piece.translate(None, _WHITE))
    return found.hexdigest()


def digest_of(data: bytes, start: int) -> str:
    """Return the fingerprint of JSON that was dumped, from a byte on, without its marks."""
    if not is_marked(data):
        return blake2b(memoryview(data)[start:], digest_size=16).hexdigest()
    found = blake2b(digest_size=16)
    for at in range(start, len(data), PIECE):
        found.update(data[at : at + PIECE].translate(None, _WHITE))
    return found.hexdigest()


def equal(one: Any, other: Any, size: int) -> bool:
    """Tell whether two values of plain JSON are equal, whose JSON has `size` bytes; in pieces if these are many."""
    return one == other if size <= LARGE else _equal(one, other)


def all_of(kinds: frozenset[type[Any]], values: Collection[Any]) -> bool:
    """Tell whether values are of some classes, exactly."""
    if len(values) <= _COUNT:
        return kinds.issuperset(map(type, values))
    found = iter(values)
    return all(kinds.issuperset(map(type, islice(found, _COUNT))) for _ in range(0, len(values), _COUNT))


def as_set(kind: type[Any], items: list[Any]) -> Any:
    """Return a set of items."""
    if len(items) <= _COUNT:
        return kind(items)
    found = set[Any]()
    for start in range(0, len(items), _COUNT):
        found.update(items[start : start + _COUNT])
    return found if kind is set else kind(found)


def in_order(values: Collection[Any], key: Callable[[Any], Any] | None = None) -> list[Any]:
    """Return values sorted, as `sorted` does it."""
    if len(values) <= _COUNT:
        return sorted(values, key=key)
    found = iter(values)
    runs = [sorted(islice(found, _COUNT), key=key) for _ in range(0, len(values), _COUNT)]
    return list(heapq.merge(*runs, key=key))


def to_base64(data: bytes) -> str:
    """Return bytes as text."""
    parts = (data[start : start + _BYTES] for start in range(0, len(data), _BYTES))
    return "".join(binascii.b2a_base64(part, newline=False).decode() for part in parts)


def from_base64(text: str) -> bytes:
    """Return bytes from text; raises `ValueError`."""
    return b"".join(binascii.a2b_base64(text[start : start + _TEXT]) for start in range(0, len(text), _TEXT))


def _equal(one: Any, other: Any) -> bool:
    if type(one) is not type(other) or not isinstance(one, list | dict) or _size(cast("object", other)) <= PIECE:
        return one == other
    first, second = cast("list[Any] | dict[str, Any]", one), cast("list[Any] | dict[str, Any]", other)
    if len(first) != len(second):
        return False
    if isinstance(first, dict) or isinstance(second, dict):  # in the same order
        return _equal(list(first), list(second)) and _equal(_values(first), _values(second))
    if len(first) == 1:
        return _equal(first[0], second[0])
    return all(_equal(first[start:stop], second[start:stop]) for start, stop in _groups(second, 0, len(second)))


def _size(plain: object) -> int:
    """Estimate the bytes of JSON; of few entries by each of them, so that no large one among small ones is missed."""
    if not isinstance(plain, list | dict):
        return bulk(plain)
    entries = _values(cast("list[Any] | dict[str, Any]", plain))
    return sum(map(bulk, entries)) if len(entries) <= _FEW else bulk(cast("object", plain))


def _values(plain: list[Any] | dict[str, Any]) -> list[Any]:
    return list(plain.values()) if isinstance(plain, dict) else plain


# -- writing ----------------------------------------------------------------------------------------------------


def _pieces(plain: Any, depth: int) -> Generator[bytes]:
    if isinstance(plain, str) and len(plain) > PIECE:
        yield b'"'
        for start in range(0, len(plain), PIECE):
            yield to_json(plain[start : start + PIECE])[1:-1]
        yield b'"'
    elif isinstance(plain, list | dict) and plain and _size(cast("object", plain)) > PIECE:
        yield from _entries(cast("list[Any] | dict[str, Any]", plain), depth)
    else:
        yield to_json(plain)


def _entries(plain: list[Any] | dict[str, Any], depth: int) -> Generator[bytes]:
    """Yield the groups of a list or object, each behind a mark."""
    keys = list(plain) if isinstance(plain, dict) else None
    values = _values(plain)
    mark, before = _mark(depth), b"[" if keys is None else b"{"
    for start, stop in _groups(values, 0, len(values)):
        yield before + mark
        before = b","
        if stop - start == 1:
            yield _LONE if keys is None else to_json(keys[start]) + b":" + _LONE
            yield from _pieces(values[start], depth + 1)
        elif keys is None:
            yield to_json(values[start:stop])[1:-1]
        else:
            yield to_json(dict(zip(keys[start:stop], values[start:stop], strict=True)))[1:-1]
    yield mark + (b"]" if keys is None else b"}")


def _groups(values: list[Any], start: int, stop: int) -> Generator[tuple[int, int]]:
    """Yield where groups of consecutive values begin and end, each of about a piece, or of one value."""
    step = max(1, (stop - start) * PIECE // (_size(values[start:stop]) or 1))
    for first in range(start, stop, step):
        last = min(first + step, stop)
        if step < stop - start and last - first > 1 and _size(values[first:last]) > 2 * PIECE:
            yield from _groups(values, first, last)
        else:
            yield first, last


def _mark(depth: int) -> bytes:
    return b"\n" + b"\t" * depth + b"\r"


# -- reading ----------------------------------------------------------------------------------------------------


def _load(data: bytes, depth: int) -> Any:
    if data[:1] == b'"' and len(data) > LARGE:
        return "".join(_texts(data))
    mark = _mark(depth)
    if data[1 : 1 + len(mark)] != mark:
        return from_json(data)
    if data[:1] == b"[":
        items: list[Any] = []
        for part in _parts(data, mark, b"]"):
            items.extend([_load(part[1:], depth + 1)] if part[:1] == _LONE else from_json(b"[" + part + b"]"))
        return items
    fields: dict[str, Any] = {}
    for part in _parts(data, mark, b"}"):
        key, lone, value = part.partition(b":" + _LONE)
        fields.update({from_json(key): _load(value, depth + 1)} if lone else from_json(b"{" + part + b"}"))
    return fields


def _parts(data: bytes, mark: bytes, end: bytes) -> Iterable[bytes]:
    start = 1 + len(mark)
    while (stop := data.find(mark, start)) >= 0:
        yield data[start:stop].removesuffix(b",")
        start = stop + len(mark)
    if data[start:] != end:
        raise ValueError("it ends too early")


def _texts(data: bytes) -> Generator[str]:
    """Yield the parts of a text, cut neither in an escape nor in a character."""
    start, end = 1, len(data) - 1
    while start < end:
        stop = min(start + PIECE, end)
        while stop < end and not _may_cut(data, start, stop):
            stop += 1
        yield from_json(b'"' + data[start:stop] + (b'"' if stop < end else data[end:]))
        start = stop


def _may_cut(data: bytes, start: int, at: int) -> bool:
    if data[at] & _FIRST_TWO_BITS == _WITHIN:
        return False
    if b"\\" not in data[at - 5 : at]:  # the longest escape has six characters
        return True
    before = data[start:at]
    return data[at] == _BACKSLASH and (len(before) - len(before.rstrip(b"\\"))) % 2 == 0
