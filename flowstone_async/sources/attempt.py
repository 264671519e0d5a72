"""One try at reading a source from a place: opened, read and closed in a task of its own.

So that a page that never comes can be given up, and that the cancellation of whoever asked for it, at whatever await
and however often, reaches the source's own code once at most and never while it cleans up.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, cast

import anyio

from flowstone_async.clock import Clock
from flowstone_async.config import seconds
from flowstone_async.errors import ConfigError, TimedOut
from flowstone_async.sources.handover import Handover
from flowstone_async.sources.iterated import Iterated
from flowstone_async.sources.source import Page, Source

CLOSE_LIMIT = 10.0
"""Seconds that `close`, and the `finally` of `read`, may take each."""
_logger = logging.getLogger("flowstone")


class Attempt:
    """Pages of a source, one at a time, from one call of `read`.

    Args:
        source: What to read.
        cursor: Where to begin.
        size: How many items are taken at once.
        clock: Measures `read_timeout`.
    """

    def __init__(self, source: Source[Any], cursor: object, size: int, clock: Clock) -> None:
        self._source, self._cursor, self._size, self._clock = source, cursor, size, clock
        self._handover = Handover(size)
        self._task: asyncio.Task[None] | None = None
        self._error: BaseException | None = None
        self._closing = self._late = False

    async def page(self) -> Page[Any] | None:
        """Return the next page, or None where the source ended and is closed. What its code raises passes through.

        Raises:
            TimedOut: The page took longer than the source's `read_timeout`.
        """
        if self._task is None:
            self._task = asyncio.create_task(self._read(), name=f"read {self._source.label}")
            self._task.add_done_callback(self._done)
        limit = self._source.read_timeout
        timer = None if limit is False else self._clock.call_later(seconds(limit), self._expire)
        try:
            page = await self._handover.take()
        finally:
            if timer is not None:
                timer.cancel()
        if page is not None:
            return page
        if self._late:
            raise TimedOut(f"a page took longer than read_timeout={limit!r}")
        error, self._error = self._error, None
        if error is not None:
            raise error
        return None

    def _expire(self) -> None:
        if not (self._closing or self._handover.filled):
            self._late = True
            self._handover.end()

    def _done(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            self._error = task.exception()
        elif not self._late:
            self._error = RuntimeError("it raised CancelledError, although nobody cancelled it")
        self._handover.end()

    async def _read(self) -> None:
        source, pages = self._source, None
        try:
            await source.open()
            if isinstance(source, Iterated):
                await source.feed(self._handover)
            else:
                pages = source.read_sized(self._cursor, self._size)
                # `async def read(…)` without a yield returns its iterator only when awaited.
                pages = cast("AsyncIterator[object]", await pages if inspect.isawaitable(pages) else pages)
                await self._deliver(pages)
        finally:
            self._closing = True
            try:
                if hasattr(pages, "aclose"):
                    await self._quietly("read", cast("Any", pages).aclose)
            finally:
                await self._quietly("close", source.close)

    async def _deliver(self, pages: AsyncIterator[object]) -> None:
        async for page in pages:
            if not isinstance(page, Page):
                kind = type(page).__name__
                raise ConfigError(f"{self._source.label}.read gave a {kind}", hint="Yield Page([item, ...], cursor).")
            given = cast("Page[Any]", page)
            if not await self._handover.give(given) or given.last:
                return

    async def _quietly(self, what: str, clean_up: Callable[[], Awaitable[object]]) -> None:
        """Clean up, in bounded time; what goes wrong there takes nothing from what was read."""
        try:
            async with asyncio.timeout(CLOSE_LIMIT):
                await clean_up()
        except Exception as error:  # cleaning up is user code
            _logger.warning("source %s: its %s failed to clean up: %r", self._source.label, what, error)

    async def end(self) -> None:
        """Stop reading and close the source; returns when it is closed."""
        task = self._task
        if task is None:
            return
        self._handover.stop()
        if not (task.done() or self._closing or self._handover.waits):
            task.cancel()
        # A second native cancellation pierces the shield: then the source closes without anybody waiting for it.
        with anyio.CancelScope(shield=True):
            _, slow = await asyncio.wait({task}, timeout=2 * CLOSE_LIMIT)
            if slow:
                task.cancel()
                await asyncio.wait({task}, timeout=CLOSE_LIMIT)
        if not task.done():
            _logger.warning("source %s does not end when it is cancelled; it is left alone", self._source.label)
        elif self._error is not None and not task.cancelled():
            _logger.warning("source %s: raised %r when it was stopped", self._source.label, self._error)
