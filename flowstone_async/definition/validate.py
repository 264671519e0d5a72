"""From what a pipeline collected to a graph, or to every problem at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import NoneType
from typing import Any

from flowstone_async.definition.annotations import resolve
from flowstone_async.definition.approval import ApprovalKind, bind_approval, value_type_of
from flowstone_async.definition.asset import AssetDefinition
from flowstone_async.definition.assignable import bare
from flowstone_async.definition.binding import Binding
from flowstone_async.definition.body import name_of, way_of
from flowstone_async.definition.bound_scatter import BoundScatter
from flowstone_async.definition.checks import check_asset, check_between, check_renames, check_resource
from flowstone_async.definition.compatibility import check_node
from flowstone_async.definition.cycle import cycles
from flowstone_async.definition.finding import Finding
from flowstone_async.definition.gate_binding import bind_gate
from flowstone_async.definition.gathering import gathering_place
from flowstone_async.definition.graph import (
    BoundCondition,
    BoundResource,
    Graph,
    Node,
    edges,
    followers,
    takes_context,
    topological,
)
from flowstone_async.definition.injection import NO_PARAMS, Found, Place, bind
from flowstone_async.definition.kind import item_type
from flowstone_async.definition.names import AssetNames, ResourceNames, suggestion
from flowstone_async.definition.policy import Cache
from flowstone_async.definition.resource import ResourceDefinition
from flowstone_async.definition.scatter import ScatterKind
from flowstone_async.definition.scatter_binding import bind_scatter
from flowstone_async.definition.scatter_checks import check_scatter, typed
from flowstone_async.errors import DefinitionError, Problem

_CYCLES = 20
"""Most cycles that are reported; there may be exponentially many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """What a pipeline collected: the input of validation."""

    name: str
    assets: Mapping[str, AssetDefinition]
    resources: Mapping[str, ResourceDefinition]
    params: type | None
    problems: Sequence[Problem] = ()


def build(collected: Collected) -> Graph:
    """Validate a pipeline.

    Raises:
        DefinitionError: With all problems of all assets.
    """
    return _Build(collected).graph()


