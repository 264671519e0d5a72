"""A pipeline made ready to run on one store: managers bound, policies resolved, types checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property
from hashlib import blake2b
from typing import Any, cast

from flowstone_async._engine.given_items import print_of_items
from flowstone_async._engine.params_type import RunParams
from flowstone_async._engine.run_params import params_of
from flowstone_async._engine.scatter.batch_results import BatchResults
from flowstone_async._engine.scatter.batching import BatchItems
from flowstone_async._engine.scatter.gathered import ScatterValues
from flowstone_async._engine.scatter.key_forms import key_form
from flowstone_async._engine.scatter.packing import Items
from flowstone_async.config import seconds
from flowstone_async.definition.asset import AssetDefinition
from flowstone_async.definition.assignable import render
from flowstone_async.definition.binding import ContextBinding, DependencyBinding
from flowstone_async.definition.code_hash import CodeHash, code_hash
from flowstone_async.definition.collection import Collection, Hook, not_found
from flowstone_async.definition.graph import Graph, Node, graph_of
from flowstone_async.definition.kind import ConstantKind, StreamKind, is_async_iterable
from flowstone_async.definition.policy import Retry
from flowstone_async.definition.scatter import ScatterKind
from flowstone_async.errors import ConfigError, DefinitionError, Problem, StorageError
from flowstone_async.io.base import IOManager
from flowstone_async.io.codec import codec_for
from flowstone_async.planning.freshness import Facts
from flowstone_async.redaction import Redactor
from flowstone_async.store.scatters import Scatters

ONCE = Retry(1)
AS_THE_ENGINE = -1.0
_PRODUCE = 'Produce a dataclass, a pydantic model or plain data, or say io= with format="pickle".'
_YIELD = "Let the body yield the items itself: an async generator is a stream."


@dataclass(frozen=True, kw_only=True, eq=False)
class Runnable:
    """One asset, ready to run.

    Attributes:
        manager: Where its values live, unless a call says otherwise.
        timeout: Seconds for each attempt, or None.
        version: Declared version, and the fingerprint of a constant or of the items given to a scatter.
        park_after: Seconds that a body which waits stays in memory: None for ever, negative as the engine says.
        elaborate: Whether the body takes anything but values of upstreams, as a scatter's always does.
    """

    node: Node
    manager: IOManager
    retry: Retry
    timeout: float | None
    version: str | None
    stream: bool
    park_after: float | None
    elaborate: bool

    def manager_for(self, given: IOManager | None) -> IOManager:
        """Return where its values live if a call says otherwise; those of a scatter never live anywhere else."""
        return self.manager if given is None or self.node.scatter is not None else given

    @cached_property
    def code(self) -> CodeHash:
        """Hash, function and line of the body's code; what is called once its gate has ended is a part of it."""
        own, gate = code_hash(self.node.definition.body), self.node.gate
        if gate is None or not gate.handlers():
            return own
        hashes = (own.hash, *(f"{each.part} {code_hash(each.function).hash}" for each in gate.handlers()))
        digest = blake2b("\0".join(hashes).encode(), digest_size=16).hexdigest()
        return replace(own, hash=digest)


@dataclass(frozen=True, slots=True, kw_only=True)
class Managers:
    """The I/O managers of an engine.

    Attributes:
        default: For assets that say nothing.
        named: By the name that assets and calls may use.
        bind: Readies a manager for the engine's store.
        scatters: Where the results of scatters live.
    """

    default: IOManager
    named: Mapping[str, IOManager]
    bind: Callable[[Any], IOManager]
    scatters: Scatters

    def find(self, given: object) -> IOManager:
        """Return the manager that an `io=` stands for.

        Raises:
            ConfigError: An unknown name, or something that is no manager.
        """
        if given is None:
            return self.default
        if isinstance(given, str):
            found = self.named.get(given)
            if found is None:
                known = ", ".join(map(repr, self.named)) or "none"
                raise ConfigError(
                    f"io={given!r}: no I/O manager has that name. Known are: {known}.",
                    hint="List it in Engine(io={...}).",
                )
            return found
        return self.bind(given)


