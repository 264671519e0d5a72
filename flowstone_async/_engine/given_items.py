"""What stands for the items that were given to a scatter at definition, so that other items make its value stale."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any, cast

from flowstone_async.definition.graph import Node
from flowstone_async.definition.item_source import FixedSource
from flowstone_async.errors import StorageError
from flowstone_async.io.codec import codec_for


def print_of_items(node: Node) -> str | None:
    """Return the fingerprint of a scatter's fixed items; None where nothing is known of them before they are read.

    Items that have no fingerprint are known by the collection that was given, which is another one in every process.
    """
    spec = None if node.scatter is None else node.scatter.source.spec
    if node.scatter is None or not isinstance(spec, FixedSource) or not isinstance(spec.items, Collection):
        return None
    items = cast("Iterable[Any]", spec.items)
    if isinstance(items, range):
        return repr(items)
    declared: Any = list if node.scatter.source.item_type is None else list[node.scatter.source.item_type]
    try:
        codec = codec_for(declared, names=node.definition.scope.names)
        return codec.fingerprint(codec.encode(_in_order(items))) or spec.mark
    except StorageError:
        return spec.mark


def _in_order(items: Iterable[Any]) -> list[Any]:
    """Return items as a list; those of a set, which has an order of its own in every process, sorted."""
    return sorted(items, key=repr) if isinstance(items, set | frozenset) else list(items)
