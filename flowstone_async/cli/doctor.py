"""`flowstone doctor`: examines definitions and store, and repairs nothing."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

from flowstone_async._engine.orphans import orphans
from flowstone_async._engine.session import Session
from flowstone_async._engine.sweeping import UNREFERENCED, sweepers
from flowstone_async.cli import exit_code
from flowstone_async.cli.check import find_problems
from flowstone_async.cli.failure import code_of
from flowstone_async.cli.job import Job
from flowstone_async.cli.opening import looking_engine
from flowstone_async.cli.table import ago, table
from flowstone_async.clock import SystemClock
from flowstone_async.engine import Engine
from flowstone_async.errors import ConfigError, FlowstoneError, StorageError
from flowstone_async.pipeline import Pipeline
from flowstone_async.store.records import Fault, LiveWorker, Unswept

Verdict: TypeAlias = Literal["ok", "note", "warning", "error"]
SKEW = 1.0
UNSWEPT = 3600.0
_LOOKED_AT = 1000


class Finding(NamedTuple):
    """What was found out about one subject.

    Attributes:
        code: The exit code that an error stands for.
        remedy: What to run to mend it; empty where nothing has to be done, or nothing mends it.
    """

    subject: str
    verdict: Verdict
    text: str
    code: int = exit_code.OK
    remedy: str = ""


async def doctor(job: Job) -> int:
    """Examine definitions and store and return the exit code: that of the first error, 0 with mere warnings."""
    pipeline = job.pipeline
    found = [_definitions(pipeline, durable=job.store() != "memory")]
    sound = found[0].verdict != "error"
    place = _place(job.store())
    if place is not None:
        found.append(place)
    try:
        # A pipeline that is wrong cannot be opened; the store can, with an empty one.
        async with looking_engine(job, pipeline if sound else Pipeline("doctor")) as (engine, session):
            found += await _store(engine, session)
            found.append(_workers(await session.services.store.workers(), session.services.store.now()))
            if sound:
                found.append(await _queue(session, pipeline.name))
                found += [await _orphans(session), await _values(session), await _code(session, pipeline.name)]
            if job.options.verify:
                found.append(_records(await session.services.store.verify()))
    except FlowstoneError as error:
        found.append(Finding("store", "error", str(error), code_of(error)))
    _report(job, found)
    return next((each.code for each in found if each.verdict == "error"), exit_code.OK)


def _report(job: Job, found: Sequence[Finding]) -> None:
    if job.options.json:
        for each in found:
            fields = {"subject": each.subject, "verdict": each.verdict, "text": each.text, "remedy": each.remedy}
            job.output.json(fields)
        return
    rows = [["subject", "verdict", "finding"]]
    for each in found:
        first, *more = each.text.splitlines() or [""]
        way_out = ["to mend it, run:", *each.remedy.splitlines()] if each.remedy else []
        rows += [[each.subject, each.verdict, first], *(["", "", line] for line in (*more, *way_out))]
    job.output.show(table(rows))


def _definitions(pipeline: Pipeline, *, durable: bool) -> Finding:
    try:
        problems = find_problems(pipeline, durable=durable)
    except ConfigError as error:
        return Finding("definitions", "warning", f"I/O managers were not checked: {error.message}")
    if problems:
        lines = [f"{each.code} {each.location} {each.message}" for each in problems]
        return Finding("definitions", "error", "\n".join(lines), exit_code.DEFINITION)
    count = len(pipeline.assets())
    return Finding("definitions", "ok", f"{count} asset{'' if count == 1 else 's'}, no problems")


def _place(store: str) -> Finding | None:
    """Return where an embedded server lives; it is neither made nor started for that."""
    kind, _, folder = store.partition(":")
    if kind != "embedded":
        return None
    from flowstone_async.store.embedded.account import server_account
    from flowstone_async.store.embedded.place import locate

    try:
        place = locate(Path(folder or ".flowstone"), server_account())
    except ConfigError as error:
        return Finding("server", "error", error.message, exit_code.USAGE)
    return Finding("server", "note", f"embedded Postgres in {place.root}; to remove all of it: rm -rf {place.folders}")


async def _store(engine: Engine, session: Session) -> list[Finding]:
    health = (await engine.health()).parts["store"]
    if health.state == "error":
        return [Finding("store", "error", health.detail, exit_code.STORE_UNREACHABLE)]
    facts = [each for each in health.detail.split(", ") if not each.startswith("latency ")]
    found = [Finding("store", "ok", f"{', '.join(facts)}; it answers in {health.seconds * 1000:.1f} ms")]
    skew = (session.services.store.now() - SystemClock().now()).total_seconds()
    text = f"the store's clock is {abs(skew):.3f} s {'ahead of' if skew > 0 else 'behind'} this machine's"
    if abs(skew) <= SKEW:
        text = f"the store's clock and this machine's agree within {SKEW:g} s"
    found.append(Finding("clock", "warning" if abs(skew) > SKEW else "ok", text))
    found.append(_tables(await session.services.store.faults()))
    found.append(_deleted(await session.services.store.unswept(), session.services.store.now()))
    return found


def _tables(faults: Sequence[Fault]) -> Finding:
    if not faults:
        return Finding("tables", "ok", "no index is missing or damaged, and nobody keeps dead rows")
    lines = ["until that is mended, the store gets slower as it grows:", *(each.problem for each in faults)]
    return Finding("tables", "warning", "\n".join(lines), remedy="\n".join(each.remedy for each in faults))


def _deleted(left: Unswept, now: datetime) -> Finding:
    """Tell of what is left of deleted scatters: as long as somebody prunes, it goes."""
    if left.since is None:
        return Finding("deleted", "ok", "nothing is left of deleted scatters")
    which = "1 deleted scatter has" if left.scatters == 1 else f"{left.scatters} deleted scatters have"
    if (now - left.since).total_seconds() <= UNSWEPT:
        return Finding("deleted", "note", f"{which} rows left, which go in parts; engines that stay open see to it")
    text = f"{which} rows left that nobody has gone on deleting since {ago(left.since, now)}"
    return Finding("deleted", "warning", text, remedy="flowstone db prune")


def _records(faults: Sequence[Fault]) -> Finding:
    if not faults:
        return Finding("records", "ok", "all of them hold together")
    lines = ["damaged; keep the database as it is, restore a backup beside it, and compare:"]
    return Finding("records", "error", "\n".join([*lines, *(each.problem for each in faults)]), exit_code.FAILED)


def _workers(live: Sequence[LiveWorker], now: datetime) -> Finding:
    """Tell who works on the store, and whose lease has run out without anybody having noticed."""
    if not live:
        return Finding("workers", "ok", "none is registered; one is while flowstone run or flowstone worker goes on")
    lines = [f"{len(live)} registered:" if len(live) > 1 else "1 registered:", *(_worker(each, now) for each in live)]
    expired = any(each.lease is not None and each.lease <= 0 for each in live)
    return Finding("workers", "warning" if expired else "ok", "\n".join(lines))


def _worker(live: LiveWorker, now: datetime) -> str:
    of = live.worker
    lease = ""
    if live.lease is not None:
        left = f"lease for {live.lease:.0f} s more"
        lease = f", {left if live.lease > 0 else f'lease over since {-live.lease:.0f} s: it is dead, or sleeps'}"
    return f"process {of.pid} on {of.host}, {', '.join(of.pipelines)}, came {ago(live.started_at, now)}{lease}"


async def _queue(session: Session, pipeline: str) -> Finding:
    store = session.services.store
    queue = await store.queue((pipeline,))
    going = f"{queue.running} running{f', {queue.waiting} suspended until something comes' if queue.waiting else ''}"
    if not queue.queued and not queue.later:
        return Finding("queue", "ok", f"nothing is queued; {going}")
    since = "" if queue.oldest_at is None else f", the oldest since {ago(queue.oldest_at, store.now())}"
    later = f", {queue.later} for later" if queue.later else ""
    text = f"{queue.queued} queued{since}{later}; {going}"
    if any(pipeline in each.worker.pipelines for each in await store.workers()):
        return Finding("queue", "ok", text)
    return Finding("queue", "warning", f"{text}, and no worker has the pipeline", remedy="flowstone worker")


async def _orphans(session: Session) -> Finding:
    left = {name: count for each in (await orphans(session)).values() for name, count in each.items()}
    if not left:
        return Finding("orphans", "ok", "every stored asset is in the code")
    names = "\n".join(f"{name}: {count} value{'' if count == 1 else 's'}" for name, count in left.items())
    return Finding("orphans", "warning", f"stored, but no longer in the code (nothing deletes them):\n{names}")


async def _values(session: Session) -> Finding:
    """Count what is a day old and no record names; what keeps its values in the store has none of that."""
    found = sweepers(session)
    store = session.services.store
    if found and store.identity is None:
        return Finding(
            "values", "note", "the server does not tell who it is, so that values are nobody's to look after"
        )
    left: list[str] = []
    for name, manager in found.items():
        try:
            swept = await manager.sweep(store.recorded, older_than=UNREFERENCED, dry=True)
        except StorageError as error:
            return Finding("values", "warning", error.message)
        if swept.number:
            left.append(f"{name}: {_files(swept.number)} of {swept.size} bytes")
    if not left:
        return Finding("values", "ok", "no value a day old is without a record")
    lines = ["no record has named them for a day; the next engine that stays open deletes them:", *left]
    return Finding("values", "warning", "\n".join(lines))


def _files(count: int) -> str:
    return f"{count} file{'' if count == 1 else 's'}"


async def _code(session: Session, pipeline: str) -> Finding:
    """Compare the code of each asset with that of its stored values, of the first 1,000 partitions."""
    catalog = session.catalogs[pipeline]
    changed: list[str] = []
    for name, node in catalog.graph.nodes.items():
        code = catalog.runnable(node).code
        states = await session.services.store.keys(pipeline, name, "", limit=_LOOKED_AT)
        stored = [state.current for state in states if state.current is not None]
        older = sum(each.code_hash != code.hash for each in stored)
        if older:
            changed.append(
                f"{name}: {older} of {len(stored)} values, computed before {code.function} (line {code.line}) changed"
            )
    if not changed:
        return Finding("code", "ok", "no code has changed since values were computed")
    return Finding("code", "note", "\n".join(["changed since; that alone makes nothing stale:", *changed]))
