"""Whether what comes together in a scatter fits: source, items, `select`, `key` and the body's first parameter."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from flowstone_async.definition.assignable import Annotation, assignable, render
from flowstone_async.definition.binding import DependencyBinding
from flowstone_async.definition.bound_scatter import BoundScatter, BoundSource
from flowstone_async.definition.compatibility import read_from
from flowstone_async.definition.finding import Finding
from flowstone_async.definition.graph import Node
from flowstone_async.definition.injection import EMPTY
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
    annotation = scatter.item.annotation
    known = [each for each in (arrives, annotation) if _is_told(each)]
    item = replace(scatter.item, wanted=known[0] if known else None)
    return replace(node, scatter=replace(scatter, item=item, source=replace(scatter.source, item_type=read)))


def _is_told(annotation: object) -> bool:
    return annotation not in (None, Any, object, EMPTY) and not isinstance(annotation, TypeVar)


def _item_type(source: BoundSource, node: Node, nodes: Mapping[str, Node]) -> object:
    if not isinstance(source.spec, AssetSource):
        return described_type(source.spec, node.definition.scope)
    _, produced = _upstream(source, nodes)
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
    if isinstance(upstream.kind, ScatterKind):
        text = f"source={upstream.name}: it is a scatter itself, and a scatter on a scatter is not supported yet."
        yield Finding("FS109", text, "Call both functions in one body, or scatter over what gathers the first.")
    elif produced is not None and not is_iterable(produced):
        text = f"source={upstream.name}: it produces {render(produced)}, which has no items."
        yield Finding("FS160", text, "Let it produce a collection, or yield: an async generator is a stream.")


def _misfits(scatter: BoundScatter) -> Iterator[Finding]:
    read, select = scatter.source.item_type, scatter.select
    whose = f"the items of {_named(scatter.source)} are"
    given = read
    if select is not None:
        yield from _misfit(read, select.annotation, f"select({select.parameter}", whose)
        given, whose = select.returns, "select= gives"
    yield from _misfit(given, scatter.item.annotation, f"({scatter.item.parameter}", whose)
    for option, function in (("key", scatter.key), ("rate key", scatter.rate_key)):
        if function is not None:
            yield from _misfit(given, function.annotation, f"{option}({function.parameter}", whose)


def _named(source: BoundSource) -> str:
    edge = next(iter(source.bindings), None)
    is_asset = isinstance(source.spec, AssetSource) and isinstance(edge, DependencyBinding)
    return f"asset {edge.upstream!r}" if is_asset and isinstance(edge, DependencyBinding) else "its source"


def _misfit(given: Annotation, annotation: object, head: str, whose: str) -> Iterator[Finding]:
    if given is None or annotation is EMPTY or assignable(given, annotation):
        return
    if not (is_mapping(given) and assignable(Item, annotation)):
        yield Finding("FS160", f"{head}: {render(annotation)}) but {whose} {render(given)}.")
