"""What an asset waits for, as its status tells."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import NamedTuple

from flowstone_async._engine.waits.alarms import is_alarm
from flowstone_async._engine.waits.mismatches import mismatch_of
from flowstone_async.definition.graph import Node
from flowstone_async.errors import FlowstoneError
from flowstone_async.store.gates import Gate, Gates, StoredGate
from flowstone_async.store.protocol import Store
from flowstone_async.store.records import AssetState
from flowstone_async.types import AssetKey

TO_GO_ON = "a worker with a free slot, to go on"
_LOOKED, _SHOWN, _LONGEST = 1_000, 3, 80


class Waited(NamedTuple):
    """What an asset waits for.

    Attributes:
        run_id: Which run waits.
        waiting_for: For people, with the ids of gates.
        error: What keeps its code from going on, if anything does.
    """

    run_id: str
    waiting_for: str
    error: FlowstoneError | None = None


async def looked_at(store: Store, key: AssetKey, node: Node) -> tuple[AssetState, Waited | None]:
    """Return an asset as it is on record, and what it waits for, if it does.

    What comes first is looked at first, so that an asset which goes on meanwhile is seen.
    """
    may_wait = node.takes_context or node.gate is not None
    waits = await waited(store.gates, key) if may_wait else None
    if waits is not None and node.scatter is not None:  # which goes on beside items that wait
        run = await store.run(waits.run_id)
        waits = waits if run is not None and run.state == "waiting" else None
    state = await _state(store, key)
    if not may_wait or waits is not None or state.state == "running":
        return state, waits
    ended = await store.gates.last_ended(key)
    state = await _state(store, key)
    return state, going_on(state, ended)


async def _state(store: Store, key: AssetKey) -> AssetState:
    return (await store.states([key])).get(key) or AssetState(key=key)


async def waited(gates: Gates, key: AssetKey) -> Waited | None:
    """Return what an asset waits for at gates; None if it does not."""
    found = await gates.waiting((key.pipeline,), key=key, limit=_LOOKED)
    mine = [each.gate for each in found if not is_alarm(each.gate)]
    if not mine:
        return None
    changed = next((mismatch_of(each) for each in mine if each.kind == "mismatch"), None)
    return Waited(mine[0].run_id, _listed(mine), changed)


def going_on(state: AssetState, ended: StoredGate | None) -> Waited | None:
    """Return what an asset waits for whose gate has ended, and that nobody computes yet; None if it does not.

    Args:
        state: The asset as it is on record.
        ended: The gate (`Gates.last_ended`).
    """
    if ended is None or state.state == "running" or state.run_id == ended.gate.run_id:
        return None
    since, done = ended.due if ended.outcome is None else ended.outcome.at, state.completed_at
    newer = since is not None and done is not None and done >= since  # another run has computed it since
    return None if newer else Waited(ended.gate.run_id, TO_GO_ON)


async def run_waits(gates: Gates, run_id: str) -> str:
    """Return what a suspended run waits for at gates; once all have ended, it goes on with the next worker."""
    found = [each.gate for each in await gates.of_run(run_id) if each.state == "open" and not is_alarm(each.gate)]
    return _listed(found) or TO_GO_ON


def _listed(gates: Sequence[Gate]) -> str:
    shown = ", ".join(map(_shown, gates[:_SHOWN]))
    return shown + (f" and {len(gates) - _SHOWN} more" if len(gates) > _SHOWN else "")


def _shown(gate: Gate) -> str:
    if gate.kind == "sleep":
        return "time to pass" if gate.due is None else f"{gate.due:%Y-%m-%d %H:%M:%S}"
    if gate.kind == "mismatch":
        return f"somebody to resolve a ReplayMismatch ({gate.id}): {mismatch_of(gate).message}"
    if gate.kind == "worker":
        return f"a worker that knows asset {gate.asset.asset!r}"
    if gate.kind == "signal":
        return f"signal {gate.name!r} ({gate.id})"
    text = json.loads(gate.facts)["approval"]["text"]
    return f"approval {text if len(text) <= _LONGEST else f'{text[: _LONGEST - 1]}…'!r} ({gate.id})"
