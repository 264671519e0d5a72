"""Telling what is on record and was not told: whoever put it there died, or was cut off, before it could."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from flowstone_async._engine.replay.facts import BodyFacts
from flowstone_async._engine.replay.scope import Place
from flowstone_async._engine.replay.script import Script
from flowstone_async._engine.services import Services
from flowstone_async._engine.waits.wait_journal import WaitJournal
from flowstone_async.failures import rebuild
from flowstone_async.store.gates import StoredGate
from flowstone_async.store.steps import StepRecord

_STEPS = frozenset({"step", "tx", "map"})
_WAITS = frozenset({"signal", "approval", "sleep"})


class Body(Protocol):
    """A body that is called again."""

    services: Services
    facts: BodyFacts

    @property
    def id(self) -> str:
        """What its records lie under."""
        ...

    @property
    def journal(self) -> WaitJournal:
        """What takes what it tells."""
        ...

    @property
    def script(self) -> Script:
        """What is on record of it."""
        ...


async def retell(body: Body, found: Sequence[StepRecord]) -> None:
    """Tell what was not, in the order in which the body had seen it.

    Args:
        body: Which one.
        found: What it has on record.
    """
    journal, key = body.journal, body.facts.key
    steps = [each for each in found if each.kind in _STEPS and journal.untold(key, step=each.key, attempt=each.attempt)]
    ids = {each.key: _gate(body, each) for each in found if each.kind in _WAITS}
    gates = {each: gate for each, gate in ids.items() if journal.untold(key, gate=gate)}
    if not steps and not gates:
        return
    stored: Mapping[str, StoredGate] = {}
    if gates:
        stored = await body.services.store.gates.read(list(gates.values()))
    untold = {each.key for each in steps}
    for record in found:
        if record.key in untold:
            error = None if record.error is None else rebuild(record.error)
            journal.step(key, record.key, record.attempt, None, error)
        gate = stored.get(gates.get(record.key, ""))
        if gate is not None:
            journal.opened(gate)
            if gate.outcome is not None:
                journal.ended(gate, gate.outcome)


def _gate(body: Body, record: StepRecord) -> str:
    return body.script.cuts.gate(body.id, Place(record.key, record.path, record.place))
