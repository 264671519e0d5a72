"""The hot path: one step of one run. A step is judged first and then written, and nothing in the writing can fail."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from flowstone_async.errors import KeyConflict
from flowstone_async.store.memory.key import Key
from flowstone_async.store.memory.memory import Memory
from flowstone_async.store.memory.run import NOBODY, Run
from flowstone_async.store.records import Advance, Advanced, AssetDone, Claimed, RunDone, RunRecord
from flowstone_async.types import AssetKey, Materialization


def advance(memory: Memory, step: Advance) -> Advanced:
    """Commit a step or refuse it; see `Store.advance`."""
    at = memory.clock.now()
    run = memory.runs.get(step.run_id)
    if step.create is not None:
        run = _created(memory, run, step.create, at)
    if run is None or run.accepts != step.fence:
        return _refused(run, step, at)
    mark = step.events[0].no if step.events else _mark(step)
    if mark is not None and mark != len(run.events) + 1:
        repeated = _repeated(run, step, mark)
        if repeated is not None:
            return repeated
    outcomes: list[tuple[Key, AssetDone]] = []
    for done in step.done:
        key = _target(memory, run, done)
        if key is not None:
            outcomes.append((key, done))
    answer = _commit(memory, run, step, outcomes, at)
    if step.finish is not None:
        run.answers.clear()
    run.answers.append((mark, answer))
    return answer


def _created(memory: Memory, run: Run | None, record: RunRecord, at: datetime) -> Run | None:
    """Return the run that a step creates, not yet kept; None if its worker is not alive."""
    if run is None:
        return Run(record, at) if record.worker is None or record.worker in memory.leases else None
    if _contents(record) != _contents(run.created):
        message = f"run {record.id} exists already, and what it was asked for differs"
        raise KeyConflict(message, run_id=record.id, hint="Use a new run id for another run.")
    return run


def _contents(record: RunRecord) -> tuple[object, ...]:
    return (
        record.pipeline,
        record.targets,
        record.partition,
        dict(record.options),
        record.params,
        record.worker,
        record.continuable,
    )


def _refused(run: Run | None, step: Advance, at: datetime) -> Advanced:
    """Answer a step that may not be committed, or the repetition of one after which its run accepts nothing."""
    if run is not None and run.fence == step.fence:
        queued = step.create is not None and run.worker is None and run.created.worker is None
        ended = run.end is not None and run.end == step.finish
        if queued or ended:
            return run.answers[-1][1]
    return Advanced(accepted=False, at=at)


def _mark(step: Advance) -> str | None:
    """Return what tells a step without events from all others of its run; None if repeating it changes nothing."""
    made = (done.materialization for done in step.done)
    return next((materialization.id for materialization in made if materialization is not None), None)


def _repeated(run: Run, step: Advance, mark: int | str) -> Advanced | None:
    """Return the answer of the step's first time; None for a new step."""
    answer = run.answer(mark)
    if answer is None and step.events:
        message = f"event {mark} of run {run.id} does not follow its last one, {len(run.events)}"
        raise RuntimeError(message)
    return answer


def _target(memory: Memory, run: Run, done: AssetDone) -> Key | None:
    """Return the key that an outcome describes; None if it was committed before, or another run computes the key."""
    key = memory.keys.by_name.get(done.key)
    if key is not None and key.holder == run.id:
        return key
    if not done.claimed:
        key = key or memory.keys.known(done.key)
        return key if key.holder is None else None
    if key is None or key.run_id != run.id or key.state != done.outcome:
        message = f"run {run.id} commits {done.key} as {done.outcome} without holding its claim"
        raise RuntimeError(message)
    return None


def _commit(
    memory: Memory, run: Run, step: Advance, outcomes: Sequence[tuple[Key, AssetDone]], at: datetime
) -> Advanced:
    if step.create is not None and run.id not in memory.runs:
        memory.add(run)
    superseded: tuple[Materialization, ...] = ()
    for key, done in outcomes:
        before = _outcome(memory, run, key, done, at)
        if before is not None:
            superseded = (*superseded, before)
    for name in step.releases:
        _release(memory, run, name)
    claims: dict[AssetKey, Claimed] = {}
    for name in step.claims:
        claims[name] = _claim(memory, run, name, at)
    if step.events:
        run.events += step.events
        memory.log.append(run, step.events)
    if step.audit:
        memory.note(step.audit, at)
    if step.finish is not None:
        _finish(memory, run, step.finish, at)
    elif run.worker is None:
        run.accepts = NOBODY
    if memory.waiters.topics:
        memory.waiters.wake(f"run:{run.id}")
    return Advanced(True, at, claims, superseded)  # noqa: FBT003 - keywords would cost 0.2 µs of five


def _outcome(memory: Memory, run: Run, key: Key, done: AssetDone, at: datetime) -> Materialization | None:
    """Commit the outcome of an asset; returns the materialization that it supersedes."""
    if key.holder is not None:
        key.holder = None
        run.claims.remove(key)
    key.attempted(run.id, done, at)
    before = None
    current = done.materialization
    if current is not None:
        before = memory.replace(key, current, at)
        key.asset.durations.append(current.seconds)
        if done.payload is not None:
            memory.values.keep(current.id, done.payload)
    if memory.waiters.topics:
        memory.waiters.wake(f"key:{key.name}")
    return before


def _release(memory: Memory, run: Run, name: AssetKey) -> None:
    key = memory.keys.by_name.get(name)
    if key is not None and key.holder == run.id:
        run.free(key)
        memory.changed(key)


def _claim(memory: Memory, run: Run, name: AssetKey, at: datetime) -> Claimed:
    key = memory.keys.by_name.get(name) or memory.keys.known(name)
    if key.holder is None:
        run.claim(key, at)
    holder = key.holder or run.id
    current = key.current
    return Claimed(holder == run.id, holder, None if current is None else current.id, key.lost)


def _finish(memory: Memory, run: Run, end: RunDone, at: datetime) -> None:
    for key in tuple(run.claims):
        run.free(key)
        memory.changed(key)
    memory.gates.end_of_run(run.id)
    run.end = end
    run.ended(end.state, end.error, at)
    memory.finish(run)
