"""Bodies that wait at gates, for tests: made known to the test, signalled by it, looked at in the store."""

from __future__ import annotations

import asyncio
from typing import Any

from flowstone_async import Engine, FlowstoneError, SignalGate
from flowstone_async.store.gates import Delivered, Signal, StoredGate
from tests.support.gate import soon
from tests.support.modes import BEFORE, mode


class Desk:
    """Gates that bodies have made, by name, in the order in which they were made."""

    def __init__(self) -> None:
        self.gates: list[SignalGate[Any]] = []
        self._more = asyncio.Condition()

    async def made(self, gate: SignalGate[Any]) -> SignalGate[Any]:
        """Make a gate known; returns it."""
        self.gates.append(gate)
        async with self._more:
            self._more.notify_all()
        return gate

    async def gate(self, number: int = 0) -> SignalGate[Any]:
        """Return a gate once it was made."""
        async with self._more:
            await soon(self._more.wait_for(lambda: len(self.gates) > number))
        return self.gates[number]


async def send(engine: Engine, gate: str, model: Any, payload: object, *, keep: float | None = 60.0) -> Delivered:
    """Signal a gate by its id."""
    session = engine._live()
    encoded = session.services.payloads.encode(model, payload)
    return await session.store.gates.deliver(Signal(encoded, gate=gate, keep=keep))


async def opened(engine: Engine, gate: str) -> StoredGate:
    """Return a gate once it is recorded."""
    return await soon(_opened(engine, gate))


async def _opened(engine: Engine, gate: str) -> StoredGate:
    while True:
        found = await engine._live().store.gates.read([gate])
        if found:
            return found[gate]
        await asyncio.sleep(0)


async def mismatch_of(engine: Engine, asset: str) -> FlowstoneError | None:
    """Return the mismatch that an asset waits with, once it does."""
    return await soon(_mismatch_of(engine, asset))


async def _mismatch_of(engine: Engine, asset: str) -> FlowstoneError | None:
    while not await engine.gates.waiting(asset=asset, kind="mismatch"):
        await asyncio.sleep(0)
    return (await engine.status(asset)).error


async def in_state(engine: Engine, run_id: str, state: str) -> None:
    """Return once a run is in a state."""
    await soon(_in_state(engine, run_id, state))


async def _in_state(engine: Engine, run_id: str, state: str) -> None:
    store = engine._live().store
    while True:
        record = await store.run(run_id)
        if (
            record is not None
            and record.state == state
            and not (state == "waiting" and await _only_begins(store, run_id))
        ):
            return
        await store.changed(f"run:{run_id}", within=0.01)


async def _only_begins(store: Any, run_id: str) -> bool:
    """Tell whether a run waits for nothing but what mode `evict` puts before its bodies."""
    if mode() != "evict":
        return False
    gates = [each for each in await store.gates.of_run(run_id) if each.outcome is None]
    return all(each.gate.key.startswith(BEFORE) for each in gates)


def runs_of(engine: Engine) -> list[str]:
    """Return the ids of the runs that an engine drives."""
    return list(engine._live().flights)
