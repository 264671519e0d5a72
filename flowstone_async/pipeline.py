"""The public facade over definitions, with the in-memory verbs."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncGenerator, Coroutine, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, Literal, NoReturn, TypeVar, cast, overload

from typing_extensions import Unpack, override

from flowstone_async._engine.approving.going_on import go_on
from flowstone_async._engine.dispatcher import Dispatcher
from flowstone_async._engine.executor import Executor
from flowstone_async._engine.host import Host
from flowstone_async._engine.opening import Wiring, open_session
from flowstone_async._engine.options import mapping
from flowstone_async._engine.session import Session
from flowstone_async._engine.targets import Target
from flowstone_async._engine.trial import Trial
from flowstone_async._engine.verbs import RunOptions, Verbs
from flowstone_async.clock import ManualClock, SystemClock
from flowstone_async.definition.collection import TOLERATED, Collection, Defaults, Tolerated
from flowstone_async.definition.decorators import Decorators
from flowstone_async.definition.handle import AssetRef, OpenRef, PartitionedRef
from flowstone_async.definition.policy import CachePolicy, Duration, Retry
from flowstone_async.errors import ConfigError
from flowstone_async.io.memory import Memory
from flowstone_async.store.memory import MemoryStore
from flowstone_async.store.records import Worker
from flowstone_async.types import new_id

T = TypeVar("T")
T1 = TypeVar("T1")
T2 = TypeVar("T2")
K = TypeVar("K")
HISTORY = 1000
LEASE = 30.0


class Pipeline(Decorators, Verbs):
    """Assets, resources and hooks under one name.

    Its verbs (`run`, `get`, `plan` …) work in memory: no file, no server. The memory lives as long as the pipeline
    and is tied to no event loop. For durable runs give the pipeline to an `Engine`.

    Args:
        name: Its identity in a store: lower-case letters, digits, `_`, `-`, at most 100 characters.
        params: Type of the runs' params: a pydantic model or a dataclass.
        io: I/O manager, or its name, for assets that give none.
        cache: Cache policy for assets that give none.
        retry: Retry policy for assets that give none.
        timeout: Of each attempt, for assets that give none.
        optional_tolerates: What an optional dependency may suffer without failing its dependant.

    Example:
        >>> pipe = Pipeline("hello")
        >>> @pipe.asset
        ... async def greeting() -> str:
        ...     return "Hello, World!"
        >>> pipe.run_sync(greeting)
        'Hello, World!'
    """

    def __init__(
        self,
        name: str,
        *,
        params: type | None = None,
        io: object = None,
        cache: CachePolicy | None = None,
        retry: Retry | Literal[False] | None = None,
        timeout: Duration | Literal[False] | None = None,
        optional_tolerates: frozenset[Tolerated] | set[Tolerated] = TOLERATED,
    ) -> None:
        super().__init__(
            name,
            params=params,
            defaults=Defaults(io=io, cache=cache, retry=retry, timeout=timeout),
            optional_tolerates=_tolerated(optional_tolerates),
        )
        self._wiring: Wiring[MemoryStore] | None = None
        self._here: dict[int, _Here] = {}

    # -- in memory ----------------------------------------------------------------------------------------------

    @override
    @asynccontextmanager
    async def _session(self) -> AsyncGenerator[Session]:
        """Open what runs need in this event loop while at least one call needs it."""
        self.validate()
        loop = id(asyncio.get_running_loop())
        here = self._here.get(loop)
        if here is None:
            here = self._here[loop] = _Here(self, self._wired())
        here.users += 1
        try:
            yield await here.session()
        finally:
            here.users -= 1
            if not here.users:
                if self._here.get(loop) is here:
                    del self._here[loop]
                await here.close()

    @override
    async def _decided(self, session: Session, run_id: str) -> None:
        await go_on(session, run_id)

    def _wired(self) -> Wiring[MemoryStore]:
        if self._wiring is None:
            clock = SystemClock()
            store = MemoryStore(clock, history=HISTORY)
            self._wiring = Wiring(store=store, clock=clock, default_io=Memory(), secrets=(store.secret,))
        return self._wiring

    @overload
    def run_sync(self, target: PartitionedRef[T, K], /, *, partition: K, **options: Unpack[RunOptions]) -> T: ...
    @overload
    def run_sync(self, target: OpenRef[T], /, *, partition: object = None, **options: Unpack[RunOptions]) -> T: ...
    @overload
    def run_sync(
        self, target: AssetRef[T1], second: AssetRef[T2], /, *, partition: object = None, **options: Unpack[RunOptions]
    ) -> tuple[T1, T2]: ...
    @overload
    def run_sync(self, target: str, /, *, partition: object = None, **options: Unpack[RunOptions]) -> Any: ...
    @overload
    def run_sync(
        self, target: Target, second: Target, /, *more: Target, partition: object = None, **options: Unpack[RunOptions]
    ) -> tuple[Any, ...]: ...
    def run_sync(self, *targets: Any, partition: Any = None, **options: Unpack[RunOptions]) -> Any:
        """Run from synchronous code: the one bridge. Takes and returns what `run` does.

        Raises:
            ConfigError: An event loop is running in this thread: await `run` there.
        """
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return asyncio.run(_awaited(self.run(*targets, partition=partition, **options)))
        raise ConfigError("an event loop is already running here", hint="Use `await pipe.run(...)`.")

    @asynccontextmanager
    async def test(
        self,
        *,
        values: Mapping[Any, object] | None = None,
        resources: Mapping[Any, object] | None = None,
        params: object = None,
    ) -> AsyncGenerator[Trial]:
        """Try the pipeline in a test: in memory of its own, on a clock that stands still until it is advanced.

        Args:
            values: Values of assets, by handle or name, in place of computing them; for a scatter its results, as a
                list or `Gathered.of(...)`.
            resources: Replacements, by type or name.
            params: For runs that give none.

        Raises:
            ConfigError: A value or resource is of the wrong type, or for something unknown; or the params are wrong.

        Example:
            >>> async with pipe.test(values={raw: [1, 2]}) as t:
            ...     assert await t.run(doubled) == [2, 4]
        """
        self.validate()
        given = mapping(values, "values", by_name=False)
        clock = ManualClock()
        wiring = Wiring(
            store=MemoryStore(clock),
            clock=clock,
            default_io=Memory(),
            resources=mapping(resources, "resources", by_name=False),
            secrets=(os.urandom(32),),
        )
        here = _Here(self, wiring)
        here.users = 1
        try:
            session = await here.session()
            try:
                yield Trial(session, clock, given, params)
            finally:
                await session.close(0.0)
        finally:
            await here.close()

    def submit(self, *targets: Target, **options: object) -> NoReturn:  # noqa: ARG002 - as the engine's
        """Refuse: background runs need an engine.

        Raises:
            ConfigError: Always, with the lines to write.
        """
        raise ConfigError(
            "a pipeline alone runs in memory and has no background runs",
            hint="Write:\n    async with Engine(pipe) as engine:\n        run = await engine.submit(asset)",
        )


class _Here:
    """What runs of a pipeline need in one event loop: a host, and a session in it."""

    def __init__(self, pipeline: Collection, wiring: Wiring[MemoryStore]) -> None:
        self.users = 0
        self._store = wiring.store.share()
        self._pipeline = pipeline
        self._wiring = replace(wiring, store=self._store, worker=new_id(), executor=Executor())
        self._host = Host(f"pipeline {pipeline.name}")
        self._opening = asyncio.Lock()
        self._stands = False
        self._session: Session | None = None
        self._outgrown: list[Session] = []

    async def session(self) -> Session:
        """Return the session; the first caller opens it, and whoever comes next if that one was cancelled."""
        async with self._opening:
            if not self._stands:
                await self._host.open()
                await self._store.open(self._worker(), lease=LEASE, lost=_never)
                self._stands = True
            if self._session is not None and self._outdated(self._session):
                self._outgrown.append(self._session)
                self._session = None
            if self._session is None:
                self._session = open_session([self._pipeline], self._wiring, self._host)
                Dispatcher(self._session)  # takes nothing on by itself, but what somebody here waits for
            return self._session

    def _outdated(self, session: Session) -> bool:
        """Tell whether assets were added since."""
        return session.catalogs[self._pipeline.name].graph is not self._pipeline.compiled()

    async def close(self) -> None:
        """Close the resources that were opened, then the host."""
        try:
            for session in (*self._outgrown, *filter(None, (self._session,))):
                await session.services.resources.close()
        finally:
            await self._host.close()
            await self._wiring.executor.close()
            await self._store.close()

    def _worker(self) -> Worker:
        names = (self._pipeline.name,)
        return Worker(id=self._wiring.worker or "", host=socket.gethostname(), pid=os.getpid(), pipelines=names)


def _tolerated(given: object) -> frozenset[Tolerated]:
    if not isinstance(given, set | frozenset | list | tuple):
        raise ConfigError(f"optional_tolerates={given!r}", hint="Give a set of 'failed', 'skipped', 'missing'.")
    found = [*cast("Iterable[object]", given)]
    unknown = [each for each in found if not isinstance(each, str) or each not in TOLERATED]
    if unknown:
        raise ConfigError(f"optional_tolerates has {unknown[0]!r}", hint="Allowed are 'failed', 'skipped', 'missing'.")
    return frozenset(cast("list[Tolerated]", found))


def _never() -> None:
    """A lease in memory is never lost."""


async def _awaited(running: Coroutine[Any, Any, T]) -> T:
    return await running
