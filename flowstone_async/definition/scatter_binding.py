"""What the body, the source, `select` and `key` of a scatter receive: the rules of injection, beside the item."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from flowstone_async.definition.annotations import Hints, resolve
from flowstone_async.definition.asset import AssetDefinition
from flowstone_async.definition.assignable import render
from flowstone_async.definition.batching import Batching
from flowstone_async.definition.binding import Binding, DependencyBinding
from flowstone_async.definition.body import Body, signature_of, way_of
from flowstone_async.definition.bound_scatter import (
    SOURCE,
    BoundBatching,
    BoundScatter,
    BoundSource,
    ItemBinding,
    ItemFunction,
)
from flowstone_async.definition.finding import Finding
from flowstone_async.definition.injection import EMPTY, Found, Place, bind, bind_edge, is_context, split_annotation
from flowstone_async.definition.item_source import AssetSource, CustomSource, FunctionSource, SourceSpec
from flowstone_async.definition.marker import MARKERS
from flowstone_async.definition.scatter import ScatterKind
from flowstone_async.sources.source import Source

_FIRST = "Put the parameter for the item first; the others are injected."


@dataclass(slots=True)
class ScatterFound:
    """What binding a scatter gave.

    Attributes:
        body: The body's own parameters, without that of the item.
        scatter: The rest; None where the body has no parameter for the item.
        problems: What is wrong, each with the part that it is about; that of the body has no name.
    """

    body: Found
    scatter: BoundScatter | None = None
    problems: list[tuple[str, Finding]] = field(default_factory=list[tuple[str, Finding]])

    def note(self, part: str, *findings: Finding) -> None:
        """Add what is wrong with a part."""
        self.problems.extend((part, finding) for finding in findings)


def bind_scatter(definition: AssetDefinition, kind: ScatterKind, place: Place) -> ScatterFound:
    """Resolve what a scatter takes; the types of its items are looked at when all assets are bound."""
    first = _first(definition.body)
    aside = frozenset[str]() if first is None else frozenset({first.name})
    found = ScatterFound(bind(definition.body, definition.scope, replace(place, aside=aside)))
    found.note("", *found.body.problems)
    item = _item(definition, first, found)
    source = _source(definition, kind.source, place, found)
    select = _function(definition, "select", kind.select, place, found)
    key = _function(definition, "key", kind.key or None, place, found)
    batch = None if kind.batch is None else _batching(definition, kind.batch, place, found)
    rate_key = _function(definition, "rate key", None if kind.rate is None else kind.rate.key, place, found)
    if item is not None:
        found.scatter = BoundScatter(item=item, source=source, select=select, key=key, batch=batch, rate_key=rate_key)
    return found


def _first(function: Body, *but: object) -> inspect.Parameter | None:
    """Return the first parameter that one item can be given to, or None if there is none."""
    try:
        parameters = signature_of(function).parameters.values()
    except (TypeError, ValueError):
        return None
    others = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD, *but)
    return next((each for each in parameters if each.kind not in others), None)


def _item(definition: AssetDefinition, first: inspect.Parameter | None, found: ScatterFound) -> ItemBinding | None:
    wrong = tuple(_misshapen(definition, first))
    found.note("", *wrong)
    if first is None or wrong:
        return None
    return ItemBinding(parameter=first.name, annotation=_annotation(definition, first)[0])


def _misshapen(definition: AssetDefinition, first: inspect.Parameter | None) -> Iterator[Finding]:
    way = way_of(definition.body)
    if way != "coroutine":
        what = "an async generator" if way == "async generator" else "a plain def"
        hint = "Make it async def, and let it return the item's result."
        yield Finding("FS161", f"its body, called once for each item, is {what}.", hint)
    if first is None:
        yield Finding("FS161", "its body has no parameter for the item.", _FIRST)
        return
    yield from _unread(resolve(definition.body, definition.scope), first)
    annotation, marker = _annotation(definition, first)
    name = first.name
    shown = name if annotation is EMPTY else f"{name}: {render(annotation)}"
    if marker is not None or isinstance(first.default, MARKERS):
        yield Finding(
            "FS161", f"({shown}) — the first parameter receives the item, but it says what else to take.", _FIRST
        )
    elif is_context(annotation):
        yield Finding("FS161", f"({shown}) — the first parameter receives the item, not the context.", _FIRST)
    elif first.kind is first.POSITIONAL_ONLY:
        text = f"({shown}) — {name!r} is positional-only, but arguments are passed by name."
        yield Finding("FS161", text, "Take the '/' away.")


def _unread(hints: Hints, first: inspect.Parameter) -> Iterator[Finding]:
    if first.name in hints.unread:
        text = f"({first.name}) — its annotation cannot be read: {hints.unread[first.name]}."
        yield Finding("FS101", text)


def _annotation(definition: AssetDefinition, first: inspect.Parameter) -> tuple[object, object]:
    return split_annotation(resolve(definition.body, definition.scope).types.get(first.name, EMPTY))


def _source(definition: AssetDefinition, spec: SourceSpec, place: Place, found: ScatterFound) -> BoundSource:
    match spec:
        case AssetSource(dependency=dependency):
            edge = bind_edge(SOURCE, dependency, place)
            if isinstance(edge, Finding):
                found.note("", edge)
                return BoundSource(spec=spec)
            return BoundSource(spec=spec, bindings=(edge,))
        case FunctionSource(function=function):
            taken = bind(function, definition.scope, replace(place, deps={}))
            found.note(SOURCE, *taken.problems)
            return BoundSource(spec=spec, bindings=taken.bindings)
        case CustomSource(source=Source() as source):
            return BoundSource(spec=spec, bindings=_options(definition, source, place, found))
        case _:
            return BoundSource(spec=spec)


def _options(
    definition: AssetDefinition, source: Source[Any], place: Place, found: ScatterFound
) -> tuple[Binding, ...]:
    """Bind what the functions among the options of a source take; one name is one thing in all of them."""
    bindings: dict[str, Binding] = {}
    for function in source.functions():
        taken = bind(function, definition.scope, replace(place, deps={}, bare_context=True))
        found.note(SOURCE, *taken.problems)
        for each in taken.bindings:
            known = bindings.get(each.parameter)
            if known is None or (_means(known) == _means(each) and not getattr(known, "wanted", None)):
                bindings[each.parameter] = each
            elif _means(known) != _means(each):
                text = f"({each.parameter}) — two functions among its options take different things by this name."
                found.note(SOURCE, Finding("FS106", text, "Give one of the parameters another name."))
    return tuple(bindings.values())


def _means(binding: Binding) -> object:
    """Return a binding without what its annotation says of the value."""
    if isinstance(binding, DependencyBinding):
        return replace(binding, annotation=None, wanted=None)
    return replace(binding, annotation=None) if hasattr(binding, "annotation") else binding


def _function(
    definition: AssetDefinition, option: str, function: Callable[..., Any] | None, place: Place, found: ScatterFound
) -> ItemFunction | None:
    if function is None:
        return None
    made = function if isinstance(function, type) else None
    first = _first(function, inspect.Parameter.KEYWORD_ONLY)
    if first is None:
        if not _takes_anything(function):
            found.note("", Finding("FS161", f"{option}= takes no parameter, but is called with an item."))
        return ItemFunction(function=function, returns=made)
    hints = resolve(function, definition.scope)
    aside = frozenset({first.name, *_left_alone(function)})
    taken = bind(function, definition.scope, replace(place, deps={}, bare_context=True, aside=aside))
    found.note(option, *taken.problems)
    found.note(option, *_unread(hints, first))
    annotation, _ = split_annotation(hints.types.get(first.name, EMPTY))
    return ItemFunction(
        function=function,
        bindings=taken.bindings,
        parameter=first.name,
        annotation=annotation,
        returns=made or taken.returns,
    )


def _batching(definition: AssetDefinition, batching: Batching[Any], place: Place, found: ScatterFound) -> BoundBatching:
    shared = batching.shared
    return BoundBatching(
        batching=batching,
        size=_function(definition, "size", batching.size, place, found),
        group=_function(definition, "group_by", batching.group_by or None, place, found),
        shared=_shared(definition, shared, place, found) if callable(shared) else None,
    )


def _shared(
    definition: AssetDefinition, function: Callable[..., Any], place: Place, found: ScatterFound
) -> ItemFunction:
    made = function if isinstance(function, type) else None
    taken = bind(function, definition.scope, replace(place, deps={}))
    found.note("shared", *taken.problems)
    return ItemFunction(function=function, bindings=taken.bindings, returns=made or taken.returns)


def _takes_anything(function: Callable[..., Any]) -> bool:
    """Tell whether a function without named parameters can be called with an item; unknown counts as yes."""
    try:
        parameters = signature_of(function).parameters.values()
    except (TypeError, ValueError):
        return True
    return any(each.kind is each.VAR_POSITIONAL for each in parameters)


def _left_alone(function: Callable[..., Any]) -> Iterator[str]:
    """Yield parameters that only functions written in C have: with a default, and not to be named."""
    parameters = signature_of(function).parameters.values()
    return (each.name for each in parameters if each.kind is each.POSITIONAL_ONLY and each.default is not EMPTY)
