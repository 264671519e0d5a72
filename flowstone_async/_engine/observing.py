"""Telling hooks what is seen and not journaled: in order, beside the work, and for nothing where nobody listens."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, NamedTuple, TypeVar

from typing_extensions import override

from flowstone_async._engine.arguments import Values
from flowstone_async._engine.catalog import Catalog
from flowstone_async._engine.hooks import Hooks
from flowstone_async._engine.outcome import Settled
from flowstone_async._engine.services import Services
from flowstone_async._engine.user_error import retold
from flowstone_async.definition.collection import Hook
from flowstone_async.definition.keys import decode_key
from flowstone_async.definition.resource import ResourceDefinition
from flowstone_async.errors import FlowstoneError
from flowstone_async.events import (
    Event,
    ResourceClosed,
    ResourceOpened,
    StorageLoadFailed,
    StorageLoadFinished,
    StorageLoadStarted,
    StorageStoreFailed,
    StorageStoreFinished,
    StorageStoreStarted,
)
from flowstone_async.io.base import Stored, ValueRef
from flowstone_async.planning.units import Unit, UnitInput
from flowstone_async.redaction import Redactor
from flowstone_async.resources import ResourceObserver, ResourceScope
from flowstone_async.types import Materialization

T = TypeVar("T")


class _Kinds(NamedTuple):
    verb: str
    started: type[Event]
    finished: type[Event]
    failed: type[Event]


_STORE = _Kinds("storing", StorageStoreStarted, StorageStoreFinished, StorageStoreFailed)
_LOAD = _Kinds("loading", StorageLoadStarted, StorageLoadFinished, StorageLoadFailed)


class _Mail:
    """Events on their way to hooks, one after another; whoever posts them goes on."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._waiting: deque[tuple[Hooks, Event]] = deque()
        self._delivered: asyncio.Event | None = None

    def post(self, hooks: Hooks, event: Event) -> None:
        """Call the hooks once those of what was posted before have ended."""
        self._waiting.append((hooks, event))
        if self._delivered is None:
            self._delivered = asyncio.Event()
            self._services.start_soon(self._deliver, self._delivered, name=f"hooks of {event.type}")

    async def _deliver(self, delivered: asyncio.Event) -> None:
        try:
            while self._waiting:
                hooks, event = self._waiting.popleft()
                await hooks.emit(event)
        finally:
            self._delivered = None
            delivered.set()

    async def heard(self) -> None:
        """Wait until the hooks of all that was posted have ended."""
        if self._delivered is not None:
            await self._delivered.wait()


class Observer(ResourceObserver):
    """Tells the hooks of a pipeline what one attempt does, or whoever else does one thing after another.

    Args:
        services: Of the engine.
        hooks: Those that hear of the pipeline.
        wanted: Which types of events they want; no other is made.
        pipeline: Its name.
        run_id: The run, or empty.
    """

    def __init__(
        self, services: Services, hooks: Hooks, wanted: frozenset[type[Event]], *, pipeline: str, run_id: str
    ) -> None:
        self._services, self._hooks, self._wanted = services, hooks, wanted
        self._pipeline, self._run_id = pipeline, run_id
        self._mail = _Mail(services)

    async def heard(self) -> None:
        """Wait until the hooks of all that was told have ended."""
        await self._mail.heard()

    def tell(self, kind: type[Event], **facts: Any) -> None:
        """Let hooks hear of an event, as of now, beside what goes on."""
        self._tell(kind, facts)

    async def storing(self, ref: ValueRef, io: str, work: Awaitable[Stored]) -> Stored:
        """Tell of a value that is being stored, and return what came of it."""
        facts = {"asset": ref.key.asset, "partition": ref.partition, "io": io, "materialization": ref.materialization}
        return await self._watch(_STORE, facts, work, lambda stored: stored.size)

    async def loading(self, made: Materialization, partition: object, work: Awaitable[T]) -> T:
        """Tell of a value that is being loaded, and return it."""
        key = made.key
        asset = key.asset if key.pipeline == self._pipeline else f"{key.pipeline}.{key.asset}"
        facts = {"asset": asset, "partition": partition, "io": made.manager, "materialization": made.id}
        return await self._watch(_LOAD, facts, work, lambda _: made.size)

    async def _watch(self, kinds: _Kinds, facts: Mapping[str, Any], work: Awaitable[T], size: Callable[[T], int]) -> T:
        begun = self.monotonic()
        self._tell(kinds.started, facts)
        try:
            done = await work
        except BaseException as error:
            if kinds.failed in self._wanted:
                what = f"{kinds.verb} the value of asset {facts['asset']!r}"
                told = retold(error, what, run_id=self._run_id or None, redactor=self._services.redactor)
                self._tell(kinds.failed, facts, seconds=self.monotonic() - begun, error=told)
            raise
        self._tell(kinds.finished, facts, seconds=self.monotonic() - begun, size=size(done))
        return done

    @override
    def monotonic(self) -> float:
        return self._services.clock.monotonic()

    @override
    def opened(self, name: str, definition: ResourceDefinition, seconds: float) -> None:
        self._tell(ResourceOpened, {"resource": name, "scope": definition.scope}, seconds=seconds)

    @override
    def closed(self, name: str, definition: ResourceDefinition, seconds: float, error: BaseException | None) -> None:
        told = None if error is None else _closing(name, error, self._services, self._run_id or None)
        self._tell(ResourceClosed, {"resource": name, "scope": definition.scope}, seconds=seconds, error=told)

    def _tell(self, kind: type[Event], facts: Mapping[str, Any], **more: Any) -> None:
        if kind in self._wanted:
            at = self._services.store.now()
            event = kind(pipeline=self._pipeline, run_id=self._run_id, at=at, **facts, **more)
            self._mail.post(self._hooks, event)


