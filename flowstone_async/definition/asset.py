"""One asset as it was defined: a frozen value, with nothing resolved yet."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from typing_extensions import TypedDict

from flowstone_async.definition.kind import Kind
from flowstone_async.definition.partition import PartitionSet
from flowstone_async.definition.policy import CachePolicy, Duration, Retry

RunIn: TypeAlias = Literal["thread", "process", "dask"]
Condition: TypeAlias = Callable[..., object]
Body: TypeAlias = Callable[..., Any]
PLACES: tuple[RunIn, ...] = ("thread", "process", "dask")


class AssetOptions(TypedDict, total=False):
    """Options of an asset, beside `partitions` and `run_in` (which decide the type of the handle).

    `None` means "not given"; `False` switches a feature off.
    """

    name: str | None
    description: str | None
    tags: tuple[str, ...] | list[str] | None
    owner: str | None
    metadata: Mapping[str, object] | None
    io: object
    cache: CachePolicy | None
    retry: Retry | Literal[False] | None
    timeout: Duration | Literal[False] | None
    when: Condition | None
    unless: Condition | None
    renamed_from: str | None


@dataclass(frozen=True, slots=True, eq=False)
class Home:
    """The identity of a pipeline: two pipelines of one name have two homes."""

    name: str


@dataclass(frozen=True, slots=True)
class Location:
    """Where something was defined."""

    file: str | None = None
    line: int | None = None

    @staticmethod
    def of(body: Body) -> Location:
        """Return where a function, method or callable object was written."""
        code = getattr(inspect.unwrap(_function(body)), "__code__", None)
        if code is None:
            return Location()
        path = Path(code.co_filename)
        if path.is_absolute() and path.is_relative_to(Path.cwd()):
            path = path.relative_to(Path.cwd())
        return Location(str(path), code.co_firstlineno)

    @property
    def interactive(self) -> bool:
        """Whether it was typed into a REPL or a notebook."""
        name = self.file or "<none>"
        return name.startswith("<") or "ipykernel" in name


@dataclass(frozen=True, slots=True)
class Scope:
    """Names that were local where a body was defined, for its annotations."""

    names: Mapping[str, object] = field(default_factory=dict[str, object])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AssetDefinition:
    """One asset as it was defined.

    Attributes:
        name: Name in the pipeline that lists it (prefixed where it was included).
        home: The pipeline that defined it first.
        local_name: Name there.
        prefix: What including pipelines put before its names.
        instance: Which copy it is, where a pipeline was included more than once.
        deps: Upstreams given by parameter to `pipe.add`, as handles or names.
        problems: What was wrong with the options, found at the decorator and reported by `validate`.
    """

    name: str
    home: Home
    local_name: str
    kind: Kind
    body: Body
    location: Location
    scope: Scope
    prefix: str = ""
    instance: tuple[int, ...] = ()
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
    deps: Mapping[str, object] = field(default_factory=dict[str, object])
    problems: tuple[tuple[str, str], ...] = ()

    def conditions(self) -> Iterator[tuple[Condition, bool]]:
        """Yield the conditions with the answer each must give for the asset to run."""
        if self.when is not None:
            yield self.when, True
        if self.unless is not None:
            yield self.unless, False


def first_paragraph(body: Body) -> str | None:
    """Return the first paragraph of a docstring, on one line."""
    text = inspect.getdoc(body) if hasattr(body, "__name__") else None
    return " ".join(text.split("\n\n", 1)[0].split()) if text else None


def _function(body: Body) -> Body:
    if inspect.isroutine(body) or isinstance(body, type):
        return body
    return getattr(type(body), "__call__", body)

