"""References to values, and streams to store."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

from flowstone_async.definition.keys import encode_key
from flowstone_async.io.base import Stored, ValueRef
from flowstone_async.types import AssetKey, new_id


def ref_of(type_: object, *, asset: str = "orders", partition: Any = None, stream: bool = False) -> ValueRef:
    """Return a reference to a value that is about to be stored."""
    return ValueRef(
        key=AssetKey("sales", asset, encode_key(partition)),
        partition=partition,
        materialization=new_id(),
        run_id="run",
        type=type_,
        stream=stream,
    )


def committed(ref: ValueRef, stored: Stored, payload: bytes | None = None) -> ValueRef:
    """Return the reference that the record of a stored value gives."""
    return ref._replace(location=stored.location, checksum=stored.checksum, payload=payload or stored.payload)


async def numbers(count: int) -> AsyncGenerator[int]:
    """Yield the numbers from 0."""
    for no in range(count):
        yield no
