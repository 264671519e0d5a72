"""Handles of scatters: what is called once for each item, and whose results can be gathered."""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable, Coroutine, Mapping
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, TypeAlias, TypeVar, overload

from typing_extensions import Unpack

from flowstone_async.definition.asset import AssetDefinition, AssetOptions
from flowstone_async.definition.call import call_body
from flowstone_async.definition.decorating import check_known
from flowstone_async.definition.gathered import Gathered
from flowstone_async.definition.handle import (
    Asset,
    AssetRef,
    OpenRef,
    PartitionedAsset,
    PartitionedRef,
    PartitionedStreamAsset,
    StreamAsset,
)
from flowstone_async.signals import Rearm

I = TypeVar("I")  # noqa: E741 - an item
M = TypeVar("M")
P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
K = TypeVar("K")
Gather: TypeAlias = Callable[[AssetDefinition, object, Mapping[str, object]], AssetRef[Any]]
"""Adds an asset that gathers a scatter to the scatter's pipeline: (scatter, function, options) -> its handle."""


class GatherDecorator(Protocol[T]):
    """What `@images.gather(...)` is."""

    @overload
    def __call__(
        self, body: Callable[Concatenate[Gathered[T], Q], Coroutine[Any, Any, R]], /
    ) -> Asset[Concatenate[Gathered[T], Q], R]: ...
    @overload
    def __call__(
        self, body: Callable[Concatenate[Gathered[T], Q], AsyncIterable[R]], /
    ) -> StreamAsset[Concatenate[Gathered[T], Q], R]: ...


class PartitionedGatherDecorator(Protocol[T, K]):
    """What `@images.gather(...)` is where the scatter has a partition set."""

    @overload
    def __call__(
        self, body: Callable[Concatenate[Gathered[T], Q], Coroutine[Any, Any, R]], /
    ) -> PartitionedAsset[Concatenate[Gathered[T], Q], R, K]: ...
    @overload
    def __call__(
        self, body: Callable[Concatenate[Gathered[T], Q], AsyncIterable[R]], /
    ) -> PartitionedStreamAsset[Concatenate[Gathered[T], Q], R, K]: ...


class ScatterAsset(OpenRef[Gathered[T_co]], Generic[P, T_co]):
    """An asset whose body is called once for each item of a source; its value is a `Gathered`."""

    def __init__(self, definition: AssetDefinition, gather: Gather) -> None:
        super().__init__(definition)
        self._gather = gather

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, T_co]:
        """Call the body alone, with one item: no store, no cache, no retry."""
        return call_body(self.definition, args, kwargs)

    def on_signal(  # pyright: ignore[reportIncompatibleMethodOverride] - of an item
        self, function: Callable[Concatenate[I, M, Q], Coroutine[Any, Any, T_co]], /
    ) -> Callable[Concatenate[I, M, Q], Coroutine[Any, Any, T_co]]:
        """Say what makes the result of an item, once the gate was signalled that the body returned for it.

        Args:
            function: A coroutine function. It takes the item (or the batch) first, then the payload, then `ctx`,
                params, resources and upstreams of the scatter, as the body. If it fails it is called again as `retry`
                says, with the same payload. Without one the payload is the result.

        Example:
            >>> @rendered.on_signal
            ... async def rendered_done(video: Video, done: JobDone) -> str:
            ...     return done.url
        """
        self._handled("on_signal", function)
        return function

    def on_timeout(  # pyright: ignore[reportIncompatibleMethodOverride] - of an item
        self, function: Callable[Concatenate[I, Q], Coroutine[Any, Any, T_co | Rearm]], /
    ) -> Callable[Concatenate[I, Q], Coroutine[Any, Any, T_co | Rearm]]:
        """Say what is to be done if nobody signals the gate in time that the body returned for an item.

        Args:
            function: A coroutine function. It takes the item (or the batch) first, then what the body may take. What it
                returns is the result; `Rearm("15m")` opens the gate again, with the same token, at most `max_rearms`
                times. Without one, and beyond that, the item fails with `TimedOut`.
        """
        self._handled("on_timeout", function)
        return function

    def on_approve(  # pyright: ignore[reportIncompatibleMethodOverride] - of an item
        self, function: Callable[Concatenate[I, Q], Coroutine[Any, Any, T_co]], /
    ) -> Callable[Concatenate[I, Q], Coroutine[Any, Any, T_co]]:
        """Say what makes the result of an item, once somebody has approved what the body returned for it.

        Args:
            function: A coroutine function. It takes the item (or the batch) first, then the `Decision`, whose
                `inputs["value"]` is what was to be approved, and what the body may take. If it fails it is called again
                as `retry` says, and nobody is asked again. Without one the result is what was approved.

        Example:
            >>> @reviewed.on_approve
            ... async def published(article: Article, decision: Decision[str]) -> str:
            ...     return f"{decision.form} (approved by {decision.by})"
        """
        self._handled("on_approve", function)
        return function

    def on_reject(  # pyright: ignore[reportIncompatibleMethodOverride] - of an item
        self, function: Callable[Concatenate[I, Q], Coroutine[Any, Any, T_co]], /
    ) -> Callable[Concatenate[I, Q], Coroutine[Any, Any, T_co]]:
        """Let a function give the result of an item although somebody has said no, or nobody decided in time.

        Args:
            function: It takes what `on_approve` takes. Without one the item fails with `Rejected`, for good.
        """
        self._handled("on_reject", function)
        return function

    @overload
    def gather(
        self, body: Callable[Concatenate[Gathered[T_co], Q], Coroutine[Any, Any, R]], /
    ) -> Asset[Concatenate[Gathered[T_co], Q], R]: ...
    @overload
    def gather(
        self, body: Callable[Concatenate[Gathered[T_co], Q], AsyncIterable[R]], /
    ) -> StreamAsset[Concatenate[Gathered[T_co], Q], R]: ...
    @overload
    def gather(self, /, **options: Unpack[AssetOptions]) -> GatherDecorator[T_co]: ...
    def gather(self, body: Any = None, /, **options: Unpack[AssetOptions]) -> Any:
        """Add an asset, under its function's own name, that takes all results of this scatter.

        The parameter annotated `Gathered` receives them, whatever it is called; the others are injected. The body runs
        once for each completed scatter, also for one without items and with failures that were tolerated.

        Args:
            body: A coroutine function, or an async generator function (a stream).
            options: See `AssetOptions`. Its partition set is that of the scatter.

        Example:
            >>> @images.gather
            ... async def album(results: Gathered[Image]) -> Album:
            ...     async for image in results: ...
        """
        return _gathering(self, self._gather, body, options)


