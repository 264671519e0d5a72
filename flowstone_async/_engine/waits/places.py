"""Where bodies have their places, and their time limits, as what they wait for needs it."""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

from flowstone_async._engine.waits.seats import Seats


class Pauses(Protocol):
    """A time limit that stands still while a body waits."""

    def pause(self) -> None:
        """Let no time pass."""
        ...

    def resume(self) -> None:
        """Let time pass again."""
        ...


class Places(Protocol):
    """The places of many bodies.

    Attributes:
        seats: Which those that wait leave.
    """

    seats: Seats

    def deadline(self, task: asyncio.Task[Any]) -> Pauses:
        """Return the time limit of the body that a task runs."""
        ...
