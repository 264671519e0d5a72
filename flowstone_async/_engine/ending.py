"""How a run ends that did not come to its own end."""

from __future__ import annotations

from flowstone_async._engine import stopped
from flowstone_async._engine.outcome import Failing, Interrupted, Tried
from flowstone_async._engine.record import asset_done, note_outcome
from flowstone_async._engine.steps import RunSteps
from flowstone_async.errors import StoreUnavailable
from flowstone_async.store.records import AssetDone


class RunEnding(RunSteps):
    """Ends one run that was stopped.

    Attributes:
        cut_off: Attempts that were cut off, by unit.
        tried: Attempts that failed, by unit.
    """

    cut_off: dict[int, Interrupted]
    tried: dict[int, Tried]

    def cut_short(self) -> tuple[AssetDone, ...]:
        """Note the assets that the run's timeout cut off, or kept from their next attempt, as failed because of it."""
        now, done = self.services.store.now(), list[AssetDone]()
        for index in sorted({*self.cut_off, *self.tried}):
            if self.board.is_settled(index):
                continue
            unit, cut = self.units.all[index], self.cut_off.get(index, Interrupted(now, 0.0))
            error = stopped.cut_short(self.id, unit, self.request)
            outcome = Failing(error=error, started_at=cut.started_at, seconds=cut.seconds)
            tried = self.tried.get(index, Tried())
            attempts = tried.attempts + (index in self.cut_off)
            settled = note_outcome(self.journal, unit, outcome, attempts, now, self.id)
            self.board.settled[index] = settled
            done.append(asset_done(unit, outcome, settled))
        return tuple(done)

    def ended(self, index: int) -> tuple[AssetDone, ...]:
        """Note an asset as failed because of the run's error, which its body is."""
        unit, now, error = self.units.all[index], self.services.store.now(), self.error
        if error is None or self.board.is_settled(index):
            return ()
        outcome = Failing(error=error, started_at=now, seconds=0.0)
        settled = note_outcome(self.journal, unit, outcome, self.tried.get(index, Tried()).attempts + 1, now, self.id)
        self.board.settled[index] = settled
        return (asset_done(unit, outcome, settled),)

    async def conclude_lost(self) -> None:
        """A step was refused: because another engine cancelled the run, or because it owns it."""
        if isinstance(self.error, StoreUnavailable):
            return
        record = await self.services.store.run(self.id)
        if record is not None and record.state == "cancelled":
            self.state, self.error = "cancelled", None
            await self.tell_cancelled()
        elif record is not None and record.fence == self.record.fence and record.state in ("succeeded", "failed"):
            self.state, self.error = record.state, self.ends_with  # the end was committed, and its answer lost
        else:
            self.error = self.error or stopped.lease_lost(self.id)
