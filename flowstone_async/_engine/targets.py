"""From what callers name (handles, names) to assets of the engine's pipelines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from flowstone_async._engine.catalog import Catalog
from flowstone_async.definition.collection import foreign, not_found
from flowstone_async.definition.handle import AssetRef
from flowstone_async.definition.inclusion import HERE
from flowstone_async.errors import AssetNotFound, ConfigError

Target: TypeAlias = AssetRef[Any] | str


def find(catalogs: Mapping[str, Catalog], target: Target) -> tuple[Catalog, str]:
    """Return the pipeline and name of an asset.

    Raises:
        AssetNotFound: No pipeline has it.
        ConfigError: Several have it, or it is neither a handle nor a name.
    """
    if isinstance(target, AssetRef):
        return _by_handle(catalogs, target)
    if not isinstance(target, str):
        raise ConfigError(f"{target!r} is not an asset", hint="Pass a decorated asset, or its name as text.")
    pipeline, dot, name = target.partition(".")
    if dot and pipeline in catalogs:
        catalogs[pipeline].node(name)
        return catalogs[pipeline], name
    having = [catalog for catalog in catalogs.values() if target in catalog.graph.nodes]
    return _only(catalogs, having, target, target)


def _by_handle(catalogs: Mapping[str, Catalog], target: AssetRef[Any]) -> tuple[Catalog, str]:
    definition = target.definition
    found: list[tuple[Catalog, str]] = []
    for catalog in catalogs.values():
        node = catalog.graph.nodes.get(definition.name)
        if node is not None and node.definition is definition:
            return catalog, definition.name
        found += [(catalog, name) for name in catalog.graph.names.copies(definition, HERE)]
    if len(found) == 1:
        return found[0]
    if found:
        names = [f"{catalog.graph.pipeline}.{name}" for catalog, name in found]
        raise ConfigError(
            f"asset {definition.name!r} was included more than once: {', '.join(names)}", hint="Name one of them."
        )
    elsewhere = foreign(definition, tuple(catalogs))
    if elsewhere is not None:
        raise elsewhere
    named = [
        catalog
        for catalog in catalogs.values()
        if definition.name in catalog.graph.nodes and catalog.graph.pipeline == definition.home.name
    ]
    return _only(catalogs, named, definition.name, definition.name)


def _only(catalogs: Mapping[str, Catalog], having: Sequence[Catalog], name: str, shown: str) -> tuple[Catalog, str]:
    if len(having) == 1:
        return having[0], name
    if not having:
        raise _unknown(catalogs, shown)
    forms = ", ".join(f"{catalog.graph.pipeline}.{name}" for catalog in having)
    raise ConfigError(f"several pipelines of this engine have an asset {shown!r}", hint=f"Say which: {forms}.")


def _unknown(catalogs: Mapping[str, Catalog], name: str) -> AssetNotFound:
    if len(catalogs) == 1:
        catalog = next(iter(catalogs.values()))
        return not_found(name, catalog.graph.pipeline, catalog.graph.nodes)
    names = {f"{p}.{asset}": None for p, catalog in catalogs.items() for asset in catalog.graph.nodes}
    return not_found(name, ", ".join(catalogs), names)
