"""Noticing bodies that hold the event loop: who, where, and for how long."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
import traceback
from contextlib import suppress
from types import TracebackType
from typing import NamedTuple, Self

from flowstone_async._engine.session import Session
from flowstone_async.definition.body import function_of
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
        found = self._who()
        body = "" if found.asset is None else f"asset {found.asset!r} (line {found.line} of its body), at "
        limit, where = self._limit, f"{body}{found.place} in {found.function}"
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

    def _tell(self, found: _Culprit, held: float) -> None:
        """Let hooks hear of it, in the loop that is free again."""
        facts = {"asset": found.asset, "place": found.place, "seconds": held}
        self._session.observer.tell(LoopBlocked, pipeline=found.pipeline, **facts)

    def _who(self) -> _Culprit:
        frame = sys._current_frames().get(self._watched)  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - documented
        if frame is None:
            return _Culprit("an unknown place", "an unknown function")
        place, function = f"{frame.f_code.co_filename}:{frame.f_lineno}", frame.f_code.co_name
        bodies = self._bodies()
        for each, line in reversed(list(traceback.walk_stack(frame))):
            if each.f_code in bodies:
                pipeline, asset = bodies[each.f_code]
                return _Culprit(place, function, pipeline, asset, line)
        module = str(frame.f_globals.get("__name__"))
        return _Culprit(place, function, waits=module.partition(".")[0] in ("asyncio", "selectors"))

    def _bodies(self) -> dict[object, tuple[str, str]]:
        found: dict[object, tuple[str, str]] = {}
        for pipeline, catalog in list(self._session.catalogs.items()):
            for node in catalog.graph.nodes.values():
                code = getattr(function_of(node.definition.body), "__code__", None)
                if code is not None:
                    found[code] = (pipeline, node.name)
        return found


class _Culprit(NamedTuple):
    """What the loop's thread is at.

    Attributes:
        waits: Whether it is the loop itself, which nothing but other threads and processes can hold up.
    """

    place: str
    function: str
    pipeline: str = ""
    asset: str | None = None
    line: int = 0
    waits: bool = False
