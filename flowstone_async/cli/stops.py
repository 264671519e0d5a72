"""Stopping a service: the first signal lets it end in good order, the second lets it not wait, the third ends it."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from flowstone_async.cli import exit_code

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_PATIENCE = 2.0


class Stops:
    """Counts the signals that a service in the current task gets.

    A handler runs between any two instructions, also while a body holds the loop; so a second signal ends the process
    within 2 s whatever holds it up.

    Attributes:
        asked: Set by the first signal, once the service stands.
        first: What the first signal was, for people; None before it.
    """

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.first: str | None = None
        self.count = 0
        self._code: int = exit_code.OK
        self._stands = False
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[Any] | None = asyncio.current_task()

    @property
    def code(self) -> int:
        """What a service that was stopped ends with."""
        return exit_code.INTERRUPTED if self.count > 1 else self._code

    def stands(self) -> None:
        """From now on the first signal sets `asked`; before, it cancels the task."""
        self._stands = True

    @contextmanager
    def caught(self) -> Generator[None]:
        """Catch the signals until the end of the block."""
        before = {number: signal.signal(number, self._signalled) for number in _SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _signalled(self, number: int, _: FrameType | None) -> None:
        self.count += 1
        if self.count == 1:
            self.first = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
            self._code = exit_code.INTERRUPTED if number == signal.SIGINT else exit_code.OK
            self._loop.call_soon_threadsafe(self._ask)
        elif self.count == 2:  # noqa: PLR2004 - the second
            signal.signal(signal.SIGALRM, _end)
            signal.setitimer(signal.ITIMER_REAL, _PATIENCE)
            self._loop.call_soon_threadsafe(self._cancel)
        else:
            _end()

    def _ask(self) -> None:
        self.asked.set()
        if not self._stands:
            self._cancel()

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()


def _end(*_: object) -> None:
    os._exit(exit_code.INTERRUPTED)
