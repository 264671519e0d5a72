"""Relations between the keys of an asset and of an upstream: what `dep(x, over=...)` takes, and which are legal."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from typing_extensions import override

from flowstone_async.definition.key_range import Indexes, KeyRange
from flowstone_async.definition.key_set import KeySet, locate
from flowstone_async.definition.keys import canonical_key
from flowstone_async.definition.listed_keys import KnownKeys, ListedKeys
from flowstone_async.errors import ConfigError, PartitionError

_BRIEF = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class Dependant:
    """The asset and partition that an upstream is needed for.

    Attributes:
        key_set: Its declared set, or None if it follows the run's key.
        key: A valid key of that set, or the run's.
        now: The instant that open sets end at.
        known: Keys of the dynamic sets among the upstream's dimensions.
    """

    key_set: KeySet[object] | None
    key: object
    now: datetime
    known: KnownKeys | None = None

    def element(self, dimension: KeySet[object]) -> object:
        """Return its key's element of a dimension that it shares, or of one in step with it."""
        if self.key_set is None:
            return self.key
        place = locate(dimension, self.key_set)
        if place is None:
            steps = (at for at, each in enumerate(self.key_set.dimensions) if each.in_step_with(dimension))
            place = next(steps, 0)
        return self.key_set.parts(self.key)[place]


class KeyMapping(ABC):
    """Which keys of an upstream a key of its dependant needs: what `dep(x, over=...)` takes."""

    __slots__ = ()

    @abstractmethod
    def refusal(self, downstream: KeySet[object] | None, upstream: KeySet[object] | None) -> str | None:
        """Return why it cannot relate two assets, with the way out, or None if it can.

        Args:
            downstream: The dependant's set, or None if it follows the run's key.
            upstream: The upstream's set, or None likewise.
        """

    @abstractmethod
    def upstream_keys(self, dependant: Dependant, upstream: KeySet[object] | None) -> KeyRange[object]:
        """Return the upstream's keys in order, without those before the start of its set.

        Args:
            dependant: What they are needed for.
            upstream: The upstream's set, for which there was no refusal.

        Raises:
            PartitionError: A function of the user's gives something that is no key of the upstream.
        """


def mapping(fn: Callable[[Any], Iterable[object]]) -> KeyMapping:
    """Relate a key to the keys that a function gives, in its order: `over=mapping(lambda day: [day - WEEK, day])`.

    Keys before the start of the upstream's set are left out, and repeated ones count once.

    Args:
        fn: Takes the dependant's key (None without one) and returns keys of the upstream.

    Raises:
        ConfigError: `fn` is no plain function.
    """
    if not callable(fn) or inspect.iscoroutinefunction(fn) or inspect.isasyncgenfunction(fn):
        raise ConfigError(f"mapping({fn!r}) takes a plain function", hint="Write mapping(lambda key: [...]).")
    return FunctionMapping(fn)


def last_keys(key_set: KeySet[object], n: int) -> KeyMapping:
    """Return what `key_set.last(n)` is.

    Raises:
        ConfigError: `n` is no whole number from 1, or the set is a product.
    """
    if type(n) is not int or n < 1:
        raise ConfigError(f"last({n!r}) takes a whole number from 1", hint="The key itself is the last one.")
    if key_set.dimensions != (key_set,):
        raise ConfigError(
            f"{key_set.describe()} has no single order to count back in",
            hint="Say along which dimension: over=days.last(7). The other dimensions stay as they are.",
        )
    return LastKeys(key_set, n)


def all_keys(key_set: KeySet[object]) -> KeyMapping:
    """Return what `key_set.all()` is."""
    return AllKeys(key_set)


def shared_dimensions(product: KeySet[object], dimensions: tuple[KeySet[object], ...]) -> KeyMapping:
    """Return what `product.dimension(...)` is.

    Raises:
        ConfigError: One of them is no dimension of the product, or none is named.
    """
    if not dimensions:
        raise ConfigError(f"{product!r}.dimension() names no dimension", hint="For all keys use over=....all().")
    for dimension in dimensions:
        if not isinstance(dimension, KeySet) or locate(dimension, product) is None:
            raise ConfigError(
                f"{dimension!r} is no dimension of {product!r}",
                hint=f"Its dimensions are {', '.join(each.describe() for each in product.dimensions)}.",
            )
    return SharedDimensions(product, dimensions)


