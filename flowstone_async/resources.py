"""Open resources: opened on first need, once per scope, closed in reverse order when the scope ends.

Each open resource lives in a task of its own, so that it may hold task groups and timeouts, and so that the body that
asked first does not own it: cancelling that body neither closes it nor stops its opening.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import traceback
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import anyio

from flowstone_async.definition.binding import ParamFieldBinding, ParamsBinding, ResourceBinding
from flowstone_async.definition.graph import BoundResource
from flowstone_async.definition.resource import ResourceDefinition
from flowstone_async.errors import ConfigError, FlowstoneError, ResourceUnavailable, TimedOut
from flowstone_async.failures import ENDINGS

CLOSE_LIMIT = 10.0
_ENDED = object()
_logger = logging.getLogger("flowstone")


class Spawner(Protocol):
    """Whoever starts the tasks that resources live in."""

    def start_soon(self, function: Callable[..., Coroutine[Any, Any, Any]], *args: object, name: str) -> None:
        """Start a child task."""
        ...


class ResourceObserver(Protocol):
    """Whoever is told what becomes of the resources of a scope."""

    def monotonic(self) -> float:
        """Return seconds on a clock that never goes back."""
        ...

    def opened(self, name: str, definition: ResourceDefinition, seconds: float) -> None:
        """Hear that a resource is open, and how long that took."""
        ...

    def closed(self, name: str, definition: ResourceDefinition, seconds: float, error: BaseException | None) -> None:
        """Hear that a resource is closed or given up, how long it was open, and what went wrong."""
        ...


@dataclass(slots=True, eq=False)
class _Open:
    name: str
    definition: ResourceDefinition
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    leave: asyncio.Event = field(default_factory=asyncio.Event)
    closed: asyncio.Event = field(default_factory=asyncio.Event)
    value: Any = None
    error: BaseException | None = None
    since: float | None = None
    gone: bool = False


@dataclass(slots=True, kw_only=True, eq=False)
class ResourceScope:
    """The open resources of one scope: an engine, a run, or one attempt of an asset.

    Attributes:
        scope: Which resources belong here; others are asked of `outer`.
        replaced: Handles given from outside; used as they are and never closed.
        params: Gives a copy of the run's params as a type, for resources of a run or asset.
        observer: Is told what becomes of them.
        hide: Hides secrets in what is logged.
    """

    scope: str
    spawner: Spawner
    outer: ResourceScope | None = None
    replaced: Mapping[ResourceDefinition, object] = field(default_factory=dict[ResourceDefinition, object])
    params: Callable[[object], Any] | None = None
    observer: ResourceObserver | None = None
    hide: Callable[[str], str] = str
    _open: dict[ResourceDefinition, _Open] = field(default_factory=dict[ResourceDefinition, _Open])

    def inner(
        self, scope: str, observer: ResourceObserver | None, *, params: Callable[[object], Any] | None = None
    ) -> ResourceScope:
        """Return a narrower scope, which asks this one for what does not belong into it."""
        return ResourceScope(
            scope=scope,
            spawner=self.spawner,
            outer=self,
            replaced=self.replaced,
            params=params or self.params,
            observer=observer,
            hide=self.hide,
        )

    async def get(self, name: str, resources: Mapping[str, BoundResource]) -> Any:
        """Return a resource, opening it (and what it takes) on first need.

        Raises:
            ResourceUnavailable: Opening it failed; the next call tries again.
        """
        bound = resources[name]
        definition = bound.definition
        if definition in self.replaced:
            return self.replaced[definition]
        if definition.scope != self.scope:
            if self.outer is None:
                raise ConfigError(f"resource {name!r} lives in a {definition.scope}, and there is none here")
            return await self.outer.get(name, resources)
        entry = self._open.get(definition)
        if entry is None:
            entry = self._open[definition] = _Open(name, definition)
            self.spawner.start_soon(self._live, entry, bound, resources, name=f"resource {name}")
        await entry.ready.wait()
        if entry.error is not None:
            raise _unavailable(name, entry.error)
        return entry.value

    def opened(self) -> Mapping[ResourceDefinition, Any]:
        """Return the handles that are open now."""
        ready = ((definition, each) for definition, each in self._open.items() if each.ready.is_set())
        return {definition: each.value for definition, each in ready if each.error is None}

    async def close(self) -> None:
        """Close what is open, in reverse order of opening; one that fails or hangs does not keep the others open."""
        while self._open:
            _, entry = self._open.popitem()
            entry.leave.set()
            with anyio.CancelScope(shield=True), anyio.move_on_after(CLOSE_LIMIT) as limit:
                await entry.closed.wait()
            if limit.cancelled_caught:
                self._gone(entry, _hung(entry.name))

    async def _live(self, entry: _Open, bound: BoundResource, resources: Mapping[str, BoundResource]) -> None:
        generator: AsyncGenerator[Any] | None = None
        begun = 0.0 if self.observer is None else self.observer.monotonic()
        try:
            arguments = await self._arguments(bound, resources)
            made = bound.definition.body(**arguments)
            if inspect.isasyncgen(made):
                generator = cast("AsyncGenerator[Any]", made)
                entry.value = await anext(generator)
            else:
                entry.value = await made
        except BaseException as error:
            self._failed(entry, bound.definition, error)
            if isinstance(error, (*ENDINGS, asyncio.CancelledError)):
                raise
            return
        if bound.definition in self._open:  # what it took was asked for later and opened earlier
            self._open[bound.definition] = self._open.pop(bound.definition)
        if self.observer is not None:
            entry.since = self.observer.monotonic()
            self.observer.opened(entry.name, entry.definition, entry.since - begun)
        entry.ready.set()
        try:
            await entry.leave.wait()
        finally:
            if self._open.get(bound.definition) is entry:  # its own task group broke: the next call opens it anew
                del self._open[bound.definition]
            await self._end(entry, generator)

    async def _end(self, entry: _Open, generator: AsyncGenerator[Any] | None) -> None:
        error: BaseException | None = None
        try:
            if generator is not None:
                with anyio.CancelScope(shield=True), anyio.move_on_after(CLOSE_LIMIT) as limit:
                    if await anext(generator, _ENDED) is not _ENDED:
                        _logger.warning("resource %r yields more than once; the rest of it is not run", entry.name)
                        await generator.aclose()
                error = _hung(entry.name) if limit.cancelled_caught else None
        except (*ENDINGS, asyncio.CancelledError):
            raise
        except BaseException as raised:
            error = raised
        finally:
            self._gone(entry, error)
            entry.closed.set()

    def _gone(self, entry: _Open, error: BaseException | None) -> None:
        """Log what went wrong in a closing, and tell the observer; once, also where the end comes after all."""
        if entry.gone:
            return
        entry.gone = True
        if isinstance(error, TimedOut):
            _logger.warning("%s", self.hide(error.message))
        elif error is not None:
            told = self.hide("".join(traceback.format_exception(error)).rstrip())
            _logger.error("resource %r failed to close: %s", entry.name, told)
        if self.observer is not None and entry.since is not None:
            self.observer.closed(entry.name, entry.definition, self.observer.monotonic() - entry.since, error)

    def _failed(self, entry: _Open, definition: ResourceDefinition, error: BaseException) -> None:
        self._open.pop(definition, None)
        if isinstance(error, StopAsyncIteration):
            entry.error = RuntimeError("it ended without yielding")
        elif isinstance(error, (*ENDINGS, asyncio.CancelledError)):
            entry.error = RuntimeError("its opening was cancelled")
        else:
            entry.error = error
        entry.ready.set()
        entry.closed.set()

    async def _arguments(self, bound: BoundResource, resources: Mapping[str, BoundResource]) -> dict[str, object]:
        found: dict[str, object] = {}
        for binding in bound.bindings:
            match binding:
                case ResourceBinding():
                    found[binding.parameter] = await self.get(binding.resource, resources)
                case ParamsBinding(wanted=wanted) if self.params is not None:
                    found[binding.parameter] = self.params(wanted)
                case ParamFieldBinding() if self.params is not None:
                    found[binding.parameter] = getattr(self.params(None), binding.field)
                case _:
                    continue
        return found


def _hung(name: str) -> TimedOut:
    return TimedOut(f"resource {name!r} did not close within {CLOSE_LIMIT:g} s", details={"resource": name})


def _unavailable(name: str, cause: BaseException) -> FlowstoneError:
    if isinstance(cause, ResourceUnavailable):
        return cause
    error = ResourceUnavailable(
        f"resource {name!r} could not be opened: {cause or type(cause).__name__}",
        details={"resource": name, "error_type": type(cause).__name__},
        hint="Mend it and run again; it is opened anew by the next attempt.",
    )
    error.__cause__ = cause
    return error
