"""The committer: through it goes every step of every run of this process.

It knows what its runs hold, so that a step can be judged before it is queued, and it gives each caller its answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime

from asyncpg import Record

from flowstone_async.errors import FlowstoneError, KeyConflict
from flowstone_async.store.postgres.batch import Batch, Reply, claimed
from flowstone_async.store.postgres.connections import Connections
from flowstone_async.store.postgres.hints import Hints
from flowstone_async.store.postgres.identifiers import is_id
from flowstone_async.store.postgres.instants import Instants
from flowstone_async.store.postgres.lane import Lane, fail, refuse
from flowstone_async.store.postgres.ledger import DrivenRun, Ledger
from flowstone_async.store.postgres.rows import materialization, run_record
from flowstone_async.store.postgres.step import PendingStep, key_name
from flowstone_async.store.records import Advance, Advanced, RunRecord
from flowstone_async.types import AssetKey, Materialization

# While one lane's batch is at the server, Python prepares another's.
LANES = 2


class Committer:
    """Commits steps.

    Args:
        connections: To the server.
        instants: The store's clock.
        hints: Who waits for what a step changes.
        owns: Whether this process may still commit anything: False once its lease is lost.
        process: Tells this process's worker.
        patience: Seconds for which a batch is sent again while the server cannot be reached.

    Attributes:
        ledger: The runs that this process drives.
        lanes: Run `serve` of each, in a task of its own.
    """

    def __init__(
        self,
        connections: Connections,
        instants: Instants,
        hints: Hints,
        *,
        owns: Callable[[], bool],
        process: Callable[[], str],
        patience: float,
    ) -> None:
        self.ledger: Ledger = {}
        self._process = process
        self._connections = connections
        self._instants = instants
        self._hints = hints
        self._owns = owns
        self.lanes = tuple(
            Lane(connections, instants, owns=owns, committed=self._committed, patience=patience)
            for _ in range(1 if connections.shared else LANES)
        )

    async def advance(self, step: Advance, worker: str) -> Advanced:
        """Commit a step; see `Store.advance`. `worker` owns a run that is created without an owner."""
        if not self._owns():
            return Advanced(accepted=False, at=self._instants.now())
        if step.create is not None:
            step, driven = self._begin(step, step.create, worker)
        else:
            found = self.ledger.get(step.run_id) or await self._learn(step.run_id)
            if found is None:
                return Advanced(accepted=False, at=self._instants.now())
            driven = found
        pending = PendingStep(step, driven, asyncio.get_running_loop().create_future())
        if step.done:
            await self._require_claims(pending)
        self._lane(step.run_id).submit(pending)
        return await pending.answer

    def close(self) -> None:
        """Commit what is queued, and no more."""
        for lane in self.lanes:
            lane.close()

    def _lane(self, run_id: str) -> Lane:
        """Return the lane of a run: always the same, so that its steps stay in order."""
        return self.lanes[hash(run_id) % len(self.lanes)]

    def _begin(self, step: Advance, create: RunRecord, worker: str) -> tuple[Advance, DrivenRun]:
        if create.worker is None and create.state == "running":
            create = replace(create, worker=worker)
            step = step._replace(create=create)
        return step, self.ledger.setdefault(step.run_id, DrivenRun(create.pipeline, create.worker or ""))

    async def _learn(self, run_id: str) -> DrivenRun | None:
        """Ask the database for what has to be known of a run that this process has not created."""
        rows = await self._connections.fetch("driven", run_id) if is_id(run_id) else []
        if not rows:
            return None
        held = [AssetKey(row["of"], row["asset"], row["partition"], row["io"]) for row in rows if row["holds"]]
        first = rows[0]
        return self.ledger.setdefault(run_id, DrivenRun(first["pipeline"], first["worker"], held, gated=first["gated"]))

    async def gated(self, run_id: str) -> None:
        """Take note that a run that this process drives has gates: they end with it."""
        driven = self.ledger.get(run_id) or await self._learn(run_id)
        if driven is not None:
            driven.gated = True
            if driven.worker != self._process():  # only items of it run here; it may be taken over later
                self.ledger.pop(run_id, None)

    async def _require_claims(self, pending: PendingStep) -> None:
        """Make sure that a run holds what its outcomes say it holds. A repetition of a committed step need not.

        Raises:
            RuntimeError: It does not: the engine's mistake.
        """
        step = pending.step
        held = pending.driven.held
        if all(done.key in held for done in step.done if done.claimed):
            return
        rows = await self._connections.fetch("committed_before", step.run_id, pending.events[0][0], step.fence)
        repeated, valid = rows[0]
        if repeated or not valid:
            return
        self.ledger.pop(step.run_id, None)
        learnt = await self._learn(step.run_id)
        for done in step.done:
            if done.claimed and learnt is not None and done.key not in learnt.held:
                message = f"run {step.run_id} commits {done.key} as {done.outcome} without holding its claim"
                raise RuntimeError(message)

    async def _committed(self, batch: Batch, record: Record) -> None:
        """Give the callers of a batch their answers."""
        reply = batch.read(record)
        self._instants.learn(reply.at)
        before: Mapping[str, Materialization] = await self._before(reply) if reply.replaced else {}
        instants: Mapping[tuple[str, int], datetime] = await self._instants_of(batch) if reply.repeated else {}
        for pending in batch.pending:
            step = pending.step
            if step.run_id in reply.refused:
                await self._refused(pending)
            else:
                self._note(pending, reply)
                known = (step.run_id, pending.events[0][0]) if instants and pending.events else None
                at = instants.get(known, reply.at) if known is not None else reply.at
                self._answer(pending, reply, at, before)
        self._hints.committed(batch.pending, reply)

    async def _before(self, reply: Reply) -> Mapping[str, Materialization]:
        """Return the materializations that a batch has replaced."""
        rows = await self._connections.fetch("materializations", list(reply.replaced.values()))
        return {made.id: made for made in map(materialization, rows)}

    async def _instants_of(self, batch: Batch) -> Mapping[tuple[str, int], datetime]:
        """Return when the steps of a batch were committed, some of them before."""
        names = [(one.step.run_id, str(one.events[0][0])) for one in batch.pending if one.events]
        rows = await self._connections.fetch("commit_instants", *map(list, zip(*names, strict=True)))
        return {(str(run_id), first_no): at for run_id, first_no, at in rows}

    def _answer(self, pending: PendingStep, reply: Reply, at: datetime, before: Mapping[str, Materialization]) -> None:
        step = pending.step
        claims = claimed(step.claims, step.run_id, reply)
        for key, claim in claims.items():
            if not claim.granted:
                self._hints.follow(f"key:{key}")
        left = tuple(key for key in step.claims if key not in claims)
        if pending.earlier is None:
            replaced = (reply.replaced.get(key_name(done.key), "") for done in step.done) if before else ()
            superseded = tuple(before[old] for old in replaced if old in before)
            answer = Advanced(accepted=True, at=at, claims=claims, superseded=superseded)
        else:
            answer = pending.earlier._replace(claims={**pending.earlier.claims, **claims})
        if left:
            self._ask_again(pending, answer, left)
        elif not pending.answer.done():
            pending.answer.set_result(answer)

    def _ask_again(self, pending: PendingStep, answer: Advanced, left: tuple[AssetKey, ...]) -> None:
        """Ask once more for claims whose row was shared with a run that was refused."""
        step = Advance(run_id=pending.step.run_id, fence=pending.step.fence, claims=left)
        again = PendingStep(step, pending.driven, pending.answer)
        again.earlier = answer
        self._lane(step.run_id).submit(again, first=True)

    def _note(self, pending: PendingStep, reply: Reply) -> None:
        """Keep the ledger in step with what was committed."""
        step = pending.step
        if step.finish is not None:
            self.ledger.pop(step.run_id, None)
            return
        held = pending.driven.held
        if step.done or step.releases:
            held.difference_update((done.key for done in step.done), step.releases)
        for key in step.claims:
            found = reply.claims.get(key_name(key))
            if found is not None and found.holder == step.run_id:
                held.add(key)

    async def _refused(self, pending: PendingStep) -> None:
        """Answer a step that was refused: its token is old, or its run's id is taken."""
        step = pending.step
        self.ledger.pop(step.run_id, None)
        if step.create is not None:
            try:
                known = await self._connections.fetch("run", step.run_id)
            except FlowstoneError as error:
                fail((pending,), error)
                return
            if known and _contents(run_record(known[0])) != _contents(step.create):
                message = f"run {step.run_id} exists already, and what it was asked for differs"
                error = KeyConflict(message, run_id=step.run_id, hint="Use a new run id for another run.")
                fail((pending,), error)
                return
        refuse((pending,), self._instants)


def _contents(run: RunRecord) -> tuple[object, ...]:
    return (run.pipeline, run.targets, run.partition, dict(run.options), run.params, run.worker, run.continuable)
