"""The store's clock: the database's, as last heard, or a virtual one."""

from __future__ import annotations

import time
from datetime import datetime, timedelta

from flowstone_async.clock import Clock


class Instants:
    """Tells the time without asking the database for it.

    Args:
        clock: The engine's clock. A virtual one decides; otherwise the database does.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._heard: datetime | None = None
        self._heard_at = 0.0

    def given(self) -> datetime | None:
        """Return the instant to give to a statement, or None to let it take the database's own."""
        return self._clock.now() if self._clock.virtual else None

    def learn(self, instant: datetime) -> None:
        """Take note of an instant that the database has just told; time never goes back."""
        if not self._clock.virtual and (self._heard is None or instant >= self.now()):
            self._heard = instant
            self._heard_at = time.monotonic()

    def now(self) -> datetime:
        """Return the present instant, as well as it is known."""
        if self._clock.virtual or self._heard is None:
            return self._clock.now()
        return self._heard + timedelta(seconds=time.monotonic() - self._heard_at)
