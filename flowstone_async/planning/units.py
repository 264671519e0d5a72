"""The units of a run: each asset with each partition that the targets need, in topological order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple, cast

from flowstone_async.definition.binding import Binding, DependencyBinding
from flowstone_async.definition.graph import Graph, Node
from flowstone_async.definition.keys import encode_key
from flowstone_async.definition.listed_keys import KnownKeys
from flowstone_async.definition.mapping import Dependant
from flowstone_async.errors import PartitionError
from flowstone_async.types import AssetKey

_SHAPES = 256


class UnitInput(NamedTuple):
    """One edge of a unit.

    Attributes:
        binding: The parameter it fills.
        units: Indexes of the upstream units, one for a plain edge, any number with `over=`.
        keys: With `over=`, the upstream keys (real objects) in the same order.
        external: With `external=`, the key that is only read.
    """

    binding: DependencyBinding
    units: tuple[int, ...]
    keys: tuple[object, ...] | None = None
    external: AssetKey | None = None


class Unit(NamedTuple):
    """One asset for one partition, in one run.

    Attributes:
        place: Its index in `Units.all`, topological.
        partition: The key as a real object.
        inputs: Edges of the body.
        asked: Edges of conditions, then of a cache key, which must be settled before freshness is judged.
        upstreams: Indexes of all units that come first, each once.
    """

    place: int
    node: Node
    partition: Any
    key: AssetKey
    inputs: tuple[UnitInput, ...]
    asked: tuple[UnitInput, ...]
    upstreams: tuple[int, ...]

    @property
    def condition_edges(self) -> tuple[UnitInput, ...]:
        """Edges of conditions."""
        return self.asked[: self._boundary()]

    @property
    def key_edges(self) -> tuple[UnitInput, ...]:
        """Edges of a cache key."""
        return self.asked[self._boundary() :]

    def _boundary(self) -> int:
        bindings = (binding for condition in self.node.conditions for binding in condition.bindings)
        return sum(isinstance(each, DependencyBinding) for each in bindings)


@dataclass(frozen=True, slots=True)
class Units:
    """All units of a run.

    Attributes:
        all: Topological order.
        targets: Indexes of the targets, in the order asked for.
        dependants: For each unit, the indexes of those directly after it.
    """

    all: tuple[Unit, ...]
    targets: tuple[int, ...]
    dependants: tuple[tuple[int, ...], ...]


def partition_for(node: Node, partition: Any, known: KnownKeys | None = None) -> Any:
    """Return the key that an asset sees when a run (or a dependant) has `partition`.

    Without `known`, a key of a dynamic set is checked by its type alone.

    Raises:
        PartitionError: The asset declares a set, and the key is missing, of another type or outside it.
    """
    declared = node.definition.partitions
    if declared is None:
        return partition
    if not declared.dimensions:
        return None
    if partition is None:
        raise PartitionError(
            f"asset {node.name!r} is partitioned ({declared.describe()}), and no partition was given",
            asset=node.name,
            hint="Pass partition=..., or use backfill for many.",
        )
    try:
        if known is None and declared.dynamic_sets:
            declared.memberships(partition)
            return partition
        return declared.validate(partition, known)
    except PartitionError as error:
        error.asset = node.name
        raise


def expand(
    graph: Graph,
    targets: Sequence[str],
    partition: object,
    *,
    io: str,
    now: datetime,
    known: KnownKeys | None = None,
) -> Units:
    """Return the units that the targets need, in topological order. Linear in units plus edges.

    Where no edge maps partitions, the shape of the answer is the same for every key; it is made once per pipeline.

    Args:
        graph: A validated pipeline.
        targets: Names of assets.
        partition: The run's key.
        io: Identity of the manager given to the call.
        now: Instant that closes open windows (`all()`).
        known: Keys of the pipeline's dynamic sets; None where it has none.

    Raises:
        PartitionError: A key is missing, of the wrong type, or outside a declared set.
    """
    shape = _shape(graph, tuple(targets))
    if shape is not None:
        return shape.at(partition, io, known)
    expansion = _Expansion(graph, io, now, known)
    wanted = tuple(expansion.add(name, partition_for(graph.nodes[name], partition, known)) for name in targets)
    return Units(tuple(expansion.units), wanted, _dependants(expansion.units))


def _dependants(units: Sequence[Unit]) -> tuple[tuple[int, ...], ...]:
    after: list[list[int]] = [[] for _ in units]
    for unit in units:
        for upstream in unit.upstreams:
            after[upstream].append(unit.place)
    return tuple(tuple(each) for each in after)


# -- one shape for every key ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Shape:
    """The units of some targets without their keys.

    Attributes:
        keyed: Whether each unit has the run's key (one of a `Single` has none).
        checked: An asset of each declared set, by which the run's key is checked.
    """

    units: Units
    keyed: tuple[bool, ...]
    checked: tuple[Node, ...]

    def at(self, partition: object, io: str, known: KnownKeys | None) -> Units:
        key: Any = partition
        for node in self.checked:
            key = partition_for(node, partition, known)
        encoded = encode_key(key)
        units = tuple(
            Unit(
                place,
                node,
                key if keyed else None,
                AssetKey(name.pipeline, name.asset, encoded if keyed else "", io),
                inputs,
                asked,
                above,
            )
            for (place, node, _, name, inputs, asked, above), keyed in zip(self.units.all, self.keyed, strict=True)
        )
        return Units(units, self.units.targets, self.units.dependants)


def _shape(graph: Graph, targets: tuple[str, ...]) -> _Shape | None:
    """Return the shape of some targets; None where an edge maps partitions or leaves the pipeline."""
    if targets not in graph.shapes:
        if len(graph.shapes) >= _SHAPES:
            graph.shapes.clear()
        graph.shapes[targets] = _make_shape(graph, targets)
    return cast("_Shape | None", graph.shapes[targets])


def _make_shape(graph: Graph, targets: tuple[str, ...]) -> _Shape | None:
    index: dict[str, int] = {}
    units: list[Unit] = []
    stack: list[tuple[str, bool]] = [(name, False) for name in reversed(targets)]
    while stack:
        name, entered = stack.pop()
        if name in index:
            continue
        node = graph.nodes[name]
        if any(edge.over is not None or edge.external is not None for edge in edges_of(node)):
            return None
        if node.upstreams and not entered:
            stack.append((name, True))
            stack.extend((upstream, False) for upstream in reversed(node.upstreams))
            continue
        index[name] = len(units)
        units.append(_plain_unit(graph.pipeline, node, index))
    declared = [unit.node.definition.partitions for unit in units]
    pairs = zip(declared, units, strict=True)
    checked = {each: unit.node for each, unit in pairs if each is not None and each.dimensions}
    keyed = tuple(each is None or bool(each.dimensions) for each in declared)
    wanted = tuple(index[name] for name in targets)
    return _Shape(Units(tuple(units), wanted, _dependants(units)), keyed, tuple(checked.values()))


def _plain_unit(pipeline: str, node: Node, index: Mapping[str, int]) -> Unit:
    inputs = tuple(UnitInput(edge, (index[edge.upstream],)) for edge in node.dependencies)
    asked = tuple(UnitInput(edge, (index[edge.upstream],)) for edge in _asked_edges(node))
    above = tuple(dict.fromkeys(each.units[0] for each in (*inputs, *asked)))
    return Unit(index[node.name], node, None, AssetKey(pipeline, node.name), inputs, asked, above)


def edges_of(node: Node) -> list[DependencyBinding]:
    """Return all edges of an asset: its body's, its conditions' and its cache key's."""
    return [*node.dependencies, *_asked_edges(node)]


