"""How a run is, from the store alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from flowstone_async._engine.scatter.upstream import skipped_of
from flowstone_async._engine.waits.waiting_for import TO_GO_ON, run_waits
from flowstone_async.definition.keys import decode_key
from flowstone_async.definition.scatter_counts import ScatterCounts
from flowstone_async.errors import FlowstoneError, PartitionError
from flowstone_async.events import RunStarted
from flowstone_async.failures import rebuild
from flowstone_async.store.protocol import Store
from flowstone_async.store.records import RunRecord, RunState
from flowstone_async.store.scatters import ScatterTotals


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStatus:
    """How a run is; instants are on the store's clock.

    Attributes:
        run_id: Its id.
        state: `queued`, `running`, `waiting`, `succeeded`, `failed` or `cancelled`; see docs/states.md.
        targets: Names of the assets that it was asked for.
        partition: Its key.
        created_at: When it was submitted, or begun.
        at: The instant that it was asked to wait for.
        priority: 0 to 3, lower first.
        started_at: When it began; None while it is queued.
        finished_at: When it ended.
        seconds: From its start to its end, or until now.
        worker: The engine that drives it now.
        lost: How many engines died under it.
        error: Why it failed.
        waiting_for: What keeps it from going on; None if nothing does.
        scatters: How far each of its scatters is that has begun, by asset; the newest one of an asset with partitions.
    """

    run_id: str
    state: RunState
    targets: tuple[str, ...]
    partition: Any
    created_at: datetime | None
    at: datetime | None = None
    priority: int = 0
    started_at: datetime | None = None
    finished_at: datetime | None = None
    seconds: float | None = None
    worker: str | None = None
    lost: int = 0
    error: FlowstoneError | None = None
    waiting_for: str | None = None
    scatters: Mapping[str, ScatterCounts] = field(default_factory=dict[str, ScatterCounts])

    @property
    def scatter(self) -> ScatterCounts | None:
        """How far the last of its scatters is that has begun; None if it has none."""
        return list(self.scatters.values())[-1] if self.scatters else None


async def run_status(store: Store, record: RunRecord) -> RunStatus:
    """Return how a run is; one more query where it has begun."""
    started: datetime | None = None
    if record.state != "queued":
        first = await store.events(record.id, limit=1)
        started = first[0].at if first and first[0].type == RunStarted.type else None
    until = record.finished_at or store.now()
    partition = _key(record)
    return RunStatus(
        run_id=record.id,
        state=record.state,
        targets=record.targets,
        partition=partition,
        created_at=record.created_at,
        at=record.at,
        priority=record.priority,
        started_at=started,
        finished_at=record.finished_at,
        seconds=None if started is None else max(0.0, (until - started).total_seconds()),
        worker=record.worker if record.finished_at is None else None,
        lost=record.lost,
        error=None if record.error is None else rebuild(record.error, partition=partition),
        waiting_for=await _waiting_for(store, record),
        scatters=await _scatters(store, record.id),
    )


async def _scatters(store: Store, run_id: str) -> dict[str, ScatterCounts]:
    counts: dict[str, ScatterCounts] = {}
    for scatter in await store.scatters.of_run(run_id):
        totals = await store.scatters.totals(scatter.id)
        if totals is not None:
            waiting = await store.gates.waiting_bodies(run_id, scatter.key) if totals.open else 0
            counts.pop(scatter.key.asset, None)
            counts[scatter.key.asset] = counts_of(totals, store.now(), skipped_of(scatter), waiting)
    return counts


def counts_of(totals: ScatterTotals, now: datetime, skipped: int = 0, waiting: int = 0) -> ScatterCounts:
    """Return how far a scatter is, as people count.

    Args:
        totals: As the store counts.
        now: Its time.
        skipped: Items whose upstream item failed.
        waiting: Bodies with open gates, in memory or not.
    """
    ended = totals.succeeded + totals.failed
    rest = totals.total - ended
    running = cancelled = 0
    if totals.state in ("failed", "cancelled"):
        cancelled, rest = rest, 0
    waiting = min(rest, max(waiting, totals.parked))
    if rest and totals.taken:
        running = max(0, rest - waiting - (totals.waiting - totals.parked))
    elapsed = (now - totals.since).total_seconds()
    since = ended - totals.carried
    rate = since / elapsed if since and elapsed > 0 and totals.state == "running" else None
    return ScatterCounts(
        total=totals.total + skipped,
        done=totals.succeeded,
        failed=totals.failed,
        pending=rest - running - waiting,
        running=running,
        waiting=waiting,
        skipped=skipped,
        cancelled=cancelled,
        sealed=totals.sealed,
        rate=rate,
        eta=timedelta(seconds=rest / rate) if rate and totals.sealed else None,
        items=totals.read,
    )


def _key(record: RunRecord) -> Any:
    try:
        return decode_key(record.partition)
    except PartitionError:  # a damaged record
        return record.partition


async def _waiting_for(store: Store, record: RunRecord) -> str | None:
    if record.state == "waiting":
        return await run_waits(store.gates, record.id)
    if record.state == "queued":
        later = record.at is not None and record.at > store.now()
        return f"its time, {record.at:%Y-%m-%d %H:%M:%S %Z}" if later else "a worker with a free slot"
    if record.state == "running" and record.worker is None:
        return TO_GO_ON
    return None
