"""Noticing bodies that hold the event loop: who, where, and for how long."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from contextlib import suppress
from types import TracebackType
from typing import Self

from flowstone_async._engine.culprit import Culprit, find_culprit
from flowstone_async._engine.session import Session
from flowstone_async.definition.graph import Graph
from flowstone_async.events import LoopBlocked

_logger = logging.getLogger("flowstone")


class Watchdog:
    """A thread that looks at the loop's thread whenever the loop has not answered for `limit` seconds."""

    def __init__(self, limit: float, session: Session) -> None:
        self._limit, self._session = limit, session
        self._loop = asyncio.get_running_loop()
        self._watched = threading.get_ident()
        self._left = threading.Event()
        self._beat = time.monotonic()
        self._thread = threading.Thread(target=self._watch, name="flowstone watchdog", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._left.set()
        self._thread.join(timeout=1)

    def _answer(self) -> None:
        self._beat = time.monotonic()

    def _watch(self) -> None:
        reported = 0.0
        while not self._left.wait(self._limit / 2):
            held = time.monotonic() - self._beat
            if held > self._limit and reported != self._beat:
                reported = self._beat
                self._report(held)
            try:
                self._loop.call_soon_threadsafe(self._answer)
            except RuntimeError:
                return

    def _report(self, held: float) -> None:
        found = find_culprit(self._watched, self._graphs())
        limit, where = self._limit, found.where
        if found.waits:
            text = (
                "engine.loop_blocked: the event loop has had no turn for more than %g s: other threads of this process"
            )
            text += " hold the interpreter, or the machine is overloaded; it waits at %s"
        else:
            text = "engine.loop_blocked: the event loop is held for more than %g s by %s"
        _logger.warning(text, limit, where)
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._tell, found, held)

    def _graphs(self) -> list[Graph]:
        return [catalog.graph for catalog in list(self._session.catalogs.values())]

    def _tell(self, found: Culprit, held: float) -> None:
        """Let hooks hear of it, in the loop that is free again."""
        facts = {"asset": found.asset, "place": found.place, "seconds": held}
        self._session.observer.tell(LoopBlocked, pipeline=found.pipeline, **facts)
