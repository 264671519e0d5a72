"""Recording that a run is cancelled, with the end of whatever it was computing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from flowstone_async._engine.acting import Actor, acting_now
from flowstone_async._engine.request import BACKFILL
from flowstone_async.events import AssetFinished, RunCancelled, RunFinished
from flowstone_async.store.protocol import Store
from flowstone_async.store.records import AuditEntry, EventRecord, RunRecord, RunState

_MOST = 1000
_ACTIVE: tuple[RunState, ...] = ("running", "waiting")


class Left(NamedTuple):
    """What a run leaves behind.

    Attributes:
        unfinished: The assets whose bodies had begun and not come to an end, as `AssetFinished` tells of them.
        waits: The events of gates that were open.
    """

    unfinished: Iterable[Mapping[str, object]]
    waits: Iterable[EventRecord]


async def cancel(
    store: Store,
    record: RunRecord,
    left: Left,
    seconds: float,
    actor: str | None,
    *,
    unless_joined: bool = False,
) -> RunRecord | None:
    """Cancel a run, and return it as it is now.

    Args:
        store: Where it is.
        record: The run.
        left: What it leaves behind.
        seconds: How long it has gone on.
        actor: Who cancels it; None for whoever the current task acts for.
        unless_joined: Leave it alone if a submission stands for it.
    """
    now = store.now()
    body = {"targets": list(record.targets), "partition": record.partition, "seconds": seconds}
    events = (
        *left.waits,
        *(EventRecord(0, AssetFinished.type, now, {**each, "outcome": "cancelled"}) for each in left.unfinished),
        EventRecord(0, RunCancelled.type, now, body),
        EventRecord(0, RunFinished.type, now, {**body, "state": "cancelled"}),
    )
    who = acting_now() if actor is None else Actor(actor)
    entry = AuditEntry("run.cancelled", record.id, actor=who.name, actor_kind=who.kind, run_id=record.id)
    return await store.cancel(record.id, events, (entry,), unless_joined=unless_joined)


async def partitions_of(store: Store, backfill: RunRecord) -> list[str]:
    """Return the active runs of a backfill's partitions, which others may drive, or nobody; none for any other run."""
    if BACKFILL not in backfill.options:
        return []
    names, asset, found = (backfill.pipeline,), backfill.targets[0], list[str]()
    for state in _ACTIVE:
        last = None
        while page := await store.runs(pipelines=names, state=state, asset=asset, limit=_MOST, after=last):
            found += [run.id for run in page if run.options.get("parent") == backfill.id]
            last = page[-1].id
    return found