@dataclass(eq=False)
class Catalog:
    """A pipeline, ready to run on one store."""

    collection: Collection
    graph: Graph
    managers: Managers
    params: RunParams
    tolerates: frozenset[str]
    rank: Mapping[str, int]
    dynamic: Mapping[Any, str] | None = None
    runnables: dict[str, Runnable] = field(default_factory=dict[str, Runnable])

    @cached_property
    def waits(self) -> bool:
        """Whether any of its bodies can wait: it takes a context, or may return a gate."""
        nodes = self.graph.nodes.values()
        return any(node.gate or any(isinstance(each, ContextBinding) for each in node.bindings) for node in nodes)

    @property
    def hooks(self) -> list[Hook]:
        """The pipeline's hooks; one registered later counts too."""
        return self.collection.hooks

    def node(self, name: str) -> Node:
        """Return a node.

        Raises:
            AssetNotFound: The pipeline has no asset of that name.
        """
        found = self.graph.nodes.get(name)
        if found is None:
            raise not_found(name, self.graph.pipeline, self.graph.nodes)
        return found

    def runnable(self, node: Node) -> Runnable:
        """Return a node ready to run; made once."""
        found = self.runnables.get(node.name)
        if found is None:
            found = self.runnables[node.name] = self._make(node)
        return found

    def _make(self, node: Node) -> Runnable:
        definition = node.definition
        kind = definition.kind
        version = node.cache.version
        if isinstance(kind, ConstantKind):
            version = f"{version or ''}#{_print_of(node, kind)}"
        elif (items := print_of_items(node)) is not None:
            version = f"{version or ''}#{items}"
        timeout = definition.timeout
        return Runnable(
            node=node,
            manager=_scattered(node, kind, self.managers.scatters, self.graph.nodes)
            if isinstance(kind, ScatterKind)
            else self.managers.find(definition.io),
            retry=definition.retry or ONCE,
            timeout=None if timeout is None or timeout is False else seconds(timeout, what="timeout"),
            version=version,
            stream=isinstance(kind, StreamKind),
            park_after=_park_after(definition),
            elaborate=node.scatter is not None
            or node.gate is not None
            or not all(isinstance(each, DependencyBinding) for each in node.bindings),
        )

    def manager_of(self, outer: AssetDefinition, given: IOManager | None) -> IOManager:
        """Return where the values of another pipeline's asset live, as `Runnable.manager_for` does."""
        if isinstance(outer.kind, ScatterKind):
            nodes = graph_of(outer).nodes
            return _scattered(nodes[outer.local_name], outer.kind, self.managers.scatters, nodes)
        return self.managers.find(outer.io) if given is None else given

    def facts(self, node: Node, prints: Callable[[str], str] | None, now: datetime) -> Facts:
        """Return what a node's freshness is judged by."""
        runnable = self.runnable(node)
        return Facts(version=runnable.version, code=lambda: runnable.code, params=prints, now=now)


def make_catalog(
    collection: Collection, managers: Managers, *, strict: bool, dask: bool = False, redactor: Redactor | None = None
) -> Catalog:
    """Validate a pipeline and ready it for a store.

    Args:
        collection: The pipeline.
        managers: The engine's I/O managers.
        strict: Whether a type that its manager cannot store is refused (`FS140`); a memory store holds any object.
        dask: Whether the engine has a Dask client.
        redactor: Learns the secrets of params.

    Raises:
        DefinitionError: With all problems.
        ConfigError: A manager is unknown or cannot be used here.
    """
    graph = collection.compiled()
    for node in graph.nodes.values():
        if node.definition.run_in == "dask" and not dask:
            raise ConfigError(
                f"asset {node.name!r} says run_in='dask', and this engine has no Dask client",
                asset=node.name,
                hint="Run it in a thread or process.",
            )
    catalog = Catalog(
        collection,
        graph,
        managers,
        params_of(collection.params_type, redactor),
        cast("frozenset[str]", collection.optional_tolerates),
        {name: place for place, name in enumerate(graph.order)},
    )
    if strict:
        found = (unsupported(node, catalog.runnable(node).manager) for node in graph.nodes.values())
        problems = [problem for problem in found if problem is not None]
        if problems:
            raise DefinitionError(graph.pipeline, problems)
    else:
        for node in graph.nodes.values():
            if node.definition.io is not None:
                catalog.runnable(node)
    return catalog


def _park_after(definition: AssetDefinition) -> float | None:
    # A stream is stored while it runs: it is not dropped in the middle of that.
    if definition.park_after is False or isinstance(definition.kind, StreamKind):
        return None
    return AS_THE_ENGINE if definition.park_after is None else seconds(definition.park_after, zero=True)


def _scattered(node: Node, kind: ScatterKind, store: Scatters, nodes: Mapping[str, Node]) -> IOManager:
    wanted = None if node.scatter is None else node.scatter.item.wanted
    names, form = node.definition.scope.names, key_form(node, nodes)
    if kind.batch is not None:
        return ScatterValues(store, kind, BatchItems(wanted, names), BatchResults, form=form)
    return ScatterValues(store, kind, Items(wanted, names), form=form)


def _print_of(node: Node, kind: ConstantKind) -> str:
    """Return the fingerprint of a constant, or what stands for it."""
    try:
        codec = codec_for(node.value_type, names=node.definition.scope.names)
        return codec.fingerprint(codec.encode(kind.value)) or kind.mark
    except StorageError:
        return kind.mark


def unsupported(node: Node, manager: IOManager) -> Problem | None:
    """Return why a manager cannot store an asset's values (`FS140`), or None if it can."""
    if node.value_type is None or manager.supports(node.value_type):
        return None
    where = node.definition.location
    return Problem(
        code="FS140",
        message=f"{node.name} produces {render(node.value_type)}, which {manager.name} cannot store.",
        file=where.file,
        line=where.line,
        asset=node.name,
        hint=_YIELD if is_async_iterable(node.value_type) else _PRODUCE,
    )
