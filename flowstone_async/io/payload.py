"""Encoded values as the store keeps them: compressed where that is worth it, told by the first byte."""

from __future__ import annotations

import zlib

COMPRESS_FROM = 64 * 1024

_ZLIB = b"Z"
"""No format of a codec begins with it, so that what was not compressed stays as it was encoded."""

_WORTH = 0.9
_LEVEL = 1


def pack(data: bytes) -> bytes:
    """Return an encoded value, compressed if it is above 64 KiB and becomes a tenth smaller at least."""
    if len(data) <= COMPRESS_FROM:
        return data
    packed = _ZLIB + zlib.compress(data, _LEVEL)
    return packed if len(packed) < _WORTH * len(data) else data


def is_packed(payload: bytes) -> bool:
    """Tell whether a payload is compressed."""
    return payload[:1] == _ZLIB


def unpack(payload: bytes) -> bytes:
    """Return the encoded value of a payload.

    Raises:
        ValueError: The payload is damaged.
    """
    if not is_packed(payload):
        return payload
    try:
        return zlib.decompress(memoryview(payload)[1:])
    except zlib.error as error:
        raise ValueError(str(error)) from error
