"""The queue: runs that are submitted, and workers that claim them. See docs/adr/0007-queue.md."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from datetime import datetime

from flowstone_async.errors import KeyConflict, StoreUnavailable
from flowstone_async.store.postgres.connections import Connections
from flowstone_async.store.postgres.encoding import encode
from flowstone_async.store.postgres.floors import Floors
from flowstone_async.store.postgres.hints import Hints
from flowstone_async.store.postgres.identifiers import is_id
from flowstone_async.store.postgres.instants import Instants
from flowstone_async.store.postgres.lent import fetch_lent
from flowstone_async.store.postgres.redriving import Trimming, redrive
from flowstone_async.store.postgres.remains import TRIMS, Remains
from flowstone_async.store.postgres.rows import run_record
from flowstone_async.store.postgres.step import audit_row
from flowstone_async.store.records import RunRecord, Submission, Submitted
from flowstone_async.store.redrives import Redrive, still_trimmed

_LARGE = 300.0  # seconds for a scatter of which millions of items failed
_PAUSE = 0.1


class Queue:
    """Puts runs into the queue and takes them from it.

    Args:
        connections: To the server.
        instants: The store's clock.
        hints: Who waits for what changes.
    """

    def __init__(self, connections: Connections, instants: Instants, hints: Hints) -> None:
        self._connections = connections
        self._instants = instants
        self._hints = hints
        self._floors = Floors()
        self._remains = Remains(connections, instants)

    async def submit(self, submission: Submission, connection: object, redrives: Sequence[Redrive] = ()) -> Submitted:
        """Put a run into the queue, or find the one that it joins; see `Store.submit`."""
        if redrives:
            found, outcome = await self._redriving(submission, redrives)
        elif connection is None:
            [(found, outcome)] = await self._connections.fetch("submit", *self._row(submission, joins=True))
        else:
            [(found, outcome)] = await fetch_lent(
                self._connections, connection, "submit", *self._row(submission, joins=False)
            )
        run = submission.run
        if outcome == "conflict":
            raise KeyConflict(
                f"key={submission.key!r} was used for another target, partition or params, by run {found}",
                run_id=str(found),
                hint="Use a key of its own for each thing to be done.",
            )
        if outcome == "taken":
            raise KeyConflict(
                f"run_id={run.id!r} was used already", run_id=run.id, hint="Leave it out, or make a new one."
            )
        if str(found) == run.id:
            if connection is None:
                self._hints.queued()
            return Submitted(run, created=True)
        return Submitted(await self._joined(str(found), run, connection), created=False)

    async def _redriving(self, submission: Submission, redrives: Sequence[Redrive]) -> tuple[object, str]:
        """Store a run with scatters that go on from others; again if the reply is lost, with the same ids."""
        give_up = time.monotonic() + self._connections.patience
        while True:
            try:
                async with self._connections.transaction() as session:
                    session.patience = _LARGE
                    [(found, outcome)] = await session.fetch("submit", *self._row(submission, joins=True))
                    if outcome == "created":
                        await redrive(session, self._instants, submission.run.id, redrives)
                return found, outcome
            except StoreUnavailable:
                if time.monotonic() > give_up:
                    raise
            except Trimming as trimming:
                await self._remains.finish(TRIMS, [trimming.root])  # others may be at it
                if time.monotonic() > give_up:
                    raise still_trimmed(str(trimming.root)) from None
            await asyncio.sleep(_PAUSE)

    def _row(self, submission: Submission, *, joins: bool) -> Sequence[object]:
        run = submission.run
        _, _, actor, actor_kind, _, details = audit_row(submission.audit)
        return (
            run.id,
            run.pipeline,
            run.partition,
            encode(run.targets),
            encode(run.options),
            run.params,
            run.priority,
            run.at,
            (run.request or None) if joins else None,
            submission.key,
            submission.subject,
            actor,
            actor_kind,
            details,
            self._instants.given(),
        )

    async def _joined(self, run_id: str, asked: RunRecord, connection: object) -> RunRecord:
        """Return the run that was joined; it may be pruned by now, or be there for the caller's transaction only."""
        if connection is None:
            rows = await self._connections.fetch("run", run_id)
        else:
            rows = await fetch_lent(self._connections, connection, "run", run_id)
        if rows:
            return run_record(rows[0])
        return RunRecord(id=run_id, pipeline=asked.pipeline, targets=asked.targets, partition=asked.partition)

    async def claim(self, worker: str, pipelines: Sequence[str], limit: int) -> tuple[RunRecord, ...]:
        """Take queued runs; see `Store.claim`. It is not repeated when its reply is lost: nobody would drive those."""
        now = self._instants.given()
        look = self._floors.look(worker, pipelines)
        bounds = (_array(look.since), _array(look.ages)) if now is None else (None, None)  # a virtual clock may jump
        async with self._connections.translated(), self._connections.session() as session:
            rows = await session.fetch("claim", worker, list(pipelines), now, limit, *bounds)
        self._floors.learn(look, [(row["priority"], row["due_at"]) for row in rows], limit)
        return tuple(map(run_record, rows))

    async def owned(self, worker: str, pipelines: Sequence[str]) -> Mapping[str, int]:
        """Return what a worker owns; see `Store.owned`."""
        rows = await self._connections.fetch("owned", worker, list(pipelines))
        return {str(run_id): fence for run_id, fence in rows}

    async def moved_on(self, owned: Mapping[str, int]) -> frozenset[str]:
        """Return the runs that have ended or changed hands; see `Store.moved_on`."""
        known = {run_id: fence for run_id, fence in owned.items() if is_id(run_id)}
        if not known:
            return frozenset()
        rows = await self._connections.fetch("moved_on", list(known), list(known.values()))
        return frozenset(str(row[0]) for row in rows)


def _array(values: Sequence[datetime | float | None]) -> str:
    """Return an array as Postgres reads it."""
    texts = ("NULL" if each is None else f'"{each}"' for each in values)
    return f"{{{','.join(texts)}}}"
