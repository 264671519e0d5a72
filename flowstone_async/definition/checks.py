"""What can be wrong with a definition, one function per subject. A finding is (code, message, hint)."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any, Optional, TypeAlias, Union, get_args, get_origin

from flowstone_async.config import seconds
from flowstone_async.definition.asset import PLACES, AssetDefinition, Body
from flowstone_async.definition.assignable import assignable, render
from flowstone_async.definition.binding import (
    DependencyBinding,
    ParamFieldBinding,
    ParamsBinding,
    PartitionBinding,
    params_fields,
    union_members,
)
from flowstone_async.definition.graph import BoundResource, Node
from flowstone_async.definition.kind import StreamKind
from flowstone_async.definition.mapping import match
from flowstone_async.definition.partition import PartitionSet
from flowstone_async.definition.policy import Cache, Retry
from flowstone_async.definition.resource import SCOPES, ResourceDefinition
from flowstone_async.definition.stream import Stream
from flowstone_async.errors import ConfigError

Finding: TypeAlias = tuple[str, str, str | None]
_ASSET_NAME = re.compile(r"[a-z_][a-z0-9_]{0,99}")
_PIPELINE_NAME = re.compile(r"[a-z_][a-z0-9_-]{0,99}")


def pipeline_name(name: object) -> Iterator[Finding]:
    """Find an illegal name of a pipeline."""
    if not isinstance(name, str) or not _PIPELINE_NAME.fullmatch(name):
        yield (
            "FS108",
            f"{name!r} is not a legal pipeline name.",
            "Use lower-case letters, digits, '_' and '-', a letter or '_' first, at most 100 characters.",
        )


def alone(definition: AssetDefinition, assets: Mapping[str, AssetDefinition]) -> Iterator[Finding]:
    """Find what is wrong with one asset by itself."""
    for code, message in definition.problems:
        yield code, message, None
    if not _ASSET_NAME.fullmatch(definition.name):
        hint = "Use lower-case letters, digits and '_', a letter or '_' first, at most 100 characters."
        yield "FS108", f"{definition.name!r} is not a legal asset name.", hint
    if _is_empty(definition.body):
        yield "FS107", "the body is empty.", "Write the body, or take the asset away."
    old = definition.renamed_from
    if old is not None and definition.prefix + old in assets:
        yield "FS112", f"renamed_from={old!r}, but asset {old!r} is still defined.", "Take one of the two away."
    yield from _options(definition)


def _options(definition: AssetDefinition) -> Iterator[Finding]:
    given: list[str] = []
    retry: object = definition.retry
    if isinstance(retry, Retry):
        given.extend(retry.problems())
    elif retry not in (None, False):
        given.append(f"retry={retry!r}: give Retry(...) or False")
    cache: object = definition.cache
    if isinstance(cache, Cache):
        given.extend(cache.problems())
    elif cache not in (None, True, False, "exists"):
        given.append(f'cache={cache!r}: give True, False, "exists" or Cache(...)')
    timeout: Any = definition.timeout
    if timeout is not None and timeout is not False:
        try:
            seconds(timeout, what="timeout")
        except ConfigError as error:
            given.append(str(error.message))
    place: object = definition.run_in
    if place is not None and place not in PLACES:
        given.append(f"run_in={place!r}: allowed are {', '.join(map(repr, PLACES))}")
    partitions: object = definition.partitions
    if partitions is not None and not isinstance(partitions, PartitionSet):
        given.append(f"partitions={partitions!r}: give a partition set such as Daily(...) or Keys(...)")
    for name, condition in (("when", definition.when), ("unless", definition.unless)):
        if condition is not None and not callable(condition):
            given.append(f"{name}={condition!r}: give a function")
    for message in given:
        yield "FS109", f"{message}.", None


def _is_empty(body: Body) -> bool:
    code = getattr(body, "__code__", None)
    if code is None or any(const is not None and not isinstance(const, str) and const is not ... for const in code.co_consts):
        return False
    if code.co_names or len(code.co_code) > 64:  # an empty body names nothing and compiles to a handful of instructions
        return False
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(body)))
    except (OSError, SyntaxError, TypeError, ValueError):
        return False
    function = next((node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)), None)
    return function is not None and all(_says_nothing(statement) for statement in function.body)


def _says_nothing(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.Pass):
        return True
    value = statement.value if isinstance(statement, ast.Expr) else None
    return isinstance(value, ast.Constant) and (value.value is ... or isinstance(value.value, str))


def edges(node: Node, nodes: Mapping[str, Node], params: type | None) -> Iterator[Finding]:
    """Find what is wrong with an asset's edges, partition and params."""
    for binding in node.bindings:
        match binding:
            case DependencyBinding():
                yield from _edge(node, binding, nodes)
            case PartitionBinding():
                yield from _partition(node, binding)
            case ParamsBinding(wanted=wanted) if isinstance(wanted, type) and params is not None:
                yield from covers(params, wanted)
            case ParamFieldBinding(field=name, annotation=annotation) if params is not None:
                yield from _field(params, name, annotation)
            case _:
                pass


