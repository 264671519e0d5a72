"""Calls that wait at the same time and share a statement."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from typing import Generic, Protocol, TypeVar

from flowstone_async.errors import FlowstoneError
from flowstone_async.limits import refusals
from flowstone_async.store.postgres.errors import closed

# Of a batch; what comes up meanwhile is in the next.
MOST = 1000


class Call(Protocol):
    """A call that waits."""

    def fail(self, error: FlowstoneError) -> None:
        """Raise an error where it was called, if anybody is still there."""
        ...


C = TypeVar("C", bound=Call)


class Batched(ABC, Generic[C]):
    """Answers calls of one kind in their order, as many at a time as are waiting."""

    def __init__(self) -> None:
        self._waiting: list[C] = []
        self._wake = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False

    def submit(self, call: C) -> None:
        """Let a call be answered.

        Raises:
            ConfigError: The store is not open, or the call comes from another event loop.
        """
        if self._closed or self._loop is None:
            raise closed()
        if asyncio.get_running_loop() is not self._loop:
            raise refusals.elsewhere()
        self._waiting.append(call)
        self._wake.set()

    def close(self) -> None:
        """Answer what was asked, and no more."""
        self._closed = True
        self._wake.set()

    async def serve(self) -> None:
        """Answer calls, until closed."""
        self._loop = asyncio.get_running_loop()
        try:
            while not self._closed or self._waiting:
                self._wake.clear()
                while self._waiting or self.due():
                    taken, self._waiting = self._waiting[:MOST], self._waiting[MOST:]
                    await self.answer(taken)
                if not self._closed:
                    await self._rest()
        finally:
            self._closed = True
            for call in self._waiting:
                call.fail(closed())

    async def _rest(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(self.pause()):
                await self._wake.wait()

    @abstractmethod
    async def answer(self, calls: Sequence[C]) -> None:
        """Answer some calls; none where only `due` asked for it. Raises nothing."""

    def due(self) -> bool:
        """Tell whether there is something to do beside calls."""
        return False

    def pause(self) -> float | None:
        """Return the seconds after which there may be; None for never."""
        return None


def copied(error: FlowstoneError) -> FlowstoneError:
    """Return an error for one more caller: whoever raises it adds to its traceback."""
    own = type(error)(error.message, details=error.details, hint=error.hint, retryable=error.retryable)
    own.__cause__ = error.__cause__
    return own
