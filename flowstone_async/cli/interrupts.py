"""Ctrl-C: the first cancels what the command awaits, so that everything is put in order; the second ends at once."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

from flowstone_async.cli import exit_code

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_SHOW_CURSOR = b"\x1b[?25h"


class Reactions(NamedTuple):
    """What is done besides cancelling.

    Attributes:
        first: Called in the loop after the first Ctrl-C (or SIGTERM), with what it was.
        ended: Called when the command was cancelled and everything is in order.
        leaving: Called with the exit code when nothing but threads can hold up the end of the loop.
    """

    first: Callable[[str], None]
    ended: Callable[[], None]
    leaving: Callable[[int], None]


def run_interruptible(command: Callable[[], Awaitable[int]], reactions: Reactions) -> int:
    """Run a command in an event loop and return its exit code.

    Args:
        command: What to run; the first Ctrl-C cancels it.
        reactions: What is done besides.
    """
    with asyncio.Runner() as runner:
        return runner.run(_watched(command, reactions))


async def _watched(command: Callable[[], Awaitable[int]], reactions: Reactions) -> int:
    presses = _Presses(asyncio.get_running_loop(), asyncio.current_task(), reactions.first)
    try:
        with presses.caught():
            code = await command()
    except asyncio.CancelledError:
        if not presses.count:
            raise
        reactions.ended()
        code = exit_code.INTERRUPTED
    reactions.leaving(code)
    return code


class _Presses:
    """Counts interrupts. A signal's handler runs between any two instructions, also while a body holds the loop."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, task: asyncio.Task[Any] | None, first: Callable[[str], None]
    ) -> None:
        self.count = 0
        self._loop, self._task, self._first = loop, task, first

    @contextmanager
    def caught(self) -> Generator[None]:
        before = {number: signal.signal(number, self._pressed) for number in _SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _pressed(self, number: int, _: object) -> None:
        self.count += 1
        if self.count > 1:
            with suppress(OSError):
                if os.isatty(2):
                    os.write(2, _SHOW_CURSOR)
            os._exit(exit_code.INTERRUPTED)
        what = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
        self._loop.call_soon_threadsafe(self._cancel, what)

    def _cancel(self, what: str) -> None:
        self._first(what)
        if self._task is not None:
            self._task.cancel()
