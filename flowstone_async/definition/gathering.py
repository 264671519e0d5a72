"""Which parameter of a gathering body receives the results of its scatter."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import get_origin

from flowstone_async.definition.annotations import resolve
from flowstone_async.definition.asset import AssetDefinition
from flowstone_async.definition.assignable import bare, render
from flowstone_async.definition.body import signature_of, way_of
from flowstone_async.definition.finding import Finding
from flowstone_async.definition.gathered import Gathered
from flowstone_async.definition.handle import AssetRef
from flowstone_async.definition.injection import EMPTY, Place, split_annotation, union_members
from flowstone_async.definition.marker import MARKERS, Dependency


def gathering_place(definition: AssetDefinition, place: Place) -> tuple[Place, tuple[Finding, ...]]:
    """Return the place of a body with the results of its scatter given to one parameter, and what is wrong (`FS163`).

    That is the parameter called like the scatter, else the first one annotated `Gathered` that is not called like
    another asset. One that says `dep(...)` of the scatter stands as it is.
    """
    scatter = definition.gathers
    if scatter is None:
        return place, ()
    if way_of(definition.body) in ("plain", "generator"):
        hint = "Make it async def: the results are read with `async for`."
        return place, (Finding("FS163", f"it gathers {scatter.name!r}, but is a plain def.", hint),)
    parameters = tuple(_parameters(definition))
    if any(_says(marker, scatter) for _, _, marker in parameters):
        return place, ()
    free = [(name, annotation) for name, annotation, marker in parameters if marker is None]
    receiver = _receiver(free, scatter, place)
    if receiver is None:
        return place, (_nowhere(free, scatter),)
    return replace(place, deps={**place.deps, receiver: AssetRef[object](scatter)}), ()


def _parameters(definition: AssetDefinition) -> Iterator[tuple[str, object, object]]:
    """Yield the body's parameters: name, annotation, marker."""
    hints = resolve(definition.body, definition.scope).types
    for name, parameter in signature_of(definition.body).parameters.items():
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            annotation, inline = split_annotation(hints.get(name, EMPTY))
            yield name, annotation, parameter.default if isinstance(parameter.default, MARKERS) else inline


def _says(marker: object, scatter: AssetDefinition) -> bool:
    asset = marker.asset if isinstance(marker, Dependency) else None
    if isinstance(asset, AssetRef):
        found = asset.definition
        return (found.home, found.local_name) == (scatter.home, scatter.local_name)
    return asset == scatter.local_name


def _receiver(free: Sequence[tuple[str, object]], scatter: AssetDefinition, place: Place) -> str | None:
    if any(name == scatter.local_name for name, _ in free):
        return scatter.local_name
    gathered = (name for name, annotation in free if _is_gathered(annotation))
    return next((name for name in gathered if place.assets.named(name, place.inclusion) is None), None)


def _is_gathered(annotation: object) -> bool:
    return any((get_origin(each) or each) is Gathered for each in map(bare, union_members(annotation)))


def _nowhere(free: Sequence[tuple[str, object]], scatter: AssetDefinition) -> Finding:
    name = scatter.local_name
    for parameter, annotation in free:
        if _is_gathered(annotation):
            text = f"({parameter}: {render(annotation)}) — it gathers {name!r}, but {parameter!r} is another asset."
            return Finding("FS163", text, f"Say {parameter} = dep({name}), or give the parameter another name.")
    hint = "Take them first: results: Gathered[...]."
    return Finding("FS163", f"no parameter takes the results of {name!r}, which it gathers.", hint)
