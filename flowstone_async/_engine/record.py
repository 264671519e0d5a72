"""From outcomes to what is committed of them: events, asset records, audit entries, one log line each."""

from __future__ import annotations

import logging
from datetime import datetime, timedelta

from flowstone_async._engine.journal import Journal
from flowstone_async._engine.outcome import Computed, Failing, Settled
from flowstone_async.events import (
    AssetFailed,
    AssetFinished,
    AssetRetrying,
    AssetReused,
    AssetSkipped,
    AssetStarted,
    AssetSucceeded,
)
from flowstone_async.failures import describe
from flowstone_async.planning.units import Unit
from flowstone_async.redaction import one_line
from flowstone_async.store.records import AssetDone, AuditEntry

_logger = logging.getLogger("flowstone")


def _where(unit: Unit) -> dict[str, object]:
    return {"asset": unit.node.name, "partition": unit.key.partition}


def note_started(journal: Journal, unit: Unit, at: datetime) -> None:
    """Note the start of the first attempt; it is committed with whatever comes next."""
    journal.add(AssetStarted, at, _where(unit))


def note_retry(journal: Journal, unit: Unit, attempt: int, failing: Failing, wait: float, now: datetime) -> None:
    """Note that an attempt failed and another follows."""
    due = now + timedelta(seconds=wait)
    body = {**_where(unit), "attempt": attempt, "wait": wait, "due": due.isoformat()}
    journal.add(AssetRetrying, now, body, failing.error)
    why = one_line(failing.error.message)
    _logger.info("asset %s%s failed, attempt %d; again in %.3g s: %s", *_label(unit), attempt, wait, why)


def _label(unit: Unit) -> tuple[str, str]:
    return unit.node.name, f" [{one_line(unit.key.partition)}]" if unit.key.partition else ""


def note_outcome(
    journal: Journal, unit: Unit, outcome: Computed | Failing, attempts: int, now: datetime, run_id: str
) -> Settled:
    """Note how the last attempt ended, and return how the unit settles."""
    where = _where(unit)
    if isinstance(outcome, Computed):
        made = outcome.materialization
        body: dict[str, object] = {**where, "seconds": made.seconds, "attempts": attempts}
        succeeded = {**body, "materialization": made.id, "size": made.size}
        if made.metadata:
            succeeded["metadata"] = made.metadata
        journal.add(AssetSucceeded, now, succeeded)
        journal.add(AssetFinished, now, {**body, "outcome": "succeeded"})
        if _logger.isEnabledFor(logging.INFO):
            _log(logging.INFO, unit, run_id, "succeeded", made.seconds, attempts)
        return Settled("ok", made, outcome.payload, seconds=made.seconds, attempts=attempts)
    error = outcome.error
    body = {**where, "seconds": outcome.seconds, "attempts": attempts}
    journal.add(AssetFailed, now, dict(body), error)
    journal.add(AssetFinished, now, {**body, "outcome": "failed"}, error)
    _log(logging.ERROR, unit, run_id, "failed", outcome.seconds, attempts, error.message)
    return Settled("failed", error=error, seconds=outcome.seconds, attempts=attempts)


def _log(level: int, unit: Unit, run_id: str, outcome: str, seconds: float, attempts: int, why: str = "") -> None:
    facts = {"run_id": run_id, "asset": unit.node.name, "partition": unit.partition, "outcome": outcome}
    extra = {**facts, "seconds": seconds, "attempts": attempts}
    tail = f": {one_line(why)}" if why else ""
    name, where = _label(unit)
    _logger.log(
        level,
        "asset %s%s %s in %.3g s, attempts %d, run %s%s",
        name,
        where,
        outcome,
        seconds,
        attempts,
        run_id,
        tail,
        extra=extra,
    )


def note_settled(journal: Journal, unit: Unit, settled: Settled, now: datetime, run_id: str) -> list[AssetDone]:
    """Note a unit that ended without a call of its body; return what is recorded of it (nothing, if it was reused)."""
    where = _where(unit)
    if settled.state == "cached" and settled.materialization is not None:
        journal.add(AssetReused, now, {**where, "materialization": settled.materialization.id})
        return []
    if settled.state == "skipped":
        reason = settled.reason or ""
        journal.add(AssetSkipped, now, {**where, "reason": reason})
        return [AssetDone(key=unit.key, outcome="skipped", claimed=False, attempts=0, started_at=now, reason=reason)]
    if settled.error is not None:
        blocked = settled.state == "blocked"
        body = {**where, "seconds": settled.seconds, "attempts": settled.attempts, "blocked": blocked}
        journal.add(AssetFailed, now, body, settled.error)
        if not blocked:
            _log(logging.ERROR, unit, run_id, "failed", settled.seconds, settled.attempts, settled.error.message)
        failure = describe(settled.error, partition=unit.key.partition)
        return [AssetDone(key=unit.key, outcome="failed", claimed=False, attempts=0, started_at=now, error=failure)]
    return []


def asset_done(unit: Unit, outcome: Computed | Failing, settled: Settled) -> AssetDone:
    """Return the record of a unit whose body was called, which ends its claim."""
    if isinstance(outcome, Computed):
        made = outcome.materialization
        return AssetDone(
            key=unit.key,
            outcome="completed",
            attempts=settled.attempts,
            started_at=made.started_at,
            seconds=made.seconds,
            materialization=made,
            payload=outcome.payload,
            table=outcome.table,
        )
    return AssetDone(
        key=unit.key,
        outcome="failed",
        attempts=settled.attempts,
        started_at=outcome.started_at,
        seconds=outcome.seconds,
        error=describe(outcome.error, partition=unit.key.partition),
    )


_ACTIONS = {
    "completed": "asset.succeeded",
    "failed": "asset.failed",
    "skipped": "asset.skipped",
    "cancelled": "asset.cancelled",
}


def audit_of(run_id: str, done: AssetDone) -> AuditEntry:
    """Return the audit entry of an outcome."""
    return AuditEntry(action=_ACTIONS[done.outcome], subject=str(done.key), run_id=run_id)
