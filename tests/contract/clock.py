"""A clock whose time a test sets; timers are real, so that waiting for a change works on every store."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from typing_extensions import override

from flowstone_async.clock import SystemClock


class SetClock(SystemClock):
    """Time stands still until `advance`."""

    virtual = True

    def __init__(self) -> None:
        self._begun = self._now = datetime(2025, 6, 1, 12, tzinfo=UTC)

    @override
    def now(self) -> datetime:
        return self._now

    @override
    def monotonic(self) -> float:
        return (self._now - self._begun).total_seconds()

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self._now += timedelta(seconds=seconds)
