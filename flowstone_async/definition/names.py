"""Names as they are seen from a place in a pipeline, included pipelines and their copies considered.

What an included pipeline defines comes first for its own code; only what it lacks is looked for in the pipelines
around it, one after another.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

from flowstone_async.definition.asset import AssetDefinition
from flowstone_async.definition.assignable import bare
from flowstone_async.definition.inclusion import Inclusion
from flowstone_async.definition.resource import ResourceDefinition

T = TypeVar("T")
_SUGGESTIONS = 200
"""Most did-you-means that are looked for in one validation: each compares with every name."""


def suggestion(name: str, known: Iterable[str]) -> str | None:
    """Return "Did you mean 'x'?" for the nearest known name, or None."""
    import difflib

    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"Did you mean {close[0]!r}?" if close else None


class AssetNames:
    """The assets of one pipeline, found by name or by handle."""

    def __init__(self, definitions: Mapping[str, AssetDefinition]) -> None:
        self._all = definitions
        self._copies: dict[tuple[int, str], list[AssetDefinition]] = {}
        for definition in definitions.values():
            self._copies.setdefault((id(definition.home), definition.local_name), []).append(definition)
        self._suggested: dict[tuple[str, str], str | None] = {}

    def at(self, name: str, place: Inclusion) -> str | None:
        """Return the asset that a pipeline itself means by `name`, included ones below it counted in."""
        full = place.prefix + name
        found = self._all.get(full)
        return full if found is not None and place.contains(found.inclusion) else None

    def named(self, name: str, place: Inclusion) -> str | None:
        """Return the asset that `name` means to code of a pipeline: its own first, then those around it."""
        return next((found for each in place.outwards() if (found := self.at(name, each)) is not None), None)

    def suggest(self, name: str, place: Inclusion) -> str | None:
        """Return a did-you-mean from the names that code of a pipeline may use."""
        known = (name, place.prefix)
        if known not in self._suggested and len(self._suggested) < _SUGGESTIONS:
            self._suggested[known] = suggestion(name, self._visible(place))
        return self._suggested.get(known)

    def _visible(self, place: Inclusion) -> Iterator[str]:
        yield from self._all
        if place.prefix:
            yield from (name.removeprefix(place.prefix) for name in self._all if name.startswith(place.prefix))

    def copies(self, wanted: AssetDefinition, place: Inclusion) -> list[str]:
        """Return the copies of a definition that are nearest to a place: none, one, or several equally near."""
        found = self._copies.get((id(wanted.home), wanted.local_name), [])
        return [each.name for each in nearest([(each.inclusion, each) for each in found], place)]


class ResourceNames:
    """The resources of one pipeline, found by name or by type."""

    def __init__(self, resources: Mapping[str, ResourceDefinition], types: Mapping[str, object]) -> None:
        self._all = resources
        self._types = types

    def names(self) -> tuple[str, ...]:
        """Return all names."""
        return tuple(self._all)

    def named(self, name: str, place: Inclusion) -> str | None:
        """Return the resource that `name` means to code of a pipeline: its own first, then those around it."""
        for each in place.outwards():
            found = self._all.get(each.prefix + name)
            if found is not None and each.contains(found.inclusion):
                return found.name
        return None

    def typed(self, annotation: object, place: Inclusion) -> list[str]:
        """Return the resources of a pipeline, or of those included below it, that provide the annotated type.

        One that was registered in the pipeline itself hides those below.
        """
        if not self._types:
            return []
        wanted = bare(annotation)
        having = [name for name, provided in self._types.items() if provided is not None and provided == wanted]
        found = [(way, name) for name in having if place.contains(way := self._all[name].inclusion)]
        return [name for way, name in found if way.path == place.path] or [name for _, name in found]

    def providing(self, annotation: object) -> str | None:
        """Return a resource that provides a subclass of the annotated type, for a hint."""
        if not isinstance(annotation, type) or annotation is object:
            return None
        types = ((name, each) for name, each in self._types.items() if isinstance(each, type))
        return next((name for name, each in types if _is_subclass(each, annotation)), None)


def _is_subclass(one: type, other: type) -> bool:
    try:
        return issubclass(one, other)
    except TypeError:  # a protocol that is not for run time
        return False


def nearest(found: Sequence[tuple[Inclusion, T]], place: Inclusion) -> list[T]:
    """Return what is of the place itself, else what was included there, else the same of each pipeline around it."""
    for each in place.outwards():
        own = [value for way, value in found if way.path == each.path]
        if own:
            return own
        below = [value for way, value in found if each.contains(way)]
        if below:
            return below
    return []
