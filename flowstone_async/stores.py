"""Choosing a store from what an engine is given, and opening what it needs around it."""

from __future__ import annotations

import importlib.util
import logging
import re
from collections.abc import AsyncGenerator, Callable
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flowstone_async.clock import Clock
from flowstone_async.errors import ConfigError
from flowstone_async.io.base import IOManager
from flowstone_async.io.memory import Memory
from flowstone_async.io.postgres import Postgres
from flowstone_async.redaction import HIDDEN, Redactor
from flowstone_async.store.memory import MemoryStore
from flowstone_async.store.protocol import Store

FOLDER = ".flowstone"
_logger = logging.getLogger("flowstone")
_SCHEMES = ("postgresql://", "postgres://")
_FORMS = "'embedded', 'embedded:<dir>', 'memory', 'postgresql://...', or an asyncpg pool"


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedStore:
    """A store that is ready to be opened by an engine.

    Attributes:
        default_io: Where values live that nobody says anything about.
        leased: Whether a worker may be registered: needs a connection past any pooler.
        dsn: Where the application's own connections go; None for a store in memory, or on a pool.
        secret: The store's own secret, or None.
        enlist: Lets this process count as alive under one more worker's id.
    """

    store: Store
    default_io: IOManager
    leased: bool = True
    dsn: str | None = field(default=None, repr=False)
    secret: bytes | None = None
    enlist: Callable[[str], None] = lambda _: None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreChoice:
    """A store that was chosen, not yet opened."""

    kind: str
    place: Any = None
    migrate: bool = True
    notify: bool = True
    direct: str | None = None

    @property
    def durable(self) -> bool:
        """Whether values outlive the process, so that they must be encodable."""
        return self.kind != "memory"

    @property
    def leased(self) -> bool:
        """Whether a worker may be registered: a pool alone gives no connection past a pooler."""
        return self.kind != "postgres" or isinstance(self.place, str) or self.direct is not None

    @asynccontextmanager
    async def open(self, clock: Clock, worker: str, poll: float) -> AsyncGenerator[OpenedStore]:
        """Make the store ready; a server of ours runs until the end of the block.

        Args:
            clock: Time; the database's own is used unless it is virtual.
            worker: Id of the engine.
            poll: Seconds between polls.
        """
        match self.kind:
            case "memory":
                store = self.place.share() if isinstance(self.place, MemoryStore) else MemoryStore(clock)
                yield OpenedStore(store=store, default_io=Memory(), secret=store.secret)
            case "embedded":
                async with self._embedded(clock, worker, poll) as opened:
                    yield opened
            case _:
                store = self._postgres(self.place, clock, poll, None)
                dsn = self.place if isinstance(self.place, str) else None
                yield OpenedStore(store=store, default_io=Postgres(), leased=self.leased, dsn=dsn)

    @asynccontextmanager
    async def _embedded(self, clock: Clock, worker: str, poll: float) -> AsyncGenerator[OpenedStore]:
        from flowstone_async.store.embedded.server import EmbeddedServer

        server = EmbeddedServer(Path(self.place), notice=_logger.warning)
        address = await server.open()
        try:
            with ExitStack() as locks:
                locks.enter_context(server.process_lock(worker))

                def enlist(worker: str) -> None:
                    locks.enter_context(server.process_lock(worker))

                store = self._postgres(address.dsn(), clock, poll, server.is_alive)
                yield OpenedStore(
                    store=store,
                    default_io=Postgres(),
                    dsn=address.dsn(),
                    secret=server.secret(),
                    enlist=enlist,
                )
        finally:
            await server.close()

    def _postgres(self, dsn: Any, clock: Clock, poll: float, alive: Callable[[str], bool] | None) -> Store:
        from flowstone_async.store.postgres import PostgresStore

        return PostgresStore(
            dsn, direct=self.direct, clock=clock, migrate=self.migrate, notify=self.notify, poll=poll, alive=alive
        )


def choose_store(given: object, *, migrate: bool, notify: bool, direct: str | None) -> StoreChoice:
    """Check what an engine was given as its store.

    Raises:
        ConfigError: It is nothing that can be a store; the forms are listed.
    """
    local = isinstance(given, str) and (given == "memory" or given.startswith("embedded"))
    if direct is not None and (local or isinstance(given, MemoryStore)):
        raise ConfigError(
            "direct= goes with a Postgres of your own", hint="Leave it out, or give store='postgresql://...'."
        )
    if direct is not None and not (isinstance(direct, str) and direct.startswith(_SCHEMES)):
        raise ConfigError("direct= takes the address of a Postgres", hint="Give 'postgresql://...'.")
    if isinstance(given, MemoryStore):
        return StoreChoice(kind="memory", place=given)
    if isinstance(given, str):
        if given == "memory":
            return StoreChoice(kind="memory")
        if given == "embedded" or given.startswith("embedded:"):
            return StoreChoice(kind="embedded", place=given.partition(":")[2] or FOLDER, migrate=migrate, notify=notify)
        if given.startswith(_SCHEMES):
            return StoreChoice(kind="postgres", place=given, migrate=migrate, notify=notify, direct=direct)
    elif _is_pool(given):
        return StoreChoice(kind="postgres", place=given, migrate=migrate, notify=notify, direct=direct)
    shown = Redactor().text(given if isinstance(given, str) else repr(given))
    shown = re.sub(r":[^:@]*@", f":{HIDDEN}@", shown)  # an address whose scheme was forgotten
    raise ConfigError(f"store={shown!r} is not a store", hint=f"Give {_FORMS}.")


def _is_pool(given: object) -> bool:
    if importlib.util.find_spec("asyncpg") is None or not type(given).__module__.startswith("asyncpg"):
        return False
    import asyncpg

    return isinstance(given, asyncpg.Pool)
