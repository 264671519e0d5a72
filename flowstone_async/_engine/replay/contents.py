"""What an item holds, as a hash that is the same in every process: of its own type, where nobody has declared one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import Any, cast
from weakref import WeakKeyDictionary

from flowstone_async.errors import StorageError
from flowstone_async.io.codec import Codec, codec_for

_PLAIN = codec_for(None)
_CODECS: WeakKeyDictionary[type, Codec] = WeakKeyDictionary()
_DEEPEST = 50


def content_of(value: object) -> str | None:
    """Return a hash of what cannot change without being another value; None if anything in it cannot be stored."""
    try:
        return _hash(_parts(value, 0, strict=True))
    except StorageError:
        return None


def print_of_item(item: object) -> str:
    """Return a hash of an item. Whatever cannot be stored of it (a client, a connection) counts by its type alone."""
    return _hash(_parts(item, 0, strict=False))


def _hash(text: str) -> str:
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def _parts(value: object, depth: int, *, strict: bool) -> str:
    try:
        return f"plain {_PLAIN.prepare(value).fingerprint}"
    except StorageError:
        pass
    kind = type(value)
    name = f"{kind.__module__}.{kind.__qualname__}"
    if depth < _DEEPEST and kind in (list, tuple, set, frozenset, dict):
        return f"{name}({','.join(_inside(value, depth + 1, strict=strict))})"
    try:
        return f"{name} {_codec(kind).prepare(value).fingerprint}"
    except StorageError:
        if strict:
            raise
        return name


def _inside(value: Any, depth: int, *, strict: bool) -> Iterable[str]:
    if isinstance(value, Mapping):
        pairs = cast("Mapping[object, object]", value).items()
        return sorted(f"{_parts(k, depth, strict=strict)}:{_parts(v, depth, strict=strict)}" for k, v in pairs)
    parts = [_parts(each, depth, strict=strict) for each in value]
    return sorted(parts) if isinstance(value, set | frozenset) else parts


def _codec(kind: type) -> Codec:
    found = _CODECS.get(kind)
    if found is None:
        found = _CODECS[kind] = codec_for(kind)
    return found
