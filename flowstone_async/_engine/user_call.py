"""Calling a small function of the user's whose failure is an answer."""

from __future__ import annotations

import inspect
from typing import Any


async def call_user(function: Any, *arguments: object) -> object:
    """Call a function, sync or async; an exception is returned as text."""
    try:
        answer = function(*arguments)
        return await answer if inspect.isawaitable(answer) else answer
    except Exception as error:
        return f"{type(error).__name__}: {error}"
