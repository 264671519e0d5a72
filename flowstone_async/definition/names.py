"""Names as they are seen from a place in a pipeline, included pipelines and their copies considered."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence

from typing import TypeVar

from flowstone_async.definition.asset import AssetDefinition
from flowstone_async.definition.assignable import assignable
from flowstone_async.definition.resource import ResourceDefinition


T = TypeVar("T")


def suggestion(name: str, known: Iterable[str]) -> str | None:
    """Return "Did you mean 'x'?" for the nearest known name, or None."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"Did you mean {close[0]!r}?" if close else None


class AssetNames:
    """The assets of one pipeline, found by name or by handle."""

    def __init__(self, definitions: Mapping[str, AssetDefinition]) -> None:
        self._all = definitions
        self._copies: dict[tuple[int, str], list[AssetDefinition]] = {}
        for definition in definitions.values():
            self._copies.setdefault((id(definition.home), definition.local_name), []).append(definition)

    def named(self, name: str, prefix: str) -> str | None:
        """Return the asset that `name` means to code written under `prefix`: its own pipeline's first."""
        own = prefix + name
        if own in self._all:
            return own
        return name if name in self._all else None

    def visible(self, prefix: str) -> list[str]:
        """Return the names that code written under `prefix` may use."""
        return [*self._all, *(name.removeprefix(prefix) for name in self._all if prefix and name.startswith(prefix))]

    def copies(self, wanted: AssetDefinition, instance: Sequence[int]) -> list[str]:
        """Return the copies of a definition that are nearest to `instance`: none, one, or several equally near."""
        found = self._copies.get((id(wanted.home), wanted.local_name), [])
        return [each.name for each in nearest([(each.instance, each) for each in found], instance)]


class ResourceNames:
    """The resources of one pipeline, found by name or by type."""

    def __init__(self, resources: Mapping[str, ResourceDefinition], types: Mapping[str, object]) -> None:
        self._all = resources
        self._types = types

    def names(self) -> tuple[str, ...]:
        """Return all names."""
        return tuple(self._all)

    def named(self, name: str, prefix: str) -> str | None:
        """Return the resource that `name` means to code written under `prefix`."""
        own = prefix + name
        if own in self._all:
            return own
        return name if name in self._all else None

    def typed(self, annotation: object, instance: Sequence[int]) -> list[str]:
        """Return the resources that provide exactly the annotated type, nearest copies only."""
        if not isinstance(annotation, type) or annotation is object:
            return []
        found = [(self._all[name].instance, name) for name, each in self._types.items() if _provides(each, annotation)]
        return nearest(found, instance)


def _provides(provided: object, wanted: type) -> bool:
    if provided is wanted:
        return True
    plain = (str, int, float, bool, bytes, list, dict, tuple, set)
    return wanted not in plain and isinstance(provided, type) and issubclass(provided, wanted) and assignable(provided, wanted)


def nearest(found: Sequence[tuple[Sequence[int], T]], instance: Sequence[int]) -> list[T]:
    """Return those whose instance shares the longest path with `instance`."""
    if not found:
        return []
    shared = [_shared(each, instance) for each, _ in found]
    best = max(shared)
    return [value for count, (_, value) in zip(shared, found, strict=True) if count == best]


def _shared(one: Sequence[int], other: Sequence[int]) -> int:
    count = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        count += 1
    return count
