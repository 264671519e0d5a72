"""Wiring a session: services, managers and catalogs for one store."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from flowstone_async._engine.catalog import Catalog, Managers, make_catalog, unsupported
from flowstone_async._engine.executor import THREADS, Executor
from flowstone_async._engine.gates.payloads import Payloads
from flowstone_async._engine.host import Host
from flowstone_async._engine.services import Services, Settings
from flowstone_async._engine.session import Session
from flowstone_async._engine.waits.watch import Watch
from flowstone_async.clock import Clock
from flowstone_async.definition.assignable import render
from flowstone_async.definition.collection import Collection, Hook
from flowstone_async.definition.graph import Graph
from flowstone_async.definition.resource import ResourceDefinition
from flowstone_async.errors import ConfigError, DefinitionError, Problem
from flowstone_async.io.base import IOManager
from flowstone_async.limits.desk import Desk
from flowstone_async.limits.rate import Rate
from flowstone_async.redaction import Redactor
from flowstone_async.resources import ResourceScope
from flowstone_async.store.protocol import Store

S = TypeVar("S", bound=Store)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wiring(Generic[S]):
    """What a session is made of.

    Attributes:
        io: Managers by name; `"default"` is used by assets that say nothing.
        resources: Replacements by type or name, used as they are and never closed.
        database: Where sources read from that name no other place: an address, or a pool; None where there is none.
        secrets: The first signs pickles and tokens of gates, all verify; without any, what needs one is refused.
        catalogs: Those made before with the same managers, by pipeline; reused while the pipeline is unchanged.
        limits: Those that are declared, by name.
        payloads: Types of gates' payloads.
    """

    store: S
    clock: Clock
    default_io: IOManager
    settings: Settings = field(default_factory=Settings)
    io: Mapping[str, object] = field(default_factory=dict[str, object])
    resources: Mapping[object, object] = field(default_factory=dict[object, object])
    hooks: list[Hook] = field(default_factory=list[Hook])
    redactor: Redactor = field(default_factory=Redactor)
    executor: Executor = field(default_factory=lambda: Executor(threads=THREADS))
    worker: str | None = None
    database: object = field(default=None, repr=False)
    secrets: tuple[bytes, ...] = ()
    dask: bool = False
    catalogs: dict[str, Catalog] = field(default_factory=dict[str, Catalog])
    limits: Mapping[str, Rate | int] = field(default_factory=dict[str, "Rate | int"])
    payloads: Payloads = field(default_factory=Payloads)


def bind(wiring: Wiring[Any]) -> Callable[[object], IOManager]:
    """Return the function that readies an I/O manager for the store; each manager is readied once."""
    known: dict[int, tuple[object, IOManager]] = {}

    def ready(given: object) -> IOManager:
        if id(given) in known:
            return known[id(given)][1]
        made: Any = given
        if hasattr(made, "signed"):
            made = made.signed(wiring.secrets)
        if hasattr(made, "bound"):
            made = made.bound(wiring.store.values, durable=wiring.store.durable)
        if hasattr(made, "owned"):
            made = made.owned(lambda: wiring.store.identity)
        if not isinstance(made, IOManager):
            raise ConfigError(
                f"io={given!r} is not an I/O manager",
                hint="Give io.Postgres(), io.Files(...), or an object with its methods.",
            )
        known[id(given)] = (given, made)
        return made

    return ready


def managers(wiring: Wiring[Any]) -> Managers:
    """Ready the managers of an engine."""
    ready = bind(wiring)
    named = {name: ready(each) for name, each in wiring.io.items()}
    return Managers(
        default=named.get("default") or ready(wiring.default_io),
        named=named,
        bind=ready,
        scatters=wiring.store.scatters,
    )


def open_session(collections: Sequence[Collection], wiring: Wiring[Any], host: Host) -> Session:
    """Validate pipelines and return a session for them.

    Raises:
        DefinitionError: A pipeline is wrong.
        ConfigError: A manager or resource is wrong.
    """
    catalogs = _catalogs(collections, wiring)
    replaced: dict[ResourceDefinition, object] = {}
    for catalog in catalogs.values():
        replaced |= replacements(catalog.graph, wiring.resources)
    _check_all_used(wiring.resources, [catalog.graph for catalog in catalogs.values()])
    services = Services(
        store=wiring.store,
        clock=wiring.clock,
        settings=wiring.settings,
        executor=wiring.executor,
        redactor=wiring.redactor,
        resources=ResourceScope(scope="engine", spawner=host, replaced=replaced, hide=wiring.redactor.text),
        limits=Desk(wiring.store.limits, wiring.clock, now=wiring.store.now, declared=wiring.limits),
        spawn=host.start_soon,
        watch=Watch(wiring.store, wiring.clock, wiring.settings.poll, host.start_soon, most=wiring.settings.max_parked),
        worker=wiring.worker,
        secrets=wiring.secrets,
        payloads=wiring.payloads,
        database=wiring.database,
    )
    return Session(services, catalogs, wiring.hooks)


def refuse_unstorable(collections: Sequence[Collection], io: Mapping[str, object], default: IOManager) -> None:
    """Refuse value types that their manager cannot store, before anything is opened.

    Raises:
        DefinitionError: `FS140`, one problem for each such asset.
    """
    for collection in collections:
        problems: list[Problem] = []
        for node in collection.compiled().nodes.values():
            given = node.definition.io if node.definition.io is not None else io.get("default", default)
            manager = io.get(given) if isinstance(given, str) else given
            try:
                problem = unsupported(node, manager) if isinstance(manager, IOManager) else None
            except ConfigError:  # a manager that has yet to be bound or given a key: judged when the engine opens
                continue
            problems.extend([] if problem is None else [problem])
        if problems:
            raise DefinitionError(collection.name, problems)


def _catalogs(collections: Sequence[Collection], wiring: Wiring[Any]) -> dict[str, Catalog]:
    known = {each.name: wiring.catalogs.get(each.name) for each in collections}
    if any(found is None or found.graph is not each.compiled() for each in collections for found in [known[each.name]]):
        ready = managers(wiring)
        for each in collections:
            wiring.catalogs[each.name] = make_catalog(
                each, ready, strict=wiring.store.durable, dask=wiring.dask, redactor=wiring.redactor
            )
    return {each.name: wiring.catalogs[each.name] for each in collections}


def replacements(graph: Graph, given: Mapping[object, object]) -> dict[ResourceDefinition, object]:
    """Return what replaces resources of a pipeline; a name counts before a type.

    Raises:
        ConfigError: A replacement is not of the type that the resource provides.
    """
    found: dict[ResourceDefinition, object] = {}
    for name, resource in graph.resources.items():
        for key in (resource.provides, name):
            if key in given:
                found[resource.definition] = _fitting(name, resource.provides, given[key])
    return found


def _fitting(name: str, provides: object, value: object) -> object:
    """Return a replacement that is of the type its resource provides; a protocol fits anything with its members."""
    structural = getattr(provides, "_is_protocol", False)
    if isinstance(provides, type) and not structural and not isinstance(value, provides):
        raise ConfigError(
            f"resource {name!r} provides {render(provides)}, and its replacement is {type(value).__name__}",
            hint=f"Give a {render(provides)}, or a subclass of it.",
        )
    return value


def _check_all_used(given: Mapping[object, object], graphs: Sequence[Graph]) -> None:
    known = {key for graph in graphs for name, each in graph.resources.items() for key in (name, each.provides)}
    for key in given:
        if key not in known:
            shown = key if isinstance(key, str) else render(key)
            names = sorted(name for graph in graphs for name in graph.resources)
            raise ConfigError(
                f"resources={{{shown!r}: ...}}: no pipeline has such a resource",
                hint=f"Known are: {', '.join(names) or 'none'}.",
            )
