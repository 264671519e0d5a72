"""Forgetting: finished runs with their events, superseded materializations, streams whose record never came."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from uuid import UUID

from flowstone_async.store.postgres.chains import delete_scatters
from flowstone_async.store.postgres.connections import Connections, Session
from flowstone_async.store.postgres.instants import Instants
from flowstone_async.store.postgres.partitions import Partitions
from flowstone_async.store.postgres.remains import Remains
from flowstone_async.store.postgres.rows import materialization
from flowstone_async.store.records import Pruned
from flowstone_async.types import Materialization

_DAY = _UNREFERENCED = 86_400.0
_RUNS_AT_ONCE = 100
_EVENTS_AT_ONCE = 5_000
_BYTES_AT_ONCE = 64 << 20
_SWEPT_AT_ONCE = 10


class Retention:
    """Forgets what is old.

    Args:
        connections: To the server.
        instants: The store's clock.
        partitions: Those of the events.
    """

    def __init__(self, connections: Connections, instants: Instants, partitions: Partitions) -> None:
        self._connections = connections
        self._instants = instants
        self._partitions = partitions
        self._remains = Remains(connections, instants)

    async def prune(self, *, runs: float | None, values: float | None, limit: int) -> Pruned:
        """Forget what is older than some seconds; see `Store.prune`. Each batch is a transaction of its own."""
        most = min(limit, _SWEPT_AT_ONCE)
        swept = await self._remains.sweep(most)  # before anything else may fail
        ended = 0 if runs is None else await self._forget_runs(runs, limit)
        forgotten = await self._forget_values(values, limit) if values is not None else ()
        await self._forget_streams(limit)
        swept += await self._remains.sweep(most - swept)
        await self._connections.fetch("forget_early", self._instants.given(), limit)
        if runs is not None:
            await self._forget_deliveries(runs, limit)
        await self._connections.fetch("forget_workers")
        return Pruned(ended, forgotten, swept)

    async def _forget_runs(self, age: float, limit: int) -> int:
        """Drop the partitions of days of which nothing is kept, then delete runs with what is left of their events."""
        by_day = age >= 2 * _DAY
        waiting = await self._partitions.drop(age) if by_day else None
        count, more = 0, True
        while more and count < limit:
            asked = (age, min(limit - count, _RUNS_AT_ONCE), self._instants.given(), by_day, waiting)
            gone, more = await self._forget_batch(asked)
            count += gone
        return count

    async def _forget_batch(self, asked: tuple[object, ...]) -> tuple[int, bool]:
        """Return how many runs went, and whether there may be more. Runs with too much take several batches."""
        async with self._connections.transaction() as session:
            born: dict[date, list[UUID]] = {}
            for run_id, day in await session.fetch("finished_runs", *asked):
                born.setdefault(day, []).append(run_id)
            left, gone = _EVENTS_AT_ONCE, list[UUID]()
            for day, old in born.items():
                left -= len(await session.fetch("forget_events", day, old, left))
                if left <= 0:
                    break
                sizes = [row[0] for row in await session.fetch("forget_steps", day, old, left, _BYTES_AT_ONCE)]
                left -= len(sizes)
                if left <= 0 or sum(sizes) >= _BYTES_AT_ONCE:
                    break
                gone += old
            free, full = await _forget_gates(session, gone, left) if gone else ([], False)
            if free:
                scatters = [row[0] for row in await session.fetch("valueless_scatters", free)]
                if scatters:
                    await delete_scatters(session, self._remains, scatters)
                await session.fetch("forget_runs", free)
        more = bool(free) or full or (bool(born) and not gone)  # those that are held are for another time
        return len(free), more

    async def _forget_deliveries(self, age: float, limit: int) -> None:
        now = self._instants.given()
        await self._connections.fetch("drop_deliveries", age, now)
        await self._connections.fetch("forget_deliveries", age, now, limit)

    async def _forget_values(self, age: float, limit: int) -> tuple[Materialization, ...]:
        now = self._instants.given()
        async with self._connections.transaction() as session:
            old = list({row[0] for row in await session.fetch("superseded", age, limit, now)})
            if not old:
                return ()
            kept = {row[0] for row in await session.fetch("current_ones", old)}
            forgotten = [one for one in old if one not in kept]
            records = [materialization(row) for row in await session.fetch("materializations", forgotten)]
            await _forget_lineage(session, records)
            for name in ("delete_chunks", "delete_uploads", "forget_materializations"):
                await session.fetch(name, forgotten)
            await session.fetch("forget_superseded", old, age, now)
        return tuple(records)

    async def _forget_streams(self, limit: int) -> None:
        async with self._connections.transaction() as session:
            rows = await session.fetch("uploads", _UNREFERENCED, limit, self._instants.given())
            gone: Sequence[UUID] = [row[0] for row in rows if not row[1]]
            if gone:
                await session.fetch("delete_chunks", gone)
            if rows:
                await session.fetch("delete_uploads", [row[0] for row in rows])


async def _forget_lineage(session: Session, records: Sequence[Materialization]) -> None:
    edges = [
        (*source.key, made.id)
        for made in records
        for source in made.inputs
        if source.key is not None and source.materialization is not None
    ]
    if edges:
        await session.fetch("forget_lineage", *zip(*edges, strict=True))


async def _forget_gates(session: Session, runs: Sequence[UUID], most: int) -> tuple[list[UUID], bool]:
    """Forget gates of runs, but for those that an open transaction holds.

    Returns:
        The runs that have none any more, and whether that was as much as one transaction forgets.
    """
    if not await session.fetch("gated", runs):
        return list(runs), False
    sizes = [row[0] for row in await session.fetch("forget_gates", runs, most, _BYTES_AT_ONCE)]
    held = {row["id"] for row in await session.fetch("gated", runs)}
    return [run for run in runs if run not in held], len(sizes) >= most or sum(sizes) >= _BYTES_AT_ONCE
