"""Whether what comes together in a scatter fits: source, items, `select`, `key` and the body's first parameter."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, TypeVar, get_args, get_origin

from flowstone_async.definition.assignable import Annotation, assignable, bare, render
from flowstone_async.definition.batch import Batch
from flowstone_async.definition.binding import DependencyBinding
from flowstone_async.definition.bound_scatter import BoundScatter, BoundSource, ItemBinding, ItemFunction
from flowstone_async.definition.compatibility import declared_type, read_from
from flowstone_async.definition.finding import Finding
from flowstone_async.definition.graph import Node
from flowstone_async.definition.injection import EMPTY, union_members
from flowstone_async.definition.item import Item
from flowstone_async.definition.item_source import AssetSource
from flowstone_async.definition.item_type import described_type, element_type, is_iterable, is_mapping
from flowstone_async.definition.scatter import ScatterKind


def typed(node: Node, nodes: Mapping[str, Node]) -> Node:
    """Return a scatter's node with the types of its items, now that all assets are bound."""
    scatter = node.scatter
    if scatter is None:
        return node
    read = _item_type(scatter.source, node, nodes)
    arrives = read if scatter.select is None else scatter.select.returns
    annotation = scatter.item.annotation if scatter.batch is None else batched_type(scatter.item.annotation)
    known = [each for each in (arrives, annotation) if _is_told(each)]
    item = replace(scatter.item, wanted=known[0] if known else None)
    return replace(node, scatter=replace(scatter, item=item, source=replace(scatter.source, item_type=read)))


def _is_told(annotation: object) -> bool:
    return annotation not in (None, Any, object, EMPTY) and not isinstance(annotation, TypeVar)


def _item_type(source: BoundSource, node: Node, nodes: Mapping[str, Node]) -> object:
    if not isinstance(source.spec, AssetSource):
        return described_type(source.spec, node.definition.scope)
    upstream, produced = _upstream(source, nodes)
    if upstream is not None and isinstance(upstream.kind, ScatterKind):
        return declared_type(upstream) if _is_external(source) else nodes[upstream.name].value_type
    return None if produced is None else element_type(produced)


def _upstream(source: BoundSource, nodes: Mapping[str, Node]) -> tuple[Any, Any]:
    for edge in source.bindings:
        if isinstance(edge, DependencyBinding):
            return read_from(edge, nodes)
    return None, None


def check_scatter(node: Node, nodes: Mapping[str, Node]) -> Iterator[Finding]:
    """Find what does not fit between the items of a scatter and its functions.

    Args:
        node: The node, `typed`.
        nodes: All nodes.
    """
    scatter = node.scatter
    if scatter is None:
        return
    reason = tuple(_not_a_source(scatter.source, nodes))
    yield from reason
    if not reason:
        yield from _misfits(scatter)


def _not_a_source(source: BoundSource, nodes: Mapping[str, Node]) -> Iterator[Finding]:
    if not isinstance(source.spec, AssetSource):
        return
    upstream, produced = _upstream(source, nodes)
    if upstream is None:
        return
    if produced is not None and not is_iterable(produced):
        text = f"source={upstream.name}: it produces {render(produced)}, which has no items."
        yield Finding("FS160", text, "Let it produce a collection, or yield: an async generator is a stream.")


def _is_external(source: BoundSource) -> bool:
    return any(isinstance(edge, DependencyBinding) and edge.external is not None for edge in source.bindings)


def _misfits(scatter: BoundScatter) -> Iterator[Finding]:
    read, select = scatter.source.item_type, scatter.select
    whose = f"the items of {_named(scatter.source)} are"
    given = read
    if select is not None:
        yield from _misfit(read, select.annotation, f"select({select.parameter}", whose)
        given, whose = select.returns, "select= gives"
    called = _batch_misfits if scatter.batch is not None else _item_misfits
    yield from called("", scatter.item, given, whose)
    for name, function in scatter.parts():
        if function is scatter.rate_key:
            yield from called(name, function, given, whose)
        elif name not in ("select", "shared"):
            yield from _misfit(given, function.annotation, f"{name}({function.parameter}", whose)


def _item_misfits(what: str, item: ItemBinding | ItemFunction, given: Annotation, whose: str) -> Iterator[Finding]:
    kinds = [each for each in map(bare, union_members(item.annotation)) if (get_origin(each) or each) is Batch]
    if kinds and len(kinds) == len(union_members(item.annotation)):
        called = "it" if what else "the body"
        text = f"{what}({item.parameter}: {render(item.annotation)}) but {called} is called with one item."
        yield Finding("FS160", text, "Say batch=Batching(...), or annotate it with the type of an item.")
        return
    yield from _misfit(given, item.annotation, f"{what}({item.parameter}", whose)


def _batch_misfits(what: str, item: ItemBinding | ItemFunction, given: Annotation, whose: str) -> Iterator[Finding]:
    annotation = item.annotation
    if annotation is EMPTY:
        return
    head = f"{what}({item.parameter}: {render(annotation)})"
    if not assignable(Batch, annotation):
        called, wanted = "it" if what else "the body", f"Batch[{render(annotation if given is None else given)}]"
        yield Finding("FS160", f"{head} but {called} is called with batches.", f"Annotate it {wanted}.")
    elif not _fits(given, batched_type(annotation)):
        yield Finding("FS160", f"{head} but {whose} {render(given)}.")


def batched_type(annotation: Annotation) -> Annotation:
    """Return the type of an item of what is annotated to be a batch; `EMPTY` where it is not told."""
    plain = bare(annotation)
    if (get_origin(plain) or plain) is Batch:
        return next(iter(get_args(plain)), EMPTY)
    found = None if annotation is EMPTY else element_type(plain)
    return EMPTY if found is None else found


def _named(source: BoundSource) -> str:
    edge = next(iter(source.bindings), None)
    is_asset = isinstance(source.spec, AssetSource) and isinstance(edge, DependencyBinding)
    return f"asset {edge.upstream!r}" if is_asset and isinstance(edge, DependencyBinding) else "its source"


def _misfit(given: Annotation, annotation: object, head: str, whose: str) -> Iterator[Finding]:
    if not _fits(given, annotation):
        yield Finding("FS160", f"{head}: {render(annotation)}) but {whose} {render(given)}.")


def _fits(given: Annotation, annotation: object) -> bool:
    """Tell whether items of a type may be received as another; unknown counts as yes."""
    if given is None or annotation is EMPTY or assignable(given, annotation):
        return True
    return is_mapping(given) and assignable(Item, annotation)
