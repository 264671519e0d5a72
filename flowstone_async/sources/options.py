"""Options that are functions of dependencies: found at any depth, called once, their values kept for a restart."""

from __future__ import annotations

import copy
import functools
import inspect
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any, ClassVar, Literal, Self, TypeAlias, TypeVar, cast

from typing_extensions import override

from flowstone_async.errors import ConfigError
from flowstone_async.retry import Duration, Retry
from flowstone_async.sources.plain import pack, unpack
from flowstone_async.sources.source import READ_RETRY, READ_TIMEOUT, Source

T_co = TypeVar("T_co", covariant=True)
R = TypeVar("R")

Computed: TypeAlias = R | Callable[..., R | Awaitable[R]]
"""A value, or a function of dependencies, by name, that returns it."""

Check: TypeAlias = Callable[[object], str | None]
"""Returns what is to be given instead of a value, or None if the value is fine."""


class Configured(Source[T_co]):
    """A source whose options may be functions of dependencies.

    Args:
        options: Option -> value or function, or mappings and lists that hold such, at any depth.
    """

    live: ClassVar[frozenset[str]] = frozenset()
    """Options whose values cannot be stored: their functions are called after a restart too."""
    checks: ClassVar[Mapping[str, Check]] = {}

    def __init__(
        self,
        options: Mapping[str, object],
        *,
        read_retry: Retry | Literal[False] = READ_RETRY,
        read_timeout: Duration | Literal[False] = READ_TIMEOUT,
    ) -> None:
        self._options = dict(options)
        self.read_retry = read_retry
        self.read_timeout = read_timeout
        self._settle()

    def _settle(self) -> None:
        """Set what other code looks at, as far as it is known before functions are called."""
        limit = self._options.get("max_items", False)
        if not is_function(limit):
            self.max_items = cast("Any", limit)

    def option(self, name: str) -> Any:
        """Return the value of an option.

        Raises:
            ConfigError: It is or holds a function that was not called yet.
        """
        value = self._options[name]
        if any(_functions(name, value)):
            raise ConfigError(f"{self.label}: {name}= is a function", hint="Read the source that resolved() returns.")
        return value

    @override
    def functions(self) -> tuple[Callable[..., object], ...]:
        return tuple(function for _, function in self._found())

    @override
    def parameters(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for function in self.functions() for name in parameters_of(function)))

    def _found(self) -> Iterator[tuple[str, Callable[..., object]]]:
        for name, value in self._options.items():
            yield from _functions(name, value)

    @override
    def problems(self) -> Iterator[str]:
        for name, check in self.checks.items():
            value = self._options[name]
            wanted = None if any(_functions(name, value)) else check(value)
            if wanted is not None:
                yield f"{name}={value!r}: {wanted}"
        yield from super().problems()

    @override
    async def resolved(self, arguments: Mapping[str, object], recorded: object = None) -> tuple[Self, object]:
        known = cast("Mapping[str, object]", recorded or {})
        values: dict[str, object] = {}
        record: dict[str, object] = {}
        for path, function in self._found():
            if path in known:
                values[path], record[path] = unpack(known[path]), known[path]
                continue
            values[path] = value = await call(function, arguments)
            if path.partition("[")[0] not in self.live:
                record[path] = pack(value, what=f"{self.label}: what the function of {path} returned")
        made = copy.copy(self)
        made._options = {name: _filled(name, value, values) for name, value in self._options.items()}  # noqa: SLF001 - of its own kind
        made._settle()  # noqa: SLF001 - likewise
        return made, record


def is_function(value: object) -> bool:
    """Tell whether a value is a function, and no class or other object that can be called."""
    return inspect.isroutine(value) or isinstance(value, functools.partial)


def parameters_of(function: Callable[..., object]) -> tuple[str, ...]:
    """Return the names of what a function takes by name."""
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return tuple(name for name, each in _signature(function).parameters.items() if each.kind not in variadic)


async def call(function: Callable[..., object], arguments: Mapping[str, object]) -> object:
    """Call a function with what it takes of `arguments`, and await it if it is async."""
    value = bound(function, arguments)()
    return await value if inspect.isawaitable(value) else value


def bound(function: Callable[..., R], arguments: Mapping[str, object]) -> Callable[[], R]:
    """Return a function that is called with what it takes of `arguments`."""
    taken = _signature(function).parameters
    alone = [name for name, each in taken.items() if each.kind is inspect.Parameter.POSITIONAL_ONLY]
    named = {name: arguments[name] for name in parameters_of(function) if name in arguments and name not in alone}
    return functools.partial(function, *(arguments[name] for name in alone if name in arguments), **named)


def _signature(function: Callable[..., object]) -> inspect.Signature:
    """Return the parameters of a function, whatever its annotations name; none where nothing is known of them."""
    try:
        if sys.version_info >= (3, 14):  # where looking at a signature reads the annotations
            import annotationlib

            return inspect.signature(function, annotation_format=annotationlib.Format.FORWARDREF)
        return inspect.signature(function)
    except ValueError:  # some functions written in C
        return inspect.Signature()


def _functions(path: str, value: object) -> Iterator[tuple[str, Callable[..., object]]]:
    for place, each in _parts(path, value):
        yield from _functions(place, each)
    if is_function(value):
        yield path, cast("Callable[..., object]", value)


def _parts(path: str, value: object) -> list[tuple[str, object]]:
    if isinstance(value, Mapping):
        entries = cast("Mapping[object, object]", value).items()
    elif isinstance(value, list | tuple):
        entries = enumerate(cast("list[object]", value))
    else:
        return []
    return [(f"{path}[{key!r}]", each) for key, each in entries]


def _filled(path: str, value: object, values: Mapping[str, object]) -> object:
    if path in values:
        return values[path]
    parts = [_filled(place, each, values) for place, each in _parts(path, value)]
    if isinstance(value, Mapping):
        return dict(zip(cast("Mapping[object, object]", value), parts, strict=True))
    if isinstance(value, list):
        return parts
    return tuple(parts) if type(value) is tuple else value
