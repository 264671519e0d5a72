"""The engine: opens and wires everything for pipelines on one store, and has the verbs."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

from typing_extensions import override

from flowstone_async._engine.api_tokens import Tokens
from flowstone_async._engine.asgi import AsgiApp, Auth, make_app
from flowstone_async._engine.background import Background
from flowstone_async._engine.executor import THREADS, Executor
from flowstone_async._engine.gates.addresses import base_url_of
from flowstone_async._engine.health import Capabilities, Health, capabilities, health
from flowstone_async._engine.host import Host, running_loop
from flowstone_async._engine.life import Life
from flowstone_async._engine.limiting import engine_limits
from flowstone_async._engine.opening import Wiring, open_session, refuse_unstorable
from flowstone_async._engine.options import (
    EngineOptions,
    Limit,
    check_counts,
    check_pipelines,
    check_switches,
    limit,
    mapping,
    names,
    retention_of,
    secrets,
)
from flowstone_async._engine.services import Settings
from flowstone_async._engine.session import Session
from flowstone_async._engine.upkeep import Retention
from flowstone_async.clock import Clock, SystemClock
from flowstone_async.config import seconds, whole
from flowstone_async.definition.collection import Collection, Hook, HookDecorator, hooked
from flowstone_async.definition.policy import Duration
from flowstone_async.errors import ConfigError
from flowstone_async.events import Event
from flowstone_async.io.postgres import Postgres
from flowstone_async.limits.desk import check_limits
from flowstone_async.limits.limits import Limits
from flowstone_async.limits.rate import Rate
from flowstone_async.redaction import Redactor
from flowstone_async.store.protocol import Store
from flowstone_async.store.records import Worker
from flowstone_async.stores import choose_store
from flowstone_async.types import new_id

T = TypeVar("T")
T1 = TypeVar("T1")
T2 = TypeVar("T2")
K = TypeVar("K")
E = TypeVar("E", bound=Event)


class Engine(Background):
    """Runs pipelines on one store: `async with Engine(pipe) as engine`.

    Entering and leaving may happen in different tasks (a pytest-asyncio fixture, an ASGI lifespan).

    Args:
        pipelines: One or more; two of one name are refused.
        store: `"embedded"` (a real Postgres in `./.flowstone`), `"embedded:<dir>"`, `"memory"`,
            `"postgresql://..."`, or an asyncpg pool, which is used and never closed.
        io: I/O managers by name; `"default"` is for assets that say nothing.
        resources: Replacements by type or name, used as they are and never closed.
        slots: Runs of the queue, or of engines that died, executed at once; 0 takes none.
        concurrency: Bodies at once in each run.
        default_timeout: Of `run`; False is no limit.
        threads: Threads for bodies with `run_in="thread"`.
        processes: Processes for bodies with `run_in="process"`; the number of CPUs without it.
        lease: How long work outlives the last sign of life of its engine.
        poll: How long a lost notification may go unnoticed.
        grace: Time that bodies have when the engine is left.
        cancel_grace: Time that `finally` blocks have after a cancellation.
        hook_timeout: Of each hook; False is no limit.
        block_warning: Warn when a body holds the event loop this long; False never does.
        max_lost: How often a body is called again that died with its engine, before its asset fails.
        park_after: How long a body that waits at gates stays in memory; 0 drops it at every wait, False never.
        max_parked: The most waits in memory; beyond it those that have waited longest are dropped.
        retention: How long finished runs and superseded values are kept; False keeps them.
        strict_metadata: Whether metadata that cannot be stored fails its asset.
        migrate: Bring the schema up to date on entering; False refuses an old one.
        notify: False polls only.
        direct: A DSN past a transaction pooler, for the listener, the lease and migrations.
        redact: More field names whose values are never shown.
        secret: 32 bytes or more, to sign pickles and tokens of gates with; a list rotates.
        limits: Rates and numbers of slots by name; `limits.set` overrides them.
        early_signals: How long a signal is kept whose gate is not on record yet; False refuses it.
        base_url: Where those who send signals reach this engine: what is before `/hooks/signal/…`.

    Raises:
        ConfigError: An option is wrong.

    Example:
        >>> async with Engine(pipe) as engine:
        ...     await engine.run(total)
    """

    def __init__(
        self,
        *pipelines: Collection,
        store: object = "embedded",
        io: Mapping[str, object] | None = None,
        resources: Mapping[Any, object] | None = None,
        slots: int = 10,
        concurrency: int = 32,
        default_timeout: Limit = "5m",
        threads: int = THREADS,
        processes: int | None = None,
        lease: Duration = "30s",
        poll: Duration = "1s",
        grace: Duration = "30s",
        cancel_grace: Duration = "10s",
        hook_timeout: Limit = "10s",
        block_warning: Limit = "500ms",
        max_lost: int = 3,
        park_after: Limit = "30s",
        max_parked: int = 10_000,
        retention: Retention | Literal[False] | None = None,
        strict_metadata: bool = False,
        migrate: bool = True,
        notify: bool = True,
        direct: str | None = None,
        redact: Sequence[str] = (),
        secret: bytes | Sequence[bytes] | None = None,
        limits: Mapping[str, Rate | int] | None = None,
        early_signals: Limit = "24h",
        base_url: str | None = None,
        clock: Clock | None = None,
    ) -> None:
        check_pipelines(pipelines)
        check_counts(concurrency=concurrency, threads=threads, max_lost=max_lost, processes=processes)
        whole(slots, what="slots", least=0)
        check_switches(migrate=migrate, notify=notify, strict_metadata=strict_metadata)
        self.pipelines = pipelines
        self._clock = clock or SystemClock()
        self._io = mapping(io, "io", by_name=True)
        self._resources = mapping(resources, "resources", by_name=False)
        self._redactor = Redactor(names(redact, "redact"))
        self._limits = check_limits(limits)
        self._choice = choose_store(store, migrate=migrate, notify=notify, direct=direct)
        if slots and not self._choice.leased:
            raise ConfigError(
                f"slots={slots} claims runs, for which an engine needs a lease, and a pool alone can keep none",
                hint="Give direct= a DSN past any pooler, or say slots=0: then it can submit, and run nothing itself.",
            )
        settings = Settings(
            default_timeout=limit(default_timeout, "default_timeout"),
            concurrency=concurrency,
            slots=slots,
            cancel_grace=seconds(cancel_grace, what="cancel_grace"),
            grace=seconds(grace, what="grace"),
            poll=seconds(poll, what="poll"),
            hook_timeout=limit(hook_timeout, "hook_timeout"),
            block_warning=limit(block_warning, "block_warning"),
            max_lost=max_lost,
            park_after=None if park_after is False else seconds(park_after, what="park_after", zero=True),
            max_parked=whole(max_parked, what="max_parked"),
            strict_metadata=strict_metadata,
            early_signals=limit(early_signals, "early_signals"),
            base_url=base_url_of(base_url),
        )
        self._options = EngineOptions(
            settings=settings,
            lease=seconds(lease, what="lease"),
            retention=retention_of(retention),
            secrets=secrets(secret),
            threads=threads,
            processes=processes,
        )
        self._hooks: list[Hook] = []
        self._takes_work = True
        self._exit: AsyncExitStack | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._opened: Session | None = None
        self._store: Store | None = None
        self._dsn: str | None = None

    # -- life cycle ---------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """Validate the pipelines, open the store, begin upkeep.

        Raises:
            DefinitionError: A pipeline is wrong; nothing was opened.
            StoreUnavailable: The store cannot be reached.
            ConfigError: The engine is open already, or an option does not fit the store.
        """
        if self._exit is not None:
            raise ConfigError("this engine is open already", hint="Make another Engine, or use this one.")
        for pipeline in self.pipelines:
            pipeline.validate()
        if self._choice.durable:
            refuse_unstorable(self.pipelines, self._io, Postgres())
        self._exit, self._loop = AsyncExitStack(), running_loop()
        try:
            async with self._exit as stack:
                await self._open(stack)
                self._exit = stack.pop_all()
        except BaseException:
            self._exit = self._opened = None
            raise
        return self

    async def _open(self, stack: AsyncExitStack) -> None:
        worker, settings = new_id(), self._options.settings
        opened = await stack.enter_async_context(self._choice.open(self._clock, worker, settings.poll))
        store, leased = opened.store, opened.leased and self._takes_work
        wiring = Wiring(
            store=store,
            clock=self._clock,
            default_io=opened.default_io,
            settings=settings,
            io=self._io,
            resources=self._resources,
            hooks=self._hooks,
            redactor=self._redactor,
            executor=Executor(threads=self._options.threads, processes=self._options.processes),
            worker=worker if leased else None,
            database=opened.dsn,
            secrets=self._options.secrets or ((opened.secret,) if opened.secret else ()),
            limits=self._limits,
        )
        host = Host("flowstone engine")
        session = open_session(self.pipelines, wiring, host)
        record = Worker(id=worker, host=socket.gethostname(), pid=os.getpid(), pipelines=tuple(session.catalogs))
        life = Life(
            session, host, lease=self._options.lease if leased else None, told=self._takes_work, enlist=opened.enlist
        )
        await life.begin(stack, record, self._options.retention)
        self._opened, self._store, self._dsn = session, store, opened.dsn
        await life.tell_started()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give running bodies their grace, hand runs back, close resources in reverse order, leave the store."""
        stack, self._exit, self._opened = self._exit, None, None
        if stack is not None:
            await stack.aclose()

    @asynccontextmanager
    async def lifespan(self, app: object) -> AsyncGenerator[None]:  # noqa: ARG002 - what ASGI apps call it with
        """Open and close the engine with an ASGI app: `FastAPI(lifespan=engine.lifespan)`.

        Args:
            app: The app; not used.
        """
        async with self:
            yield

    def asgi(self, *, auth: Auth = None, title: str | None = None) -> AsgiApp:
        """Return an ASGI app with REST, server-sent events and webhooks, to mount or to serve as it is.

        It works under any mount path, behind a proxy that strips it, and in several processes at once. It does not open
        the engine, since the lifespan of a mounted app does not run: until the engine is open it answers 503.

        Args:
            auth: Who may come in. An async function that takes the request (of Starlette) and returns a `User`, or
                None for nobody who is known; or None for tokens of `engine.tokens` only; or a bearer token that is an
                `admin` beside these; or False, if nobody reaches the app whom the host has not authenticated.
            title: Of the API's description.

        Raises:
            ConfigError: The extra `ui` is not installed, an option is wrong, or the engine is on a Postgres of your own
                and has no `secret`.

        Example:
            >>> app = FastAPI(lifespan=engine.lifespan)
            >>> app.mount("/flowstone", engine.asgi(auth=current_user))
        """
        if self._choice.kind == "postgres" and not self._options.secrets:
            raise ConfigError(
                "engine.asgi() takes signals, whose tokens are checked with a secret, and this engine has none",
                hint="Give Engine(secret=...) 32 bytes or more, the same in every process.",
            )
        return make_app(self, self._live, auth=auth, title=title)

    @asynccontextmanager
    async def looking(self) -> AsyncGenerator[Session]:
        """Open the engine only to look: it registers no worker, continues no run and prunes nothing.

        For the compositions beside it (`cli`, `web`).
        """
        self._takes_work = False
        async with self:
            yield self._live()

    @property
    def dsn(self) -> str:
        """Address of the open engine's database, with its password, for the application's own connections to it.

        `submit(conn=...)` over one of them stores a run together with what the application writes there. They are to
        be closed before the engine is left: an embedded server may end with it.

        Raises:
            ConfigError: The engine is not open, or its store is in memory or on a pool of the caller's.

        Example:
            >>> async with engine, asyncpg.create_pool(engine.dsn) as pool, pool.acquire() as conn:
            ...     async with conn.transaction():
            ...         number = await conn.fetchval("INSERT INTO orders DEFAULT VALUES RETURNING id")
            ...         run = await engine.submit(fulfilled, partition=number, conn=conn)
        """
        self._live()
        if self._dsn is None:
            raise ConfigError(
                "this engine has no address of a database",
                hint="Take the pool that it was given." if self._choice.durable else "A memory store has no database.",
            )
        return self._dsn

    @property
    def redactor(self) -> Redactor:
        """What hides secrets in whatever is shown of this engine."""
        return self._redactor

    @override
    @asynccontextmanager
    async def _session(self) -> AsyncGenerator[Session]:
        yield self._live()

    @override
    def _live(self) -> Session:
        if self._opened is None:
            raise ConfigError(
                "the engine is not open",
                hint="Write:\n    async with Engine(pipe) as engine:\n        await engine.run(asset)",
            )
        if self._loop is not running_loop():
            raise ConfigError(
                "the engine was opened in another event loop, or thread",
                hint="Open an Engine there; any number of them may share one store.",
            )
        return self._opened

    @property
    def limits(self) -> Limits:
        """Limits by key or name, over all workers and processes on the engine's store; see `Limits`.

        Raises:
            ConfigError: The engine is not open.
        """
        session = self._live()
        return engine_limits(session.services, session.observer)

    @property
    def tokens(self) -> Tokens:
        """Tokens that let somebody into the web side of engines on this store; see `Tokens`.

        Example:
            >>> made = await engine.tokens.create("grafana", role="viewer")
        """
        return Tokens(self._live)

    def on(self, event: type[E]) -> HookDecorator[E]:
        """Register a hook that hears of every pipeline of this engine; see `Pipeline.on`.

        Args:
            event: The event type; a base type receives all below it.

        Raises:
            ConfigError: `event` is no event type.
        """
        return hooked(event, self._hooks)

    def capabilities(self) -> Capabilities:
        """Tell from the configuration what this engine can do."""
        return capabilities(self._live())

    async def health(self) -> Health:
        """Ask the store, the lease and the resources how they are; answers within 5 s even if the store hangs."""
        return await health(self._live())
