"""Running items of an ended scatter again: a new run that begins with what the old one has (SCAT-25, READ-09)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Literal, NamedTuple

from flowstone_async._engine.acting import acting_now
from flowstone_async._engine.catalog import Catalog, Runnable
from flowstone_async._engine.dynamic import known_keys
from flowstone_async._engine.repeating import record_again, request_again
from flowstone_async._engine.request import BACKFILL, REDRIVES, RESUMES, Request, digest
from flowstone_async._engine.scatter.facts import ScatterFacts, facts_of
from flowstone_async._engine.scatter.finding import find_scatters
from flowstone_async._engine.scatter.key_forms import followed
from flowstone_async._engine.scatter.upstream import followed_by
from flowstone_async._engine.session import Session
from flowstone_async._engine.targets import Target
from flowstone_async.config import word
from flowstone_async.definition.bound_scatter import SOURCE
from flowstone_async.definition.graph import Node
from flowstone_async.errors import ConfigError
from flowstone_async.planning.units import Unit, Units, expand
from flowstone_async.store import redrives
from flowstone_async.store.records import FINAL_RUN_STATES, AssetState, AuditEntry, RunRecord, Submission
from flowstone_async.store.redrives import Redrive
from flowstone_async.store.scatters import ScatterRecord
from flowstone_async.types import AssetKey, Input, new_id

Only = Literal["failed", "all"]


async def redrive(
    session: Session, before: RunRecord, target: Target, *, only: Only, partition: object = None
) -> RunRecord:
    """Store a run that runs items of an ended run again; see `RunHandle.redrive`."""
    word(only, ("failed", "all"), what="only")
    if BACKFILL in before.options:
        raise ConfigError(
            f"run {before.id} is a backfill, whose partitions are runs of their own",
            run_id=before.id,
            hint="Redrive those: `engine.runs(asset=...)` lists them.",
        )
    name, scatters = await find_scatters(session, before, target, partition)
    _check_ended(before, scatters)
    request = request_again(session, before)
    catalog = session.catalogs[before.pipeline]
    units = await _reached(session, catalog, request, [each.key for each in scatters])
    states = await session.store.states([each.key for each in scatters])
    chosen = await _chosen(session, scatters, states, only)
    for each in chosen:
        _check_batched(each, catalog.node(name))
        await _check_followed(session, each, states.get(each.key), units[each.key], catalog)
    partitions = [each.key.partition for each in chosen]
    record = record_again(
        before,
        {"force": False, REDRIVES: {"asset": name, "partitions": partitions, "of": before.id, "only": only}},
        digest("redrive", sorted(each.id for each in chosen), only),
        without=(RESUMES,),
    )
    runnable = catalog.runnable(catalog.node(name))
    asked: list[Redrive] = []
    for each in chosen:
        facts = _facts(each, states.get(each.key), runnable, only).text()
        asked.append(Redrive(each.id, new_id(), only, facts, audit=_act("redriven", each, record, only)))
    who = acting_now()
    audit = AuditEntry("run.submitted", record.id, actor=who.name, actor_kind=who.kind, run_id=record.id)
    submission = Submission(run=record, subject=request.subject(), audit=audit)
    stored = await session.store.submit(submission, redrives=asked)
    if stored.created:
        await _drive_unclaimed(session, record)
    return stored.run


async def _drive_unclaimed(session: Session, record: RunRecord) -> None:
    """Drive a run here that nobody would claim: the store is a test's own."""
    services = session.services
    if not services.dispatches and services.worker is not None:
        for claimed in await services.store.claim(services.worker, (record.pipeline,), limit=1):
            services.start_soon(partial(session.resume, begun=False), claimed, name=f"run {claimed.id}")


def _act(what: str, scatter: ScatterRecord, record: RunRecord, only: str) -> AuditEntry:
    details = {"only": only, "of_run": scatter.run_id}
    who = acting_now()
    return AuditEntry(f"scatter.{what}", str(scatter.key), who.name, who.kind, record.id, details)


