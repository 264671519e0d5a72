"""`@pipe.scatter`, typed: the items of the source decide what the first parameter of the body may be."""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable, Coroutine, Iterable, Mapping
from typing import Any, Concatenate, Generic, Literal, ParamSpec, TypeAlias, TypeVar, cast, overload

from typing_extensions import Unpack

from flowstone_async.approval_gate import ApprovalGate
from flowstone_async.definition.asset import AssetDefinition, AssetOptions
from flowstone_async.definition.batch import Batch
from flowstone_async.definition.batching import Batching
from flowstone_async.definition.collection import Collection
from flowstone_async.definition.decorating import check_known, handle, plain
from flowstone_async.definition.handle import AssetRef
from flowstone_async.definition.item import Item
from flowstone_async.definition.item_source import ItemReader
from flowstone_async.definition.partition import PartitionSet
from flowstone_async.definition.scatter_handle import PartitionedScatterAsset, ScatterAsset
from flowstone_async.definition.scatter_option import ScatterOptions, check_source
from flowstone_async.definition.single import Single
from flowstone_async.signals import SignalGate

P = ParamSpec("P")
Raw = TypeVar("Raw")
Selected = TypeVar("Selected")
T = TypeVar("T")
K = TypeVar("K")
Given_co = TypeVar("Given_co", covariant=True)

ItemSource: TypeAlias = (
    AssetRef[Iterable[Raw]]
    | AssetRef[AsyncIterable[Raw]]
    | ItemReader[Raw]
    | Callable[..., AsyncIterable[Raw]]
    | Iterable[Raw]
    | AsyncIterable[Raw]
)
"""What gives items: an asset, a source, an async generator function, a collection, or `dep(...)`."""
Key: TypeAlias = Callable[Concatenate[Raw, ...], object] | Literal[False]
Select: TypeAlias = Callable[Concatenate[Raw, ...], Selected]


class _Decorator:
    def __init__(self, decorate: Callable[[object], AssetRef[Any]]) -> None:
        self._decorate = decorate


class ScatterDecorator(_Decorator, Generic[Given_co]):
    """What `@pipe.scatter(...)` is. A mapping without a model arrives as an `Item`, so the body may take either."""

    @overload
    def __call__(
        self, body: Callable[Concatenate[Given_co, P], Coroutine[Any, Any, T | SignalGate[Any] | ApprovalGate[T]]], /
    ) -> ScatterAsset[Concatenate[Given_co, P], T]: ...
    @overload
    def __call__(
        self: ScatterDecorator[Mapping[str, Any]],
        body: Callable[Concatenate[Item, P], Coroutine[Any, Any, T | SignalGate[Any] | ApprovalGate[T]]],
        /,
    ) -> ScatterAsset[Concatenate[Item, P], T]: ...
    @overload
    def __call__(
        self: ScatterDecorator[Batch[Mapping[str, Any]]],
        body: Callable[Concatenate[Batch[Item], P], Coroutine[Any, Any, T | SignalGate[Any] | ApprovalGate[T]]],
        /,
    ) -> ScatterAsset[Concatenate[Batch[Item], P], T]: ...
    def __call__(self, body: Any, /) -> Any:
        """Make a scatter of a coroutine function."""
        return self._decorate(body)


class PartitionedScatterDecorator(_Decorator, Generic[Given_co, K]):
    """What `@pipe.scatter(..., partitions=...)` is."""

    @overload
    def __call__(
        self, body: Callable[Concatenate[Given_co, P], Coroutine[Any, Any, T | SignalGate[Any] | ApprovalGate[T]]], /
    ) -> PartitionedScatterAsset[Concatenate[Given_co, P], T, K]: ...
    @overload
    def __call__(
        self: PartitionedScatterDecorator[Mapping[str, Any], K],
        body: Callable[Concatenate[Item, P], Coroutine[Any, Any, T | SignalGate[Any] | ApprovalGate[T]]],
        /,
    ) -> PartitionedScatterAsset[Concatenate[Item, P], T, K]: ...
    @overload
    def __call__(
        self: PartitionedScatterDecorator[Batch[Mapping[str, Any]], K],
        body: Callable[Concatenate[Batch[Item], P], Coroutine[Any, Any, T | SignalGate[Any] | ApprovalGate[T]]],
        /,
    ) -> PartitionedScatterAsset[Concatenate[Batch[Item], P], T, K]: ...
    def __call__(self, body: Any, /) -> Any:
        """Make a scatter of a coroutine function."""
        return self._decorate(body)


