"""What a pipeline collects: assets, resources, hooks, a params type. The definitions live here and nowhere else."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar

from flowstone_async.definition.annotations import capture
from flowstone_async.definition.approval import OWN, read_kind
from flowstone_async.definition.asset import AssetDefinition, AssetOptions, Home
from flowstone_async.definition.body import Body, first_paragraph, name_of, way_of
from flowstone_async.definition.drawing import GraphFormat, draw
from flowstone_async.definition.finding import Finding
from flowstone_async.definition.graph import Graph
from flowstone_async.definition.handle import AssetRef
from flowstone_async.definition.inclusion import HERE
from flowstone_async.definition.info import AssetInfo, describe
from flowstone_async.definition.kind import ConstantKind, Kind, PlainKind, StreamKind
from flowstone_async.definition.location import Location, caller
from flowstone_async.definition.names import AssetNames, suggestion
from flowstone_async.definition.option import gate_options, pipeline_name, place_of_work, prefix_name, read_options
from flowstone_async.definition.params import is_params_type, no_params_type, uncovered_params
from flowstone_async.definition.policy import CachePolicy, Duration, Retry
from flowstone_async.definition.resource import ResourceDefinition
from flowstone_async.definition.returned_gate import ReturnedGate
from flowstone_async.definition.scatter_option import read_scatter
from flowstone_async.definition.validate import Collected, build
from flowstone_async.errors import AssetNotFound, ConfigError, DefinitionError, Problem
from flowstone_async.events import Event

E = TypeVar("E", bound=Event)
R = TypeVar("R")
D = TypeVar("D", AssetDefinition, ResourceDefinition)
Tolerated = Literal["failed", "skipped", "missing"]
TOLERATED: frozenset[Tolerated] = frozenset({"failed", "skipped", "missing"})
_LISTED = 20


@dataclass(frozen=True, slots=True, eq=False)
class Hook:
    """A function called with every event of a type, or of a type below it."""

    event: type[Event]
    function: Callable[..., object]


class HookDecorator(Protocol[E]):
    """What `@pipe.on(event)` is."""

    def __call__(self, function: Callable[[E], R], /) -> Callable[[E], R]:
        """Register a hook and return it as it is."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Defaults:
    """Options of a pipeline that hold for its assets where they give none."""

    io: object = None
    cache: CachePolicy | None = None
    retry: Retry | Literal[False] | None = None
    timeout: Duration | Literal[False] | None = None

    def given(self) -> dict[str, object]:
        """Return those that are given."""
        every = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: value for name, value in every.items() if value is not None}


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
        self.params_type = params if is_params_type(params) else None
        self.home = Home(name, self.params_type, self.compiled)
        self.optional_tolerates = optional_tolerates
        self.hooks: list[Hook] = []
        self._assets: dict[str, AssetDefinition] = {}
        self._resources: dict[str, ResourceDefinition] = {}
        self._problems: list[Problem] = []
        self._graph: Graph | None = None
        self._copies = itertools.count(1)
        self._defaults, wrong = read_options(defaults.given())
        self._note("", [*pipeline_name(name), *no_params_type(params), *wrong], Location.of_caller())

    # -- collecting ---------------------------------------------------------------------------------------------

    def define(
        self,
        body: Body,
        options: AssetOptions,
        *,
        partitions: object = None,
        run_in: object = None,
        deps: object = None,
        gathers: AssetDefinition | None = None,
        signal: object = None,
        max_rearms: Any = None,
    ) -> AssetDefinition:
        """Add an asset and return its definition; what is wrong with it is reported by `validate`."""
        way = way_of(body)
        given = {**options, "partitions": partitions, "run_in": run_in, "deps": deps, "gathers": gathers}
        kind: Kind = StreamKind() if way == "async generator" else PlainKind()
        wrong = () if gathers is not None else tuple(place_of_work(way, run_in))
        misfits = tuple(gate_options(signal, max_rearms, way, run_in))
        if signal is not None and not misfits:
            kind = PlainKind(ReturnedGate(signal, *(() if max_rearms is None else (max_rearms,))))
        wrong += misfits
        return self._define(body, kind, given, Location.of(body), wrong)

    def define_scatter(
        self, body: Body, source: object, options: Mapping[str, object], *, partitions: object = None
    ) -> AssetDefinition:
        """Add a scatter; what is wrong with it is reported by `validate`."""
        kind, given, wrong = read_scatter(source, options, self._defaults)
        wrong += tuple(gate_options(options.get("signal"), options.get("max_rearms"), way_of(body), None))
        # Its retry and timeout are those of each item, and its results are kept in the store: see the kind.
        kept = {name: value for name, value in self._defaults.items() if name == "cache"}
        return self._define(body, kind, {**given, "partitions": partitions}, Location.of(body), wrong, defaults=kept)

    def define_approval(
        self, question: Body, options: Mapping[str, Any], *, partitions: object = None
    ) -> AssetDefinition:
        """Add an asset that asks people; what is wrong with it is reported by `validate`."""
        kind, body, wrong = read_kind(question, options, self._changed)
        rest = {name: value for name, value in options.items() if name not in OWN and name not in ("form", "initial")}
        # Its timeout is that of the request.
        kept = {name: value for name, value in self._defaults.items() if name != "timeout"}
        given = {**rest, "partitions": partitions, "park_after": 0}
        return self._define(body, kind, given, Location.of(question), wrong, defaults=kept)

    def _changed(self) -> None:
        self._graph = None

    def define_constant(self, name: str, value: object, options: Mapping[str, object]) -> AssetDefinition:
        """Add an asset with a fixed value."""

        async def constant() -> object:
            return value

        return self._define(constant, ConstantKind(value), {**options, "name": name}, Location.of_caller())

    def _define(
        self,
        body: Body,
        kind: Kind,
        options: Mapping[str, object],
        location: Location,
        problems: tuple[Finding, ...] = (),
        *,
        defaults: Mapping[str, Any] | None = None,
    ) -> AssetDefinition:
        given, wrong = read_options(options)
        given.setdefault("description", first_paragraph(body))
        name: object = given.pop("name", name_of(body))
        name = name if isinstance(name, str) else repr(name)
        definition = AssetDefinition(
            name=name,
            local_name=name,
            home=self.home,
            kind=kind,
            body=body,
            location=location,
            scope=capture(caller()),
            problems=(*problems, *wrong),
            **{**(self._defaults if defaults is None else defaults), **given},
        )
        self._add(definition, self._assets)
        return definition

    def define_resource(self, resource: ResourceDefinition) -> None:
        """Add a resource."""
        self._add(resource, self._resources)

    def _add(self, new: D, known: dict[str, D]) -> None:
        earlier = known.get(new.name)
        if earlier is not None and not _is_again(earlier, new):
            what = "assets" if isinstance(new, AssetDefinition) else "resources"
            text = f"two {what} are called {new.name!r}: {_place(earlier)} and {_place(new)}."
            hint = 'Rename one of them, or give it another name with name="...".'
            if earlier.inclusion.path or new.inclusion.path:
                hint = 'Include with a prefix: include(..., prefix="...").'
            self._note(new.name, [Finding("FS105", text, hint)], new.location)
            return
        known[new.name] = new
        if isinstance(new, AssetDefinition):
            new.handlers.changed.append(self._outdate)
        self._outdate()

    def _outdate(self) -> None:
        self._graph = None

    def on(self, event: type[E]) -> HookDecorator[E]:
        """Register a hook: a function, sync or async, called with every event of that type.

        Args:
            event: The event type; a base type (`RunEvent`, `AssetEvent`, `Event`) receives all below it.

        Raises:
            ConfigError: `event` is no event type.

        Example:
            >>> @pipe.on(RunFailed)
            ... async def page(event: RunFailed) -> None: ...
        """
        return hooked(event, self.hooks)

    def include_one(self, other: Collection, prefix: str) -> None:
        """Add copies of another pipeline's assets, resources and hooks; the other is not changed."""
        number, where = next(self._copies), Location.of_caller()
        for definition in tuple(other._assets.values()):
            self._add(_copied(definition, prefix, number), self._assets)
        for resource in tuple(other._resources.values()):
            self._add(_copied(resource, prefix, number), self._resources)
        known = {(hook.event, hook.function) for hook in self.hooks}
        self.hooks.extend(hook for hook in tuple(other.hooks) if (hook.event, hook.function) not in known)
        self._problems.extend(each for each in tuple(other._problems) if each not in self._problems)
        self._note(
            "",
            [*prefix_name(prefix), *uncovered_params(self.name, self.params_type, other.name, other.params_type)],
            where,
        )

    def _note(self, asset: str, found: Iterable[Finding], where: Location) -> None:
        for code, message, hint in found:
            problem = Problem(
                code=code, message=message, file=where.file, line=where.line, asset=asset or None, hint=hint
            )
            self._problems.append(problem)
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
            collected = Collected(
                name=self.name,
                assets=self._assets,
                resources=self._resources,
                params=self.params_type,
                problems=self._problems,
            )
            self._graph = build(collected)
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

    def order(self) -> tuple[str, ...]:
        """Return the names of all assets in topological order, ties in the order of declaration.

        Raises:
            DefinitionError: With all problems of all assets.
        """
        return self.compiled().order

    def graph(self, format: GraphFormat = "tree") -> str:  # noqa: A002 - the field's word for it
        """Draw the graph.

        Args:
            format: `"tree"` (roots at column 0, dependants below them), `"mermaid"`, `"dot"` or `"json"`.

        Raises:
            ConfigError: Another format.
            DefinitionError: With all problems of all assets.
        """
        return draw(self.compiled(), format)

    def asset_info(self, asset: AssetRef[Any] | str) -> AssetInfo:
        """Return an asset's definition, resolved: kind, dependencies, options, value type, location.

        Args:
            asset: Handle or name.

        Raises:
            AssetNotFound: The pipeline has no such asset.
            ConfigError: A handle stands for several, because its pipeline was included more than once.
            DefinitionError: With all problems of all assets.
        """
        name = self._name_of(asset)
        return describe(self.compiled().nodes[name])

    def _name_of(self, asset: AssetRef[Any] | str) -> str:
        if isinstance(asset, str):
            if asset not in self._assets:
                raise not_found(asset, self.name, self._assets)
            return asset
        if not isinstance(asset, AssetRef):
            raise ConfigError(f"{asset!r} is not an asset", hint="Pass a decorated asset, or its name as text.")
        found = AssetNames(self._assets).copies(asset.definition, HERE)
        if not found:
            raise foreign(asset.definition, (self.name,)) or not_found(asset.name, self.name, self._assets)
        if len(found) > 1:
            text = f"asset {asset.name!r} was included more than once: {', '.join(found)}"
            raise ConfigError(text, asset=asset.name, hint="Name one of them.")
        return found[0]


