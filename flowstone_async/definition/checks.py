"""What can be wrong with one asset or resource by itself, and between resources."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from flowstone_async.definition.asset import AssetDefinition
from flowstone_async.definition.body import is_empty, way_of
from flowstone_async.definition.cycle import cycles
from flowstone_async.definition.finding import Finding
from flowstone_async.definition.graph import BoundResource, followers
from flowstone_async.definition.option import asset_name, prefix_name, resource_name
from flowstone_async.definition.resource import SCOPES, ResourceDefinition


def check_asset(definition: AssetDefinition) -> Iterator[Finding]:
    """Find what is wrong with one asset by itself."""
    yield from definition.problems
    if not any(problem for prefix in definition.inclusion.prefixes for problem in prefix_name(prefix)):
        yield from asset_name(definition.name)
    if is_empty(definition.body):
        yield Finding("FS107", "the body is empty.", "Write the body, or take the asset away.")


def check_renames(assets: Mapping[str, AssetDefinition]) -> Iterator[tuple[AssetDefinition, Finding]]:
    """Find assets that would take over what still belongs to another."""
    heirs: dict[str, str] = {}
    for definition in assets.values():
        if definition.renamed_from is None:
            continue
        old = definition.prefix + definition.renamed_from
        head = f"renamed_from={definition.renamed_from!r}, but asset"
        if old in assets:
            text = f"{head} {old!r} is still defined."
            yield definition, Finding("FS112", text, "Take one of the two away.")
        elif heirs.setdefault(old, definition.name) != definition.name:
            text = f"{head} {heirs[old]!r} says that too."
            yield definition, Finding("FS112", text, "Only one can take its values over.")


def check_resource(resource: BoundResource) -> Iterator[Finding]:
    """Find what is wrong with one resource by itself."""
    definition = resource.definition
    yield from resource_name(definition.name)
    if way_of(definition.body) not in ("coroutine", "async generator"):
        hint = "Write an async generator that yields it once, or an async function that returns it."
        yield Finding("FS109", "a resource is opened by an async function.", hint)
    elif resource.provides is None:
        hint = "Annotate what it yields, AsyncIterator[T], or what it returns, T."
        yield Finding("FS109", "it is not said what it provides.", hint)
    scope: object = definition.scope
    if scope not in SCOPES:
        yield Finding("FS109", f"scope={scope!r}: allowed are {', '.join(map(repr, SCOPES))}.")
    if definition.health is not None and not callable(definition.health):
        yield Finding("FS109", f"health={definition.health!r}: give a function of the handle.")


def check_between(resources: Mapping[str, BoundResource]) -> Iterator[tuple[ResourceDefinition, Finding]]:
    """Find cycles between resources, and those that outlive what they take."""
    taken = {name: each.resources() for name, each in resources.items()}
    for cycle in cycles(followers(taken)):
        text = f"cycle of resources: {' -> '.join(cycle)}."
        yield resources[cycle[0]].definition, Finding("FS110", text, "Take one of these edges away.")
    for name, others in taken.items():
        own = resources[name].definition
        for other in dict.fromkeys(others):
            narrow = resources[other].definition
            if own.scope in SCOPES and narrow.scope in SCOPES and SCOPES.index(own.scope) < SCOPES.index(narrow.scope):
                text = (
                    f"it lives as long as its {own.scope}, but takes {other!r}, "
                    f"which lives only as long as its {narrow.scope}."
                )
                yield own, Finding("FS109", text, "Widen the one or narrow the other.")
