"""The port of I/O managers: where values live.

A value is written to a place of its own, named after its materialization, *before* the record that makes it visible
is committed; readers follow the record. A crash in between leaves nothing visible. A manager is given the identity
of the value (`ValueRef`) and never chooses what is current.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple, Protocol, TypeAlias, TypeVar, runtime_checkable

from flowstone_async.store.protocol import Values
from flowstone_async.types import AssetKey

T = TypeVar("T")

Recorded: TypeAlias = Callable[[Collection[str]], Awaitable[Collection[str]]]


class ValueRef(NamedTuple):
    """Which value is stored, loaded or deleted.

    Attributes:
        key: The asset key.
        partition: The partition key as a real object.
        materialization: Id of the materialization; unique to this computation.
        run_id: The run that computed it.
        type: The declared value type (of one item, for a stream), or None where there is none.
        stream: Whether the value is a stream of items.
        location: Where it was stored, in the manager's own words; empty when it is about to be stored.
        checksum: The checksum reported when it was stored.
        payload: Its encoded bytes, where they are at hand, so that nothing need be read.
        names: Names local to where the asset was defined, which annotations inside `type` may use; always the same
            object for an asset.
    """

    key: AssetKey
    partition: Any
    materialization: str
    run_id: str
    type: object
    stream: bool = False
    location: str = ""
    checksum: str | None = None
    payload: bytes | None = None
    names: Mapping[str, object] | None = None


class Stored(NamedTuple):
    """What a manager reports of a value it stored.

    Attributes:
        location: Where it lies, in the manager's own words; comes back in `ValueRef.location`.
        size: Bytes of the encoded value.
        checksum: Hash of the stored bytes, or None.
        fingerprint: Hash of the value, equal for equal values in any process; None if there is no stable one.
        payload: Bytes that the store shall commit together with the record, or None.
        table: Table of the store's database that shall hold the payload instead of the record; see `io.Postgres`.
        at: When it was stored, or None for the commit's own instant.
    """

    location: str
    size: int
    checksum: str | None = None
    fingerprint: str | None = None
    payload: bytes | None = None
    table: str | None = None
    at: datetime | None = None


class Swept(NamedTuple):
    """Values that no record names.

    Attributes:
        number: How many, drafts included.
        size: Their bytes.
    """

    number: int
    size: int


@runtime_checkable
class IOManager(Protocol):
    """Where values live. Write your own by giving these methods; `name` is how records call it.

    All of them may be called concurrently. `StorageError` with `retryable=True` is tried again twice by the engine,
    except when a stream was being stored: it cannot be read twice, so the manager itself tries each chunk again.
    """

    @property
    def name(self) -> str:
        """Identity of the manager and its place: two that share it read each other's values."""
        ...

    async def store(self, ref: ValueRef, value: Any) -> Stored:
        """Write a value to the place of its materialization; a repeated call replaces it.

        Args:
            ref: What it is.
            value: The value; an async iterator of items if `ref.stream`, to be read once and never held whole.

        Raises:
            StorageError: It cannot be encoded as its declared type, or written.
        """
        ...

    async def load(self, ref: ValueRef, want: type[T] | object) -> Any:
        """Return a copy of the value that belongs to the caller.

        Args:
            ref: What it is.
            want: The consumer's annotation, or None for the declared type.

        Raises:
            StorageError: Its bytes are missing or fail their checksum.
        """
        ...

    async def delete(self, ref: ValueRef) -> None:
        """Delete the value; harmless if it is gone."""
        ...

    def supports(self, type_: object) -> bool:
        """Tell whether values of a declared type can be stored."""
        ...


class StoreBound(Protocol):
    """A manager that keeps values in the engine's own store; the engine binds it before use."""

    def bound(self, values: Values, *, durable: bool) -> IOManager:
        """Return the manager for a store.

        Raises:
            ConfigError: It cannot be used on this store.
        """
        ...


class Signing(Protocol):
    """A manager that may have to sign what it stores; the engine gives it the keys before use."""

    def signed(self, key: bytes | Sequence[bytes]) -> IOManager:
        """Return the manager that signs with a key; of several, the first signs and all verify. None: no key.

        Raises:
            ConfigError: It needs a key, and there is none.
        """
        ...


class Publishing(Protocol):
    """A manager that shows a copy of the current value under a name of its own, after the commit."""

    async def publish(self, ref: ValueRef) -> None:
        """Publish a value that has just been committed as current."""
        ...


class Pinning(Protocol):
    """A manager that deletes at once, and can keep a value for a reader that was there before."""

    def pin(self, materialization: str) -> object | None:
        """Return what keeps a value loadable, also once it is deleted, for as long as the caller has it."""
        ...


@runtime_checkable
class Sweeping(Protocol):
    """A manager in whose place a dying process may leave values that no record names; upkeep has them deleted."""

    def owned(self, store: Callable[[], str | None]) -> IOManager:
        """Return the manager that keeps what it writes for one store apart from what it writes for others.

        Args:
            store: Returns `Store.identity`, which is known once the store is open. What is written while there is
                none may be anybody's, and is never swept.
        """
        ...

    async def is_due(self, every: float) -> bool:
        """Tell whether there is anything of the store's, and the last sweep ended `every` seconds ago or more."""
        ...

    async def sweep(self, recorded: Recorded, *, older_than: float, dry: bool = False) -> Swept:
        """Delete what was written for the store, is not being written, and is named by no record.

        Args:
            recorded: Returns those of some materializations that are on record; asked after they were found, so
                that the age of what is looked at covers the time from a value's writing to its commit.
            older_than: Seconds since it was written last, on the manager's own clock.
            dry: Delete nothing.

        Raises:
            StorageError: The place cannot be read, or something in it not be deleted.
        """
        ...
