"""Keys that are stored beside their items: what `key=` gave, or what the items of an upstream scatter are known by."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

from pydantic_core import from_json, to_json
from typing_extensions import override

from flowstone_async._engine.scatter.packing import Items, as_key, content_of_any
from flowstone_async.definition.binding import DependencyBinding
from flowstone_async.definition.graph import Node, graph_of
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
    """Text, numbers, and tuples of them; of batches, tuples of these."""

    @override
    def pack(self, keys: Sequence[Any]) -> bytes:
        return to_json(list(keys))

    @override
    def unpack(self, data: bytes) -> list[Any]:
        return [as_key(key) for key in from_json(data)]

    @override
    def contents(self, keys: Sequence[Any]) -> list[bytes]:
        return [content_of_any(key) for key in keys]


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


class BatchKeyForm(KeyForm):
    """Keys of batches: those of their items, as a tuple.

    Args:
        single: How the key of one item is stored.
    """

    def __init__(self, single: KeyForm) -> None:
        self._single = single

    @override
    def pack(self, keys: Sequence[Any]) -> bytes:
        return to_json([len(own) for own in keys]) + b"\n" + self._single.pack([key for own in keys for key in own])

    @override
    def unpack(self, data: bytes) -> list[Any]:
        head, packed = data.split(b"\n", 1)
        single = iter(self._single.unpack(packed))
        return [tuple(next(single) for _ in range(size)) for size in cast("list[int]", from_json(head))]

    @override
    def contents(self, keys: Sequence[Any]) -> list[bytes]:
        if not all(isinstance(own, tuple) for own in keys):
            raise ValueError("the key of a batch is the keys of its items, as a tuple")
        single = iter(self._single.contents([key for own in keys for key in own]))
        return [b"[" + b",".join(next(single) for _ in own) + b"]" for own in keys]


PLAIN = PlainKeys()


def of_batches(form: KeyForm) -> KeyForm:
    """Return how the keys of batches are stored where those of their items are in a form."""
    return form if form is PLAIN else BatchKeyForm(form)


class Followed(NamedTuple):
    """A scatter whose results are the items of another one.

    Attributes:
        nodes: Those of its pipeline, which may be another one.
    """

    node: Node
    nodes: Mapping[str, Node]


def followed(node: Node, nodes: Mapping[str, Node]) -> Followed | None:
    """Return the scatter whose results are the items of this one; None if they come from elsewhere."""
    scatter = node.scatter
    if scatter is None or not isinstance(scatter.source.spec, AssetSource):
        return None
    [edge] = scatter.source.bindings
    if not isinstance(edge, DependencyBinding) or edge.over is not None:
        return None
    if edge.external is None:
        above = Followed(nodes[edge.upstream], nodes)
    elif isinstance(edge.external.kind, ScatterKind):
        nodes = graph_of(edge.external).nodes
        above = Followed(nodes[edge.external.local_name], nodes)
    else:
        return None
    return above if isinstance(above.node.definition.kind, ScatterKind) else None


def key_form(node: Node, nodes: Mapping[str, Node]) -> KeyForm | None:
    """Return how the keys of a scatter's items are stored; None where the items, or their positions, are the keys."""
    scatter, kind = node.scatter, node.definition.kind
    if scatter is None or not isinstance(kind, ScatterKind) or kind.key is False:
        return None
    if scatter.key is not None:
        return PLAIN
    upstream = followed(node, nodes)
    return None if upstream is None else _of_results(*upstream)


def _of_results(node: Node, nodes: Mapping[str, Node]) -> KeyForm:
    """Return how that is stored which the results of a scatter are known by: keys of items, or those of batches."""
    kind, form = node.definition.kind, key_form(node, nodes)
    assert isinstance(kind, ScatterKind)  # noqa: S101 - for the type checker: only scatters are followed
    if form is None:
        form = PLAIN if kind.key is False else ItemKeys(items_of(node))
    return form if kind.batch is None else of_batches(form)


def items_of(node: Node) -> Items:
    """Return what encodes the items of a scatter, one by one."""
    wanted = None if node.scatter is None else node.scatter.item.wanted
    return Items(wanted, node.definition.scope.names)
