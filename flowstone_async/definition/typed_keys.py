"""Which key a text stands for that somebody typed for an asset: on the command line, or over the web."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, cast

from flowstone_async.definition.binding import DependencyBinding, PartitionBinding
from flowstone_async.definition.graph import Graph, Node
from flowstone_async.definition.key_set import KeySet
from flowstone_async.definition.key_text import parse_key
from flowstone_async.definition.keys import PartitionKey
from flowstone_async.errors import PartitionError


def typed_key(graph: Graph, asset: str, text: str | None) -> PartitionKey | None:
    """Return the one key that a text stands for, as the asset declares it; None for None.

    Raises:
        PartitionError: It is no key of the asset.
        ConfigError: The asset takes keys of a type that is none.
    """
    if text is None:
        return None
    node, problem = graph.nodes[asset], None
    for keys in key_sets(graph, node):
        try:
            return keys.validate(keys.parse(text))
        except PartitionError as error:
            problem = problem or error
    if problem is not None:
        raise problem
    return parse_key(text, annotated(graph, node))


def key_sets(graph: Graph, node: Node) -> Iterator[KeySet[PartitionKey]]:
    """Yield the sets that the key of a run may belong to: the asset's own, or those of its nearest relatives.

    An asset without a set follows the run's key, which then is one of what it is computed from, or else of what is
    computed from it.
    """
    above = _nearest(graph, node, lambda each: [name for binding in each.dependencies if (name := _plain(binding))])
    yield from above or _nearest(graph, node, lambda each: graph.dependants[each.name])


def annotated(graph: Graph, node: Node) -> object:
    """Return the type that a body without a declared set takes its key as; text if none says."""
    queue, seen = deque([node]), {node.name}
    while queue:
        each = queue.popleft()
        for binding in each.taken:
            if isinstance(binding, PartitionBinding) and binding.annotation not in (None, object, Any):
                return binding.annotation
        for name in each.upstreams:
            if name not in seen:
                seen.add(name)
                queue.append(graph.nodes[name])
    return str


def _nearest(graph: Graph, node: Node, following: Callable[[Node], Iterable[str]]) -> list[KeySet[PartitionKey]]:
    level, seen = [node], {node.name}
    while level:
        if found := [keys for each in level if (keys := _own_set(each)) is not None]:
            return found
        names = dict.fromkeys(name for each in level for name in following(each) if name not in seen)
        seen.update(names)
        level = [graph.nodes[name] for name in names]
    return []


def _own_set(node: Node) -> KeySet[PartitionKey] | None:
    declared = node.definition.partitions
    if declared is not None:
        return cast("KeySet[PartitionKey]", declared) if declared.dimensions else None
    markers = [each.marker for each in node.taken if isinstance(each, PartitionBinding) and each.marker is not None]
    return cast("KeySet[PartitionKey]", markers[0].partition_set) if markers else None


def _plain(binding: DependencyBinding) -> str | None:
    """Return the name of the upstream that sees the same key."""
    return binding.upstream if binding.over is None and binding.external is None else None
