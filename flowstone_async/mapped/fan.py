"""What a loop over `ctx.map` holds, and all that one body has going of such loops.

    body                    task of the engine, while the loop goes on
    └── Mapped              └── group
        async for  <─results──  ├── feeder   takes item after item, as there is room
                                └── a task for each call, `max_concurrent` at most

A `Fan` knows all that one body has going, and ends it with the body.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
from contextlib import suppress
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from flowstone_async.clock import Clock, Timer
from flowstone_async.durable import Durable
from flowstone_async.errors import ConfigError
from flowstone_async.failures import ENDINGS
from flowstone_async.mapped.work import Work

R = TypeVar("R")
MAX_CONCURRENT = 20


class Fan:
    """All calls that one body has going.

    Args:
        spawn: Starts a child task of the engine.
        clock: Where timers come from.
        grace: Seconds that calls have to end once they were cancelled.
        name: Of the body, for people.
    """

    __slots__ = ("_clock", "_grace", "_loop", "_name", "_spawn", "_works")

    def __init__(self, spawn: Callable[..., None], clock: Clock, grace: float, name: str) -> None:
        self._spawn, self._clock, self._grace, self._name = spawn, clock, grace, name
        self._loop = asyncio.get_running_loop()
        self._works: set[Work] | None = None

    def another(self) -> Fan:
        """Return one for another call of the body."""
        return Fan(self._spawn, self._clock, self._grace, self._name)

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        """Stay at home: a body in another process gets none."""
        return type(None), ()

    def map(
        self,
        fn: Callable[[Any], Awaitable[R]],
        items: Iterable[Any] | AsyncIterable[Any],
        *,
        max_concurrent: int | None,
        key: Callable[[Any], object] | None,
        durable: Durable,
    ) -> Mapped[R]:
        """Return what gives the results; see `Context.map`."""
        if not self._is_here():
            raise elsewhere()
        _check(fn, items, max_concurrent, key)
        return Mapped(Work(self, durable.mapped(fn, key), items, max_concurrent or MAX_CONCURRENT))

    def _is_here(self) -> bool:
        try:
            return asyncio.get_running_loop() is self._loop
        except RuntimeError:
            return False

    def tasks(self) -> tuple[asyncio.Future[Any], ...]:
        """Return the tasks of all that goes on."""
        return tuple(task for work in self._works or () for task in work.tasks)

    def begin(self, work: Work) -> None:
        """Start what a loop has asked for."""
        self._works = self._works or set()
        self._works.add(work)
        self._spawn(work.run, name=f"{self._name} map")

    def ended(self, work: Work) -> None:
        """Forget what has ended."""
        if self._works is not None:
            self._works.discard(work)

    def later(self, callback: Callable[[], None]) -> Timer:
        """Call something when calls have had the time to end."""
        return self._clock.call_later(self._grace, callback)

    def soon(self, callback: Callable[[], None]) -> None:
        """Call something in the loop of the body, now if this is it."""
        if self._is_here():
            callback()
            return
        with suppress(RuntimeError):  # a loop that is closed has nothing going
            self._loop.call_soon_threadsafe(callback)

    async def close(self) -> None:
        """Cancel what still goes on, and wait until it has ended."""
        works = list(self._works or ())
        for work in works:
            work.cancel()
        for work in works:
            await work.done.wait()
            if isinstance(work.error, ENDINGS):
                raise work.error


class Mapped(AsyncIterator[R], Generic[R]):
    """Results of a function that is called for many items, in the order in which the calls end.

    Leaving the loop cancels the calls that still run; they are awaited before the body ends, or where
    `async with ctx.map(...) as results:` ends.
    """

    __slots__ = ("_work",)

    def __init__(self, work: Work) -> None:
        self._work = work

    def __aiter__(self) -> Self:
        """Iterate over the results, once."""
        return self

    async def __anext__(self) -> R:
        """Return the next result."""
        return await self._work.next()

    async def aclose(self) -> None:
        """Cancel the calls that still run, and wait until they have ended."""
        await self._work.end()

    async def __aenter__(self) -> Self:
        """Give the results."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Do as `aclose`."""
        await self.aclose()

    def __del__(self) -> None:
        """Cancel what nobody waits for any more; its body awaits it."""
        work = getattr(self, "_work", None)
        if work is not None:
            work.abandon()


def elsewhere() -> ConfigError:
    """`ctx.map` was used where no event loop of the engine runs."""
    return ConfigError(
        "ctx.map makes its calls on the event loop of the engine, and this is another",
        hint="Use it in an `async def` body.",
    )


def _check(fn: object, items: object, most: object, key: object) -> None:
    """Refuse what cannot be mapped.

    Raises:
        ConfigError: Naming it, and what may be given.
    """
    if inspect.isgeneratorfunction(fn) or inspect.isasyncgenfunction(fn) or not callable(fn):
        raise not_async(fn)
    if not isinstance(items, Iterable | AsyncIterable):
        raise ConfigError(f"ctx.map: {type(items).__name__} has no items", hint="Give something to iterate over.")
    if most is not None and (isinstance(most, bool) or not isinstance(most, int) or most < 1):
        raise ConfigError(f"ctx.map: max_concurrent={most!r}", hint="Give a whole number of 1 or more.")
    if key is not None and not callable(key):
        raise ConfigError(f"ctx.map: key={key!r}", hint="Give a function of an item.")


def not_async(fn: object) -> ConfigError:
    """`ctx.map` was given a function that cannot be awaited."""
    name = getattr(fn, "__name__", repr(fn))
    return ConfigError(
        f"ctx.map: {name} gives nothing to await", hint="Give an async function of an item, which returns its result."
    )