def _check_ended(before: RunRecord, scatters: Sequence[ScatterRecord]) -> None:
    """Refuse a run that goes on: what depends on the scatter may be under way.

    Raises:
        ConfigError: It has not ended.
    """
    if before.state not in FINAL_RUN_STATES:
        for each in scatters:
            if each.state == "running":
                raise redrives.goes_on(each.id, before.id)
        raise ConfigError(
            f"run {before.id} has not ended, it is {before.state}",
            hint="Await it, or cancel it first.",
            run_id=before.id,
        )


async def _reached(
    session: Session, catalog: Catalog, request: Request, keys: Sequence[AssetKey]
) -> Mapping[AssetKey, tuple[Unit, Units]]:
    """Return the units of these keys, among all of the run.

    Raises:
        ConfigError: Its targets do not depend on one of them.
    """
    known = await known_keys(session.store, catalog)
    now = session.store.now()
    units = expand(catalog.graph, request.targets, request.partition, io=request.io_name, now=now, known=known)
    reached = {unit.key: (unit, units) for unit in units.all}
    for key in keys:
        if key not in reached:
            raise ConfigError(
                f"what the run was asked for, {', '.join(request.targets)}, does not depend on {key} any more",
                asset=key.asset,
                hint="Run the asset anew.",
            )
    return reached


def _is_batched(scatter: ScatterRecord, node: Node) -> bool:
    """Tell whether what a scatter has stored is what its asset takes, batches or items; unknown counts as yes."""
    known = facts_of(scatter).batched
    return known is None or node.scatter is None or known is (node.scatter.batch is not None)


def _check_batched(scatter: ScatterRecord, node: Node) -> None:
    if not _is_batched(scatter, node):
        was, now = ("in batches", "one by one") if facts_of(scatter).batched else ("one by one", "in batches")
        raise ConfigError(
            f"the items of {scatter.key} were stored {was}, and its body takes them {now}",
            asset=scatter.key.asset,
            hint="Run the asset anew.",
        )


async def _check_followed(
    session: Session, scatter: ScatterRecord, state: AssetState | None, found: tuple[Unit, Units], catalog: Catalog
) -> None:
    """Refuse what has followed another scatter, if its items would be those of a third one.

    Raises:
        ConfigError: It has become no value, and what it followed is not what is current; or there is none.
    """
    unit, units = found
    upstream = followed(unit.node, catalog.graph.nodes)
    if upstream is None or unit.node.scatter is None:
        return
    [binding] = unit.node.scatter.source.bindings
    edge = next(each for each in unit.inputs if each.binding is binding)
    key = edge.external or units.all[edge.units[0]].key
    states = await session.store.states([key])
    source = states[key].current if key in states else None
    if source is None:
        raise ConfigError(
            f"{scatter.key} has followed {key}, which has no value",
            asset=scatter.key.asset,
            hint=f"Redrive {upstream.node.name}, or retry the run: all that depends on it is computed again, too.",
        )
    follows, current = followed_by(scatter), None if state is None else state.current
    has_value = current is not None and current.id == scatter.id
    if follows not in (None, source.location, source.id) and not has_value:
        raise ConfigError(
            f"run {source.run_id} has computed {key} since, which {scatter.key} followed: its items are others now",
            asset=scatter.key.asset,
            run_id=source.run_id,
            hint="Run the asset anew.",
        )


