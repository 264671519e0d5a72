"""Drawing a graph as a tree, Mermaid, DOT or JSON. Output is linear in assets plus edges."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator
from typing import Literal, TypeAlias

from flowstone_async.definition.graph import Graph
from flowstone_async.errors import ConfigError

GraphFormat: TypeAlias = Literal["tree", "mermaid", "dot", "json"]
FORMATS: tuple[GraphFormat, ...] = ("tree", "mermaid", "dot", "json")


def draw(graph: Graph, format: GraphFormat = "tree") -> str:  # noqa: A002 - the field's word for it
    """Draw a graph.

    Args:
        graph: A validated pipeline.
        format: `"tree"`, `"mermaid"`, `"dot"` or `"json"`.

    Raises:
        ConfigError: Another format.
    """
    match format:
        case "tree":
            return "\n".join(_tree(graph))
        case "mermaid":
            return "\n".join(_mermaid(graph))
        case "dot":
            return "\n".join(_dot(graph))
        case "json":
            return json.dumps(_as_dict(graph), indent=2)
        case _:
            raise ConfigError(f"format={format!r}", hint=f"Allowed are {', '.join(map(repr, FORMATS))}.")


_DEPTH = 200
"""Deepest indentation of a tree; what lies deeper goes on at column 0, so that a long chain stays linear."""


def _tree(graph: Graph) -> Iterator[str]:
    roots = deque(name for name, node in graph.nodes.items() if not node.upstreams)
    deferred: set[str] = set()
    seen: set[str] = set()
    while roots:
        stack = [(roots.popleft(), "", "")]
        deferred.discard(stack[0][0])
        while stack:
            name, lead, indent = stack.pop()
            if name in seen or name in deferred:
                yield f"{lead}{name} (see {'below' if name in deferred else 'above'})"
                continue
            below = graph.dependants[name]
            if below and len(indent) >= _DEPTH * 4:
                yield f"{lead}{name} (see below)"
                deferred.add(name)
                roots.append(name)
                continue
            seen.add(name)
            yield f"{lead}{name}"
            last = len(below) - 1
            stack.extend(
                (each, indent + ("└── " if index == last else "├── "), indent + ("    " if index == last else "│   "))
                for index, each in reversed(list(enumerate(below)))
            )


def _edges(graph: Graph) -> Iterator[tuple[str, str, bool]]:
    """Yield (upstream, dependant, optional), each pair once."""
    for node in graph.nodes.values():
        optional = set(node.optional())
        for upstream in node.upstreams:
            yield upstream, node.name, upstream in optional


def _isolated(graph: Graph) -> Iterator[str]:
    return (name for name, node in graph.nodes.items() if not node.upstreams and not graph.dependants[name])


# Names that Mermaid would take for its own words.
_WORDS = {"call", "class", "classdef", "click", "default", "end", "graph", "href", "linkstyle", "style", "subgraph"}


def _mermaid(graph: Graph) -> Iterator[str]:
    yield "graph TD"
    for upstream, dependant, optional in _edges(graph):
        yield f"    {_mermaid_node(upstream)} {'-.->' if optional else '-->'} {_mermaid_node(dependant)}"
    for name in _isolated(graph):
        yield f"    {_mermaid_node(name)}"


def _mermaid_node(name: str) -> str:
    return f'{name}_["{name}"]' if name in _WORDS else name


def _dot(graph: Graph) -> Iterator[str]:
    yield f'digraph "{graph.pipeline}" {{'
    for name in graph.nodes:
        yield f'    "{name}";'
    for upstream, dependant, optional in _edges(graph):
        yield f'    "{upstream}" -> "{dependant}"{" [style=dashed]" if optional else ""};'
    yield "}"


def _as_dict(graph: Graph) -> dict[str, object]:
    return {
        "pipeline": graph.pipeline,
        "nodes": [
            {"name": node.name, "kind": node.definition.kind.label, "description": node.definition.description}
            for node in graph.nodes.values()
        ],
        "edges": [
            {"from": upstream, "to": dependant, "optional": optional} for upstream, dependant, optional in _edges(graph)
        ],
    }
