"""Who owns runs: workers that die, orphans, handing back, cancelling."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from typing import Literal

from flowstone_async.errors import Failure
from flowstone_async.store.memory.key import Key
from flowstone_async.store.memory.memory import Memory
from flowstone_async.store.memory.run import NOBODY, Run
from flowstone_async.store.records import AssetDone, AssetOutcome, AuditEntry, EventRecord


def expire(memory: Memory, worker: str) -> None:
    """Let a worker die: it is told, and every later step of its runs is refused."""
    lease = memory.leases.pop(worker, None)
    if lease is None:
        return
    lease.expire()
    memory.limits.leave({worker})
    memory.waiters.wake("queue")
    for run in memory.active.values():
        if run.worker == worker:
            run.accepts = NOBODY


def leave(memory: Memory, workers: Iterable[str]) -> None:
    """End the leases of workers that go in good order; what they own is handed back."""
    ended = {worker for worker in workers if memory.leases.pop(worker, None) is not None}
    memory.limits.leave(ended)
    for run in memory.active.values() if ended else ():
        if run.worker in ended:
            hand_back(memory, run)


def hand_back(memory: Memory, run: Run) -> None:
    """Let a run that is owned go, for another worker to take."""
    run.worker = None
    run.accepts = NOBODY
    memory.moved(run)
    memory.waiters.wake("queue")


def take_orphans(memory: Memory, worker: str, pipelines: Collection[str], limit: int, run_id: str | None) -> list[Run]:
    """Give at most `limit` orphans to `worker`, or only one run."""
    if worker not in memory.leases:
        return []
    taken: list[Run] = []
    candidates = memory.active.values() if run_id is None else filter(None, (memory.active.get(run_id),))
    for run in tuple(candidates):
        if run.state != "running" or run.created.pipeline not in pipelines:
            continue
        if run.worker in memory.leases:
            continue
        if len(taken) == limit:
            break
        _take(memory, run, worker)
        taken.append(run)
    return taken


def _take(memory: Memory, run: Run, worker: str) -> None:
    if run.worker is not None:
        run.lost += 1
        for key in run.claims:
            key.lost += 1
    run.owned(worker)
    memory.moved(run)


def end(
    memory: Memory,
    run: Run,
    state: Literal["failed", "cancelled"],
    error: Failure | None,
    events: Sequence[EventRecord],
    audit: Sequence[AuditEntry],
) -> None:
    """End a run that is not final from outside: its fence moves, and what it was computing ends with it."""
    at = memory.clock.now()
    first = len(run.events) + 1
    numbered = tuple(event._replace(no=number) for number, event in enumerate(events, first))
    run.events.extend(numbered)
    memory.log.append(run, numbered)
    memory.note(audit, at)
    outcome: AssetOutcome = state
    for key in tuple(run.claims):
        run.free(key)
        key.attempted(run.id, _cut_off(key, outcome, error, at), at)
        memory.changed(key)
    memory.scatters.end_of_run(run.id)
    memory.gates.end_of_run(run.id)
    run.fence += 1
    run.ended(state, error, at)
    memory.finish(run)
    memory.moved(run)


def _cut_off(key: Key, outcome: AssetOutcome, error: Failure | None, at: datetime) -> AssetDone:
    started = key.claimed_at or at
    seconds = (at - started).total_seconds()
    return AssetDone(key=key.name, outcome=outcome, started_at=started, seconds=seconds, error=error)


def join(memory: Memory, run_id: str) -> bool:
    """Let a run go on though whoever began it gives it up; False if it has ended."""
    run = memory.active.get(run_id)
    if run is not None:
        run.joined = True
    return run is not None
