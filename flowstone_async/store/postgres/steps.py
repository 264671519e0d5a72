"""Durable steps on Postgres: one statement for what many bodies record. See docs/adr/0010-waiting.md."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from functools import partial
from uuid import UUID

from asyncpg import Record
from typing_extensions import override

from flowstone_async.store.postgres.connections import Connections
from flowstone_async.store.postgres.encoding import decode, failure
from flowstone_async.store.postgres.identifiers import is_id
from flowstone_async.store.postgres.instants import Instants
from flowstone_async.store.postgres.lending import Lending
from flowstone_async.store.postgres.repeating import Repeating
from flowstone_async.store.postgres.step_lane import StepCall, StepLane, row_id
from flowstone_async.store.steps import StepRecord, Steps, StepTransaction

_PAGE = 1000
_PAGE_BYTES = 64 << 20
_BEFORE_ALL = UUID(int=0)


class PostgresSteps(Steps):
    """Keeps steps.

    Args:
        connections: To the server.
        instants: The store's clock.
        owns: Whether this process may still commit anything: False once its lease is lost.
        patience: Seconds for which results are sent again while the server cannot be reached.

    Attributes:
        lane: Run `serve` of it, in a task of its own.
    """

    def __init__(
        self, connections: Connections, instants: Instants, *, owns: Callable[[], bool], patience: float
    ) -> None:
        self._connections, self._owns = connections, owns
        self._patiently = Repeating(owns, patience)
        self.lane = StepLane(connections, instants, owns=owns, patience=patience)
        self._lending = Lending(connections, instants, owns=owns, patience=patience)

    async def close(self) -> None:
        """Lend no connection any more."""
        await self._lending.close()

    @override
    async def record(self, run_id: str, fence: int, body: str, steps: Sequence[StepRecord]) -> bool:
        if not self._owns() or not is_id(run_id):
            return False
        if not steps:
            return bool(await self._connections.fetch("hold_run", run_id, fence))
        call = StepCall(run_id, fence, body, steps)
        self.lane.submit(call)
        return await call.answer

    @override
    async def drop(self, run_id: str, fence: int, body: str, keys: Collection[str]) -> bool:
        if not is_id(run_id) or not is_id(body):
            return False
        return await self._patiently(partial(self._drop, run_id, fence, body, [row_id(key) for key in keys]))

    async def _drop(self, run_id: str, fence: int, body: str, steps: Sequence[UUID]) -> bool:
        if not self._owns():
            return False
        async with self._connections.transaction() as session:
            held = await session.fetch("hold_run", run_id, fence)
            if held and steps:
                await session.fetch("drop_steps", run_id, body, steps)
        return bool(held)

    @override
    async def recorded(self, run_id: str, body: str) -> tuple[StepRecord, ...]:
        found: list[StepRecord] = []
        last = _BEFORE_ALL
        while is_id(run_id) and is_id(body):
            rows = await self._connections.fetch("steps_of_body", run_id, body, last, _PAGE, _PAGE_BYTES)
            if not rows:
                break
            last = rows[-1]["id"]
            found += map(_record, rows)
        return tuple(sorted(found, key=lambda step: step.seen))

    @override
    @asynccontextmanager
    async def transaction(self, run_id: str, fence: int, body: str) -> AsyncGenerator[StepTransaction]:
        async with self._lending.transaction(run_id, fence, body) as lent:
            yield lent


def _record(row: Record) -> StepRecord:
    return StepRecord(
        key=_text(row["key"]),
        path=_text(row["path"]),
        place=row["place"],
        seen=row["seen"],
        attempt=row["attempt"],
        kind=row["kind"],
        function=_text(row["function"]),
        arguments=row["arguments"],
        value=row["value"],
        error=failure(row["error"]),
    )


def _text(text: str) -> str:
    return decode(f'"{text}"')
