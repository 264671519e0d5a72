"""Runs that change hands: cancelled from outside, handed back, taken from dead workers.

Each is one transaction that locks the run first and its asset keys second, in the order of their primary key.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Literal

from asyncpg import Record

from flowstone_async.errors import Failure
from flowstone_async.store.postgres.connections import Connections, Session
from flowstone_async.store.postgres.encoding import failure_text
from flowstone_async.store.postgres.hints import Hints
from flowstone_async.store.postgres.identifiers import is_id
from flowstone_async.store.postgres.instants import Instants
from flowstone_async.store.postgres.rows import run_record
from flowstone_async.store.postgres.step import audit_row, event_rows
from flowstone_async.store.records import AuditEntry, EventRecord, RunRecord
from flowstone_async.types import AssetKey


class Ownership:
    """Moves runs from hand to hand.

    Args:
        connections: To the server.
        instants: The store's clock.
        hints: Who waits for what changes.
        healthy: Whether this worker may declare others dead whose lease has run out.
        alive: Proof of life of another worker, where there is one: False is a proof of its death.
    """

    def __init__(
        self,
        connections: Connections,
        instants: Instants,
        hints: Hints,
        *,
        healthy: Callable[[], bool],
        alive: Callable[[str], bool] | None,
    ) -> None:
        self._connections = connections
        self._instants = instants
        self._hints = hints
        self._healthy = healthy
        self._alive = alive

    async def cancel(
        self, run_id: str, events: Sequence[EventRecord], audit: Sequence[AuditEntry], *, unless_joined: bool
    ) -> RunRecord | None:
        """End a run that is not final as cancelled; see `Store.cancel`."""
        return await self._end(run_id, "cancelled", None, None, events, audit, unless_joined=unless_joined)

    async def join(self, run_id: str) -> bool:
        """Stand for a run; see `Store.join`."""
        return is_id(run_id) and bool(await self._connections.fetch("join_run", run_id))

    async def fail(
        self, run_id: str, fence: int, error: Failure, events: Sequence[EventRecord], audit: Sequence[AuditEntry]
    ) -> RunRecord | None:
        """End a run as failed that nobody drives; see `Store.fail`."""
        return await self._end(run_id, "failed", fence, failure_text(error), events, audit)

    async def _end(
        self,
        run_id: str,
        state: Literal["failed", "cancelled"],
        fence: int | None,
        error: str | None,
        events: Sequence[EventRecord],
        audit: Sequence[AuditEntry],
        *,
        unless_joined: bool = False,
    ) -> RunRecord | None:
        if not is_id(run_id):
            return None
        freed: list[AssetKey] = []
        async with self._connections.transaction() as session:
            await session.execute_named("lock_events")
            kept = unless_joined and await _is_joined(session, run_id)
            ended = [] if kept else await session.fetch("end_run", run_id, self._instants.given(), state, error, fence)
            for row in ended:
                at: datetime = row["finished_at"]
                self._instants.learn(at)
                freed += map(_key, await session.fetch("end_claims", run_id, state, at, error))
                scatters = [row["id"] for row in await session.fetch("end_scatters", run_id)]
                if scatters:
                    await session.fetch("cancel_chunks", scatters)
                await session.fetch("end_gates", run_id, at)
                await self._tell(session, run_record(row), events, at)
                await write_audit(session, audit, at)
        if ended:
            self._hints.ended(run_id, freed)
        rows = ended or await self._connections.fetch("run", run_id)
        return run_record(rows[0]) if rows else None

    async def _tell(self, session: Session, run: RunRecord, events: Sequence[EventRecord], at: datetime) -> None:
        if not events:
            return
        last: int = (await session.fetch("last_event", run.id))[0][0]
        numbered = [event._replace(no=no) for no, event in enumerate(events, last + 1)]
        columns = zip(*event_rows(numbered), strict=True)
        await session.fetch("append_events", run.id, *columns, run.pipeline, at)

    async def hand_back(self, run_id: str, fence: int) -> None:
        """Give up a run; see `Store.hand_back`."""
        if is_id(run_id) and await self._connections.fetch("hand_back", run_id, fence):
            self._hints.ended(run_id, ())
            self._hints.queued()

    async def hand_back_all(self, worker: str) -> None:
        """Give up all that a worker owns."""
        for row in await self._connections.fetch("hand_back_all", worker):
            self._hints.ended(str(row[0]), ())
            self._hints.queued()

    async def expire(self, worker: str) -> None:
        """Declare a worker dead."""
        await self._connections.fetch("expire", worker)

    async def take_orphans(
        self, worker: str, pipelines: Sequence[str], limit: int, run_id: str | None
    ) -> tuple[RunRecord, ...]:
        """Take over running runs whose owner is dead; see `Store.take_orphans`."""
        seen = (await self._connections.fetch("orphans_seen", worker, list(pipelines), run_id))[0]
        may_take: bool = seen[0]
        others: list[str] = seen[1]
        expired: list[str] = seen[2] if self._healthy() else []
        waiting: bool = seen[3]
        gone = [other for other in others if self._alive is not None and not self._alive(other)]
        if not may_take or not (waiting or gone or expired):
            return ()
        if gone or expired:
            await self._connections.fetch("declare_dead", expired, gone)
        if not limit:
            return ()
        async with self._connections.transaction() as session:
            if run_id is None:
                orphans = await session.fetch("orphans", list(pipelines), limit)
            else:
                orphans = await session.fetch("orphan", list(pipelines), run_id)
            taken = await session.fetch("take", [row[0] for row in orphans], worker) if orphans else []
            bereft = [row[0] for row in orphans if row[1] is not None]
            if bereft:
                await session.fetch("count_lost", bereft)
        order = {row[0]: place for place, row in enumerate(orphans)}
        return tuple(run_record(row) for row in sorted(taken, key=lambda row: order[row["id"]]))


async def _is_joined(session: Session, run_id: str) -> bool:
    """Tell whether a submission stands for a run, and keep any more from joining it until the transaction ends."""
    await session.fetch("lock_run", run_id)
    return (await session.fetch("joined", run_id))[0][0]


async def write_audit(session: Session, entries: Sequence[AuditEntry], at: datetime | None) -> None:
    """Write audit entries in the transaction of what they describe."""
    if entries:
        await session.fetch("append_audit", *zip(*map(audit_row, entries), strict=True), at)


def _key(row: Record) -> AssetKey:
    return AssetKey(row[0], row[1], row[2], row[3])
