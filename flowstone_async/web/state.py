"""What the app of one process keeps between requests: bounded, and lost without harm."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import anyio

from flowstone_async.redaction import Redactor
from flowstone_async.web.addresses import Addresses


class Signpost:
    """Something that happens once, and may be waited for in any event loop."""

    def __init__(self) -> None:
        self.passed = False
        self._waiting: set[anyio.Event] = set()

    def set(self) -> None:
        """Let it happen."""
        self.passed = True
        for each in self._waiting:
            each.set()

    async def wait(self) -> None:
        """Wait until it has happened."""
        event = anyio.Event()
        self._waiting.add(event)
        try:
            if not self.passed:
                await event.wait()
        finally:
            self._waiting.discard(event)


@dataclass(slots=True, kw_only=True, eq=False)
class WebState:
    """What the app of one process keeps between requests.

    Attributes:
        redactor: Hides secrets in whatever is answered.
        addresses: How often each address may signal.
        answered: Answers by operation and class of status.
        streams: Streams of events that are open.
        ready: What was found last when somebody asked whether the engine is ready, and when.
        asking: Held by whoever asks, for all others.
        draining: Set once the server is being stopped: whatever waits comes to its end.
    """

    redactor: Redactor
    addresses: Addresses
    clock: Callable[[], float] = time.monotonic
    answered: Counter[tuple[str, int]] = field(default_factory=Counter[tuple[str, int]])
    streams: int = 0
    ready: tuple[float, tuple[str, ...]] | None = None
    asking: anyio.Lock = field(default_factory=anyio.Lock)
    draining: Signpost = field(default_factory=Signpost)
