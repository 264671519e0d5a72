"""The decorators of a pipeline, typed: what kind of handle each kind of function becomes."""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable, Coroutine, Mapping
from typing import Any, ParamSpec, Protocol, Self, TypeAlias, TypeVar, overload

from typing_extensions import Unpack

from flowstone_async.approval_gate import ApprovalGate
from flowstone_async.definition.annotations import capture
from flowstone_async.definition.approval_decorator import ApprovalDecorators
from flowstone_async.definition.asset import AssetOptions, RunIn, UnnamedOptions
from flowstone_async.definition.body import name_of
from flowstone_async.definition.collection import Collection
from flowstone_async.definition.decorating import check_known, handle, plain
from flowstone_async.definition.handle import (
    Asset,
    AssetRef,
    BlockingAsset,
    PartitionedAsset,
    PartitionedBlockingAsset,
    PartitionedStreamAsset,
    StreamAsset,
)
from flowstone_async.definition.location import Location, caller
from flowstone_async.definition.partition import PartitionSet
from flowstone_async.definition.resource import ResourceDefinition, ResourceScope
from flowstone_async.definition.scatter_decorator import ScatterDecorators
from flowstone_async.definition.single import Single
from flowstone_async.signals import SignalGate

P = ParamSpec("P")
S = TypeVar("S")
S_co = TypeVar("S_co", covariant=True)
T = TypeVar("T")
K = TypeVar("K")
F = TypeVar("F", bound=Callable[..., object])
Deps: TypeAlias = Mapping[str, AssetRef[Any] | str]


class AssetDecorator(Protocol):
    """What `@pipe.asset(...)` is."""

    @overload
    def __call__(self, body: Callable[P, Coroutine[Any, Any, T | ApprovalGate[T]]], /) -> Asset[P, T]: ...
    @overload
    def __call__(self, body: Callable[P, AsyncIterable[T]], /) -> StreamAsset[P, T]: ...


class BlockingDecorator(Protocol):
    """What `@pipe.asset(run_in=...)` is."""

    def __call__(self, body: Callable[P, T], /) -> BlockingAsset[P, T]:
        """Make an asset of a plain function."""
        ...


class GatedDecorator(Protocol[S_co]):
    """What `@pipe.asset(signal=...)` is."""

    def __call__(
        self, body: Callable[P, Coroutine[Any, Any, T | SignalGate[S_co] | ApprovalGate[T]]], /
    ) -> Asset[P, T]:
        """Make an asset of a body that may return a gate in place of its value."""
        ...


class PartitionedGatedDecorator(Protocol[S_co, K]):
    """What `@pipe.asset(signal=..., partitions=...)` is."""

    def __call__(
        self, body: Callable[P, Coroutine[Any, Any, T | SignalGate[S_co] | ApprovalGate[T]]], /
    ) -> PartitionedAsset[P, T, K]:
        """Make an asset of a body that may return a gate in place of its value."""
        ...


class PartitionedDecorator(Protocol[K]):
    """What `@pipe.asset(partitions=...)` is."""

    @overload
    def __call__(self, body: Callable[P, Coroutine[Any, Any, T | ApprovalGate[T]]], /) -> PartitionedAsset[P, T, K]: ...
    @overload
    def __call__(self, body: Callable[P, AsyncIterable[T]], /) -> PartitionedStreamAsset[P, T, K]: ...


class PartitionedBlockingDecorator(Protocol[K]):
    """What `@pipe.asset(partitions=..., run_in=...)` is."""

    def __call__(self, body: Callable[P, T], /) -> PartitionedBlockingAsset[P, T, K]:
        """Make an asset of a plain function."""
        ...


