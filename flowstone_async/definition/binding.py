"""How each parameter of a body gets its value: the rules of injection, applied once, when a pipeline is validated.

The first rule that applies decides: (1) a marker as default or in `Annotated`; (2) annotated `Context`; (3) called
`partition` or `params`; (4) called like an asset; (5) annotated with a registered resource type; (6) it has any other
default, which is left alone; otherwise it is a problem. A name that two of rules 2 to 5 would take is a problem too.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, TypeAlias, Union, get_args, get_origin
from types import UnionType

from flowstone_async.definition.annotations import resolve
from flowstone_async.definition.asset import AssetDefinition, Body, Scope
from flowstone_async.definition.context import Context
from flowstone_async.definition.handle import AssetRef
from flowstone_async.definition.mapping import KeyMapping
from flowstone_async.definition.marker import MARKERS, Dependency, Marker, ParamField, ResourceName
from flowstone_async.definition.names import AssetNames, ResourceNames, suggestion
from flowstone_async.definition.partition import KeyMarker, PartitionSet
from flowstone_async.definition.assignable import render
from flowstone_async.types import Failed, Skipped


@dataclass(frozen=True, slots=True, kw_only=True)
class DependencyBinding:
    """The parameter receives the value of `upstream` (or, with `external`, another pipeline's current value).

    Attributes:
        admits_failed: The annotation takes a `Failed`.
        admits_skipped: The annotation takes a `Skipped`.
        wanted: The type its value is loaded as; None to load as produced.
    """

    parameter: str
    upstream: str
    annotation: object = None
    wanted: object = None
    optional: bool = False
    admits_failed: bool = False
    admits_skipped: bool = False
    over: KeyMapping | None = None
    external: AssetDefinition | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextBinding:
    """The parameter receives the `Context`."""

    parameter: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionBinding:
    """The parameter receives the partition key, or the part of it that belongs to one dimension."""

    parameter: str
    marker: KeyMarker | None = None
    annotation: object = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ParamsBinding:
    """The parameter receives all params of the run, as `wanted` where an included pipeline has its own type."""

    parameter: str
    wanted: object = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ParamFieldBinding:
    """The parameter receives one field of the params."""

    parameter: str
    field: str
    annotation: object = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceBinding:
    """The parameter receives an open resource."""

    parameter: str
    resource: str


Binding: TypeAlias = (
    DependencyBinding | ContextBinding | PartitionBinding | ParamsBinding | ParamFieldBinding | ResourceBinding
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a body stands: whose names it sees, and what it may take.

    Attributes:
        home: The definition it belongs to, or None (a resource).
        assets: The pipeline's assets, as names resolve from here.
        resources: The pipeline's resources.
        params: The pipeline's params type, or None.
        deps: Upstreams given to `pipe.add` by parameter.
        takes_assets: Whether it may take assets and run facts at all (a resource may not).
        bare_context: Whether an unannotated `ctx` is the context (conditions).
    """

    assets: AssetNames
    resources: ResourceNames
    params: type | None
    prefix: str = ""
    instance: tuple[int, ...] = ()
    deps: Mapping[str, object] = field(default_factory=dict[str, object])
    partitions: PartitionSet[object] | None = None
    takes_assets: bool = True
    bare_context: bool = False


@dataclass(frozen=True, slots=True)
class Found:
    """What binding a body gave: bindings, and problems as (code, message, hint)."""

    bindings: tuple[Binding, ...]
    problems: tuple[tuple[str, str, str | None], ...]
    returns: object = None
    annotated: bool = False


class _Unbound(Exception):
    def __init__(self, code: str, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.problem = (code, message, hint)


def bind(body: Body, scope: Scope, place: Place) -> Found:
    """Resolve every parameter of a body."""
    hints = resolve(body, scope)
    bindings: list[Binding] = []
    problems: list[tuple[str, str, str | None]] = []
    for parameter in _parameters(body):
        try:
            binding = _bind_one(parameter, hints, place)
        except _Unbound as unbound:
            problems.append(unbound.problem)
        else:
            if binding is not None:
                bindings.append(binding)
    return Found(tuple(bindings), tuple(problems), hints.get("return"), "return" in hints)


def _parameters(body: Body) -> Sequence[inspect.Parameter]:
    try:
        parameters = inspect.signature(body).parameters.values()
    except (TypeError, ValueError):
        return ()
    return [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]


def _bind_one(parameter: inspect.Parameter, hints: Mapping[str, object], place: Place) -> Binding | None:
    name = parameter.name
    annotation, inline = _split(hints.get(name, parameter.empty))
    if name in place.deps:
        return _bind_dependency(name, annotation, Dependency(asset=place.deps[name]), place)
    marker = parameter.default if isinstance(parameter.default, MARKERS) else inline
    if marker is not None:
        return _bind_marker(name, annotation, marker, place)
    readings = _readings(name, annotation, place)
    if len(readings) > 1:
        both = " and ".join(text for text, _ in readings)
        raise _Unbound(
            "FS106", f"{name!r} can be read as {both}.", "Say which with a marker: dep(...), param(...), resource(...)."
        )
    if readings:
        return readings[0][1]
    if parameter.default is not parameter.empty:
        return None
    what = "an asset, param or resource" if place.takes_assets else "a resource"
    shown = name if annotation is parameter.empty else f"{name}: {render(annotation)}"
    raise _Unbound(
        "FS101", f"({shown}) — {name!r} is not {what} of this pipeline.", suggestion(name, place.assets.visible(place.prefix))
    )


def _split(annotation: object) -> tuple[object, Marker | None]:
    if get_origin(annotation) is not Annotated:
        return annotation, None
    plain, *notes = get_args(annotation)
    return plain, next((note for note in notes if isinstance(note, MARKERS)), None)


def _readings(name: str, annotation: object, place: Place) -> list[tuple[str, Binding]]:
    found: list[tuple[str, Binding]] = []
    if place.takes_assets:
        if annotation is Context or (place.bare_context and name == "ctx" and annotation is inspect.Parameter.empty):
            found.append(("the context", ContextBinding(parameter=name)))
        if name == "partition":
            found.append(("the partition key", PartitionBinding(parameter=name, annotation=annotation)))
        upstream = place.assets.named(name, place.prefix)
        if upstream is not None:
            found.append((f"asset {upstream!r}", _edge(name, annotation, upstream, Dependency(asset=upstream))))
    if name == "params" and place.params is not None:
        wanted = annotation if isinstance(annotation, type) else None
        found.append(("the params", ParamsBinding(parameter=name, wanted=wanted)))
    resource = place.resources.typed(annotation, place.instance)
    if len(resource) > 1:
        names = " or ".join(repr(each) for each in resource)
        raise _Unbound("FS106", f"{name!r} can be resource {names}.", f'Say which: {name}=resource("{resource[0]}").')
    if resource:
        found.append((f"resource {resource[0]!r}", ResourceBinding(parameter=name, resource=resource[0])))
    return found


def _bind_marker(name: str, annotation: object, marker: Marker, place: Place) -> Binding:
    if not place.takes_assets and not isinstance(marker, ResourceName | ParamField):
        raise _Unbound("FS109", f"{name!r} takes an asset or partition, which a resource cannot.")
    match marker:
        case Dependency():
            return _bind_dependency(name, annotation, marker, place)
        case ParamField():
            return _bind_field(name, annotation, marker.name, place)
        case ResourceName():
            found = place.resources.named(marker.name, place.prefix)
            if found is None:
                known = place.resources.names()
                raise _Unbound(
                    "FS101", f"resource({marker.name!r}) is not a resource of this pipeline.", suggestion(marker.name, known)
                )
            return ResourceBinding(parameter=name, resource=found)
        case KeyMarker():
            return PartitionBinding(parameter=name, marker=marker, annotation=annotation)


def _bind_field(name: str, annotation: object, wanted: str, place: Place) -> Binding:
    known = params_fields(place.params)
    if wanted not in known:
        what = "has no params" if place.params is None else f"has no params field {wanted!r}"
        raise _Unbound("FS101", f"{name}=param({wanted!r}): this pipeline {what}.", suggestion(wanted, known))
    return ParamFieldBinding(parameter=name, field=wanted, annotation=annotation)


def params_fields(params: type | None) -> tuple[str, ...]:
    """Return the field names of a params type: a dataclass or a pydantic model."""
    fields = getattr(params, "model_fields", None) or getattr(params, "__dataclass_fields__", None) or {}
    return tuple(fields)


def _bind_dependency(name: str, annotation: object, marker: Dependency, place: Place) -> Binding:
    asset = marker.asset
    if isinstance(asset, str):
        upstream = place.assets.named(asset, place.prefix)
        if upstream is None:
            hint = suggestion(asset, place.assets.visible(place.prefix))
            raise _Unbound("FS101", f"{name!r} depends on {asset!r}, which is not an asset of this pipeline.", hint)
        return _edge(name, annotation, upstream, marker)
    if not isinstance(asset, AssetRef):
        raise _Unbound("FS109", f"{name!r} depends on {asset!r}, which is neither an asset nor a name.")
    definition: AssetDefinition = asset.definition
    if marker.external:
        return _edge(name, annotation, definition.name, marker, external=definition)
    found = place.assets.copies(definition, place.instance)
    if not found:
        raise _Unbound(
            "FS150",
            f"{name!r} depends on asset {definition.name!r} of pipeline {definition.home.name!r}.",
            f"Say pipe.include(...) to make it part of this pipeline, or dep({definition.name}, external=True) "
            f"to read its current value.",
        )
    if len(found) > 1:
        names = " or ".join(repr(each) for each in found)
        raise _Unbound("FS106", f"{name!r} can be asset {names}: the pipeline was included twice.", f'Say which: dep("{found[0]}").')
    return _edge(name, annotation, found[0], marker)


def _edge(
    name: str, annotation: object, upstream: str, marker: Dependency, external: AssetDefinition | None = None
) -> DependencyBinding:
    known = annotation is not inspect.Parameter.empty
    members = union_members(annotation) if known else ()
    rest = tuple(each for each in members if each not in (Failed, Skipped))
    wanted = annotation if len(rest) == len(members) else (Union[rest] if rest else None)  # noqa: UP007
    return DependencyBinding(
        parameter=name,
        upstream=upstream,
        annotation=annotation,
        wanted=wanted if known else None,
        optional=marker.optional,
        admits_failed=Failed in members,
        admits_skipped=Skipped in members,
        over=marker.over,
        external=external,
    )


def union_members(annotation: object) -> tuple[object, ...]:
    """Return the members of a union, or the annotation alone."""
    if get_origin(annotation) in (Union, UnionType):
        return get_args(annotation)
    return (annotation,)


