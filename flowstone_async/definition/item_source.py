"""Where the items of a scatter come from, as it was written; what the names in it mean is resolved later."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias, TypeVar, runtime_checkable

from flowstone_async.definition.marker import Dependency
from flowstone_async.types import new_id

I_co = TypeVar("I_co", covariant=True)


class ItemPage(Protocol[I_co]):
    """Items that were read together."""

    @property
    def items(self) -> Sequence[I_co]:
        """The items."""
        ...


@runtime_checkable
class ItemReader(Protocol[I_co]):
    """What can be read page by page: a `Source`."""

    def read(self, cursor: Any, /) -> AsyncIterator[ItemPage[I_co]]:
        """Read pages, beginning behind `cursor`; at the start without one."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class FixedSource:
    """A collection that was given at definition. It is kept by reference and iterated once in every run.

    Attributes:
        mark: What no other definition shares; it stands for items that have no fingerprint.
    """

    items: Iterable[Any]
    mark: str = field(default_factory=new_id)


@dataclass(frozen=True, slots=True, eq=False)
class AssetSource:
    """The value of an asset, which is iterated: a collection or a stream."""

    dependency: Dependency


@dataclass(frozen=True, slots=True, eq=False)
class FunctionSource:
    """An async generator function whose parameters are injected."""

    function: Callable[..., AsyncIterable[Any]]


@dataclass(frozen=True, slots=True, eq=False)
class CustomSource:
    """An object that reads pages."""

    source: ItemReader[Any]


SourceSpec: TypeAlias = FixedSource | AssetSource | FunctionSource | CustomSource
