"""Keys that are stored beside their items: what `key=` gave, or what the items of an upstream scatter are known by."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic_core import from_json, to_json
from typing_extensions import override

from flowstone_async._engine.scatter.packing import Items, as_key, content_of
from flowstone_async.definition.binding import DependencyBinding
from flowstone_async.definition.graph import Node
from flowstone_async.definition.item_source import AssetSource
from flowstone_async.definition.scatter import ScatterKind
from flowstone_async.errors import StorageError


class KeyForm(ABC):
    """How the keys of one scatter are stored."""

    @abstractmethod
    def pack(self, keys: Sequence[Any]) -> bytes:
        """Return the keys of a page as they are stored."""

    @abstractmethod
    def unpack(self, data: bytes) -> list[Any]:
        """Return what `pack` was given."""

    @abstractmethod
    def contents(self, keys: Sequence[Any]) -> list[bytes]:
        """Return what identifies each key: equal for equal keys.

        Raises:
            ValueError: One of them is no key of this scatter.
        """


class PlainKeys(KeyForm):
    """Text, numbers, and tuples of them."""

    @override
    def pack(self, keys: Sequence[Any]) -> bytes:
        return to_json(list(keys))

    @override
    def unpack(self, data: bytes) -> list[Any]:
        return [as_key(key) for key in from_json(data)]

    @override
    def contents(self, keys: Sequence[Any]) -> list[bytes]:
        return [content_of(key) for key in keys]


class ItemKeys(KeyForm):
    """Items of an upstream scatter, which are their own keys there.

    Args:
        items: Encodes them.
    """

    def __init__(self, items: Items) -> None:
        self._items = items

    @override
    def pack(self, keys: Sequence[Any]) -> bytes:
        return self._items.page(self._items.pack(keys), len(keys))

    @override
    def unpack(self, data: bytes) -> list[Any]:
        found = self._items.unpack(data)
        return [found[place] for place in range(len(found))]

    @override
    def contents(self, keys: Sequence[Any]) -> list[bytes]:
        packed = self._items.pack(keys)
        if packed.refused:
            raise ValueError(str(next(iter(packed.refused.values()))))
        try:
            return self._items.contents(packed)
        except StorageError as error:
            raise ValueError(error.message) from error


PLAIN = PlainKeys()


def followed(node: Node, nodes: Mapping[str, Node]) -> Node | None:
    """Return the scatter whose results are the items of this one; None if they come from elsewhere."""
    scatter = node.scatter
    if scatter is None or not isinstance(scatter.source.spec, AssetSource):
        return None
    [edge] = scatter.source.bindings
    if not isinstance(edge, DependencyBinding) or edge.external is not None or edge.over is not None:
        return None
    upstream = nodes[edge.upstream]
    return upstream if isinstance(upstream.definition.kind, ScatterKind) else None


def key_form(node: Node, nodes: Mapping[str, Node]) -> KeyForm | None:
    """Return how the keys of a scatter are stored; None where its items, or their positions, are its keys."""
    scatter, kind = node.scatter, node.definition.kind
    if scatter is None or not isinstance(kind, ScatterKind) or kind.key is False:
        return None
    if scatter.key is not None:
        return PLAIN
    upstream = followed(node, nodes)
    if upstream is None or upstream.scatter is None:
        return None
    above, kind = key_form(upstream, nodes), upstream.definition.kind
    if above is not None:
        return above
    if isinstance(kind, ScatterKind) and kind.key is False:
        return PLAIN
    return ItemKeys(items_of(upstream))


def items_of(node: Node) -> Items:
    """Return what encodes the items of a scatter."""
    wanted = None if node.scatter is None else node.scatter.item.wanted
    return Items(wanted, node.definition.scope.names)
