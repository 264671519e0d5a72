"""Awaiting a run that this process began: until it has ended, wherever that is, or waits for somebody else.

A run that is suspended has no driver. Whoever awaits it looks whether it was woken, and takes it on here if nobody else
has; so an awaited run needs no slots.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio

from flowstone_async._engine import stopped
from flowstone_async._engine.report import RunReport
from flowstone_async._engine.request import Request
from flowstone_async._engine.results import report_of, values_of
from flowstone_async._engine.run import RunDriver
from flowstone_async._engine.session import Session
from flowstone_async._engine.stored_results import stored_report, stored_values
from flowstone_async._engine.unknown import wake
from flowstone_async._engine.waits.alarms import ALARM
from flowstone_async.errors import FlowstoneError, RunNotFound, StoreUnavailable, TimedOut
from flowstone_async.store.records import FINAL_RUN_STATES, RunRecord

_SOON = 0.005
_logger = logging.getLogger("flowstone")


async def values(session: Session, request: Request) -> tuple[Any, ...]:
    """Run, and return the targets' values.

    Raises:
        Waiting: The run waits for somebody else, and the request says that this is to be raised.
        FlowstoneError: The first failure in the order of the targets.
    """
    ended = await complete(session, request)
    if isinstance(ended, RunRecord) and ended.state == "waiting":
        raise stopped.waiting(ended.id, await session.store.gates.of_run(ended.id))
    return await (values_of(ended) if isinstance(ended, RunDriver) else stored_values(session, ended))


async def report(session: Session, request: Request) -> RunReport:
    """Run, and return what came of it."""
    ended = await complete(session, request)
    return await (report_of(ended) if isinstance(ended, RunDriver) else stored_report(session, ended))


async def complete(
    session: Session, request: Request, *, leaves: Callable[[], bool] = lambda: False
) -> RunDriver | RunRecord:
    """Run, and return the driver once it has ended here, or the record if it has ended elsewhere.

    A cancelled caller cancels the run, unless others await it.

    Args:
        session: Where it begins.
        request: What is asked for.
        leaves: Tells whether the caller waits no more while the run is suspended; `look_again` has it asked.

    Raises:
        Cancelled: So it is, or the engine was left.
    """
    suspended = await _suspended(session, request)
    if suspended is not None and (suspended in session.awaited or await session.store.join(suspended)):
        async with _awaiting(session, suspended):
            return await _outlive(session, suspended, None, request, leaves)
    flight = await session.start(request)
    driver = flight.driver
    if not flight.detached:
        session.awaited.setdefault(driver.id, 0)
    if request.on_wait == "raise":
        driver.hurry()
    async with _awaiting(session, driver.id, driver):
        await _ended(session, driver, request)
        return await _outlive(session, driver.id, driver, request, leaves)


@asynccontextmanager
async def _awaiting(session: Session, run_id: str, driver: RunDriver | None = None) -> AsyncGenerator[None]:
    """Count as somebody who awaits a run, wherever it is driven meanwhile, if such a one began it here."""
    awaited, gives_up = session.awaited, False
    counts = run_id in awaited
    if counts:
        awaited[run_id] += 1
    try:
        yield
    except (asyncio.CancelledError, TimedOut):
        gives_up = True
        raise
    finally:
        if counts:
            awaited[run_id] -= 1
            if not awaited[run_id]:
                del awaited[run_id]
                if gives_up:
                    with anyio.CancelScope(shield=True):
                        await _give_up(session, run_id, driver)


async def _suspended(session: Session, request: Request) -> str | None:
    """Return the run for an equal request that was suspended once; only bodies with a context can have waited."""
    if not request.joinable or not session.catalogs[request.pipeline].waits:
        return None
    return await session.store.gates.suspended_run(request.pipeline, request.joins())


async def _is_for_others(session: Session, run_id: str) -> bool:
    """Tell whether a suspended run waits for nothing but people and other systems."""
    kinds = await session.store.gates.open_kinds(run_id, aside=ALARM)
    return bool(kinds) and "sleep" not in kinds


async def _outlive(
    session: Session, run_id: str, driver: RunDriver | None, request: Request, leaves: Callable[[], bool]
) -> RunDriver | RunRecord:
    """Wait while a run is suspended, and go on with it once it is woken."""
    services = session.services
    while driver is None or driver.state == "waiting":
        if driver is not None and request.on_wait == "raise" and driver.error is not None:
            return driver
        session.check(run_id)
        record = await services.store.run(run_id)
        if record is None:
            raise RunNotFound(f"run {run_id} is not in this store any more", run_id=run_id)
        if record.state in FINAL_RUN_STATES:
            return record
        if record.state == "waiting":
            await wake(session, run_id)
        if record.state == "waiting" and request.on_wait == "raise" and await _is_for_others(session, run_id):
            return record
        if record.state == "running" and run_id not in session.flights and services.adopt is not None:
            with suppress(StoreUnavailable):  # for a moment, or the next look will say so
                await services.adopt(run_id)
            await asyncio.sleep(0)
        flight = session.flights.get(run_id)
        if flight is None:
            within = await _patience(session, record)
            if leaves():
                raise stopped.closed(run_id)
            await session.changed(f"run:{run_id}", within=within, run_id=run_id)
            continue
        driver = flight.driver
        if request.on_wait == "raise":
            driver.hurry()
        await driver.done.wait()
    return driver


async def _patience(session: Session, record: RunRecord) -> float:
    """Return how long to wait for news of a run; wake it once its time has come: a pipeline has nobody who sweeps."""
    poll, store = session.services.settings.poll, session.store
    wakes = (await store.gates.wakes([record.id])).get(record.id) if record.state == "waiting" else None
    if wakes is None or wakes.until is None:
        return poll
    left = (wakes.until - store.now()).total_seconds()
    if left <= 0:
        with suppress(StoreUnavailable):
            await store.gates.sweep()
    return min(max(left, _SOON), poll)


async def _give_up(session: Session, run_id: str, driver: RunDriver | None) -> None:
    """Do so as far as it can be done: whoever was cancelled, or waited for too long, hears of that and nothing else."""
    try:
        await _abandon(session, run_id, driver)
    except FlowstoneError as error:
        _logger.warning("run %s goes on, though nobody awaits it: %s", run_id, error.message)


async def _abandon(session: Session, run_id: str, driver: RunDriver | None) -> None:
    """Cancel a run that nobody awaits any more, unless a submission stands for it; wait for its bodies."""
    flight = session.flights.get(run_id)
    if flight is not None:  # it may have been suspended, and woken: then it has another driver
        driver = flight.driver
        session.stop_joining(flight)
        await driver.created.wait()
    if driver is not None and driver.done.is_set() and driver.state != "waiting":
        return
    after = await session.cancel(run_id, actor="the awaiting task was cancelled", unless_joined=True)
    if driver is not None and (after is None or after.state == "cancelled"):
        await driver.done.wait()


async def _ended(session: Session, driver: RunDriver, request: Request) -> None:
    if driver.request is request or request.timeout is None:
        await driver.done.wait()
        return
    joined = asyncio.Event()
    timer = session.services.clock.call_later(request.timeout, joined.set)
    try:
        async with anyio.create_task_group() as group:
            group.start_soon(_first, driver.done, joined, name="join")
            await joined.wait()
            group.cancel_scope.cancel()
    finally:
        timer.cancel()
    if not driver.done.is_set():
        raise TimedOut(
            f"run {driver.id} did not end within {request.timeout:g} s; it goes on",
            run_id=driver.id,
            hint="Await it again.",
        )


async def _first(done: asyncio.Event, joined: asyncio.Event) -> None:
    await done.wait()
    joined.set()
