"""Calling a function for many items inside a body, some at once: `async for result in ctx.map(fn, items)`.

    body                    task of the engine, while the loop goes on
    └── Mapped              └── group
        async for  <─results──  ├── feeder   takes item after item, as there is room
                                └── a task for each call, `max_concurrent` at most

A `Fan` knows all that one body has going, and ends it with the body. Each call is a task of its own, with a number and
a key of its own: what is to be recorded of it has its place in `_Work.call`.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
from contextlib import suppress
from types import TracebackType
from typing import Any, Generic, Self, TypeVar, cast

import anyio
from anyio.abc import TaskGroup

from flowstone_async.clock import Clock, Timer
from flowstone_async.errors import ConfigError
from flowstone_async.failures import ENDINGS

R = TypeVar("R")
MAX_CONCURRENT = 20
_logger = logging.getLogger("flowstone")


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
        self._works: set[_Work] | None = None

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
    ) -> Mapped[R]:
        """Return what gives the results; see `Context.map`."""
        if not self._is_here():
            raise elsewhere()
        _check(fn, items, max_concurrent, key)
        return Mapped(_Work(self, fn, items, max_concurrent or MAX_CONCURRENT, key))

    def _is_here(self) -> bool:
        try:
            return asyncio.get_running_loop() is self._loop
        except RuntimeError:
            return False

    def begin(self, work: _Work) -> None:
        """Start what a loop has asked for."""
        self._works = self._works or set()
        self._works.add(work)
        self._spawn(work.run, name=f"{self._name} map")

    def ended(self, work: _Work) -> None:
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

    def __init__(self, work: _Work) -> None:
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


class _Work:
    """What goes on for one loop.

    Attributes:
        error: What ended it early.
        done: Set when nothing of it runs any more.
    """

    def __init__(self, fan: Fan, fn: Callable[[Any], Awaitable[Any]], items: Any, most: int, key: Any) -> None:
        self._fan, self._fn, self._items, self._most, self._key = fan, fn, items, most, key
        self._results: deque[Any] = deque()
        self._running = 0
        self._keys: set[object] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._scope: anyio.CancelScope | None = None
        self._timer: Timer | None = None
        self._begun = self._ending = False
        self._told, self._room = asyncio.Event(), asyncio.Event()
        self.error: BaseException | None = None
        self.done = asyncio.Event()

    # -- the side of the loop -----------------------------------------------------------------------------------

    async def next(self) -> Any:
        if not self._begun and not self._ending:
            self._begun = True
            self._fan.begin(self)
        while not self._results:
            if self._ending or self.done.is_set():
                return await self._over()
            self._told.clear()
            try:
                await self._told.wait()
            except asyncio.CancelledError:
                await self.end()
                raise
        self._room.set()
        return self._results.popleft()

    async def _over(self) -> Any:
        """Wait for the last calls, and end the loop."""
        if self._begun:
            await self.done.wait()
        error, self.error = self.error, None
        raise error if error is not None else StopAsyncIteration

    async def end(self) -> None:
        """Cancel what runs, and wait for it."""
        self.cancel()
        self._results.clear()
        if self._begun:
            await self.done.wait()

    def abandon(self) -> None:
        """Cancel what runs, from wherever the loop was let go."""
        if self._begun and not self.done.is_set():
            self._fan.soon(self.cancel)

    def cancel(self) -> None:
        """Begin nothing more, and cancel what runs: once, so that it may end in good order; after a while, again."""
        if self._ending or self.done.is_set():
            return
        self._ending = True
        for task in list(self._tasks):
            task.cancel()
        self._told.set()
        if self._begun:
            self._timer = self._fan.later(self._cut_off)

    def _cut_off(self) -> None:
        if self._scope is not None:
            self._scope.cancel()

    # -- the side of the calls ----------------------------------------------------------------------------------

    async def run(self) -> None:
        """Make the calls."""
        try:
            async with anyio.create_task_group() as group:
                self._scope = group.cancel_scope
                group.start_soon(self._guarded, self._feed, group)
        except asyncio.CancelledError as error:  # of the engine: nobody takes what there is for all
            self.error = error
            raise
        finally:
            if self._timer is not None:
                self._timer.cancel()
            self._fan.ended(self)
            self.done.set()
            self._told.set()

    async def _guarded(self, part: Callable[..., Awaitable[None]], *args: Any) -> None:
        """Run a part to its end; the first error ends the others."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - there is always one here
        if self._ending:
            return
        self._tasks.add(task)
        try:
            await part(*args)
        except BaseException as error:  # user code may raise anything
            if self._ending:
                if not isinstance(error, asyncio.CancelledError):
                    _logger.warning("a call of ctx.map failed while it was cancelled", exc_info=error)
                if isinstance(error, ENDINGS):
                    self.error = error
            elif isinstance(error, asyncio.CancelledError) and task.cancelling():
                raise  # the engine is being left
            else:
                self.error = error
                self._tasks.discard(task)
                self.cancel()
        finally:
            self._tasks.discard(task)

    async def _feed(self, group: TaskGroup) -> None:
        number = 0
        items = self._each()
        try:
            while True:
                while self._running + len(self._results) >= 2 * self._most or self._running >= self._most:
                    self._room.clear()
                    await self._room.wait()
                try:
                    item = await anext(items)
                except StopAsyncIteration:
                    return
                key = self._identity(item)
                self._running += 1
                group.start_soon(self._guarded, self.call, number, key, item, name=f"map call {number}")
                number += 1
        finally:
            await items.aclose()

    async def _each(self) -> AsyncGenerator[Any]:
        items = self._items
        if not isinstance(items, AsyncIterable):
            for item in items:
                yield item
            return
        iterator = aiter(cast("AsyncIterable[Any]", items))
        try:
            async for item in iterator:
                yield item
        finally:
            close = getattr(iterator, "aclose", None)
            if close is not None:
                await close()

    def _identity(self, item: Any) -> object:
        """Return what identifies a call beside its number.

        Raises:
            ConfigError: Another call has the same key.
        """
        if self._key is None:
            return None
        key: object = self._key(item)
        if key in self._keys:
            raise ConfigError(f"ctx.map: two calls have the key {key!r}", hint="Give each item a key of its own.")
        self._keys.add(key)
        return key

    async def call(self, number: int, key: object, item: Any) -> None:
        """Make one call, whose identity in the body is its number, or its key."""
        del number, key
        try:
            made: object = self._fn(item)
            if not inspect.isawaitable(made):
                raise _not_async(self._fn)
            result = await made
            if not self._ending:
                self._results.append(result)
                self._told.set()
        finally:
            self._running -= 1
            self._room.set()


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
        raise _not_async(fn)
    if not isinstance(items, Iterable | AsyncIterable):
        raise ConfigError(f"ctx.map: {type(items).__name__} has no items", hint="Give something to iterate over.")
    if most is not None and (isinstance(most, bool) or not isinstance(most, int) or most < 1):
        raise ConfigError(f"ctx.map: max_concurrent={most!r}", hint="Give a whole number of 1 or more.")
    if key is not None and not callable(key):
        raise ConfigError(f"ctx.map: key={key!r}", hint="Give a function of an item.")


def _not_async(fn: object) -> ConfigError:
    name = getattr(fn, "__name__", repr(fn))
    return ConfigError(
        f"ctx.map: {name} gives nothing to await", hint="Give an async function of an item, which returns its result."
    )
