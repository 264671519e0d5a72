"""How each parameter of a body gets its value: the rules of injection, applied once, when a pipeline is validated.

The first rule that applies decides: (1) a marker as default or in `Annotated`; (2) annotated `Context`; (3) called
`partition` or `params`; (4) called like an asset; (5) annotated with a registered resource type; (6) it has any other
default, which is left alone; otherwise it is a problem. A name that two of rules 2 to 5 would take is a problem too.

A body of an included pipeline is read as its own pipeline reads it; only a parameter that finds nothing there is
looked for in the pipelines around it.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import NoneType, UnionType
from typing import Annotated, Any, NoReturn, TypeAlias, Union, get_args, get_origin

from flowstone_async.approvals import Decision
from flowstone_async.definition.annotations import Hints, resolve
from flowstone_async.definition.asset import AssetDefinition, Home, Scope
from flowstone_async.definition.assignable import Annotation, bare, render
from flowstone_async.definition.binding import (
    Binding,
    ContextBinding,
    DependencyBinding,
    ParamFieldBinding,
    ParamsBinding,
    PartitionBinding,
    ResourceBinding,
)
from flowstone_async.definition.body import Body, signature_of
from flowstone_async.definition.context import Context
from flowstone_async.definition.finding import Finding
from flowstone_async.definition.handle import AssetRef
from flowstone_async.definition.inclusion import HERE, Inclusion
from flowstone_async.definition.mapping import KeyMapping
from flowstone_async.definition.marker import MARKERS, Dependency, Marker, ParamField, ResourceName
from flowstone_async.definition.names import AssetNames, ResourceNames, suggestion
from flowstone_async.definition.params import params_fields
from flowstone_async.definition.partition import KeyMarker
from flowstone_async.types import Failed, Skipped

EMPTY = inspect.Parameter.empty
NO_PARAMS = ("this pipeline has no params.", "Say Pipeline(..., params=YourModel).")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a body stands: whose names it sees, and what it may take.

    Attributes:
        assets: The pipeline's assets, as names resolve from here.
        resources: The pipeline's resources.
        params: The pipeline's params type, or None.
        no_params: Why there are none, and the way out.
        home: The pipeline that the body was defined in.
        inclusion: The way by which it came into this one.
        deps: Upstreams given to `pipe.add` by parameter.
        given: Bindings that parameters of these names share (a cache key takes the body's arguments).
        takes_assets: Whether it may take assets and facts of a run at all (a resource may not).
        bare_context: Whether an unannotated `ctx` is the context (conditions).
        aside: Parameters that are filled otherwise, such as that of a scatter's item.
    """

    assets: AssetNames
    resources: ResourceNames
    params: type | None
    no_params: tuple[str, str] = NO_PARAMS
    home: Home | None = None
    inclusion: Inclusion = HERE
    deps: Mapping[str, object] = field(default_factory=dict[str, object])
    given: Mapping[str, Binding] = field(default_factory=dict[str, Binding])
    takes_assets: bool = True
    bare_context: bool = False
    aside: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Found:
    """What binding a body gave.

    Attributes:
        parameters: Names of all its parameters, bound or left alone.
        returns: The return annotation, or None where there is none.
    """

    bindings: tuple[Binding, ...]
    problems: tuple[Finding, ...]
    parameters: tuple[str, ...]
    returns: object


