"""The functions users write as defaults: `dep`, `param`, `resource`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeVar, cast, overload

from flowstone_async.definition.handle import AssetRef, PartitionedRef
from flowstone_async.definition.mapping import KeyMapping
from flowstone_async.definition.marker import Dependency, ParamField, ResourceName

T = TypeVar("T")
K = TypeVar("K")


@overload
def dep(asset: PartitionedRef[T, K], *, over: KeyMapping, optional: Literal[True]) -> Mapping[K, T | None]: ...
@overload
def dep(asset: PartitionedRef[T, K], *, over: KeyMapping, optional: Literal[False] = ...) -> Mapping[K, T]: ...
@overload
def dep(asset: AssetRef[T], *, over: KeyMapping, optional: Literal[True]) -> Mapping[Any, T | None]: ...
@overload
def dep(asset: AssetRef[T], *, over: KeyMapping, optional: Literal[False] = ...) -> Mapping[Any, T]: ...
@overload
def dep(asset: AssetRef[T], *, optional: Literal[True], external: bool = ...) -> T | None: ...
@overload
def dep(asset: AssetRef[T], *, optional: Literal[False] = ..., external: bool = ...) -> T: ...
@overload
def dep(asset: str, *, over: KeyMapping | None = ..., optional: bool = ...) -> Any: ...
def dep(
    asset: AssetRef[Any] | str,
    *,
    over: KeyMapping | None = None,
    optional: bool = False,
    external: bool = False,
) -> Any:
    """Take an asset's value by reference, under any parameter name.

    Declared to return the asset's value type, so that a type checker verifies the edge.

    Args:
        asset: Handle of the upstream, or its name.
        over: A mapping of partitions (`days.last(7)`, `days.all()`, `mapping(fn)`); the parameter then receives an
            ordered mapping from key to value.
        optional: Receive None if the upstream was skipped, failed or is missing; `ctx.dep_status` tells which.
        external: The asset belongs to another pipeline; its current value is read, it is never run.

    Example:
        >>> @pipe.asset
        ... async def total(numbers: list[int] = dep(doubled)) -> int:
        ...     return sum(numbers)
    """
    return cast("Any", Dependency(asset=asset, over=over, optional=optional, external=external))


def param(name: str) -> Any:
    """Take one field of the run's params.

    Args:
        name: Field of the pipeline's params type.

    Example:
        >>> @pipe.asset
        ... async def recent(limit: int = param("limit")) -> list[Order]: ...
    """
    return cast("Any", ParamField(name))


def resource(name: str) -> Any:
    """Take a resource by its name, where two have one type.

    Args:
        name: Name of a resource of the pipeline.

    Example:
        >>> @pipe.asset
        ... async def sales(db: Pool = resource("reporting")) -> list[Sale]: ...
    """
    return cast("Any", ResourceName(name))
