"""`flowstone status`, `why` and `runs`: what the store knows. They only look."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Mapping
from datetime import datetime
from typing import Any, cast

from flowstone_async._engine.status import AssetStatus
from flowstone_async.cli import exit_code
from flowstone_async.cli.failure import first_line
from flowstone_async.cli.job import Job
from flowstone_async.cli.keys import read_key
from flowstone_async.cli.opening import looking_engine
from flowstone_async.cli.plain import plain_record, plain_run
from flowstone_async.cli.table import ago, moment, table
from flowstone_async.definition.graph import Node
from flowstone_async.definition.key_text import format_key
from flowstone_async.definition.keys import decode_key
from flowstone_async.definition.partition import PartitionSet
from flowstone_async.engine import Engine
from flowstone_async.errors import ConfigError
from flowstone_async.store.records import RunRecord, RunState

_PAGE = 500


async def status(job: Job) -> int:
    """Show the state of one asset, or of all, and return the exit code."""
    options, output, pipeline = job.options, job.output, job.pipeline
    graph = pipeline.compiled()
    asset = None if options.asset is None else job.asset(graph)
    declared = None if asset is None else graph.nodes[asset].definition.partitions
    one = asset is not None and (options.partition is not None or declared is None or not declared.dimensions)
    key = read_key(graph, asset, options.partition) if one and asset is not None else None
    async with looking_engine(job, pipeline) as (engine, session):
        if one and asset is not None:
            found = await engine.status(asset, partition=key)
            if options.json:
                output.json(plain_record(found))
            else:
                output.show("\n".join(_details(found, session.services.store.now())))
            return exit_code.OK
        now = session.services.store.now()
        stored = await session.services.store.stored_assets(graph.pipeline)
        nodes = list(graph.nodes.values()) if asset is None else [graph.nodes[asset]]
        rows = [await _overview(engine, node, stored.get(node.name, 0), now) for node in nodes]
    if options.json:
        for row in rows:
            output.json(row)
    elif rows:
        output.show(table([_HEAD, *(_cells(row, now) for row in rows)]))
    return exit_code.OK


async def why(job: Job) -> int:
    """Explain the state of an asset and return the exit code."""
    pipeline = job.pipeline
    graph = pipeline.compiled()
    asset = job.asset(graph)
    key = read_key(graph, asset, job.options.partition)
    async with looking_engine(job, pipeline) as (engine, _):
        found = await engine.why(asset, partition=key)
    if job.options.json:
        job.output.json(found.as_dict())
    else:
        job.output.show(str(found))
    return exit_code.OK


async def runs(job: Job) -> int:
    """List runs, newest first, and return the exit code."""
    options, output = job.options, job.output
    rows: list[list[str]] = []
    async with looking_engine(job, job.pipeline) as (engine, _):
        async for record in _pages(engine, cast("RunState | None", options.state), options.limit):
            if options.json:
                output.json(plain_run(record))
            else:
                rows.append(_run(record))
    if rows:
        output.show(table([["run", "state", "targets", "partition", "began", "took", "error"], *rows]))
    elif not options.json:
        output.say("no runs" if options.state is None else f"no {options.state} runs")
    return exit_code.OK


async def _pages(engine: Engine, state: RunState | None, limit: int) -> AsyncGenerator[RunRecord]:
    after: str | None = None
    while limit > 0 and (page := await engine.runs(state=state, limit=min(limit, _PAGE), after=after)):
        for record in page:
            yield record
        after, limit = page[-1].id, limit - len(page)


# -- what is shown ----------------------------------------------------------------------------------------------

_HEAD = ["asset", "state", "stored", "took", "computed", "note"]


async def _overview(engine: Engine, node: Node, stored: int, now: datetime) -> dict[str, object]:
    """Return the state of an asset; of one with partitions, how many of them are stored."""
    declared = node.definition.partitions
    if declared is not None and declared.dimensions:
        return {"asset": node.name, "stored": stored, "of": _expected(declared, now), "partitions": declared.describe()}
    return {"stored": stored, **plain_record(await engine.status(node.name))}


def _expected(declared: PartitionSet[Any], now: datetime) -> int | None:
    try:
        return declared.count(now)
    except ConfigError:  # keys that only the store knows
        return None


def _cells(row: Mapping[str, Any], now: datetime) -> list[str]:
    """Return the columns of an overview."""
    if "partitions" in row:
        of = "" if row["of"] is None else f" of {row['of']}"
        return [row["asset"], "", f"{row['stored']}{of}", "", "", row["partitions"]]
    at, error = row["completed_at"], row["error"]
    note = row["waiting_for"] or row["stale_because"] or (error["message"] if error else row["reason"]) or ""
    state = "never run" if row["state"] == "not_found" else row["state"]
    return [
        row["asset"],
        "" if row["state"] == "not_found" and row["stored"] else state,
        str(row["stored"]) if row["stored"] else "",
        "" if row["seconds"] is None else f"{row['seconds']:.2f}s",
        "" if at is None else ago(datetime.fromisoformat(at), now),
        note.split("\n", 1)[0],
    ]


def _details(found: AssetStatus, now: datetime) -> Iterator[str]:
    """Yield the lines that tell the state of one asset and partition."""
    where = "" if found.partition is None else f" [{format_key(found.partition)}]"
    yield f"{found.asset}{where} is {'never run' if found.state == 'not_found' else found.state}"
    judged = "fresh" if found.fresh else f"stale: {found.stale_because}"
    took = "" if found.seconds is None else f", in {found.seconds:.2f}s"
    facts = {
        "value": f"stored, {judged}" if found.has_value else "none stored",
        "began": moment(found.started_at, now),
        "ended": f"{moment(found.completed_at, now)}{took}" if found.completed_at is not None else "",
        "run": found.run_id or "",
        "io": found.io or "",
        "error": "" if found.error is None else first_line(found.error),
        "skipped": found.reason or "",
        "waits": found.waiting_for or "",
        "code": "" if found.code_changed is None else f"changed since in {found.code_changed}",
    }
    for name, fact in facts.items():
        if fact:
            yield f"  {name:<9}{fact}"


def _run(record: RunRecord) -> list[str]:
    key = decode_key(record.partition)
    began, ended = record.created_at, record.finished_at
    return [
        record.id,
        record.state,
        ", ".join(record.targets),
        "" if key is None else format_key(key),
        "" if began is None else f"{began:%Y-%m-%d %H:%M:%S}",
        "" if began is None or ended is None else f"{(ended - began).total_seconds():.2f}s",
        "" if record.error is None else record.error.message.split("\n", 1)[0],
    ]