class PartitionedScatterAsset(PartitionedRef[Gathered[T_co], K], Generic[P, T_co, K]):
    """A partitioned asset whose body is called once for each item of a source; its value is a `Gathered`."""

    def __init__(self, definition: AssetDefinition, gather: Gather) -> None:
        super().__init__(definition)
        self._gather = gather

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, T_co]:
        """Call the body alone, with one item: no store, no cache, no retry."""
        return call_body(self.definition, args, kwargs)

    def on_signal(  # pyright: ignore[reportIncompatibleMethodOverride] - of an item
        self, function: Callable[Concatenate[I, M, Q], Coroutine[Any, Any, T_co]], /
    ) -> Callable[Concatenate[I, M, Q], Coroutine[Any, Any, T_co]]:
        """Say what makes the result of an item of the payload; see `ScatterAsset.on_signal`."""
        self._handled("on_signal", function)
        return function

    def on_timeout(  # pyright: ignore[reportIncompatibleMethodOverride] - of an item
        self, function: Callable[Concatenate[I, Q], Coroutine[Any, Any, T_co | Rearm]], /
    ) -> Callable[Concatenate[I, Q], Coroutine[Any, Any, T_co | Rearm]]:
        """Say what is to be done if nobody signals the gate in time; see `ScatterAsset.on_timeout`."""
        self._handled("on_timeout", function)
        return function

    def on_approve(  # pyright: ignore[reportIncompatibleMethodOverride] - of an item
        self, function: Callable[Concatenate[I, Q], Coroutine[Any, Any, T_co]], /
    ) -> Callable[Concatenate[I, Q], Coroutine[Any, Any, T_co]]:
        """Say what makes the result of an item of the decision; see `ScatterAsset.on_approve`."""
        self._handled("on_approve", function)
        return function

    def on_reject(  # pyright: ignore[reportIncompatibleMethodOverride] - of an item
        self, function: Callable[Concatenate[I, Q], Coroutine[Any, Any, T_co]], /
    ) -> Callable[Concatenate[I, Q], Coroutine[Any, Any, T_co]]:
        """Let a function give the result of an item that was rejected; see `ScatterAsset.on_reject`."""
        self._handled("on_reject", function)
        return function

    @overload
    def gather(
        self, body: Callable[Concatenate[Gathered[T_co], Q], Coroutine[Any, Any, R]], /
    ) -> PartitionedAsset[Concatenate[Gathered[T_co], Q], R, K]: ...
    @overload
    def gather(
        self, body: Callable[Concatenate[Gathered[T_co], Q], AsyncIterable[R]], /
    ) -> PartitionedStreamAsset[Concatenate[Gathered[T_co], Q], R, K]: ...
    @overload
    def gather(self, /, **options: Unpack[AssetOptions]) -> PartitionedGatherDecorator[T_co, K]: ...
    def gather(self, body: Any = None, /, **options: Unpack[AssetOptions]) -> Any:
        """Add an asset, under its function's own name, that takes all results of this scatter for the same key.

        Args:
            body: As for `ScatterAsset.gather`.
            options: See `AssetOptions`. Its partition set is that of the scatter.
        """
        return _gathering(self, self._gather, body, options)


def _gathering(scatter: AssetRef[Any], gather: Gather, body: object, options: Mapping[str, object]) -> Any:
    check_known("gather", options, AssetOptions.__optional_keys__)

    def decorate(function: object) -> AssetRef[Any]:
        return gather(scatter.definition, function, options)

    return decorate if body is None else decorate(body)