@dataclass(frozen=True, slots=True)
class _OneSetMapping(KeyMapping, ABC):
    """Gives keys of one set, which is the upstream's or a dimension of it; the other dimensions are shared."""

    key_set: KeySet[object]

    @abstractmethod
    def own_keys(self, dependant: Dependant) -> KeyRange[object]:
        """Return the keys of the one set."""

    @override
    def refusal(self, downstream: KeySet[object] | None, upstream: KeySet[object] | None) -> str | None:
        own = self.key_set
        if upstream is None:
            return f"over={self!r} gives keys of {own.describe()}, but the upstream follows the run's key."
        if upstream == own:
            return None
        if locate(own, upstream) is None:
            return f"over={self!r} gives keys of {own.describe()}, but the upstream has {upstream.describe()}."
        shared = () if downstream is None else downstream.dimensions
        alone = next((each for each in upstream.dimensions if each != own and each not in shared), None)
        if alone is None:
            return None
        return (
            f"over={self!r} leaves {alone.describe()} open, a dimension that only the upstream has. "
            "Use over=mapping(fn), whose function returns whole keys."
        )

    @override
    def upstream_keys(self, dependant: Dependant, upstream: KeySet[object] | None) -> KeyRange[object]:
        own = self.own_keys(dependant)
        if upstream is None or upstream == self.key_set:
            return own
        mapped = locate(self.key_set, upstream)
        shared = [
            own if place == mapped else dimension.only(dependant.element(dimension), dependant.known)
            for place, dimension in enumerate(upstream.dimensions)
        ]
        return upstream.assemble(shared)


@dataclass(frozen=True, slots=True, repr=False)
class LastKeys(_OneSetMapping):
    """The last `n` keys of a set, ending with the dependant's own."""

    n: int

    @override
    def refusal(self, downstream: KeySet[object] | None, upstream: KeySet[object] | None) -> str | None:
        steps = () if downstream is None else downstream.dimensions
        if not any(each.in_step_with(self.key_set) for each in steps):
            what = "follows the run's key" if downstream is None else f"has {downstream.describe()}"
            return (
                f"over={self!r} counts back from the dependant's own key, but the dependant {what}. "
                "Use over=mapping(fn)."
            )
        return _OneSetMapping.refusal(self, downstream, upstream)

    @override
    def own_keys(self, dependant: Dependant) -> KeyRange[object]:
        space = self.key_set.space(dependant.known)
        stop = self.key_set.position(dependant.element(self.key_set), dependant.known) + 1
        first = max(0, stop - self.n)
        stop = stop if space.extent is None else min(stop, space.extent)
        return KeyRange(space, Indexes(first, max(first, stop)))

    @override
    def __repr__(self) -> str:
        return f"{_brief(self.key_set)}.last({self.n})"


@dataclass(frozen=True, slots=True, repr=False)
class AllKeys(_OneSetMapping):
    """All keys of a set, up to the last window that has closed."""

    @override
    def own_keys(self, dependant: Dependant) -> KeyRange[object]:
        return self.key_set.keys(dependant.now, dependant.known)

    @override
    def __repr__(self) -> str:
        return f"{_brief(self.key_set)}.all()"


