"""Letting hooks hear of what starts, ahead of the commit that it goes with."""

from __future__ import annotations

from abc import ABC

from flowstone_async._engine.board import Next
from flowstone_async._engine.giving_out import RunGivingOut
from flowstone_async.clock import Timer
from flowstone_async.errors import FlowstoneError

FLUSH_AFTER = 0.2


class RunTelling(RunGivingOut, ABC):
    """Tells of one run."""

    _flush: Timer | None

    async def _tell_started(self) -> None:
        """Let hooks hear of a start at once; it is committed with whatever comes next, or alone if that takes long."""
        events = self.journal.take_events()
        if events:
            await self.hooks.emit_all(events)
        if self._flush is None:
            self._flush = self.services.clock.call_later(FLUSH_AFTER, self._flush_soon)

    def _flush_soon(self) -> None:
        self._flush = None
        if self.group is not None and self.journal.pending and self.stopping is None:
            self.group.start_soon(self._commit_events, name=f"run {self.id} events")

    async def _commit_events(self) -> None:
        if self.journal.pending and self.board.active and self.stopping is None:
            try:
                await self._step(Next([], [], []))
            except FlowstoneError as error:
                self.break_off(error)
