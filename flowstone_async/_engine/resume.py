"""The past of a run that another worker began, told by its events."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from flowstone_async._engine.catalog import Catalog
from flowstone_async._engine.journal import failure_of
from flowstone_async._engine.outcome import Settled, Tried
from flowstone_async._engine.request import CONCURRENCY, Request, stored_again, stored_force
from flowstone_async._engine.scatter.facts import ScatterFacts
from flowstone_async._engine.told import Told
from flowstone_async.definition.keys import decode_key
from flowstone_async.failures import rebuild
from flowstone_async.planning.units import Unit, Units
from flowstone_async.store.protocol import Store
from flowstone_async.store.records import AssetState, EventRecord, RunRecord
from flowstone_async.types import AssetKey, Materialization

_ENDS = ("asset.succeeded", "asset.failed", "asset.skipped", "asset.reused")


@dataclass(slots=True)
class Past:
    """What a run has done so far: how units ended, and the attempts that others had."""

    last_event: int = 0
    started_at: datetime | None = None
    started: dict[tuple[str, str], datetime] = field(default_factory=dict[tuple[str, str], datetime])
    ends: dict[tuple[str, str], EventRecord] = field(default_factory=dict[tuple[str, str], EventRecord])
    tried: dict[tuple[str, str], Tried] = field(default_factory=dict[tuple[str, str], "Tried"])
    told: Told = field(default_factory=Told)

    @staticmethod
    async def read(store: Store, record: RunRecord) -> Past:
        """Read a run's events, page by page."""
        past = Past()
        while page := await store.events(record.id, after=past.last_event):
            for event in page:
                past.add(event)
        return past

    def add(self, event: EventRecord) -> None:
        """Take one event into account."""
        self.last_event = event.no
        self.told.note(event)
        where = (str(event.body.get("asset", "")), str(event.body.get("partition") or ""))
        if event.type == "run.started":
            self.started_at = event.at
        elif event.type == "asset.started":
            self.started[where] = event.at
        elif event.type in _ENDS:
            self.ends[where] = event
        elif event.type == "asset.retrying":
            _retried(self.tried.setdefault(where, Tried()), event.body)

    def unfinished(self, now: datetime) -> list[dict[str, object]]:
        """Return the assets whose bodies had begun and not come to an end, as `AssetFinished` tells of them."""
        return [
            {
                "asset": asset,
                "partition": partition,
                "seconds": (now - self.started[asset, partition]).total_seconds(),
                "attempts": self.tried.get((asset, partition), Tried()).attempts + 1,
            }
            for asset, partition in self.started
            if (asset, partition) not in self.ends
        ]

    def request(self, record: RunRecord, catalog: Catalog) -> Request:
        """Return the request that the run was made from.

        Raises:
            AssetNotFound: The pipeline has not all of its targets any more.
            ConfigError: Its params or its I/O manager do not fit any more.
        """
        for target in record.targets:
            catalog.node(target)
        options: Mapping[str, Any] = record.options
        io = str(options.get("io") or "")
        timeout = options.get("timeout")
        return Request(
            pipeline=record.pipeline,
            targets=record.targets,
            partition=decode_key(record.partition),
            encoded=record.partition,
            params=catalog.params.load(record.params),
            params_json=record.params,
            force=stored_force(options),
            with_deps=options.get("with_deps") is not False,
            io=catalog.managers.find(io) if io else None,
            io_name=io,
            timeout=float(timeout) if isinstance(timeout, int | float) else None,
            concurrency=int(options.get("concurrency") or CONCURRENCY),
            run_id=record.id,
            submitted=True,
            again=stored_again(record.pipeline, options),
        )

    def settled(self, units: Units, current: Mapping[AssetKey, Materialization]) -> dict[int, Settled]:
        """Return the units that have ended; a value that was deleted since is computed again."""
        found: dict[int, Settled] = {}
        for unit in units.all:
            event = self.ends.get((unit.node.name, unit.key.partition))
            settled = None if event is None else _settled(unit, event, current)
            if settled is not None:
                found[unit.place] = settled
        return found

    def committed(self, units: Units, current: Mapping[AssetKey, Materialization]) -> dict[int, Settled]:
        """Return the units that this run computed and whose values are current still, as another run reuses them."""
        found: dict[int, Settled] = {}
        for unit in units.all:
            event, made = self.ends.get((unit.node.name, unit.key.partition)), current.get(unit.key)
            if event is None or made is None or event.type != "asset.succeeded":
                continue
            if event.body.get("materialization") == made.id:
                found[unit.place] = Settled("cached", made, reason="an earlier run that this one resumes computed it")
        return found

    async def recorded(self, store: Store, run_id: str) -> Mapping[AssetKey, Materialization]:
        """Return the values that the run has made or read so far, also those that others have superseded since.

        It goes on with these, so that it does not mix two versions of a value. What is forgotten is missing.
        """
        made = await store.materializations([str(each.body.get("materialization")) for each in self.ends.values()])
        found = {each.key: each for each in made.values()}
        read = [source for each in made.values() if each.run_id == run_id for source in each.inputs]
        for scatter in await store.scatters.of_run(run_id):
            facts = ScatterFacts.read(scatter.facts)
            read += (*facts.source, *facts.inputs)
        ids = [each.materialization for each in read if each.key not in found and each.materialization is not None]
        inputs = await store.materializations(ids)
        for each in (inputs[id_] for id_ in ids if id_ in inputs):
            found.setdefault(each.key, each)
        return found

    def begun(self, units: Units) -> frozenset[AssetKey]:
        """Return the keys whose first attempts have begun."""
        return frozenset(u.key for u in units.all if (u.node.name, u.key.partition) in self.started)

    def attempts(self, units: Units) -> dict[int, Tried]:
        """Return the failed attempts of each unit that had any."""
        found = ((unit, self.tried.get((unit.node.name, unit.key.partition))) for unit in units.all)
        return {unit.place: tried for unit, tried in found if tried is not None}


