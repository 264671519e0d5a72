"""Handles: what a decorated function becomes, typed so that edges, partitions and calls are checked.

`OpenRef` (no declared partition set) and `PartitionedRef` are siblings, so that an overload can *require* a
partition of the right type; were one a subclass of the other, a wrong key would slip through the wider overload.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

from typing_extensions import override

from flowstone_async.definition.annotations import capture
from flowstone_async.definition.asset import AssetDefinition, Handler, HandlerPart
from flowstone_async.definition.body import function_of
from flowstone_async.definition.call import call_body
from flowstone_async.definition.location import Location, caller
from flowstone_async.definition.stream import Stream
from flowstone_async.signals import Rearm

M = TypeVar("M")
P = ParamSpec("P")
Q = ParamSpec("Q")
T_co = TypeVar("T_co", covariant=True)
K = TypeVar("K")


class AssetRef(Generic[T_co]):
    """A reference to an asset whose value is a `T`."""

    def __init__(self, definition: AssetDefinition) -> None:
        self.definition = definition
        body = definition.body
        self.__wrapped__ = body
        self.__name__ = definition.name
        self.__qualname__: str = getattr(body, "__qualname__", definition.name)
        self.__module__ = getattr(body, "__module__", None) or type(self).__module__
        self.__doc__ = getattr(function_of(body), "__doc__", None) or definition.description

    @property
    def name(self) -> str:
        """Name of the asset in the pipeline that defines it."""
        return self.definition.name

    def on_signal(
        self, function: Callable[Concatenate[M, Q], Coroutine[Any, Any, T_co]], /
    ) -> Callable[Concatenate[M, Q], Coroutine[Any, Any, T_co]]:
        """Say what makes the value of the payload, once the gate was signalled that the body returned.

        It takes the payload first, then `ctx`, params, resources and upstreams of the asset, as its body. If it fails
        it is called again as the asset's `retry` says, with the same payload. Without one the payload is the value.

        Args:
            function: A coroutine function.

        Example:
            >>> @embedded.on_signal
            ... async def embedded_done(done: JobDone) -> str:
            ...     return done.result
        """
        self._handled("on_signal", function)
        return function

    def on_timeout(
        self, function: Callable[Q, Coroutine[Any, Any, T_co | Rearm]], /
    ) -> Callable[Q, Coroutine[Any, Any, T_co | Rearm]]:
        """Say what is to be done if nobody signals the gate in time that the body returned.

        It takes what the body may take. What it returns is the value; `Rearm("15m")` opens the gate again, with the
        same token, at most `max_rearms` times. Without one, and beyond that, the asset fails with `TimedOut`.

        Args:
            function: A coroutine function.

        Example:
            >>> @embedded.on_timeout
            ... async def embedded_late(ctx: Context) -> Rearm:
            ...     return Rearm("15m")
        """
        self._handled("on_timeout", function)
        return function

    def on_approve(self, function: Callable[Q, Coroutine[Any, Any, T_co]], /) -> Callable[Q, Coroutine[Any, Any, T_co]]:
        """Say what makes the value once somebody has approved what the body returned with `ApprovalGate`.

        It takes the `Decision` (the parameter that is annotated or called so, else the first one without annotation),
        whose `inputs["value"]` is what was to be approved, and what the body may take. If it fails it is called again
        as the asset's `retry` says; nobody is asked again. Without one the value is what was approved.

        Args:
            function: A coroutine function.

        Example:
            >>> @article.on_approve
            ... async def published(decision: Decision[str]) -> str:
            ...     return f"{decision.form} (approved by {decision.by})"
        """
        self._handled("on_approve", function)
        return function

    def on_reject(self, function: Callable[Q, Coroutine[Any, Any, T_co]], /) -> Callable[Q, Coroutine[Any, Any, T_co]]:
        """Let a function give a value although somebody has said no, or nobody decided in time: the run goes on.

        It takes what `on_approve` takes. Without one the asset fails with `Rejected`.

        Args:
            function: A coroutine function.
        """
        self._handled("on_reject", function)
        return function

    def _handled(self, part: HandlerPart, function: Callable[..., Any]) -> None:
        if not callable(function):
            raise TypeError(f"{part} takes a function, not {function!r}")
        self.definition.handlers.add(part, Handler(function, capture(caller()), Location.of(function)))

    @override
    def __repr__(self) -> str:
        return f"<asset {self.definition.home.name}.{self.definition.name}>"

    def __reduce__(self) -> str | tuple[Any, ...]:
        """Travel to another process by name: of the module, and of the function that was decorated there."""
        return self.__qualname__


class OpenRef(AssetRef[T_co]):
    """An asset that any run may ask for: without a declared set it follows the run's key; `Single()` has one value."""


class PartitionedRef(AssetRef[T_co], Generic[T_co, K]):
    """An asset with a declared partition set, whose keys are of type `K`."""


class Asset(OpenRef[T_co], Generic[P, T_co]):
    """An asset computed by a coroutine function."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, T_co]:
        """Call the body alone: no store, no cache, no retry."""
        return call_body(self.definition, args, kwargs)


class BlockingAsset(OpenRef[T_co], Generic[P, T_co]):
    """An asset computed by a plain function, in a thread or a process."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T_co:
        """Call the body alone, here: no store, no cache, no retry, no thread."""
        return call_body(self.definition, args, kwargs)


class StreamAsset(OpenRef[Stream[T_co]], Generic[P, T_co]):
    """An asset computed by an async generator function; its value is a `Stream`."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> AsyncIterator[T_co]:
        """Call the body alone: no store, no cache, no retry."""
        return call_body(self.definition, args, kwargs)


class PartitionedAsset(PartitionedRef[T_co, K], Generic[P, T_co, K]):
    """A partitioned asset computed by a coroutine function."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, T_co]:
        """Call the body alone: no store, no cache, no retry."""
        return call_body(self.definition, args, kwargs)


class PartitionedBlockingAsset(PartitionedRef[T_co, K], Generic[P, T_co, K]):
    """A partitioned asset computed by a plain function, in a thread or a process."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T_co:
        """Call the body alone, here: no store, no cache, no retry, no thread."""
        return call_body(self.definition, args, kwargs)


class PartitionedStreamAsset(PartitionedRef[Stream[T_co], K], Generic[P, T_co, K]):
    """A partitioned asset computed by an async generator function; its value is a `Stream`."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> AsyncIterator[T_co]:
        """Call the body alone: no store, no cache, no retry."""
        return call_body(self.definition, args, kwargs)
