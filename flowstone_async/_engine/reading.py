"""Looking at what is stored: get, exists, status, why, wait; and taking it away: invalidate. Nothing here executes."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from flowstone_async._engine import managed, stopped
from flowstone_async._engine.catalog import Catalog, Runnable
from flowstone_async._engine.observing import Observer
from flowstone_async._engine.request import Request
from flowstone_async._engine.results import skipped, value_of
from flowstone_async._engine.run import RunDriver
from flowstone_async._engine.session import Session
from flowstone_async._engine.status import AssetStatus, StatusState, Why
from flowstone_async._engine.targets import Target, find
from flowstone_async._engine.values import value_ref
from flowstone_async._engine.waits.waiting_for import looked_at
from flowstone_async.definition.keys import decode_key, encode_key
from flowstone_async.errors import FlowstoneError, NotMaterialized, PartitionError, TimedOut
from flowstone_async.events import OBSERVATIONS
from flowstone_async.failures import rebuild
from flowstone_async.io.base import IOManager
from flowstone_async.planning.freshness import MISSING, Judgement, changed_code
from flowstone_async.planning.units import partition_for
from flowstone_async.store.records import AssetState, AuditEntry, RunRecord, RunState
from flowstone_async.types import All, AssetKey, Materialization

_logger = logging.getLogger("flowstone")
_PAGE = 500
_BUSY: tuple[RunState, ...] = ("queued", "running")
_ACTIVE: tuple[RunState, ...] = ("queued", "running", "waiting", "running")


class Reader:
    """The reading verbs of one engine."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._store = session.services.store

    async def get(self, target: Target, partition: object, io: object) -> Any:
        """Return the current value.

        Raises:
            NotMaterialized: Nothing is stored.
            StorageError: The value's bytes are missing or damaged.
        """
        place = self._place(target, partition, io)
        state = await self._state(place.key)
        if state is None or state.current is None:
            raise _not_materialized(place)
        return await self.load(place.runnable, place.partition, state.current, place.manager)

    async def load(self, runnable: Runnable, partition: object, current: Materialization, manager: IOManager) -> Any:
        """Load a stored value as its declared type."""
        session, key = self._session, current.key
        work, hooks = (
            managed.load(manager, value_ref(current, runnable, partition), None, session.services.redactor.text),
            session.hooks_of(session.catalogs[key.pipeline]),
        )
        wanted = hooks.wanted(OBSERVATIONS)
        if not wanted:
            return await work
        observer = Observer(session.services, hooks, wanted, pipeline=key.pipeline, run_id="")
        try:
            return await observer.loading(current, partition, work)
        finally:
            await observer.heard()

    async def exists(self, target: Target, partition: object, io: object) -> bool:
        """Tell from the record whether a value is stored."""
        state = await self._state(self._place(target, partition, io).key)
        return state is not None and state.current is not None

    async def status(self, target: Target, partition: object, io: object) -> AssetStatus:
        """Return the newest attempt and what is stored."""
        return await self._status(self._place(target, partition, io), None)

    async def status_for(self, request: Request) -> AssetStatus:
        """Return the status of a run's target, judged as the run would."""
        name = f"{request.pipeline}.{request.targets[0]}"
        return await self._status(self._place(name, request.partition, request.io), replace(request, force=False))

    async def _status(self, place: _Place, request: Request | None) -> AssetStatus:
        state, waits = await looked_at(self._store, place.key, place.runnable.node)
        if waits is not None and state.run_id != waits.run_id:
            state = AssetState(key=place.key, current=state.current)
        ahead = None if waits is not None or state.state == "running" else self._ahead(place.key)
        current = state.current
        judgement = MISSING if current is None else await self._judge(place, request)
        fresh = judgement.verdict == "fresh"
        error = _error(state, place.partition) if ahead is None else None
        if waits is not None and waits.error is not None:
            error = waits.error
        told: StatusState
        if waits is not None:
            told, run_id, waiting_for = "waiting", waits.run_id, waits.waiting_for
        elif ahead is not None:
            told, run_id, waiting_for = "pending", ahead.run_id, ahead.waiting_for
        else:
            told = "not_found" if state.state == "pending" else state.state
            run_id, waiting_for = state.run_id, None
        return AssetStatus(
            asset=place.name,
            partition=place.partition,
            state=told,
            run_id=run_id,
            started_at=state.started_at if ahead is None else None,
            completed_at=state.completed_at if ahead is None else None,
            seconds=state.seconds if ahead is None else None,
            io=_io(place, state) if ahead is None or current is not None else None,
            error=error,
            reason=state.reason if ahead is None else None,
            has_value=current is not None,
            fresh=fresh,
            stale_because=None if current is None or fresh else judgement.reason,
            code_changed=None if current is None else changed_code(current, place.runnable.code),
            waiting_for=waiting_for,
        )

    async def why(self, target: Target, partition: object, io: object) -> Why:
        """Explain the state of an asset and partition."""
        status = await self.status(target, partition, io)
        state, because = _explained(status)
        causes = _chain(status.error) if state == "failed" else []
        if state in ("failed", "skipped", "cancelled") and status.has_value:
            causes.append("an earlier value is stored and readable")
        if status.code_changed is not None:
            causes.append(f"code changed since in {status.code_changed}")
        return Why(asset=status.asset, partition=status.partition, state=state, because=because, causes=tuple(causes))

    async def wait(self, target: Target, partition: object, timeout: float | None) -> Any:
        """Await the active run of an asset and partition and return its value, or what there is without one.

        Raises:
            NotMaterialized: Nothing is stored and nothing runs.
            TimedOut: It did not end in time; the run goes on.
        """
        place = self._place(target, partition, None)
        clock, poll = self._session.services.clock, self._session.services.settings.poll
        begun, waited = clock.monotonic(), False
        driver: RunDriver | None = None
        while True:
            here, driving = self._here(), self._driving(place.key)
            driver = driving[0] if driving else driver
            if driver is not None and driver.stopping == "suspended":
                driver = None  # whoever goes on with the run makes another one
            elsewhere = [] if driving else await self._elsewhere(place, here)
            state = await self._state(place.key)
            if not driving and not elsewhere and (state is None or state.claimed_by is None):
                break
            waited = True
            left = None if timeout is None else timeout - (clock.monotonic() - begun)
            if left is not None and left <= 0:
                raise TimedOut(
                    f"asset {place.name!r} did not end within {timeout:g} s; its run goes on", asset=place.name
                )
            topic = f"run:{driving[0].id}" if driving else f"key:{place.key}"
            await self._session.changed(topic, within=poll if left is None else min(poll, left))
        if driver is not None:
            return await value_of(driver, _index(driver, place.key))
        return await self._ended(place, state, waited=waited)

    async def _ended(self, place: _Place, state: AssetState | None, *, waited: bool) -> Any:
        """Return or raise what the newest attempt came to; one that gave no value counts only for who awaited it."""
        if state is not None and state.state == "failed" and state.error is not None:
            raise rebuild(state.error, partition=place.partition)
        if waited and state is not None and state.state == "cancelled":
            raise stopped.cancelled(state.run_id or "")
        if waited and state is not None and state.state == "skipped":
            raise skipped(place.name, place.partition, state.reason or "", state.run_id or "")
        if state is None or state.current is None:
            raise _not_materialized(place)
        return await self.load(place.runnable, place.partition, state.current, place.manager)

    async def active(self, target: Target, partition: object) -> list[str]:
        """Return ids of the runs that are computing an asset and partition, or will."""
        place = self._place(target, partition, None)
        state = await self._state(place.key)
        here, found = self._here(), [driver.id for driver in self._driving(place.key)]
        if state is not None and state.claimed_by is not None:
            found.append(state.claimed_by)
        found += await self._elsewhere(place, here)
        return list(dict.fromkeys(found))

    def _here(self) -> frozenset[str]:
        """Return the runs of this engine that are not suspended."""
        flights = self._session.flights.items()
        return frozenset(run_id for run_id, flight in flights if flight.driver.stopping != "suspended")

    def _driving(self, key: AssetKey) -> list[RunDriver]:
        """Return the runs of this engine that compute a key, or will."""
        return [
            flight.driver
            for flight in self._session.flights.values()
            if flight.driver.state == "running"
            and flight.driver.stopping is None
            and any(unit.key == key and flight.driver.board.is_open(unit.place) for unit in flight.driver.units.all)
        ]

    async def _elsewhere(self, place: _Place, here: frozenset[str]) -> list[str]:
        """Return runs of the queue, of other engines and of none whose target it is; `here` were looked at."""
        names, asset = (place.catalog.graph.pipeline,), place.name
        found: dict[str, RunRecord] = {}
        # In this order: one that is claimed, suspended or woken between two looks is seen twice, and not missed.
        for state in _ACTIVE if place.catalog.waits else _BUSY:
            for each in await self._store.runs(pipelines=names, state=state, asset=asset, limit=_PAGE):
                found[each.id] = each
        return [each.id for each in found.values() if each.id not in here and _is_target(place, each)]

    def _ahead(self, key: AssetKey) -> _Ahead | None:
        """Return the run of this engine that will compute a key once its inputs are there."""
        for driver in self._driving(key):
            index = _index(driver, key)
            if driver.board.waits_for_inputs(index):
                units = driver.units.all
                open_ones = [units[each] for each in units[index].upstreams if not driver.board.is_settled(each)]
                return _Ahead(driver.id, ", ".join(repr(each.node.name) for each in open_ones))
        return None

    async def invalidate(self, target: Target, partition: object, io: object, *, cascade: bool) -> int:
        """Take stored values away and return how many there really were."""
        if isinstance(partition, All):
            catalog, name = find(self._session.catalogs, target)
            manager, io_name = self._manager(catalog, name, io)
            return await self._invalidate_all(catalog.graph.pipeline, name, io_name, manager, cascade=cascade)
        place = self._place(target, partition, io)
        return await self._remove([place.key], cascade=cascade, given=None if io is None else place.manager)

    async def _invalidate_all(self, pipeline: str, name: str, io: str, manager: IOManager, *, cascade: bool) -> int:
        removed, after = 0, None
        while page := await self._store.keys(pipeline, name, io, limit=_PAGE, after=after):
            after = page[-1].key.partition
            keys = [state.key for state in page if state.current is not None]
            removed += await self._remove(keys, cascade=cascade, given=manager if io else None) if keys else 0
        return removed

    async def _remove(self, keys: Sequence[AssetKey], *, cascade: bool, given: IOManager | None) -> int:
        audit = [
            AuditEntry(action="asset.invalidated", subject=str(key), actor_kind="process", actor="process")
            for key in keys
        ]
        removed = await self._store.invalidate(keys, cascade=cascade, audit=audit)
        await self.forget([each.materialization for each in removed], given=given)
        return len(removed)

    async def forget(self, made: Sequence[Materialization], *, given: IOManager | None = None) -> None:
        """Delete the values of materializations that are no longer on record; failures are logged."""
        hide = self._session.services.redactor.text
        for each in made:
            catalog = self._session.catalogs.get(each.key.pipeline)
            if catalog is None or each.key.asset not in catalog.graph.nodes:
                continue
            runnable = catalog.runnable(catalog.graph.nodes[each.key.asset])
            named = catalog.managers.named.get(each.key.io) if each.key.io else None
            manager = runnable.manager_for(given or named)
            try:
                await managed.delete(manager, value_ref(each, runnable, decode_key(each.key.partition)), hide)
            except FlowstoneError as error:
                _logger.warning("the value of %s could not be deleted: %s", each.key, error.message)

    # -- places -------------------------------------------------------------------------------------------------

    def _place(self, target: Target, partition: object, io: object) -> _Place:
        catalog, name = find(self._session.catalogs, target)
        node = catalog.node(name)
        key = partition_for(node, partition)
        manager, io_name = self._manager(catalog, name, io)
        asset_key = AssetKey(catalog.graph.pipeline, name, encode_key(key), io_name)
        return _Place(catalog, catalog.runnable(node), name, key, asset_key, manager)

    def _manager(self, catalog: Catalog, name: str, io: object) -> tuple[IOManager, str]:
        if io is None:
            return catalog.runnable(catalog.node(name)).manager, ""
        manager = catalog.managers.find(io)
        name_of = io if isinstance(io, str) else manager.name
        return catalog.runnable(catalog.node(name)).manager_for(manager), name_of

    async def _state(self, key: AssetKey) -> AssetState | None:
        return (await self._store.states([key])).get(key)

    async def _judge(self, place: _Place, request: Request | None) -> Judgement:
        prospect = await self._session.prospect(request or self._asking(place))
        return prospect.verdicts.stored(prospect.units.targets[0])

    def _asking(self, place: _Place) -> Request:
        defaults = place.catalog.params.defaults_json()
        return Request(
            pipeline=place.catalog.graph.pipeline,
            targets=(place.name,),
            partition=place.partition,
            encoded=place.key.partition,
            io=place.manager if place.key.io else None,
            io_name=place.key.io,
            params_json=defaults or "{}",
            params_known=defaults is not None,
        )


