"""Values in the store's own database, committed in one transaction with their record."""

from __future__ import annotations

import copy
import logging
import re
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress
from typing import Any, Self

import anyio
from typing_extensions import override

from flowstone_async.config import switch, whole
from flowstone_async.definition.stream import Stream
from flowstone_async.errors import ConfigError, FlowstoneError, StorageError
from flowstone_async.io.base import IOManager, Stored, ValueRef
from flowstone_async.io.bulk import LARGE, bulk, offload
from flowstone_async.io.chunks import read_stream, write_stream
from flowstone_async.io.encoder import Encoder, Format
from flowstone_async.io.fingerprint import digest
from flowstone_async.io.payload import is_packed, pack, unpack
from flowstone_async.io.value_errors import damaged, missing, storage_error, whose
from flowstone_async.store.protocol import Values

WARN_FROM = 1024 * 1024

_CLEANUP_SECONDS = 5
_NAME = re.compile(r"[A-Za-z0-9_]{1,63}(\.[A-Za-z0-9_]{1,63})?")
_logger = logging.getLogger("flowstone")


class Postgres(IOManager):
    """Keeps values in the engine's own database; the default of a durable store.

    Args:
        table: `table` or `schema.table` of your own to keep values in, made if need be: one row for each pipeline,
            asset and partition, replaced by each commit. By default values lie beside their records.
        compress: Whether values above 64 KiB are compressed.
        max_bytes: Largest encoded value that is taken, in bytes. A stream may be larger, a chunk of it may not.
        format: `"json"`, or `"pickle"`, which takes any picklable object and needs `Engine(secret=...)`.

    Raises:
        ConfigError: `table` is no name of a table, or another option is wrong.

    Example:
        >>> @pipe.asset(io=io.Postgres(table="analytics.users"))
        ... async def users() -> list[User]: ...
    """

    def __init__(
        self,
        table: str | None = None,
        *,
        compress: bool = True,
        max_bytes: int = 256 * 1024 * 1024,
        format: Format = "json",  # noqa: A002 # the option's name
    ) -> None:
        if table is not None and not (isinstance(table, str) and _NAME.fullmatch(table)):
            raise ConfigError(
                f"io.Postgres(table={table!r}) is no name of a table",
                hint="Use letters, digits and underscores, with at most one dot: `table` or `schema.table`.",
            )
        switch(compress, what="io.Postgres: compress")
        whole(max_bytes, what="io.Postgres: max_bytes")
        self._table = table
        self._compress = compress
        self._max_bytes = max_bytes
        self._encoder = Encoder(format)
        self._values: Values | None = None
        self._prepared = False
        self._warned: set[tuple[str, str]] = set()

    @property
    def encoder(self) -> Encoder:
        """What encodes its values."""
        return self._encoder

    @property
    @override
    def name(self) -> str:
        return "postgres" if self._table is None else f"postgres:{self._table}"

    def bound(self, values: Values, *, durable: bool) -> Self:
        """Return this manager on a store's values.

        Raises:
            ConfigError: The store is a memory store.
        """
        if not durable:
            raise ConfigError(
                "io.Postgres keeps values in the engine's database, but the store is a memory store",
                hint='Use io.Memory() or io.Files(), or Engine(store="embedded").',
            )
        return self._with(_values=values, _prepared=False)

    def signed(self, key: bytes | Sequence[bytes]) -> Self:
        """Return this manager with the keys that sign pickles; see `Signing`."""
        return self._with(_encoder=self._encoder.signed(key))

    @override
    def supports(self, type_: object) -> bool:
        return self._encoder.codec(type_).supports() is None

    @override
    async def store(self, ref: ValueRef, value: Any) -> Stored:
        if ref.stream:
            return await self._store_stream(ref, value)
        await self._store_values()
        return await offload(bulk(value), self._encode, ref, value)

    @override
    async def load(self, ref: ValueRef, want: object) -> Any:
        if ref.stream:
            return self._load_stream(ref, await self._store_values())
        payload = ref.payload
        if payload is None:
            payload = await self._payload(ref)
        size = LARGE if is_packed(payload) else len(payload)
        return await offload(size, self._decode, ref, payload)

    @override
    async def delete(self, ref: ValueRef) -> None:
        values = await self._store_values()
        if self._table is not None:
            await values.delete_from_table(self._table, ref.materialization, ref.key)
        else:
            await values.delete((ref.materialization,))

    def _with(self, **changes: object) -> Self:
        made = copy.copy(self)
        vars(made).update(changes)
        return made

    async def _store_values(self) -> Values:
        values = self._values
        if values is None:
            raise ConfigError("io.Postgres was used without an engine", hint="Give it to a pipeline, engine or call.")
        if self._table is not None and not self._prepared:
            await values.prepare_table(self._table)
            self._prepared = True
        return values

    def _where(self, ref: ValueRef) -> str:
        return self._table or f"payload {ref.materialization}"

    def _encode(self, ref: ValueRef, value: object) -> Stored:
        try:
            encoded = self._encoder.codec(ref.type, ref.names).prepare(value)
        except StorageError as error:
            raise whose(ref, error) from error
        size = len(encoded.data)
        self._check_size(ref, size, "its value has")
        if size > WARN_FROM:
            self._warn(ref, size)
        payload = self._pack(encoded.data)
        return Stored(
            location=self._where(ref),
            size=size,
            checksum=digest(payload),
            fingerprint=encoded.fingerprint,
            payload=payload,
            table=self._table,
        )

    def _pack(self, data: bytes) -> bytes:
        return pack(data) if self._compress else data

    def _check_size(self, ref: ValueRef, size: int, what: str) -> None:
        if size > self._max_bytes:
            raise storage_error(
                ref,
                f"{what} {_megabytes(size)}, more than io.Postgres(max_bytes={self._max_bytes}) takes",
                hint="Keep it with io.Files, io.S3 or io.Parquet, or yield it as a stream.",
            )

    def _warn(self, ref: ValueRef, size: int) -> None:
        asset = (ref.key.pipeline, ref.key.asset)
        if asset not in self._warned:
            self._warned.add(asset)
            _logger.warning(
                "asset %r keeps a value of %s in Postgres; io.Files, io.S3 or io.Parquet hold large values better,"
                " as does yielding them as a stream",
                ".".join(asset),
                _megabytes(size),
            )

    async def _payload(self, ref: ValueRef) -> bytes:
        values = await self._store_values()
        if self._table is None:
            payload = await values.payload(ref.materialization)
            if payload is None:
                raise missing(ref, ref.location or self._where(ref))
            return payload
        row = await values.table_payload(self._table, ref.key)
        if row is None:
            raise missing(ref, f"table {self._table}")
        if row[0] != ref.materialization:
            raise missing(ref, f"table {self._table}, which keeps only the current value")
        return row[1]

    def _decode(self, ref: ValueRef, payload: bytes) -> object:
        if ref.checksum is not None and digest(payload) != ref.checksum:
            raise damaged(ref, ref.location or self._where(ref), "it fails its checksum")
        try:
            return self._encoder.codec(ref.type, ref.names).decode(unpack(payload))
        except StorageError as error:
            raise whose(ref, error) from error
        except ValueError as error:
            raise damaged(ref, ref.location or self._where(ref), str(error)) from error

    async def _store_stream(self, ref: ValueRef, source: object) -> Stored:
        if self._table is not None:
            raise storage_error(
                ref,
                "it is a stream, and io.Postgres(table=...) keeps a value in one row",
                hint="Use io.Postgres() or io.Files() for it.",
            )
        values = await self._store_values()

        async def keep(no: int, frame: bytes) -> None:
            self._check_size(ref, len(frame), f"chunk {no} of its stream has")
            await values.append_chunk(ref.materialization, no, frame)

        codec = self._encoder.codec(ref.type, ref.names)
        try:
            await values.delete((ref.materialization,))  # chunks of an earlier try
            return await write_stream(ref, source, codec, location=self._where(ref), pack=self._pack, keep=keep)
        except BaseException:
            with anyio.move_on_after(_CLEANUP_SECONDS, shield=True), suppress(FlowstoneError):
                await values.delete((ref.materialization,))
            raise

    def _load_stream(self, ref: ValueRef, values: Values) -> Stream[Any]:
        codec = self._encoder.codec(ref.type, ref.names)

        def read() -> AsyncGenerator[Any]:
            frames = values.chunks(ref.materialization)
            return read_stream(ref, codec, frames, unpack=unpack, where=ref.location or self._where(ref))

        return Stream(read)


def _megabytes(size: int) -> str:
    return f"{size / 1024 / 1024:,.1f} MiB"
