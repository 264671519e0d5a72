"""The slots of an engine: which of the runs that it has taken on count. One that only waits at gates does not.

A run counts again before anything of it goes on, and is never kept from it: it may hold claims that a run waits for
which has a slot. So more runs than there are slots may be at work for a while; none is taken on until they are fewer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable


class RunSlots:
    """Counts the runs of one engine.

    Attributes:
        taken: The runs that were taken on from the queue, or from others, and how often.
        freed: Called when one more slot may be free.
    """

    def __init__(self) -> None:
        self.taken: Counter[str] = Counter()
        self.freed: Callable[[], None] = _nothing
        self._resting: set[str] = set()

    @property
    def busy(self) -> int:
        """How many count."""
        return len(self.taken) - len(self._resting)

    def take(self, run_id: str) -> None:
        """Take a run on."""
        self.taken[run_id] += 1

    def leave(self, run_id: str) -> None:
        """Let go of a run."""
        self.taken[run_id] -= 1
        if not self.taken[run_id]:
            del self.taken[run_id]
            self._resting.discard(run_id)
        self.freed()

    def rest(self, run_id: str) -> None:
        """Count a run no longer, since it does nothing but wait."""
        if run_id in self.taken and run_id not in self._resting:
            self._resting.add(run_id)
            self.freed()

    def count(self, run_id: str) -> None:
        """Count a run again."""
        self._resting.discard(run_id)


def _nothing() -> None:
    pass
