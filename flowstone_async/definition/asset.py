"""One asset as it was defined: a frozen value, with nothing resolved yet."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from typing_extensions import TypedDict

from flowstone_async.definition.body import Body
from flowstone_async.definition.finding import Finding
from flowstone_async.definition.inclusion import HERE, Inclusion
from flowstone_async.definition.kind import Kind
from flowstone_async.definition.location import Location
from flowstone_async.definition.partition import PartitionSet
from flowstone_async.definition.policy import CachePolicy, Duration, Retry

RunIn: TypeAlias = Literal["thread", "process", "dask"]
HandlerPart: TypeAlias = Literal["on_signal", "on_timeout", "on_approve", "on_reject"]
Condition: TypeAlias = Callable[..., object]
"""Takes what a body may take; an unannotated `ctx` is the `Context`."""

PLACES: tuple[RunIn, ...] = ("thread", "process", "dask")


class CommonOptions(TypedDict, total=False):
    """Options of assets of every kind.

    `None` means "not given"; `False` switches a feature off.

    Attributes:
        description: What it is, for people; the first paragraph of the docstring without it.
        tags: Labels to select by.
        owner: Whom to ask.
        metadata: Facts for people and tools.
        cache: When a stored value is reused: True, False (never), `"exists"` (always), or a `Cache`.
        when: Function that must answer True for the asset to be computed.
        unless: Function that must answer False for the asset to be computed.
        renamed_from: Its earlier name, whose values and history it takes over.
        park_after: How long a body that waits at gates stays in memory [that of the engine, 30 s]; 0 drops it at every
            wait, False never.
    """

    description: str | None
    tags: tuple[str, ...] | list[str] | None
    owner: str | None
    metadata: Mapping[str, object] | None
    cache: CachePolicy | None
    when: Condition | None
    unless: Condition | None
    renamed_from: str | None
    park_after: Duration | Literal[False] | None


class UnnamedOptions(CommonOptions, total=False):
    """Options of an asset whose name is given by itself.

    Attributes:
        io: I/O manager that keeps its values, or the name of one.
        retry: How often a failing body is called again.
        timeout: Of each attempt.
    """

    io: object
    retry: Retry | Literal[False] | None
    timeout: Duration | Literal[False] | None


class AssetOptions(UnnamedOptions, total=False):
    """Options of an asset, beside `partitions` and `run_in`, which decide the type of the handle.

    Attributes:
        name: What it is called; the function's name without it.
    """

    name: str | None


@dataclass(frozen=True, slots=True, eq=False)
class Home:
    """The identity of a pipeline: two pipelines of one name have two homes.

    Attributes:
        params: Its params type, or None.
        graph: Gives its `Graph`, as it is now; see `graph_of`.
    """

    name: str
    params: type | None
    graph: Callable[[], object]


@dataclass(frozen=True, slots=True)
class Scope:
    """Names that were local where a body was defined, for its annotations."""

    names: Mapping[str, object] = field(default_factory=dict[str, object])


@dataclass(frozen=True, slots=True)
class Handler:
    """A function that is called once the gate has ended that a body returned."""

    function: Body
    scope: Scope
    location: Location


@dataclass(slots=True, eq=False)
class Handlers:
    """What is called once the gate has ended that a body returned. It is decorated after the asset was defined.

    Attributes:
        given: By what it is for, in the order in which they were given: more than one is a mistake.
        changed: Told that there is one more.
    """

    given: dict[HandlerPart, list[Handler]] = field(default_factory=dict["HandlerPart", "list[Handler]"])
    changed: list[Callable[[], None]] = field(default_factory=list[Callable[[], None]])

    def add(self, part: HandlerPart, handler: Handler) -> None:
        """Add one; where a REPL or notebook defines it once more, it takes the place of the last."""
        known = self.given.setdefault(part, [])
        if handler.location.interactive:
            known.clear()
        known.append(handler)
        for told in tuple(self.changed):
            told()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AssetDefinition:
    """One asset as it was defined.

    Attributes:
        name: Name in the pipeline that lists it (prefixed where it was included).
        home: The pipeline that defined it first.
        local_name: Name there.
        inclusion: The way by which it came into the pipeline that lists it.
        deps: Upstreams given by parameter to `pipe.add`, as handles or names.
        gathers: The scatter whose results it was decorated to gather.
        handlers: What is called once the gate has ended that the body returned; all copies of an asset share them.
        problems: What was wrong with the options, found at the decorator and reported by `validate`; a wrong option is
            kept as if it had not been given.
    """

    name: str
    home: Home
    local_name: str
    kind: Kind
    body: Body
    location: Location
    scope: Scope
    inclusion: Inclusion = HERE
    description: str | None = None
    tags: tuple[str, ...] = ()
    owner: str | None = None
    metadata: Mapping[str, object] = field(default_factory=dict[str, object])
    partitions: PartitionSet[Any] | None = None
    io: object = None
    cache: CachePolicy | None = None
    retry: Retry | Literal[False] | None = None
    timeout: Duration | Literal[False] | None = None
    run_in: RunIn | None = None
    when: Condition | None = None
    unless: Condition | None = None
    renamed_from: str | None = None
    park_after: Duration | Literal[False] | None = None
    deps: Mapping[str, object] = field(default_factory=dict[str, object])
    gathers: AssetDefinition | None = None
    handlers: Handlers = field(default_factory=Handlers)
    problems: tuple[Finding, ...] = ()

    @property
    def prefix(self) -> str:
        """What including pipelines put before its names."""
        return self.inclusion.prefix

    def conditions(self) -> Iterator[tuple[Condition, bool]]:
        """Yield the conditions with the answer each must give for the asset to run."""
        if self.when is not None:
            yield self.when, True
        if self.unless is not None:
            yield self.unless, False