class _Unbound(Exception):
    def __init__(self, code: str, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.finding = Finding(code, message, hint)


def bind(body: Body, scope: Scope, place: Place) -> Found:
    """Resolve every parameter of a body."""
    hints = resolve(body, scope)
    bindings: list[Binding] = []
    problems: list[Finding] = []
    parameters = list(_parameters(body, place.deps))
    for parameter, described_by in parameters:
        if parameter.name in place.aside:
            continue
        try:
            binding = _bind_one(parameter, described_by, hints, place)
        except _Unbound as unbound:
            problems.append(unbound.finding)
        else:
            if binding is not None:
                bindings.append(binding)
    if "return" in hints.unread:
        text = f"(...) — its return annotation cannot be read: {hints.unread['return']}."
        problems.append(Finding("FS101", text))
    names = tuple(parameter.name for parameter, _ in parameters)
    return Found(tuple(bindings), tuple(problems), names, hints.types.get("return"))


def bind_edge(name: str, marker: Dependency, place: Place) -> Binding | Finding:
    """Resolve a dependency that no parameter receives, or return what is wrong with it.

    Args:
        name: What it is called in place of a parameter.
        marker: What was written.
        place: Where it stands.
    """
    try:
        return _bind_dependency(name, EMPTY, marker, place)
    except _Unbound as unbound:
        return unbound.finding


def _parameters(body: Body, deps: Mapping[str, object]) -> Iterator[tuple[inspect.Parameter, str]]:
    """Yield the parameters, each with the name that its annotation stands under; `**inputs` takes what `deps` names."""
    try:
        parameters = signature_of(body).parameters
    except (TypeError, ValueError):
        return
    for name, parameter in parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            more = (each for each in deps if each not in parameters)
            yield from ((inspect.Parameter(each, parameter.KEYWORD_ONLY), name) for each in more)
        elif parameter.kind is not parameter.VAR_POSITIONAL:
            yield parameter, name


def _bind_one(parameter: inspect.Parameter, described_by: str, hints: Hints, place: Place) -> Binding | None:
    name = parameter.name
    if described_by in hints.unread:
        raise _Unbound("FS101", f"({name}) — its annotation cannot be read: {hints.unread[described_by]}.")
    annotation, inline = split_annotation(hints.types.get(described_by, EMPTY))
    if parameter.kind is parameter.POSITIONAL_ONLY:
        text = f"({_shown(name, annotation)}) — {name!r} is positional-only, but arguments are passed by name."
        raise _Unbound("FS101", text, "Take the '/' away.")
    if name in place.deps:
        return _bind_dependency(name, annotation, Dependency(asset=place.deps[name]), place)
    marker = parameter.default if isinstance(parameter.default, MARKERS) else inline
    if marker is not None:
        return _bind_marker(name, annotation, marker, place)
    if name in place.given:
        return place.given[name]
    for where in place.inclusion.outwards():
        readings = list(_readings(name, annotation, place, where))
        if readings:
            return _only(name, annotation, readings, place)
        if parameter.default is not EMPTY:
            return None
    return _unknown(name, annotation, place)


def split_annotation(annotation: object) -> tuple[object, Marker | None]:
    """Return an annotation without `Annotated`, and the marker in that, if there is one."""
    if get_origin(annotation) is not Annotated:
        return annotation, None
    plain, *notes = get_args(annotation)
    return plain, next((note for note in notes if isinstance(note, MARKERS)), None)


def _shown(name: str, annotation: object) -> str:
    return name if annotation is EMPTY else f"{name}: {render(annotation)}"


_Reading: TypeAlias = "tuple[str, Binding | None]"


def _readings(name: str, annotation: object, place: Place, where: Inclusion) -> Iterator[_Reading]:
    """Yield what rules 2 to 5 make of a parameter in one pipeline, each with what it reads it as."""
    if place.takes_assets and where is place.inclusion:
        if is_context(annotation) or (place.bare_context and name == "ctx" and annotation is EMPTY):
            yield "the context", ContextBinding(parameter=name)
        if name == "partition":
            yield "the partition key", PartitionBinding(parameter=name, annotation=annotation)
    if name == "params" and where is place.inclusion:
        binding = ParamsBinding(parameter=name, wanted=None if annotation is EMPTY else annotation)
        yield "the params", None if place.params is None else binding
    upstream = place.assets.at(name, where) if place.takes_assets else None
    if upstream is not None:
        yield f"asset {upstream!r}", _edge(name, annotation, upstream, Dependency(asset=upstream))
    found = [] if annotation is EMPTY else place.resources.typed(annotation, where)
    for each in found:
        yield f"resource {each!r}", ResourceBinding(parameter=name, resource=each)


def is_context(annotation: object) -> bool:
    """Tell whether an annotation is `Context`, or `Context | None`: in a run there always is one."""
    return annotation is Context or (
        get_origin(annotation) in (Union, UnionType) and {*get_args(annotation)} == {Context, NoneType}
    )


def _only(name: str, annotation: object, readings: Sequence[_Reading], place: Place) -> Binding:
    if len(readings) > 1:
        all_of_them = ", ".join(text for text, _ in readings[:-1]) + f" and {readings[-1][0]}"
        raise _Unbound(
            "FS106",
            f"({_shown(name, annotation)}) — {name!r} can be read as {all_of_them}.",
            f"Say which: {' or '.join([*_markers(name, readings), 'another name for the parameter'])}.",
        )
    binding = readings[0][1]
    if binding is None:
        raise _Unbound("FS101", f"({_shown(name, annotation)}) — {place.no_params[0]}", place.no_params[1])
    return binding


def _markers(name: str, readings: Sequence[_Reading]) -> Iterator[str]:
    for _, binding in readings:
        match binding:
            case DependencyBinding(upstream=upstream):
                yield f'{name} = dep("{upstream}")'
            case ResourceBinding(resource=resource):
                yield f'{name} = resource("{resource}")'
            case PartitionBinding():
                yield f"{name} = <the partition set>.key()"
            case _:
                pass


def _unknown(name: str, annotation: object, place: Place) -> NoReturn:
    head = f"({_shown(name, annotation)}) — {name!r} is not"
    close = place.resources.providing(annotation)
    if close is not None:
        way_out = f'resource("{close}")'
        hint = f"Resource {close!r} provides a subclass of it: annotate that, or say {name} = {way_out}."
    elif place.takes_assets:
        hint = place.assets.suggest(name, place.inclusion)
    else:
        hint = "A resource takes resources, by their annotated types, and params."
    what = "an asset, param or resource" if place.takes_assets else "a resource"
    raise _Unbound("FS101", f"{head} {what} of this pipeline.", hint)


def _bind_marker(name: str, annotation: object, marker: Marker, place: Place) -> Binding:
    if not place.takes_assets and not isinstance(marker, ResourceName | ParamField):
        text = f"({_shown(name, annotation)}) — a resource cannot take an asset or a partition."
        raise _Unbound("FS109", text)
    match marker:
        case Dependency():
            return _bind_dependency(name, annotation, marker, place)
        case ParamField():
            return _bind_field(name, annotation, marker.name, place)
        case ResourceName():
            return _bind_resource(name, annotation, marker.name, place)
        case KeyMarker():
            return PartitionBinding(parameter=name, marker=marker, annotation=annotation)


def _bind_field(name: str, annotation: object, wanted: str, place: Place) -> Binding:
    head = f"({_shown(name, annotation)} = param({wanted!r})) —"
    if place.params is None:
        raise _Unbound("FS101", f"{head} {place.no_params[0]}", place.no_params[1])
    known = params_fields(place.params)
    if wanted not in known:
        text = f"{head} {place.params.__name__} has no field {wanted!r}."
        raise _Unbound("FS101", text, suggestion(wanted, known) if isinstance(wanted, str) else None)
    return ParamFieldBinding(parameter=name, field=wanted, annotation=annotation)


def _bind_resource(name: str, annotation: object, wanted: str, place: Place) -> Binding:
    found = place.resources.named(wanted, place.inclusion) if isinstance(wanted, str) else None
    if found is None:
        text = f"({_shown(name, annotation)} = resource({wanted!r})) — this pipeline has no resource {wanted!r}."
        raise _Unbound("FS101", text, suggestion(str(wanted), place.resources.names()))
    return ResourceBinding(parameter=name, resource=found)


def _bind_dependency(name: str, annotation: object, marker: Dependency, place: Place) -> Binding:
    asset = marker.asset
    head = f"({_shown(name, annotation)}) —"
    if marker.over is not None and not isinstance(marker.over, KeyMapping):
        hint = "Give days.last(7), days.all(), grid.dimension(days) or mapping(fn)."
        raise _Unbound("FS109", f"{head} over={marker.over!r} is no mapping of partitions.", hint)
    if isinstance(asset, AssetRef):
        return _bind_handle(name, annotation, asset.definition, marker, place)
    if not isinstance(asset, str):
        raise _Unbound("FS109", f"{head} {asset!r} is neither an asset nor a name.")
    if marker.external:
        text = f"{head} external=True needs the other pipeline's asset itself, not the name {asset!r}."
        raise _Unbound("FS109", text, "Import it: dep(other_asset, external=True).")
    upstream = place.assets.named(asset, place.inclusion)
    if upstream is None:
        hint = place.assets.suggest(asset, place.inclusion)
        raise _Unbound("FS101", f"{head} {asset!r} is not an asset of this pipeline.", hint)
    return _edge(name, annotation, upstream, marker)


def _bind_handle(
    name: str, annotation: object, definition: AssetDefinition, marker: Dependency, place: Place
) -> Binding:
    head = f"({_shown(name, annotation)}) —"
    found = place.assets.copies(definition, place.inclusion)
    if marker.external:
        if marker.over is not None:
            text = f"{head} over= and external=True exclude each other: one current value is read."
            raise _Unbound("FS109", text)
        if definition.home is place.home:
            text = f"{head} external=True, but asset {definition.name!r} belongs to this very pipeline."
            raise _Unbound("FS109", text, f"Say dep({definition.name}).")
        return _edge(name, annotation, definition.name, marker, external=definition)
    if not found:
        raise _Unbound(
            "FS150",
            f"{head} asset {definition.name!r} belongs to pipeline {definition.home.name!r}.",
            f"Say pipe.include(...) to make it part of this one, or dep({definition.name}, external=True) to read its "
            f"current value.",
        )
    if len(found) > 1:
        names = " or ".join(repr(each) for each in found)
        text = f"{head} asset {definition.name!r} was included more than once and can be {names}."
        raise _Unbound("FS106", text, f'Say which: {name} = dep("{found[0]}").')
    return _edge(name, annotation, found[0], marker)


def _edge(
    name: str, annotation: Annotation, upstream: str, marker: Dependency, external: AssetDefinition | None = None
) -> DependencyBinding:
    known = annotation is not EMPTY
    members = union_members(value_annotation(annotation, mapped=marker.over is not None)) if known else ()
    outcomes = (Failed, Skipped)
    rest = tuple(each for each in members if each not in outcomes)
    plain = annotation if len(rest) == len(members) or not rest else Union[rest]  # noqa: UP007 - made at run time
    return DependencyBinding(
        parameter=name,
        upstream=upstream,
        annotation=annotation,
        # A decision is loaded as it was made: only its asset knows the types of its inputs.
        wanted=plain if known and marker.over is None and not any(map(_is_decision, rest)) else None,
        optional=bool(marker.optional),
        admits_failed=Failed in members,
        admits_skipped=Skipped in members,
        over=marker.over,
        external=external,
    )


def _is_decision(annotation: object) -> bool:
    return (get_origin(annotation) or annotation) is Decision


def value_annotation(annotation: object, *, mapped: bool) -> object:
    """Return the annotation of one value: with `over`, that of the mapping's values."""
    if not mapped:
        return annotation
    arguments = get_args(bare(annotation))
    return arguments[1] if len(arguments) == 2 else EMPTY  # noqa: PLR2004 - a mapping has a key and a value


def union_members(annotation: object) -> tuple[Any, ...]:
    """Return the members of a union, or the annotation alone."""
    plain = bare(annotation)
    return get_args(plain) if get_origin(plain) in (Union, UnionType) else (plain,)