class _Ahead(NamedTuple):
    run_id: str
    waiting_for: str


class _Place:
    __slots__ = ("catalog", "key", "manager", "name", "partition", "runnable")

    def __init__(
        self, catalog: Catalog, runnable: Runnable, name: str, partition: object, key: AssetKey, manager: IOManager
    ) -> None:
        self.catalog, self.runnable, self.name = catalog, runnable, name
        self.partition, self.key, self.manager = partition, key, manager


def _not_materialized(place: _Place) -> NotMaterialized:
    where = "" if place.partition is None else f" for partition {place.partition}"
    return NotMaterialized(
        f"asset {place.name!r} has no stored value{where}",
        asset=place.name,
        partition=place.partition,
        hint="Run it first; get() never computes anything.",
    )


def _io(place: _Place, state: AssetState) -> str | None:
    if state.current is not None:
        return state.current.manager
    return place.manager.name if state.state == "failed" else None


def _error(state: AssetState, partition: object) -> FlowstoneError | None:
    return None if state.error is None else rebuild(state.error, partition=partition)


def _index(driver: RunDriver, key: AssetKey) -> int:
    return next(unit.place for unit in driver.units.all if unit.key == key)


def _is_target(place: _Place, record: RunRecord) -> bool:
    """Tell whether a run that has an asset among its targets computes it for a partition."""
    if (record.options.get("io") or "") != place.key.io:
        return False
    try:
        key = partition_for(place.runnable.node, decode_key(record.partition))
    except PartitionError:
        return False
    return encode_key(key) == place.key.partition


