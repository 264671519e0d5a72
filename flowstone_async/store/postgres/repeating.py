"""Repeating what may be done twice, for as long as commits are tried: the server may be away for a while."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from flowstone_async.errors import StoreUnavailable

T = TypeVar("T")
_PAUSE = 0.1


class Repeating:
    """Does things again while the server cannot be reached.

    Args:
        owns: Whether this process may still commit anything: False once its lease is lost.
        patience: Seconds after which it gives up.
    """

    __slots__ = ("_owns", "_patience")

    def __init__(self, owns: Callable[[], bool], patience: float) -> None:
        self._owns, self._patience = owns, patience

    async def __call__(self, do: Callable[[], Awaitable[T]]) -> T:
        """Do something that is harmless if it is done twice, until it is known to be done.

        Raises:
            StoreUnavailable: The server is away for too long, or this process may commit nothing any more.
        """
        give_up = time.monotonic() + self._patience
        while True:
            try:
                return await do()
            except StoreUnavailable:
                if not self._owns() or time.monotonic() > give_up:
                    raise
            await asyncio.sleep(_PAUSE)
