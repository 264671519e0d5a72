"""The queue in memory: runs that are submitted, by priority and by when they may start."""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterator
from datetime import datetime

from flowstone_async.errors import KeyConflict
from flowstone_async.store.memory.memory import Memory
from flowstone_async.store.memory.run import NOBODY, Run
from flowstone_async.store.records import QueueState, RunRecord, Submission


def submit(memory: Memory, submission: Submission) -> Run:
    """Put a run into the queue, or return the one that it joins; see `Store.submit`."""
    at = memory.clock.now()
    record, key = submission.run, submission.key
    name = (record.pipeline, key or "")
    if key is not None and name in memory.run_keys:
        run_id, subject = memory.run_keys[name]
        if subject != submission.subject:
            raise KeyConflict(
                f"key={key!r} was used for another target, partition or params, by run {run_id}",
                run_id=run_id,
                hint="Use a key of its own for each thing to be done.",
            )
        return memory.runs[run_id]
    run = _equal(memory, record, at)
    if run is None:
        run = _queue(memory, record, at)
        memory.note((submission.audit,), at)
    else:
        run.joined = True
    if key is not None:
        memory.run_keys[name] = (run.id, submission.subject)
        run.keys.append(key)
    return run


def joins(memory: Memory, submission: Submission) -> bool:
    """Tell whether a submission would join a run, or be the same as one that was stored before."""
    known = submission.key is not None and (submission.run.pipeline, submission.key) in memory.run_keys
    return known or _equal(memory, submission.run, memory.clock.now()) is not None


def _equal(memory: Memory, record: RunRecord, now: datetime) -> Run | None:
    """Return the active run that a submission joins."""
    if not record.request:
        return None
    later = record.at is not None and record.at > now
    for run in memory.requests.get((record.pipeline, record.request), {}).values():
        at = run.created.at
        if at == record.at if later else run.state != "queued" or at is None or at <= now:
            return run
    return None


def _queue(memory: Memory, record: RunRecord, at: datetime) -> Run:
    if record.id in memory.runs:
        raise KeyConflict(
            f"run_id={record.id!r} was used already", run_id=record.id, hint="Leave it out, or make a new one."
        )
    run = Run(record, at)
    run.accepts = NOBODY
    memory.add(run)
    memory.submitted += 1
    due = at if record.at is None else max(at, record.at)
    ready, later = memory.queues.setdefault(record.pipeline, ([], []))
    if due > at:
        heapq.heappush(later, (due, memory.submitted, run))
    else:
        heapq.heappush(ready, (record.priority, due, memory.submitted, run))
    memory.waiters.wake("queue")
    return run


def count(memory: Memory, pipelines: Collection[str]) -> QueueState:
    """Count the runs that have not ended; see `Store.queue`."""
    now = memory.clock.now()
    active = [run for run in memory.active.values() if run.created.pipeline in pipelines]
    starts = [max(run.created_at, run.created.at or run.created_at) for run in active if run.state == "queued"]
    due = [start for start in starts if start <= now]
    running, waiting = (sum(run.state == state for run in active) for state in ("running", "waiting"))
    return QueueState(len(due), len(starts) - len(due), min(due, default=None), running, waiting)


def claim(memory: Memory, worker: str, pipelines: Collection[str], limit: int) -> Iterator[Run]:
    """Yield at most `limit` runs, which are the worker's from then on."""
    if worker not in memory.leases:
        return
    now = memory.clock.now()
    heads = [_ready(memory, pipeline, now) for pipeline in dict.fromkeys(pipelines)]
    while limit > 0 and (waiting := [ready for ready in heads if ready]):
        first = min(waiting, key=lambda ready: ready[0][:3])
        run = heapq.heappop(first)[3]
        if run.state == "queued":
            limit -= 1
            run.state = "running"
            run.owned(worker)
            memory.moved(run)
            yield run


def _ready(memory: Memory, pipeline: str, now: datetime) -> list[tuple[int, datetime, int, Run]]:
    """Return the runs of a pipeline that may start, as a heap."""
    ready, later = memory.queues.get(pipeline, ([], []))
    while later and later[0][0] <= now:
        due, no, run = heapq.heappop(later)
        heapq.heappush(ready, (run.created.priority, due, no, run))
    return ready
