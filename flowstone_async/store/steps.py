"""The store's port for durable steps: what the durable calls of a body have returned, for a body that runs again.

docs/adr/0010-waiting.md says what a body and a key are. The obligations of `protocol.py` hold here too. Values and
hashes are the engine's: the store compares only keys and attempts.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import AbstractAsyncContextManager
from typing import NamedTuple, Protocol

from flowstone_async.errors import Failure


class StepRecord(NamedTuple):
    """A durable call of a body that has a result.

    Attributes:
        key: `path/name#n`; unique in its body.
        path: Of its scope; empty for the body itself.
        place: Among the calls of its scope, from 0.
        seen: In which order the body observed results, from 0.
        attempt: Of the asset.
        kind: What call it is: `step`, `now`, `uuid`, `random`, …
        function: Its module and name, for people and to find out what has changed.
        arguments: A hash of the arguments; empty where there are none to compare.
        value: The result as bytes; None where it failed.
        error: Why it failed.
    """

    key: str
    path: str
    place: int
    seen: int
    attempt: int
    kind: str
    function: str
    arguments: str
    value: bytes | None
    error: Failure | None = None


class AlreadyRecorded(Exception):
    """A step has a result on record: who has computed another one in a transaction must not commit it."""


def replaces(step: StepRecord, known: StepRecord) -> bool:
    """Tell whether a step takes the place of one that is on record under its key."""
    return known.error is not None and known.attempt < step.attempt


class StepTransaction(Protocol):
    """A transaction on the engine's database, under the fence of a run."""

    @property
    def connection(self) -> object:
        """What user code writes with: a connection of asyncpg, in the transaction, for as long as that lasts."""
        ...

    async def record(self, step: StepRecord) -> None:
        """Put the step's result on record in the transaction, once; nothing else is done in it afterwards.

        Raises:
            AlreadyRecorded: It has a result, of an earlier call of which the reply was lost: `Steps.recorded` tells it.
            LeaseLost: The run is not the caller's any more.
            ConfigError: User code has ended the transaction itself.
            StorageError: A statement of user code failed, and it went on; or the step cannot be stored.
            StoreUnavailable: The database cannot be used.

        Whatever it raises, leave the transaction with it.
        """
        ...


class Steps(Protocol):
    """What bodies have on record. A body is a uuid as text."""

    async def record(self, run_id: str, fence: int, body: str, steps: Sequence[StepRecord]) -> bool:
        """Put results on record, all of them or none.

        A record of the same key that failed in an earlier attempt is replaced; any other stays as it is, so that
        repeating a call is harmless. Concurrent calls share statements.

        Returns:
            False if the run is not the caller's any more (another fence, ended, its worker dead): nothing is written.
        """
        ...

    async def drop(self, run_id: str, fence: int, body: str, keys: Collection[str]) -> bool:
        """Take some of what a body has on record off it. Repeating a call is harmless.

        Returns:
            False if the run is not the caller's any more: nothing is dropped.
        """
        ...

    async def recorded(self, run_id: str, body: str) -> tuple[StepRecord, ...]:
        """Return all that a body has on record, in the order of `seen`."""
        ...

    def transaction(self, run_id: str, fence: int, body: str) -> AbstractAsyncContextManager[StepTransaction]:
        """Write of user code and the record of its step: they commit together when this is left, or not at all.

        From its beginning to its end nobody else can cancel, end or take the run. Leaving it with an exception rolls
        back.

        Raises:
            LeaseLost: The run is not the caller's any more; nothing is written.
            ConfigError: The store takes part in no transaction (memory).
            StoreUnavailable: The database cannot be used. At the end: nothing was committed, or, as `details` tells
                with `"unknown": True`, it is not known whether it was; the store finds out as long as it can.
        """
        ...
