"""Where claims begin to look: not at the beginning of the queue, where all lies that was ever claimed.

A run that is claimed leaves a dead entry in the queue's index, which is removed as soon as nobody can see the run any
more as it was queued. As long as anybody holds an older snapshot none of them is, and a claim that read from the
beginning would read them all: a block for each run since. So the claims of a process begin where earlier ones ended.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

PRIORITIES = 4
BEHIND = 60.0
"""Seconds by which a look goes back behind what is known: a run is seen late if its transaction took long, or one that
had locked it."""
WHOLE = 5.0
"""Seconds after which a look begins at the beginning again, and finds what was seen even later."""


class Look(NamedTuple):
    """Where one claim looks, for each priority.

    Attributes:
        at: When, on the monotonic clock.
        since: Runs that were due before were claimed before; None: not known.
        ages: Where that is None: so many seconds ago nothing was left; None: everything has to be looked at.
    """

    at: float
    since: Sequence[datetime | None] = (None,) * PRIORITIES
    ages: Sequence[float | None] = (None,) * PRIORITIES
    whole: bool = True


class Floors:
    """What one process knows of the queue from its own claims.

    Args:
        monotonic: Seconds on a clock that never goes back.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._forget(())

    def _forget(self, asked: object) -> None:
        self._asked = asked
        self._whole_at = float("-inf")
        self._since: list[datetime | None] = [None] * PRIORITIES
        self._empty_at: list[float | None] = [None] * PRIORITIES

    def look(self, worker: str, pipelines: Sequence[str]) -> Look:
        """Return where the next claim of a worker is to look."""
        now = self._monotonic()
        if self._asked != (worker, *pipelines):
            self._forget((worker, *pipelines))
        if now - self._whole_at >= WHOLE:
            return Look(now)
        ages = [None if at is None else now - at + BEHIND for at in self._empty_at]
        return Look(now, list(self._since), ages, whole=False)

    def learn(self, look: Look, claimed: Iterable[tuple[int, datetime]], limit: int) -> None:
        """Take note of what a claim gave.

        Args:
            look: Where it looked.
            claimed: Priority and due time of each run, in the order in which they are claimed.
            limit: How many it was to give at most.
        """
        found = list(claimed)
        # Where a claim gives all that it may, the last priority has more, perhaps, and those behind were not looked at.
        last = found[-1][0] if len(found) >= limit else PRIORITIES
        for priority in range(min(last + 1, PRIORITIES)):
            self._since[priority], self._empty_at[priority] = None, look.at
        if last < PRIORITIES:
            self._since[last] = found[-1][1] - timedelta(seconds=BEHIND)
        if look.whole:
            self._whole_at = look.at
