"""A resource as it was defined: a long-lived object that the engine opens, injects and closes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from flowstone_async.definition.asset import Home, Scope
from flowstone_async.definition.body import Body
from flowstone_async.definition.inclusion import HERE, Inclusion
from flowstone_async.definition.location import Location

ResourceScope: TypeAlias = Literal["engine", "run", "asset"]
SCOPES: tuple[ResourceScope, ...] = ("engine", "run", "asset")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ResourceDefinition:
    """One resource.

    Attributes:
        name: Its name in the pipeline that lists it, unique there.
        home: The pipeline that defined it first.
        body: Async generator function that yields the handle once, or a coroutine function that returns it.
        scope: How long the handle lives.
        health: Asked with the handle by `engine.health()`: None or True is healthy.
        inclusion: The way by which it came into the pipeline that lists it.
    """

    name: str
    home: Home
    body: Body
    location: Location
    names: Scope
    scope: ResourceScope = "engine"
    health: Callable[..., object] | None = None
    inclusion: Inclusion = HERE
