"""What a pipeline collects: assets, resources, hooks, a params type. The definitions live here and nowhere else."""

from __future__ import annotations

import dataclasses
import inspect
import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, cast

from flowstone_async.definition import checks
from flowstone_async.definition.asset import AssetDefinition, AssetOptions, Body, Home, Location, Scope, first_paragraph
from flowstone_async.definition.drawing import GraphFormat, draw
from flowstone_async.definition.graph import Graph
from flowstone_async.definition.info import AssetInfo, describe
from flowstone_async.definition.kind import ConstantKind, Kind, PlainKind, StreamKind
from flowstone_async.definition.partition import PartitionSet
from flowstone_async.definition.policy import CachePolicy, Duration, Retry
from flowstone_async.definition.resource import ResourceDefinition
from flowstone_async.definition.validate import Collected, build
from flowstone_async.errors import AssetNotFound, DefinitionError, Problem
from flowstone_async.definition.names import suggestion
from flowstone_async.events import Event

H = TypeVar("H", bound=Callable[..., object])
Tolerated = Literal["failed", "skipped", "missing"]
TOLERATED: frozenset[Tolerated] = frozenset({"failed", "skipped", "missing"})


@dataclass(frozen=True, slots=True, eq=False)
class Hook:
    """A function called with every event of a type, or of a type below it."""

    event: type[Event]
    function: Callable[..., object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Defaults:
    """Options of a pipeline that hold for its assets where they give none."""

    io: object = None
    cache: CachePolicy | None = None
    retry: Retry | Literal[False] | None = None
    timeout: Duration | Literal[False] | None = None


class Collection:
    """Assets, resources and hooks under one name. `Pipeline` adds the verbs."""

    def __init__(
        self,
        name: str,
        *,
        params: type | None = None,
        defaults: Defaults,
        optional_tolerates: frozenset[Tolerated] = TOLERATED,
    ) -> None:
        self.name = name
        self.home = Home(name)
        self.params_type = params
        self.defaults = defaults
        self.optional_tolerates = optional_tolerates
        self.hooks: list[Hook] = []
        self._assets: dict[str, AssetDefinition] = {}
        self._resources: dict[str, ResourceDefinition] = {}
        self._problems: list[Problem] = [
            Problem(code=code, message=text, hint=hint) for code, text, hint in checks.pipeline_name(name)
        ]
        self._graph: Graph | None = None
        self._copies = itertools.count(1)

    # -- collecting ---------------------------------------------------------------------------------------------

    def define(
        self,
        body: Body,
        options: AssetOptions,
        *,
        scope: Scope,
        partitions: PartitionSet[Any] | None = None,
        run_in: Any = None,
        deps: Mapping[str, object] | None = None,
    ) -> AssetDefinition:
        """Add an asset and return its definition; what is wrong with it is reported by `validate`."""
        unknown = set(options) - set(AssetOptions.__annotations__)
        if unknown:
            raise TypeError(f"asset() got an unexpected keyword argument {min(unknown)!r}")
        given = {key: value for key, value in options.items() if value is not None}
        kind, problems = _kind(body, run_in)
        name = cast("str", given.pop("name", None) or getattr(body, "__name__", type(body).__name__))
        for key in ("io", "cache", "retry", "timeout"):
            if key not in given and getattr(self.defaults, key) is not None:
                given[key] = getattr(self.defaults, key)
        given["tags"] = tuple(cast("Any", given.get("tags", ())))
        definition = AssetDefinition(
            name=name,
            home=self.home,
            local_name=name,
            kind=kind,
            body=body,
            location=Location.of(body),
            scope=scope,
            partitions=partitions,
            run_in=run_in,
            deps=dict(deps or {}),
            problems=problems,
            **cast("Any", {"description": first_paragraph(body), **given}),
        )
        self._add(definition)
        return definition

    def define_constant(self, name: str, value: object, options: AssetOptions) -> AssetDefinition:
        """Add an asset with a fixed value."""

        async def constant() -> object:
            return value

        definition = self.define(constant, {**options, "name": name}, scope=Scope())
        frame = inspect.stack()[2]
        where = Location(frame.filename, frame.lineno)
        definition = dataclasses.replace(definition, kind=ConstantKind(value), location=where)
        self._assets[definition.name] = definition
        return definition

    def _add(self, definition: AssetDefinition) -> None:
        earlier = self._assets.get(definition.name)
        if earlier is not None and not definition.location.interactive:
            places = f"{_place(earlier.location)} and {_place(definition.location)}"
            self._problems.append(
                Problem(
                    code="FS105",
                    message=f"two assets are called {definition.name!r}: {places}.",
                    file=definition.location.file,
                    line=definition.location.line,
                    asset=definition.name,
                    hint='Rename one of them, or give it another name with name="...".',
                )
            )
            return
        self._assets[definition.name] = definition
        self._graph = None

    def define_resource(self, resource: ResourceDefinition) -> None:
        """Add a resource."""
        earlier = self._resources.get(resource.name)
        if earlier is not None and not resource.location.interactive:
            places = f"{_place(earlier.location)} and {_place(resource.location)}"
            self._problems.append(
                Problem(
                    code="FS105",
                    message=f"two resources are called {resource.name!r}: {places}.",
                    file=resource.location.file,
                    line=resource.location.line,
                )
            )
            return
        self._resources[resource.name] = resource
        self._graph = None

    def on(self, event: type[Event]) -> Callable[[H], H]:
        """Register a hook: a function, sync or async, called with every event of that type.

        Args:
            event: The event type; a base type (`RunEvent`, `AssetEvent`, `Event`) receives all below it.

        Example:
            >>> @pipe.on(RunFailed)
            ... async def page(event: RunFailed) -> None: ...
        """

        def register(function: H) -> H:
            self.hooks.append(Hook(event, function))
            return function

        return register

    def include_one(self, other: Collection, prefix: str) -> None:
        """Add copies of another pipeline's assets, resources and hooks; the other is not changed."""
        copy = next(self._copies)
        for definition in other._assets.values():
            self._add(_copied(definition, prefix, copy))
        for resource in other._resources.values():
            self.define_resource(_copied(resource, prefix, copy))
        known = {hook.function for hook in self.hooks}
        self.hooks.extend(hook for hook in other.hooks if hook.function not in known)
        self._problems.extend(other._problems)
        if other.params_type is not None:
            self._problems.extend(_uncovered(self, other))
        self._graph = None

    # -- looking ------------------------------------------------------------------------------------------------

    def validate(self) -> None:
        """Check every definition.

        Raises:
            DefinitionError: With all problems of all assets, each with code, `file:line`, message and suggestion.
        """
        self.compiled()

    def compiled(self) -> Graph:
        """Return the validated graph, made anew only after a change.

        Raises:
            DefinitionError: With all problems of all assets.
        """
        if self._graph is None:
            self._graph = build(
                Collected(
                    name=self.name,
                    assets=self._assets,
                    resources=self._resources,
                    params=self.params_type,
                    problems=self._problems,
                )
            )
        return self._graph

    def problems(self) -> tuple[Problem, ...]:
        """Return what `validate` would raise, as values."""
        try:
            self.validate()
        except DefinitionError as error:
            return error.problems
        return ()

    def assets(self) -> tuple[str, ...]:
        """Return the names of all assets, in the order of declaration."""
        return tuple(self._assets)

    def definition(self, name: str) -> AssetDefinition:
        """Return the definition of an asset.

        Raises:
            AssetNotFound: The pipeline has no asset of that name.
        """
        found = self._assets.get(name)
        if found is None:
            raise not_found(name, self.name, self._assets)
        return found

    def order(self) -> tuple[str, ...]:
        """Return the names of all assets in topological order, ties in the order of declaration."""
        return self.compiled().order

    def graph(self, format: GraphFormat = "tree") -> str:  # noqa: A002 - the field's word for it
        """Draw the graph.

        Args:
            format: `"tree"` (roots at column 0, dependants below them), `"mermaid"`, `"dot"` or `"json"`.
        """
        return draw(self.compiled(), format)

    def info(self, name: str) -> AssetInfo:
        """Return what is known of an asset's definition."""
        self.definition(name)
        return describe(self.compiled().nodes[name])


def not_found(name: str, pipeline: str, known: Mapping[str, object]) -> AssetNotFound:
    """Return the error for an asset name that a pipeline does not have."""
    names = list(known)
    shown = ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")  # noqa: PLR2004
    return AssetNotFound(
        f"pipeline {pipeline!r} has no asset {name!r}. It has: {shown or 'none'}.",
        asset=name,
        details={"pipeline": pipeline, "available": names},
        hint=suggestion(name, names),
    )


def _kind(body: Body, run_in: object) -> tuple[Kind, tuple[tuple[str, str], ...]]:
    called = body if inspect.isroutine(body) else getattr(type(body), "__call__", body)
    if inspect.isasyncgenfunction(called):
        kind: Kind = StreamKind()
    elif inspect.iscoroutinefunction(called):
        kind = PlainKind()
    elif run_in is None:
        text = 'the body is a plain def, which would block the event loop: make it async def, or say run_in="thread" or "process".'
        return PlainKind(), (("FS103", text),)
    else:
        return PlainKind(), ()
    if run_in is None:
        return kind, ()
    return kind, (("FS109", f"run_in={run_in!r} on an async def: it runs on the event loop. Make it a plain def, or drop run_in."),)


def _place(location: Location) -> str:
    return f"{location.file or '<unknown>'}:{location.line or 0}"


D = TypeVar("D", AssetDefinition, ResourceDefinition)


def _copied(definition: D, prefix: str, copy: int) -> D:
    return dataclasses.replace(
        definition,
        name=prefix + definition.name,
        prefix=prefix + definition.prefix,
        instance=(copy, *definition.instance),
    )


def _uncovered(outer: Collection, other: Collection) -> Iterator[Problem]:
    inner = other.params_type
    if inner is None:
        return
    if outer.params_type is None:
        text = f"included pipeline {other.name!r} has params {inner.__name__}, but pipeline {outer.name!r} has none."
        yield Problem(code="FS113", message=text, hint=f"Say Pipeline({outer.name!r}, params={inner.__name__}).")
        return
    for code, text, hint in checks.covers(outer.params_type, inner):
        yield Problem(code=code, message=f"included pipeline {other.name!r}: {text}", hint=hint)
