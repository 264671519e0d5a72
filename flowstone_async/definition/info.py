"""What is known of an asset's definition, for people and tools."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from flowstone_async.definition.approval import ApprovalKind
from flowstone_async.definition.asset import RunIn
from flowstone_async.definition.graph import Node
from flowstone_async.definition.partition import PartitionSet
from flowstone_async.definition.policy import CachePolicy, Duration, Retry
from flowstone_async.definition.scatter import ScatterKind


@dataclass(frozen=True, slots=True, kw_only=True)
class AssetInfo:
    """An asset's definition, resolved.

    Attributes:
        name: Name in the pipeline that was asked.
        kind: `"asset"`, `"stream"`, `"constant"`, `"scatter"` or `"approval"`.
        depends_on: Names of the upstreams, in the order of the body's parameters; conditions' come last.
        optional: Those of them that are optional.
        external: Assets of other pipelines whose current values it reads, as `pipeline.asset`.
        partitions: Its partition set, or None if it follows the run's key.
        io: The I/O manager or its name; None for the engine's default.
        cache: True where nothing was said.
        retry: None is one attempt. Of each item, for a scatter.
        timeout: Of each attempt; None is no limit.
        run_in: Where a plain body runs.
        value_type: The type of what dependants and callers receive; None where it is not annotated.
        location: `file:line`.
    """

    name: str
    kind: str
    depends_on: tuple[str, ...]
    optional: tuple[str, ...]
    external: tuple[str, ...]
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
    kind = definition.kind
    # A scatter has its own, for each item.
    policies = kind if isinstance(kind, ScatterKind) else definition
    return AssetInfo(
        name=node.name,
        kind=kind.label,
        depends_on=node.upstreams,
        optional=node.optional(),
        external=node.external(),
        description=definition.description,
        tags=definition.tags,
        owner=definition.owner,
        metadata=definition.metadata,
        partitions=definition.partitions,
        io=definition.io,
        cache=True if definition.cache is None else definition.cache,
        retry=policies.retry,
        timeout=policies.timeout,
        run_in=definition.run_in,
        value_type=kind.read_type(node.value_type),
        location=str(definition.location),
        scatter=isinstance(kind, ScatterKind),
        has_approval=isinstance(kind, ApprovalKind) or (node.gate is not None and node.gate.asks),
    )
