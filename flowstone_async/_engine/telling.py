"""Letting hooks hear of what starts, ahead of the commit that it goes with."""

from __future__ import annotations

from abc import ABC, abstractmethod

from flowstone_async._engine.board import Next
from flowstone_async._engine.giving_out import RunGivingOut
from flowstone_async._engine.waits.wait_journal import SOON
from flowstone_async.clock import Timer
from flowstone_async.errors import FlowstoneError


class RunTelling(RunGivingOut, ABC):
    """Tells of one run.

    Attributes:
        telling: Whether events are being committed alone.
    """

    telling: bool
    _flush: Timer | None
    _flush_due: float = 0.0

    @abstractmethod
    def consider(self) -> None:
        """Look whether the run can be suspended, or a body be evicted."""

    async def _tell_started(self) -> None:
        """Let hooks hear of a start at once; it is committed with whatever comes next, or alone if that takes long."""
        events = self.journal.take_events()
        if events:
            await self.hooks.emit_all(events)
        self.commit_within(SOON)

    def commit_within(self, seconds: float) -> None:
        """Commit what is in the journal with whatever comes next, or alone after so many seconds."""
        clock = self.services.clock
        due = clock.monotonic() + seconds
        if self._flush is not None:
            if self._flush_due <= due:
                return
            self._flush.cancel()
        self._flush, self._flush_due = clock.call_later(seconds, self._flush_soon), due

    def _flush_soon(self) -> None:
        self._flush = None
        if self.group is not None and self.journal.pending and self.stopping is None:
            self.group.start_soon(self._commit_events, name=f"run {self.id} events")

    async def _commit_events(self) -> None:
        if self.journal.pending and self.board.active and self.stopping is None:
            self.telling = True
            try:
                await self._step(Next([], [], []))
            except FlowstoneError as error:
                self.break_off(error)
            finally:
                self.telling = False
            self.consider()
