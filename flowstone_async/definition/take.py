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
def dep(asset: PartitionedRef[T, K], *, over: KeyMapping, optional: bool = ..., external: bool = ...) -> Mapping[K, T]: ...
@overload
def dep(asset: AssetRef[T], *, over: KeyMapping, optional: bool = ..., external: bool = ...) -> Mapping[Any, T]: ...
@overload
def dep(asset: AssetRef[T], *, optional: Literal[True], external: bool = ...) -> T | None: ...
@overload
def dep(asset: AssetRef[T], *, external: bool = ...) -> T: ...
@overload
def dep(asset: str, *, over: KeyMapping | None = ..., optional: bool = ..., external: bool = ...) -> Any: ...
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
    """Take one field of the run's params: `limit: int = param("limit")`.

    Args:
        name: Field of the pipeline's params type.
    """
    return cast("Any", ParamField(name))


def resource(name: str) -> Any:
    """Take a resource by its name, where two have one type: `db: Pool = resource("reporting")`.

    Args:
        name: Name of a resource of the pipeline.
    """
    return cast("Any", ResourceName(name))