def _asked_edges(node: Node) -> list[DependencyBinding]:
    every: list[Binding] = [binding for condition in node.conditions for binding in condition.bindings]
    every.extend(node.key_bindings)
    return [each for each in every if isinstance(each, DependencyBinding)]


# -- a shape of its own ---------------------------------------------------------------------------------------------


class _Expansion:
    """Expands targets key by key, where mappings of partitions give each run a shape of its own."""

    def __init__(self, graph: Graph, io: str, now: datetime, known: KnownKeys | None) -> None:
        self.graph, self.io, self.now, self.known = graph, io, now, known
        self.units: list[Unit] = []
        self.index: dict[tuple[str, str], int] = {}

    def add(self, name: str, key: Any) -> int:
        """Add a unit with a valid key and everything above it; iterative, so that a chain of any length fits."""
        stack: list[tuple[str, Any, bool]] = [(name, key, False)]
        while stack:
            current, here, entered = stack.pop()
            node = self.graph.nodes[current]
            identity = (current, encode_key(here))
            if identity in self.index:
                continue
            if entered or not node.upstreams:
                self.index[identity] = len(self.units)
                self.units.append(self._unit(node, here, identity[1]))
                continue
            stack.append((current, here, True))
            within = (edge for edge in edges_of(node) if edge.external is None)
            above = [(edge.upstream, each, False) for edge in within for each in self._keys(node, edge, here)]
            stack.extend(reversed(above))
        return self.index[name, encode_key(key)]

    def _keys(self, node: Node, edge: DependencyBinding, key: Any) -> Sequence[Any]:
        owner = edge.external or self.graph.nodes[edge.upstream].definition
        declared = owner.partitions
        if edge.over is not None:
            dependant = Dependant(key_set=node.definition.partitions, key=key, now=self.now, known=self.known)
            return tuple(edge.over.upstream_keys(dependant, declared))
        if declared is None or declared == node.definition.partitions:
            return (key,)
        return (None,) if not declared.dimensions else (declared.validate(key, self.known),)

    def _unit(self, node: Node, key: Any, encoded: str) -> Unit:
        inputs = tuple(self._input(node, edge, key) for edge in node.dependencies)
        asked = tuple(self._input(node, edge, key) for edge in _asked_edges(node))
        above = tuple(dict.fromkeys(unit for each in (*inputs, *asked) for unit in each.units))
        name = AssetKey(self.graph.pipeline, node.name, encoded, self.io)
        return Unit(len(self.units), node, key, name, inputs, asked, above)

    def _input(self, node: Node, edge: DependencyBinding, key: Any) -> UnitInput:
        keys = self._keys(node, edge, key)
        if edge.external is not None:
            outer = edge.external
            return UnitInput(edge, (), None, AssetKey(outer.home.name, outer.name, encode_key(keys[0]), self.io))
        units = tuple(self.index[edge.upstream, encode_key(each)] for each in keys)
        return UnitInput(edge, units, tuple(keys) if edge.over is not None else None)
