"""Streams cut into chunks as they are produced, and put together again as they are read.

A chunk is kept in a frame, eight bytes of hash before its data, and the checksum of a stream is the hash over those
hashes: a damaged chunk is found before its items are handed out, a missing one at the end at the latest.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from hashlib import blake2b
from typing import Any, cast

import anyio

from flowstone_async.errors import FlowstoneError, StorageError
from flowstone_async.io.base import Stored, ValueRef
from flowstone_async.io.bulk import bulk, offload
from flowstone_async.io.codec import Codec
from flowstone_async.io.fingerprint import StreamFingerprint
from flowstone_async.io.value_errors import damaged, storage_error, whose

MOST_ITEMS = 1_000
MOST_BYTES = 256 * 1024
HASH_BYTES = 8

_PAUSES = (0.05, 0.2)


class Tally:
    """What was written of a stream so far.

    Attributes:
        size: Bytes of the encoded items.
        count: Number of items.
    """

    __slots__ = ("_fingerprint", "_frames", "count", "size")

    def __init__(self) -> None:
        self.size = 0
        self.count = 0
        self._frames = blake2b(digest_size=16)
        self._fingerprint: StreamFingerprint | None = StreamFingerprint()

    def add(self, data: bytes, canonical: bytes | None, count: int) -> None:
        """Take in an encoded chunk; without its canonical items the stream has no fingerprint."""
        self.size += len(data)
        self.count += count
        if canonical is None:
            self._fingerprint = None
        elif self._fingerprint is not None:
            self._fingerprint.update(canonical)

    def frame(self, data: bytes) -> bytes:
        """Return the frame that keeps a chunk's data."""
        check = _hash(data)
        self._frames.update(check)
        return check + data

    def checksum(self) -> str:
        """Return the checksum of all frames."""
        return self._frames.hexdigest()

    def fingerprint(self) -> str | None:
        """Return the fingerprint of all items, or None."""
        return None if self._fingerprint is None else self._fingerprint.hexdigest()


async def batches(ref: ValueRef, source: object) -> AsyncGenerator[list[Any]]:
    """Yield the items of a stream in lists of bounded length and size, as they come; the stream is closed at the end.

    Raises:
        StorageError: The value is no async iterator, or was read already.
    """
    async with _opened(ref, source) as items:
        batch: list[Any] = []
        size = 0
        async for item in items:
            batch.append(item)
            size += bulk(item)
            if len(batch) == MOST_ITEMS or size >= MOST_BYTES:
                yield batch
                batch, size = [], 0
        if batch:
            yield batch


@asynccontextmanager
async def _opened(ref: ValueRef, source: object) -> AsyncGenerator[AsyncIterator[Any]]:
    if not isinstance(source, AsyncIterable):
        found = f"a stream was declared, but the value is a {type(source).__name__}"
        raise storage_error(ref, found, hint="Yield the items in an async generator body, or return an async iterator.")
    items = cast("AsyncIterable[Any]", source).__aiter__()
    if inspect.isasyncgen(items) and items.ag_frame is None:
        raise storage_error(ref, "its stream was read already and cannot be read again", hint="Run the asset again.")
    async with _closed(items):
        yield items


async def encode_batch(ref: ValueRef, codec: Codec, batch: list[Any], first: int) -> tuple[bytes, bytes | None]:
    """Return a chunk's data and its canonical items.

    Args:
        ref: The stream.
        codec: The codec of its items.
        batch: Consecutive items.
        first: Index of the first of them in the stream.

    Raises:
        StorageError: An item does not fit; it is named by its index.
    """

    def encode() -> tuple[bytes, bytes | None]:
        try:
            data = codec.encode_chunk(batch)
        except StorageError as error:
            raise _item_error(ref, codec, batch, first, error) from error
        return data, codec.canonical_items(data)

    return await offload(bulk(batch), encode)


def _item_error(ref: ValueRef, codec: Codec, batch: list[Any], first: int, error: StorageError) -> StorageError:
    for index, item in enumerate(batch, first):
        try:
            codec.encode(item)
        except StorageError as found:
            return whose(ref, found, item=index)
    return whose(ref, error)


async def write_stream(
    ref: ValueRef,
    source: object,
    codec: Codec,
    *,
    location: str,
    pack: Callable[[bytes], bytes],
    keep: Callable[[int, bytes], Awaitable[None]],
) -> Stored:
    """Read a stream once and keep its frames one by one.

    Args:
        ref: The stream.
        source: Its items.
        codec: The codec of the items.
        location: Where the frames will be found.
        pack: Makes the data that is kept of an encoded chunk.
        keep: Keeps frame number `no`; called again, after a pause, when it raised a retryable error.

    Raises:
        StorageError: An item does not fit, or a frame could not be kept, also when tried again.
    """
    tally = Tally()
    no = 0
    async with aclosing(batches(ref, source)) as read:
        async for batch in read:
            data, canonical = await encode_batch(ref, codec, batch, tally.count)
            tally.add(data, canonical, len(batch))
            frame = tally.frame(await offload(len(data), pack, data))
            await _persistently(keep, no, frame)
            no += 1
    return Stored(location=location, size=tally.size, checksum=tally.checksum(), fingerprint=tally.fingerprint())


async def _persistently(keep: Callable[[int, bytes], Awaitable[None]], no: int, frame: bytes) -> None:
    for pause in _PAUSES:
        try:
            return await keep(no, frame)
        except FlowstoneError as error:
            if not error.retryable:
                raise
        await anyio.sleep(pause)
    return await keep(no, frame)


async def read_stream(
    ref: ValueRef, codec: Codec, frames: AsyncIterator[bytes], *, unpack: Callable[[bytes], bytes], where: str
) -> AsyncGenerator[Any]:
    """Yield the items of a stream from its frames, which are closed at the end.

    Raises:
        StorageError: A frame is damaged or missing, or does not fit the declared type.
    """
    checks = blake2b(digest_size=16)
    async with _closed(frames):
        async for frame in frames:
            checks.update(frame[:HASH_BYTES])
            for item in await offload(len(frame), _items, ref, codec, frame, unpack, where):
                yield item
    if ref.checksum is not None and checks.hexdigest() != ref.checksum:
        raise damaged(ref, where, "chunks of the stream are missing")


def _items(ref: ValueRef, codec: Codec, frame: bytes, unpack: Callable[[bytes], bytes], where: str) -> list[Any]:
    data = frame[HASH_BYTES:]
    if _hash(data) != frame[:HASH_BYTES]:
        raise damaged(ref, where, "a chunk of the stream fails its checksum")
    try:
        return codec.decode_chunk(unpack(data))
    except StorageError as error:
        raise whose(ref, error) from error


@asynccontextmanager
async def _closed(iterator: AsyncIterator[object]) -> AsyncGenerator[None]:
    """Close an iterator in the end, if it can be closed, as generators can."""
    try:
        yield
    finally:
        close: Callable[[], Awaitable[None]] | None = getattr(iterator, "aclose", None)
        if close is not None:
            await close()


def _hash(data: bytes) -> bytes:
    return blake2b(data, digest_size=HASH_BYTES).digest()
