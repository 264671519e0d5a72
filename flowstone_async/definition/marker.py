"""Markers: defaults (or `Annotated` metadata) that say where a parameter's value comes from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from flowstone_async.definition.mapping import KeyMapping
from flowstone_async.definition.partition import KeyMarker


@dataclass(frozen=True, slots=True, kw_only=True)
class Dependency:
    """The parameter receives an asset's value.

    Attributes:
        asset: Handle (an `AssetRef`) or name of the upstream.
        optional: Run with None if the upstream was skipped, failed or is missing.
        over: Which of the upstream's partitions; the value is then an ordered mapping from key to value.
        external: The asset belongs to another pipeline, whose current value is read and never run.
    """

    asset: object
    optional: bool = False
    over: KeyMapping | None = None
    external: bool = False


@dataclass(frozen=True, slots=True)
class ParamField:
    """The parameter receives one field of the run's params."""

    name: str


@dataclass(frozen=True, slots=True)
class ResourceName:
    """The parameter receives the resource of that name."""

    name: str


Marker: TypeAlias = Dependency | ParamField | ResourceName | KeyMarker
MARKERS = (Dependency, ParamField, ResourceName, KeyMarker)
