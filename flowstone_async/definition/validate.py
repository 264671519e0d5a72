"""From what a pipeline collected to a graph, or to every problem at once."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args, get_origin

from flowstone_async.definition import checks
from flowstone_async.definition.annotations import resolve
from flowstone_async.definition.asset import AssetDefinition
from flowstone_async.definition.binding import Binding, Found, Place, bind
from flowstone_async.definition.graph import (
    BoundCondition,
    BoundResource,
    Graph,
    Node,
    cycles,
    edges,
    followers,
    takes_context,
    topological,
)
from flowstone_async.definition.kind import ConstantKind, StreamKind
from flowstone_async.definition.names import AssetNames, ResourceNames
from flowstone_async.definition.policy import Cache
from flowstone_async.definition.resource import SCOPES, ResourceDefinition
from flowstone_async.errors import DefinitionError, Problem


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """What a pipeline collected: the input of validation."""

    name: str
    assets: Mapping[str, AssetDefinition]
    resources: Mapping[str, ResourceDefinition]
    params: type | None
    problems: Sequence[Problem] = ()


@dataclass(slots=True)
class _Build:
    collected: Collected
    assets: AssetNames
    resources: ResourceNames
    problems: list[Problem] = field(default_factory=list[Problem])

    def place(self, definition: AssetDefinition, *, bare_context: bool = False) -> Place:
        return Place(
            assets=self.assets,
            resources=self.resources,
            params=self.collected.params,
            prefix=definition.prefix,
            instance=definition.instance,
            deps=definition.deps,
            partitions=definition.partitions,
            bare_context=bare_context,
        )

    def report(self, definition: AssetDefinition | ResourceDefinition, found: Iterable[checks.Finding]) -> None:
        for code, message, hint in found:
            head = definition.name if message.startswith("(") else f"{definition.name}: "
            where = definition.location
            self.problems.append(
                Problem(code=code, message=head + message, file=where.file, line=where.line, asset=definition.name, hint=hint)
            )


def build(collected: Collected) -> Graph:
    """Validate a pipeline.

    Raises:
        DefinitionError: With all problems of all assets.
    """
    provided = {name: _provided(each) for name, each in collected.resources.items()}
    state = _Build(collected, AssetNames(collected.assets), ResourceNames(collected.resources, provided))
    state.problems.extend(collected.problems)
    nodes = {name: _node(state, definition) for name, definition in collected.assets.items()}
    resources = {name: _resource(state, each, provided[name]) for name, each in collected.resources.items()}
    _check_resources(state, resources)
    for node in nodes.values():
        state.report(node.definition, checks.edges(node, nodes, collected.params))
    upstreams = {name: node.upstreams for name, node in nodes.items()}
    order = topological(upstreams)
    if len(order) < len(nodes):
        _report_cycles(state, upstreams)
    if state.problems:
        raise DefinitionError(collected.name, sorted(state.problems, key=lambda p: (p.file or "", p.line or 0)))
    return Graph(
        pipeline=collected.name,
        nodes=nodes,
        order=order,
        dependants=followers(upstreams),
        resources=resources,
        params=collected.params,
    )


def _node(state: _Build, definition: AssetDefinition) -> Node:
    state.report(definition, checks.alone(definition, state.collected.assets))
    place = state.place(definition)
    found = bind(definition.body, definition.scope, place)
    state.report(definition, found.problems)
    state.report(definition, _unknown_deps(definition, found))
    conditions = tuple(_condition(state, definition, fn, expected) for fn, expected in definition.conditions())
    key_bindings: tuple[Binding, ...] = ()
    if isinstance(definition.cache, Cache) and definition.cache.key is not None and callable(definition.cache.key):
        key = bind(definition.cache.key, definition.scope, state.place(definition, bare_context=True))
        state.report(definition, key.problems)
        key_bindings = key.bindings
    own, upstreams = edges(found.bindings, conditions, key_bindings)
    return Node(
        name=definition.name,
        definition=definition,
        bindings=found.bindings,
        conditions=conditions,
        key_bindings=key_bindings,
        value_type=_value_type(definition, found),
        dependencies=own,
        upstreams=upstreams,
        takes_context=takes_context(found.bindings),
    )


def _unknown_deps(definition: AssetDefinition, found: Found) -> Iterator[checks.Finding]:
    if found.problems:
        return
    taken = {each.parameter for each in found.bindings}
    for name in definition.deps:
        if name not in taken:
            yield "FS109", f"deps={{{name!r}: ...}} names a parameter that the body does not have.", None


def _condition(state: _Build, definition: AssetDefinition, function: Any, expected: bool) -> BoundCondition:
    name = getattr(function, "__name__", repr(function))
    found = bind(function, definition.scope, state.place(definition, bare_context=True)) if callable(function) else Found((), ())
    state.report(definition, ((code, f"condition {name}{text}", hint) for code, text, hint in found.problems))
    return BoundCondition(function=function, name=name, expected=expected, bindings=found.bindings)


def _value_type(definition: AssetDefinition, found: Found) -> object:
    if isinstance(definition.kind, ConstantKind):
        return type(definition.kind.value)
    if not found.annotated:
        return None
    if isinstance(definition.kind, StreamKind):
        stream = get_origin(found.returns) in (AsyncIterator, AsyncGenerator, AsyncIterable)
        return (get_args(found.returns) or (None,))[0] if stream else None
    return found.returns


def _provided(resource: ResourceDefinition) -> object:
    returns = resolve(resource.body, resource.names).get("return")
    if get_origin(returns) in (AsyncIterator, AsyncGenerator, AsyncIterable):
        return (get_args(returns) or (None,))[0]
    return returns


def _resource(state: _Build, resource: ResourceDefinition, provides: object) -> BoundResource:
    place = Place(
        assets=state.assets,
        resources=state.resources,
        params=state.collected.params if resource.scope != "engine" else None,
        prefix=resource.prefix,
        instance=resource.instance,
        takes_assets=False,
    )
    found = bind(resource.body, resource.names, place)
    state.report(resource, found.problems)
    state.report(resource, checks.resource(resource, provides))
    return BoundResource(definition=resource, provides=provides, bindings=found.bindings)


def _check_resources(state: _Build, resources: Mapping[str, BoundResource]) -> None:
    takes = {name: checks.resources_taken(each) for name, each in resources.items()}
    for cycle in cycles(takes):
        definition = resources[cycle[0]].definition
        state.report(definition, [("FS110", f"resources form a cycle: {' -> '.join(reversed(cycle))}", None)])
    for name, taken in takes.items():
        own = resources[name].definition
        for other in taken:
            narrow = resources[other].definition
            if own.scope in SCOPES and narrow.scope in SCOPES and SCOPES.index(own.scope) < SCOPES.index(narrow.scope):
                text = f"lives as long as its {own.scope}, but takes {other!r}, which lives only as long as its {narrow.scope}"
                state.report(own, [("FS109", text, "Widen the one or narrow the other.")])


def _report_cycles(state: _Build, upstreams: Mapping[str, Sequence[str]]) -> None:
    for cycle in cycles(upstreams):
        definition = state.collected.assets[cycle[0]]
        where = definition.location
        state.problems.append(
            Problem(
                code="FS110",
                message=f"cycle: {' -> '.join(cycle)}",
                file=where.file,
                line=where.line,
                asset=definition.name,
                hint="Take one of these edges away.",
            )
        )
