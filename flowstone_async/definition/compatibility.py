"""Whether what comes together in an asset fits: upstream and parameter, partition sets, keys, params."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from types import NoneType
from typing import Any, cast, get_args, get_origin

from flowstone_async.definition.annotations import resolve
from flowstone_async.definition.asset import AssetDefinition
from flowstone_async.definition.assignable import Annotation, assignable, bare, is_kind, render
from flowstone_async.definition.binding import (
    Binding,
    DependencyBinding,
    ParamFieldBinding,
    ParamsBinding,
    PartitionBinding,
)
from flowstone_async.definition.finding import Finding
from flowstone_async.definition.graph import Node
from flowstone_async.definition.injection import EMPTY, union_members, value_annotation
from flowstone_async.definition.item_source import AssetSource
from flowstone_async.definition.mapping import match
from flowstone_async.definition.params import check_field, check_params
from flowstone_async.definition.scatter import ScatterKind
from flowstone_async.definition.stream import Stream


def check_node(node: Node, nodes: Mapping[str, Node], params: type | None) -> Iterator[Finding]:
    """Find what does not fit in what an asset takes: its body, its conditions, its cache key, a scatter's functions."""
    yield from _check_all(node.bindings, node, nodes, params)
    for part, bindings in _parts(node):
        for finding in _check_all(bindings, node, nodes, params):
            yield finding._replace(message=f"{part}{finding.message}")
    for condition in node.conditions:
        for finding in _check_all(condition.bindings, node, nodes, params):
            yield finding._replace(message=f"condition {condition.name}{finding.message}")
    own = [each for each in node.key_bindings if each not in node.bindings]
    for finding in _check_all(own, node, nodes, params):
        yield finding._replace(message=f"cache key{finding.message}")


def _parts(node: Node) -> Iterator[tuple[str, tuple[Binding, ...]]]:
    """Yield what makes a scatter's items, and what is called once a gate has ended, each with its name in a message."""
    for handler in () if node.gate is None else node.gate.handlers():
        yield handler.part, handler.bindings
    scatter = node.scatter
    if scatter is None:
        return
    yield "" if isinstance(scatter.source.spec, AssetSource) else "source", scatter.source.bindings
    for part, function in scatter.parts():
        yield part, function.bindings


def _check_all(
    bindings: tuple[Binding, ...] | list[Binding], node: Node, nodes: Mapping[str, Node], params: type | None
) -> Iterator[Finding]:
    definition = node.definition
    for binding in bindings:
        match binding:
            case DependencyBinding():
                yield from _check_edge(definition, binding, nodes)
            case PartitionBinding():
                yield from _check_partition(definition, binding)
            case ParamsBinding(parameter=name, wanted=wanted) if wanted is not None and params is not None:
                if wanted is not definition.home.params:  # that one is judged once, where it is included
                    yield from check_params(params, wanted, parameter=name)
            case ParamFieldBinding(parameter=name, annotation=annotation) if params is not None:
                if annotation is not EMPTY:
                    yield from check_field(params, binding.field, annotation, parameter=name)
            case _:
                pass


def _check_edge(
    definition: AssetDefinition, binding: DependencyBinding, nodes: Mapping[str, Node]
) -> Iterator[Finding]:
    upstream, produced = read_from(binding, nodes)
    name = binding.parameter
    if binding.annotation is not EMPTY:
        yield from _check_optional(binding)
        if produced is not None:
            yield from _check_type(binding, upstream, produced)
    reason = match(definition.partitions, upstream.partitions, binding.over)
    if reason is not None:
        yield Finding("FS130", f"({name}) — {reason}")


def read_from(binding: DependencyBinding, nodes: Mapping[str, Node]) -> tuple[AssetDefinition, object]:
    """Return the upstream with the type of what is read from it, None where that is not known."""
    outer = binding.external
    if outer is None:
        node = nodes[binding.upstream]
        return node.definition, node.definition.kind.read_type(node.value_type)
    return outer, outer.kind.read_type(declared_type(outer))


def declared_type(definition: AssetDefinition) -> object:
    """Return the type of what an asset stores (of one item, for a stream), as it declares it; None if it does not."""
    return definition.kind.value_type(resolve(definition.body, definition.scope).types.get("return"))


def _check_optional(binding: DependencyBinding) -> Iterator[Finding]:
    value = value_annotation(binding.annotation, mapped=binding.over is not None)
    if binding.optional and not assignable(NoneType, value):
        text = f"({binding.parameter}: {render(binding.annotation)}) — it is optional, so it may be None."
        yield Finding("FS111", text, f"Annotate {'its values' if binding.over else 'it'} as {render(value)} | None.")


def _check_type(binding: DependencyBinding, upstream: AssetDefinition, produced: Annotation) -> Iterator[Finding]:
    annotation, given = binding.annotation, produced
    whose = f" of pipeline {upstream.home.name!r}" if binding.external is not None else ""
    if binding.over is not None:
        keys: Annotation = getattr(upstream.partitions, "key_type", Any)
        fits, instead = assignable(dict[keys, given], annotation), f"over= gives {render(Mapping[keys, given])}"
    else:
        fits, instead = _fits(given, annotation), f"asset {binding.upstream!r}{whose} produces {render(given)}"
    head = f"({binding.parameter}: {render(annotation)})"
    if not fits and isinstance(upstream.kind, ScatterKind) and _takes_all(binding):
        text = f"{head} but asset {binding.upstream!r}{whose} is a scatter, whose results are never held whole."
        hint = f"Annotate {render(given)}; for a list say await {binding.parameter}.to_list(limit=...) in the body."
        yield Finding("FS162", text, hint)
    elif not fits:
        yield Finding("FS104", f"{head} but {instead}.")


def _takes_all(binding: DependencyBinding) -> bool:
    """Tell whether a parameter takes a collection, such as a list."""
    members = map(bare, union_members(value_annotation(binding.annotation, mapped=binding.over is not None)))
    kinds = [get_origin(each) or each for each in members]
    return any(is_kind(each, Iterable) and not is_kind(each, str) for each in kinds)


def _fits(produced: object, annotation: object) -> bool:
    if assignable(produced, annotation):
        return True
    # A stream is read with `async for`, which is what most people mean by an iterator; see `as_annotated`.
    items = get_args(produced) if get_origin(produced) is Stream else ()
    return any(assignable(item, wanted) for item in items for wanted in _iterated(annotation))


def _iterated(annotation: object) -> Iterator[object]:
    """Yield what the `AsyncIterator[T]` in an annotation iterates."""
    for each in union_members(annotation):
        if get_origin(each) is AsyncIterator:
            yield from get_args(each)


def as_annotated(value: Any, annotation: object) -> Any:
    """Return a value as a parameter takes it: a stream as the iterator that `AsyncIterator[T]` stands for."""
    streamed = isinstance(value, Stream) and any(True for _ in _iterated(annotation))
    return aiter(cast("Stream[Any]", value)) if streamed else cast("Any", value)


def _check_partition(definition: AssetDefinition, binding: PartitionBinding) -> Iterator[Finding]:
    partitions, marker, annotation = definition.partitions, binding.marker, binding.annotation
    if marker is not None and partitions is not None:
        misfit = marker.misfit(partitions)
        if misfit is not None:
            yield Finding("FS130", f"({binding.parameter}) — {misfit}")
            return
    keys = marker.key_type if marker is not None else getattr(partitions, "key_type", None)
    if keys is not None and annotation is not EMPTY and not assignable(keys, annotation):
        head = f"({binding.parameter}: {render(annotation)})"
        yield Finding("FS104", f"{head} but the partition keys are {render(keys)}.")
