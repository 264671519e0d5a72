"""Calling a small function of the user's whose failure is an answer."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

from flowstone_async.failures import ENDINGS


async def call_user(function: Any, *arguments: object) -> object:
    """Call a function, sync or async; an exception is returned as text."""
    try:
        answer = function(*arguments)
        return await answer if inspect.isawaitable(answer) else answer
    except (*ENDINGS, asyncio.CancelledError):
        raise
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
