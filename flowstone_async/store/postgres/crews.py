"""Crews of scatters on Postgres: one short transaction each time a worker attends. See docs/adr/0008-scatter.md."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from typing_extensions import override

from flowstone_async.store.crews import Attendance, Crews, Gift, permits
from flowstone_async.store.postgres.connections import Connections
from flowstone_async.store.postgres.scatters import record_of
from flowstone_async.store.scatters import ScatterRecord


class PostgresCrews(Crews):
    """Keeps who runs which scatter.

    Args:
        connections: To the server.
        owns: Whether this process may still commit anything: False once its lease is lost.
    """

    def __init__(self, connections: Connections, *, owns: Callable[[], bool]) -> None:
        self._connections, self._owns = connections, owns

    @override
    async def attend(
        self, scatter: str, worker: str, *, most: int | None, running: int, hungry: bool
    ) -> Attendance | None:
        if not self._owns():
            return None
        async with self._connections.transaction() as session:
            found = await session.fetch("attended", scatter, worker)
            if not found:
                return None
            state, sealed, fence, led, owner, facts = found[0]
            crew = await session.fetch("crew", scatter, worker)
            # Who reads comes first: it has items in any case.
            names = sorted((row["worker"] for row in crew if row["worker"] is not None), key=lambda name: name != owner)
            elsewhere = crew[0]["elsewhere"]
            others = [row for row in crew if row["worker"] not in (None, worker)]
            given = permits(
                most,
                place=0 if worker == owner else names.index(worker) if worker in names else len(names),
                members=len(others) + 1,
                others=sum(row["permits"] or 0 for row in others),
            )
            if state == "running":
                held = None if given is None else max(given, running)
                await session.fetch("attend", scatter, worker, held, hungry)
        return Attendance(
            state=state,
            sealed=sealed,
            fence=fence,
            led=led,
            permits=given,
            others=len(others),
            hungry=sum(row["hungry"] for row in others),
            elsewhere=elsewhere,
            facts=facts,
        )

    @override
    async def leave(self, scatter: str, worker: str) -> None:
        await self._connections.fetch("leave", scatter, worker)

    @override
    async def give(self, scatter: str, worker: str, gifts: Sequence[Gift]) -> frozenset[int]:
        if not gifts or not self._owns():
            return frozenset()
        columns = [[each.first for each in gifts], [each.fence for each in gifts], [each.keep for each in gifts]]
        columns.append([each.alone for each in gifts])
        given = {row[0] - 1 for row in await self._connections.fetch("give_chunks", worker, scatter, *columns)}
        if len(given) < len(gifts):
            known = await self._connections.fetch("given_chunks", scatter, *columns)
            given.update(row[0] - 1 for row in known)
        return frozenset(given)

    @override
    async def joinable(self, worker: str, pipelines: Sequence[str], *, limit: int) -> tuple[ScatterRecord, ...]:
        return tuple(map(record_of, await self._connections.fetch("joinable", worker, list(pipelines), limit)))
