"""What a scatter takes beside the parameters of its body, once the rules of injection have decided."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from flowstone_async.definition.batching import Batching
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
    """A function of an item: `select`, `key`, the key of a rate, or one of a `Batching`.

    It takes the item by position, the rest by name.

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
class BoundBatching:
    """How items are put together for the body.

    Attributes:
        size: Measures an item; None for its encoded length.
        group: Gives an item its group; None for no groups.
        shared: Gives what all batches share, from dependencies alone; None where it is a value.
    """

    batching: Batching[Any]
    size: ItemFunction | None = None
    group: ItemFunction | None = None
    shared: ItemFunction | None = None

    def parts(self) -> Iterator[tuple[str, ItemFunction]]:
        """Yield its functions, each with what it is called."""
        named = (("size", self.size), ("group_by", self.group), ("shared", self.shared))
        return ((name, function) for name, function in named if function is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundScatter:
    """What decides which items the body of a scatter is called with.

    Attributes:
        select: Makes of an item what the body receives; None for the item itself.
        key: Gives what the body receives its identity; None for what the kind's `key` says.
        batch: How items are put together; None if the body receives them one by one.
        rate_key: Says what the rate of an item counts for; None if for all of them.
    """

    item: ItemBinding
    source: BoundSource
    select: ItemFunction | None = None
    key: ItemFunction | None = None
    batch: BoundBatching | None = None
    rate_key: ItemFunction | None = None

    def parts(self) -> Iterator[tuple[str, ItemFunction]]:
        """Yield its functions, each with what it is called."""
        named = (("select", self.select), ("key", self.key), ("rate key", self.rate_key))
        yield from ((name, function) for name, function in named if function is not None)
        if self.batch is not None:
            yield from self.batch.parts()

    @property
    def bindings(self) -> tuple[Binding, ...]:
        """What the source takes, then its functions."""
        return (*self.source.bindings, *(binding for _, function in self.parts() for binding in function.bindings))