def _explained(status: AssetStatus) -> tuple[str, str]:  # noqa: PLR0911 - one for each state
    """Return the state of an asset and partition in one word and one sentence."""
    match status.state:
        case "not_found":
            return "never run", "no run has reached it, and nothing is stored"
        case "pending":
            return "waiting", f"run {status.run_id} computes it after {status.waiting_for}"
        case "waiting":
            return "waiting", f"run {status.run_id} waits for {status.waiting_for}"
        case "running":
            since = "" if status.started_at is None else f" since {status.started_at:%Y-%m-%d %H:%M:%S}"
            return "running", f"run {status.run_id} computes it{since}"
        case "failed":
            return "failed", "its last run failed" if status.error is None else status.error.message
        case "skipped":
            return "skipped", status.reason or "a condition kept it from running"
        case "cancelled":
            return "cancelled", f"run {status.run_id} was cancelled"
        case "completed":
            if not status.has_value:
                return "never run", "its value was invalidated"
            if status.fresh:
                return "fresh", "its inputs, params and version are what it was computed from"
            return "stale", status.stale_because or "unknown"


def _chain(error: BaseException | None) -> list[str]:
    causes: list[str] = []
    cause = None if error is None else error.__cause__
    while cause is not None:
        causes.append(f"because {cause.message if isinstance(cause, FlowstoneError) else cause}")
        cause = cause.__cause__
    return causes
