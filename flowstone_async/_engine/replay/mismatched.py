"""A body whose code does not fit its record any more: it waits at a gate until somebody says how to go on.

The mismatch is on record before its gate, so that whoever calls the body again comes to the same gate. What was said is
on record before it takes effect (`cuts.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from flowstone_async._engine.replay.cuts import (
    Cuts,
    Seen,
    gate_of,
    met_place,
    met_value,
    resolved_place,
    resolved_value,
)
from flowstone_async._engine.replay.gate import lost
from flowstone_async._engine.replay.recording import Recording
from flowstone_async._engine.replay.scope import Place
from flowstone_async._engine.replay.script import Called
from flowstone_async._engine.waits.mismatches import mismatch_facts
from flowstone_async._engine.waits.parked import Parked
from flowstone_async.errors import FlowstoneError, StoreUnavailable
from flowstone_async.store.gates import Gate, StoredGate
from flowstone_async.store.steps import StepRecord


async def ask(body: Recording, seen: Seen, error: FlowstoneError) -> tuple[Parked, ...] | None:
    """Ask how a body goes on.

    Args:
        body: Which one.
        seen: Where it does not fit its record.
        error: What is shown of that.

    Returns:
        What it waits for; nothing, if it was said already: then the body is to be called again. None if it is given up.

    Raises:
        LeaseLost: The run is not ours any more.
        StoreUnavailable: The store is away. The run was told of both.
    """
    try:
        return await _Asking(body, seen, error).run()
    except StoreUnavailable as away:
        body.facts.away(away)
        raise


class _Asking:
    def __init__(self, body: Recording, seen: Seen, error: FlowstoneError) -> None:
        self._body, self._seen, self._error = body, seen, error
        self._facts, self._steps = body.facts, body.services.store.steps

    async def run(self) -> tuple[Parked, ...] | None:
        body, facts = self._body, self._facts
        while True:
            records = await self._steps.recorded(facts.run_id, body.id)
            cuts = Cuts(records)
            if cuts.open is not None and not cuts.open.is_same(self._seen):
                await body.pass_mismatch()
                continue
            if cuts.open is None:
                await self._record(records, met_place(cuts.number), "mismatch", met_value(self._seen))
            stored = await self._opened(cuts.number)
            outcome = stored.outcome
            if outcome is None:
                future = asyncio.get_running_loop().create_future()
                return (Parked(stored.gate.id, "mismatch", None, future, timed=False),)
            body.journal.ended(stored, outcome)
            if outcome.how == "cancelled":  # somebody has died who was to put on record that it fits again
                await body.pass_mismatch()
                continue
            return await self._go_on((outcome.payload or b"").decode(), cuts.number)

    async def _go_on(self, how: str, number: int) -> tuple[Parked, ...] | None:
        if how == "discard":
            return None
        records = await self._steps.recorded(self._facts.run_id, self._body.id)
        value = resolved_value("restart" if how == "restart" else "resume_at", self._seen, records)
        await self._record(records, resolved_place(number), "resolved", value)
        return ()

    async def _record(self, records: Sequence[StepRecord], place: Place, kind: str, value: bytes) -> None:
        body, facts = self._body, self._facts
        record = body.make_record(place, Called((kind, "", "")), value)
        record = record._replace(seen=1 + max((each.seen for each in records), default=-1))
        if not await self._steps.record(facts.run_id, facts.fence, body.id, [record]):
            raise lost(facts, record.key)

    async def _opened(self, number: int) -> StoredGate:
        body, facts = self._body, self._facts
        gate = Gate(
            id=gate_of(body.id, number),
            run_id=facts.run_id,
            body=body.id,
            key=met_place(number).key,
            kind="mismatch",
            asset=facts.key,
            name=self._seen.key,
            facts=mismatch_facts(self._error),
        )
        stored = await facts.waits.open(gate)
        if stored is None:
            raise lost(facts, gate.key)
        body.journal.opened(stored)
        return stored
