"""How a definition came into a pipeline: written there, or copied by `include`, through any number of pipelines."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class Inclusion:
    """The way by which a definition came into a pipeline; empty for one that was written there.

    Attributes:
        prefixes: What each including pipeline put before its names, the outermost first.
        path: The number of each including call, the outermost first: two copies have two paths.
    """

    prefixes: tuple[str, ...] = ()
    path: tuple[int, ...] = ()

    @cached_property
    def prefix(self) -> str:
        """What stands before its names, all in all."""
        return "".join(self.prefixes)

    def inside(self, prefix: str, number: int) -> Inclusion:
        """Return the way into one more pipeline around it."""
        return Inclusion((prefix, *self.prefixes), (number, *self.path))

    def outwards(self) -> Iterator[Inclusion]:
        """Yield itself, then each pipeline around it, the outermost last."""
        for depth in range(len(self.path), -1, -1):
            yield self if depth == len(self.path) else Inclusion(self.prefixes[:depth], self.path[:depth])

    def contains(self, other: Inclusion) -> bool:
        """Tell whether `other` came in by the same way, or by a way through here."""
        return other.path[: len(self.path)] == self.path


HERE = Inclusion()
