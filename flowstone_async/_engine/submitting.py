"""Submitting runs: checked here, stored in the queue, executed by whichever engine claims them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from typing_extensions import TypedDict

from flowstone_async._engine.acting import acting_now
from flowstone_async._engine.board import Board
from flowstone_async._engine.dynamic import known_keys
from flowstone_async._engine.handle import RunHandle
from flowstone_async._engine.listing import find_run
from flowstone_async._engine.redriving import resumed, unfinished
from flowstone_async._engine.repeating import record_again, request_again
from flowstone_async._engine.request import BACKFILL, REDRIVES, RESUMES, Request
from flowstone_async._engine.session import Session
from flowstone_async._engine.targets import Target
from flowstone_async._engine.verbs import RunOptions, checked
from flowstone_async.config import instant, text
from flowstone_async.errors import ConfigError, DependencyNotReady
from flowstone_async.planning.units import expand
from flowstone_async.store.records import FINAL_RUN_STATES, AuditEntry, RunRecord, Submission, Submitted
from flowstone_async.store.redrives import Redrive
from flowstone_async.types import new_id

LOWEST = 3
_LONGEST_KEY = 1024


class SubmitOptions(RunOptions, total=False):
    """Options of a submitted run, beside its partition: those of a run, and how it is queued.

    Attributes:
        key: The same key gives the same run again, as long as it is on record.
        priority: 0 to 3, lower first.
        at: It does not start before this instant, on the store's clock.
        conn: An asyncpg connection, in whose transaction the run is stored.
    """

    key: str | None
    priority: int
    at: datetime | None
    conn: object


class Queueing(TypedDict):
    """How a run is queued; see `SubmitOptions`."""

    key: str | None
    priority: int
    at: datetime | None
    conn: object


async def submit(
    session: Session, targets: Sequence[Target], partition: object, options: SubmitOptions
) -> RunHandle[Any]:
    """Store a run for any engine to claim, and return its handle; see `Engine.submit`."""
    handle, _ = await submit_or_join(session, targets, partition, options)
    return handle


async def submit_or_join(
    session: Session, targets: Sequence[Target], partition: object, options: SubmitOptions
) -> tuple[RunHandle[Any], bool]:
    """Submit, and tell besides whether the run is new."""
    session.check()
    queueing, rest = split(options)
    request = session.request(targets, partition=partition, submitted=True, **checked("submit", rest))
    refuse_unstorable(request)
    await _check_ready(session, request)
    record = RunRecord(
        id=request.run_id or new_id(),
        pipeline=request.pipeline,
        targets=request.targets,
        partition=request.encoded,
        options=request.options(),
        params=request.params_json,
        state="queued",
        submitted=True,
        priority=queueing["priority"],
        at=queueing["at"],
        request=request.joins() if request.joinable else "",
    )
    stored = await _store(session, record, request.subject(), key=queueing["key"], conn=queueing["conn"])
    return RunHandle(session, stored.run), stored.created


async def retry(session: Session, run_id: object) -> RunHandle[Any]:
    """Submit what a run was asked for once more; see `Engine.retry`."""
    session.check()
    before = await find_run(session, run_id)
    if before.state not in FINAL_RUN_STATES:
        raise ConfigError(
            f"run {before.id} has not ended, it is {before.state}",
            hint="Await it, or cancel it first.",
            run_id=before.id,
        )
    request = request_again(session, before)
    refuse_unstorable(request)
    if BACKFILL not in before.options:
        await _check_ready(session, request)
    going_on = await unfinished(session, before)
    joins = request.joinable and BACKFILL not in before.options
    added: dict[str, object] = {RESUMES: before.id}
    if going_on and isinstance(redrives := before.options.get(REDRIVES), Mapping):
        added[REDRIVES] = {**redrives, "of": before.id}
    record = record_again(before, added, request.joins() if joins else "", without=(REDRIVES,))
    return await store_run(session, record, request.subject(), going_on=resumed(going_on, record))


async def store_run(
    session: Session,
    record: RunRecord,
    subject: str,
    *,
    key: str | None = None,
    conn: object = None,
    going_on: Sequence[Redrive] = (),
) -> RunHandle[Any]:
    """Put a run into the queue, and return its handle or that of the run that it joins."""
    stored = await _store(session, record, subject, key=key, conn=conn, going_on=going_on)
    return RunHandle(session, stored.run)


async def _store(
    session: Session,
    record: RunRecord,
    subject: str,
    *,
    key: str | None,
    conn: object,
    going_on: Sequence[Redrive] = (),
) -> Submitted:
    who = acting_now()
    audit = AuditEntry("run.submitted", record.id, actor=who.name, actor_kind=who.kind, run_id=record.id)
    submission = Submission(run=record, subject=subject, key=key, audit=audit)
    return await session.store.submit(submission, connection=conn, redrives=going_on)


def split(options: SubmitOptions) -> tuple[Queueing, RunOptions]:
    """Return the options that speak of the queue, checked, and the rest."""
    rest: Any = dict(options)
    priority, at, key = rest.pop("priority", None), rest.pop("at", None), rest.pop("key", None)
    priority = 0 if priority is None else priority
    if isinstance(priority, bool) or not isinstance(priority, int) or not 0 <= priority <= LOWEST:
        raise ConfigError(f"priority={priority!r}", hint="Allowed are 0, 1, 2 and 3; lower comes first.")
    at = None if at is None else instant(at, what="at")
    if key is not None and (not isinstance(key, str) or not key or len(key.encode("utf-8", "replace")) > _LONGEST_KEY):
        raise ConfigError(f"key={key!r}"[:200], hint=f"Give text of 1 to {_LONGEST_KEY:,} bytes.")
    text(key, what="key")
    return Queueing(key=key, priority=priority, at=at, conn=rest.pop("conn", None)), rest


def refuse_unstorable(request: Request) -> None:
    """Refuse what does not reach whichever engine takes the run (`JOB-12`).

    Raises:
        ConfigError: An option cannot be stored.
    """
    if request.secrets:
        raise ConfigError(
            f"params hold secrets, which are never stored, so that a submitted run could not be continued: "
            f"{', '.join(request.secrets)}",
            hint="Make them a resource, or await run().",
        )
    if not request.continuable:
        raise ConfigError(
            "io= of a submitted run must be a name", hint="List the manager in Engine(io={...}) and give its name."
        )


async def _check_ready(session: Session, request: Request) -> None:
    """Refuse a run that could not start: a key that is none, or upstreams that are not there with `with_deps=False`.

    Raises:
        PartitionError: The partition is none of the targets'.
        DependencyNotReady: Required upstreams are not stored; all of them are listed.
    """
    if request.with_deps:
        catalog, store = session.catalogs[request.pipeline], session.store
        known = await known_keys(store, catalog)
        expand(catalog.graph, request.targets, request.partition, io=request.io_name, now=store.now(), known=known)
        return
    prospect = await session.prospect(request)
    catalog = prospect.catalog
    board = Board(
        prospect.units,
        prospect.verdicts,
        prospect.current,
        lambda node: catalog.facts(node, prospect.prints, session.store.now()),
        request.asked,
        catalog.tolerates,
    )
    board.begin({})
    for index in prospect.units.targets:
        settled = board.settled[index]
        if settled is not None and isinstance(settled.error, DependencyNotReady):
            raise settled.error