def _edge(node: Node, binding: DependencyBinding, nodes: Mapping[str, Node]) -> Iterator[Finding]:
    source = _Upstream(binding, nodes)
    name, annotation = binding.parameter, binding.annotation
    checked = annotation is not inspect.Parameter.empty
    admits_none = type(None) in union_members(annotation) or annotation in (object, Any)
    if binding.optional and checked and not admits_none and binding.over is None:
        yield (
            "FS111",
            f"({name}: {render(annotation)}) — {name!r} is optional, so that it may be None.",
            f"Annotate it as {render(annotation)} | None.",
        )
    if checked and source.type is not None and not _fits(source.type, binding):
        yield "FS104", f"({name}: {render(annotation)}) but asset {source.name!r} produces {render(source.type)}.", None
    reason = match(node.definition.partitions, source.partitions, binding.over)
    if reason is not None:
        yield "FS130", f"({name}) — {reason}", None


class _Upstream:
    def __init__(self, binding: DependencyBinding, nodes: Mapping[str, Node]) -> None:
        if binding.external is not None:
            definition, value, self.name = binding.external, None, binding.external.name
        else:
            node = nodes[binding.upstream]
            definition, value, self.name = node.definition, node.value_type, node.name
        streamed = isinstance(definition.kind, StreamKind)
        self.type: object = Stream[value] if streamed and value is not None else value  # type: ignore[valid-type]
        self.partitions: PartitionSet[Any] | None = definition.partitions


def _fits(produced: object, binding: DependencyBinding) -> bool:
    wanted = binding.wanted
    if binding.over is not None:
        parts = get_args(wanted)
        return len(parts) != 2 or assignable(produced, parts[1])  # noqa: PLR2004 - a mapping has a key and a value
    source = Optional[produced] if binding.optional else produced  # type: ignore[valid-type] # noqa: UP007, UP045
    if get_origin(produced) is Stream and get_origin(wanted) not in (Stream, Union, None):
        return getattr(get_origin(wanted), "__name__", "") in ("AsyncIterable", "AsyncIterator") or wanted is Stream
    return assignable(source, wanted)


def _partition(node: Node, binding: PartitionBinding) -> Iterator[Finding]:
    partitions = node.definition.partitions
    marker = binding.marker
    if marker is not None and partitions is not None:
        text = marker.misfit(partitions)
        if text is not None:
            yield "FS130", f"({binding.parameter}) — {text}", None
            return
    keys = marker.key_type if marker is not None else getattr(partitions, "key_type", None)
    annotation = binding.annotation
    if keys is None or annotation is inspect.Parameter.empty or assignable(keys, annotation):
        return
    yield "FS104", f"({binding.parameter}: {render(annotation)}) but the partition keys are {render(keys)}.", None


def covers(params: type, wanted: type) -> Iterator[Finding]:
    """Find why a params type cannot stand in for another."""
    if issubclass(params, wanted):
        return
    missing = [name for name in params_fields(wanted) if name not in params_fields(params)]
    if missing or not params_fields(wanted):
        what = f"misses {', '.join(map(repr, missing))}" if missing else "is another type"
        yield "FS113", f"the body takes {wanted.__name__}, which the pipeline's params type {params.__name__} does not cover: it {what}.", None


def _field(params: type, name: str, annotation: object) -> Iterator[Finding]:
    declared = getattr(inspect.get_annotations(params, eval_str=False), "get", lambda _: None)(name)
    if declared is None or isinstance(declared, str) or annotation is inspect.Parameter.empty:
        return
    if not assignable(declared, annotation):
        yield "FS104", f"param({name!r}) is {render(declared)}, annotated {render(annotation)}.", None


def resource(definition: ResourceDefinition, provides: object) -> Iterator[Finding]:
    """Find what is wrong with one resource by itself."""
    if not _ASSET_NAME.fullmatch(definition.name):
        yield "FS108", f"{definition.name!r} is not a legal resource name.", None
    if not (inspect.iscoroutinefunction(definition.body) or inspect.isasyncgenfunction(definition.body)):
        hint = "Write an async generator that yields it once, or an async function that returns it."
        yield "FS109", "a resource is opened by an async function.", hint
    if definition.scope not in SCOPES:
        yield "FS109", f"scope={definition.scope!r}: allowed are {', '.join(map(repr, SCOPES))}.", None
    if provides is None:
        yield "FS109", "it is not said what it provides.", "Annotate the return: AsyncIterator[T], or T."


def resources_taken(resource: BoundResource) -> tuple[str, ...]:
    """Return names of the resources that a resource takes."""
    names = (getattr(each, "resource", None) for each in resource.bindings)
    return tuple(name for name in names if isinstance(name, str))