async def _chosen(
    session: Session,
    scatters: Sequence[ScatterRecord],
    states: Mapping[AssetKey, AssetState],
    only: Only,
) -> list[ScatterRecord]:
    """Return the scatters of which items are to be run.

    Raises:
        ConfigError: One of them goes on, or another run has computed the asset since; or there is nothing to run.
    """
    chosen: list[ScatterRecord] = []
    for each in scatters:
        totals = await session.store.scatters.totals(each.id)
        if totals is None:
            raise redrives.gone(each.id)
        state = states.get(each.key)
        current = None if state is None else state.current
        if current is not None and current.id != each.id and current.committed_at > totals.since:
            raise ConfigError(
                f"run {current.run_id} has computed {each.key} since",
                asset=each.key.asset,
                run_id=current.run_id,
                hint="Its value would be replaced by an older one: redrive that run, or run the asset anew.",
            )
        if only == "all" or each.state != "closed" or totals.failed:
            chosen.append(each)
    if not chosen:
        raise redrives.nothing_left(scatters[0].id, refused=0, total=scatters[0].total)
    return chosen


def _facts(scatter: ScatterRecord, state: AssetState | None, runnable: Runnable, only: str) -> ScatterFacts:
    """Return what holds for the results that are kept, so that the value is judged by what they were computed from."""
    facts = facts_of(scatter)
    current = None if state is None or state.current is None or state.current.id != scatter.id else state.current
    inputs: tuple[Input, ...] = facts.inputs if current is None else current.inputs
    # What follows a scatter has that one's value among its inputs only once both are committed.
    source = facts.source or tuple(each for each in inputs if each.kind == "asset" and each.name == SOURCE)
    if only == "all":
        version, code = (runnable.version,), runnable.code.hash
        return ScatterFacts(None, version, code, source or inputs, options=facts.options, batched=facts.batched)
    if current is None:
        return facts
    return facts._replace(version=(current.version,), code=current.code_hash, inputs=inputs, source=source)


class Unfinished(NamedTuple):
    """A scatter of an ended run that became no value, and what of it is to be run."""

    scatter: ScatterRecord
    only: Literal["failed", "rest"]


async def unfinished(session: Session, before: RunRecord) -> list[Unfinished]:
    """Return the scatters that a retried run goes on with: those that became no value, where what they were computed
    from is what there is, and nobody has computed the asset since.
    """
    if BACKFILL in before.options:
        return []
    catalog = session.catalogs[before.pipeline]
    found: list[Unfinished] = []
    scatters = await session.store.scatters.of_run(before.id)
    values = await session.store.recorded([each.id for each in scatters]) if scatters else frozenset[str]()
    for each in scatters:
        node = catalog.graph.nodes.get(each.key.asset)
        totals = await session.store.scatters.totals(each.id)
        if each.id in values or node is None or node.scatter is None or totals is None:
            continue
        follows_another_now = followed(node, catalog.graph.nodes) is not None
        if follows_another_now or not _is_batched(each, node):
            continue
        facts, version = facts_of(each), catalog.runnable(node).version
        states = await session.store.states([each.key])
        current = states[each.key].current if each.key in states else None
        if current is not None and current.committed_at > totals.since:
            continue
        if facts.version in (None, (version,)) and await _same(session, (*facts.source, *facts.inputs)):
            found.append(Unfinished(each, "failed" if each.state == "failed" else "rest"))
    return found


def resumed(found: Sequence[Unfinished], record: RunRecord) -> list[Redrive]:
    """Return how a retried run begins with scatters that became no value; what is gone is begun anew."""
    return [
        Redrive(
            scatter.id,
            new_id(),
            only,
            facts_of(scatter).text(),
            required=False,
            audit=_act("resumed", scatter, record, only),
        )
        for scatter, only in found
    ]


async def _same(session: Session, inputs: Sequence[Input]) -> bool:
    """Tell whether inputs are what is current now."""
    wanted = {each.key: each.fingerprint for each in inputs if each.kind == "asset" and each.key is not None}
    if not wanted:
        return True
    states = await session.store.states(list(wanted))
    current = {key: state.current for key, state in states.items()}
    return all(
        (made := current.get(key)) is not None and made.fingerprint == fingerprint
        for key, fingerprint in wanted.items()
        if not fingerprint.startswith("absent:")
    )
