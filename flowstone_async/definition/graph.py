"""The validated whole: nodes with every parameter resolved, in topological order. A frozen value."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from flowstone_async.definition.asset import AssetDefinition, Condition, HandlerPart
from flowstone_async.definition.binding import Binding, ContextBinding, DependencyBinding, ResourceBinding
from flowstone_async.definition.bound_scatter import BoundScatter
from flowstone_async.definition.names import AssetNames
from flowstone_async.definition.policy import Cache
from flowstone_async.definition.resource import ResourceDefinition


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundCondition:
    """A `when` or `unless` with its parameters resolved; the asset runs if it answers `expected`."""

    function: Condition
    name: str
    expected: bool
    bindings: tuple[Binding, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BoundHandler:
    """What is called once a gate has ended, with its parameters resolved.

    Attributes:
        bindings: What it takes, without the payload or the decision, and without the item of a scatter.
        decision: Its parameter for the decision; None if it takes none.
        edges: The body's edges by whose values its own are filled, in their order.
    """

    function: Callable[..., Any]
    part: HandlerPart
    bindings: tuple[Binding, ...]
    edges: tuple[tuple[DependencyBinding, DependencyBinding], ...]
    decision: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BoundGate:
    """The gates that a body may return, and what is called once one has ended.

    Attributes:
        signals: Whether it may return one for a signal, of the type `model`.
        asks: Whether it may return a request for approval.
    """

    signals: bool = False
    model: Any = None
    max_rearms: int = 0
    asks: bool = False
    on_signal: BoundHandler | None = None
    on_timeout: BoundHandler | None = None
    on_approve: BoundHandler | None = None
    on_reject: BoundHandler | None = None

    def handlers(self) -> tuple[BoundHandler, ...]:
        """Return those that there are."""
        given = (self.on_signal, self.on_timeout, self.on_approve, self.on_reject)
        return tuple(each for each in given if each is not None)

    @property
    def bindings(self) -> tuple[Binding, ...]:
        """What they take."""
        return tuple(binding for each in self.handlers() for binding in each.bindings)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Node:
    """One asset of a validated pipeline.

    Attributes:
        bindings: What the body takes, without the item of a scatter.
        value_type: Type of the value (of one item of a stream, of one result of a scatter); None when not annotated.
        dependencies: The edges whose values the body takes, in the order of its parameters; those of `scatter` follow.
        upstreams: Names of all assets that come first, conditions' included, each once.
        takes_context: Whether the body takes a `Context`.
        scatter: What else a scatter takes; None for an asset of another kind.
        gate: The gate that its body may return; None if it must return the value.
    """

    name: str
    definition: AssetDefinition
    bindings: tuple[Binding, ...]
    conditions: tuple[BoundCondition, ...]
    key_bindings: tuple[Binding, ...]
    value_type: object
    dependencies: tuple[DependencyBinding, ...]
    upstreams: tuple[str, ...]
    takes_context: bool
    scatter: BoundScatter | None = None
    gate: BoundGate | None = None

    @property
    def taken(self) -> tuple[Binding, ...]:
        """What the body takes, what decides which items it is called with, and what the handlers of its gate take."""
        taken = self.bindings if self.scatter is None else (*self.bindings, *self.scatter.bindings)
        return taken if self.gate is None else (*taken, *self.gate.bindings)

    @property
    def cache(self) -> Cache:
        """The cache policy as an object; see also `definition.cache` for `False` and `"exists"`."""
        policy = self.definition.cache
        return policy if isinstance(policy, Cache) else _DEFAULT_CACHE

    def optional(self) -> tuple[str, ...]:
        """Return names of the upstreams without which the asset can do: those that nothing of it requires."""
        taken = dict.fromkeys(each.upstream for each in self.dependencies if each.optional)
        asked = [*(each for condition in self.conditions for each in condition.bindings), *self.key_bindings]
        edges = [*self.dependencies, *(each for each in asked if isinstance(each, DependencyBinding))]
        needed = {each.upstream for each in edges if not each.optional}
        return tuple(each for each in taken if each not in needed)

    def external(self) -> tuple[str, ...]:
        """Return the assets of other pipelines whose current values the body reads, as `pipeline.asset`."""
        outer = (each.external for each in self.dependencies)
        return tuple(dict.fromkeys(f"{each.home.name}.{each.name}" for each in outer if each is not None))

    def resources(self) -> tuple[str, ...]:
        """Return names of the resources that the body takes."""
        return tuple(each.resource for each in self.taken if isinstance(each, ResourceBinding))


_DEFAULT_CACHE = Cache()


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundResource:
    """A resource with its parameters resolved."""

    definition: ResourceDefinition
    provides: object
    bindings: tuple[Binding, ...]

    def resources(self) -> tuple[str, ...]:
        """Return names of the resources that it takes."""
        return tuple(each.resource for each in self.bindings if isinstance(each, ResourceBinding))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Graph:
    """A validated pipeline.

    Attributes:
        nodes: By name, in the order of declaration.
        order: Topological, ties in the order of declaration.
        dependants: Names of the assets that come directly after each, in the order of declaration.
        names: The same assets, found by handle and through included pipelines.
        shapes: What planning has made of some targets already; a memory, not a part of the value.
    """

    pipeline: str
    nodes: Mapping[str, Node]
    order: tuple[str, ...]
    dependants: Mapping[str, tuple[str, ...]]
    names: AssetNames
    resources: Mapping[str, BoundResource] = field(default_factory=dict[str, BoundResource])
    params: type | None = None
    shapes: dict[tuple[str, ...], object] = field(default_factory=dict[tuple[str, ...], object], repr=False)

    def sinks(self) -> tuple[str, ...]:
        """Return the assets that nothing depends on."""
        return tuple(name for name in self.nodes if not self.dependants[name])


def graph_of(definition: AssetDefinition) -> Graph:
    """Return the graph of the pipeline that defined an asset first.

    Raises:
        DefinitionError: That pipeline has problems.
    """
    return cast("Graph", definition.home.graph())


def edges(
    bindings: Sequence[Binding], conditions: Sequence[BoundCondition], key_bindings: Sequence[Binding]
) -> tuple[tuple[DependencyBinding, ...], tuple[str, ...]]:
    """Return the body's edges, and the names of everything that comes first."""
    own = tuple(each for each in bindings if isinstance(each, DependencyBinding))
    others = [each for condition in conditions for each in condition.bindings] + list(key_bindings)
    every = [*own, *(each for each in others if isinstance(each, DependencyBinding))]
    names = dict.fromkeys(each.upstream for each in every if each.external is None)
    return own, tuple(names)


def takes_context(bindings: Sequence[Binding]) -> bool:
    """Tell whether a body takes a `Context`."""
    return any(isinstance(each, ContextBinding) for each in bindings)


def topological(upstreams: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """Order names so that each comes after its upstreams, ties in the order given (Kahn, 1962).

    Args:
        upstreams: Name -> names that come first. Members of a cycle are left out.
    """
    place = {name: index for index, name in enumerate(upstreams)}
    names = list(upstreams)
    missing = {name: sum(each in place for each in first) for name, first in upstreams.items()}
    after = followers(upstreams)
    ready = [place[name] for name, count in missing.items() if not count]
    heapq.heapify(ready)
    ordered: list[str] = []
    while ready:
        name = names[heapq.heappop(ready)]
        ordered.append(name)
        for dependant in after[name]:
            missing[dependant] -= 1
            if not missing[dependant]:
                heapq.heappush(ready, place[dependant])
    return tuple(ordered)


def followers(upstreams: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    """Turn edges round: name -> names that come directly after it."""
    after: dict[str, list[str]] = {name: [] for name in upstreams}
    for name, first in upstreams.items():
        for upstream in first:
            if upstream in after:
                after[upstream].append(name)
    return {name: tuple(each) for name, each in after.items()}
