"""The decorators of a pipeline, typed: what kind of handle each kind of function becomes."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from typing import Any, ParamSpec, Protocol, TypeVar, cast, overload

from typing_extensions import Self, Unpack

from flowstone_async.definition.annotations import capture
from flowstone_async.definition.asset import AssetDefinition, AssetOptions, Location, RunIn
from flowstone_async.definition.collection import Collection
from flowstone_async.definition.handle import (
    Asset,
    AssetRef,
    BlockingAsset,
    PartitionedAsset,
    PartitionedBlockingAsset,
    PartitionedStreamAsset,
    StreamAsset,
)
from flowstone_async.definition.info import AssetInfo
from flowstone_async.definition.kind import StreamKind
from flowstone_async.definition.partition import PartitionSet
from flowstone_async.definition.resource import ResourceDefinition, ResourceScope

P = ParamSpec("P")
T = TypeVar("T")
K = TypeVar("K")
F = TypeVar("F", bound=Callable[..., object])


class AssetDecorator(Protocol):
    """What `@pipe.asset(...)` is."""

    @overload
    def __call__(self, body: Callable[P, Coroutine[Any, Any, T]], /) -> Asset[P, T]: ...
    @overload
    def __call__(self, body: Callable[P, AsyncIterator[T]], /) -> StreamAsset[P, T]: ...


class BlockingDecorator(Protocol):
    """What `@pipe.asset(run_in=...)` is."""

    def __call__(self, body: Callable[P, T], /) -> BlockingAsset[P, T]:
        """Make an asset of a plain function."""
        ...


class PartitionedDecorator(Protocol[K]):
    """What `@pipe.asset(partitions=...)` is."""

    @overload
    def __call__(self, body: Callable[P, Coroutine[Any, Any, T]], /) -> PartitionedAsset[P, T, K]: ...
    @overload
    def __call__(self, body: Callable[P, AsyncIterator[T]], /) -> PartitionedStreamAsset[P, T, K]: ...


class PartitionedBlockingDecorator(Protocol[K]):
    """What `@pipe.asset(partitions=..., run_in=...)` is."""

    def __call__(self, body: Callable[P, T], /) -> PartitionedBlockingAsset[P, T, K]:
        """Make an asset of a plain function."""
        ...


class Decorators(Collection):
    """The collecting side of a pipeline, as users see it."""

    @overload
    def asset(self, body: Callable[P, Coroutine[Any, Any, T]], /) -> Asset[P, T]: ...
    @overload
    def asset(self, body: Callable[P, AsyncIterator[T]], /) -> StreamAsset[P, T]: ...
    @overload
    def asset(
        self, *, partitions: PartitionSet[K], run_in: RunIn, **options: Unpack[AssetOptions]
    ) -> PartitionedBlockingDecorator[K]: ...
    @overload
    def asset(self, *, partitions: PartitionSet[K], **options: Unpack[AssetOptions]) -> PartitionedDecorator[K]: ...
    @overload
    def asset(self, *, run_in: RunIn, **options: Unpack[AssetOptions]) -> BlockingDecorator: ...
    @overload
    def asset(self, **options: Unpack[AssetOptions]) -> AssetDecorator: ...
    def asset(
        self,
        body: Callable[..., Any] | None = None,
        /,
        *,
        partitions: PartitionSet[Any] | None = None,
        run_in: RunIn | None = None,
        **options: Unpack[AssetOptions],
    ) -> Any:
        """Add an asset: a coroutine function, an async generator function (a stream), or a plain one with `run_in=`.

        Args:
            body: The function; its name is the asset's name, its parameters are injected.
            partitions: The set of keys it has values for. Without one it follows the run's key.
            run_in: Where a plain function runs: `"thread"`, `"process"` or `"dask"`.
            options: See `AssetOptions`.

        Example:
            >>> @pipe.asset
            ... async def doubled(raw: list[int]) -> list[int]:
            ...     return [n * 2 for n in raw]
        """
        scope = capture(sys._getframe(1))

        def decorate(function: Callable[..., Any]) -> AssetRef[Any]:
            return handle(self.define(function, options, scope=scope, partitions=partitions, run_in=run_in))

        return decorate if body is None else decorate(body)

    def add(
        self,
        body: Callable[..., Any],
        *,
        deps: Mapping[str, AssetRef[Any] | str] | None = None,
        partitions: PartitionSet[Any] | None = None,
        run_in: RunIn | None = None,
        **options: Unpack[AssetOptions],
    ) -> Asset[..., Any]:
        """Add an asset that was not written as a decorated function.

        Args:
            body: A function, a bound method, or an object with an async `__call__`.
            deps: Upstreams by parameter; other parameters are injected by the usual rules.
            partitions: As for `asset`.
            run_in: As for `asset`.
            options: See `AssetOptions`.
        """
        scope = capture(sys._getframe(1))
        definition = self.define(body, options, scope=scope, partitions=partitions, run_in=run_in, deps=deps)
        return cast("Asset[..., Any]", handle(definition))

    def constant(self, name: str, value: T, **options: Unpack[AssetOptions]) -> Asset[[], T]:
        """Add an asset with a fixed value; another value makes what was computed from it stale.

        Args:
            name: Its name.
            value: Its value.
            options: See `AssetOptions`.
        """
        return Asset(self.define_constant(name, value, options))

    def include(self, *others: Collection, prefix: str = "") -> Self:
        """Add copies of other pipelines' assets, resources and hooks, edges between them intact.

        Args:
            others: The pipelines; they are not changed. Including one twice with different prefixes gives two
                independent copies.
            prefix: Put before each of their names.
        """
        for other in others:
            self.include_one(other, prefix)
        return self

    @overload
    def resource(self, body: F, /) -> F: ...
    @overload
    def resource(
        self, *, name: str | None = None, scope: ResourceScope = "engine", health: Callable[..., object] | None = None
    ) -> Callable[[F], F]: ...
    def resource(
        self,
        body: Callable[..., Any] | None = None,
        /,
        *,
        name: str | None = None,
        scope: ResourceScope = "engine",
        health: Callable[..., object] | None = None,
    ) -> Any:
        """Add a resource: an async generator that yields once, or a coroutine; it is injected by annotated type.

        Args:
            body: The function; what it yields or returns is the resource.
            name: Tells two of one type apart: `resource("name")`. Default: the function's name.
            scope: How long it lives: `"engine"`, `"run"` or `"asset"`.
            health: Asked with the handle by `engine.health()`; None or True is healthy.
        """
        names = capture(sys._getframe(1))

        def register(function: F) -> F:
            self.define_resource(
                ResourceDefinition(
                    name=name or function.__name__,
                    body=function,
                    location=Location.of(function),
                    names=names,
                    scope=scope,
                    health=health,
                )
            )
            return function

        return register if body is None else register(body)

    def asset_info(self, asset: AssetRef[Any] | str) -> AssetInfo:
        """Return an asset's definition, resolved: kind, dependencies, options, value type, location.

        Raises:
            AssetNotFound: The pipeline has no such asset.
        """
        return self.info(asset if isinstance(asset, str) else asset.name)


def handle(definition: AssetDefinition) -> AssetRef[Any]:
    """Return the handle of the right type for a definition."""
    stream = isinstance(definition.kind, StreamKind)
    if definition.partitions is None:
        kind: type[AssetRef[Any]] = StreamAsset if stream else BlockingAsset if definition.run_in else Asset
    else:
        kind = PartitionedStreamAsset if stream else PartitionedBlockingAsset if definition.run_in else PartitionedAsset
    return kind(definition)


