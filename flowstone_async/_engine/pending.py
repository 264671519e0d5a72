"""Cancellations that a body leaves behind in its task, and those that are really meant for the engine."""

from __future__ import annotations

import asyncio
import math
from contextlib import suppress

import anyio


class Pending:
    """Made before user code is called; tells afterwards what it left pending.

    A body may cancel its own task. What it does to itself ends its attempt; it must neither end the worker that called
    it nor hit the commit that follows. A cancellation from outside cancels an enclosing scope, and travels on.
    """

    __slots__ = ("_before", "_task")

    def __init__(self) -> None:
        self._task = asyncio.current_task()
        self._before = 0 if self._task is None else self._task.cancelling()

    @classmethod
    def since(cls, task: asyncio.Task[object], before: int) -> Pending:
        """Return what tells of cancellations of `task` since it had so many."""
        pending = cls()
        pending._task, pending._before = task, before
        return pending

    def left(self) -> bool:
        """Tell whether more cancellations are pending than before."""
        return self._task is not None and self._task.cancelling() > self._before

    async def absorb(self, error: BaseException | None) -> None:
        """Take the body's own cancellations back.

        Args:
            error: What it raised.

        Raises:
            asyncio.CancelledError: They are not its own: the engine is being left.
        """
        if anyio.current_effective_deadline() == -math.inf:
            raise error if isinstance(error, asyncio.CancelledError) else asyncio.CancelledError
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(0)
        while self._task is not None and self.left():
            self._task.uncancel()
