"""Connections to the server: a pool for everything, direct ones for the lease, the listener and migrations.

A call on a connection is always bounded by the client: what does not answer in time is broken off, never waited for.
Behind a transaction pooler (`direct=` was given) each statement is a transaction of its own that prepares nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import cast
from urllib.parse import parse_qs, urlsplit

import asyncpg
from asyncpg import Connection, Record
from asyncpg.pool import Pool

from flowstone_async.errors import ConfigError, StoreUnavailable
from flowstone_async.store.postgres.errors import closed, is_lost, sqlstate, translate
from flowstone_async.store.postgres.queries import QUERIES

OLDEST_SERVER = 150000
_CONNECT = 10.0
_ANSWER = 30.0
_RECONNECT = 10.0
_FIRST_DELAY = 0.05
_LONGEST_DELAY = 1.0
_SIZE = 8
_FULL = "53300"  # no connection is left

# Plans are made once, and by index: what the planner believes of a young table's size is soon wrong by far. Speed
# depends on this, and nothing else does.
_SETTINGS = (
    "plan_cache_mode = force_generic_plan",
    "enable_seqscan = off",
    "enable_bitmapscan = off",
    "enable_sort = off",
    "jit = off",
)


def plans(scope: str) -> str:
    """Return the statements that pin plans for a `SESSION` or, with `LOCAL`, for a transaction."""
    return "; ".join(f"SET {scope} {setting}" for setting in _SETTINGS)


DRIVER_ERRORS = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
    TimeoutError,
    asyncio.IncompleteReadError,
)


class Session:
    """A connection while it is borrowed.

    Args:
        connection: The driver's connection.
        connections: Where it comes from.

    Attributes:
        broken: Whether the connection is of no use any more.
        hung: Whether it did not answer in time.
        patience: Seconds that one statement may take; None for what the connections allow.
    """

    __slots__ = ("_connection", "_connections", "_inside", "broken", "hung", "patience")

    def __init__(self, connection: Connection, connections: Connections) -> None:
        self._connection = connection
        self._connections = connections
        self._inside = False
        self.broken = self.hung = False
        self.patience: float | None = None

    async def fetch(self, name: str, *arguments: object) -> list[Record]:
        """Run a named query and return its rows."""
        return await self.fetch_text(QUERIES[name], *arguments)

    async def fetch_text(self, text: str, *arguments: object) -> list[Record]:
        """Run one statement and return its rows."""
        if self._connections.shared and not self._inside:
            async with self.transaction():
                return await self._fetch(text, *arguments)
        return await self._fetch(text, *arguments)

    async def _fetch(self, text: str, *arguments: object) -> list[Record]:
        try:
            rows = await self._connection.fetch(text, *arguments, timeout=self.patience or self._connections.patience)
        except BaseException as error:
            self._judge(error)
            raise
        return rows

    async def execute_named(self, name: str) -> None:
        """Run a named statement that takes no arguments and returns nothing."""
        await self.execute(QUERIES[name])

    async def execute(self, text: str) -> None:
        """Run statements that return nothing, without arguments."""
        try:
            await self._connection.execute(text, timeout=self.patience or self._connections.patience)
        except BaseException as error:
            self._judge(error)
            raise

    def _judge(self, error: BaseException) -> None:
        # An interrupted call leaves the connection in the middle of an answer.
        if is_lost(error):
            self.broken = True
            self.hung = isinstance(error, TimeoutError)

    @asynccontextmanager
    async def transaction(self, begin: str | None = None) -> AsyncGenerator[None]:
        """Make what is run inside one transaction, which may `begin` in its own way."""
        await self.execute(begin or (f"BEGIN; {plans('LOCAL')}" if self._connections.shared else "BEGIN"))
        self._inside = True
        try:
            yield
        except BaseException:
            if not self.broken:
                await self.execute("ROLLBACK")
            raise
        else:
            await self.execute("COMMIT")
        finally:
            self._inside = False

    def terminate(self) -> None:
        """Break the connection off."""
        self._connection.terminate()


class Connections:
    """Where connections come from.

    Args:
        source: A DSN, or a pool of the caller's, which is used and never closed.
        direct: DSN of the server itself, where `source` leads through a transaction pooler.
        patience: Seconds that one statement may take.
        reconnect: Seconds for which a lost connection is made anew, at most.

    Attributes:
        shared: Whether its connections are others' too, in a pool of the caller's or behind a transaction pooler: then
            nothing is left on them, and each statement is a transaction of its own.
        where: The server, for people; without the password.
    """

    def __init__(
        self, source: str | Pool, *, direct: str | None, patience: float = _ANSWER, reconnect: float = _RECONNECT
    ) -> None:
        self.shared = direct is not None or not isinstance(source, str)
        self.patience = patience
        self._reconnect = min(reconnect, _RECONNECT)
        self._source = source
        self._direct = direct if direct is not None else source if isinstance(source, str) else None
        self._pool: Pool | None = None
        self.where = _where(self._direct)

    @property
    def _is_borrowed(self) -> bool:
        """Whether the pool is the caller's."""
        return not isinstance(self._source, str)

    @property
    def address(self) -> str | None:
        """Where the pool's connections lead; None if the pool is the caller's."""
        return self._source if isinstance(self._source, str) else None

    @property
    def pool(self) -> Pool:
        """Where its connections come from, and return to."""
        if self._pool is None:
            raise closed()
        return self._pool

    @property
    def direct_address(self) -> str | None:
        """Where direct connections lead; None if none can be made."""
        return self._direct

    async def open(self) -> None:
        """Connect, and see whether the server is one that can keep runs.

        Raises:
            StoreUnavailable: It cannot be reached, refuses the login or is read-only.
            ConfigError: It is too old, or the address cannot be read.
        """
        async with self.translated():
            if isinstance(self._source, str):
                self._pool = await _create_pool(self._source, shared=self.shared)
            else:
                self._pool = self._source
            try:
                async with self.session() as session:
                    _check(await session.fetch("server"), self.where)
            except BaseException as error:
                await self.close()
                if isinstance(error, ValueError) and not isinstance(error, ConfigError):
                    raise _unreadable(error) from error
                raise

    async def close(self) -> None:
        """Close the pool if it is the store's own."""
        pool, self._pool = self._pool, None
        if pool is not None and not self._is_borrowed:
            try:
                async with asyncio.timeout(5):
                    await pool.close()
            except DRIVER_ERRORS:
                pool.terminate()

    @asynccontextmanager
    async def session(self) -> AsyncGenerator[Session]:
        """Borrow a connection. What the driver raises passes through."""
        pool = self.pool
        connection = await pool.acquire(timeout=self.patience)
        session = Session(cast("Connection", connection), self)
        try:
            yield session
        finally:
            # A connection that was cut off has left the pool already, and minds being ended once more.
            with suppress(*DRIVER_ERRORS):
                if session.hung and not self._is_borrowed:
                    # What has cut it off may have cut off all: none is used again.
                    await pool.expire_connections()
                if session.broken:
                    session.terminate()
            with suppress(*DRIVER_ERRORS):
                await pool.release(connection, timeout=5)

    @asynccontextmanager
    async def direct(self) -> AsyncGenerator[Session]:
        """Open a connection past any pooler and close it. What the driver raises passes through."""
        if self._direct is None:
            async with self.session() as session:
                yield session
            return
        session = Session(await self.connect(), self)
        try:
            yield session
        finally:
            session.terminate()

    async def connect(self) -> Connection:
        """Return a new direct connection, which the caller closes."""
        if self._direct is None:
            raise ConfigError("a pool was given without direct=", hint="Give the server's DSN with direct=.")
        return await connect(self._direct)

    async def fetch(self, name: str, *arguments: object) -> list[Record]:
        """Run one named query on a connection of the pool; again if none is left, or it is lost, and once if it hangs.

        Raises:
            FlowstoneError: As `translate` says.
        """
        return await self.fetch_text(QUERIES[name], *arguments)

    async def fetch_text(self, text: str, *arguments: object) -> list[Record]:
        """Run one statement, as `fetch` does; doing it twice must change nothing more."""
        give_up = time.monotonic() + self._reconnect
        delay, hung = 0.0, False
        async with self.translated():
            while True:
                try:
                    async with self.session() as session:
                        return await session.fetch_text(text, *arguments)
                except DRIVER_ERRORS as error:
                    if isinstance(error, TimeoutError):
                        # Once more on another connection, however long this one was waited for.
                        again, hung = not hung, True
                    else:
                        known = is_lost(error) or sqlstate(error) == _FULL
                        again = known and time.monotonic() + delay <= give_up
                    if not again:
                        raise
                # The first time at once: a connection that died idle is noticed only when it is used.
                await asyncio.sleep(delay)
                delay = min(2 * delay, _LONGEST_DELAY) or _FIRST_DELAY

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[Session]:
        """Borrow a connection for one transaction.

        Raises:
            FlowstoneError: As `translate` says. After a lost connection it is not known whether the commit happened.
        """
        async with self.translated(), self.session() as session, session.transaction():
            yield session

    @asynccontextmanager
    async def translated(self) -> AsyncGenerator[None]:
        """Turn what the driver raises into the library's errors."""
        try:
            yield
        except DRIVER_ERRORS as error:
            raise translate(error, where=self.where) from error