def values_for(
    request: Request,
    units: Units,
    states: Mapping[AssetKey, AssetState],
    recorded: Mapping[AssetKey, Materialization] | None,
) -> dict[AssetKey, Materialization]:
    """Return the values that a run finds: what was given to it, what it has on record, what is current.

    What it has on record and was invalidated since, with nothing in its place, is computed again.
    """
    current = {key: state.current for key, state in states.items() if state.current is not None}
    current |= {key: made for key, made in (recorded or {}).items() if key in current}
    given = {unit.key: request.given[unit.node.name] for unit in units.all if unit.node.name in request.given}
    return current | given


def as_stored(units: Units, current: Mapping[AssetKey, Materialization], forced: Collection[int]) -> dict[int, Settled]:
    """Return the units that a redrive does not compute, as they are stored."""
    return {
        unit.place: Settled("cached", current[unit.key], reason="taken as it is stored: the run redrives a scatter")
        for unit in units.all
        if unit.place not in forced and unit.key in current
    }


def _retried(tried: Tried, body: Mapping[str, Any]) -> None:
    tried.attempts = int(body.get("attempt", 0))
    tried.due = datetime.fromisoformat(body["due"]) if isinstance(body.get("due"), str) else None
    if isinstance(body.get("error"), Mapping):
        failure = failure_of(body["error"])
        tried.errors.append(rebuild(failure, partition=decode_key(failure.partition or "")))


def _settled(unit: Unit, event: EventRecord, current: Mapping[AssetKey, Materialization]) -> Settled | None:
    body: Mapping[str, Any] = event.body
    seconds, attempts = float(body.get("seconds", 0.0)), int(body.get("attempts", 0))
    match event.type:
        case "asset.succeeded":
            made = current.get(unit.key)
            return None if made is None else Settled("ok", made, seconds=seconds, attempts=attempts)
        case "asset.reused":
            made = current.get(unit.key)
            if made is None or made.id != body.get("materialization"):
                return None
            return Settled("cached", made, reason="the run had taken it before another engine went on with it")
        case "asset.skipped":
            return Settled("skipped", reason=str(body.get("reason", "")))
        case _:
            error = rebuild(failure_of(body.get("error", {})), partition=unit.partition)
            return Settled(
                "blocked" if body.get("blocked") else "failed", error=error, seconds=seconds, attempts=attempts
            )
