"""What the decorators share: the function that was meant, options that exist, the right handle."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from flowstone_async.definition.asset import AssetDefinition
from flowstone_async.definition.handle import (
    Asset,
    AssetRef,
    BlockingAsset,
    PartitionedAsset,
    PartitionedBlockingAsset,
    PartitionedStreamAsset,
    StreamAsset,
)
from flowstone_async.definition.kind import StreamKind


def plain(decorator: str, body: object) -> Callable[..., Any]:
    """Return the function to define; a handle stands for its body.

    Raises:
        TypeError: It is no function, as when a name was given in its place.
    """
    if isinstance(body, AssetRef):
        return body.definition.body
    if not callable(body):
        raise TypeError(f"{decorator}() takes a function, not {body!r}; options are given by keyword")
    return body


def check_known(decorator: str, options: Mapping[str, object], known: frozenset[str]) -> None:
    """Refuse options that do not exist.

    Raises:
        TypeError: One was given.
    """
    unknown = sorted(set(options) - known)
    if unknown:
        raise TypeError(f"{decorator}() got an unexpected keyword argument {unknown[0]!r}")


def handle(definition: AssetDefinition) -> AssetRef[Any]:
    """Return the handle of the right type for a definition."""
    open_, partitioned = _HANDLES[isinstance(definition.kind, StreamKind), definition.run_in is not None]
    follows = definition.partitions is None or not definition.partitions.dimensions
    return open_(definition) if follows else partitioned(definition)


_HANDLES: Mapping[tuple[bool, bool], tuple[type[AssetRef[Any]], type[AssetRef[Any]]]] = {
    (False, False): (Asset[..., Any], PartitionedAsset[..., Any, Any]),
    (False, True): (BlockingAsset[..., Any], PartitionedBlockingAsset[..., Any, Any]),
    (True, False): (StreamAsset[..., Any], PartitionedStreamAsset[..., Any, Any]),
    (True, True): (StreamAsset[..., Any], PartitionedStreamAsset[..., Any, Any]),
}
