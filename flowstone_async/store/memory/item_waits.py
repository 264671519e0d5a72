"""Items of scatters that wait at gates, in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime

from flowstone_async.store.memory.scatter import StoredChunk
from flowstone_async.store.scatters import NEVER


class ItemWaits:
    """Knows which item waits at which gate.

    Args:
        now: The memory's clock.
        ended: Tells whether a gate has.
    """

    def __init__(self, now: Callable[[], datetime], ended: Callable[[str], bool]) -> None:
        self._now, self._has_ended = now, ended
        self._waits: dict[str, tuple[StoredChunk, Sequence[str]]] = {}

    def wait(self, chunk: StoredChunk, gates: Sequence[str]) -> None:
        """Let an item wait at gates; it is due where one of them has ended."""
        self._waits.update(dict.fromkeys(gates, (chunk, gates)))
        for gate in filter(self._has_ended, gates):
            self.end(gate)

    def end(self, gate: str) -> None:
        """Make the item due that waits at a gate."""
        chunk, gates = self._waits.get(gate, (None, ()))
        for each in gates:
            if self._waits.get(each, (None,))[0] is chunk:
                del self._waits[each]
        if chunk is not None and chunk.state == "ready" and chunk.due == NEVER:
            chunk.due = self._now()
