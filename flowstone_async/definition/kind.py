"""Kinds of assets: one frozen class each. The engine matches on them in one place and ends in `assert_never`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class PlainKind:
    """One call of the body gives the value."""

    label = "asset"


@dataclass(frozen=True, slots=True)
class StreamKind:
    """The body is an async generator; its items are written in chunks as they come."""

    label = "stream"


@dataclass(frozen=True, slots=True)
class ConstantKind:
    """A fixed value, given at definition."""

    value: object

    label = "constant"


Kind: TypeAlias = PlainKind | StreamKind | ConstantKind
