"""Kinds of assets: one frozen class each. The engine matches on them in one place and ends in `assert_never`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Collection
from dataclasses import dataclass, field
from types import GenericAlias
from typing import TypeAlias, cast, get_args, get_origin

from flowstone_async.definition.assignable import Annotation, bare
from flowstone_async.definition.returned_gate import ReturnedGate, requests_in, without_gates
from flowstone_async.definition.scatter import ScatterKind
from flowstone_async.definition.stream import Stream
from flowstone_async.types import new_id


@dataclass(frozen=True, slots=True)
class PlainKind:
    """One call of the body gives the value, or a gate that is waited at for it.

    Attributes:
        gate: Which gate for signals; None if it must be the value, or a request for its approval.
    """

    gate: ReturnedGate | None = None

    label = "asset"

    def value_type(self, returns: object) -> object:
        """Return the type of what is stored, from the body's return annotation; None where nothing is known."""
        return without_gates(returns) if self.gate is not None or requests_in(returns) else returns

    def read_type(self, value_type: object) -> object:
        """Return the type of what dependants and callers receive."""
        return value_type


@dataclass(frozen=True, slots=True)
class StreamKind:
    """The body is an async generator; its items are written in chunks as they come."""

    label = "stream"

    def value_type(self, returns: object) -> object:
        """Return the type of one item."""
        return item_type(returns)

    def read_type(self, value_type: Annotation) -> object:
        """Return the stream of such items."""
        return None if value_type is None else Stream[value_type]


@dataclass(frozen=True, slots=True)
class ConstantKind:
    """A fixed value, given at definition.

    Attributes:
        mark: What no other definition of a constant shares; it stands for a value that has no fingerprint.
    """

    value: object
    mark: str = field(default_factory=new_id, compare=False)

    label = "constant"

    def value_type(self, returns: object) -> object:
        """Return the type of the value."""
        del returns
        return type_of(self.value)

    def read_type(self, value_type: object) -> object:
        """Return the same type."""
        return value_type


Kind: TypeAlias = PlainKind | StreamKind | ConstantKind | ScatterKind


def item_type(annotation: object) -> object:
    """Return what an async generator annotated so yields, or None if the annotation does not say."""
    plain = bare(annotation)
    if get_origin(plain) not in (AsyncIterator, AsyncGenerator, AsyncIterable):
        return None
    return get_args(plain)[0]


def is_async_iterable(annotation: object) -> bool:
    """Tell whether an annotation says that items are given one after another: what only a stream can be."""
    plain = bare(annotation)
    return (get_origin(plain) or plain) in (AsyncIterator, AsyncGenerator, AsyncIterable, Stream)


def type_of(value: object, depth: int = 0) -> Annotation:
    """Return the type of a value as an annotation would say it: `list[int]` rather than `list`.

    Where the elements of a collection are of several types, or it is nested very deeply, the bare type is returned.
    """
    kind = type(value)
    if kind is tuple and depth < _DEEP:
        return tuple[tuple(type_of(each, depth + 1) for each in cast("tuple[object, ...]", value))]
    sides: list[Collection[object]] = []
    if kind in (list, set, frozenset):
        sides = [cast("Collection[object]", value)]
    elif kind is dict:
        known = cast("dict[object, object]", value)
        sides = [known.keys(), known.values()]
    types = [list({type_of(each, depth + 1): None for each in side}) for side in sides] if depth < _DEEP else []
    return GenericAlias(kind, tuple(each[0] for each in types)) if types and all(len(t) == 1 for t in types) else kind


_DEEP = 20
