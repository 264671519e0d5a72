"""The units of a run: each asset with each partition that the targets need, in topological order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from flowstone_async.definition.binding import Binding, DependencyBinding
from flowstone_async.definition.graph import Graph, Node
from flowstone_async.definition.keys import encode_key
from flowstone_async.definition.mapping import Dependant
from flowstone_async.definition.partition import PartitionSet
from flowstone_async.errors import PartitionError
from flowstone_async.types import AssetKey


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
        asked: Edges of conditions and of a cache key, which must be settled before freshness is judged.
        upstreams: Indexes of all units that come first, each once.
    """

    place: int
    node: Node
    partition: Any
    key: AssetKey
    inputs: tuple[UnitInput, ...]
    asked: tuple[UnitInput, ...]
    upstreams: tuple[int, ...]


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


def partition_for(node: Node, partition: object) -> object:
    """Return the key that an asset sees when a run (or a dependant) has `partition`.

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
        return declared.validate(partition)
    except PartitionError as error:
        error.asset = node.name
        raise


class _Expansion:
    def __init__(self, graph: Graph, io: str, now: datetime) -> None:
        self.graph, self.io, self.now = graph, io, now
        self.units: list[Unit] = []
        self.index: dict[tuple[str, str], int] = {}

    def add(self, name: str, partition: object) -> int:
        """Add a unit and everything above it; iterative, so that a chain of any length fits the stack."""
        stack: list[tuple[str, object, bool]] = [(name, partition, False)]
        while stack:
            current, key, entered = stack.pop()
            node = self.graph.nodes[current]
            key = partition_for(node, key)
            identity = (current, encode_key(key))
            if identity in self.index:
                continue
            if entered or not node.upstreams:
                self.index[identity] = len(self.units)
                self.units.append(self._unit(node, key, identity[1]))
                continue
            stack.append((current, key, True))
            above = [each for each in self._above(node, key) if each is not None]
            stack.extend((upstream, upstream_key, False) for upstream, upstream_key in reversed(above))
        return self.index[name, encode_key(partition_for(self.graph.nodes[name], partition))]

    def _above(self, node: Node, key: object) -> list[tuple[str, object]]:
        return [
            (binding.upstream, upstream_key)
            for binding in _edges(node)
            if binding.external is None
            for upstream_key in self._keys(node, binding, key)
        ]

    def _keys(self, node: Node, binding: DependencyBinding, key: object) -> Sequence[object]:
        if binding.over is None:
            return (key,)
        dependant = Dependant(key_set=node.definition.partitions, key=key, now=self.now)
        return tuple(binding.over.upstream_keys(dependant, self._declared(binding)))

    def _declared(self, binding: DependencyBinding) -> PartitionSet[Any] | None:
        owner = binding.external or self.graph.nodes[binding.upstream].definition
        return owner.partitions

    def _unit(self, node: Node, key: object, encoded: str) -> Unit:
        inputs = tuple(self._input(node, each, key) for each in node.dependencies)
        asked = tuple(
            self._input(node, each, key)
            for each in (*(b for c in node.conditions for b in c.bindings), *node.key_bindings)
            if isinstance(each, DependencyBinding)
        )
        above = dict.fromkeys(unit for each in (*inputs, *asked) for unit in each.units)
        return Unit(
            len(self.units),
            node,
            key,
            AssetKey(self.graph.pipeline, node.name, encoded, self.io),
            inputs,
            asked,
            tuple(above),
        )

    def _input(self, node: Node, binding: DependencyBinding, key: object) -> UnitInput:
        if binding.external is not None:
            outer = binding.external
            seen = None if outer.partitions is not None and not outer.partitions.dimensions else key
            return UnitInput(binding, (), None, AssetKey(outer.home.name, outer.name, encode_key(seen), self.io))
        keys = self._keys(node, binding, key)
        upstream = self.graph.nodes[binding.upstream]
        units = tuple(self.index[binding.upstream, encode_key(partition_for(upstream, each))] for each in keys)
        return UnitInput(binding, units, tuple(keys) if binding.over is not None else None)


def _edges(node: Node) -> list[DependencyBinding]:
    every: list[Binding] = [*node.bindings, *node.key_bindings]
    for condition in node.conditions:
        every.extend(condition.bindings)
    return [each for each in every if isinstance(each, DependencyBinding)]


def expand(graph: Graph, targets: Sequence[str], partition: object, *, io: str, now: datetime) -> Units:
    """Return the units that the targets need, in topological order. Linear in units plus edges.

    Args:
        graph: A validated pipeline.
        targets: Names of assets.
        partition: The run's key.
        io: Identity of the manager given to the call.
        now: Instant that closes open windows (`all()`).

    Raises:
        PartitionError: A key is missing, of the wrong type, or outside a declared set.
    """
    expansion = _Expansion(graph, io, now)
    wanted = tuple(expansion.add(name, partition) for name in targets)
    after: list[list[int]] = [[] for _ in expansion.units]
    for unit in expansion.units:
        for upstream in unit.upstreams:
            after[upstream].append(unit.place)
    return Units(tuple(expansion.units), wanted, tuple(tuple(each) for each in after))
