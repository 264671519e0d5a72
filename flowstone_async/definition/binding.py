"""What each parameter of a body receives, once the rules of injection have decided; see `injection.py`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from flowstone_async.definition.asset import AssetDefinition
from flowstone_async.definition.mapping import KeyMapping
from flowstone_async.definition.partition import KeyMarker


@dataclass(frozen=True, slots=True, kw_only=True)
class DependencyBinding:
    """The parameter receives the value of `upstream` (or, with `external`, another pipeline's current value).

    Attributes:
        annotation: As it is written, without `Annotated`; `inspect.Parameter.empty` where there is none.
        wanted: The type its value is loaded as: the annotation without `Failed` and `Skipped`; None to load as
            produced.
        admits_failed: The annotation takes a `Failed` (with `over`, as a value of the mapping).
        admits_skipped: The annotation takes a `Skipped`, likewise.
    """

    parameter: str
    upstream: str
    annotation: object = None
    wanted: object = None
    optional: bool = False
    admits_failed: bool = False
    admits_skipped: bool = False
    over: KeyMapping | None = None
    external: AssetDefinition | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextBinding:
    """The parameter receives the `Context`."""

    parameter: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionBinding:
    """The parameter receives the partition key, or the part of it that belongs to one dimension."""

    parameter: str
    marker: KeyMarker | None = None
    annotation: object = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ParamsBinding:
    """The parameter receives all params of the run, as `wanted` where an included pipeline has its own type."""

    parameter: str
    wanted: object = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ParamFieldBinding:
    """The parameter receives one field of the params."""

    parameter: str
    field: str
    annotation: object = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceBinding:
    """The parameter receives an open resource."""

    parameter: str
    resource: str


Binding: TypeAlias = (
    DependencyBinding | ContextBinding | PartitionBinding | ParamsBinding | ParamFieldBinding | ResourceBinding
)
