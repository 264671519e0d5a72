"""Connections that user code writes with, in a transaction that holds its run and commits with the record of a step."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, cast

import asyncpg
from asyncpg import Record
from asyncpg.pool import Pool
from asyncpg.transaction import Transaction
from typing_extensions import override

from flowstone_async.errors import ConfigError, LeaseLost, StorageError, StoreUnavailable
from flowstone_async.store.postgres.connections import DRIVER_ERRORS, Connections, no_reset
from flowstone_async.store.postgres.errors import closed, is_lost, is_transient, sqlstate, translate
from flowstone_async.store.postgres.identifiers import is_id
from flowstone_async.store.postgres.instants import Instants
from flowstone_async.store.postgres.queries import QUERIES
from flowstone_async.store.postgres.step_lane import StepCall, columns, row_id
from flowstone_async.store.steps import AlreadyRecorded, StepRecord, StepTransaction

MOST = 5
"""Transactions at once; of a pool of the caller's, half of its connections at most. More wait."""
_CONNECT = 10.0
_ROLL_BACK = 5.0
_PAUSE = 0.1
_FAILED = "25P02"


class Lending:
    """Lends connections. Its own are apart from the store's: user code may keep them for as long as it likes.

    Args:
        connections: To the server.
        instants: The store's clock.
        owns: Whether this process may still commit anything: False once its lease is lost.
        patience: Seconds for which a connection is looked for, and whether a commit has happened is asked.
    """

    def __init__(
        self, connections: Connections, instants: Instants, *, owns: Callable[[], bool], patience: float
    ) -> None:
        self.connections, self.instants, self.owns, self.patience = connections, instants, owns, patience
        self._own: Pool | None = None
        self._closed = False
        self._making = asyncio.Lock()
        self._places: asyncio.Semaphore | None = None

    async def close(self) -> None:
        """Lend no more; who has a connection loses it after a while."""
        self._closed = True
        pool, self._own = self._own, None
        if pool is not None:
            try:
                async with asyncio.timeout(_ROLL_BACK):
                    await pool.close()
            except DRIVER_ERRORS:
                pool.terminate()

    @asynccontextmanager
    async def transaction(self, run_id: str, fence: int, body: str) -> AsyncGenerator[StepTransaction]:
        """Lend a connection in a transaction; see `Steps.transaction`."""
        pool = await self._pool()
        if self._places is None:
            size = MOST if pool is self._own else max(1, min(MOST, pool.get_max_size() // 2))
            self._places = asyncio.Semaphore(size)
        async with self._places:
            lent = await self._begin(pool, run_id, fence, body)
            try:
                try:
                    yield lent
                except BaseException:
                    await lent.roll_back()
                    raise
                await lent.commit()
            finally:
                await _release(pool, lent.connection)

    async def _pool(self) -> Pool:
        if self._closed:
            raise closed()
        shared, address = self.connections.shared, self.connections.address
        if address is None:
            return self.connections.pool
        async with self._making:
            if self._own is None:
                # Neither plans nor a limit of time are pinned, as on the store's own connections.
                self._own = await asyncpg.create_pool(
                    address,
                    min_size=0,
                    max_size=MOST,
                    timeout=_CONNECT,
                    statement_cache_size=0 if shared else 100,
                    reset=no_reset if shared else None,
                )
            return self._own

    async def _begin(self, pool: Pool, run_id: str, fence: int, body: str) -> Lent:
        """Begin a transaction that holds the run; again on another connection if this one is lost."""
        give_up = time.monotonic() + self.patience
        while True:
            if not self.owns() or not is_id(run_id):
                raise _lost(run_id)
            try:
                return await self._try_to_begin(pool, run_id, fence, body)
            except DRIVER_ERRORS as error:
                if not is_transient(error) or time.monotonic() > give_up:
                    raise translate(error, where=self.connections.where) from error
            await asyncio.sleep(_PAUSE)

    async def _try_to_begin(self, pool: Pool, run_id: str, fence: int, body: str) -> Lent:
        connection = cast("asyncpg.Connection[Any]", await pool.acquire(timeout=self.connections.patience))
        begun = connection.transaction()
        try:
            async with asyncio.timeout(self.connections.patience):
                await begun.start()
                rows: Sequence[Record] = await connection.fetch(QUERIES["hold_run"], run_id, fence)
                if not rows:
                    await begun.rollback()
                    raise _lost(run_id)
        except BaseException as error:
            if not isinstance(error, LeaseLost):
                _break_off(connection)
            await _release(pool, connection)
            raise
        return Lent(self, connection, begun, rows[0]["transaction"], (run_id, fence, body))


class Lent(StepTransaction):
    """A connection that is lent.

    Args:
        lending: Who lends it.
        connection: It.
        begun: The driver's transaction.
        transaction: Its number.
        of: The run, the fence and the body.
    """

    def __init__(
        self,
        lending: Lending,
        connection: asyncpg.Connection[Any],
        begun: Transaction,
        transaction: str,
        of: tuple[str, int, str],
    ) -> None:
        self._lending, self._connection, self._begun = lending, connection, begun
        self._transaction, self._of = transaction, of
        self._recorded: StepRecord | None = None

    @property
    @override
    def connection(self) -> asyncpg.Connection[Any]:
        return self._connection

    @override
    async def record(self, step: StepRecord) -> None:
        run_id, fence, body = self._of
        if not self._lending.owns():
            raise _lost(run_id)
        call = StepCall(run_id, fence, body, [step])
        rows = await self._ask("record_steps", *columns([call], self._lending.instants))
        if not rows:
            raise _lost(run_id)
        if rows[0]["transaction"] != self._transaction:
            raise _ended()
        if not rows[0]["written"]:
            raise AlreadyRecorded(step.key)
        self._recorded = step

    async def _ask(self, name: str, *arguments: object) -> Sequence[Record]:
        """Run a query of ours in the transaction."""
        connections = self._lending.connections
        try:
            if not self._connection.is_closed() and not self._connection.is_in_transaction():
                raise _ended()
            return await self._connection.fetch(QUERIES[name], *arguments, timeout=connections.patience)
        except DRIVER_ERRORS as error:
            if sqlstate(error) == _FAILED:
                raise StorageError(
                    "the transaction cannot commit: a statement in it has failed, and the error was caught",
                    hint="Let the error out, or run what may fail in a savepoint: `async with conn.transaction():`.",
                ) from error
            raise translate(error, where=connections.where) from error

    async def roll_back(self) -> None:
        """Roll back; if the server does not answer, break the connection off, which does so too."""
        done = False
        try:
            with suppress(*DRIVER_ERRORS):
                async with asyncio.timeout(_ROLL_BACK):
                    await self._begun.rollback()
                    done = True
        finally:
            if not done:
                _break_off(self._connection)

    async def commit(self) -> None:
        """Commit; if the reply is lost, find out."""
        if self._recorded is None:
            try:
                rows = await self._ask("still_there")  # a failed one would be rolled back without a word
                if rows[0]["transaction"] != self._transaction:
                    raise _ended()
            except BaseException:
                await self.roll_back()
                raise
        lost, done = None, False
        try:
            async with asyncio.timeout(self._lending.connections.patience):
                await self._begun.commit()
                done = True
        except DRIVER_ERRORS as error:
            if not is_lost(error):  # what user code wrote is to blame: a deferred constraint, for example
                raise
            lost = error
        finally:
            if not done:
                _break_off(self._connection)
        if lost is not None:
            await self._find_out(lost)

    async def _find_out(self, error: BaseException) -> None:
        """Return if the transaction has been committed.

        Raises:
            StoreUnavailable: It was rolled back, or that cannot be found out.
        """
        give_up = time.monotonic() + self._lending.patience
        unavailable = translate(error, where=self._lending.connections.where)
        try:
            while time.monotonic() < give_up and self._recorded is not None:
                if not await self._goes_on():
                    if await self._is_recorded(self._recorded):
                        return
                    raise unavailable from error
                await asyncio.sleep(_PAUSE)
        except StoreUnavailable as other:
            if other is unavailable:
                raise
        raise StoreUnavailable(
            f"{unavailable.message}; whether the transaction was committed is not known",
            hint=unavailable.hint,
            details={**unavailable.details, "unknown": True},
        ) from error

    async def _goes_on(self) -> bool:
        rows = await self._lending.connections.fetch("transaction_goes_on", self._transaction)
        return rows[0]["going"]

    async def _is_recorded(self, step: StepRecord) -> bool:
        run_id, _, body = self._of
        asked = (run_id, body, row_id(step.key), step.attempt)
        return bool(await self._lending.connections.fetch("step_of_attempt", *asked))


def _break_off(connection: asyncpg.Connection[Any]) -> None:
    with suppress(*DRIVER_ERRORS):  # a lost one has left the pool already, and minds being ended once more
        connection.terminate()


async def _release(pool: Pool, connection: asyncpg.Connection[Any]) -> None:
    with suppress(*DRIVER_ERRORS):
        await pool.release(cast("Any", connection), timeout=_ROLL_BACK)


def _lost(run_id: str) -> LeaseLost:
    return LeaseLost("the run is not this engine's any more: nothing was written", run_id=run_id)


def _ended() -> ConfigError:
    return ConfigError(
        "the transaction has been ended by the function that it was lent to",
        hint="Leave COMMIT and ROLLBACK to ctx.tx; for a savepoint use `async with conn.transaction():`.",
    )
