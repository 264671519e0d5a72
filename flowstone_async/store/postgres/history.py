"""What has happened: runs, events and audit entries, page by page; and what waits and works now."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import islice
from uuid import UUID

from asyncpg import Record

from flowstone_async.store.figures import Figures
from flowstone_async.store.gates import GateKind
from flowstone_async.store.postgres import encoding
from flowstone_async.store.postgres.connections import Connections
from flowstone_async.store.postgres.identifiers import is_id
from flowstone_async.store.postgres.instants import Instants
from flowstone_async.store.postgres.rows import audit_entry, run_record
from flowstone_async.store.records import (
    FINAL_RUN_STATES,
    AuditEntry,
    EventRecord,
    LiveWorker,
    QueueState,
    RunRecord,
    RunState,
    StoredEvent,
    Worker,
)

_LATEST = (datetime(9999, 12, 31, tzinfo=UTC), UUID(int=2**128 - 1))


class History:
    """Reads what has happened.

    Args:
        connections: To the server.
        instants: The store's clock.
    """

    def __init__(self, connections: Connections, instants: Instants) -> None:
        self._connections = connections
        self._instants = instants

    async def runs(
        self, pipelines: Sequence[str], *, state: RunState | None, asset: str | None, limit: int, after: str | None
    ) -> tuple[RunRecord, ...]:
        """Return runs, newest first."""
        behind: tuple[object, ...] = _LATEST
        if after is not None:
            last = await self._connections.fetch("run", after) if is_id(after) else []
            if not last:
                return ()
            behind = (last[0]["created_at"], last[0]["id"])
        target = None if asset is None else encoding.encode(asset)
        names = list(dict.fromkeys(pipelines))
        rows = await self._connections.fetch(_listing(state, target), names, state, target, *behind, limit)
        return tuple(map(run_record, rows))

    async def events(self, run_id: str, *, after: int, limit: int) -> tuple[EventRecord, ...]:
        """Return a run's events behind a number."""
        rows = await self._connections.fetch("events", run_id, after, limit) if is_id(run_id) else []
        read = (event for row in rows for event in encoding.events(row[0]) if event.no > after)
        return tuple(islice(read, limit))

    async def all_events(self, pipelines: Sequence[str], *, after: int, limit: int) -> tuple[StoredEvent, ...]:
        """Return events of all runs behind a cursor; see `settled` in queries/event.sql for what can be read."""
        settled = (await self._connections.fetch("settled"))[0][0]
        rows = await self._connections.fetch("all_events", list(dict.fromkeys(pipelines)), after, limit, settled)
        read = (
            StoredEvent(cursor, str(run_id), pipeline, event)
            for first, run_id, pipeline, body in rows
            for cursor, event in enumerate(encoding.events(body), first)
            if cursor > after
        )
        return tuple(islice(read, limit))

    async def audit(self, *, limit: int, after: int | None) -> tuple[tuple[int, datetime, AuditEntry], ...]:
        """Return audit entries, newest first."""
        rows = await self._connections.fetch("audit", limit, after)
        return tuple((row["no"], row["at"], audit_entry(row)) for row in rows)

    async def queue(self, pipelines: Sequence[str]) -> QueueState:
        """Count the runs that have not ended."""
        rows = await self._connections.fetch("queue", list(dict.fromkeys(pipelines)), self._instants.given())
        return QueueState(*rows[0])

    async def figures(self, pipelines: Sequence[str]) -> Figures:
        """Count open gates, and items of scatters that are under way."""
        names = list(dict.fromkeys(pipelines))
        gates = await self._connections.fetch("figures_of_gates", names, self._instants.given())
        [(total, waiting, succeeded, failed)] = await self._connections.fetch("figures_of_items", names)
        of_kind: list[tuple[GateKind, int]] = [(row[0], row[1]) for row in gates]
        return Figures(dict(of_kind), total - waiting - succeeded - failed, waiting, succeeded, failed)

    async def workers(self) -> tuple[LiveWorker, ...]:
        """Return the workers that nobody has declared dead."""
        rows = await self._connections.fetch("workers")
        return tuple(LiveWorker(_worker(row), row["started_at"], row["lease"]) for row in rows)


def _worker(row: Record) -> Worker:
    return Worker(id=row["id"], host=row["host"], pid=row["pid"], pipelines=tuple(row["pipelines"]))


def _listing(state: RunState | None, target: str | None) -> str:
    if state is None or state == "succeeded":
        return "runs" if target is None else "runs_of_target"
    return "runs_unhappy" if state in FINAL_RUN_STATES else "runs_active"