class Kept:
    """A connection that one task keeps between its calls, so that it need not borrow one each time.

    Args:
        connections: Where it comes from.
    """

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._stack: AsyncExitStack | None = None
        self._session: Session | None = None

    async def session(self) -> Session:
        """Return a session that is not broken. What the driver raises passes through."""
        if self._session is not None and self._session.broken:
            await self.give_back()
        if self._session is None:
            stack = AsyncExitStack()
            self._session = await stack.enter_async_context(self._connections.session())
            self._stack = stack
        return self._session

    async def give_back(self) -> None:
        """Let the connection go."""
        stack, self._stack, self._session = self._stack, None, None
        if stack is not None:
            await stack.aclose()


async def _create_pool(dsn: str, *, shared: bool) -> Pool:
    return await asyncpg.create_pool(
        dsn,
        min_size=0,
        max_size=_SIZE,
        init=None if shared else _settle,
        reset=no_reset,
        timeout=_CONNECT,
        command_timeout=_ANSWER,
        statement_cache_size=0 if shared else 200,
        max_cached_statement_lifetime=0,
    )


async def connect(dsn: str) -> Connection:
    """Return a new connection, which the caller closes."""
    try:
        return await asyncpg.connect(dsn, timeout=_CONNECT, statement_cache_size=0)
    except ValueError as error:
        raise _unreadable(error) from error