@dataclass(frozen=True, slots=True, repr=False)
class SharedDimensions(KeyMapping):
    """The upstream's keys that agree with the dependant's in some dimensions, whatever they are in the others."""

    product: KeySet[object]
    shared: tuple[KeySet[object], ...]

    @override
    def refusal(self, downstream: KeySet[object] | None, upstream: KeySet[object] | None) -> str | None:
        for who, key_set in (("dependant", downstream), ("upstream", upstream)):
            for dimension in self.shared:
                if key_set is None:
                    return f"over={self!r} compares keys, but the {who} follows the run's key."
                if locate(dimension, key_set) is None:
                    return f"over={self!r} compares {dimension.describe()}, but the {who} has {key_set.describe()}."
        return None

    @override
    def upstream_keys(self, dependant: Dependant, upstream: KeySet[object] | None) -> KeyRange[object]:
        assert upstream is not None  # noqa: S101 - its refusal
        ranges = [
            dimension.only(dependant.element(dimension), dependant.known)
            if dimension in self.shared
            else dimension.keys(dependant.now, dependant.known)
            for dimension in upstream.dimensions
        ]
        return upstream.assemble(ranges)

    @override
    def __repr__(self) -> str:
        return f"{_brief(self.product)}.dimension({', '.join(map(_brief, self.shared))})"


@dataclass(frozen=True, slots=True, repr=False)
class FunctionMapping(KeyMapping):
    """The keys that a function of the user's gives."""

    fn: Callable[[Any], Iterable[object]]

    @override
    def refusal(self, downstream: KeySet[object] | None, upstream: KeySet[object] | None) -> str | None:
        return None

    @override
    def upstream_keys(self, dependant: Dependant, upstream: KeySet[object] | None) -> KeyRange[object]:
        keys = ListedKeys(self._judged(dependant, upstream), repr(self))
        return KeyRange(keys, Indexes(keys.extent))

    def _judged(self, dependant: Dependant, upstream: KeySet[object] | None) -> Iterator[object]:
        given: object = self.fn(dependant.key)
        if isinstance(given, str | tuple | set | frozenset) or not isinstance(given, Iterable):
            raise PartitionError(
                f"{self!r} returned {given!r}, which is no list of keys",
                hint="Return a list: in the order wanted, and also for one key.",
            )
        for key in given:
            try:
                if upstream is None:
                    yield canonical_key(key)
                elif not upstream.precedes(key):
                    yield upstream.validate(key, dependant.known)
            except PartitionError as error:
                raise PartitionError(f"{self!r} gave a wrong key: {error.message}", hint=error.hint) from error

    @override
    def __repr__(self) -> str:
        return f"mapping({getattr(self.fn, '__qualname__', repr(self.fn))})"


def match(
    downstream: KeySet[object] | None, upstream: KeySet[object] | None, over: KeyMapping | None = None
) -> str | None:
    """Return why two assets cannot depend on each other (`FS130`), with the way out, or None if they can.

    Args:
        downstream: The dependant's set, or None if it follows the run's key.
        upstream: The upstream's set, or None likewise.
        over: The mapping given with the edge.
    """
    if over is not None:
        if not isinstance(over, KeyMapping):
            return f"over={over!r} is no mapping of keys. Use .last(n) or .all() of a set, or mapping(fn)."
        if upstream is not None and not upstream.dimensions:
            return "the upstream has one value and no keys that over= could choose. Leave over= out."
        return over.refusal(downstream, upstream)
    if upstream is None or not upstream.dimensions or upstream == downstream:
        return None
    what = "follows the run's key" if downstream is None else f"has {downstream.describe()}"
    return (
        f"the dependant {what}, but the upstream has {upstream.describe()}, and no over= says how they go together. "
        f"{_remedy(downstream, upstream)}"
    )


def _remedy(downstream: KeySet[object] | None, upstream: KeySet[object]) -> str:
    if downstream is not None:
        shared = next((each for each in upstream.dimensions if locate(each, downstream) is not None), None)
        if shared is not None:
            product = downstream if len(downstream.dimensions) > 1 else upstream
            return f"Use over={SharedDimensions(product, (shared,))!r}."
        if downstream.in_step_with(upstream):
            return "Give both the same set, or use over=mapping(lambda key: [key])."
    return f"Use over={AllKeys(upstream)!r} or over=mapping(fn)."


def _brief(key_set: KeySet[object]) -> str:
    text = repr(key_set)
    if len(text) > _BRIEF:
        return f"<{key_set.describe()}>"
    return text if len(key_set.dimensions) <= 1 else f"({text})"
