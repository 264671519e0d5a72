"""The calls of one loop: items are taken as there is room, each call is a task, results wait for the loop.

A body that is called again meets calls that have a result on record: these come in the order in which they came before,
and ahead of all others. Where the next of them is that of an item further on, items are taken beyond what there is room
for, and held.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable
from contextvars import Context, copy_context
from typing import Any, Protocol, cast

import anyio
from anyio.abc import TaskGroup

from flowstone_async.clock import Timer
from flowstone_async.durable import MapCall, MapCalls
from flowstone_async.failures import ENDINGS

_AHEAD = 100
"""Most items that are held beside as many as there are results on record, in search of the next one."""
_logger = logging.getLogger("flowstone")


class Works(Protocol):
    """All that one body has going."""

    def begin(self, work: Work) -> None:
        """Start what a loop has asked for."""
        ...

    def ended(self, work: Work) -> None:
        """Forget what has ended."""
        ...

    def later(self, callback: Callable[[], None]) -> Timer:
        """Call something when calls have had the time to end."""
        ...

    def soon(self, callback: Callable[[], None]) -> None:
        """Call something in the loop of the body, now if this is it."""
        ...


class Work:
    """What goes on for one loop.

    Args:
        works: All that the body has going.
        calls: What is on record of the calls, and makes the others.
        items: What can be iterated.
        most: Calls at once.

    Attributes:
        error: What ended it early.
        done: Set when nothing of it runs any more.
    """

    def __init__(self, works: Works, calls: MapCalls, items: Any, most: int) -> None:
        self._works, self._calls, self._items, self._most = works, calls, items, most
        self._results: deque[Any] = deque()
        self._held: deque[MapCall] = deque()
        self._running = 0
        self._context = Context()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._group: TaskGroup | None = None
        self._timer: Timer | None = None
        self._begun = self._ending = False
        self._told, self._room = asyncio.Event(), asyncio.Event()
        self.error: BaseException | None = None
        self.done = asyncio.Event()

    def _flowstone_tasks(self) -> tuple[asyncio.Future[Any], ...]:
        """Return what the loop waits for, and what takes items waits for."""
        return self.tasks

    @property
    def tasks(self) -> tuple[asyncio.Future[Any], ...]:
        """The calls that go on, and what takes items; also those that have not taken their first step."""
        if self._group is None:
            begins = self._begun and not self.done.is_set()
            return (asyncio.get_running_loop().create_future(),) if begins else ()
        return tuple(getattr(self._group, "_tasks", ()))

    # -- the side of the loop -----------------------------------------------------------------------------------

    async def next(self) -> Any:
        """Return the next result."""
        if not self._begun and not self._ending:
            self._begun = True
            self._works.begin(self)
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
            self._works.soon(self.cancel)

    def cancel(self) -> None:
        """Begin nothing more, and cancel what runs: once, so that it may end in good order; after a while, again."""
        if self._ending or self.done.is_set():
            return
        self._ending = True
        for task in list(self._tasks):
            task.cancel()
        self._told.set()
        if self._begun:
            self._timer = self._works.later(self._cut_off)

    def _cut_off(self) -> None:
        if self._group is not None:
            self._group.cancel_scope.cancel()

    # -- the side of the calls ----------------------------------------------------------------------------------

    async def run(self) -> None:
        """Make the calls."""
        try:
            async with anyio.create_task_group() as group:
                self._group = group
                group.start_soon(self._guarded, self._feed)
        except asyncio.CancelledError as error:  # of the engine: nobody takes what there is for all
            self.error = error
            raise
        finally:
            if self._timer is not None:
                self._timer.cancel()
            self._calls.close()
            self._works.ended(self)
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

    async def _feed(self) -> None:
        self._calls.begin(self._look)
        self._context = copy_context()
        items = self._each()
        try:
            while True:
                await self._until_wanted()
                try:
                    item = await anext(items)
                except StopAsyncIteration:
                    break
                call = self._calls.take(item)
                if call.recorded:
                    self._start(call)
                else:
                    self._held.append(call)
                    self._fill()
            self._calls.all_taken()
        finally:
            await items.aclose()

    async def _until_wanted(self) -> None:
        """Wait until another item is to be taken."""
        while self._running >= self._most or self._running + len(self._results) >= 2 * self._most:
            if self._calls.sought():
                if len(self._held) < self._calls.known + max(_AHEAD, 2 * self._most):
                    return
                self._calls.all_taken()  # it is nowhere near
            self._room.clear()
            await self._room.wait()

    def _look(self) -> None:
        """See whether a call has to be made, or more items be taken, for the next result on record to be asked for."""
        self._fill()
        self._room.set()

    def _fill(self) -> None:
        """Make calls that were held: as there is room, and those inside of which something on record is waited for."""
        if self._ending:
            return
        for call in tuple(self._held) if self._calls.known else ():
            if self._calls.sought(call):
                self._held.remove(call)
                self._start(call)
        while self._held and self._running < self._most:
            self._start(self._held.popleft())

    def _start(self, call: MapCall) -> None:
        assert self._group is not None  # noqa: S101 - for the type checker: items are taken inside of it
        self._running += 1
        # Whoever made room for it may have context variables of its own.
        self._context.run(self._group.start_soon, self._guarded, self._call, call, name=f"map call {call.key}")

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

    async def _call(self, call: MapCall) -> None:
        """Wait for the result of a call: it is made, unless it is on record."""
        try:
            result = await call.result()
            if not self._ending:
                self._results.append(result)
                self._told.set()
        finally:
            self._running -= 1
            self._look()
