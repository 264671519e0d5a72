"""Items, keys and results as bytes, many at a time; one alone only where the whole cannot be encoded."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from types import UnionType
from typing import Any, NamedTuple, Union, cast, get_args, get_origin

from pydantic_core import to_json

from flowstone_async.definition.assignable import bare, union_of
from flowstone_async.definition.item import Item, frozen, thawed
from flowstone_async.errors import StorageError
from flowstone_async.io import pieces
from flowstone_async.io.codec import Codec, codec_for

LONGEST_KEY = 1024
LARGEST = 256 << 20
"""Bytes of the largest value that is kept, as `io.Postgres` has it."""
_PLAIN = (None, object, Any, Item, Mapping, dict)


class Packed(NamedTuple):
    """Values made ready to be stored.

    Attributes:
        data: All that can be stored.
        values: Those, as a reader would load them.
        places: Where each of them was.
        refused: Places of the others, with the reason.
    """

    data: bytes
    values: list[Any]
    places: list[int]
    refused: dict[int, StorageError]


class Packer:
    """Encodes values of one type.

    Args:
        annotation: Their type; None where it is not known.
        names: Names local to where the annotation was written.
    """

    def __init__(self, annotation: object, names: Mapping[str, object] | None) -> None:
        plain = bare(annotation)
        declared = None if plain in _PLAIN or (get_origin(plain) or plain) is Mapping else annotation
        self._codec: Codec = _codec_for(declared, names)

    def pack(self, values: Sequence[Any]) -> Packed:
        """Encode values, leaving out those that do not fit."""
        given = list(values)
        try:
            data = self._codec.encode_chunk(given)
        except StorageError:
            return self._one_by_one(given)
        return Packed(data, given, list(range(len(given))), {}) if len(data) <= LARGEST else self._one_by_one(given)

    def _one_by_one(self, values: list[Any]) -> Packed:
        refused: dict[int, StorageError] = {}
        places: list[int] = []
        for place, value in enumerate(values):
            try:
                size = len(self._codec.encode_chunk([value]))
            except StorageError as error:
                refused[place] = self._reason(value, error)
                continue
            if size > LARGEST:
                refused[place] = _too_large(size)
            else:
                places.append(place)
        kept = [values[place] for place in places]
        return Packed(self._codec.encode_chunk(kept), kept, places, refused)

    def _reason(self, value: object, error: StorageError) -> StorageError:
        """Return why a value does not fit: said of it alone, not of the first of several."""
        try:
            self._codec.prepare(value)
        except StorageError as alone:
            return alone
        return error

    def unpack(self, data: bytes) -> list[Any]:
        """Return the values that were encoded.

        Raises:
            StorageError: They are damaged, or do not fit the type any more.
        """
        return self._codec.decode_chunk(data)

    def plain(self, data: bytes) -> list[Any]:
        """Return what was encoded as plain JSON values, equal for equal values."""
        return self._codec.canonical_list(data)

    def rows(self, data: bytes) -> list[str]:
        """Return the values that were encoded as JSON text, each by itself."""
        plain = self._codec.parse(data)
        if len(data) <= pieces.LARGE:
            return [to_json(each).decode() for each in plain]
        return [pieces.dump([each])[1:-1].decode() for each in plain]

    def of_rows(self, rows: Sequence[str]) -> list[Any]:
        """Return the values of rows; raises as `unpack` does."""
        if sum(map(len, rows)) <= pieces.LARGE and not any(row.startswith("\n") for row in rows):
            return self.unpack(f" [{','.join(rows)}]".encode())
        return [self.unpack(f" [{row}]".encode())[0] for row in rows]


def _codec_for(declared: object, names: Mapping[str, object] | None) -> Codec:
    """Return a codec; of a union, for those of its types that can be stored, if not all can: only the others fail."""
    codec = codec_for(declared, names=names)
    plain = bare(declared)
    if codec.supports() is None or get_origin(plain) not in (Union, UnionType):
        return codec
    stored = [each for each in get_args(plain) if codec_for(each, names=names).supports() is None]
    return codec_for(union_of(stored), names=names) if stored else codec


def _too_large(size: int) -> StorageError:
    return StorageError(
        f"the value has {size:,} bytes as it is stored; a scatter keeps {LARGEST:,} of each at most",
        hint="Keep it elsewhere, and let the value say where.",
    )


class Items:
    """The items of a scatter as its body receives them, and as they are stored.

    Args:
        annotation: The type that items arrive as; None where it is not known.
        names: Names local to where it was written.
    """

    def __init__(self, annotation: object, names: Mapping[str, object] | None) -> None:
        self._packer = Packer(annotation, names)

    def pack(self, items: Sequence[Any]) -> Packed:
        """Encode the items of a page. Mappings among them come back as `Item`."""
        given = items
        if _among(items, Item):
            given = [thawed(item) if isinstance(item, Item) else item for item in items]
        packed = self._packer.pack(given)
        return packed._replace(values=_frozen(packed.values))

    def contents(self, packed: Packed) -> list[bytes]:
        """Return what identifies each item that could be encoded: equal for equal items, in any order of their keys."""
        return [to_json(each) for each in self._packer.plain(packed.data)]

    def page(self, packed: Packed, size: int) -> bytes:
        """Return the bytes of a page of `size` items: the places left out, then the items."""
        left_out = sorted(set(range(size)).difference(packed.places)) if len(packed.places) < size else []
        return json.dumps(left_out).encode() + b"\n" + packed.data

    def unpack(self, page: bytes) -> dict[int, Any]:
        """Return the items of a page by their places."""
        head, data = page.split(b"\n", 1)
        left_out = frozenset(cast("list[int]", json.loads(head)))
        items = self.values(data)
        places = (place for place in range(len(items) + len(left_out)) if place not in left_out)
        return dict(zip(places, items, strict=True))

    def values(self, data: bytes) -> list[Any]:
        """Return items that were encoded."""
        return _frozen(self._packer.unpack(data))


def _among(values: Sequence[Any], kind: type) -> bool:
    """Tell whether any of many values is of a type: asked of their few types, since asking an ABC is slow."""
    return any(issubclass(each, kind) for each in set(map(type, values)))


def _frozen(values: list[Any]) -> list[Any]:
    """Return items as bodies receive them: mappings as `Item`."""
    if not _among(values, Mapping):
        return values
    return [frozen(value) if isinstance(value, Mapping) else value for value in values]


def hash_of(content: bytes) -> str:
    """Return the hash that stands for a key, as 32 hex digits (BLAKE2b; a collision among 10^9 keys: below 10^-20)."""
    return blake2b(content, digest_size=16).hexdigest()


def content_of(key: object) -> bytes:
    """Return what identifies an explicit key.

    Raises:
        ValueError: It is too long, or no plain value.
    """
    content = content_of_any(key)
    if len(content) > LONGEST_KEY:
        raise ValueError(f"the key is {len(content):,} bytes long, and may be {LONGEST_KEY:,}")
    return content


def content_of_any(key: object) -> bytes:
    """Return what identifies a key that may be those of many items, of any length.

    Raises:
        ValueError: It is no plain value.
    """
    try:
        return to_json(key)
    except Exception as error:
        raise ValueError(f"the key is {type(key).__name__}: give text, a number, or a tuple of them") from error


def as_key(plain: Any) -> Any:
    """Return a stored key as it was given: what was a tuple is one again."""
    return tuple(map(as_key, cast("list[Any]", plain))) if isinstance(plain, list) else plain
