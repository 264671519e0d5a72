"""Whether a worker is alive, and whether it is ready to work: each with the reasons why not."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Future
from http import HTTPStatus

from flowstone_async._engine.health import ANSWER_WITHIN, Health, PartHealth
from flowstone_async.worker.http import Answer
from flowstone_async.worker.pulse import Pulse

READY_LIMIT = 1.0
BEAT = 0.1
_KEPT = 1.0
_PATIENCE = ANSWER_WITHIN + 1.0
_NEEDED = ("store", "workers")


class Probes:
    """Judges a worker; `live` and `ready` are called in a loop that is not the engine's.

    Args:
        ask: The engine's `health`, called in the engine's loop.
        pulse: Whether that loop turns.
        block_limit: Seconds for which a body may hold it before the worker counts as dead.
        hide: Hides secrets in what is told.

    Attributes:
        unready: Why it is not ready, whatever the engine says: it is being opened, or left. Set from any thread.
    """

    def __init__(
        self,
        ask: Callable[[], Awaitable[Health]],
        pulse: Pulse,
        *,
        block_limit: float,
        hide: Callable[[str], str] = str,
    ) -> None:
        self.pulse = pulse
        self.unready: str | None = "the engine is being opened"
        self._ask, self._hide = ask, hide
        self._limit = block_limit
        self._lock = asyncio.Lock()
        self._known: Health | None = None
        self._known_at = 0.0

    async def live(self) -> Answer:
        """Tell whether the engine's loop turns, or has not turned for too short a time to be given up."""
        held = self.pulse.held
        return _answer([self._blocked(held)] if held > self._limit else [])

    async def ready(self) -> Answer:
        """Tell whether runs can be executed now."""
        if self.unready is not None:
            return _answer([self.unready])
        found = await self._health()
        held = self.pulse.held
        if held > min(READY_LIMIT, self._limit):
            return _answer([self._blocked(held)])
        if self.unready is not None:
            return _answer([self.unready])
        if found is None:
            return _answer(["the engine did not tell how it is"])
        told = {"parts": self._plain(found.parts), "resources": self._plain(found.resources)}
        bad = [name for name in _NEEDED if name in found.parts and found.parts[name].state == "error"]
        return _answer([f"{name}: {self._hide(found.parts[name].detail)}" for name in bad], told)

    def _plain(self, parts: Mapping[str, PartHealth]) -> dict[str, object]:
        return {
            name: {"state": each.state, "seconds": round(each.seconds, 4), "detail": self._hide(each.detail)}
            for name, each in parts.items()
        }

    def _blocked(self, held: float) -> str:
        found = self.pulse.culprit()
        if found.waits:
            return f"the event loop has had no turn for {held:.1f} s: other threads hold the interpreter"
        return self._hide(f"the event loop has been held for {held:.1f} s by {found.where}")

    async def _health(self) -> Health | None:
        """Ask the engine, once for all who want to know within a second; None if its loop does not answer."""
        async with self._lock:
            if time.monotonic() - self._known_at > _KEPT:
                asked = asyncio.run_coroutine_threadsafe(self._asked(), self.pulse.loop)
                self._known = await self._awaited(asked)
                self._known_at = time.monotonic()
            return self._known

    async def _asked(self) -> Health:
        return await self._ask()

    async def _awaited(self, asked: Future[Health]) -> Health | None:
        answer = asyncio.wrap_future(asked)
        deadline = time.monotonic() + _PATIENCE
        try:
            while not answer.done() and self.pulse.held <= READY_LIMIT and time.monotonic() < deadline:
                await asyncio.wait([answer], timeout=BEAT)
            ended = answer.done() and not answer.cancelled()
            return answer.result() if ended and answer.exception() is None else None
        finally:
            answer.cancel()


def _answer(reasons: list[str], told: Mapping[str, object] | None = None) -> Answer:
    status = HTTPStatus.SERVICE_UNAVAILABLE if reasons else HTTPStatus.OK
    return Answer(status, {"ok": not reasons, "reasons": reasons, **(told or {})})
