"""From ended runs to values, errors and reports."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flowstone_async._engine import stopped
from flowstone_async._engine.observing import ObservedValues
from flowstone_async._engine.outcome import Settled
from flowstone_async._engine.report import AssetReport, ReportState, RunReport
from flowstone_async._engine.run import RunDriver
from flowstone_async._engine.targets import find
from flowstone_async._engine.user_error import fresh
from flowstone_async.definition.keys import encode_key
from flowstone_async.errors import FlowstoneError, TargetSkipped
from flowstone_async.planning.units import Unit


async def values_of(driver: RunDriver) -> tuple[Any, ...]:
    """Return the targets' values.

    Raises:
        FlowstoneError: The first failure in the order of the targets, with the rest in `.also`.
    """
    problems = [problem for index in driver.units.targets if (problem := problem_of(driver, index)) is not None]
    if problems:
        first = fresh(problems[0])
        first.also = tuple(problems[1:])
        raise first
    return tuple([await _value(driver, index) for index in driver.units.targets])


async def value_of(driver: RunDriver, index: int) -> Any:
    """Return the value of one unit of an ended run.

    Raises:
        FlowstoneError: It has none, and why.
    """
    problem = problem_of(driver, index)
    if problem is not None:
        raise fresh(problem)
    return await _value(driver, index)


async def _value(driver: RunDriver, index: int) -> Any:
    unit, settled = driver.settled(index)
    return await _load(driver, unit, settled)


async def _load(driver: RunDriver, unit: Unit, settled: Settled) -> Any:
    """Load a value for whoever awaited the run; that is no part of it."""
    observer = driver.observe(outside=True)
    if observer is None:
        return await driver.load(unit, settled, None)
    try:
        return await ObservedValues(driver, observer, driver.services.given).load(unit, settled, None)
    finally:
        await observer.heard()


def problem_of(driver: RunDriver, index: int) -> FlowstoneError | None:
    """Return why a unit of an ended run has no value; None if it has one."""
    unit, settled = driver.units.all[index], driver.board.settled[index]
    stopping = driver.stopping
    if driver.state == "waiting" and driver.board.settled[index] is None:
        return driver.error or stopped.closed(driver.id)
    if driver.state == "cancelled" or stopping == "cancelled":
        return stopped.cancelled(driver.id)
    if stopping == "lease_lost" and driver.state != "running":
        stopping = None  # it had come to its end before
    if settled is None or (stopping not in (None, "shutdown") and settled.materialization is None):
        return driver.error or stopped.closed(driver.id)
    if stopping in ("lease_lost", "broken"):
        return driver.error or stopped.closed(driver.id)  # what was settled last may not have been committed
    if stopping == "timed_out" and driver.error is not None:
        return driver.error
    if settled.state == "skipped":
        return skipped(unit.node.name, unit.partition, settled.reason or "", driver.id)
    return settled.error


def skipped(asset: str, partition: object, reason: str, run_id: str) -> FlowstoneError:
    """The target of a run was skipped in it."""
    return TargetSkipped(
        f"asset {asset!r} was skipped in this run: {reason}",
        asset=asset,
        partition=partition,
        run_id=run_id,
        details={"reason": reason},
        hint="get() returns an earlier value, if there is one.",
    )


async def report_of(driver: RunDriver) -> RunReport:
    """Return what came of a run; never raises for failures of assets."""
    entries = [await _entry(driver, unit) for unit in driver.units.all if driver.board.settled[unit.place] is not None]
    if driver.stopping is not None or driver.state == "cancelled":
        entries += [
            _unfinished(driver, unit)
            for unit in driver.units.all
            if driver.board.settled[unit.place] is None
            and driver.board.was_opened(unit.place)
            and (driver.state != "waiting" or unit.place in driver.running)
        ]
    by_unit = {(entry.asset, encode_key(entry.partition)): entry for entry in entries}
    targets = [driver.units.all[index] for index in driver.units.targets]
    reached = [by_unit.get((unit.node.name, unit.key.partition)) for unit in targets]
    values = tuple(None if each is None else each.value for each in reached)
    failed = [entry for entry in entries if entry.state == "failed"]
    ok = driver.state == "succeeded" and all(each is not None and each.error is None for each in reached)
    return RunReport(
        run_id=driver.id,
        ok=ok,
        state=driver.state,
        seconds=driver.seconds,
        value=values[0] if len(values) == 1 else values or None,
        failed=tuple(dict.fromkeys(entry.asset for entry in failed)),
        tolerated=tuple(dict.fromkeys(entry.asset for entry in failed)) if ok else (),
        error=_error(driver, failed, ok=ok),
        entries=tuple(entries),
        resolve=lambda asset: find({driver.catalog.graph.pipeline: driver.catalog}, asset)[1],
    )


def _error(driver: RunDriver, failed: Sequence[AssetReport[Any]], *, ok: bool) -> FlowstoneError | None:
    if failed:
        return failed[0].error
    problems = (problem_of(driver, index) for index in driver.units.targets)
    return None if ok else driver.error or next((each for each in problems if each is not None), None)


_STATES: dict[str, ReportState] = {
    "ok": "ok",
    "cached": "cached",
    "failed": "failed",
    "blocked": "blocked",
    "skipped": "skipped",
    "cancelled": "cancelled",
}


async def _entry(driver: RunDriver, unit: Unit) -> AssetReport[Any]:
    _, settled = driver.settled(unit.place)
    tried = driver.tried.get(unit.place)
    state, error, value = _STATES.get(settled.state, "skipped"), settled.error, None
    if settled.materialization is not None:
        try:
            value = await _load(driver, unit, settled)
        except FlowstoneError as unreadable:
            state, error = "failed", unreadable
    return AssetReport(
        asset=unit.node.name,
        partition=unit.partition,
        state=state,
        seconds=settled.seconds,
        attempts=settled.attempts,
        error=error,
        earlier=() if tried is None else tuple(tried.errors),
        reason=settled.reason,
        value=value,
    )


def _unfinished(driver: RunDriver, unit: Unit) -> AssetReport[Any]:
    waits = driver.state == "waiting" and unit.place in driver.running
    return AssetReport(
        asset=unit.node.name,
        partition=unit.partition,
        state="waiting" if waits else "cancelled",
        error=driver.changed.get((unit.key.asset, unit.key.partition)) if waits else None,
    )
