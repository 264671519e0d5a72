"""Which durable call is which: names by scope, never by a number over all calls of a body."""

from __future__ import annotations

from collections import Counter
from contextvars import ContextVar
from typing import NamedTuple

from flowstone_async.errors import ConfigError


class Place(NamedTuple):
    """Where a durable call stands in its body.

    Attributes:
        key: `path/name#n`, or `path/name[key]`.
        path: Of its scope; empty for the body.
        number: Among the calls of the scope.
    """

    key: str
    path: str
    number: int


class Scope:
    """What gives durable calls their keys: the body itself, or a step that makes durable calls of its own.

    Args:
        path: Key of the step, or of the group; empty for the body.
    """

    __slots__ = ("_calls", "_keys", "_names", "path")

    def __init__(self, path: str = "") -> None:
        self.path = path
        self._names, self._keys, self._calls = Counter[str](), set[str](), 0

    def next(self, name: str) -> Place:
        """Return the place that `take` would give; nothing is taken."""
        text = f"{name}#{self._names[name]}"
        return Place(f"{self.path}/{text}" if self.path else text, self.path, self._calls)

    def take(self, name: str, key: str | int | None = None) -> Place:
        """Return the place of the next call, of a function with this name.

        Raises:
            ConfigError: The same key was given before.
        """
        if key is None:
            text = f"{name}#{self._names[name]}"
            self._names[name] += 1
        else:
            text = f"{name}[{key!r}]"
            if text in self._keys:
                raise ConfigError(
                    f"two steps {name!r} have the key {key!r}",
                    hint="Each key may be used once in a body, or in a child of a group: add what tells them apart.",
                )
            self._keys.add(text)
        place = Place(f"{self.path}/{text}" if self.path else text, self.path, self._calls)
        self._calls += 1
        return place


class Entered(NamedTuple):
    """The scope that code runs in, and the body it is of: what a body calls may have a body of its own."""

    body: object
    scope: Scope


ENTERED: ContextVar[Entered | None] = ContextVar("flowstone_durable_scope", default=None)