class ScatterDecorators(Collection):
    """The part of a pipeline's collecting side that is about scatters."""

    @overload
    def scatter(
        self,
        source: ItemSource[Raw],
        /,
        *,
        select: None = None,
        key: Key[Raw] | None = None,
        batch: Literal[False] | None = None,
        partitions: Single | None = None,
        **options: Unpack[ScatterOptions],
    ) -> ScatterDecorator[Raw]: ...
    @overload
    def scatter(
        self,
        source: ItemSource[Raw],
        /,
        *,
        select: Select[Raw, Selected],
        key: Key[Selected] | None = None,
        batch: Literal[False] | None = None,
        partitions: Single | None = None,
        **options: Unpack[ScatterOptions],
    ) -> ScatterDecorator[Selected]: ...
    @overload
    def scatter(
        self,
        source: ItemSource[Raw],
        /,
        *,
        select: None = None,
        key: Key[Raw] | None = None,
        batch: Literal[False] | None = None,
        partitions: PartitionSet[K],
        **options: Unpack[ScatterOptions],
    ) -> PartitionedScatterDecorator[Raw, K]: ...
    @overload
    def scatter(
        self,
        source: ItemSource[Raw],
        /,
        *,
        select: Select[Raw, Selected],
        key: Key[Selected] | None = None,
        batch: Literal[False] | None = None,
        partitions: PartitionSet[K],
        **options: Unpack[ScatterOptions],
    ) -> PartitionedScatterDecorator[Selected, K]: ...
    @overload
    def scatter(
        self,
        source: ItemSource[Raw],
        /,
        *,
        select: None = None,
        key: Key[Raw] | None = None,
        batch: Batching[Raw],
        partitions: Single | None = None,
        **options: Unpack[ScatterOptions],
    ) -> ScatterDecorator[Batch[Raw]]: ...
    @overload
    def scatter(
        self,
        source: ItemSource[Raw],
        /,
        *,
        select: Select[Raw, Selected],
        key: Key[Selected] | None = None,
        batch: Batching[Selected],
        partitions: Single | None = None,
        **options: Unpack[ScatterOptions],
    ) -> ScatterDecorator[Batch[Selected]]: ...
    @overload
    def scatter(
        self,
        source: ItemSource[Raw],
        /,
        *,
        select: None = None,
        key: Key[Raw] | None = None,
        batch: Batching[Raw],
        partitions: PartitionSet[K],
        **options: Unpack[ScatterOptions],
    ) -> PartitionedScatterDecorator[Batch[Raw], K]: ...
    @overload
    def scatter(
        self,
        source: ItemSource[Raw],
        /,
        *,
        select: Select[Raw, Selected],
        key: Key[Selected] | None = None,
        batch: Batching[Selected],
        partitions: PartitionSet[K],
        **options: Unpack[ScatterOptions],
    ) -> PartitionedScatterDecorator[Batch[Selected], K]: ...
    def scatter(
        self,
        source: Any,
        /,
        *,
        select: Any = None,
        key: Any = None,
        batch: Batching[Any] | Literal[False] | None = None,
        partitions: PartitionSet[Any] | None = None,
        **options: Unpack[ScatterOptions],
    ) -> Any:
        """Add an asset whose body is called once for each item of a source; its value is a `Gathered`.

        The first parameter of the body is the item, or with `batch=` a `Batch` of them; the others are injected as in
        any asset.

        Args:
            source: Where items come from: a collection, an asset whose value is iterable, a stream asset, `dep(...)` of
                either, a source object, or an async generator function, which may take dependencies.
            select: Makes of an item what the body receives. It may take dependencies too, by name.
            key: Gives what the body receives its identity [its content]; items with equal keys run once. False makes
                every position an item of its own. It may take dependencies too, by name.
            batch: Calls the body once for several items together, with a `Batch` of them; see `Batching`.
            partitions: The set of keys it has values for. Without one it follows the run's key.
            options: See `ScatterOptions`.

        Example:
            >>> @pipe.scatter(image_urls, max_concurrent=50, tolerate=0.02)
            ... async def images(url: str) -> Image:
            ...     return await download(url)
        """
        check_known("scatter", options, ScatterOptions.__optional_keys__)
        check_source(source)
        given = {**options, "select": select, "key": key, "batch": batch}

        def decorate(body: object) -> AssetRef[Any]:
            definition = self.define_scatter(plain("scatter", body), source, given, partitions=partitions)
            handle_type = ScatterAsset[..., Any] if _follows(definition) else PartitionedScatterAsset[..., Any, Any]
            return handle_type(definition, self._gather)

        return ScatterDecorator[Any](decorate)

    def _gather(self, scatter: AssetDefinition, body: object, options: Mapping[str, Any]) -> AssetRef[Any]:
        """Add an asset that takes the results of a scatter."""
        function, given = plain("gather", body), cast("AssetOptions", options)
        return handle(self.define(function, given, partitions=scatter.partitions, gathers=scatter))


def _follows(definition: AssetDefinition) -> bool:
    """Tell whether an asset follows the run's key, or has one value."""
    return definition.partitions is None or not definition.partitions.dimensions
