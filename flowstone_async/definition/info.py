"""What is known of an asset's definition, for people and tools."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from flowstone_async.definition.asset import RunIn
from flowstone_async.definition.graph import Node
from flowstone_async.definition.partition import PartitionSet
from flowstone_async.definition.policy import CachePolicy, Duration, Retry


@dataclass(frozen=True, slots=True, kw_only=True)
class AssetInfo:
    """An asset's definition, resolved.

    Attributes:
        depends_on: Names of the upstreams, in the order of the body's parameters.
        optional: Those of them that are optional.
        location: `file:line`.
    """

    name: str
    kind: str
    depends_on: tuple[str, ...]
    optional: tuple[str, ...]
    description: str | None
    tags: tuple[str, ...]
    owner: str | None
    metadata: Mapping[str, object]
    partitions: PartitionSet[Any] | None
    io: object
    cache: CachePolicy
    retry: Retry | Literal[False] | None
    timeout: Duration | Literal[False] | None
    run_in: RunIn | None
    value_type: object
    location: str
    scatter: bool = False
    parallel: bool = False
    has_approval: bool = False


def describe(node: Node) -> AssetInfo:
    """Return what is known of a node."""
    definition = node.definition
    where = definition.location
    return AssetInfo(
        name=node.name,
        kind=definition.kind.label,
        depends_on=node.upstreams,
        optional=tuple(dict.fromkeys(each.upstream for each in node.dependencies if each.optional)),
        description=definition.description,
        tags=definition.tags,
        owner=definition.owner,
        metadata=definition.metadata,
        partitions=definition.partitions,
        io=definition.io,
        cache=True if definition.cache is None else definition.cache,
        retry=definition.retry,
        timeout=definition.timeout,
        run_in=definition.run_in,
        value_type=node.value_type,
        location=f"{where.file or '<unknown>'}:{where.line or 0}",
    )
