"""Whether an event loop turns, seen from another thread."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from contextlib import suppress

from flowstone_async._engine.culprit import Culprit, find_culprit
from flowstone_async.definition.graph import Graph


class Pulse:
    """Asks a loop for a sign of life, again and again, from a thread that is not its own.

    Args:
        graphs: Of the pipelines whose bodies may hold the loop.
        loop: The loop; the one that runs in the calling thread without it.
    """

    def __init__(self, graphs: Sequence[Graph], loop: asyncio.AbstractEventLoop | None = None) -> None:
        self.loop = loop or asyncio.get_running_loop()
        self._graphs = graphs
        self._thread = threading.get_ident()
        self._asked: float | None = None

    def beat(self) -> None:
        """Ask, unless the last answer is still to come."""
        if self._asked is None:
            self._asked = time.monotonic()
            with suppress(RuntimeError):  # the loop has ended, and does not answer
                self.loop.call_soon_threadsafe(self._answer)

    def _answer(self) -> None:
        self._asked = None

    @property
    def held(self) -> float:
        """Seconds for which the loop has not answered; 0 if it answers."""
        asked = self._asked
        return 0.0 if asked is None else time.monotonic() - asked

    def culprit(self) -> Culprit:
        """Return what the loop's thread is at now."""
        return find_culprit(self._thread, self._graphs)
