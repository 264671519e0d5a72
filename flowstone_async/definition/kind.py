"""Kinds of assets: one frozen class each. The engine matches on them in one place and ends in `assert_never`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator
from dataclasses import dataclass
from typing import TypeAlias, get_args, get_origin

from flowstone_async.definition.assignable import Annotation, bare
from flowstone_async.definition.stream import Stream


@dataclass(frozen=True, slots=True)
class PlainKind:
    """One call of the body gives the value."""

    label = "asset"

    def value_type(self, returns: object) -> object:
        """Return the type of what is stored, from the body's return annotation; None where nothing is known."""
        return returns

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
    """A fixed value, given at definition."""

    value: object

    label = "constant"

    def value_type(self, returns: object) -> object:
        """Return the type of the value."""
        del returns
        return type(self.value)

    def read_type(self, value_type: object) -> object:
        """Return the same type."""
        return value_type


Kind: TypeAlias = PlainKind | StreamKind | ConstantKind


def item_type(annotation: object) -> object:
    """Return what an async generator annotated so yields, or None if the annotation does not say."""
    plain = bare(annotation)
    if get_origin(plain) not in (AsyncIterator, AsyncGenerator, AsyncIterable):
        return None
    return get_args(plain)[0]
