"""A resource as it was defined: a long-lived object that the engine opens, injects and closes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from flowstone_async.definition.asset import Body, Location, Scope

ResourceScope: TypeAlias = Literal["engine", "run", "asset"]
SCOPES: tuple[ResourceScope, ...] = ("engine", "run", "asset")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ResourceDefinition:
    """One resource.

    Attributes:
        name: Its name in the pipeline, unique there.
        body: Async generator function that yields the handle once, or a coroutine function that returns it.
        scope: How long the handle lives.
        health: Asked with the handle by `engine.health()`: None or True is healthy.
        instance: Which copy it is, where a pipeline was included more than once.
    """

    name: str
    body: Body
    location: Location
    names: Scope
    scope: ResourceScope = "engine"
    health: Callable[..., object] | None = None
    prefix: str = ""
    instance: tuple[int, ...] = ()
