"""The runs of one engine: requests checked, equal ones joined, drivers started, watched and awaited."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import anyio

from flowstone_async._engine import stopped
from flowstone_async._engine.cancelling import Left, cancel, partitions_of
from flowstone_async._engine.catalog import Catalog
from flowstone_async._engine.dynamic import known_keys
from flowstone_async._engine.hooks import Hooks
from flowstone_async._engine.observing import SessionObserver
from flowstone_async._engine.request import RESUMES, Request
from flowstone_async._engine.requesting import Timeout, make_request
from flowstone_async._engine.resume import Past, as_stored, values_for
from flowstone_async._engine.run import RunDriver
from flowstone_async._engine.run_params import Prints
from flowstone_async._engine.services import Services
from flowstone_async._engine.targets import Target
from flowstone_async.definition.collection import Hook
from flowstone_async.definition.graph import Node
from flowstone_async.errors import ConfigError, KeyConflict, StoreUnavailable
from flowstone_async.planning.freshness import Facts
from flowstone_async.planning.units import Units, expand
from flowstone_async.planning.verdicts import Verdicts, judge_all
from flowstone_async.store.protocol import Store
from flowstone_async.store.records import RunRecord
from flowstone_async.types import AssetKey, Materialization, new_id

__all__ = ["Flight", "Prospect", "Session", "Timeout"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prospect:
    """Everything that is decided about a run before it starts."""

    catalog: Catalog
    request: Request
    units: Units
    verdicts: Verdicts
    current: Mapping[AssetKey, Materialization]
    prints: Prints


@dataclass(slots=True, eq=False)
class Flight:
    """A run that is being driven here.

    Attributes:
        detached: Whether it goes on though nobody here awaits it.
    """

    driver: RunDriver
    detached: bool = False


class Job(Protocol):
    """A run that is driven here and computes nothing itself: a backfill."""

    record: RunRecord
    done: asyncio.Event

    def stop(self, reason: Literal["cancelled", "shutdown", "lease_lost", "broken"]) -> None:
        """Start nothing more."""
        ...

    def lose(self) -> None:
        """Somebody else owns it now."""
        ...


class Session:
    """The runs of one engine.

    Attributes:
        awaited: How many callers await each run that one of them began, whoever drives it now.
    """

    def __init__(self, services: Services, catalogs: dict[str, Catalog], hooks: list[Hook]) -> None:
        self.services, self.catalogs, self.hooks = services, catalogs, hooks
        self.observer = services.resources.observer = SessionObserver(services, catalogs, hooks)
        self.lost = self.closing = self.left = False
        self.flights: dict[str, Flight] = {}
        self.awaited: dict[str, int] = {}
        self.to_hand_back: dict[str, int] = {}
        self.jobs: dict[str, Job] = {}
        self._joinable: dict[tuple[object, ...], Flight] = {}
        self._looking: set[anyio.CancelScope] = set()

    @property
    def store(self) -> Store:
        """Where the engine's records live."""
        return self.services.store

    # -- requests -----------------------------------------------------------------------------------------------

    def request(self, targets: Sequence[Target], **options: Any) -> Request:
        """Check the options of a run; see `make_request`."""
        return make_request(self.catalogs, self.services.settings, targets, **options)

    # -- planning -----------------------------------------------------------------------------------------------

    async def prospect(self, request: Request, recorded: Mapping[AssetKey, Materialization] | None = None) -> Prospect:
        """Ask the store what exists and decide what would run; of a run that goes on with what is `recorded` of it."""
        catalog = self.catalogs[request.pipeline]
        now = self.services.store.now()
        dynamic = await known_keys(self.services.store, catalog)
        units = expand(catalog.graph, request.targets, request.partition, io=request.io_name, now=now, known=dynamic)
        keys = [unit.key for unit in units.all]
        keys += [
            each.external for unit in units.all for each in (*unit.inputs, *unit.asked) if each.external is not None
        ]
        states = await self.services.store.states(keys)
        current = values_for(request, units, states, recorded)
        prints = Prints(request.params_json)
        known: dict[str, Facts] = {}

        def facts(node: Node) -> Facts:
            found = known.get(node.name)
            if found is None:
                found = known[node.name] = catalog.facts(node, prints if request.params_known else None, now)
            return found

        verdicts = judge_all(units, current, facts, request.asked)
        return Prospect(
            catalog=catalog, request=request, units=units, verdicts=verdicts, current=current, prints=prints
        )

    # -- starting -----------------------------------------------------------------------------------------------

    async def start(self, request: Request) -> Flight:
        """Start a run, or join an equal one that is running.

        Raises:
            ConfigError: The engine has no lease, so that it may own no runs.
        """
        if self.services.worker is None:
            raise ConfigError(
                "this engine holds no lease, so that it cannot run anything: it was given a pool and no direct=",
                hint="Give direct= a DSN past any pooler, or give the DSN as store=.",
            )
        if self.lost:
            raise stopped.engine_lost(self.services.store.unreachable)
        identity = self._identity(request)
        joined = self._joinable.get(identity) if request.joinable else None
        if joined is not None and joined.driver.state == "running" and joined.driver.stopping is None:
            return joined
        record = self._record(request)
        if request.run_id is not None and await self.services.store.run(record.id) is not None:
            raise KeyConflict(
                f"run_id={record.id!r} was used already", run_id=record.id, hint="Leave it out, or make a new one."
            )
        flight = await self._launch(request, record)
        if request.joinable:
            self._joinable[identity] = flight
        return flight

    def _identity(self, request: Request) -> tuple[object, ...]:
        return (*request.identity(), id(asyncio.get_running_loop()))

    def _record(self, request: Request) -> RunRecord:
        return RunRecord(
            id=request.run_id or new_id(),
            pipeline=request.pipeline,
            targets=request.targets,
            partition=request.encoded,
            options=request.options(),
            params=request.params_json,
            worker=self.services.worker,
            continuable=request.continuable,
            request=request.joins() if request.joinable else "",
        )

    async def _launch(self, request: Request, record: RunRecord) -> Flight:
        identity = self._identity(request)
        prospect = await self.prospect(request)
        raced = self._joinable.get(identity) if request.joinable else None
        if raced is not None and raced.driver.state == "running" and raced.driver.stopping is None:
            return raced
        return self._fly(self.driver(prospect, record), identity)

    async def resumed(self, record: RunRecord) -> Past:
        """Return what the run did that a run resumes, if it resumes one."""
        known = await self.store.run(str(record.options[RESUMES])) if RESUMES in record.options else None
        return Past() if known is None else await Past.read(self.store, known)

    def driver(
        self,
        prospect: Prospect,
        record: RunRecord,
        past: Past | None = None,
        resumed: Past | None = None,
        paused: float = 0.0,
    ) -> RunDriver:
        """Return what drives a run, or goes on with its past."""
        before = as_stored(prospect.units, prospect.current, prospect.verdicts.forced) if prospect.request.again else {}
        before |= {} if resumed is None else resumed.committed(prospect.units, prospect.current)
        driver = RunDriver(
            self.services,
            prospect.catalog,
            prospect.request,
            record,
            units=prospect.units,
            verdicts=prospect.verdicts,
            current=prospect.current,
            prints=prospect.prints,
            hooks=self.hooks_of(prospect.catalog),
            new=past is None,
            last_event=0 if past is None else past.last_event,
            told=None if past is None else past.told,
            started_at=None if past is None else past.started_at,
            history=before if past is None else {**before, **past.settled(prospect.units, prospect.current)},
            tried={} if past is None else past.attempts(prospect.units),
            started=() if past is None else past.begun(prospect.units),
            paused=paused,
        )
        driver.hold_current()
        return driver

    def hooks_of(self, catalog: Catalog) -> Hooks:
        """Return the hooks that hear of a pipeline."""
        services = self.services
        return Hooks(catalog.hooks, self.hooks, limit=services.settings.hook_timeout, hide=services.redactor.text)

    def _fly(self, driver: RunDriver, identity: tuple[object, ...]) -> Flight:
        if self.closing:
            raise stopped.closed(driver.id)
        flight = Flight(driver)
        self.services.start_soon(self._drive, flight, identity, name=f"run {driver.id}")
        self.flights[driver.id] = flight
        return flight

    async def _drive(self, flight: Flight, identity: tuple[object, ...]) -> None:
        driver = flight.driver
        try:
            await driver.drive()
        finally:
            if self.flights.get(driver.id) is flight:
                del self.flights[driver.id]
            if self._joinable.get(identity) is flight:
                del self._joinable[identity]
            if driver.state == "running" and isinstance(driver.error, StoreUnavailable):
                self.to_hand_back[driver.id] = driver.record.fence

    async def resume(self, record: RunRecord, *, begun: bool = True) -> None:
        """Drive a run that another worker has left, or nobody has begun, to its end.

        Raises:
            FlowstoneError: It cannot be continued here.
        """
        before = self.flights.get(record.id)
        if before is not None:  # it was suspended here, and woken before its bodies had ended
            await before.driver.done.wait()
        past = await Past.read(self.services.store, record) if begun else Past()
        patience = self.services.settings.max_lost * (1 if past.started_at is None else 10)
        if record.lost > patience:
            raise stopped.deadly(record.id, record.lost)
        request = past.request(record, self.catalogs[record.pipeline])
        prospect = await self.prospect(request, await past.recorded(self.services.store, record.id))
        wakes = (await self.store.gates.wakes([record.id])).get(record.id) if begun else None
        paused = 0.0 if wakes is None else wakes.paused
        driver = self.driver(prospect, record, past, await self.resumed(record), paused)
        if self.closing or self.lost:
            raise stopped.closed(record.id)
        flight, identity = Flight(driver, detached=True), self._identity(request)
        self.flights[record.id] = flight
        self.to_hand_back.pop(record.id, None)
        if not (request.force or request.again):
            self._joinable.setdefault(identity, flight)
        await self._drive(flight, identity)

    # -- cancelling ---------------------------------------------------------------------------------------------

    async def cancel(self, run_id: str, *, actor: str | None = None, unless_joined: bool = False) -> RunRecord | None:
        """Record that a run is cancelled; from then on nothing of it starts or commits."""
        flight = self.flights.get(run_id)
        if flight is not None:
            self.stop_joining(flight)
            await flight.driver.created.wait()
        store = self.services.store
        record = flight.driver.record if flight is not None else await store.run(run_id)
        if record is None:
            return None
        now = store.now()
        if flight is not None:
            left, seconds = Left(flight.driver.unfinished(), flight.driver.journal.left(now)), flight.driver.seconds
        else:
            past = await Past.read(store, record)
            left, seconds = Left(past.unfinished(now), past.told.cancelled(now)), 0.0
        after = await cancel(store, record, left, seconds, actor, unless_joined=unless_joined)
        if flight is not None and after is not None and after.state == "cancelled":
            flight.driver.stop("cancelled")
        if run_id in self.jobs:
            self.jobs[run_id].stop("cancelled")
        elif after is not None and after.state == "cancelled":
            for partition in await partitions_of(store, record):
                await self.cancel(partition, actor="engine")
        return after

    def stop_joining(self, flight: Flight) -> None:
        """Let no other call join a run from now on."""
        self._joinable = {key: each for key, each in self._joinable.items() if each is not flight}

    # -- waiting ----------------------------------------------------------------------------------------------------

    def check(self, run_id: str | None = None) -> None:
        """Refuse to look at the store after the engine was left.

        Raises:
            Cancelled: It was left before this run ended.
            ConfigError: It was left.
        """
        if self.left:
            raise stopped.left() if run_id is None else stopped.closed(run_id)

    async def changed(self, topic: str, *, within: float, run_id: str | None = None) -> None:
        """Wait until something may have changed in the store, or here; see `Store.changed`. Raises as `check`."""
        self.check(run_id)
        with anyio.CancelScope() as scope:
            self._looking.add(scope)
            try:
                await self.services.store.changed(topic, within=within)
            finally:
                self._looking.remove(scope)
        self.check(run_id)

    def look_again(self) -> None:
        """Have all who wait for changes look now: something has changed here that the store knows nothing of."""
        for scope in self._looking:
            scope.cancel()

    # -- leaving ------------------------------------------------------------------------------------------------

    async def close(self, grace: float) -> None:
        """Stop: nothing new starts, bodies have `grace` seconds, then they are cancelled; runs are handed back."""
        self.closing = True
        drivers, jobs = [flight.driver for flight in self.flights.values()], list(self.jobs.values())
        for each in (*jobs, *drivers):
            each.stop("shutdown")
        if grace <= 0:
            _interrupt(drivers)
        timer = self.services.clock.call_later(grace, lambda: _interrupt(drivers))
        try:
            for each in (*drivers, *jobs):
                await each.done.wait()
        except asyncio.CancelledError:  # whoever leaves does not wait any longer
            _interrupt(drivers)
            raise
        finally:
            timer.cancel()
            self.left = True
            self.look_again()

    def regain(self, worker: str) -> None:
        """The engine has a lease again, under another id."""
        self.to_hand_back.clear()
        self.services.worker = worker
        self.lost = False

    def lose(self) -> None:
        """The engine lost its lease: stop all runs at once; nothing of them can be committed here any more."""
        self.lost = True
        for job in list(self.jobs.values()):
            job.stop("lease_lost")
        for flight in list(self.flights.values()):
            driver = flight.driver
            driver.error = driver.error or stopped.lease_lost(driver.id, self.services.store.unreachable)
            driver.stop("lease_lost")


def _interrupt(drivers: Sequence[RunDriver]) -> None:
    for driver in drivers:
        if not driver.done.is_set():
            driver.interrupt()
