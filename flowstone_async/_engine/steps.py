"""What a run commits: its steps, each one `Advance`, with the events that go with it."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from flowstone_async._engine.board import Next
from flowstone_async._engine.hooks import Hooks
from flowstone_async._engine.interruption import Interruption
from flowstone_async._engine.record import audit_of, note_settled
from flowstone_async._engine.request import REDRIVES
from flowstone_async._engine.values import RunValues
from flowstone_async.errors import FlowstoneError
from flowstone_async.events import (
    AssetFinished,
    Event,
    RunCancelled,
    RunFailed,
    RunFinished,
    RunStarted,
    RunSucceeded,
    ScatterRedriven,
)
from flowstone_async.failures import describe
from flowstone_async.store.records import Advance, AssetDone, RunDone, RunRecord
from flowstone_async.types import AssetKey


class RunSteps(RunValues, Interruption):
    """Makes the steps of one run."""

    record: RunRecord
    hooks: Hooks
    running: dict[int, tuple[int, float]]
    """Bodies that have begun and not come to an end, by unit: the attempt, and when it began."""
    ends_with: FlowstoneError | None
    """The error that is committed with the end of the run."""

    @property
    def seconds(self) -> float:
        """Seconds since the run started, in whichever process."""
        return self.services.clock.monotonic() - self.begun

    def facts(self) -> dict[str, object]:
        """Return what every event of the run as a whole says."""
        return {"targets": list(self.request.targets), "partition": self.request.encoded}

    def note_start(self, at: datetime) -> None:
        """Note that the run starts, and which scatters it redrives."""
        self.journal.add(RunStarted, at, self.facts())
        redrives: Any = self.record.options.get(REDRIVES, {})
        for key in sorted(self.request.again):
            where = {"asset": key.asset, "partition": key.partition}
            self.journal.add(ScatterRedriven, at, {**where, "of_run": redrives["of"], "only": redrives["only"]})

    def make_step(
        self,
        following: Next,
        create: RunRecord | None,
        done: tuple[AssetDone, ...],
        releases: tuple[AssetKey, ...],
        *,
        finish: bool,
    ) -> tuple[Advance, list[Event]]:
        """Return the step that commits outcomes and what follows from them, and the events to emit afterwards."""
        now = self.services.store.now()
        more: list[AssetDone] = []
        for index in following.settled:
            settled = self.board.settled[index]
            if settled is not None:
                more.extend(note_settled(self.journal, self.units.all[index], settled, now, self.id))
        ended = self._end() if finish or (not self.board.active and self.stopping in (None, "shutdown")) else None
        records, events = self.journal.take()
        outcomes = (*done, *more) if more else done
        step = Advance(
            run_id=self.id,
            fence=self.record.fence,
            create=create,
            done=outcomes,
            claims=tuple(self.units.all[index].key for index in following.run),
            releases=releases,
            events=records,
            audit=tuple(audit_of(self.id, each) for each in outcomes),
            finish=ended,
        )
        return step, events

    def _end(self) -> RunDone:
        """Decide how the run ends, and note it."""
        settled = [self.board.settled[index] for index in self.units.targets]
        failed = next((each for each in settled if each is not None and each.error is not None), None)
        error = self.ends_with = self.error if self.error is not None or failed is None else failed.error
        now = self.services.store.now()
        body = {**self.facts(), "seconds": self.seconds}
        self.journal.add_all(self.journal.told.cancelled(now))
        if error is None:
            self.journal.add(RunSucceeded, now, dict(body))
        else:
            self.journal.add(RunFailed, now, dict(body), error)
        state: Literal["succeeded", "failed"] = "succeeded" if error is None else "failed"
        self.journal.add(RunFinished, now, {**body, "state": state}, error)
        return RunDone(state=state, error=None if error is None else describe(error, partition=self.request.encoded))

    def unfinished(self) -> list[dict[str, object]]:
        """Return the assets whose bodies have begun and not come to an end, as `AssetFinished` tells of them."""
        now = self.services.clock.monotonic()
        return [
            {
                "asset": self.units.all[index].node.name,
                "partition": self.units.all[index].key.partition,
                "seconds": now - begun,
                "attempts": attempt,
            }
            for index, (attempt, begun) in self.running.items()
            if not self.board.is_settled(index)
        ]

    async def tell_cancelled(self) -> None:
        """Emit the events of a cancellation, which whoever cancelled the run has committed."""
        now, body = self.services.store.now(), self.facts()
        self.journal.add_all(self.journal.told.cancelled(now))
        for each in self.unfinished():
            self.journal.add(AssetFinished, now, {**each, "outcome": "cancelled"})
        self.journal.add(RunCancelled, now, {**body, "seconds": self.seconds})
        self.journal.add(RunFinished, now, {**body, "seconds": self.seconds, "state": "cancelled"})
        await self.hooks.emit_all(self.journal.take()[1])
