"""Handles: what a decorated function becomes, typed so that edges, partitions and calls are checked.

`OpenRef` (no declared partition set) and `PartitionedRef` are siblings, so that an overload can *require* a
partition of the right type; were one a subclass of the other, a wrong key would slip through the wider overload.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Coroutine
from typing import Any, Generic, ParamSpec, TypeVar

from typing_extensions import override

from flowstone_async.definition.asset import AssetDefinition
from flowstone_async.definition.body import function_of
from flowstone_async.definition.call import call_body
from flowstone_async.definition.stream import Stream

P = ParamSpec("P")
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
