"""How large a value is, roughly, and work on large ones kept off the event loop."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from itertools import islice
from types import NoneType
from typing import Any, TypeVar, TypeVarTuple, cast
from uuid import UUID

from anyio import to_thread

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

LARGE = 100_000
"""Bytes from which encoding and decoding are worth a thread: a hand-over costs 0.1 ms, 100 KB take 1 to 5 ms."""

_SMALL: Mapping[type, int] = {
    NoneType: 4,
    bool: 5,
    int: 8,
    float: 12,
    date: 12,
    datetime: 32,
    time: 16,
    timedelta: 12,
    Decimal: 16,
    UUID: 38,
    complex: 24,
}
_KEY = 12
_TEXTS = (str, bytes, bytearray)
_SLICED = (list, tuple)
_SEQUENCES = (list, tuple, set, frozenset)
_SAMPLES = (24, 8, 4, 2)


async def offload(size: int, work: Callable[[*Ts], T], *args: *Ts) -> T:
    """Return `work(*args)`, done in a thread if `size` is large.

    A caller that is cancelled does not wait for the thread, so the work must have no effect but its result.
    """
    if size < LARGE:
        return work(*args)
    return await to_thread.run_sync(work, *args, abandon_on_cancel=True)


def bulk(value: object) -> int:
    """Estimate the bytes of a value's encoded form, from a bounded number of its parts."""
    return _SMALL.get(type(value)) or _bulk(value, 0)


def _bulk(value: object, depth: int) -> int:
    if isinstance(value, _TEXTS):
        return len(value) + 3
    if depth == len(_SAMPLES):
        return sys.getsizeof(value, 64)
    if isinstance(value, _SEQUENCES):
        return _mean(cast("Collection[object]", value), depth)
    if isinstance(value, dict):
        return _entries(cast("dict[object, object]", value), depth)
    if hasattr(value, "__dict__"):
        return _entries(value.__dict__, depth)
    if dataclasses.is_dataclass(value):
        return _mean([getattr(value, each.name, None) for each in dataclasses.fields(value)], depth)
    return sys.getsizeof(value, 64)


def _entries(fields: Mapping[Any, object], depth: int) -> int:
    return _KEY * len(fields) + _mean(fields.values(), depth)


def _mean(parts: Collection[object], depth: int) -> int:
    """Return the bytes of all parts, going by a few of them, evenly spaced where that is cheap."""
    count = len(parts)
    most = _SAMPLES[depth]
    sample: Iterable[object] = parts
    if count > most:
        sample = parts[:: count // most + 1] if isinstance(parts, _SLICED) else islice(parts, most)
    known = _SMALL.get
    size = seen = 0
    for part in sample:
        seen += 1
        size += known(type(part)) or _bulk(part, depth + 1)
    return size if seen == count else size * count // seen
