"""Looking at what is stored: get, exists, status, why, wait; and taking it away: invalidate. Nothing here executes."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from flowstone_async._engine.catalog import Catalog, Runnable
from flowstone_async._engine.request import Request
from flowstone_async._engine.session import Session
from flowstone_async._engine.status import AssetStatus, StatusState, Why
from flowstone_async._engine.targets import Target, find
from flowstone_async._engine.values import value_ref
from flowstone_async.definition.keys import decode_key, encode_key
from flowstone_async.errors import FlowstoneError, NotMaterialized, TimedOut
from flowstone_async.failures import rebuild
from flowstone_async.io.base import IOManager
from flowstone_async.planning.freshness import Judgement
from flowstone_async.planning.units import partition_for
from flowstone_async.store.records import AssetState, AuditEntry
from flowstone_async.types import All, AssetKey, Materialization

_logger = logging.getLogger("flowstone")
_PAGE = 500


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
        return await self.load(place.catalog, place.runnable, place.partition, state.current, place.manager)

    async def load(
        self, catalog: Catalog, runnable: Runnable, partition: object, current: Materialization, manager: IOManager
    ) -> Any:
        """Load a stored value as its declared type."""
        return await manager.load(value_ref(current, runnable, partition), None)

    async def exists(self, target: Target, partition: object, io: object) -> bool:
        """Tell from the record whether a value is stored."""
        state = await self._state(self._place(target, partition, io).key)
        return state is not None and state.current is not None

    async def status(self, target: Target, partition: object, io: object) -> AssetStatus:
        """Return the newest attempt and what is stored."""
        place = self._place(target, partition, io)
        state = await self._state(place.key)
        if state is None:
            return AssetStatus(asset=place.name, partition=place.partition, state="not_found")
        judgement = await self._judge(place)
        current = state.current
        shown: StatusState = "not_found" if state.state == "pending" else state.state
        return AssetStatus(
            asset=place.name,
            partition=place.partition,
            state=shown,
            run_id=state.run_id,
            started_at=state.started_at,
            completed_at=state.completed_at,
            seconds=state.seconds,
            io=None if current is None else current.manager,
            error=_error(state, place.partition),
            reason=state.reason,
            has_value=current is not None,
            fresh=current is not None and judgement.verdict == "fresh",
            stale_because=None if current is None or judgement.verdict == "fresh" else judgement.reason,
            code_changed=None if current is None else _code_changed(place.runnable, current),
        )

    async def why(self, target: Target, partition: object, io: object) -> Why:
        """Explain the state of an asset and partition."""
        status = await self.status(target, partition, io)
        causes: list[str] = []
        if status.code_changed is not None:
            causes.append(f"code changed since in {status.code_changed}; that alone does not make it stale")
        match status.state:
            case "not_found":
                state, because = "never run", "no run has reached it, and nothing is stored"
            case "failed":
                state, because = "failed", status.error.message if status.error is not None else "its last run failed"
                causes = [*_chain(status.error), *causes]
                if status.has_value:
                    causes.append("an earlier value is stored and readable")
            case "skipped":
                state, because = "skipped", status.reason or "a condition kept it from running"
            case "running":
                state, because = (
                    "running",
                    f"run {status.run_id} computes it since {status.started_at:%Y-%m-%d %H:%M:%S}",
                )
            case "cancelled":
                state, because = "cancelled", f"run {status.run_id} was cancelled"
            case _ if not status.has_value:
                state, because = "never run", "its value was invalidated"
            case _ if status.fresh:
                state, because = "fresh", "its inputs, params and version are what it was computed from"
            case _:
                state, because = "stale", status.stale_because or "unknown"
        return Why(asset=status.asset, partition=status.partition, state=state, because=because, causes=tuple(causes))

    async def wait(self, target: Target, partition: object, timeout: float | None) -> Any:
        """Await the active run of an asset and partition and return its value, or what there is without one.

        Raises:
            NotMaterialized: Nothing is stored and nothing runs.
            TimedOut: It did not end in time; the run goes on.
        """
        place = self._place(target, partition, None)
        clock = self._session.services.clock
        begun = clock.monotonic()
        while True:
            state = await self._state(place.key)
            if state is None or (state.claimed_by is None and not self._underway(place.key)):
                break
            left = None if timeout is None else timeout - (clock.monotonic() - begun)
            if left is not None and left <= 0:
                raise TimedOut(
                    f"asset {place.name!r} did not end within {timeout:g} s; its run goes on", asset=place.name
                )
            poll = self._session.services.settings.poll
            await self._store.changed(f"key:{place.key}", within=poll if left is None else min(poll, left))
        if state is not None and state.state == "failed" and state.error is not None:
            raise rebuild(state.error, partition=place.partition)
        if state is None or state.current is None:
            raise _not_materialized(place)
        return await self.load(place.catalog, place.runnable, place.partition, state.current, place.manager)

    async def active(self, target: Target, partition: object) -> list[str]:
        """Return ids of the runs that are computing an asset and partition, or will."""
        place = self._place(target, partition, None)
        state = await self._state(place.key)
        found = [
            run_id
            for run_id, flight in self._session.flights.items()
            if flight.driver.state == "running"
            and any(
                unit.key == place.key and not flight.driver.board.is_settled(unit.place)
                for unit in flight.driver.units.all
            )
        ]
        if state is not None and state.claimed_by is not None and state.claimed_by not in found:
            found.append(state.claimed_by)
        return found

    def _underway(self, key: AssetKey) -> bool:
        return any(
            flight.driver.state == "running"
            and any(
                unit.key == key and not flight.driver.board.is_settled(unit.place) for unit in flight.driver.units.all
            )
            for flight in self._session.flights.values()
        )

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
        for each in made:
            catalog = self._session.catalogs.get(each.key.pipeline)
            if catalog is None or each.key.asset not in catalog.graph.nodes:
                continue
            runnable = catalog.runnable(catalog.graph.nodes[each.key.asset])
            named = catalog.managers.named.get(each.key.io) if each.key.io else None
            manager = given or named or runnable.manager
            try:
                await manager.delete(value_ref(each, runnable, decode_key(each.key.partition)))
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
        return manager, io if isinstance(io, str) else manager.name

    async def _state(self, key: AssetKey) -> AssetState | None:
        return (await self._store.states([key])).get(key)

    async def _judge(self, place: _Place) -> Judgement:
        request = Request(
            pipeline=place.catalog.graph.pipeline,
            targets=(place.name,),
            partition=place.partition,
            encoded=place.key.partition,
            io=place.manager if place.key.io else None,
            io_name=place.key.io,
            params_json=place.catalog.params.defaults_json(),
        )
        prospect = await self._session.prospect(request)
        return prospect.verdicts.judgements[prospect.units.targets[0]]


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


def _error(state: AssetState, partition: object) -> FlowstoneError | None:
    return None if state.error is None else rebuild(state.error, partition=partition)


def _code_changed(runnable: Runnable, current: Materialization) -> str | None:
    code = runnable.code
    if code.hash == current.code_hash:
        return None
    return f"{code.function} (line {code.line})"


def _chain(error: BaseException | None) -> list[str]:
    causes: list[str] = []
    cause = None if error is None else error.__cause__
    while cause is not None:
        causes.append(f"because {cause.message if isinstance(cause, FlowstoneError) else cause}")
        cause = cause.__cause__
    return causes
