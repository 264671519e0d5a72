"""The I/O managers the contract is tried on, each with a store that commits what it stored."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Any

from flowstone_async.definition.keys import encode_key
from flowstone_async.definition.stream import Stream
from flowstone_async.io.base import IOManager, Stored, ValueRef
from flowstone_async.types import AssetKey
from tests.contract.builders import PIPELINE, Drive, completed, identifier, materialization
from tests.contract.stores import Engine


@dataclass(kw_only=True)
class Place:
    """A manager, and an engine that commits.

    Attributes:
        pickling: The same place with `format="pickle"`.
        dsn: Its database, if it has one.
    """

    manager: IOManager
    engine: Engine
    pickling: IOManager
    dsn: str = ""
    _drive: Drive | None = field(default=None, init=False)

    def ref(self, type_: object, *, asset: str = "numbers", partition: Any = None, stream: bool = False) -> ValueRef:
        """Return a reference to a value that is about to be stored."""
        return ValueRef(
            key=AssetKey(PIPELINE, asset, encode_key(partition)),
            partition=partition,
            materialization=identifier(),
            run_id="",
            type=type_,
            stream=stream,
        )

    async def commit(self, ref: ValueRef, stored: Stored) -> ValueRef:
        """Make a stored value current, and return the reference that its record gives."""
        if self._drive is None:
            self._drive = await self.engine.start()
        answer = await self._drive.advance(claims=(ref.key,))
        assert answer.claims[ref.key].granted
        made = materialization(
            ref.key,
            self._drive.id,
            id=ref.materialization,
            location=stored.location,
            size=stored.size,
            checksum=stored.checksum,
            fingerprint=stored.fingerprint or ref.materialization,
        )
        answer = await self._drive.advance(done=(completed(made, payload=stored.payload, table=stored.table),))
        assert answer.accepted
        return ref._replace(location=stored.location, checksum=stored.checksum)

    async def keep(self, value: object, type_: object, **facts: Any) -> ValueRef:
        """Store and commit a value."""
        ref = self.ref(type_, **facts)
        return await self.commit(ref, await self.manager.store(ref, value))

    async def keep_stream(self, items: AsyncGenerator[Any], type_: object) -> ValueRef:
        """Store and commit a stream."""
        return await self.keep(items, type_, stream=True)

    async def load(self, ref: ValueRef) -> Any:
        """Load a value as declared."""
        return await self.manager.load(ref, None)

    async def items(self, ref: ValueRef) -> list[Any]:
        """Load a stream and read it whole."""
        stream = await self.load(ref)
        assert isinstance(stream, Stream)
        return [item async for item in stream]