@dataclass(slots=True)
class _Build:
    collected: Collected
    problems: list[Problem] = field(default_factory=list[Problem])
    assets: AssetNames = field(init=False)
    resources: ResourceNames = field(init=False)
    provided: Mapping[str, object] = field(init=False)

    def __post_init__(self) -> None:
        self.problems.extend(self.collected.problems)
        self.assets = AssetNames(dict(self.collected.assets))
        self.provided = {name: _provided(each) for name, each in self.collected.resources.items()}
        self.resources = ResourceNames(self.collected.resources, self.provided)

    def graph(self) -> Graph:
        collected = self.collected
        bound = {name: self._node(definition) for name, definition in collected.assets.items()}
        nodes = {name: typed(node, bound) for name, node in bound.items()}
        for definition, finding in check_renames(collected.assets):
            self._report(definition, [finding])
        resources = {name: self._resource(each) for name, each in collected.resources.items()}
        for resource, finding in check_between(resources):
            self._report(resource, [finding])
        for node in nodes.values():
            self._report(node.definition, check_node(node, nodes, collected.params))
            self._report(node.definition, check_scatter(node, nodes))
        upstreams = {name: node.upstreams for name, node in nodes.items()}
        order, dependants = topological(upstreams), followers(upstreams)
        if len(order) < len(nodes):
            self._report_cycles(dependants)
        if self.problems:
            raise DefinitionError(collected.name, sorted(self.problems, key=lambda p: (p.file or "", p.line or 0)))
        return Graph(
            pipeline=collected.name,
            nodes=nodes,
            order=order,
            dependants=dependants,
            names=self.assets,
            resources=resources,
            params=collected.params,
        )

    def _report(self, definition: AssetDefinition | ResourceDefinition, found: Iterable[Finding], at: str = "") -> None:
        where = definition.location
        asset = definition.name if isinstance(definition, AssetDefinition) else None
        head = f"{definition.name}: {at}" if at else definition.name
        for code, message, hint in found:
            text = head + message if message.startswith("(") else f"{head}: {message}"
            problem = Problem(code=code, message=text, file=where.file, line=where.line, asset=asset, hint=hint)
            self.problems.append(problem)

    # -- assets -------------------------------------------------------------------------------------------------

    def _node(self, definition: AssetDefinition) -> Node:
        self._report(definition, check_asset(definition))
        place, wrong = gathering_place(definition, self._place(definition))
        self._report(definition, wrong)
        found, scatter = self._bound(definition, place)
        self._report(definition, _unknown_deps(definition, found))
        conditions = self._conditions(definition, place)
        key = self._key(definition, place, found.bindings)
        taken = found.bindings if scatter is None else (*found.bindings, *scatter.bindings)
        own, upstreams = edges(taken, conditions, key)
        gate, wrong = bind_gate(definition, found, place)
        self._report(definition, wrong)
        return Node(
            name=definition.name,
            definition=definition,
            bindings=found.bindings,
            conditions=conditions,
            key_bindings=key,
            value_type=value_type_of(definition, found),
            dependencies=own,
            upstreams=upstreams,
            takes_context=takes_context(taken if gate is None else (*taken, *gate.bindings)),
            scatter=scatter,
            gate=gate,
        )

    def _bound(self, definition: AssetDefinition, place: Place) -> tuple[Found, BoundScatter | None]:
        if isinstance(definition.kind, ApprovalKind):
            found = bind_approval(definition, definition.kind, place)
            self._report(definition, found.problems)
            return found, None
        if not isinstance(definition.kind, ScatterKind):
            found = bind(definition.body, definition.scope, place)
            self._report(definition, found.problems)
            return found, None
        scattered = bind_scatter(definition, definition.kind, place)
        for part, finding in scattered.problems:
            self._report(definition, [finding], part)
        return scattered.body, scattered.scatter

    def _place(self, definition: AssetDefinition) -> Place:
        return Place(
            assets=self.assets,
            resources=self.resources,
            params=self.collected.params,
            home=definition.home,
            inclusion=definition.inclusion,
            deps=definition.deps,
        )

    def _conditions(self, definition: AssetDefinition, place: Place) -> tuple[BoundCondition, ...]:
        bound: list[BoundCondition] = []
        for function, expected in definition.conditions():
            name = name_of(function)
            found = bind(function, definition.scope, replace(place, bare_context=True))
            self._report(definition, found.problems, f"condition {name}")
            bound.append(BoundCondition(function=function, name=name, expected=expected, bindings=found.bindings))
        return tuple(bound)

    def _key(self, definition: AssetDefinition, place: Place, bindings: Sequence[Binding]) -> tuple[Binding, ...]:
        function = definition.cache.key if isinstance(definition.cache, Cache) else None
        if function is None:
            return ()
        own = {each.parameter: each for each in bindings}
        found = bind(function, definition.scope, replace(place, bare_context=True, given=own))
        self._report(definition, found.problems, "cache key")
        return found.bindings

    def _report_cycles(self, dependants: Mapping[str, Sequence[str]]) -> None:
        for number, cycle in enumerate(cycles(dependants, limit=_CYCLES), start=1):
            definition = self.collected.assets[cycle[0]]
            where = definition.location
            more = " There may be more cycles than these." if number == _CYCLES else ""
            self.problems.append(
                Problem(
                    code="FS110",
                    message=f"cycle: {' -> '.join(cycle)}.",
                    file=where.file,
                    line=where.line,
                    asset=definition.name,
                    hint=f"Take one of these edges away.{more}",
                )
            )

    # -- resources ----------------------------------------------------------------------------------------------

    def _resource(self, definition: ResourceDefinition) -> BoundResource:
        found = bind(definition.body, definition.names, self._resource_place(definition))
        provides = self.provided[definition.name]
        resource = BoundResource(definition=definition, provides=provides, bindings=found.bindings)
        self._report(definition, found.problems)
        self._report(definition, check_resource(resource))
        return resource

    def _resource_place(self, definition: ResourceDefinition) -> Place:
        params = self.collected.params
        outlives = definition.scope == "engine" and params is not None
        outliving = ("a resource that lives as long as the engine has no params.", 'Say scope="run".')
        return Place(
            assets=self.assets,
            resources=self.resources,
            params=None if outlives else params,
            no_params=outliving if outlives else NO_PARAMS,
            inclusion=definition.inclusion,
            takes_assets=False,
        )


def _provided(resource: ResourceDefinition) -> object:
    """Return the type of what a resource provides; None where its annotation does not say."""
    hints = resolve(resource.body, resource.names)
    if "return" in hints.unread:
        return Any
    returns = hints.types.get("return")
    provided = item_type(returns) if way_of(resource.body) == "async generator" else returns
    return None if provided in (None, NoneType) else bare(provided)


def _unknown_deps(definition: AssetDefinition, found: Found) -> Iterator[Finding]:
    for name in definition.deps:
        if name not in found.parameters:
            text = f"deps={{{name!r}: ...}} names a parameter that the body does not have."
            yield Finding("FS109", text, suggestion(name, found.parameters))