def hooked(event: type[E], hooks: list[Hook]) -> HookDecorator[E]:
    """Return the decorator that adds a hook to `hooks`.

    Raises:
        ConfigError: `event` is no event type.
    """
    if not isinstance(event, type) or not issubclass(event, Event):
        raise ConfigError(f"on({event!r}) takes an event type", hint="Say @pipe.on(RunFailed), for example.")

    def register(function: Callable[[E], R], /) -> Callable[[E], R]:
        if not callable(function):
            raise ConfigError(f"on({event.__name__}) takes a function, not {function!r}")
        hooks.append(Hook(event, function))
        return function

    return register


def not_found(name: str, pipeline: str, known: Iterable[str]) -> AssetNotFound:
    """Return the error for an asset name that a pipeline does not have."""
    names = list(known)
    shown = ", ".join(names[:_LISTED]) + (f" and {len(names) - _LISTED} more" if len(names) > _LISTED else "")
    return AssetNotFound(
        f"pipeline {pipeline!r} has no asset {name!r}. It has: {shown or 'none'}.",
        asset=name,
        details={"pipeline": pipeline, "available": names},
        hint=suggestion(name, names),
    )


def foreign(definition: AssetDefinition, pipelines: Sequence[str]) -> AssetNotFound | None:
    """Return the error for the handle of another pipeline's asset; None if it is of one of `pipelines`."""
    owner = definition.home.name
    if owner in pipelines:
        return None
    here = pipelines[0].replace("-", "_")
    there = owner.replace("-", "_")
    other = f"pipeline {pipelines[0]!r}" if len(pipelines) == 1 else f"one of {', '.join(map(repr, pipelines))}"
    return AssetNotFound(
        f"asset {definition.name!r} belongs to pipeline {owner!r}, not to {other}",
        asset=definition.name,
        details={"pipeline": pipelines[0], "belongs_to": owner},
        hint=f"Ask its own pipeline, say {here}.include({there}), or open both in one engine: Engine({here}, {there}).",
    )


def _is_again(earlier: AssetDefinition | ResourceDefinition, new: AssetDefinition | ResourceDefinition) -> bool:
    """Tell whether a REPL or notebook defines the same thing once more, itself or by including it again."""
    same = earlier.home.name == new.home.name and earlier.inclusion.prefixes == new.inclusion.prefixes
    return new.location.interactive and same


def _place(definition: AssetDefinition | ResourceDefinition) -> str:
    if not definition.inclusion.path:
        return str(definition.location)
    return f"{definition.location} (of pipeline {definition.home.name!r})"


def _copied(definition: D, prefix: str, number: int) -> D:
    inclusion = definition.inclusion.inside(prefix, number)
    return dataclasses.replace(definition, name=prefix + definition.name, inclusion=inclusion)
