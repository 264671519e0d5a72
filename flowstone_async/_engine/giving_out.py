"""Giving units out to the tasks of a run: once their claims are granted, their time has come, or somebody is ahead."""

from __future__ import annotations

import heapq
from abc import ABC, abstractmethod
from collections.abc import Mapping

from flowstone_async._engine.ahead import Begun
from flowstone_async._engine.board import Next
from flowstone_async._engine.claiming import await_claim
from flowstone_async._engine.ending import RunEnding
from flowstone_async._engine.observing import Observer
from flowstone_async._engine.outcome import Settled
from flowstone_async._engine.record import note_settled
from flowstone_async.errors import FlowstoneError
from flowstone_async.events import AssetFinished
from flowstone_async.store.records import Advance, Advanced, AssetDone, Claimed, RunRecord
from flowstone_async.types import AssetKey


class RunGivingOut(RunEnding, ABC):
    """What is ready in one run.

    Attributes:
        ahead: How many of `workers` run scatters that follow others, beyond the run's concurrency.
    """

    ahead: int
    _asking: set[int]
    _claims: dict[int, Claimed]
    _rank: Mapping[str, int]
    _ready: list[tuple[int, int]]

    @abstractmethod
    def _staff(self) -> None:
        """Start one more worker if there is work for it."""

    @abstractmethod
    async def _turn(self, index: int) -> None:
        """Do what is next for a unit that was given out."""

    @abstractmethod
    async def _step(
        self,
        following: Next,
        *,
        create: RunRecord | None = None,
        done: tuple[AssetDone, ...] = (),
        releases: tuple[AssetKey, ...] = (),
        finish: bool = False,
        observer: Observer | None = None,
    ) -> Advanced | None:
        """Commit one step."""

    def _push(self, index: int) -> None:
        asking = index in self._asking
        if not asking and self.group is not None and self.board.followed(index) is not None:
            self.workers += 1
            self.ahead += 1
            self.group.start_soon(self._work_ahead, index, name=f"run {self.id} follower {index}")
            return
        rank = -1 if asking else self._rank[self.units.all[index].node.name]
        heapq.heappush(self._ready, (rank, index))

    def _granted(self, index: int, claim: Claimed) -> None:
        self._claims[index] = claim
        due = self.tried[index].due if index in self.tried else None
        wait = 0.0 if due is None else (due - self.services.store.now()).total_seconds()
        if self.group is None:
            return
        if claim.granted and wait <= 0:
            self._push(index)
        elif claim.granted:
            self.group.start_soon(self._later, index, wait, name=f"run {self.id} retry {index}")
        else:
            self.group.start_soon(self._await_claim, index, name=f"run {self.id} claim {index}")

    async def _later(self, index: int, wait: float) -> None:
        with self.interruptible_wait():
            await self.services.clock.sleep(wait)
            self._push(index)
            self._staff()

    async def _await_claim(self, index: int) -> None:
        """Wait until the run that computes this key has ended, then claim it."""
        with self.interruptible_wait():
            claimed = await await_claim(self, self.units.all[index].key)
            if claimed is not None:
                self._claims[index] = claimed
                self._push(index)
                self._staff()

    # -- scatters that follow others ------------------------------------------------------------------------------

    def scatter_begun(self, place: int, scatter: str) -> None:
        """Let units that follow a scatter begin, now that it is on record."""
        if self.group is not None and self.stopping is None and self.board.has_followers(place):
            self.group.start_soon(self._let_follow, place, scatter, name=f"run {self.id} followers of {place}")

    async def _let_follow(self, place: int, scatter: str) -> None:
        if self.stopping is not None or self.board.is_settled(place):
            return
        following = self.board.scatter_begun(place, scatter)
        try:
            if any(following):
                await self._step(following)
                self._staff()
        except FlowstoneError as error:
            self.break_off(error)

    async def _work_ahead(self, index: int) -> None:
        """Run a scatter that follows another."""
        try:
            if self.stopping is None:
                await self._turn(index)
        except FlowstoneError as error:
            self.break_off(error)
        finally:
            self.workers -= 1
            self.ahead -= 1
            self._staff()

    def followed(self, place: int) -> Begun | None:
        """Return the scatter that a unit follows, if that has begun and not ended."""
        return self.board.followed(place)

    def _tell_followers(self, step: Advance, following: Next) -> None:
        """Tell those that follow a scatter that its end is on record."""
        for begun in self.board.begun():
            if begun.committed.is_set() or not self.board.is_settled(begun.place):
                continue
            key = self.units.all[begun.place].key
            if begun.place in following.settled or key in step.releases or any(each.key == key for each in step.done):
                begun.committed.set()

    def _has_lost_what_it_follows(self, index: int) -> bool:
        """Whether the scatter that a unit follows has ended without a value before the unit began."""
        return self.units.all[index].node.scatter is not None and self.board.blocked(index) is not None

    async def _block(self, index: int, observer: Observer | None) -> None:
        """End a scatter that has begun, for the one that it follows has ended without a value."""
        unit, now = self.units.all[index], self.services.store.now()
        attempts, begun = self.running.pop(index, (1, self.services.clock.monotonic()))
        settled: Settled = self.board.blocked(index) or Settled("skipped", reason="the scatter that it follows is gone")
        done = note_settled(self.journal, unit, settled, now, self.id)
        outcome = "skipped" if settled.error is None else "failed"
        body: dict[str, object] = {"asset": unit.node.name, "partition": unit.key.partition, "outcome": outcome}
        seconds = self.services.clock.monotonic() - begun
        self.journal.add(AssetFinished, now, {**body, "seconds": seconds, "attempts": attempts}, settled.error)
        await self._step(self.board.settle(index, settled), done=tuple(done), releases=(unit.key,), observer=observer)