async def _settle(connection: Connection) -> None:
    """Pin plans on a connection of the store's own."""
    await connection.execute(plans("SESSION"))


async def no_reset(_: Connection) -> None:
    """Keep a connection as it is: nothing here leaves any state behind."""


def _unreadable(error: Exception) -> ConfigError:
    return ConfigError(
        f"the address of the Postgres server cannot be read: {type(error).__name__}",
        hint="It looks like postgresql://user:password@host:5432/database.",
    )


def _check(rows: Sequence[Record], where: str) -> None:
    version, standby, read_only = rows[0]
    if version < OLDEST_SERVER:
        raise ConfigError(
            f"Postgres at {where} is version {version // 10000}; 15 or newer is needed",
            hint="Upgrade the server, or use another one.",
        )
    if standby or read_only:
        raise StoreUnavailable(
            f"Postgres at {where} is {'a standby' if standby else 'read-only'}",
            hint="Name the primary in the address (…?target_session_attrs=read-write).",
        )


def _where(dsn: str | None) -> str:
    if dsn is None:
        return "the given pool"
    try:
        parts = urlsplit(dsn)
        query = parse_qs(parts.query)
        host = parts.hostname or query.get("host", ["localhost"])[0]
        port = parts.port or query.get("port", ["5432"])[0]
        return f"{host}:{port}{parts.path}"
    except ValueError:
        return "the given address"
