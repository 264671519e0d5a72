"""Values in the memory of this process."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from types import NoneType
from typing import Any, Literal, TypeVar, cast
from uuid import UUID
from weakref import WeakValueDictionary

from typing_extensions import override

from flowstone_async.config import switch
from flowstone_async.definition.stream import Stream
from flowstone_async.errors import ConfigError, StorageError
from flowstone_async.io.base import IOManager, Stored, ValueRef
from flowstone_async.io.bulk import LARGE, bulk, offload
from flowstone_async.io.chunks import Tally, batches, encode_batch
from flowstone_async.io.codec import Codec
from flowstone_async.io.copying import copy_value
from flowstone_async.io.encoder import Encoder, Format
from flowstone_async.io.value_errors import missing, undeclared, whose
from flowstone_async.types import new_id

_IMMUTABLE = frozenset(
    {NoneType, bool, int, float, complex, str, bytes, date, datetime, time, timedelta, Decimal, UUID}
)

T = TypeVar("T")

_Way = Literal["same", "encoded", "copied"]


class _Held:
    """A value, or one chunk of a stream, and how a reader gets it: as it is, decoded, or as a deep copy."""

    __slots__ = ("__weakref__", "content", "way")

    def __init__(self, way: _Way, content: object) -> None:
        self.way: _Way = way
        self.content: Any = content


class _Chunks(list[_Held]):
    """The chunks of a stream."""


class Memory(IOManager):
    """Keeps values in this object, for as long as it lives; nothing survives the process.

    It takes any object. Values of a type that can be encoded are checked against it and kept encoded, others are
    copied by `copy.deepcopy`.

    Args:
        copy: Whether each reader gets a copy of its own. Without, all of them share one object, which none may change.
        format: `"json"`, or `"pickle"` to copy by pickling.
        name: Identity of the place in records. By default no two objects share one.

    Example:
        >>> report = await pipe.run(monthly, io=io.Memory())  # leaves no trace in the store's own values
    """

    def __init__(self, *, copy: bool = True, format: Format = "json", name: str | None = None) -> None:  # noqa: A002 # the option's name
        self._copy = switch(copy, what="io.Memory: copy")
        if name is not None and not isinstance(name, str):
            raise ConfigError(f"io.Memory(name={name!r})", hint="Give a name, as text.")
        self._name = name or f"memory:{new_id()}"
        # What was pickled here never leaves the process, so that a key of its own will do.
        self._encoder = Encoder(format, (secrets.token_bytes(32),))
        self._values: dict[str, _Held] = {}
        self._streams: dict[str, _Chunks] = {}
        # What was deleted while somebody held it.
        self._let_go: WeakValueDictionary[str, _Held | _Chunks] = WeakValueDictionary()

    @property
    def encoder(self) -> Encoder:
        """What encodes its values."""
        return self._encoder

    @property
    @override
    def name(self) -> str:
        return self._name

    @override
    def supports(self, type_: object) -> bool:
        return True

    @override
    async def store(self, ref: ValueRef, value: Any) -> Stored:
        if ref.stream:
            return await self._store_stream(ref, value)
        size = bulk(value)
        held, stored = self._hold(ref, value) if size < LARGE else await offload(size, self._hold, ref, value)
        self._values[ref.materialization] = held
        return stored

    @override
    async def load(self, ref: ValueRef, want: object) -> Any:
        if ref.stream:
            return self._load_stream(ref)
        held = self.pin(ref.materialization)
        if not isinstance(held, _Held):
            raise missing(ref, self._name)
        if held.way == "same":
            return held.content
        if held.way == "encoded" and len(held.content) < LARGE:
            return self._decode(ref, held)
        if held.way == "encoded":
            return await offload(len(held.content), self._decode, ref, held)
        return await offload(bulk(held.content), _copied, ref, held.content)

    @override
    async def delete(self, ref: ValueRef) -> None:
        held = self._values.pop(ref.materialization, None) or self._streams.pop(ref.materialization, None)
        if held is not None:
            self._let_go[ref.materialization] = held

    def pin(self, materialization: str) -> object | None:
        """Return what keeps a value loadable, also once it is deleted, for as long as the caller has it."""
        held: object = self._values.get(materialization)
        if held is None and materialization in self._streams:
            held = self._streams[materialization]
        return self._let_go.get(materialization) if held is None and self._let_go else held

    def _hold(self, ref: ValueRef, value: object) -> tuple[_Held, Stored]:
        codec = self._encoder.codec(ref.type, ref.names)
        try:
            encoded = codec.prepare(value)
        except StorageError as error:
            return self._unencoded(ref, codec, value, error), Stored(location=self._name, size=0)
        loaded = encoded.value
        if not self._copy:
            held = _Held("same", value)
        elif type(loaded) in _IMMUTABLE or isinstance(loaded, Enum):
            held = _Held("same", loaded)
        else:
            held = _Held("encoded", encoded.data)
        return held, Stored(location=self._name, size=len(encoded.data), fingerprint=encoded.fingerprint)

    def _unencoded(self, ref: ValueRef, codec: Codec, value: object, error: StorageError) -> _Held:
        """Hold what cannot be encoded, unless it should be: a value that does not fit its type is refused."""
        if codec.supports() is None and not undeclared(ref, error):
            raise whose(ref, error) from error
        return _Held("copied", _copied(ref, value)) if self._copy else _Held("same", value)

    def _decode(self, ref: ValueRef, held: _Held) -> object:
        try:
            return self._encoder.codec(ref.type, ref.names).decode(held.content)
        except StorageError as error:
            raise whose(ref, error) from error

    async def _store_stream(self, ref: ValueRef, source: object) -> Stored:
        codec = self._encoder.codec(ref.type, ref.names)
        chunks = _Chunks()
        tally = Tally()
        async with aclosing(batches(ref, source)) as read:
            async for batch in read:
                data, canonical = b"", None
                try:
                    data, canonical = await encode_batch(ref, codec, batch, tally.count)
                except StorageError as error:
                    chunk = self._unencoded(ref, codec, batch, error)
                else:
                    chunk = _Held("encoded", data) if self._copy else _Held("same", batch)
                tally.add(data, canonical, len(batch))
                chunks.append(chunk)
        self._streams[ref.materialization] = chunks
        return Stored(location=self._name, size=tally.size, fingerprint=tally.fingerprint())

    def _load_stream(self, ref: ValueRef) -> Stream[Any]:
        chunks = self.pin(ref.materialization)
        if not isinstance(chunks, _Chunks):
            raise missing(ref, self._name)

        async def read() -> AsyncGenerator[Any]:
            for chunk in chunks:
                for item in await self._items(ref, chunk):
                    yield item

        return Stream(read)

    async def _items(self, ref: ValueRef, chunk: _Held) -> list[Any]:
        if chunk.way == "same":
            return chunk.content
        if chunk.way == "copied":
            return await offload(bulk(chunk.content), _copied, ref, chunk.content)
        return await offload(len(chunk.content), self._decode_chunk, ref, chunk.content)

    def _decode_chunk(self, ref: ValueRef, data: bytes) -> list[Any]:
        try:
            return self._encoder.codec(ref.type, ref.names).decode_chunk(data)
        except StorageError as error:
            raise whose(ref, error) from error


def _copied(ref: ValueRef, value: T) -> T:
    try:
        return cast("T", copy_value(value))
    except StorageError as error:
        raise whose(ref, error) from error
