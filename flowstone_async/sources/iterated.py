"""Anything that can be iterated as a source: values, streams, and the generators that functions return."""

from __future__ import annotations

import asyncio
import copy
import inspect
import time
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sized
from typing import Any, Protocol, Self, TypeVar, cast

from typing_extensions import override

from flowstone_async.errors import ConfigError, SourceError
from flowstone_async.sources.options import bound, parameters_of
from flowstone_async.sources.source import Page, Source

T_co = TypeVar("T_co", covariant=True)

SLICE = 0.005
"""Seconds for which items are taken before the event loop gets its turn."""


class Taker(Protocol):
    """Takes single items."""

    def add(self, item: Any) -> bool:
        """Take an item; true if `room` is to be awaited before the next one."""
        ...

    async def room(self) -> bool:
        """Return when more is wanted; false if nothing more is."""
        ...


class Iterated(Source[T_co]):
    """The items of an iterable or async iterable, read from its start each time.

    An iterator, which can be read only once, is neither read again after an error nor by a second run.

    Args:
        items: What to iterate.
        label: What it is called in messages; by default its type.

    Attributes:
        read_timeout: False: nobody knows how long the next item may take.
    """

    read_timeout = False
    resumable = False

    def __init__(self, items: Iterable[T_co] | AsyncIterable[T_co], *, label: str | None = None) -> None:
        self._items = items
        self._label = label or type(items).__name__
        self._once = isinstance(items, Iterator | AsyncIterator)
        self._used = False
        if self._once:
            self.read_retry = False

    @property
    @override
    def label(self) -> str:
        return self._label

    @override
    async def count(self) -> int | None:
        return len(self._items) if isinstance(self._items, Sized) else None

    @override
    def problems(self) -> Iterator[str]:
        if not isinstance(self._items, Iterable | AsyncIterable):
            yield f"{self._label} is a {type(self._items).__name__}, which cannot be iterated"
        yield from super().problems()

    @override
    async def read(self, cursor: object) -> AsyncIterator[Page[T_co]]:
        """Not used: items are handed over one by one."""
        raise NotImplementedError
        yield Page(())

    async def feed(self, taker: Taker) -> None:
        """Hand all items over, pausing where they are not wanted yet.

        Raises:
            SourceError: They can be read only once, and were.
        """
        items = await self._opened()
        if isinstance(items, AsyncIterable):
            await _feed_async(aiter(cast("AsyncIterable[object]", items)), taker)
        else:
            await _feed(iter(cast("Iterable[object]", items)), taker)

    async def _opened(self) -> object:
        if self._once and self._used:
            raise SourceError(
                f"{self._label} was read before, and can be read only once",
                hint="Give something that can be iterated again: a list, or a function that makes the iterator.",
                retryable=False,
            )
        self._used = True
        return self._items


class Generated(Iterated[T_co]):
    """The items that a generator function yields, async or not; it is called anew for each reading and retry.

    Args:
        function: The function; it may take dependencies, by name.
    """

    def __init__(
        self, function: Callable[..., AsyncIterable[T_co] | Iterable[T_co] | Awaitable[Iterable[T_co]]]
    ) -> None:
        super().__init__((), label=getattr(function, "__name__", type(function).__name__))
        self._function = self._call = function

    @override
    async def count(self) -> int | None:
        return None

    @override
    def functions(self) -> tuple[Callable[..., object], ...]:
        return (self._function,)

    @override
    def parameters(self) -> tuple[str, ...]:
        return parameters_of(self._function)

    @override
    async def resolved(self, arguments: Mapping[str, object], recorded: object = None) -> tuple[Self, object]:
        made = copy.copy(self)
        made._call = bound(self._function, arguments)  # noqa: SLF001 - of its own kind
        return made, None

    @override
    async def _opened(self) -> object:
        made: object = self._call()
        return refused_unless_iterable(await made if inspect.isawaitable(made) else made, label=self.label)


def iterated(value: object, *, label: str) -> Iterated[Any]:
    """Return a value as a source.

    Args:
        value: What to iterate.
        label: What it is called in messages.

    Raises:
        ConfigError: It cannot be iterated.
    """
    return Iterated(refused_unless_iterable(value, label=label), label=label)


def refused_unless_iterable(value: Any, *, label: str) -> Any:
    """Return `value`.

    Raises:
        ConfigError: It cannot be iterated.
    """
    if not isinstance(value, Iterable | AsyncIterable):
        kind = type(value).__name__
        raise ConfigError(f"{label} gave a {kind}, which cannot be iterated", hint="Give a list or another iterable.")
    return cast("Any", value)


async def _feed(items: Iterator[object], taker: Taker) -> None:
    until = time.monotonic() + SLICE
    try:
        for item in items:
            if taker.add(item):
                if not await taker.room():
                    return
                until = time.monotonic() + SLICE
            elif time.monotonic() >= until:
                await asyncio.sleep(0)
                until = time.monotonic() + SLICE
    finally:
        close = getattr(items, "close", None)  # a generator's
        if close is not None:
            close()


async def _feed_async(items: AsyncIterator[object], taker: Taker) -> None:
    until = time.monotonic() + SLICE
    try:
        async for item in items:
            if taker.add(item):
                if not await taker.room():
                    return
                until = time.monotonic() + SLICE
            elif time.monotonic() >= until:
                await asyncio.sleep(0)
                until = time.monotonic() + SLICE
    finally:
        close = getattr(items, "aclose", None)
        if close is not None:
            await close()
