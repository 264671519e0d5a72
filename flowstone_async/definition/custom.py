"""Partition keys that a function of the user's lists."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar, cast, final, get_args, get_type_hints

from typing_extensions import override

from flowstone_async.definition.enumerated import EnumeratedKeys, chosen
from flowstone_async.definition.key_text import fits
from flowstone_async.definition.keys import PartitionKey, canonical_key, encode_key
from flowstone_async.definition.listed_keys import KnownKeys, ListedKeys
from flowstone_async.errors import ConfigError, PartitionError

K = TypeVar("K", bound=PartitionKey)


@final
class Custom(EnumeratedKeys[K]):
    """Keys that a function lists, from configuration for example; it is called when a question is asked, never before.

    A question about one key reads until it is found. A range holds the keys as they were when it was made.

    Args:
        fn: Returns the keys, each once, in an order that stays. Its return annotation says what type they have.
        name: Identity of the set in the store [module and name of `fn`].

    Example:
        >>> brands = Custom(lambda: load_settings().brands)

    Raises:
        ConfigError: `fn` is no plain function.
    """

    __slots__ = ("_fn", "_name")

    def __init__(self, fn: Callable[[], Iterable[K]], name: str | None = None) -> None:
        if not callable(fn) or inspect.iscoroutinefunction(fn) or inspect.isasyncgenfunction(fn):
            raise ConfigError(f"Custom({fn!r}) takes a plain function", hint="Write Custom(lambda: [...]).")
        self._fn = fn
        self._name = name or f"{getattr(fn, '__module__', '')}.{getattr(fn, '__qualname__', type(fn).__qualname__)}"

    @property
    @override
    def key_type(self) -> object:
        try:
            keys = get_args(get_type_hints(self._fn)["return"])
            fits(None, keys[0])
        except (AttributeError, ConfigError, IndexError, KeyError, NameError, TypeError):
            return Any
        return keys[0]

    @override
    def validate(self, key: object, known: KnownKeys | None = None) -> K:
        typed = self.typed(key)
        text = encode_key(typed)
        if all(encode_key(each) != text for each in self._enumerate()):
            raise self.unknown(typed, self.listed(known).keys)
        return typed

    @override
    def listed(self, known: KnownKeys | None = None) -> ListedKeys[K]:
        return ListedKeys(self._enumerate(), self.describe())

    @override
    def parse(self, text: str) -> K:
        return chosen(text, self._enumerate(), self.key_type)

    @override
    def describe(self) -> str:
        return f"the keys of {self._name}"

    @override
    def identity(self, owner: str | None = None) -> str:
        return f"custom:{self._name}"

    def _enumerate(self) -> Iterator[K]:
        keys: object = self._fn()
        if isinstance(keys, str) or not isinstance(keys, Iterable):
            raise ConfigError(f"{self._name} returned {keys!r}, which is no list of keys", hint="Return a list.")
        for key in cast("Iterable[object]", keys):
            try:
                plain = canonical_key(key)
            except PartitionError as error:
                raise PartitionError(f"{self._name} gave a wrong key: {error.message}", hint=error.hint) from error
            if plain is None:
                raise PartitionError(f"{self._name} gave None, which is no key")
            yield cast("K", plain)

    @override
    def __eq__(self, other: object) -> bool:
        return isinstance(other, Custom) and (other._fn, other._name) == (self._fn, self._name)

    @override
    def __hash__(self) -> int:
        return hash((self._fn, self._name))

    @override
    def __repr__(self) -> str:
        return f"Custom({getattr(self._fn, '__qualname__', repr(self._fn))})"
