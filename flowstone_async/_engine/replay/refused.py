"""What cannot be called as a step."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from flowstone_async.definition.body import function_of, name_of
from flowstone_async.errors import ConfigError


def refuse(fn: Callable[..., Any], *, thread: bool) -> None:
    """Refuse what would hold the event loop, or would never be awaited.

    Raises:
        ConfigError: It is no function, or the wrong kind of one.
    """
    if not callable(fn):
        raise ConfigError(f"{fn!r} cannot be called as a step", hint="Give an async function and its arguments.")
    is_async = inspect.iscoroutinefunction(function_of(fn))
    if thread and is_async:
        raise ConfigError(f"{name_of(fn)!r} is async: it needs no thread", hint="Leave out run_in=.")
    if not thread and not is_async:
        raise ConfigError(
            f"{name_of(fn)!r} is a plain function, which would hold the event loop",
            hint="Make it `async def`, or let it run in a thread: `await ctx.step.using(run_in='thread')(fn, ...)`.",
        )
