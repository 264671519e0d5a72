"""What a scatter takes beside the parameters of its body, once the rules of injection have decided."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from flowstone_async.definition.binding import Binding
from flowstone_async.definition.item_source import SourceSpec

SOURCE = "source"
"""What the edge to the asset that items come from is called, in place of a parameter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemBinding:
    """The first parameter of a scatter's body; it receives the item, by name.

    Attributes:
        annotation: As it is written, without `Annotated`; `inspect.Parameter.empty` where there is none.
        wanted: The type that items arrive as, also after storage: what `select` or the source says they are, else the
            annotation; None where neither says anything. A mapping without a model arrives as an `Item`.
    """

    parameter: str
    annotation: object
    wanted: object = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundSource:
    """Where the items come from.

    Attributes:
        spec: As it was written.
        bindings: The one edge of an `AssetSource`, or the parameters of a `FunctionSource`.
        item_type: Type of an item as it is read, before `select`; None where it is not known.
    """

    spec: SourceSpec
    bindings: tuple[Binding, ...] = ()
    item_type: object = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemFunction:
    """A function of an item: `select`, `key`, or the key of a rate. It takes the item by position and the rest by name.

    Attributes:
        parameter: Name of the item's parameter; empty where it has none.
        annotation: Of that parameter; `inspect.Parameter.empty` where there is none.
        returns: What it gives: the return annotation, or the class that it is; None where nothing is known.
    """

    function: Callable[..., Any]
    bindings: tuple[Binding, ...] = ()
    parameter: str = ""
    annotation: object = inspect.Parameter.empty
    returns: object = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundScatter:
    """What decides which items the body of a scatter is called with.

    Attributes:
        select: Makes of an item what the body receives; None for the item itself.
        key: Gives what the body receives its identity; None for what the kind's `key` says.
        rate_key: Says what the rate of an item counts for; None if for all of them.
    """

    item: ItemBinding
    source: BoundSource
    select: ItemFunction | None = None
    key: ItemFunction | None = None
    rate_key: ItemFunction | None = None

    @property
    def bindings(self) -> tuple[Binding, ...]:
        """What the source takes, then `select`, then `key`, then the key of the rate."""
        functions = (each.bindings for each in (self.select, self.key, self.rate_key) if each is not None)
        return (*self.source.bindings, *(binding for bindings in functions for binding in bindings))