class Decorators(ApprovalDecorators, ScatterDecorators):
    """The collecting side of a pipeline, as users see it."""

    @overload
    def asset(self, body: Callable[P, Coroutine[Any, Any, T | ApprovalGate[T]]], /) -> Asset[P, T]: ...
    @overload
    def asset(self, body: Callable[P, AsyncIterable[T]], /) -> StreamAsset[P, T]: ...
    @overload
    def asset(
        self, /, *, partitions: Single | None = None, run_in: RunIn, **options: Unpack[AssetOptions]
    ) -> BlockingDecorator: ...
    @overload
    def asset(
        self, /, *, partitions: Single | None = None, run_in: None = None, **options: Unpack[AssetOptions]
    ) -> AssetDecorator: ...
    @overload
    def asset(
        self, /, *, partitions: PartitionSet[K], run_in: RunIn, **options: Unpack[AssetOptions]
    ) -> PartitionedBlockingDecorator[K]: ...
    @overload
    def asset(
        self, /, *, partitions: PartitionSet[K], run_in: None = None, **options: Unpack[AssetOptions]
    ) -> PartitionedDecorator[K]: ...
    @overload
    def asset(
        self,
        /,
        *,
        signal: type[S],
        max_rearms: int = 3,
        partitions: Single | None = None,
        run_in: None = None,
        **options: Unpack[AssetOptions],
    ) -> GatedDecorator[S]: ...
    @overload
    def asset(
        self,
        /,
        *,
        signal: type[S],
        max_rearms: int = 3,
        partitions: PartitionSet[K],
        run_in: None = None,
        **options: Unpack[AssetOptions],
    ) -> PartitionedGatedDecorator[S, K]: ...
    def asset(
        self,
        body: Callable[..., Any] | None = None,
        /,
        *,
        partitions: PartitionSet[Any] | None = None,
        run_in: RunIn | None = None,
        signal: type[Any] | None = None,
        max_rearms: int | None = None,
        **options: Unpack[AssetOptions],
    ) -> Any:
        """Add an asset: a coroutine function, an async generator function (a stream), or a plain one with `run_in=`.

        Args:
            body: The function; its name is the asset's name, its parameters are injected.
            partitions: The set of keys it has values for. Without one it follows the run's key.
            run_in: Where a plain function runs: `"thread"`, `"process"` or `"dask"`.
            signal: Type of the payload of a gate that the body may return in place of its value; it is annotated
                `T | SignalGate[S]` then. See `on_signal` and `on_timeout` of the asset.
            max_rearms: How often `on_timeout` may open that gate again: 3 times without it.
            options: See `AssetOptions`.

        Example:
            >>> @pipe.asset
            ... async def doubled(raw: list[int]) -> list[int]:
            ...     return [n * 2 for n in raw]
        """
        check_known("asset", options, AssetOptions.__optional_keys__)

        def decorate(function: Callable[..., Any]) -> AssetRef[Any]:
            made = self.define(
                plain("asset", function),
                options,
                partitions=partitions,
                run_in=run_in,
                signal=signal,
                max_rearms=max_rearms,
            )
            return handle(made)

        return decorate if body is None else decorate(body)

    @overload
    def add(
        self,
        body: Callable[P, Coroutine[Any, Any, T | ApprovalGate[T]]],
        *,
        deps: Deps | None = None,
        partitions: Single | None = None,
        run_in: None = None,
        **options: Unpack[AssetOptions],
    ) -> Asset[P, T]: ...
    @overload
    def add(
        self,
        body: Callable[P, AsyncIterable[T]],
        *,
        deps: Deps | None = None,
        partitions: Single | None = None,
        run_in: None = None,
        **options: Unpack[AssetOptions],
    ) -> StreamAsset[P, T]: ...
    @overload
    def add(
        self,
        body: Callable[P, T],
        *,
        deps: Deps | None = None,
        partitions: Single | None = None,
        run_in: RunIn,
        **options: Unpack[AssetOptions],
    ) -> BlockingAsset[P, T]: ...
    @overload
    def add(
        self,
        body: Callable[P, Coroutine[Any, Any, T | ApprovalGate[T]]],
        *,
        deps: Deps | None = None,
        partitions: PartitionSet[K],
        run_in: None = None,
        **options: Unpack[AssetOptions],
    ) -> PartitionedAsset[P, T, K]: ...
    @overload
    def add(
        self,
        body: Callable[P, AsyncIterable[T]],
        *,
        deps: Deps | None = None,
        partitions: PartitionSet[K],
        run_in: None = None,
        **options: Unpack[AssetOptions],
    ) -> PartitionedStreamAsset[P, T, K]: ...
    @overload
    def add(
        self,
        body: Callable[P, T],
        *,
        deps: Deps | None = None,
        partitions: PartitionSet[K],
        run_in: RunIn,
        **options: Unpack[AssetOptions],
    ) -> PartitionedBlockingAsset[P, T, K]: ...
    def add(
        self,
        body: Callable[..., Any],
        *,
        deps: Deps | None = None,
        partitions: PartitionSet[Any] | None = None,
        run_in: RunIn | None = None,
        **options: Unpack[AssetOptions],
    ) -> Any:
        """Add an asset that was not written as a decorated function.

        Args:
            body: A function, a bound method, or an object with an async `__call__`. One that takes `**inputs` gets
                whatever `deps` names.
            deps: Upstreams by parameter, as handles or names; other parameters are injected by the usual rules.
            partitions: As for `asset`.
            run_in: As for `asset`.
            options: See `AssetOptions`.

        Example:
            >>> for city in cities:
            ...     pipe.add(Forecast(city), name=f"forecast_{city}", deps={"weather": "observed"})
        """
        check_known("add", options, AssetOptions.__optional_keys__)
        return handle(self.define(plain("add", body), options, partitions=partitions, run_in=run_in, deps=deps))

    def constant(self, name: str, value: T, **options: Unpack[UnnamedOptions]) -> Asset[[], T]:
        """Add an asset with a fixed value; another value makes what was computed from it stale.

        Args:
            name: Its name.
            value: Its value.
            options: See `AssetOptions`.

        Example:
            >>> rate = pipe.constant("rate", 0.2)
        """
        check_known("constant", options, UnnamedOptions.__optional_keys__)
        return Asset(self.define_constant(name, value, options))

    def include(self, *others: Collection, prefix: str = "") -> Self:
        """Add copies of what other pipelines hold now: assets, resources and hooks, edges between them intact.

        Args:
            others: The pipelines; they are not changed. Including one twice with different prefixes gives two
                independent copies. A hook is added once, and hears of all assets of this pipeline.
            prefix: Put before each of their names.

        Returns:
            This pipeline.

        Example:
            >>> app = Pipeline("app").include(orders, billing)
        """
        for other in others:
            if not isinstance(other, Collection):
                raise TypeError(f"include() takes pipelines, not {other!r}")
            self.include_one(other, prefix)
        return self

    @overload
    def resource(self, body: F, /) -> F: ...
    @overload
    def resource(
        self,
        /,
        *,
        name: str | None = None,
        scope: ResourceScope = "engine",
        health: Callable[..., object] | None = None,
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

        Example:
            >>> @pipe.resource
            ... async def db(settings: Settings) -> AsyncIterator[asyncpg.Pool]:
            ...     async with asyncpg.create_pool(settings.dsn) as pool:
            ...         yield pool
        """

        def register(function: F) -> F:
            given: object = name_of(plain("resource", function)) if name is None else name
            self.define_resource(
                ResourceDefinition(
                    name=given if isinstance(given, str) else repr(given),
                    home=self.home,
                    body=function,
                    location=Location.of(function),
                    names=capture(caller()),
                    scope=scope,
                    health=health,
                )
            )
            return function

        return register if body is None else register(body)
