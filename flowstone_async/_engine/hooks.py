"""Calling hooks: in the order of events, each event's side by side, none able to break or delay a run for long."""

from __future__ import annotations

import asyncio
import inspect
import logging
import traceback
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import anyio
import anyio.to_thread

from flowstone_async.definition.body import function_of
from flowstone_async.definition.collection import Hook
from flowstone_async.events import Event
from flowstone_async.failures import ENDINGS

HOOK_TIMEOUT = 10.0
_logger = logging.getLogger("flowstone")


class Hooks:
    """The hooks that hear of one pipeline's runs: its own and the engine's.

    Args:
        sources: The hooks; those that are added later count too.
        limit: Seconds for each call, or None.
        hide: Hides secrets in what is logged.
    """

    def __init__(
        self, *sources: list[Hook], limit: float | None = HOOK_TIMEOUT, hide: Callable[[str], str] = str
    ) -> None:
        self._sources = sources
        self._limit = limit
        self._hide = hide

    def any(self) -> bool:
        """Tell whether there is any hook at all."""
        return any(self._sources)

    def wants(self, kind: type[Event]) -> bool:
        """Tell whether a hook would hear of events of a type."""
        return any(issubclass(kind, hook.event) for source in self._sources for hook in source)

    def wanted(self, kinds: Iterable[type[Event]]) -> frozenset[type[Event]]:
        """Return those of some types of events of which a hook would hear."""
        return frozenset(filter(self.wants, kinds)) if self.any() else frozenset()

    async def emit(self, event: Event) -> None:
        """Call the hooks of an event and wait until they end or their time is up; no failure escapes."""
        hooks = [hook for source in self._sources for hook in source if isinstance(event, hook.event)]
        if len(hooks) == 1:
            await self._call(hooks[0], event)
        elif hooks:
            async with anyio.create_task_group() as group:
                for hook in hooks:
                    group.start_soon(self._call, hook, event, name=f"hook {event.type}")

    async def emit_all(self, events: Sequence[Event]) -> None:
        """Call the hooks of several events, one event after another."""
        for event in events:
            await self.emit(event)

    async def _call(self, hook: Hook, event: Event) -> None:
        name = getattr(hook.function, "__qualname__", repr(hook.function))
        try:
            with anyio.move_on_after(self._limit) as limit:
                await _invoke(hook, event)
            if limit.cancelled_caught:
                _logger.error("hook %s took longer than %g s for %s and was cancelled", name, self._limit, event.type)
        except ENDINGS:
            raise
        except BaseException as error:
            task = asyncio.current_task()
            cancelled = task is not None and task.cancelling()
            if cancelled and isinstance(error, asyncio.CancelledError):  # not the hook's own doing
                raise
            _logger.error("hook %s failed for %s: %s", name, event.type, self._hide(_told(error)))  # noqa: TRY400 - redacted


def _told(error: BaseException) -> str:
    return "".join(traceback.format_exception(error)).rstrip()


async def _invoke(hook: Hook, event: Event) -> None:
    function: Any = hook.function
    if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(function_of(function)):
        await function(event)
    else:
        result = await anyio.to_thread.run_sync(function, event, abandon_on_cancel=True)
        if inspect.isawaitable(result):
            await result