class SessionObserver(ResourceObserver):
    """Tells what belongs to no run: to the hooks of an engine, and to those of the pipelines that it concerns."""

    def __init__(self, services: Services, catalogs: Mapping[str, Catalog], hooks: list[Hook]) -> None:
        self._services, self._catalogs, self._hooks = services, catalogs, hooks
        self._mail = _Mail(services)

    async def heard(self) -> None:
        """Wait until the hooks of all that was told have ended."""
        await self._mail.heard()

    def tell(self, kind: type[Event], *, pipeline: str = "", **facts: Any) -> None:
        """Let hooks hear of an event, as of now, beside what goes on; without a pipeline, those of all."""
        self._tell(kind, pipeline, (pipeline,) if pipeline else tuple(self._catalogs), facts)

    async def tell_now(self, kind: type[Event], **facts: Any) -> None:
        """Let hooks hear of an event of the whole engine, and wait until they end; no task is needed for it."""
        hooks = self._hooks_of(tuple(self._catalogs))
        if hooks.wants(kind):
            await hooks.emit(kind(pipeline="", run_id="", at=self._services.store.now(), **facts))

    @override
    def monotonic(self) -> float:
        return self._services.clock.monotonic()

    @override
    def opened(self, name: str, definition: ResourceDefinition, seconds: float) -> None:
        facts = {"resource": name, "scope": definition.scope, "seconds": seconds}
        self._tell_of(definition, ResourceOpened, facts)

    @override
    def closed(self, name: str, definition: ResourceDefinition, seconds: float, error: BaseException | None) -> None:
        told = None if error is None else _closing(name, error, self._services, None)
        facts = {"resource": name, "scope": definition.scope, "seconds": seconds, "error": told}
        self._tell_of(definition, ResourceClosed, facts)

    def _tell_of(self, definition: ResourceDefinition, kind: type[Event], facts: Mapping[str, Any]) -> None:
        having = tuple(name for name, each in self._catalogs.items() if _has(each, definition))
        self._tell(kind, having[0] if having else "", having, facts)

    def _tell(self, kind: type[Event], pipeline: str, concerned: Iterable[str], facts: Mapping[str, Any]) -> None:
        hooks = self._hooks_of(concerned)
        if hooks.wants(kind):
            self._mail.post(hooks, kind(pipeline=pipeline, run_id="", at=self._services.store.now(), **facts))

    def _hooks_of(self, pipelines: Iterable[str]) -> Hooks:
        """Return an engine's hooks and those of some pipelines; one that came along with `include` counts once."""
        every = [hook for name in pipelines for hook in self._catalogs[name].hooks] + self._hooks
        once = {(hook.event, id(hook.function)): hook for hook in every}
        services = self._services
        return Hooks(list(once.values()), limit=services.settings.hook_timeout, hide=services.redactor.text)


class ObservedValues(Values):
    """The values of a run as one attempt of it gets at them, with an observer that tells of each that is loaded."""

    def __init__(self, values: Values, observer: Observer, given: Mapping[str, object]) -> None:
        self._values, self._observer, self._given = values, observer, given
        self.prints = values.prints

    @property
    @override
    def redactor(self) -> Redactor:
        return self._values.redactor

    @override
    def settled(self, index: int) -> tuple[Unit, Settled]:
        return self._values.settled(index)

    @override
    def external(self, edge: UnitInput) -> Materialization | None:
        return self._values.external(edge)

    @override
    async def load(self, unit: Unit, settled: Settled, wanted: object) -> Any:
        work, made = self._values.load(unit, settled, wanted), settled.materialization
        if made is None or made.id in self._given:
            return await work
        return await self._observer.loading(made, unit.partition, work)

    @override
    async def load_external(self, edge: UnitInput, current: Materialization, wanted: object) -> Any:
        partition = decode_key(current.key.partition)
        return await self._observer.loading(current, partition, self._values.load_external(edge, current, wanted))

    @override
    async def resource(self, name: str, scope: ResourceScope) -> Any:
        return await self._values.resource(name, scope)


def _has(catalog: Catalog, definition: ResourceDefinition) -> bool:
    return any(each.definition is definition for each in catalog.graph.resources.values())


def _closing(name: str, error: BaseException, services: Services, run_id: str | None) -> FlowstoneError:
    return retold(error, f"closing resource {name!r}", run_id=run_id, redactor=services.redactor)
