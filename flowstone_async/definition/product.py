"""Partition sets of several dimensions: `days * regions`, whose keys are flat tuples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from math import prod
from types import GenericAlias
from typing import TypeVar, TypeVarTuple, cast, overload

from typing_extensions import override

from flowstone_async.definition.key_range import Indexes, KeyRange, KeySpace
from flowstone_async.definition.key_set import KeySet, Membership, missing_key, wrong_type
from flowstone_async.definition.key_text import parse_key, type_text
from flowstone_async.definition.listed_keys import KnownKeys
from flowstone_async.definition.mapping import KeyMapping, shared_dimensions
from flowstone_async.definition.partition import KeyMarker, PartitionSet
from flowstone_async.errors import ConfigError, PartitionError

A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
D = TypeVar("D")
K_co = TypeVar("K_co", covariant=True)
T_co = TypeVar("T_co", bound=tuple[object, ...], covariant=True)
Ts = TypeVarTuple("Ts")


class Dimension(PartitionSet[K_co]):
    """A partition set that can be a dimension of a product."""

    __slots__ = ()

    @overload
    def __mul__(self, other: Product[tuple[*Ts]]) -> Product[tuple[K_co, *Ts]]: ...
    @overload
    def __mul__(self, other: Dimension[A]) -> Product[tuple[K_co, A]]: ...
    def __mul__(self, other: PartitionSet[object]) -> Product[tuple[object, ...]]:
        """Return the product, whose keys are tuples with one element of each."""
        return multiply(self, other)


class Product(PartitionSet[T_co]):
    """Every combination of keys of its dimensions; the last dimension varies fastest.

    Only the first dimension may be open for `index_of`, `key_at`, `next` and `previous`; ranges are free of that.

    Example:
        >>> grid = Daily("2025-01-01") * Keys("us", "eu")
        >>> grid.validate((date(2025, 1, 15), "eu"))
        (datetime.date(2025, 1, 15), 'eu')
    """

    __slots__ = ("_dimensions",)

    def __init__(self, dimensions: tuple[PartitionSet[object], ...]) -> None:
        self._dimensions = dimensions

    @overload
    def __mul__(self: Product[tuple[*Ts]], other: Dimension[A]) -> Product[tuple[*Ts, A]]: ...
    @overload
    def __mul__(self: Product[tuple[A, B]], other: Product[tuple[C, D]]) -> Product[tuple[A, B, C, D]]: ...
    @overload
    def __mul__(self, other: Product[tuple[object, ...]]) -> Product[tuple[object, ...]]: ...
    def __mul__(self, other: PartitionSet[object]) -> Product[tuple[object, ...]]:
        """Return the product with one more dimension, or with all those of another product."""
        return multiply(self, other)

    @overload
    def key(self) -> T_co: ...
    @overload
    def key(self, dimension: PartitionSet[A]) -> A: ...
    @override
    def key(self, dimension: PartitionSet[object] | None = None) -> object:
        """Return the default of a parameter that receives the key, or its element of one dimension.

        Example:
            >>> @pipe.asset(partitions=grid)
            ... async def regional(day: date = grid.key(days), key: tuple[date, str] = grid.key()) -> int: ...

        Raises:
            ConfigError: It is no dimension of this product.
        """
        if dimension is not None:
            shared_dimensions(self, (dimension,))
        return KeyMarker(self if dimension is None else dimension)

    def dimension(self, *dimensions: PartitionSet[object]) -> KeyMapping:
        """Relate keys that agree in a dimension, or in several: `dep(metrics, over=grid.dimension(days))`.

        An asset on `grid` then needs the one day of its own key; an asset on `days` that depends on one on `grid`
        needs all keys of the grid with its day.

        Raises:
            ConfigError: One of them is no dimension of this product, or none is named.
        """
        return shared_dimensions(self, dimensions)

    def range(
        self, first: tuple[object, ...] | str, last: tuple[object, ...] | str, known: KnownKeys | None = None
    ) -> KeyRange[T_co]:
        """Return the keys that lie between two in every dimension, both included.

        Example:
            >>> len(grid.range(("2025-01-01", "us"), ("2025-01-31", "eu")))
            62

        Raises:
            PartitionError: An element is outside its dimension, or one of the last is before that of the first.
        """
        return self.between(first, last, known)

    @property
    @override
    def dimensions(self) -> tuple[PartitionSet[object], ...]:
        return self._dimensions

    @property
    @override
    def key_type(self) -> object:
        return GenericAlias(tuple, tuple(dimension.key_type for dimension in self._dimensions))

    @property
    @override
    def dynamic_sets(self) -> tuple[KeySet[object], ...]:
        return tuple(each for dimension in self._dimensions for each in dimension.dynamic_sets)

    @property
    @override
    def finite(self) -> bool:
        return all(dimension.finite for dimension in self._dimensions)

    @override
    def describe(self) -> str:
        return " x ".join(dimension.describe() for dimension in self._dimensions)

    @override
    def identity(self, owner: str | None = None) -> str:
        return " * ".join(dimension.identity(owner) for dimension in self._dimensions)

    @override
    def validate(self, key: object, known: KnownKeys | None = None) -> T_co:
        parts = self._split(key)
        checked: list[object] = []
        for place, (dimension, part) in enumerate(zip(self._dimensions, parts, strict=True), start=1):
            try:
                checked.append(dimension.validate(part, known))
            except PartitionError as error:
                raise PartitionError(
                    f"element {place} of {key!r}: {error.message}",
                    partition=key,
                    details={**error.details, "dimension": place},
                    hint=error.hint,
                ) from error
        return cast("T_co", tuple(checked))

    @override
    def memberships(self, key: object) -> tuple[Membership, ...]:
        pairs = zip(self._dimensions, self._split(key), strict=True)
        return tuple(each for dimension, part in pairs for each in dimension.memberships(part))

    @override
    def parse(self, text: str) -> T_co:
        texts = text.split("|") if "|" in text else text.split(",")
        if len(texts) == len(self._dimensions) and not text.startswith("t:"):
            read = (dimension.parse(part) for dimension, part in zip(self._dimensions, texts, strict=True))
            return cast("T_co", tuple(read))
        return cast("T_co", parse_key(text, self.key_type))

    @override
    def space(self, known: KnownKeys | None = None) -> KeySpace[T_co]:
        return Box(tuple(dimension.space(known) for dimension in self._dimensions))

    @override
    def keys(self, now: datetime, known: KnownKeys | None = None) -> KeyRange[T_co]:
        return self.assemble([dimension.keys(now, known) for dimension in self._dimensions])

    @override
    def between(self, first: object, last: object, known: KnownKeys | None = None) -> KeyRange[T_co]:
        ends = [self.parse(end) if isinstance(end, str) else self._split(end) for end in (first, last)]
        pairs = zip(self._dimensions, *ends, strict=True)
        return self.assemble([dimension.between(low, high, known) for dimension, low, high in pairs])

    @override
    def precedes(self, key: object) -> bool:
        parts = _tuple_of(len(self._dimensions), key) or ()
        return any(dimension.precedes(part) for dimension, part in zip(self._dimensions, parts, strict=False))

    @override
    def parts(self, key: object) -> tuple[object, ...]:
        return cast("tuple[object, ...]", key)

    @override
    def assemble(self, ranges: Sequence[KeyRange[object]]) -> KeyRange[T_co]:
        box: Box[T_co] = Box(tuple(ranges))
        return KeyRange(box, Indexes(prod(each.count for each in ranges)))

    def _split(self, key: object) -> tuple[object, ...]:
        parts = _tuple_of(len(self._dimensions), key)
        if parts is not None:
            return parts
        hint = f"Pass partition=({', '.join(f'<{type_text(each.key_type)}>' for each in self._dimensions)})."
        raise missing_key(self, hint) if key is None else wrong_type(key, self, hint)

    @override
    def __eq__(self, other: object) -> bool:
        return isinstance(other, Product) and self._dimensions == cast("Product[tuple[object, ...]]", other)._dimensions

    @override
    def __hash__(self) -> int:
        return hash(("product", self._dimensions))

    @override
    def __repr__(self) -> str:
        return " * ".join(repr(dimension) for dimension in self._dimensions)


def multiply(left: PartitionSet[object], right: object) -> Product[tuple[object, ...]]:
    """Return the product of two sets, flat.

    Raises:
        ConfigError: One of them cannot be a dimension.
    """
    for side in (left, right):
        if not isinstance(side, Dimension | Product):
            raise ConfigError(
                f"{left!r} * {right!r}: {side!r} cannot be a dimension",
                hint="Multiply time windows, Keys, Dynamic and Custom sets.",
            )
    sides = (*left.dimensions, *cast("PartitionSet[object]", right).dimensions)
    return Product(cast("tuple[PartitionSet[object], ...]", sides))


@dataclass(frozen=True, slots=True)
class Box(KeySpace[T_co]):
    """Every combination of some keys of each dimension, in row-major order."""

    sides: tuple[KeySpace[object], ...]

    @property
    @override
    def extent(self) -> int | None:
        sizes = [side.extent for side in self.sides]
        return None if None in sizes else prod(cast("list[int]", sizes))

    @property
    @override
    def sorts_encoded(self) -> bool:
        return False

    @override
    def describe(self) -> str:
        return " x ".join(side.describe() for side in self.sides)

    @override
    def key_at(self, index: int) -> T_co:
        key: list[object] = []
        for side, size in zip(reversed(self.sides[1:]), reversed(self._inner_sizes()), strict=True):
            index, place = divmod(index, size) if size else (index, index)
            key.append(side.key_at(place))
        key.append(self.sides[0].key_at(index))
        return cast("T_co", tuple(reversed(key)))

    @override
    def index_of(self, key: object) -> int:
        parts = _tuple_of(len(self.sides), key)
        if parts is None:
            raise PartitionError(f"{key!r} is not a tuple of {len(self.sides)}", partition=key)
        index = self.sides[0].index_of(parts[0])
        for side, size, part in zip(self.sides[1:], self._inner_sizes(), parts[1:], strict=True):
            index = index * size + side.index_of(part)
        return index

    @override
    def iterate(self, indexes: Indexes) -> Iterator[T_co]:
        return (self.key_at(index) for index in indexes)

    def _inner_sizes(self) -> list[int]:
        sizes = [side.extent for side in self.sides[1:]]
        if None in sizes:
            raise ConfigError(
                f"{self.describe()} has no fixed order: a dimension behind the first is open",
                hint="Put the open dimension first, or take a range: .range(first, last), .keys(now).",
            )
        return cast("list[int]", sizes)


def _tuple_of(length: int, key: object) -> tuple[object, ...] | None:
    if type(key) is not tuple:
        return None
    parts = cast("tuple[object, ...]", key)
    return parts if len(parts) == length else None
