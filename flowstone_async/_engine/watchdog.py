"""Noticing bodies that hold the event loop: who, where, and for how long."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
import traceback
from types import TracebackType
from typing import Self

from flowstone_async._engine.session import Session

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

    def _answer(self) -> None:
        self._beat = time.monotonic()

    def _watch(self) -> None:
        reported = 0.0
        while not self._left.wait(self._limit / 2):
            held = time.monotonic() - self._beat
            if held > self._limit and reported != self._beat:
                reported = self._beat
                _logger.warning(
                    "engine.loop_blocked: the event loop is held for more than %g s by %s", self._limit, self._who()
                )
            try:
                self._loop.call_soon_threadsafe(self._answer)
            except RuntimeError:
                return

    def _who(self) -> str:
        frame = sys._current_frames().get(self._watched)  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - documented
        if frame is None:
            return "an unknown frame"
        names = self._bodies()
        for each, line in reversed(list(traceback.walk_stack(frame))):
            if each.f_code in names:
                innermost = next(traceback.walk_stack(frame))
                place = f"{innermost[0].f_code.co_filename}:{innermost[1]}"
                return f"asset {names[each.f_code]!r} (body line {line}), at {place}"
        return f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"

    def _bodies(self) -> dict[object, str]:
        found: dict[object, str] = {}
        for catalog in self._session.catalogs.values():
            for node in catalog.graph.nodes.values():
                code = getattr(node.definition.body, "__code__", None)
                if code is not None:
                    found[code] = node.name
        return found
