"""Suspended runs of assets that a worker does not know, as while another version is deployed: they wait on (STEP-15).

Whoever is about to go on with one and has no such asset suspends it again, at a gate of its own kind. Every engine with
a free slot looks for gates of that kind, a page each poll, and goes on with what it knows.
"""

from __future__ import annotations

from uuid import UUID, uuid5

from flowstone_async._engine.session import Session
from flowstone_async._engine.waits.alarms import ALARM
from flowstone_async._engine.waits.mismatches import mismatch_facts
from flowstone_async.errors import AssetNotFound
from flowstone_async.store.gates import Gate, Signal, StoredGate
from flowstone_async.store.records import RunRecord
from flowstone_async.types import AssetKey

_NAME = "unknown asset"
_PAGE = 100


async def defer(session: Session, record: RunRecord, error: AssetNotFound) -> bool:
    """Suspend a run of ours again if it was before, so that others may know what it is of; tell whether it was."""
    gates = session.store.gates
    wakes = (await gates.wakes([record.id])).get(record.id)
    if wakes is None or wakes.quiet is None:
        return wakes is None
    gate = Gate(
        id=str(uuid5(UUID(record.id), f"{_NAME} {record.fence}")),
        run_id=record.id,
        body=str(uuid5(UUID(record.id), _NAME)),
        key=f"{_NAME}#{record.fence}",
        kind="worker",
        asset=AssetKey(record.pipeline, error.asset or "", record.partition, str(record.options.get("io") or "")),
        name=_NAME,
        facts=mismatch_facts(error),
    )
    if await gates.open(record.id, record.fence, [gate]) is None:
        return True
    while wakes is not None and await gates.suspend(record.id, record.fence, wakes.number) == "woken":
        wakes = (await gates.wakes([record.id])).get(record.id)
        if await gates.outcomes([gate.id]):  # somebody knows it: at no other gate it would wait for them
            await session.store.hand_back(record.id, record.fence)
            break
    return True


async def go_on(session: Session, after: str | None) -> str | None:
    """Go on with runs that others did not know, as far as slots are free, a page each time.

    Args:
        session: Of the engine.
        after: What the last call returned.

    Returns:
        Where the next page begins.
    """
    services = session.services
    free = services.settings.slots - services.slots.busy
    if free <= 0 or services.worker is None or session.closing or session.lost:
        return after
    found = await session.store.gates.waiting(tuple(session.catalogs), ("worker",), limit=_PAGE, after=after)
    for each in [each for each in found if _is_known(session, each)][:free]:
        await _wake(session, each)
    return found[-1].gate.id if len(found) == _PAGE else None


async def wake(session: Session, run_id: str) -> None:
    """Let a run go on that others did not know, if it is known here."""
    gates = session.store.gates
    if "worker" not in await gates.open_kinds(run_id, aside=ALARM):
        return  # whoever awaits it asks at each look, and a run may have a great many gates
    for each in await gates.of_run(run_id):
        if each.gate.kind == "worker" and each.state == "open" and _is_known(session, each):
            await _wake(session, each)


async def _wake(session: Session, stored: StoredGate) -> None:
    await session.store.gates.deliver(Signal(payload=b"known", gate=stored.gate.id))
    if session.services.adopt is not None:
        await session.services.adopt(stored.gate.run_id)  # before it is taken by who does not know it, again


def _is_known(session: Session, stored: StoredGate) -> bool:
    catalog = session.catalogs.get(stored.gate.asset.pipeline)
    return catalog is not None and stored.gate.asset.asset in catalog.graph.nodes
